"""MoCo v3: each view's query finds the other view's key, which a slowly following teacher gives.

Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021. Not the paper's:
photographs of one patient are no negatives of each other (`Config.related`).
"""

from typing import Annotated, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive, Section, Share
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import heads, teacher
from ssl_retina.models.teacher import Teacher
from ssl_retina.relations import Related


class Config(Section):
    """The paper's values for ViTs (section 5); its views are another recipe, `mocov3_paper`.

    momentum: of the teacher at the start; a cosine takes it to 1 at the end.
    hidden, out: widths of projector (3 layers) and predictor (2 layers).
    freeze_patch_embedding: the random projection of patches is never trained, which keeps training stable
        (section 4.2).
    pool: how tokens become the vector that is contrasted, and that the export gives.
    recipe, crop_scale, colour, flip: how views are drawn (`contract.ViewSpec`).
    related: what photographs of one patient are to each other (`relations.Related`); not in the paper.
    """

    couples_batch: ClassVar[bool] = True
    encodes_in_parts: ClassVar[bool] = True

    name: Literal["mocov3"] = "mocov3"
    temperature: Annotated[float, Field(gt=0)] = 0.2
    momentum: Share = 0.99
    hidden: Positive = 4096
    out: Positive = 256
    freeze_patch_embedding: bool = True
    pool: Pool = "token"
    recipe: str = "mocov3"
    crop_scale: CropScale | None = None
    colour: Annotated[float, Field(ge=0)] = 1.0
    flip: bool = True
    related: Related = Related()

    def scheduled(self, fraction: float) -> dict[str, float]:
        """`Section.scheduled`: a cosine from the config's momentum to 1."""
        return {"momentum": teacher.momentum(self.momentum, fraction)}


def views(config: Config, image_size: int) -> ViewSpec:
    """Two views a sample."""
    return ViewSpec(
        recipe=config.recipe,
        global_views=2,
        global_size=image_size,
        crop_scale=config.crop_scale,
        colour=config.colour,
        flip=config.flip,
    )


class Method(nn.Module):
    """`contract.Method`: encoder, projector and predictor learn; the teacher copies the first two."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.freeze_patch_embedding:
            self.encoder.freeze_patch_embedding()
        width, hidden, out = self.encoder.width, config.hidden, config.out
        self.projector = heads.mlp((width, hidden, hidden, out), last_affine=False)
        self.predictor = heads.mlp((out, hidden, out), last_affine=False)
        self.teacher = Teacher(self.exported(), self.projector)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Algorithm 1: queries and keys of both views, contrasted crosswise."""
        first, second = batch.global_views  # (batch, 3, height, width)
        pooled = [
            self.encoder.vectors(images, clock, batch.position, view=view)
            for view, images in enumerate((first, second))
        ]
        queries = [self.predictor(self.projector(vector)) for vector in pooled]  # 2 of (batch, out)
        keys = [self.teacher(images, clock, batch.position) for images in (first, second)]
        kinship = losses.Kinship(batch.kin, self.config.related)
        there, back = (
            losses.moco_contrast(query, key, temperature=self.config.temperature, kinship=kinship)
            for query, key in zip(queries, reversed(keys), strict=True)
        )
        logs = {
            **{name: (value + back.logs()[name]) / 2 for name, value in there.logs().items()},
            "momentum": torch.full((), self.momentum(clock), device=first.device),
        }
        return Output(there.loss + back.loss, logs, pooled[0].detach().float())

    def momentum(self, clock: Clock) -> float:
        """What the teacher keeps of itself after the clock's step."""
        return self.config.scheduled(clock.fraction)["momentum"]

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """The teacher follows encoder and projector."""
        momentum = self.momentum(clock)
        self.teacher.follow(self.exported(), self.projector, momentum=momentum, weights=weights)

    def exported(self) -> nn.Module:
        """The encoder; heads and teacher are thrown away."""
        return cast(nn.Module, self.encoder)
