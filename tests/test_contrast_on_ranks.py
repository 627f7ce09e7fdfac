"""Law 3 for the pieces that couple a batch: two gloo ranks with three samples each equal one with six."""

import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import contrast_ranks
import pytest
import torch
from contrast_ranks import Result
from torch import Tensor

from ssl_retina import dist, launch

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def one() -> dict[str, Result]:
    return contrast_ranks.everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Result]]:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parent))))
        launch.run_ranks([sys.executable, str(HERE / "contrast_ranks.py"), str(folder)], 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def near(left: Tensor, right: Tensor) -> None:
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


def parts(two: list[dict[str, Result]], case: str, name: str) -> Tensor:
    return torch.cat([rank[case][name] for rank in two])


def test_gather_gives_all_rows_and_sums_gradients_over_ranks(two: list[dict[str, Result]]) -> None:
    """Each rank's own loss uses every row: rank r weighs it 1 + r times, so a row gets 1 + 2 = 3 times."""
    rows = contrast_ranks.rows(0)
    weights = torch.arange(1.0, rows.numel() + 1).view_as(rows)
    for number, rank in enumerate(two):
        assert torch.equal(rank["gather"]["value"], rows)
        assert int(rank["gather"]["first"]) == 3 * number
    near(parts(two, "gather", "gradient"), 3 * weights * 2 * rows)


def test_total_sums_values_and_gradients_over_ranks(two: list[dict[str, Result]]) -> None:
    rows = contrast_ranks.rows(1)
    total = rows.sum(dim=0)
    for rank in two:
        near(rank["total"]["value"], total)
        near(rank["total"]["gradient"], (3 * torch.arange(1.0, 6.0) * 2 * total).expand(3, -1))
    assert torch.equal(two[0]["total"]["value"], two[1]["total"]["value"])


def test_batch_norm_measures_all_ranks(one: dict[str, Result], two: list[dict[str, Result]]) -> None:
    """Value, gradient of input, weight and bias, and running statistics; the ranks' losses are averaged."""
    near(parts(two, "norm", "value"), one["norm"]["value"])
    near(parts(two, "norm", "gradient") / 2, one["norm"]["gradient"])
    for name in ("weight", "bias"):
        near((two[0]["norm"][name] + two[1]["norm"][name]) / 2, one["norm"][name])
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        near(two[0]["norm"][name], one["norm"][name])
        assert torch.equal(two[0]["norm"][name], two[1]["norm"][name]), "bit-equal on all ranks"


def test_a_nan_on_one_rank_leaves_running_statistics_of_all(two: list[dict[str, Result]]) -> None:
    for rank in two:
        for name in ("running_mean", "running_var", "num_batches_tracked"):
            assert torch.equal(rank["norm"][name], rank["norm"][f"after/{name}"])


@pytest.mark.parametrize("case", ["nt_xent", "moco", "nt_xent_kin", "moco_kin"])
def test_contrast_sees_the_negatives_of_all_ranks(
    one: dict[str, Result], two: list[dict[str, Result]], case: str
) -> None:
    """The mean of the ranks' losses and logs, and the gradient of that mean."""
    near((two[0][case]["logs"] + two[1][case]["logs"]) / 2, one[case]["logs"])
    near(parts(two, case, "first") / 2, one[case]["first"])
    assert ("second" in one[case]) == case.startswith("nt_xent"), "keys get no gradient"
    if "second" in one[case]:
        near(parts(two, case, "second") / 2, one[case]["second"])


@pytest.mark.parametrize("case", ["nt_xent", "moco"])
def test_relatives_change_the_loss(one: dict[str, Result], case: str) -> None:
    """Else the test above would compare nothing new."""
    assert float((one[case]["logs"][0] - one[f"{case}_kin"]["logs"][0]).abs()) > 0.01
    assert float(one[f"{case}_kin"]["logs"][3]) > 0.4


@pytest.mark.parametrize(("case", "second_begins"), [("uneven", 1), ("idle", 0)])
def test_without_gradient_ranks_may_bring_unequally_many(
    one: dict[str, Result], two: list[dict[str, Result]], case: str, second_begins: int
) -> None:
    """As in an evaluation of few photographs: every pair is contrasted with all others, none twice."""
    for begin, rank in zip((0, second_begins), two, strict=True):
        assert torch.equal(rank[case]["value"], one[case]["value"])
        assert int(rank[case]["first"]) == begin
    near(two[0][case]["sum"] + two[1][case]["sum"], one[case]["sum"])


def test_a_group_of_one_changes_no_bit(one: dict[str, Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """Training on one process is in a group, an export is not."""
    for name in launch.NEEDED:
        monkeypatch.delenv(name, raising=False)
    with dist.joined(timedelta(seconds=60)):
        joined: dict[str, Any] = contrast_ranks.everything()
        torch.distributed.destroy_process_group()
    for case, found in joined.items():
        for name, value in found.items():
            assert torch.equal(value.nan_to_num(), one[case][name].nan_to_num()), (case, name)
