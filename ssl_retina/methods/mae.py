"""Masked autoencoder: predict the hidden three quarters of a photograph from the rest.

He, Chen, Xie, Li, Dollar, Girshick: Masked Autoencoders Are Scalable Vision Learners, CVPR 2022.
"""

from typing import Annotated, Literal

import torch
from lightly.models import utils
from pydantic import Field
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import CropScale
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.models import masking, rows
from ssl_retina.models.masking import FieldMask, field_mask, patch_field
from ssl_retina.models.reconstruction import Reconstruction

FLAT = 0.02
"""Standard deviation of a patch below which it holds nothing: about one of 255 grey levels, normalised."""

WHOLE = 0.95
"""Share of retina from which on a patch has none of the rim; `patch_field` is exact within 0.04."""


class Config(Reconstruction):
    """The paper's values; `models.reconstruction` tells of the keys of mask and decoder.

    recipe: how the view is drawn; the paper uses a random crop and a flip, no colour (table 1e).
    crop_scale: smallest and largest share of the area in a crop, in place of the recipe's.
    flip: whether views are mirrored; a mirrored right eye looks like a left one.

    Not the paper's, and off by default:
    field: `retina` neither keeps nor predicts patches outside the field of view, nor flat ones
        (`masking.field_mask`).
    least_retina: share of a patch that is retina from which on it counts as inside.
    structure: how far hidden patches count by their local contrast (`losses.structure_weight`), 0 to 1.
    """

    name: Literal["mae"] = "mae"
    recipe: str = "mae"
    crop_scale: CropScale | None = None
    flip: bool = True
    field: Literal["ignore", "retina"] = "ignore"
    least_retina: Annotated[float, Field(gt=0, le=1)] = 0.5
    structure: Annotated[float, Field(ge=0, le=1)] = 0.0


def views(config: Config, image_size: int) -> ViewSpec:
    """One view a sample."""
    return ViewSpec(
        recipe=config.recipe,
        global_views=1,
        global_size=image_size,
        crop_scale=config.crop_scale,
        flip=config.flip,
    )


class Method(nn.Module):
    """`contract.Method`: the encoder sees the visible patches only, the decoder fills in the others."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder()
        self.patches = self.encoder.grid**2
        self.decoder = config.decoder(self.encoder)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Hide, encode, decode, compare. `features`: the mean of the visible patch tokens."""
        (images,) = batch.global_views  # (batch, 3, height, width)
        noise = clock.uniform("mask", batch.position, self.patches)
        patches = utils.patchify(images, self.encoder.patch_size)  # (batch, patches, patch_size**2 * 3)
        retina = patch_field(batch.field_of_view[0], self.encoder.grid, images.shape[-1])  # (batch, patches)
        inside = self._inside(patches, retina)
        mask = field_mask(noise, self.config.mask_ratio, inside=inside)
        tokens = self.encoder(images, clock, batch.position, mask.keep)  # (batch, prefix + visible, width)
        asked = self._asked(mask, batch, clock)
        predicted = self.decoder(tokens, asked.keep, asked.hidden)  # (batch, asked, 3 * patch_size**2)
        target = rows.take(patches, asked.hidden)
        weight = self._weight(asked, target, retina.gather(1, asked.hidden))
        normalise = self.config.normalise_pixels
        loss = losses.patch_regression(predicted, target, normalise=normalise, weight=weight)
        pooled = tokens[:, self.encoder.prefix_tokens :].detach().float().mean(dim=1)
        return Output(loss, self._logs(mask, inside), pooled)

    def _asked(self, mask: FieldMask, batch: Batch, clock: Clock) -> FieldMask:
        """The mask with those of its hidden patches alone that are predicted."""
        if self.config.predicted == 1:
            return mask
        noise = clock.uniform("asked", batch.position, mask.hidden.shape[1])
        places = masking.asked(noise, self.config.predicted, counted=mask.counted)
        return mask._replace(hidden=mask.hidden.gather(1, places), counted=mask.counted.gather(1, places))

    def _inside(self, patches: Tensor, retina: Tensor) -> Tensor:
        """Which patches may be kept and predicted (batch, patches). `retina`: how much of each is.

        A frame that cuts the field leaves black bands in it, and a photograph of unknown field has black
        corners: what is flat is not inside either.
        """
        if self.config.field == "ignore":
            return torch.ones_like(retina, dtype=torch.bool)
        return (retina >= self.config.least_retina) & (losses.local_contrast(patches) >= FLAT)

    def _weight(self, mask: FieldMask, target: Tensor, retina: Tensor) -> Tensor | None:
        """How much each hidden patch counts (batch, hidden); None for all alike. `retina`: their shares."""
        if self.config.field == "ignore" and not self.config.structure:
            return None
        whole = mask.counted & (retina >= WHOLE)
        weight = losses.structure_weight(target, whole=whole, strength=self.config.structure)
        return weight * mask.counted

    def _logs(self, mask: FieldMask, inside: Tensor) -> dict[str, Tensor]:
        """With a field: the share of the retina that is hidden, and of views whose mask it confines."""
        if self.config.field == "ignore":
            return {}
        hidden = mask.counted.sum(dim=1) / inside.sum(dim=1).clamp(min=1)
        return {"hidden_retina": hidden.mean(), "confined_masks": mask.confined.float().mean()}

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """MAE has no teacher: nothing follows the student."""

    def exported(self) -> nn.Module:
        """The encoder; the decoder is thrown away."""
        assert isinstance(self.encoder, nn.Module)
        return self.encoder
