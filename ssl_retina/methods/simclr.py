"""SimCLR: two views of a photograph find each other among all views of the batch.

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations,
ICML 2020. Not the paper's: photographs of one patient are no negatives of each other (`Config.related`).
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive, Section
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import heads
from ssl_retina.relations import Related


class Config(Section):
    """The paper's values, but for the views (`data/recipes.py`, recipe `contrast`).

    temperature: 0.1 was best with large batches (table 5; 0.5 with small ones and few epochs, figure B.7).
    projector_*: one hidden layer as wide as a ResNet-50's features, 128 values out (section 2.1);
        projector_layers 3 is that of SimCLR v2 (Chen et al., NeurIPS 2020).
    pool: how tokens become the vector that is contrasted, and that the export gives.
    recipe, crop_scale, colour, flip: how views are drawn (`contract.ViewSpec`).
    related: what photographs of one patient are to each other (`relations.Related`); not in the paper.
    """

    couples_batch: ClassVar[bool] = True
    encodes_in_parts: ClassVar[bool] = True

    name: Literal["simclr"] = "simclr"
    temperature: Annotated[float, Field(gt=0)] = 0.1
    projector_hidden: Positive = 2048
    projector_out: Positive = 128
    projector_layers: Annotated[int, Field(ge=2)] = 2
    pool: Pool = "avg"
    recipe: str = "contrast"
    crop_scale: CropScale | None = None
    colour: Annotated[float, Field(ge=0)] = 1.0
    flip: bool = True
    related: Related = Related()


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
    """`contract.Method`: one encoder and one projector for both views."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        hidden = (config.projector_hidden,) * (config.projector_layers - 1)
        self.projector = heads.mlp((self.encoder.width, *hidden, config.projector_out), last_affine=True)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Encode, project, contrast. Batch norm measures both views together, as the authors' code does."""
        pooled = [
            self.encoder.vectors(images, clock, batch.position, view=view)
            for view, images in enumerate(batch.global_views)
        ]  # 2 of (batch, width)
        first, second = self.projector(torch.cat(pooled)).chunk(2)  # (batch, out)
        kinship = losses.Kinship(batch.kin, self.config.related)
        contrast = losses.nt_xent(first, second, temperature=self.config.temperature, kinship=kinship)
        return Output(contrast.loss, contrast.logs(), pooled[0].detach().float())

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """SimCLR has no teacher: nothing follows the student."""

    def exported(self) -> nn.Module:
        """The encoder; the projector is thrown away."""
        assert isinstance(self.encoder, nn.Module)
        return self.encoder
