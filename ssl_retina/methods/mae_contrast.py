"""MAE and contrast in one: two masked views are filled in, and find each other among all of the batch.

Mishra, Robinson, Chang, Jacobs, Sarna, Maschinot, Krishnan: A simple, efficient and scalable contrastive
masked autoencoder for learning visual representations (CAN), arXiv 2210.16870, 2022; without its third part,
the prediction of added noise. Who of one patient is whose negative is the config's to say, as in `simclr`.
"""

from typing import Annotated, ClassVar, Literal

import torch
from lightly.models import utils
from pydantic import Field
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.models import heads, rows
from ssl_retina.models.masking import asked, random_mask
from ssl_retina.models.parts import in_parts
from ssl_retina.models.reconstruction import Reconstruction
from ssl_retina.relations import Related


class Config(Reconstruction):
    """The paper's choices: half of the patches of both views hidden, temperature 0.1, MAE's decoder.

    `models.reconstruction` tells of the keys of mask and decoder.

    contrast: share of the contrast in the loss; reconstruction has the rest.
    projector_*: SimCLR's (Chen et al. 2020, section 2.1).
    related: what other photographs of a patient are to each other (`relations.Related`).
    recipe, crop_scale, colour: how views are drawn (`contract.ViewSpec`); each view is filled in as it is,
        colours included.
    """

    couples_batch: ClassVar[bool] = True
    encodes_in_parts: ClassVar[bool] = True

    name: Literal["mae_contrast"] = "mae_contrast"
    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.5
    contrast: Annotated[float, Field(ge=0, le=1)] = 0.03
    temperature: Annotated[float, Field(gt=0)] = 0.1
    projector_hidden: Positive = 2048
    projector_out: Positive = 128
    related: Related = Related()
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
    """`contract.Method`: one encoder, one decoder and one projector for both views."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder()
        self.patches = self.encoder.grid**2
        self.decoder = config.decoder(self.encoder)
        widths = (self.encoder.width, config.projector_hidden, config.projector_out)
        self.projector = heads.mlp(widths, last_affine=True)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Hide half of each view, encode, fill in, contrast the means of the visible tokens."""
        both = [self._filled_in(images, batch, clock, view) for view, images in enumerate(batch.global_views)]
        reconstruction = torch.stack([loss for loss, _ in both]).mean()
        first, second = self.projector(torch.cat([pooled for _, pooled in both])).chunk(2)  # (batch, out)
        contrast = losses.nt_xent(
            first,
            second,
            temperature=self.config.temperature,
            kinship=losses.Kinship(batch.kin, self.config.related),
        )
        share = self.config.contrast
        logs = {
            "reconstruction": reconstruction.detach(),
            "contrast": contrast.loss.detach(),
            **contrast.logs(),
        }
        loss = share * contrast.loss + (1 - share) * reconstruction
        return Output(loss, logs, both[0][1].detach().float())

    def _filled_in(self, images: Tensor, batch: Batch, clock: Clock, view: int) -> tuple[Tensor, Tensor]:
        """The loss of the hidden patches, and the mean of the visible ones (batch, width)."""

        def some(part: slice) -> tuple[Tensor, Tensor]:
            given, position = images[part], batch.position[part]
            noise = clock.uniform("mask", position, self.patches, view)
            keep, hidden = random_mask(noise, self.config.mask_ratio)
            hidden = self._asked(hidden, position, clock, view)
            tokens = self.encoder(given, clock, position, keep, view=view)  # (part, prefix + visible, width)
            predicted = self.decoder(tokens, keep, hidden)  # (part, asked, 3 * patch_size**2)
            target = rows.take(utils.patchify(given, self.encoder.patch_size), hidden)
            loss = losses.patch_regression(predicted, target, normalise=self.config.normalise_pixels)
            return loss * (len(given) / max(len(images), 1)), self.encoder.pool(tokens)

        parts = in_parts(some, images, self.encoder.at_once)
        return torch.stack([loss for loss, _ in parts]).sum(), torch.cat([pooled for _, pooled in parts])

    def _asked(self, hidden: Tensor, position: Tensor, clock: Clock, view: int) -> Tensor:
        """Those of the hidden patches (part, hidden) that are predicted."""
        if self.config.predicted == 1:
            return hidden
        noise = clock.uniform("asked", position, hidden.shape[1], view)
        return hidden.gather(1, asked(noise, self.config.predicted))

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """No teacher: nothing follows the student."""

    def exported(self) -> nn.Module:
        """The encoder; decoder and projector are thrown away."""
        assert isinstance(self.encoder, nn.Module)
        return self.encoder
