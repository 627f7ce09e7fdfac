"""Losses that lightly lacks or shapes differently. All of them compute in fp32, also under autocast.

In: predictions and targets of one rank. Out: a scalar, whose mean over ranks is the global batch's loss.
"""

from typing import NamedTuple

import torch
from lightly.models import utils
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist


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


def latent_regression(predicted: Tensor, target: Tensor) -> Tensor:
    """Smooth L1 (beta 1) to layer-normalised tokens (..., width), as the authors' code of I-JEPA has it.

    Assran et al. 2023, eq. 1, has the squared distance. Targets get no gradient, and no weight or bias. Every
    sample must bring equally many tokens; then two halves of a batch average to it.
    """
    with torch.autocast(predicted.device.type, enabled=False):
        wanted = functional.layer_norm(target.detach().float(), target.shape[-1:])
        return functional.smooth_l1_loss(predicted.float(), wanted)


@torch.no_grad()
def deviation(rows: Tensor) -> Tensor:
    """Standard deviation over all ranks' rows (batch, width), mean over columns: 0 where all collapse."""
    with torch.autocast(rows.device.type, enabled=False):
        values = rows.float()
        count = dist.total(torch.full((), len(values), dtype=torch.float32, device=rows.device))
        mean = dist.total(values.sum(dim=0)) / count
        variance = dist.total((values - mean).square().sum(dim=0)) / count
        return variance.sqrt().mean()


class Contrast(NamedTuple):
    """A contrastive loss, and (detached) how near the positives are and how often they are the nearest."""

    loss: Tensor
    positive_similarity: Tensor
    contrast_top1: Tensor

    def logs(self) -> dict[str, Tensor]:
        """The two scalars by name."""
        return {"positive_similarity": self.positive_similarity, "contrast_top1": self.contrast_top1}


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Contrast:
    """NT-Xent of two views (batch, width), Chen, Kornblith, Norouzi, Hinton 2020, eq. 1.

    Each of the 2 * batch vectors of this rank has to find its other view among those of all ranks but
    itself. The mean over ranks is the loss of the global batch. lightly's NTXentLoss gives the same
    (tests/test_losses.py); it is not used because it brings collectives of its own, builds its mask on the
    CPU, waits for the device to index by it, and follows autocast into bf16.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = functional.normalize(torch.cat((first, second)).float(), dim=1)  # (2 * batch, width)
        everyone, start = dist.gather(own)  # (world * 2 * batch, width)
        place = start + torch.arange(len(own), device=own.device)
        similar = own @ everyone.T  # (2 * batch, world * 2 * batch)
        itself = place[:, None] == torch.arange(len(everyone), device=own.device)
        logits = (similar / temperature).masked_fill(itself, -torch.inf)
        return _contrast(logits, place.roll(len(first)), temperature)


def moco_contrast(query: Tensor, key: Tensor, *, temperature: float) -> Contrast:
    """`ctr` of MoCo v3 (Chen, Xie, He 2021, algorithm 1) of (batch, width): 2 t * cross entropy.

    Each query of this rank has to find its own key among those of all ranks. Keys get no gradient.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries = functional.normalize(query.float(), dim=1)
        keys, start = dist.gather(functional.normalize(key.detach().float(), dim=1))  # (world * batch, width)
        place = start + torch.arange(len(queries), device=queries.device)
        found = _contrast(queries @ keys.T / temperature, place, temperature)
        return found._replace(loss=2 * temperature * found.loss)


def _contrast(logits: Tensor, positive: Tensor, temperature: float) -> Contrast:
    """Cross entropy of (rows, columns) with `positive` (rows,), the column of each row's other view."""
    similarity = logits.detach().gather(1, positive[:, None]) * temperature
    nearest = logits.detach().argmax(dim=1) == positive
    return Contrast(functional.cross_entropy(logits, positive), similarity.mean(), nearest.float().mean())


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
