"""VICReg: two views of a photograph get like vectors, whose parts keep their variance and do not repeat.

Bardes, Ponce, LeCun: VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised Learning,
ICLR 2022. No teacher and no negatives: nothing pushes two photographs of one patient apart, and a batch need
not be large to hold enough strangers.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive, Section
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, Pool, ViewSpec, Weights
from ssl_retina.models import heads

Weight = Annotated[float, Field(ge=0)]


class Config(Section):
    """The paper's values (section 4.2), but for the views (`data/recipes.py`, recipe `contrast`).

    invariance, variance, covariance: weights of the three terms; lambda, mu and nu.
    hidden, out: widths of the expander (two hidden layers of 8192, 8192 out); narrower ones cost accuracy.
    pool: how tokens become the vector that is expanded, and that the export gives.
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`).
    """

    couples_batch: ClassVar[bool] = True
    encodes_in_parts: ClassVar[bool] = True

    name: Literal["vicreg"] = "vicreg"
    invariance: Weight = 25.0
    variance: Weight = 25.0
    covariance: Weight = 1.0
    hidden: Positive = 8192
    out: Positive = 8192
    pool: Pool = "avg"
    recipe: str = "contrast"
    crop_scale: CropScale | None = None
    colour: Annotated[float, Field(ge=0)] = 1.0


def views(config: Config, image_size: int) -> ViewSpec:
    """Two views a sample."""
    return ViewSpec(
        recipe=config.recipe,
        global_views=2,
        global_size=image_size,
        crop_scale=config.crop_scale,
        colour=config.colour,
    )


class Method(nn.Module):
    """`contract.Method`: one encoder and one expander for both views."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        self.expander = nn.Sequential(
            heads.mlp((self.encoder.width, config.hidden, config.hidden), last_affine=True),
            nn.ReLU(),
            nn.Linear(config.hidden, config.out, bias=False),
        )

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Encode, expand, regularise. Batch norm measures each view for itself, as the authors' code does."""
        pooled = [
            self.encoder.vectors(images, clock, batch.position, view=view)
            for view, images in enumerate(batch.global_views)
        ]  # 2 of (batch, width)
        first, second = (self.expander(vector) for vector in pooled)  # (batch, out)
        weights = (self.config.invariance, self.config.variance, self.config.covariance)
        found = losses.vicreg(first, second, weights=weights)
        return Output(found.loss, found.logs(), pooled[0].detach().float())

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """VICReg has no teacher: nothing follows the student."""

    def exported(self) -> nn.Module:
        """The encoder; the expander is thrown away."""
        assert isinstance(self.encoder, nn.Module)
        return self.encoder
