"""What DINO, iBOT and DINOv2 have in common beside their losses: config keys, views, schedules, heads.

In: a method's section, and where the run stands. Out: the views that it wants, how its teacher moves, a head.
"""

from typing import Annotated, NamedTuple

import torch
from pydantic import Field
from torch import Tensor

from ssl_retina.config import CropScale, Natural, Positive, Section, Share
from ssl_retina.contract import Clock, Pool, ViewSpec
from ssl_retina.models import cropping, teacher
from ssl_retina.models.heads import DINOHead

Temperature = Annotated[float, Field(gt=0)]


class Pace(NamedTuple):
    """momentum: what the teacher keeps of itself after a step. teacher_temperature: of its softmax."""

    momentum: float
    teacher_temperature: float

    def logs(self, device: torch.device) -> dict[str, Tensor]:
        """Both by name."""
        return {name: torch.full((), value, device=device) for name, value in self._asdict().items()}


class Distilling(Section):
    """The keys that the three methods share, with DINO's values.

    momentum: of the teacher at the start; a cosine takes it to 1 at the end.
    student_temperature, teacher_temperature: of the softmaxes; the teacher's rises from
        warmup_teacher_temperature over the share warmup_teacher of the run (30 of 100 epochs).
    hidden, bottleneck, prototypes: widths of the views' head.
    freeze_prototypes: share of the run in which they do not learn (1 of 100 epochs).
    local_views, local_size: small crops, and their side in pixels: 96 of 224, to whole 16ths, if not given.
    pool: how tokens become the vector that is compared, and that the export gives.
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`).
    """

    momentum: Share = 0.996
    student_temperature: Temperature = 0.1
    teacher_temperature: Temperature = 0.07
    warmup_teacher_temperature: Temperature = 0.04
    warmup_teacher: Share = 0.3
    hidden: Positive = 2048
    bottleneck: Positive = 256
    prototypes: Positive = 65536
    freeze_prototypes: Share = 0.01
    local_views: Natural = 8
    local_size: Positive | None = None
    pool: Pool = "token"
    recipe: str = "dinov2"
    crop_scale: CropScale | None = None
    colour: Annotated[float, Field(ge=0)] = 1.0

    def spec(self, image_size: int, *, scale: int = 1) -> ViewSpec:
        """Two large views a sample, `scale` times as large as the encoder's, and many small ones."""
        return ViewSpec(
            recipe=self.recipe,
            global_views=2,
            global_size=scale * image_size,
            local_views=self.local_views,
            local_size=self.local_size or cropping.local_size(image_size),
            crop_scale=self.crop_scale,
            colour=self.colour,
        )

    def pace(self, clock: Clock) -> Pace:
        """How the teacher moves in the clock's step."""
        return Pace(**self.scheduled(clock.fraction))

    def scheduled(self, fraction: float) -> dict[str, float]:
        """`Section.scheduled`."""
        start, end = self.warmup_teacher_temperature, self.teacher_temperature
        return {
            "momentum": teacher.momentum(self.momentum, fraction),
            "teacher_temperature": teacher.temperature(start, end, self.warmup_teacher, fraction),
        }

    @property
    def frozen(self) -> float:
        """`Section.frozen`."""
        return self.freeze_prototypes

    def head(self, width: int, *, bottleneck: int | None = None, fixed_length: bool = True) -> DINOHead:
        """A new head for vectors (..., width)."""
        return DINOHead(
            width,
            hidden=self.hidden,
            bottleneck=bottleneck or self.bottleneck,
            prototypes=self.prototypes,
            fixed_length=fixed_length,
            begins=self.freeze_prototypes,
        )
