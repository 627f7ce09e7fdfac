"""Collectives with gradient, batch norm and contrastive losses on one rank or several, for one comparison.

`python contrast_ranks.py FOLDER`: this rank's part of the work, into FOLDER/RANK.pt.
"""

import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor

from ssl_retina import dist, losses
from ssl_retina.relations import Related

SAMPLES, WIDTH = 6, 5

Result = dict[str, Tensor]


def rows(seed: int) -> Tensor:
    """The global batch, the same on every rank."""
    return torch.randn(SAMPLES, WIDTH, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def own(value: Tensor) -> Tensor:
    """This rank's part of it, as a leaf."""
    count = SAMPLES // dist.world_size()
    return value[dist.rank() * count :][:count].clone().requires_grad_()


def weighted(value: Tensor) -> Tensor:
    """A scalar whose gradient differs from entry to entry and from rank to rank."""
    weights = torch.arange(1.0, value.numel() + 1).view_as(value) * (1 + dist.rank())
    return (weights * value.square()).sum()


def gathered() -> Result:
    given = own(rows(0))
    every, first = dist.gather(given)
    weighted(every).backward()
    return {
        "value": every.detach(),
        "gradient": given.grad,
        "first": torch.tensor(first),
    }


def summed() -> Result:
    given = own(rows(1))
    total = dist.total(given.sum(dim=0))
    weighted(total).backward()
    return {"value": total.detach(), "gradient": given.grad}


def normalised() -> Result:
    """Two batches, the second with a NaN on the last rank alone."""
    norm = dist.BatchNorm1d(WIDTH)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, WIDTH))
    given = own(rows(2))
    answer = norm(given)
    (answer * own(rows(3)).detach()).square().mean().backward()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    broken = rows(4)
    broken[-1, 0] = torch.nan
    norm(own(broken))
    after = {f"after/{name}": value for name, value in norm.state_dict().items()}
    return {
        "value": answer.detach(),
        "gradient": given.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        **before,
        **after,
    }


RELATED = Related(repeat_visit=0.5, fellow_eye=0.25, same_volume="negative")
KIN = torch.tensor(
    [
        [5, 5, 0, 0, -1, -1, 0],
        [5, 5, 1, 0, -1, -1, 0],
        [7, 7, 0, 1, 9, 2, 1],
        [5, 5, 0, 1, -1, -1, 0],
        [7, 7, 0, 1, 9, 6, 1],
        [5, 5, -1, 0, -1, -1, 0],
    ]
)
"""`Batch.kin` of the samples: relatives lie on both ranks."""


def kinship() -> losses.Kinship:
    """That of this rank's samples."""
    count = SAMPLES // dist.world_size()
    return losses.Kinship(KIN[dist.rank() * count :][:count], RELATED)


def contrasted(loss: Callable[..., losses.Contrast], *, known: bool = False) -> Result:
    first, second = own(rows(5)), own(rows(6))
    found = loss(first, second, temperature=0.3, kinship=kinship() if known else None)
    found.loss.backward()
    logs = torch.stack((found.loss.detach(), *found.logs().values()))
    gradients = {"first": first.grad}
    if second.grad is not None:
        gradients["second"] = second.grad
    return {"logs": logs, **gradients}


def uneven(counts: tuple[int, int]) -> Result:
    """Without gradient: so many of five samples on each of two ranks, or all on one; losses as sums."""
    count = counts[dist.rank()] if dist.world_size() == 2 else sum(counts)
    begin = sum(counts[: dist.rank()])
    first, second = rows(7)[begin:][:count], rows(8)[begin:][:count]
    with torch.no_grad():
        every, start = dist.gather(first)
        known = losses.Kinship(KIN[begin:][:count], RELATED)
        found = [
            loss(first, second, temperature=0.3, kinship=known)
            for loss in (losses.nt_xent, losses.moco_contrast)
        ]
    logs = torch.stack([torch.stack(one) for one in found]) * count
    return {"value": every, "first": torch.tensor(start), "sum": logs if count else torch.zeros_like(logs)}


def everything() -> dict[str, Result]:
    return {
        "gather": gathered(),
        "total": summed(),
        "norm": normalised(),
        "nt_xent": contrasted(losses.nt_xent),
        "moco": contrasted(losses.moco_contrast),
        "nt_xent_kin": contrasted(losses.nt_xent, known=True),
        "moco_kin": contrasted(losses.moco_contrast, known=True),
        "uneven": uneven((1, 4)),
        "idle": uneven((0, 5)),
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    with dist.joined(timedelta(seconds=60)):
        torch.save(everything(), Path(sys.argv[1], f"{dist.rank()}.pt"))
        dist.barrier()
        torch.distributed.destroy_process_group()
