"""Losses that tell samples of a batch apart, and who of them are no strangers.

In: vectors of one rank; those of all ranks are gathered here. Out: a scalar in fp32, whose mean over ranks is
the global batch's loss, and how well samples are told apart.
"""

import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina import dist, relations
from ssl_retina.relations import Related


class Contrast(NamedTuple):
    """A contrastive loss, and (detached) how near the positives are and how often they are the nearest.

    positive_similarity: of each row to its own other view. contrast_top1: the share of rows to which that is
    nearer than every negative. false_negative_rate: of the pairs that the paper's loss takes for negatives,
    the share that are of one patient, whatever was made of them here; None where patients are not told.
    """

    loss: Tensor
    positive_similarity: Tensor
    contrast_top1: Tensor
    false_negative_rate: Tensor | None = None

    def logs(self) -> dict[str, Tensor]:
        """The scalars by name."""
        return {name: value for name, value in self._asdict().items() if name != "loss" and value is not None}


class _Relatives(NamedTuple):
    """Of (rows, columns), where none is its own relative. weight: as a positive; None where nobody has any.

    ignored: whether it is left out. false: (rows,), see Contrast. place: (rows,), each one's own column.
    """

    weight: Tensor | None
    ignored: Tensor
    false: Tensor
    place: Tensor


class Kinship:
    """Who the samples of a batch are, and what a contrast makes of relatives; compared once, at first use.

    kin: `Batch.kin` of this rank's samples; all ranks must ask together.
    """

    def __init__(self, kin: Tensor, related: Related) -> None:
        self._kin, self._related = kin, related

    def relatives(self, views: int) -> _Relatives:
        """Of this rank's samples to all ranks', each rank's `views` times, one view behind the other."""
        found = self._samples
        if views == 1:
            return found
        place = found.place.repeat(views)
        columns, _ = dist.gather(place)
        weight = None if found.weight is None else _spread(found.weight, columns, views)
        return _Relatives(weight, _spread(found.ignored, columns, views), found.false.repeat(views), place)

    @functools.cached_property
    def _samples(self) -> _Relatives:
        """This rank's (batch) to those of all ranks, each once."""
        everyone, first = dist.gather(self._kin)
        related = self._related
        kinds = relations.kinds(self._kin, everyone, adjacent_within=related.adjacent_within)
        place = first + torch.arange(len(kinds), device=kinds.device)
        kinds.scatter_(1, place[:, None], relations.STRANGER)
        false = (kinds != relations.STRANGER).sum(dim=1).float() / max(len(everyone) - 1, 1)
        codes = kinds.int()  # bytes would be taken for a mask
        weights, ignored = (
            torch.tensor(by_kind).to(kinds.device, non_blocking=True)
            for by_kind in (related.weights(), related.ignored())
        )
        weight = weights[codes] if any(related.weights()) else None
        return _Relatives(weight, ignored[codes], false, place)


def _spread(samples: Tensor, columns: Tensor, views: int) -> Tensor:
    """(views * batch, columns) of (batch, samples of all ranks)."""
    return samples.index_select(1, columns).repeat(views, 1)


def nt_xent(first: Tensor, second: Tensor, *, temperature: float, kinship: Kinship | None = None) -> Contrast:
    """NT-Xent of two views (batch, width), Chen, Kornblith, Norouzi, Hinton 2020, eq. 1.

    Each of the 2 * batch vectors of this rank has to find its other view among those of all ranks but
    itself. The mean over ranks is the loss of the global batch. lightly's NTXentLoss gives the same
    (tests/test_losses.py); it is not used because it brings collectives of its own, builds its mask on the
    CPU, waits for the device to index by it, and follows autocast into bf16. With `kinship`, both views of a
    relative are treated as `_contrast` says.
    """
    with torch.autocast(first.device.type, enabled=False):
        own = functional.normalize(torch.cat((first, second)).float(), dim=1)  # (2 * batch, width)
        everyone, start = dist.gather(own)  # (world * 2 * batch, width)
        place = start + torch.arange(len(own), device=own.device)
        similar = own @ everyone.T  # (2 * batch, world * 2 * batch)
        itself = place[:, None] == torch.arange(len(everyone), device=own.device)
        logits = (similar / temperature).masked_fill(itself, -torch.inf)
        positive = place.roll(len(first))
        relatives = None if kinship is None else kinship.relatives(views=2)
        return _contrast(logits, positive, temperature, relatives)


def moco_contrast(
    query: Tensor, key: Tensor, *, temperature: float, kinship: Kinship | None = None
) -> Contrast:
    """`ctr` of MoCo v3 (Chen, Xie, He 2021, algorithm 1) of (batch, width): 2 t * cross entropy.

    Each query of this rank has to find its own key among those of all ranks. Keys get no gradient. With
    `kinship`, relatives' keys are treated as `_contrast` says.
    """
    with torch.autocast(query.device.type, enabled=False):
        queries = functional.normalize(query.float(), dim=1)
        keys, start = dist.gather(functional.normalize(key.detach().float(), dim=1))  # (world * batch, width)
        place = start + torch.arange(len(queries), device=queries.device)
        relatives = None if kinship is None else kinship.relatives(views=1)
        found = _contrast(queries @ keys.T / temperature, place, temperature, relatives)
        return found._replace(loss=2 * temperature * found.loss)


def _contrast(
    logits: Tensor, positive: Tensor, temperature: float, relatives: _Relatives | None = None
) -> Contrast:
    """Cross entropy of (rows, columns) with `positive` (rows,), the column of each row's other view.

    With relatives, row i's loss is that of Khosla et al. 2020 (Supervised Contrastive Learning, eq. 2,
    `out`), with weights: - sum_p w_ip log(exp(s_ip / t) / sum_a exp(s_ia / t)) / sum_p w_ip. p runs over its
    positives, which are the other view of weight 1 and relatives of the weight of their kind; a over them
    and all negatives; what is ignored is in neither sum. Without weighted relatives it is the paper's loss
    over fewer negatives.
    """
    view = positive[:, None]
    logits = logits if relatives is None else logits.masked_fill(relatives.ignored, -torch.inf)
    likely, rivals = logits.log_softmax(dim=1), logits.detach()
    if relatives is None or relatives.weight is None:
        loss = -likely.gather(1, view).mean()
    else:
        weight = relatives.weight.scatter(1, view, 1.0)
        likely = likely.masked_fill(weight == 0, 0)  # ignored: minus infinity, times 0
        loss = -((weight * likely).sum(dim=1) / weight.sum(dim=1)).mean()
        rivals = rivals.masked_fill((weight > 0).scatter(1, view, False), -torch.inf)  # noqa: FBT003
    similarity = logits.detach().gather(1, view) * temperature
    nearest = rivals.argmax(dim=1) == positive
    false = None if relatives is None else relatives.false.mean()
    return Contrast(loss, similarity.mean(), nearest.float().mean(), false)
