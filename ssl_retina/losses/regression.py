"""Losses of what is predicted against what is there: pixels of patches, or a teacher's tokens.

In: predictions and targets of one rank. Out: a scalar in fp32, whose mean over ranks is the whole batch's.
"""

import torch
from torch import Tensor
from torch.nn import functional


def patch_regression(
    predicted: Tensor, target: Tensor, *, normalise: bool, weight: Tensor | None = None
) -> Tensor:
    """Mean squared error over patches (batch, patches, values), He et al. 2022, section 3.

    `normalise`: each target patch is first brought to mean 0 and variance 1 (unbiased, epsilon 1e-6 as in
    the paper's code), so that predicting nothing costs about 1 and faint structure counts as much as
    strong. Every sample must bring the same number of patches; then two halves of a batch average to it.
    `weight` (batch, patches), not the paper's: a sample's loss is the weighted mean of its patches, and 0
    where nothing of it has weight; samples count alike, so that halves average as before.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        target = target.float()
        if normalise:
            target = target - target.mean(dim=-1, keepdim=True)
            # on a processor var() takes 25 times as long
            variance = target.square().sum(dim=-1, keepdim=True) / (target.shape[-1] - 1)
            target = target / (variance + 1e-6).sqrt()
        errors = (predicted.float() - target).square()
        if weight is None:
            return errors.mean()
        total = weight.sum(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        return ((weight * errors.mean(dim=2)).sum(dim=1) / total).mean()


def local_contrast(patches: Tensor) -> Tensor:
    """The standard deviation of the pixels of (batch, patches, pixels * 3), the mean of three colours."""
    pixels = patches.float().view(*patches.shape[:2], -1, 3)
    return pixels.std(dim=2, correction=0).mean(dim=2)


MOST_STRUCTURE = 4.0
"""In means of a sample: a reflex or the disc's rim must not take the whole loss."""


def structure_weight(target: Tensor, *, whole: Tensor, strength: float) -> Tensor:
    """How much a patch (batch, patches, pixels * 3) of retina counts by its local contrast: (batch, patches).

    Vessels, disc and lesions have much of it, plain background little. The weight is 1 - strength + strength
    * contrast / mean contrast of the sample's patches, at most MOST_STRUCTURE of them. `whole` (batch,
    patches), bool: patches that are retina to their edge; the others, whose contrast is that of the rim, are
    left out of the mean and get 1.
    """
    with torch.autocast(target.device.type, enabled=False):
        contrast = local_contrast(target)
        known = whole.float()
        mean = (contrast * known).sum(dim=1) / known.sum(dim=1).clamp(min=1)
        relative = (contrast / mean[:, None].clamp(min=1e-6)).clamp(max=MOST_STRUCTURE)
        return torch.where(whole, 1 - strength + strength * relative, torch.ones_like(relative))


def latent_regression(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (beta 1) to layer-normalised tokens (..., width), as the authors' code of I-JEPA has it.

    Assran et al. 2023, eq. 1, has the squared distance. Targets get no gradient, and no weight or bias. Every
    sample must bring equally many tokens; then two halves of a batch average to it.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        wanted = functional.layer_norm(target.detach().float(), target.shape[-1:])
        return functional.smooth_l1_loss(predicted.float(), wanted)
