"""The product: a folder that plain timm loads (law 6), whole or not at all, and never a dead one (F92)."""

import dataclasses
import getpass
import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import factory
import pytest
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from ssl_retina import cli, config, methods, shards
from ssl_retina.contract import Clock, uniform
from ssl_retina.errors import CheckpointError, StateError
from ssl_retina.models import encoder
from ssl_retina.models.encoder import Encoder
from ssl_retina.release import check, export, facts
from ssl_retina.release.hub import publishable
from ssl_retina.train import checkpoint

OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"name": "simclr", "projector_hidden": 32, "projector_out": 16, "pool": "avg"}, "avg"),
    ({"name": "simclr", "projector_hidden": 32, "projector_out": 16, "pool": "token"}, "token"),
    ({"name": "mocov3", "hidden": 32, "out": 16}, "token"),
    ({"name": "mocov3", "hidden": 32, "out": 16, "pool": "avg"}, "avg"),
]
"""Sections of methods, and how their products pool."""

NAMES = ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]


def _run(folder: Path, out: Path, method: Mapping[str, Any] | None = None) -> config.Run:
    content = {
        "out": str(out),
        "data": {"shards": str(folder), "batch_size": 8, "where": "split != test"},
        "model": {
            "name": "vit_tiny_patch16_224",
            "image_size": 64,
            "patch_size": 8,
            "depth": 2,
            "drop_path": 0.2,
        },
        "method": method or {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4},
        "train": {"steps": 20},
    }
    return config.parse(content, methods.config_type)


def _shaken(run: config.Run) -> torch.nn.Module:
    """The method with weights that no initialisation gives."""
    torch.manual_seed(0)
    make = partial(encoder.build, run.model, checkpointing=False)
    method = methods.load(run.method_name).Method(run.method, make)
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.2 - 0.1)
    assert isinstance(method, torch.nn.Module)
    return method


def _commit(run: config.Run, weights: Mapping[str, Tensor], step: int = 10) -> Path:
    """A run folder as the trainer leaves it."""
    known: dict[str, Any] = {
        "data": {
            "digests": [shards.read_index(run.data.shards[0]).digest],
            "samples": 45,
            "held_out_samples": 3,
            "exclude": None,
        },
        "world_size": 2,
        "versions": {"ssl_retina": "0.1.0", "torch": "2.14.1"},
        "commit": "abc123",
    }
    run.out.mkdir(parents=True, exist_ok=True)
    lines = [
        {"step": step - 1, "samples": 72, "loss": 0.9, "clock": {"images_per_second": 100.0}},
        {"step": step, "samples": 80, "held_out_loss": 0.875, "feature_rank": 12.25},
        {"step": step + 1, "samples": 88, "loss": 0.1},
    ]
    (run.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step"')
    content = checkpoint.Content(weights, {"exp_avg/x": torch.zeros(1)}, known, run.dump())
    checkpoint.commit(run.out, step, content)
    return run.out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[config.Run, Encoder, Path]:
    """A run on factory shards, its encoder, and its export."""
    folder = tmp_path_factory.mktemp("secret-site")
    factory.make_shards(folder / "shards", samples=16, shards=1)
    run = _run(folder / "shards", folder / "run")
    method = _shaken(run)
    _commit(run, method.state_dict())
    out = export.export(run.out, folder / "out" / "a")
    product = method.exported()
    assert isinstance(product, Encoder)
    return run, product.eval().requires_grad_(False), out


def _images(size: int = 64, channels: int = 3) -> Tensor:
    return uniform(0, "pixels", torch.arange(3), channels * size * size).view(3, channels, size, size) * 4 - 2


def test_four_files_and_nothing_else(trained: tuple[config.Run, Encoder, Path]) -> None:
    _, _, out = trained
    assert sorted(path.name for path in out.iterdir()) == NAMES
    assert [path.name for path in out.parent.iterdir()] == ["a"], "no temporary folder stays"
    for line in (out / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    assert (
        subprocess.run(
            ["sha256sum", "-c", "SHA256SUMS"], cwd=out, capture_output=True, check=False
        ).returncode
        == 0
    )


def test_law_6_weights_are_the_encoders_own(trained: tuple[config.Run, Encoder, Path]) -> None:
    _, product, out = trained
    stored = load_file(out / "model.safetensors")
    expected = product.vit.state_dict()
    assert stored.keys() == expected.keys()
    assert "pos_embed" in stored
    assert not any("mask_token" in key or "decoder" in key for key in stored)
    assert all(tensor.dtype == torch.float32 for tensor in stored.values())
    assert all(torch.equal(stored[key], expected[key]) for key in stored)


def test_law_6_another_process_with_plain_timm_gives_the_same_features(
    trained: tuple[config.Run, Encoder, Path],
) -> None:
    """Bit for bit where it was tried; the process asserts itself that it never imported ssl_retina."""
    _, product, out = trained
    features = check.plain_timm_features(out, _images())
    torch.testing.assert_close(features, product.features(_images()), rtol=1e-6, atol=1e-6)
    tokens = product.vit.forward_features(_images())
    torch.testing.assert_close(features, tokens[:, 1:].mean(dim=1), rtol=1e-5, atol=1e-6)


def test_f93_timm_loads_it_with_a_head_another_size_and_one_channel(
    trained: tuple[config.Run, Encoder, Path],
) -> None:
    _, product, out = trained
    name = f"local-dir:{out}"
    stored = product.vit.state_dict()

    headed = timm.create_model(name, pretrained=True, num_classes=3).eval()
    assert headed(_images()).shape == (3, 3)
    assert torch.equal(
        headed.forward_head(headed.forward_features(_images()), pre_logits=True), product.features(_images())
    )

    large = timm.create_model(name, pretrained=True, img_size=96)
    assert large.pos_embed.shape == (1, 1 + 144, 192)
    assert large(_images(96)).shape == (3, 192)
    assert torch.equal(large.blocks[1].mlp.fc1.weight, stored["blocks.1.mlp.fc1.weight"])
    assert torch.equal(large.pos_embed[:, 0], stored["pos_embed"][:, 0])

    grey = timm.create_model(name, pretrained=True, in_chans=1)
    assert grey(_images(channels=1)).shape == (3, 192)
    folded = stored["patch_embed.proj.weight"].sum(dim=1, keepdim=True)
    torch.testing.assert_close(grey.patch_embed.proj.weight, folded)

    data = timm.data.resolve_model_data_config(headed)
    assert data["input_size"] == (3, 64, 64)
    assert tuple(data["mean"]) == (0.485, 0.456, 0.406)
    assert tuple(data["std"]) == (0.229, 0.224, 0.225)
    assert (data["interpolation"], data["crop_pct"]) == ("bicubic", 1.0)


def test_config_says_what_timm_needs(trained: tuple[config.Run, Encoder, Path]) -> None:
    content = json.loads((trained[2] / "config.json").read_text())
    assert content["architecture"] == "vit_tiny_patch16_224"
    assert (content["num_classes"], content["num_features"], content["global_pool"]) == (0, 192, "avg")
    assert content["model_args"] == {
        "img_size": 64,
        "patch_size": 8,
        "depth": 2,
        "global_pool": "avg",
        "fc_norm": False,
    }


def test_card_says_data_recipe_and_limits(trained: tuple[config.Run, Encoder, Path]) -> None:
    run, _, out = trained
    card = (out / "README.md").read_text()
    assert shards.read_index(run.data.shards[0]).digest in card
    assert "16 photographs, 16 patients" in card
    assert "camera-a 8, camera-b 8" in card
    assert "10 of 20 steps (not finished)" in card
    assert "8 photographs a step, 80 seen in all" in card
    assert "Held-out loss: 0.875" in card
    assert "Training loss at the end: 0.9" in card, "the line after the checkpoint's step is not its"
    assert "pseudonymised, not anonymised" in card
    assert '"mask_ratio": 0.75' in card
    assert "2 process(es)" in card
    assert "images_per_second" not in card
    assert "100" not in card.split("## Training")[1].split("<details>")[0], "nothing of the clock"
    assert "None is granted" in card


def test_the_cards_two_lines_of_python_run(trained: tuple[config.Run, Encoder, Path]) -> None:
    card = (trained[2] / "README.md").read_text()
    code = card.split("```python\n")[1].split("```")[0].replace("FOLDER", str(trained[2]), 1)
    names: dict[str, Any] = {}
    exec(code, names)  # two lines of our own card
    assert names["model"](_images()).shape == (3, 192)


def test_f105_an_export_may_be_published(trained: tuple[config.Run, Encoder, Path]) -> None:
    assert sorted(publishable.verify(trained[2])) == ["README.md", "config.json", "model.safetensors"]


def test_law_8_no_host_path_or_user_in_any_file(trained: tuple[config.Run, Encoder, Path]) -> None:
    _, _, out = trained
    words = ("secret-site", "/tmp", str(Path.home()), socket.gethostname(), f"/{getpass.getuser()}")
    for path in out.iterdir():
        content = path.read_bytes()
        if path.suffix == ".safetensors":
            content = content[8 : 8 + int.from_bytes(content[:8], "little")]  # its header
        for word in words:
            found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", content.decode())
            assert found is None, f"{path.name} names {word}"


@pytest.mark.usefixtures("quick")
def test_same_checkpoint_same_bytes(trained: tuple[config.Run, Encoder, Path], tmp_path: Path) -> None:
    run, _, out = trained
    other = export.export(run.out, tmp_path / "b")
    for name in NAMES:
        assert (other / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("section", "pool"), OTHERS, ids=lambda value: str(value)[:16])
def test_law_6_what_a_method_pooled_is_what_plain_timm_gives(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path, section: dict[str, Any], pool: str
) -> None:
    """Against the vector that the loss was computed from."""
    run = _run(trained[0].data.shards[0], tmp_path / "run", section)
    method = _shaken(run).eval()
    out = export.write(_committed(run, method), tmp_path / "out")
    model = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    product: Encoder = method.exported()
    with torch.no_grad():
        tokens = product(_images(), Clock(0, 1, 0), torch.arange(3))
        torch.testing.assert_close(model(_images()), product.pool(tokens), rtol=1e-5, atol=1e-6)
        other = tokens[:, 0] if pool == "avg" else tokens[:, 1:].mean(dim=1)
        assert float((model(_images()) - other).abs().max()) > 0.1
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == product.vit.state_dict().keys(), "neither teacher nor heads"
    assert json.loads((out / "config.json").read_text())["global_pool"] == pool
    card = (out / "README.md").read_text()
    assert {"avg": "the mean of the patch tokens", "token": "the class token"}[pool] in card
    assert f"pretrained with {section['name']}" in card
    assert {"simclr": "- Objective: SimCLR: two views", "mocov3": "- Objective: MoCo v3: each"}[
        section["name"]
    ] in card
    assert "Share of views whose other view was the nearest at the end: 0.75" in card


def test_law_6_a_class_token_in_another_process(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path
) -> None:
    """MoCo v3's product: `write` itself asks plain timm in a process without ssl_retina."""
    run = _run(trained[0].data.shards[0], tmp_path / "run", OTHERS[2][0])
    out = export.write(_committed(run, _shaken(run).eval()), tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == NAMES


def _committed(run: config.Run, method: torch.nn.Module) -> export.Trained:
    _commit(run, method.state_dict())
    known = checkpoint.load_facts(checkpoint.newest(run.out))
    return export.Trained(run, method.state_dict(), known, {"contrast_top1": 0.75})


@pytest.mark.usefixtures("quick")
def test_operations_count_no_backward_pass_of_a_teacher(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path
) -> None:
    """Two views: SimCLR 2 x (1 + 2) passes of the encoder, MoCo v3 two forward passes more."""
    counts = []
    for section in (OTHERS[1][0], OTHERS[2][0]):
        run = _run(trained[0].data.shards[0], tmp_path, section)
        counts.append(facts.step_operations(run, _shaken(run)))
    assert counts[1] / counts[0] == pytest.approx(8 / 6, rel=0.05)


def _trained(run: config.Run, state: Mapping[str, Tensor]) -> export.Trained:
    known = checkpoint.load_facts(checkpoint.newest(run.out))
    return export.Trained(run, state, known, {})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        (
            "encoder.vit.blocks.0.mlp.fc1.weight",
            float("nan"),
            "blocks.0.mlp.fc1.weight holds values that are not finite",
        ),
        ("encoder.vit.norm.bias", float("-inf"), "norm.bias holds values that are not finite"),
        ("encoder.vit.patch_embed.proj.weight", 0.0, "patch_embed.proj.weight is 0 everywhere"),
    ],
)
def test_f92_dead_weights_are_refused(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path, name: str, value: float, said: str
) -> None:
    run, _, _ = trained
    state = dict(_shaken(run).state_dict())
    state[name] = torch.full_like(state[name], value)
    with pytest.raises(CheckpointError, match="not worth exporting") as caught:
        export.write(_trained(run, state), tmp_path / "out" / "dead")
    assert said in str(caught.value)
    assert not (tmp_path / "out").exists(), "nothing is written"


def test_f91_a_checkpoint_that_misses_weights_is_refused(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path
) -> None:
    run, _, _ = trained
    state = dict(_shaken(run).state_dict())
    del state["encoder.vit.blocks.1.norm1.weight"], state["decoder.embed.bias"]
    with pytest.raises(CheckpointError, match="2 missing: "):
        export.write(_trained(run, state), tmp_path / "out")


def test_a_cut_checkpoint_is_refused(trained: tuple[config.Run, Encoder, Path], tmp_path: Path) -> None:
    run = _run(trained[0].data.shards[0], tmp_path / "run")
    _commit(run, _shaken(run).state_dict())
    path = checkpoint.newest(run.out) / checkpoint.WEIGHTS
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match="no checkpoint that can be loaded"):
        export.export(run.out, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_that_differ_are_never_published(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = trained
    monkeypatch.setattr(export, "plain_timm_features", lambda *_: torch.zeros(2, 192))
    with pytest.raises(CheckpointError, match="other features"):
        export.write(_trained(run, _shaken(run).state_dict()), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the other process out where it is not what a test is about."""
    monkeypatch.setattr(export, "_prove", lambda *_: None)


@pytest.mark.usefixtures("quick")
def test_an_earlier_export_is_replaced_and_an_empty_folder_filled(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path
) -> None:
    run, _, _ = trained
    target = tmp_path / "out"
    target.mkdir()
    export.write(_trained(run, _shaken(run).state_dict()), target)
    changed = dict(_shaken(run).state_dict())
    changed["encoder.vit.norm.bias"] = changed["encoder.vit.norm.bias"] + 1
    export.write(_trained(run, changed), target)
    assert torch.equal(load_file(target / "model.safetensors")["norm.bias"], changed["encoder.vit.norm.bias"])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "inside", [("notes.txt",), ("config.json",), ("SHA256SUMS", "model.safetensors", "thesis.tex")]
)
def test_a_folder_with_other_things_is_left_alone(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path, inside: tuple[str, ...]
) -> None:
    run, _, _ = trained
    target = tmp_path / "out"
    target.mkdir()
    for name in inside:
        (target / name).write_text("mine")
    with pytest.raises(StateError, match="other things than an export"):
        export.export(run.out, target)
    assert sorted(path.name for path in target.iterdir()) == sorted(inside)
    assert all((target / name).read_text() == "mine" for name in inside)


@pytest.mark.usefixtures("quick")
def test_a_failed_rename_brings_the_earlier_export_back(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _, _ = trained
    target = tmp_path / "out"
    export.write(_trained(run, _shaken(run).state_dict()), target)
    rename, calls = os.rename, []

    def failing(source: Path, goal: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise OSError("disk gone")
        rename(source, goal)

    monkeypatch.setattr(os, "rename", failing)
    with pytest.raises(OSError, match="disk gone"):
        export.write(_trained(run, _shaken(run).state_dict()), target)
    assert sorted(path.name for path in target.iterdir()) == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.usefixtures("quick")
def test_card_without_the_shards_and_without_metrics(
    trained: tuple[config.Run, Encoder, Path], tmp_path: Path
) -> None:
    run, _, _ = trained
    given = _trained(run, _shaken(run).state_dict())
    known = {**given.facts, "data": {**given.facts["data"], "digests": ["f" * 64]}}
    card = (export.write(dataclasses.replace(given, facts=known), tmp_path / "out") / "README.md").read_text()
    assert f"`{'f' * 64}`" in card
    assert "not at hand" in card


@pytest.mark.usefixtures("quick")
def test_operations_are_those_of_the_formula(trained: tuple[config.Run, Encoder, Path]) -> None:
    """Linear layers and attention of the pieces, multiply-add = 2, backward twice the forward.

    16 of 64 patches are embedded and encoded; the decoder's one block answers for the other 48.
    """
    run, _, _ = trained
    tokens, width = 1 + 16, 192
    block = 2 * tokens * 12 * width**2 + 4 * tokens**2 * width
    attended = 2 * 65 * 3 * 32**2 + 4 * 48 * 65 * 32 + 2 * 48 * 32**2
    decoder = attended + 2 * 48 * 8 * 32**2 + 2 * tokens * width * 32 + 2 * 48 * 32 * 192
    forward = 2 * 16 * 192 * width + 2 * block + decoder
    counted = facts.step_operations(run, _shaken(run))
    assert counted == pytest.approx(3 * 8 * forward, rel=0.1)


@pytest.mark.usefixtures("quick")
def test_the_verb(trained: tuple[config.Run, Encoder, Path], tmp_path: Path) -> None:
    run, _, _ = trained
    done = CliRunner().invoke(cli.app, ["export", str(run.out), "--out", str(tmp_path / "x"), "--json"])
    assert done.exit_code == 0, done.output
    answer = json.loads(done.stdout)
    assert answer["files"] == NAMES
    assert answer["out"] == str(tmp_path / "x")
    helped = CliRunner().invoke(cli.app, ["export", "--help"])
    assert "ssl-retina export runs/a --out out/a" in " ".join(helped.stdout.split())
