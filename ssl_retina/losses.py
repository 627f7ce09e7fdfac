"""Losses that lightly lacks or shapes differently. All of them compute in fp32, also under autocast.

In: predictions and targets of one rank. Out: a scalar.
"""

import torch
from lightly.models import utils
from torch import Tensor


def patch_regression(predicted: Tensor, target: Tensor, *, normalise: bool) -> Tensor:
    """Mean squared error over patches (batch, patches, values), He et al. 2022, section 3.

    `normalise`: each target patch is first brought to mean 0 and variance 1 (unbiased, epsilon 1e-6 as in
    the paper's code), so that predicting nothing costs about 1 and faint structure counts as much as
    strong. Every sample must bring the same number of patches; then two halves of a batch average to it.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        target = target.float()
        if normalise:
            target = utils.normalize_mean_var(target)
        return (predicted.float() - target).square().mean()
