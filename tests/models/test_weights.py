"""Weights of files: nothing unpickled (F90), nothing damaged or half fitting accepted (F91)."""

import argparse
import pickle
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import weights


class _Evil:
    """What a malicious file does: its reader calls whatever it names."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4))


def _saved(path: Path) -> Path:
    save_file(_module().state_dict(), path)
    return path


def test_safetensors_and_plain_pth_come_back_equal(tmp_path: Path) -> None:
    state = _module().state_dict()
    _saved(tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    torch.save({"model": state, "epoch": 3}, tmp_path / "c.pth")
    for name in ("a.safetensors", "b.pth", "c.pth"):
        read = weights.read_tensors(tmp_path / name)
        assert not weights.differences(state, read)
        assert all(torch.equal(state[key], read[key]) for key in state)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
def test_f90_malicious_pickle_is_refused_and_does_not_run(tmp_path: Path, suffix: str) -> None:
    mark = tmp_path / "ran"
    torch.save({"model": _module().state_dict(), "args": _Evil(mark)}, tmp_path / f"evil{suffix}")
    with pytest.raises(CheckpointError, match="asks to run code while it is read") as caught:
        weights.read_tensors(tmp_path / f"evil{suffix}")
    assert not mark.exists()
    assert caught.value.exit_code == 4
    assert "weights_only" in str(caught.value)
    assert ".safetensors" in str(caught.value)


def test_f90_harmless_objects_are_no_exception(tmp_path: Path) -> None:
    """RETFound's and MAE's own files carry an argparse.Namespace."""
    torch.save({"model": _module().state_dict(), "args": argparse.Namespace(lr=1)}, tmp_path / "mae.pth")
    with pytest.raises(CheckpointError, match="Namespace"):
        weights.read_tensors(tmp_path / "mae.pth")


def test_f90_a_bare_pickle_is_refused_as_well(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(_Evil(mark), protocol=2))
    with pytest.raises(CheckpointError, match=r"bare\.pth is"):
        weights.read_tensors(tmp_path / "bare.pth")
    assert not mark.exists()


def test_f90_a_pickle_named_safetensors_is_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    torch.save(_Evil(mark), tmp_path / "evil.safetensors")
    with pytest.raises(CheckpointError, match="cut or damaged"):
        weights.read_tensors(tmp_path / "evil.safetensors")
    assert not mark.exists()


def _cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def _huge_header(content: bytes) -> bytes:
    return struct.pack("<Q", 2**60) + content[8:]


@pytest.mark.parametrize(
    "damage", [_cut, _huge_header, lambda _: b"", lambda _: b"\0" * 4096, lambda c: c[:5]]
)
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_f91_damaged_files_are_refused(tmp_path: Path, damage: Any, suffix: str) -> None:
    good = tmp_path / f"good{suffix}"
    if suffix == ".pth":
        torch.save(_module().state_dict(), good)
    else:
        _saved(good)
    bad = tmp_path / f"bad{suffix}"
    bad.write_bytes(damage(good.read_bytes()))
    with pytest.raises(CheckpointError, match=f"bad{suffix}"):
        weights.read_tensors(bad)


@pytest.mark.parametrize("content", [{}, [1, 2], {"epoch": 3}, torch.zeros(2)])
def test_f91_a_file_without_weights_is_refused(tmp_path: Path, content: Any) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="holds"):
        weights.read_tensors(tmp_path / "x.pth")


def test_missing_and_other_files_are_input_errors(tmp_path: Path) -> None:
    (tmp_path / "weights.npz").write_bytes(b"x")
    for name in ("none.safetensors", "weights.npz"):
        with pytest.raises(InputError, match=name):
            weights.read_tensors(tmp_path / name)


def test_f91_everything_that_does_not_fit_is_listed_and_nothing_loaded() -> None:
    module, state = _module(), dict(_module().state_dict())
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    state["0.weight"] = torch.ones(4, 5)
    state["1.weight"] = torch.ones(4, dtype=torch.float16)
    state["0.bias"] = state.pop("0.bias") + 1
    state["mask_token"] = torch.ones(1)
    del state["1.bias"]
    with pytest.raises(CheckpointError) as caught:
        weights.load_into(module, state, "weights.pth")
    said = str(caught.value)
    assert said.startswith("weights.pth does not fit the model:")
    assert "1 missing: 1.bias" in said
    assert "1 extra: mask_token" in said
    assert "0.weight has shape (4, 5), the model needs (4, 3)" in said
    assert "1.weight is torch.float16, the model needs torch.float32" in said
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_f91_long_lists_are_shortened() -> None:
    wanted = {f"w{number}": torch.zeros(1) for number in range(100)}
    (said,) = weights.differences(wanted, {})
    assert said.startswith("100 missing: w0, w1,")
    assert said.endswith("and 88 more")


def test_f92_unusable_weights_are_named() -> None:
    state = dict(_module().state_dict())
    assert not weights.unusable(state), "ones and zeros of a fresh LayerNorm are no fault"
    state["0.weight"] = torch.full((4, 3), 0.5)
    state["0.bias"] = torch.tensor([0.0, float("inf"), 0.0, 0.0])
    state["1.weight"] = torch.tensor([0.0, float("nan"), 0.0, 0.0])
    assert weights.unusable(state) == [
        "0.weight is 0.5 everywhere",
        "0.bias holds values that are not finite",
        "1.weight holds values that are not finite",
    ]
