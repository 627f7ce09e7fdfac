"""The few collectives: alone they are the identity, on two gloo ranks they agree."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import nn

from ssl_retina import dist, launch
from ssl_retina.errors import ShardError, StateError


def test_alone_without_a_group() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(dist.mean(value), value.detach())
    assert dist.maximum(3) == 3
    assert torch.equal(dist.largest(value), value.detach())
    assert dist.broadcast({"a": 1}) == {"a": 1}
    assert dist.gather_objects("x") == ["x"]
    assert dist.first_decides(lambda: 7) == 7
    dist.raise_first(None)
    dist.barrier()
    with pytest.raises(StateError, match="held"):
        dist.first_decides(_held)
    with pytest.raises(ShardError, match="damaged"):
        dist.raise_first(ShardError("damaged"))
    assert (dist.rank(), dist.world_size(), dist.is_first()) == (0, 1, True)


def _held() -> None:
    raise StateError("held by another")


RANK = """
import json, os, sys
from datetime import timedelta
from pathlib import Path
import torch
from torch import distributed
from ssl_retina import dist
from ssl_retina.errors import ShardError, StateError

joined = dist.joined(timedelta(seconds=60))
joined.__enter__()
rank = dist.rank()
def decide():
    assert rank == 0
    raise StateError("one writer only")
found = {
    "mean": dist.mean(torch.tensor([float(rank), 4.0])).tolist(),
    "maximum": dist.maximum(rank * 2),
    "largest": dist.largest(torch.tensor([float(rank), -float(rank)])).tolist(),
    "broadcast": dist.broadcast(f"from {rank}"),
    "gathered": dist.gather_objects(rank * 10),
    "decided": dist.first_decides(lambda: "yes" if rank == 0 else 1 / 0),
    "backend": distributed.get_backend(),
}
try:
    dist.first_decides(decide)
except StateError as error:
    found["error"] = [str(error), error.exit_code]
try:
    dist.raise_first(ShardError(f"rank {rank}") if rank == 1 else None)
except ShardError as error:
    found["other"] = str(error)
Path(sys.argv[1], str(rank)).write_text(json.dumps(found))
dist.barrier()
distributed.destroy_process_group()
"""


def test_two_ranks_agree(tmp_path: Path) -> None:
    launch.run_ranks([sys.executable, "-c", RANK, str(tmp_path)], 2)
    first, second = (json.loads((tmp_path / str(rank)).read_text()) for rank in range(2))
    assert first == second
    assert first == {
        "mean": [0.5, 4.0],
        "maximum": 2,
        "largest": [1.0, 0.0],
        "broadcast": "from 0",
        "gathered": [0, 10],
        "decided": "yes",
        "backend": "gloo",
        "error": ["one writer only", 4],
        "other": "rank 1",
    }
    assert "RANK" not in os.environ


def test_a_group_of_one_needs_no_environment_and_leaves_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that is started later must not look like a rank with a broken environment."""
    for name in launch.NEEDED:
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    with dist.joined(timedelta(seconds=60)):
        assert dist.is_joined()
        assert (dist.rank(), dist.world_size()) == (0, 1)
        torch.distributed.destroy_process_group()
    assert dict(os.environ) == before


@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_is_torchs(affine: bool) -> None:
    """Three batches of odd size: output, gradients, running statistics; then evaluation by the state dict."""
    torch.manual_seed(0)
    ours, theirs = dist.BatchNorm1d(5, affine=affine), nn.BatchNorm1d(5, affine=affine)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.uniform_(0.5, 2)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for size in (7, 3, 2):
        rows = torch.randn(size, 5) * torch.tensor([0.1, 1.0, 10.0, 100.0, 1.0]) + 3
        answers = []
        for norm in (ours, theirs):
            given = rows.clone().requires_grad_()
            norm.zero_grad()
            answer = norm(given)
            (answer.square() * torch.linspace(-1, 2, answer.numel()).view_as(answer)).sum().backward()
            answers.append((answer.detach(), given.grad, *(one.grad for one in norm.parameters())))
        for mine, torchs in zip(*answers, strict=True):
            torch.testing.assert_close(mine, torchs, rtol=1e-4, atol=1e-4)
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=1e-5, atol=1e-6)
    other = nn.BatchNorm1d(5, affine=affine).eval()
    other.load_state_dict(ours.state_dict(), strict=True)
    torch.testing.assert_close(ours.eval()(rows), other(rows), rtol=1e-4, atol=1e-5)


def test_batch_norms_variance_does_not_cancel() -> None:
    """A mean of 10,000 and a spread of 1: the difference of squares would lose all of it in fp32."""
    rows = torch.tensor([[9999.0], [10000.0], [10001.0]])
    assert dist.BatchNorm1d(1)(rows).flatten().tolist() == pytest.approx([-1.2247, 0, 1.2247], abs=1e-3)


def test_batch_norm_is_fp32_under_autocast() -> None:
    rows = (torch.arange(12.0).view(4, 3) + 256).bfloat16()
    exact = dist.BatchNorm1d(3)(rows.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        answer = dist.BatchNorm1d(3)(rows)
    assert answer.dtype == torch.float32
    assert torch.equal(answer, exact)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_batch_norm_never_remembers_a_batch_that_is_not_finite(bad: float) -> None:
    """3e38 is finite and its square is not: the variance overflows."""
    norm = dist.BatchNorm1d(2)
    norm(torch.randn(4, 2))
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    rows = torch.randn(4, 2)
    rows[2, 1] = bad
    norm(rows)
    assert all(torch.equal(norm.state_dict()[name], value) for name, value in before.items())
    norm(torch.randn(4, 2))
    assert int(norm.num_batches_tracked) == 2


def test_batch_norm_draws_nothing_and_is_the_same_again() -> None:
    rows = torch.randn(9, 4)
    assert torch.equal(dist.BatchNorm1d(4)(rows), dist.BatchNorm1d(4)(rows))
