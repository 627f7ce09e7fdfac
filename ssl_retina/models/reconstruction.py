"""What MAE and MAE with contrast have in common: how much is hidden, and the decoder that fills it in.

In: a method's section, its encoder. Out: the decoder of He et al. 2022.
"""

from typing import Annotated, Self

from pydantic import Field, model_validator

from ssl_retina.config import Positive, Section
from ssl_retina.contract import Encoder
from ssl_retina.errors import ConfigError
from ssl_retina.models.heads import PatchDecoder
from ssl_retina.models.masking import hidden_count


class Reconstruction(Section):
    """The keys that both share, with MAE's values.

    mask_ratio: share of the patches that is hidden.
    predicted: share of the hidden patches that the decoder is asked for, others at every step; less than 1
        is not MAE's, costs less, and learns nearly as well (Fu et al. 2024, Rethinking patch dependence for
        masked autoencoders, arXiv 2401.14391, there with another decoder).
    decoder_*: the part that is thrown away; 8 blocks give the best features for probing (table 1a).
    normalise_pixels: each target patch has mean 0 and variance 1 (table 1d).
    """

    mask_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.75
    predicted: Annotated[float, Field(gt=0, le=1)] = 1.0
    decoder_width: Positive = 512
    decoder_depth: Positive = 8
    decoder_heads: Positive = 16
    normalise_pixels: bool = True

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.decoder_width % self.decoder_heads or self.decoder_width % 4:
            raise ValueError(
                f"decoder_width ({self.decoder_width}) must be a multiple of decoder_heads "
                f"({self.decoder_heads}) and of 4"
            )
        return self

    def decoder(self, encoder: Encoder) -> PatchDecoder:
        """A new decoder. Raises ConfigError where all or none of the encoder's patches would be hidden."""
        patches = encoder.grid**2
        if not 0 < hidden_count(patches, self.mask_ratio) < patches:
            problem = f"{self.mask_ratio} of {patches} patches hides none or all of them"
            raise ConfigError("config", [f"method.mask_ratio: {problem}"])
        return PatchDecoder(
            encoder, width=self.decoder_width, depth=self.decoder_depth, heads=self.decoder_heads
        )
