"""The few collectives: alone they are the identity, on two gloo ranks they agree."""

import json
import os
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch

from ssl_retina import dist, launch
from ssl_retina.errors import ShardError, StateError


def test_alone_without_a_group() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    assert torch.equal(dist.mean(value), value.detach())
    assert dist.maximum(3) == 3
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
