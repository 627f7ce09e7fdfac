"""DINO: small and large crops of a photograph learn what a slowly following teacher says of the large ones.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised Vision
Transformers, ICCV 2021.
"""

from typing import Annotated, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Natural, Positive, Section, Share
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import cropping, teacher
from ssl_retina.models.heads import DINOHead
from ssl_retina.models.targets import Centring
from ssl_retina.models.teacher import Teacher

Temperature = Annotated[float, Field(gt=0)]


class Config(Section):
    """The paper's values for ViTs (sections 3.1 and 3.2, appendices C and D, and the authors' main_dino.py).

    momentum: of the teacher at the start; a cosine takes it to 1 at the end.
    student_temperature, teacher_temperature: of the softmaxes; the teacher's rises from
        warmup_teacher_temperature over the share warmup_teacher of the run (30 of 100 epochs).
    hidden, bottleneck, prototypes: widths of the head. fixed_length: the prototypes are directions; with
        false their lengths are learned, which the authors found better and safe for ViT-S alone.
    freeze_prototypes: share of the run in which they do not learn (1 of 100 epochs).
    local_views, local_size: small crops, and their side in pixels: 96 of 224, to whole 16ths, if not given.
    pool: how tokens become the vector that is compared, and that the export gives.
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`).
    """

    name: Literal["dino"] = "dino"
    momentum: Share = 0.996
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    warmup_teacher_temperature: Temperature = 0.04
    warmup_teacher: Share = 0.3
    hidden: Positive = 2048
    bottleneck: Positive = 256
    prototypes: Positive = 65536
    fixed_length: bool = True
    freeze_prototypes: Share = 0.01
    local_views: Natural = 8
    local_size: Positive | None = None
    pool: Pool = "token"
    recipe: str = "dino"
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
    """`contract.Method`: encoder and head learn; the teacher copies both, and is the product."""

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
        self.centring = Centring(config.prototypes)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Algorithm 1 with multi-crop: the teacher sees the large views, the student all of them."""
        config, size = self.config, len(batch.position)
        pooled, _ = cropping.encoded(self.encoder, batch, clock)  # (views * batch, width)
        logits = self.head(pooled)
        student = logits.view(-1 if size else 2, size, config.prototypes)  # (views, batch, prototypes)
        taught = self.teacher(batch.global_views.flatten(0, 1), clock, batch.position)
        sharp = self.temperature(clock)
        targets = self.centring(taught.unflatten(0, (2, size)), sharp)  # (2, batch, prototypes)
        found = losses.view_distillation(student, targets, temperature=config.student_temperature)
        told = {"momentum": self.momentum(clock), "teacher_temperature": sharp}
        logs = {name: torch.full((), value, device=pooled.device) for name, value in told.items()}
        logs |= {**found.logs(), **self.centring.logs()}
        return Output(found.loss, logs, pooled[:size].detach().float())

    def momentum(self, clock: Clock) -> float:
        """What the teacher keeps of itself after the clock's step."""
        return teacher.momentum(self.config.momentum, clock)

    def temperature(self, clock: Clock) -> float:
        """Of the teacher's softmax."""
        config = self.config
        start, end = config.warmup_teacher_temperature, config.teacher_temperature
        return teacher.temperature(start, end, config.warmup_teacher, clock)

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Teacher and centre follow."""
        student = cast(nn.Module, self.encoder)
        self.teacher.follow(student, self.head, momentum=self.momentum(clock), weights=weights)
        self.centring.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, which is the better one throughout (section 5.2, figure 6)."""
        return self.teacher.encoder
