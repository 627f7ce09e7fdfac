"""DINOv2: DINO for views, iBOT for hidden patches, and views of different photographs that keep apart.

Oquab, Darcet, Moutakanni et al.: DINOv2: Learning Robust Visual Features without Supervision, TMLR 2024.
Registers (Darcet et al., ICLR 2024) and layer scale belong to the encoder: `model.name`, `model.registers`.
With `gram` the patches of the large views also keep the likenesses that an earlier teacher saw: Simeoni, Vo,
Seitzer et al.: DINOv3, 2025, section 4, as a stage of refinement.
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import MaskRatio, Positive, Share
from ssl_retina.contract import Batch, Clock, Hidden, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.models import cropping, masking
from ssl_retina.models.distilling import Distilling
from ssl_retina.models.gram import Gram, GramTeacher
from ssl_retina.models.targets import Centring, Sinkhorn
from ssl_retina.models.teacher import Teacher


class Config(Distilling):
    """The paper's values (section 4, appendix B, the authors' ssl_default_config and train/vitl14).

    targets: how the teacher's logits become distributions: Sinkhorn-Knopp over the batch, or a centre.
    mask_ratio: least and largest share of hidden patches, in one of a sample's two large views.
    koleo: weight of the spread of the large views' vectors.
    patch_head: whether patches have a head of their own, with patch_bottleneck and as many prototypes, or
        share the views'.
    gram: anchoring of patches (`models.gram.Gram`), DINOv3's; none if not given.
    The other keys: `models.distilling.Distilling`.
    """

    couples_batch: ClassVar[bool] = True

    name: Literal["dinov2"] = "dinov2"
    momentum: Share = 0.992
    targets: Literal["sinkhorn", "centring"] = "sinkhorn"
    mask_ratio: MaskRatio = (0.1, 0.5)
    koleo: Annotated[float, Field(ge=0)] = 0.1
    bottleneck: Positive = 384
    patch_head: Literal["own", "shared"] = "own"
    patch_bottleneck: Positive = 256
    gram: Gram | None = None

    @property
    def settled(self) -> int:
        """`Section.settled`."""
        return max(self.gram.begin_step if self.gram else 0, 1)

    def conflict(self, *, init: str | None, steps: int) -> str | None:
        """`Section.conflict`."""
        return self.gram.conflict(init=init, steps=steps) if self.gram else None


def views(config: Config, image_size: int) -> ViewSpec:
    """Two large views a sample, larger still for a Gram teacher that looks closer, and many small ones."""
    return config.spec(image_size, scale=config.gram.scale if config.gram else 1)


class Method(nn.Module):
    """`contract.Method`: encoder, heads and mask token learn; the teacher, a copy, is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.local_views:
            cropping.check(self.encoder, config.local_size)
        heads = {"views": config.head(self.encoder.width)}
        if config.patch_head == "own":
            heads["patches"] = config.head(self.encoder.width, bottleneck=config.patch_bottleneck)
        self.heads = nn.ModuleDict(heads)
        self.teacher = Teacher(cast(nn.Module, self.encoder), self.heads)
        self.gram = GramTeacher(config.gram, cast(nn.Module, self.encoder)) if config.gram else None
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.width))
        self.targets, self.patch_targets = (
            Sinkhorn() if config.targets == "sinkhorn" else Centring(config.prototypes) for _ in range(2)
        )

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Section 4: the teacher sees the large views whole, the student all views, with patches hidden."""
        config, size, fine = self.config, len(batch.position), batch.global_views
        batch = cropping.fitted(self.encoder, batch)
        draws = clock.uniform("block_mask", batch.position, masking.BLOCK_DRAWS)
        mask = masking.block_mask(draws, self.encoder.grid, config.mask_ratio)
        pooled, patches = cropping.encoded(
            self.encoder, batch, clock, hidden=Hidden(mask.where, self.mask_token)
        )  # (views * batch, width), (2 * batch, patches, width)
        spread = losses.koleo(pooled[:size]) + losses.koleo(pooled[size : 2 * size])
        anchors = self._anchored(patches, fine, batch, clock)
        student, patches = self._logits(self.heads, pooled, mask.take(patches))
        pace = config.pace(clock)
        sharp = pace.teacher_temperature
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
        told = {"patch_loss": masked, "koleo": spread, **anchors}
        logs = {**pace.logs(pooled.device), **found.logs(), **self.targets.logs()}
        logs |= {name: value.detach() for name, value in told.items()}
        loss = found.loss + masked + config.koleo * spread
        if self.gram is not None:
            loss = loss + self.gram.weight() * anchors["gram"]
        return Output(loss, logs, pooled[:size].detach().float())

    def _anchored(self, patches: Tensor, fine: Tensor, batch: Batch, clock: Clock) -> dict[str, Tensor]:
        """The loss of patches (2 * batch, patches, width), hidden ones too, 0 before it begins; or nothing.

        `fine`: the large views as they were drawn (2, batch, 3, height, width).
        """
        if self.gram is None:
            return {}
        if not self.gram.begun(clock):
            return {"gram": patches.new_zeros((), dtype=torch.float32)}
        known = self.gram(fine.flatten(0, 1), clock, batch.position, grid=self.encoder.grid)
        return {"gram": losses.gram(patches, known)}

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

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Teachers and centres follow."""
        student = cast(nn.Module, self.encoder)
        self.teacher.follow(student, self.heads, momentum=self.config.pace(clock).momentum, weights=weights)
        if self.gram is not None:
            self.gram.follow(self.teacher.encoder, clock, weights)
        self.targets.step()
        self.patch_targets.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, as in the paper's results."""
        return self.teacher.encoder
