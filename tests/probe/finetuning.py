"""What the tests of `finetune` and `embed` share: a site, a tiny export, the verbs run in this process."""

import json
import sys
from pathlib import Path
from typing import Any

import factory
import pytest
import torch
from safetensors.torch import save_file

from ssl_retina import cli, config, files
from ssl_retina.models import encoder
from ssl_retina.shards import read_index

SAMPLES, PATIENTS = 96, 48
SIZE = 32


def make_site(folder: Path) -> Path:
    """Shards, labels, key and a tiny export."""
    factory.make_shards(folder / "shards", samples=SAMPLES, size=48, patients=PATIENTS)
    factory.make_labels(folder / "labels.csv", samples=SAMPLES, patients=PATIENTS)
    factory.write_key(folder / "key")
    make_export(folder / "model", folder / "shards")
    return folder


def make_export(folder: Path, shards: Path) -> Path:
    """An untrained ViT of two blocks in an export's four files."""
    folder.mkdir()
    model = config.Model(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=8, depth=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        save_file(encoder.build(model, checkpointing=False).vit.state_dict(), folder / "model.safetensors")
    shape = {"input_size": [3, SIZE, SIZE], "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    content = {
        "architecture": model.name,
        "num_classes": 0,
        "model_args": encoder.model_args(model),
        "pretrained_cfg": {**shape, "interpolation": "bicubic", "crop_pct": 1.0, "num_classes": 0},
    }
    (folder / "config.json").write_text(json.dumps(content))
    (folder / "README.md").write_text(f"index `{read_index(shards).digest}`")
    names = ("config.json", "model.safetensors", "README.md")
    sums = "".join(f"{files.sha256(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(sums)
    return folder


def command(
    site: Path, out: Path, *options: object, weights: str = "", labels: Path | None = None
) -> list[str]:
    """`finetune` on a site; later options win."""
    words: list[object] = ["finetune", *(weights.split() or [site / "model"])]
    words += [
        "--data",
        site / "shards",
        "--labels",
        labels or site / "labels.csv",
        "--key-file",
        site / "key",
    ]
    words += ["--task", "sick=disease", "--out", out, "--halves", 0, "--resamples", 1000]
    words += ["--epochs", 3, "--batch-size", 8, "--learning-rate", 0.02, "--layer-decay", 0.9]
    return list(map(str, [*words, *options]))


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a verb in this process and give its exit code."""
    monkeypatch.setattr(sys, "argv", ["ssl-retina", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def result(out: Path) -> Any:
    """What `finetune.json` holds."""
    return json.loads((out / "finetune.json").read_text())
