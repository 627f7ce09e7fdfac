"""DINOv2: DINO for views, iBOT for hidden patches, and views of different photographs that keep apart.

Oquab, Darcet, Moutakanni et al.: DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024.
Registers (Darcet et al., ICLR 2024) and layer scale belong to the encoder: `model.name`, `model.registers`.
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import CropScale, MaskRatio, Natural, Positive, Section, Share
from ssl_retina.contract import Batch, Clock, Hidden, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import cropping, masking, teacher
from ssl_retina.models.heads import DINOHead
from ssl_retina.models.targets import Centring, Sinkhorn
from ssl_retina.models.teacher import Teacher

Temperature = Annotated[float, Field(gt=0)]


class Config(Section):
    """The paper's values (section 4, appendix B, the authors' ssl_default_config and train/vitl14).

    momentum: of the teacher at the start; a cosine takes it to 1 at the end.
    student_temperature, teacher_temperature: of the softmaxes; the teacher's rises from
        warmup_teacher_temperature over the share warmup_teacher of the run (30 of 100 epochs).
    mask_ratio: least and largest share of hidden patches, in one of a sample's two large views.
    targets: how the teacher's logits become distributions: Sinkhorn-Knopp over the batch, or a centre.
    koleo: weight of the spread of the large views' vectors.
    hidden, bottleneck, prototypes: widths of the views' head. patch_head: whether patches have a head of
        their own, with patch_bottleneck and as many prototypes, or share it.
    freeze_prototypes: share of the run in which they do not learn (1 of 100 epochs).
    local_views, local_size: small crops, and their side in pixels: 96 of 224, to whole 16ths, if not given.
    pool: how tokens become the vector that is compared, and that the export gives.
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`).
    """

    couples_batch: ClassVar[bool] = True

    name: Literal["dinov2"] = "dinov2"
    momentum: Share = 0.992
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    warmup_teacher_temperature: Temperature = 0.04
    warmup_teacher: Share = 0.3
    targets: Literal["sinkhorn", "centring"] = "sinkhorn"
    mask_ratio: MaskRatio = (0.1, 0.5)
    koleo: Annotated[float, Field(ge=0)] = 0.1
    hidden: Positive = 2048
    bottleneck: Positive = 384
    prototypes: Positive = 65536
    patch_head: Literal["own", "shared"] = "own"
    patch_bottleneck: Positive = 256
    freeze_prototypes: Share = 0.01
    local_views: Natural = 8
    local_size: Positive | None = None
    pool: Pool = "token"
    recipe: str = "dinov2"
    crop_scale: CropScale | None = None
    colour: Annotated[float, Field(ge=0)] = 1.0


def views(config: Config, image_size: int) -> ViewSpec:
    """Two large views a sample and many small ones."""
    return ViewSpec(
        recipe=config.recipe,
        global_views=2,
        global_size=image_size,
        local_views=config.local_views,
        local_size=config.local_size or cropping.local_size(image_size),
        crop_scale=config.crop_scale,
        colour=config.colour,
    )


class Method(nn.Module):
    """`contract.Method`: encoder, heads and mask token learn; the teacher, a copy, is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.local_views:
            cropping.check(self.encoder, config.local_size)
        heads = {"views": self._head(config.bottleneck)}
        if config.patch_head == "own":
            heads["patches"] = self._head(config.patch_bottleneck)
        self.heads = nn.ModuleDict(heads)
        self.teacher = Teacher(cast(nn.Module, self.encoder), self.heads)
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.width))
        self.targets, self.patch_targets = (
            Sinkhorn() if config.targets == "sinkhorn" else Centring(config.prototypes) for _ in range(2)
        )

    def _head(self, bottleneck: int) -> DINOHead:
        config = self.config
        return DINOHead(
            self.encoder.width,
            hidden=config.hidden,
            bottleneck=bottleneck,
            prototypes=config.prototypes,
            begins=config.freeze_prototypes,
        )

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Section 4: the teacher sees the large views whole, the student all views, with patches hidden."""
        config, size = self.config, len(batch.position)
        draws = clock.uniform("block_mask", batch.position, masking.BLOCK_DRAWS)
        mask = masking.block_mask(draws, self.encoder.grid, config.mask_ratio)
        pooled, patches = cropping.encoded(
            self.encoder, batch, clock, hidden=Hidden(mask.where, self.mask_token)
        )  # (views * batch, width), (2 * batch, patches, width)
        spread = losses.koleo(pooled[:size]) + losses.koleo(pooled[size : 2 * size])
        student, patches = self._logits(self.heads, pooled, mask.take(patches))
        sharp = self.temperature(clock)
        with torch.no_grad():
            tokens = self.teacher.tokens(batch.global_views.flatten(0, 1), clock, batch.position)
            seen = mask.take(tokens[:, self.encoder.prefix_tokens :])
            taught, whole = self._logits(self.teacher.head, self.encoder.pool(tokens), seen)
            targets = self.targets(taught, sharp)  # (2, batch, prototypes)
            patch_targets = self.patch_targets(whole, sharp, mask.real)  # (batch, most, prototypes)
        cool = config.student_temperature
        found = losses.view_distillation(student, targets, temperature=cool)
        # each view counts half, and one of them hides nothing
        masked = losses.patch_distillation(patches, patch_targets, mask.real, temperature=cool) / 2
        told = {"momentum": self.momentum(clock), "teacher_temperature": sharp}
        logs = {name: torch.full((), value, device=pooled.device) for name, value in told.items()}
        logs |= {**found.logs(), **self.targets.logs(), "patch_loss": masked.detach()}
        logs["koleo"] = spread.detach()
        loss = found.loss + masked + config.koleo * spread
        return Output(loss, logs, pooled[:size].detach().float())

    @staticmethod
    def _logits(heads: nn.Module, pooled: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(views, batch, prototypes) and (batch, most, prototypes); a head that both share has one pass."""
        size, most = hidden.shape[:2]
        flat, both = hidden.flatten(0, 1), dict(heads.named_children())
        if "patches" in both:
            views, patches = both["views"](pooled), both["patches"](flat)
        else:
            logits = both["views"](torch.cat((pooled, flat)))
            views, patches = logits.split((len(pooled), size * most))
        return views.view(-1 if size else 2, size, views.shape[1]), patches.unflatten(0, (size, most))

    def momentum(self, clock: Clock) -> float:
        """What the teacher keeps of itself after the clock's step."""
        return teacher.momentum(self.config.momentum, clock)

    def temperature(self, clock: Clock) -> float:
        """Of the teacher's softmax."""
        config = self.config
        start, end = config.warmup_teacher_temperature, config.teacher_temperature
        return teacher.temperature(start, end, config.warmup_teacher, clock)

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Teacher and centres follow."""
        student = cast(nn.Module, self.encoder)
        self.teacher.follow(student, self.heads, momentum=self.momentum(clock), weights=weights)
        self.targets.step()
        self.patch_targets.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, as in the paper's results."""
        return self.teacher.encoder
