"""The head for the camera on the real engine: two ranks equal one, every ZeRO stage, a run and its export."""

import json
from pathlib import Path
from typing import Any

import adversary_ranks
import factory
import pytest
import tiny
import torch
from safetensors.torch import load_file

from ssl_retina import config, methods, shard_index
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source
from ssl_retina.errors import InputError, RequeueError
from ssl_retina.release import export
from ssl_retina.sections import Adversary
from ssl_retina.train import checkpoint, loop, setup
from ssl_retina.train.engine import process_group
from ssl_retina.train.signals import Stop

FEW = ["mae", "mocov3"]
WORLDS = 3e-3
"""Of a tensor's largest value, as in test_zero.py; a wrong share of the batch would be 1."""
NOISE = "encoder.vit.norm.bias"
"""Before a batch norm its gradient is rounding noise, of which Adam makes whole steps."""


def ranks(folder: Path, names: list[str]) -> Path:
    tiny.on_ranks("adversary_ranks.py", folder, *names)
    return folder


def one_and_two(folder: Path, names: list[str]) -> tuple[Path, Path]:
    alone, both = folder / "one", folder / "two"
    alone.mkdir()
    both.mkdir()
    with process_group():
        adversary_ranks.main(alone, names)
    return alone, ranks(both, names)


def assert_close(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert one["applied"] == other["applied"] == [True, True, False, True]
    assert one["unchanged"]
    for kind in ("weights", "moments"):
        assert one[kind].keys() == other[kind].keys()
        for name, tensor in one[kind].items():
            if tolerance == WORLDS and name.endswith(NOISE):
                continue
            apart = (tensor - other[kind][name]).abs().max()
            assert apart <= tolerance * float(tensor.abs().max()) + 1e-6, name


def assert_equal_at_every_stage(folder: Path, names: list[str]) -> None:
    alone, both = one_and_two(folder, names)
    for name in names:
        first = torch.load(alone / f"{name}-1.pt")
        assert any(key.startswith("adversary.") for key in first["weights"])
        assert first["moments"]["exp_avg/adversary.layers.0.weight"].abs().max() > 0
        for stage in (1, 2, 3):
            assert_close(first, torch.load(alone / f"{name}-{stage}.pt"), 1e-5)
            assert_close(first, torch.load(both / f"{name}-{stage}.pt"), WORLDS)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(methods.available()) - set(FEW)))
def test_every_method_at_every_stage(tmp_path: Path, name: str) -> None:
    assert_equal_at_every_stage(tmp_path, [name])


@pytest.mark.slow
def test_two_ranks_equal_one_at_every_stage(tmp_path: Path) -> None:
    assert_equal_at_every_stage(tmp_path, FEW)


def test_a_run_logs_its_accuracy_and_exports_no_head(tmp_path: Path) -> None:
    shards = tiny.make_shards(tmp_path / "shards")
    fixed = {"adversary": {"weight": 1.0}, "train__steps": 4, "checkpoint__every_steps": 2}
    with process_group():
        run = tiny.run(shards, tmp_path / "run", **fixed)
        with pytest.raises(RequeueError):
            loop.pretrain(run, _StopAfter(2))
        loop.pretrain(run, Stop())
        loop.pretrain(tiny.run(shards, tmp_path / "whole", **fixed), Stop())
        loop.pretrain(tiny.run(shards, tmp_path / "parts", train__accumulate=2, **fixed), Stop())
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(0 <= line["device_accuracy"] <= 1 for line in lines)
    newest = [checkpoint.load_weights(checkpoint.newest(tmp_path / name)) for name in ("run", "whole")]
    assert any(name.startswith("adversary.") for name in newest[0])
    assert all(torch.equal(one, newest[1][name]) for name, one in newest[0].items())
    parts = checkpoint.load_weights(checkpoint.newest(tmp_path / "parts"))
    for name, one in newest[1].items():
        if not name.endswith(NOISE):
            assert (one - parts[name]).abs().max() <= WORLDS * one.abs().max() + 1e-6, name
    folder = export.export(tmp_path / "run", tmp_path / "model")
    assert not [name for name in load_file(folder / "model.safetensors") if "adversary" in name]


class _StopAfter(Stop):
    """A signal before the end of the n-th step."""

    def __init__(self, steps: int) -> None:
        self._left = steps
        super().__init__()

    @property
    def signal(self) -> int:
        self._left -= 1
        return 10 if self._left == 0 else 0

    @signal.setter
    def signal(self, number: int) -> None:
        """Real signals are of no interest here."""


def test_devices_that_are_not_there_or_too_many_are_refused(tmp_path: Path) -> None:
    parts = [
        (f"a{number}.{kind}", content)
        for number in range(10)
        for kind, content in (("png", factory.encoded(factory.pixels(number), "png")), ("json", b"{}"))
    ]
    (tmp_path / "nameless").mkdir()
    factory.write_tar(tmp_path / "nameless" / "n-000000.tar", parts)
    shard_index.write(tmp_path / "nameless", {})
    with process_group():
        nobody = tiny.run(
            tmp_path / "nameless", tmp_path / "a", adversary={"weight": 1.0}, data__held_out=0.0
        )
        with pytest.raises(InputError, match="the sets name none"):
            loop.pretrain(nobody, Stop())
        three = config.Data(shards=(tiny.make_shards(tmp_path / "shards"),), batch_size=2, workers=0)
        source = open_source(three, ViewSpec("mae", 1, 32), seed=0)
        assert source.devices == factory.DEVICES
        few = nobody.model_copy(update={"adversary": Adversary.model_construct(weight=1.0, devices=1)})
        with pytest.raises(InputError, match="at least the 2 devices"):
            setup.refuse_devices(few, source)
    assert not (tmp_path / "a").exists()
