"""Losses that lightly lacks or shapes differently. All of them compute in fp32, also under autocast.

In: predictions and targets of one rank. Out: a scalar, whose mean over ranks is the global batch's loss.
"""

from ssl_retina.losses.contrast import Contrast, Kinship, moco_contrast, nt_xent
from ssl_retina.losses.distillation import Distilled, gram, koleo, patch_distillation, view_distillation
from ssl_retina.losses.redundancy import Regularised, deviation, vicreg
from ssl_retina.losses.regression import (
    MOST_STRUCTURE,
    latent_regression,
    local_contrast,
    patch_regression,
    structure_weight,
)

__all__ = [
    "Contrast",
    "Distilled",
    "Kinship",
    "MOST_STRUCTURE",
    "Regularised",
    "deviation",
    "gram",
    "koleo",
    "latent_regression",
    "local_contrast",
    "moco_contrast",
    "nt_xent",
    "patch_distillation",
    "patch_regression",
    "structure_weight",
    "vicreg",
    "view_distillation",
]
