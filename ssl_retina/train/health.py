"""Is the run alive: numbers that fall when features collapse while the loss still looks well.

In: features of held-out photographs, without labels. Out: scalars.
"""

import math

import torch
from torch import Tensor


def feature_rank(features: Tensor) -> float | None:
    """RankMe of (samples, width) features: from 1, everything on a line, to min(samples, width).

    The exponential of the entropy of the normalised singular values (Garrido et al. 2023, eq. 2), in
    float64. None where a feature is not finite, or all are zero.
    """
    values = features.detach().to(device="cpu", dtype=torch.float64)
    if values.numel() == 0 or not bool(torch.isfinite(values).all()):
        return None
    spectrum = torch.linalg.svdvals(values)
    total = float(spectrum.sum())
    if total == 0:
        return None
    share = spectrum / total
    entropy = -float(torch.special.xlogy(share, share).sum())
    return math.exp(entropy)
