"""Laws 3 to 5 for the methods whose loss couples a batch, on the real engine: batch norm and a teacher."""

import shutil
from pathlib import Path
from typing import Any

import coupled_ranks
import pytest
import tiny
import torch
from test_laws import assert_bit_equal, assert_close, ending, lines, tensors

from ssl_retina.errors import InputError
from ssl_retina.train import loop
from ssl_retina.train.engine import process_group
from ssl_retina.train.signals import Stop

LOGGED = {"vicreg": {"invariance", "variance_hinge", "covariance", "embedding_std"}}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.parametrize("name", coupled_ranks.NAMES),
    pytest.mark.timeout(1200),
]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every case with one rank, in this process."""
    folder = tmp_path_factory.mktemp("one")
    tiny.make_shards(folder / "shards")
    with process_group():
        coupled_ranks.everything(folder)
    return folder


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory, one: Path) -> Path:
    """Every case with two ranks."""
    folder = tmp_path_factory.mktemp("two")
    shutil.copytree(one / "shards", folder / "shards")
    tiny.on_ranks("coupled_ranks.py", folder)
    return folder


def steps(folder: Path, name: str, label: str = "right") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = torch.load(folder / f"{name}-{label}.pt")
    return found


def gradients(step: dict[str, Any]) -> torch.Tensor:
    """AdamW's first moment after one step is a tenth of the gradient."""
    moments = [value.flatten() for key, value in step["state"].items() if key.startswith("exp_avg/")]
    return torch.cat(moments) * 10


def gap(left: torch.Tensor, right: torch.Tensor) -> float:
    return float((left - right).norm() / left.norm())


def test_law_3_loss_gradient_and_buffers(one: Path, two: Path, name: str) -> None:
    """Three steps with drop path, three samples a rank, and a NaN on one rank in the second."""
    for mine, other in zip(steps(one, name), steps(two, name), strict=True):
        for key, value in mine["scalars"].items():
            torch.testing.assert_close(other["scalars"][key], value, equal_nan=True, rtol=1e-4, atol=1e-5)
        assert mine["state"].keys() == other["state"].keys()
        for key, value in mine["state"].items():
            torch.testing.assert_close(other["state"][key], value, rtol=1e-3, atol=1e-3, msg=key)
    assert gap(gradients(steps(one, name)[0]), gradients(steps(two, name)[0])) < 2e-5
    assert any("running_var" in key for key in steps(one, name)[0]["state"])


def test_cached_gradients_have_the_curve_of_the_whole_batch(one: Path, two: Path, name: str) -> None:
    """Three samples a rank in parts of two and one; on one rank three parts of two."""
    for folder in (one, two):
        for mine, other in zip(steps(one, name), steps(folder, name, "cached"), strict=True):
            assert mine["applied"] == other["applied"]
            for key, value in mine["scalars"].items():
                torch.testing.assert_close(other["scalars"][key], value, equal_nan=True, rtol=1e-4, atol=1e-5)
        first = (steps(one, name)[0], steps(folder, name, "cached")[0])
        assert gap(*(gradients(step) for step in first)) < 2e-5


def test_the_comparison_sees_a_forgotten_sum_and_a_batch_norm_of_one_rank(
    one: Path, two: Path, name: str
) -> None:
    """With a gather that loses gradient the loss stays right, and the gradient does not."""
    right = gradients(steps(one, name)[0])
    loss = steps(one, name)[0]["scalars"]["loss"]
    if name != "mocov3":  # MoCo's keys have no gradient to lose
        forgotten = steps(two, name, "no_sum")[0]
        torch.testing.assert_close(forgotten["scalars"]["loss"], loss, rtol=1e-4, atol=1e-5)
        assert gap(right, gradients(forgotten)) > 0.1
    own = steps(two, name, "own_norm")[0]
    assert abs(float(own["scalars"]["loss"] - loss)) > 0.01
    assert gap(right, gradients(own)) > 0.1


@pytest.mark.parametrize("world", ["one", "two"])
def test_a_nan_on_one_rank_changes_nothing(request: pytest.FixtureRequest, name: str, world: str) -> None:
    """Student, teacher, buffers and moments stay bit for bit, and move again afterwards."""
    first, broken, third = steps(request.getfixturevalue(world), name)
    assert (first["applied"], broken["applied"], third["applied"]) == (True, False, True)
    assert [
        key for key, value in first["state"].items() if not torch.equal(value, broken["state"][key])
    ] == []
    still = {key for key, value in first["state"].items() if torch.equal(value, third["state"][key])}
    frozen = {key for key in still if "pos_embed" in key or "patch_embed" in key}
    assert still == frozen


def test_law_3_whole_runs(one: Path, two: Path, name: str) -> None:
    """Twelve steps on photographs with real views: every logged number and the end.

    Three held-out photographs, two of them on the second rank, do not fill a batch of six.
    """
    assert_close(one / f"{name}-whole", two / f"{name}-whole", tolerance=2e-4)


def test_a_batch_larger_than_the_photographs_is_refused(one: Path, tmp_path: Path, name: str) -> None:
    """Each would be its own negative. With as many as there are the run starts; MAE may repeat them."""
    changes = {**coupled_ranks.changes(name), "train__steps": 1, "schedule__warmup_steps": 0}
    with process_group():
        with pytest.raises(
            InputError, match=r"batch_size \(59\) must be at most the 58 photographs .* lower it"
        ):
            loop.pretrain(
                tiny.run(one / "shards", tmp_path / "a", **{**changes, "data__batch_size": 59}), Stop()
            )
        assert not (tmp_path / "a").exists()
        loop.pretrain(tiny.run(one / "shards", tmp_path / "b", **{**changes, "data__batch_size": 58}), Stop())
        changes["method"] = tiny.METHODS["mae"]
        loop.pretrain(tiny.run(one / "shards", tmp_path / "c", **{**changes, "data__batch_size": 59}), Stop())


@pytest.mark.parametrize("world", ["one", "two"])
def test_law_4_a_stopped_and_resumed_run_is_the_whole_run(
    request: pytest.FixtureRequest, name: str, world: str
) -> None:
    """Bit for bit with batch norm's buffers and the teacher, at another ZeRO stage."""
    folder: Path = request.getfixturevalue(world)
    assert ending(folder / f"{name}-resumed") == {"ended": "done", "steps": 12, "from": 6}
    assert_bit_equal(folder / f"{name}-whole", folder / f"{name}-resumed")
    kept = tensors(folder / f"{name}-whole")
    assert any("running_mean" in key for key in kept)
    assert any(key.startswith("teacher.") for key in kept) == (name == "mocov3")
    assert not any("/teacher." in key for key in kept), "no optimiser state for the teacher"
    assert (
        LOGGED.get(name, {"positive_similarity", "contrast_top1"})
        <= lines(folder / f"{name}-whole")[-1].keys()
    )
