"""iBOT: crops learn what a slow teacher says of the large ones, hidden patches what it says of them.

Zhou, Wei, Wang, Shen, Xie, Yuille, Kong: iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022.
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import CropScale, MaskRatio, Natural, Positive, Section, Share
from ssl_retina.contract import Batch, Clock, Hidden, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import cropping, masking, teacher
from ssl_retina.models.heads import DINOHead
from ssl_retina.models.targets import Centring
from ssl_retina.models.teacher import Teacher

Temperature = Annotated[float, Field(gt=0)]


class Config(Section):
    """The paper's values for ViTs (section 4.1, appendices B and C, and the authors' main_ibot.py).

    momentum: of the teacher at the start; a cosine takes it to 1 at the end.
    student_temperature, teacher_temperature: of the softmaxes; the teacher's rises from
        warmup_teacher_temperature over the share warmup_teacher of the run (30 of 100 epochs).
    mask_ratio: least and largest share of hidden patches, in one of a sample's two large views.
    hidden, bottleneck, prototypes: widths of the head, which views and patches share. fixed_length: the
        prototypes are directions; with false their lengths are learned, which is safe for ViT-S alone.
    freeze_prototypes: share of the run in which they do not learn (1 of 100 epochs).
    local_views, local_size: small crops, and their side in pixels: 96 of 224, to whole 16ths, if not given.
    pool: how tokens become the vector that is compared, and that the export gives.
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`).
    """

    name: Literal["ibot"] = "ibot"
    momentum: Share = 0.996
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    warmup_teacher_temperature: Temperature = 0.04
    warmup_teacher: Share = 0.3
    mask_ratio: MaskRatio = (0.1, 0.5)
    hidden: Positive = 2048
    bottleneck: Positive = 256
    prototypes: Positive = 8192
    fixed_length: bool = True
    freeze_prototypes: Share = 0.01
    local_views: Natural = 10
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
    """`contract.Method`: encoder, head and mask token learn; the teacher, a copy, is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.local_views:
            cropping.check(self.encoder, config.local_size)
        self.head = DINOHead(
            self.encoder.width,
            hidden=config.hidden,
            bottleneck=config.bottleneck,
            prototypes=config.prototypes,
            fixed_length=config.fixed_length,
            begins=config.freeze_prototypes,
        )
        self.teacher = Teacher(cast(nn.Module, self.encoder), self.head)
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.width))
        self.centring = Centring(config.prototypes)
        self.patch_centring = Centring(config.prototypes)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Algorithm 1 with multi-crop: the teacher sees the large views whole, the student all of them."""
        config, size = self.config, len(batch.position)
        draws = clock.uniform("block_mask", batch.position, masking.BLOCK_DRAWS)
        mask = masking.block_mask(draws, self.encoder.grid, config.mask_ratio)
        pooled, patches = cropping.encoded(
            self.encoder, batch, clock, hidden=Hidden(mask.where, self.mask_token)
        )  # (views * batch, width), (2 * batch, patches, width)
        student, patches = self._logits(self.head, pooled, mask.take(patches))
        sharp = self.temperature(clock)
        with torch.no_grad():
            tokens = self.teacher.tokens(batch.global_views.flatten(0, 1), clock, batch.position)
            seen = mask.take(tokens[:, self.encoder.prefix_tokens :])
            taught, whole = self._logits(self.teacher.head, self.encoder.pool(tokens), seen)
            targets = self.centring(taught, sharp)  # (2, batch, prototypes)
            patch_targets = self.patch_centring(whole, sharp, mask.real)  # (batch, most, prototypes)
        cool = config.student_temperature
        found = losses.view_distillation(student, targets, temperature=cool)
        # each view counts half, and one of them hides nothing
        masked = losses.patch_distillation(patches, patch_targets, mask.real, temperature=cool) / 2
        told = {"momentum": self.momentum(clock), "teacher_temperature": sharp}
        logs = {name: torch.full((), value, device=pooled.device) for name, value in told.items()}
        logs |= {**found.logs(), **self.centring.logs(), "patch_loss": masked.detach()}
        return Output(found.loss + masked, logs, pooled[:size].detach().float())

    @staticmethod
    def _logits(head: nn.Module, pooled: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(views, batch, prototypes) and (batch, most, prototypes), in one pass through the head."""
        size, most = hidden.shape[:2]
        logits = head(torch.cat((pooled, hidden.flatten(0, 1))))
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
        self.teacher.follow(student, self.head, momentum=self.momentum(clock), weights=weights)
        self.centring.step()
        self.patch_centring.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, as in the paper's results."""
        return self.teacher.encoder
