"""DINO: small and large crops of a photograph learn what a slowly following teacher says of the large ones.

Caron, Touvron, Misra, Jegou, Mairal, Bojanowski, Joulin: Emerging Properties in Self-Supervised Vision
Transformers, ICCV 2021.
"""

from typing import Literal, cast

from torch import nn

from ssl_retina import losses
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.models import cropping
from ssl_retina.models.distilling import Distilling
from ssl_retina.models.targets import Centring
from ssl_retina.models.teacher import Teacher


class Config(Distilling):
    """The paper's values for ViTs (sections 3.1 and 3.2, appendices C and D, and the authors' main_dino.py).

    fixed_length: the prototypes are directions; with false their lengths are learned, which the authors found
        better and safe for ViT-S alone. The other keys: `models.distilling.Distilling`.
    """

    name: Literal["dino"] = "dino"
    fixed_length: bool = True
    recipe: str = "dino"


def views(config: Config, image_size: int) -> ViewSpec:
    """Two large views a sample and many small ones."""
    return config.spec(image_size)


class Method(nn.Module):
    """`contract.Method`: encoder and head learn; the teacher copies both, and is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.local_views:
            cropping.check(self.encoder, config.local_size)
        self.head = config.head(self.encoder.width, fixed_length=config.fixed_length)
        self.teacher = Teacher(cast(nn.Module, self.encoder), self.head)
        self.centring = Centring(config.prototypes)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Algorithm 1 with multi-crop: the teacher sees the large views, the student all of them."""
        config, size = self.config, len(batch.position)
        pooled, _ = cropping.encoded(self.encoder, batch, clock)  # (views * batch, width)
        logits = self.head(pooled)
        student = logits.view(-1 if size else 2, size, config.prototypes)  # (views, batch, prototypes)
        taught = self.teacher(batch.global_views.flatten(0, 1), clock, batch.position)
        pace = config.pace(clock)
        taught = taught.unflatten(0, (2, size))  # (2, batch, prototypes)
        targets = self.centring(taught, pace.teacher_temperature)
        found = losses.view_distillation(student, targets, temperature=config.student_temperature)
        logs = {**pace.logs(pooled.device), **found.logs(), **self.centring.logs()}
        return Output(found.loss, logs, pooled[:size].detach().float())

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Teacher and centre follow."""
        student = cast(nn.Module, self.encoder)
        self.teacher.follow(student, self.head, momentum=self.config.pace(clock).momentum, weights=weights)
        self.centring.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, which is the better one throughout (section 5.2, figure 6)."""
        return self.teacher.encoder
