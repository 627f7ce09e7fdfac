"""Masked autoencoder: predict the hidden three quarters of a photograph from the rest.

He, Chen, Xie, Li, Dollar, Girshick: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
"""

from typing import Annotated, Literal

from lightly.models import utils
from pydantic import Field, model_validator
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive, Section
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.errors import ConfigError
from ssl_retina.models import rows
from ssl_retina.models.heads import PatchDecoder
from ssl_retina.models.masking import hidden_count, random_mask


class Config(Section):
    """The paper's values.

    mask_ratio: share of the patches that is hidden.
    decoder_*: the part that is thrown away; 8 blocks give the best features for probing (table 1a).
    normalise_pixels: each target patch has mean 0 and variance 1 (table 1d).
    recipe: how the view is drawn; the paper uses a random crop and a flip, no colour (table 1e).
    crop_scale: smallest and largest share of the area in a crop, in place of the recipe's.
    """

    name: Literal["mae"] = "mae"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    decoder_width: Positive = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16
    normalise_pixels: bool = True
    recipe: str = "mae"
    crop_scale: CropScale | None = None

    @model_validator(mode="after")
    def _whole_heads(self) -> "Config":
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"decoder_width ({self.decoder_width}) must be a multiple of decoder_heads "
                f"({self.decoder_heads}) and of 4"
            )
        return self


def views(config: Config, image_size: int) -> ViewSpec:
    """One view a sample."""
    return ViewSpec(
        recipe=config.recipe, global_views=1, global_size=image_size, crop_scale=config.crop_scale
    )


class Method(nn.Module):
    """`contract.Method`: the encoder sees the visible patches only, the decoder fills in the others."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder()
        self.patches = self.encoder.grid**2
        if not 0 < hidden_count(self.patches, config.mask_ratio) < self.patches:
            problem = f"{config.mask_ratio} of {self.patches} patches hides none or all of them"
            raise ConfigError("config", [f"method.mask_ratio: {problem}"])
        self.decoder = PatchDecoder(
            self.encoder,
            width=config.decoder_width,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
        )

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Hide, encode, decode, compare. `features`: the mean of the visible patch tokens."""
        (images,) = batch.global_views  # (batch, 3, height, width)
        noise = clock.uniform("mask", batch.position, self.patches)
        keep, hidden = random_mask(noise, self.config.mask_ratio)
        tokens = self.encoder(images, clock, batch.position, keep)  # (batch, prefix + visible, width)
        predicted = self.decoder(tokens, keep, hidden)  # (batch, hidden, 3 * patch_size**2)
        target = rows.take(utils.patchify(images, self.encoder.patch_size), hidden)
        loss = losses.patch_regression(predicted, target, normalise=self.config.normalise_pixels)
        pooled = tokens[:, self.encoder.prefix_tokens :].detach().float().mean(dim=1)
        return Output(loss, features=pooled)

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """MAE has no teacher: nothing follows the student."""

    def exported(self) -> nn.Module:
        """The encoder; the decoder is thrown away."""
        assert isinstance(self.encoder, nn.Module)
        return self.encoder
