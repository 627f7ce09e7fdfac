"""Losses that keep vectors apart without negatives: by their variance and covariance over all ranks.

In: vectors of one rank. Out: a scalar in fp32, whose mean over ranks is the global batch's loss.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist


@torch.no_grad()
def deviation(rows: Tensor) -> Tensor:
    """Standard deviation over all ranks' rows (batch, width), mean over columns: 0 where all collapse."""
    with torch.autocast(rows.device.type, enabled=False):
        values = rows.float()
        count = dist.total(torch.full((), len(values), dtype=torch.float32, device=rows.device))
        mean = dist.total(values.sum(dim=0)) / count
        variance = dist.total((values - mean).square().sum(dim=0)) / count
        return variance.sqrt().mean()


class Regularised(NamedTuple):
    """VICReg's loss and its terms (detached): unlike views, lacking variance, covariance, mean deviation."""

    loss: Tensor
    invariance: Tensor
    variance_hinge: Tensor
    covariance: Tensor
    embedding_std: Tensor

    def logs(self) -> dict[str, Tensor]:
        """The terms by name. Collapse: the hinge rises to 1, the deviation falls to 0."""
        return {name: value for name, value in self._asdict().items() if name != "loss"}


def vicreg(first: Tensor, second: Tensor, *, weights: tuple[float, float, float]) -> Regularised:
    """Invariance, variance and covariance of two views (batch, width), Bardes, Ponce, LeCun 2022, eq. 6.

    `weights` are lambda, mu and nu of the three. As in the authors' code (and lightly's VICRegLoss) the
    squared distance is a mean over the width, and the variance term a mean over the views, where the paper's
    equations have sums. Variance and covariance are those of all ranks' rows, also where ranks bring
    unequally many (without gradient).

    The squares of the covariance matrix sum to those of the rows' products: (batch, batch) in place of
    (width, width), of which each rank computes its own rows; 8192 wide, the matrix alone is 268 MB.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = torch.stack((first.float(), second.float()), dim=1)  # (batch, 2, width)
        everyone = dist.gather(own).rows  # (world * batch, 2, width)
        freedom = max(len(everyone) - 1, 1)
        mean = everyone.mean(dim=0)
        variance = (everyone - mean).square().sum(dim=0) / freedom  # (2, width)
        deviation = (variance + 1e-4).sqrt()
        products = (own - mean).transpose(0, 1) @ (everyone - mean).permute(
            1, 2, 0
        )  # (2, batch, world * batch)
        squares = dist.total(products.square().sum()) / freedom**2
        covariance = (squares - variance.square().sum()) / own.shape[2]
        invariance = (own[:, 0] - own[:, 1]).square().mean()
        hinge = functional.relu(1 - deviation).mean()
        loss = weights[0] * invariance + weights[1] * hinge + weights[2] * covariance
    terms = (invariance, hinge, covariance, deviation.mean())
    return Regularised(loss, *(term.detach() for term in terms))
