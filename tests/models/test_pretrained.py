"""Finished encoders by name: exports are checked against their sums, other names fail with a sentence."""

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ssl_retina import config, files
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import encoder, pretrained

MODEL = config.Model(name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2)


@pytest.fixture(scope="module")
def made() -> encoder.Encoder:
    torch.manual_seed(0)
    return encoder.build(MODEL, checkpointing=False).eval()


def _sum(folder: Path) -> None:
    names = ("README.md", "config.json", "model.safetensors")
    (folder / "SHA256SUMS").write_text("".join(f"{files.sha256(folder / name)}  {name}\n" for name in names))


@pytest.fixture
def folder(tmp_path: Path, made: encoder.Encoder) -> Path:
    """An export in the layout of `release/export.py`."""
    target = tmp_path / "export"
    target.mkdir()
    save_file(made.vit.state_dict(), target / "model.safetensors")
    content: dict[str, Any] = {
        "architecture": MODEL.name,
        "model_args": encoder.model_args(MODEL),
        "pretrained_cfg": {
            "input_size": [3, 32, 32],
            "mean": [0.4, 0.3, 0.2],
            "std": [0.2, 0.2, 0.1],
            "interpolation": "bicubic",
            "crop_pct": 1.0,
        },
    }
    (target / "config.json").write_text(json.dumps(content))
    (target / "README.md").write_text("A card.")
    _sum(target)
    return target


def test_an_export_gives_the_encoders_features_and_its_own_preparation(
    folder: Path, made: encoder.Encoder
) -> None:
    module, data = pretrained.load_timm(str(folder))
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(module(images), made.features(images))
    assert not module.training
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert data == pretrained.DataConfig(32, (0.4, 0.3, 0.2), (0.2, 0.2, 0.1), "bicubic", 1.0)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_f95_a_changed_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-3] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=f"not what was exported.*{name}"):
        pretrained.load_timm(str(folder))


def test_f95_sums_must_be_there_and_name_the_weights(folder: Path) -> None:
    (folder / "SHA256SUMS").write_text(f"{files.sha256(folder / 'config.json')}  config.json\n")
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        pretrained.load_timm(str(folder))
    (folder / "SHA256SUMS").unlink()
    with pytest.raises(CheckpointError, match="no SHA256SUMS"):
        pretrained.load_timm(str(folder))


def test_sums_may_not_point_out_of_the_folder(folder: Path) -> None:
    outside = folder.parent / "outside"
    outside.write_text("x")
    with (folder / "SHA256SUMS").open("a") as stream:
        stream.write(f"{files.sha256(outside)}  ../outside\n")
    with pytest.raises(CheckpointError, match=r"\.\./outside"):
        pretrained.load_timm(str(folder))


def _change(folder: Path, **values: Any) -> None:
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**content, **values}))
    _sum(folder)


def test_f91_weights_of_another_depth_are_listed(folder: Path) -> None:
    _change(folder, model_args={**encoder.model_args(MODEL), "depth": 3})
    with pytest.raises(CheckpointError, match=r"(?s)fit config\.json:.*missing: blocks\.2\.norm1\.weight"):
        pretrained.load_timm(str(folder))


def test_a_config_may_not_hand_timm_other_arguments(folder: Path) -> None:
    _change(folder, model_args={**encoder.model_args(MODEL), "checkpoint_path": "/etc/passwd"})
    with pytest.raises(CheckpointError, match="checkpoint_path"):
        pretrained.load_timm(str(folder))


def _cfg(**values: Any) -> dict[str, Any]:
    whole = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3}
    return {"pretrained_cfg": {**whole, "interpolation": "bicubic", "crop_pct": 1.0, **values}}


def _args(**values: Any) -> dict[str, Any]:
    return {"model_args": {**encoder.model_args(MODEL), **values}}


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (_args(depth=2000), "model_args.depth: should be less than or equal to 64, got 2000"),
        (_args(depth=True), "model_args.depth: should be a valid integer"),
        (_args(img_size=-5), "model_args.img_size: should be greater than or equal to 1, got -5"),
        (_args(img_size=4096, patch_size=1), "an image of 4096 px in patches of 1 is too much"),
        (_args(global_pool="map"), "model_args.global_pool: should be 'avg' or 'token'"),
        (_args(patch_size=64), "does not fit config.json"),
        ({"model_args": ["depth"]}, "model_args: "),
        ({"pretrained_cfg": 5}, "pretrained_cfg: "),
        ({"pretrained_cfg": {}}, "pretrained_cfg.input_size: required"),
        (_cfg(input_size=[3, 32]), "pretrained_cfg.input_size"),
        (_cfg(input_size=[3, 1 << 40, 1 << 40]), "pretrained_cfg.input_size.1: should be less than"),
        (_cfg(mean=["a", "b", "c"]), "pretrained_cfg.mean.0: should be a valid number"),
        (_cfg(mean=[float("nan")] * 3), "pretrained_cfg.mean.0: should be a finite number"),
        (_cfg(std=[0, 1, 1]), "pretrained_cfg.std.0: should be greater than 0"),
        (_cfg(file="/etc/passwd"), "pretrained_cfg.file: unknown key"),
        ({"architecture": ["vit"]}, "architecture: should be a valid string"),
        ({"architecture": "hf-hub:a/b"}, "architecture: "),
        ({"num_classes": "x"}, "num_classes: should be a valid integer"),
    ],
)
def test_law_11_a_hostile_config_is_refused_at_once_wherever_it_is_read(
    folder: Path, values: dict[str, Any], says: str
) -> None:
    _change(folder, **values)
    began = time.monotonic()
    for ask in (
        lambda: pretrained.check_fits(folder),
        lambda: pretrained.load_timm(str(folder)),
        lambda: pretrained.untrained(str(folder), seed=0),
    ):
        with pytest.raises(CheckpointError, match=re.escape(says)):
            ask()
    assert time.monotonic() - began < 10


def test_law_11_no_model_is_built_that_is_larger_than_its_file(folder: Path) -> None:
    """Also the opponent `random` of a folder: its weights' header is held against the config first."""
    _change(folder, **_args(depth=64, img_size=2048))
    with pytest.raises(CheckpointError, match=r"does not fit config\.json"):
        pretrained.untrained(str(folder), seed=0)


def test_one_reader_of_sums(folder: Path) -> None:
    """What pull refuses, probe refuses: a name twice, a line that is none, a file too few."""
    good = (folder / "SHA256SUMS").read_text()
    lines = good.splitlines(keepends=True)
    for text, says in (
        (good + lines[0], "line 4 names README.md a second time"),
        ("hello\n" + good, "line 1 is not a SHA-256"),
        ("".join(lines[1:]), "it does not name README.md"),
        (good.replace("  ", " ", 1), "line 1 is not a SHA-256"),
    ):
        (folder / "SHA256SUMS").write_text(text)
        with pytest.raises(CheckpointError, match=says):
            pretrained.load_timm(str(folder))


@pytest.mark.parametrize("content", ["{", "[]", "{}", "[" * 100_000, '{"architecture": 1}'])
def test_a_broken_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    _sum(folder)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        pretrained.load_timm(str(folder))


def test_f91_cut_weights_with_fitting_sums_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    _sum(folder)
    with pytest.raises(CheckpointError, match="cut or damaged"):
        pretrained.load_timm(str(folder))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("out/nothing-here", "does not exist"),
        ("hf-hub:someone/model", "does not exist"),
        ("vit_smal_patch16_224", "did you mean 'vit_small_patch16_224'"),
    ],
)
def test_names_that_mean_nothing(name: str, said: str) -> None:
    for ask in (pretrained.load_timm, lambda name: pretrained.untrained(name, seed=0)):
        with pytest.raises(InputError) as caught:
            ask(name)
        assert said in str(caught.value)


def test_a_file_is_no_folder(folder: Path) -> None:
    with pytest.raises(InputError, match="give the folder"):
        pretrained.load_timm(str(folder / "model.safetensors"))


def test_a_timm_model_without_network_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.nonsense"):
        with pytest.raises(InputError, match="timm cannot give weights"):
            pretrained.load_timm(name)


def test_untrained_is_drawn_from_its_seed_alone(folder: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, data = pretrained.untrained(str(folder), seed=1)
    assert torch.equal(before, torch.get_rng_state())
    again, _ = pretrained.untrained(str(folder), seed=1)
    other, _ = pretrained.untrained(str(folder), seed=2)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(one(images), again(images))
    assert not torch.equal(one(images), other(images))
    assert data.mean == (0.4, 0.3, 0.2)
    named, _ = pretrained.untrained("vit_tiny_patch16_224", seed=0)
    assert named(torch.randn(1, 3, 224, 224)).shape == (1, 192)


def test_untrained_starts_an_export_as_its_pretraining_began(folder: Path, made: encoder.Encoder) -> None:
    """Not as timm would: sine-cosine positions and Xavier uniform layers (`encoder.build`)."""
    fresh = pretrained.untrained(str(folder), seed=0).module
    assert torch.equal(fresh.pos_embed, made.vit.pos_embed)
    for one, other in zip(fresh.blocks, made.vit.blocks, strict=True):
        assert one.mlp.fc1.weight.std().item() == pytest.approx(other.mlp.fc1.weight.std().item(), rel=0.05)


def test_a_copied_folder_is_the_same(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert pretrained.load_timm(str(tmp_path / "copy")).data == pretrained.load_timm(str(folder)).data
