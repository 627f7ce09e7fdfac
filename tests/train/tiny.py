"""A run that takes a second: a ViT of two blocks, with drop path and an odd number of samples."""

import os
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import factory

from ssl_retina import config, launch, methods
from ssl_retina.config import Run

SAMPLES = 61
STEPS = 12

METHODS: dict[str, dict[str, Any]] = {
    "mae": {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4},
    "simclr": {"name": "simclr", "projector_hidden": 32, "projector_out": 16},
    "mocov3": {"name": "mocov3", "hidden": 32, "out": 16, "momentum": 0.9},
    "dino": {"name": "dino", "hidden": 32, "bottleneck": 16, "prototypes": 40, "local_views": 2},
    "ibot": {"name": "ibot", "hidden": 32, "bottleneck": 16, "prototypes": 40, "local_views": 2},
    "dinov2": {"name": "dinov2", "hidden": 32, "bottleneck": 16, "prototypes": 40, "local_views": 2},
    "vicreg": {"name": "vicreg", "hidden": 32, "out": 16},
    "mae_contrast": {
        "name": "mae_contrast",
        "contrast": 0.5,
        "decoder_width": 32,
        "decoder_depth": 1,
        "decoder_heads": 4,
        "projector_hidden": 32,
        "projector_out": 16,
    },
    "ijepa": {
        "name": "ijepa",
        "predictor_width": 32,
        "predictor_depth": 1,
        "predictor_heads": 4,
        "momentum": 0.9,
    },
}


def python_path() -> str:
    """For ranks that import these test files, and the package from where this process has it."""
    here = Path(__file__).parent
    return os.pathsep.join([str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def on_ranks(script: str, *words: object, count: int = 2) -> None:
    """Run one of the programs beside this file on so many gloo ranks."""
    program = [sys.executable, "-W", "ignore", str(Path(__file__).parent / script), *map(str, words)]
    with mock.patch.dict(os.environ, {"PYTHONPATH": python_path(), "DS_ACCELERATOR": "cpu"}):
        launch.run_ranks(program, count)


def make_shards(folder: Path) -> Path:
    """61 samples of 23 patients in 2 shards."""
    folder.mkdir(exist_ok=True)
    factory.make_shards(folder, samples=SAMPLES, size=48, patients=23, shards=2)
    return folder


def values(shards: Path, out: Path) -> dict[str, Any]:
    """The config as plain values; every test changes what it is about.

    AdamW's epsilon is large, since the keys' bias has no gradient (softmax does not see it): with 1e-8 its
    rounding noise becomes whole steps, and no two worlds would agree on that one vector.
    """
    return {
        "out": str(out),
        "seed": 3,
        "data": {"shards": [str(shards)], "batch_size": 8, "workers": 0, "held_out": 0.3},
        "model": {
            "name": "vit_tiny_patch16_224",
            "image_size": 32,
            "patch_size": 8,
            "depth": 2,
            "drop_path": 0.3,
        },
        "method": dict(METHODS["mae"]),
        "optim": {"learning_rate": 0.05, "layer_decay": 0.75, "epsilon": 1e-5},
        "schedule": {"warmup_steps": 3},
        "train": {"steps": STEPS, "precision": "fp32", "skipped_limit": 3},
        "checkpoint": {"every_steps": 4, "keep": 3},
        "tracking": {"every_steps": 1, "evaluate_every_steps": 6, "wandb": "off"},
    }


def run(shards: Path, out: Path, **changes: Any) -> Run:
    """A Run with changes written `train__steps=20`."""
    content = values(shards, out)
    for name, value in changes.items():
        *sections, key = name.split("__")
        target = content
        for section in sections:
            target = target[section]
        target[key] = value
    return config.parse(content, methods.config_type)


def overrides(shards: Path, out: Path) -> list[str]:
    """The same config for the command line, over `configs/pretrain/debug_mae.yaml`."""
    flat = []
    for section, content in values(shards, out).items():
        entries = content if isinstance(content, dict) else None
        if entries is None:
            flat.append(f"{section}={content}")
            continue
        for key, value in entries.items():
            text = f"[{', '.join(value)}]" if isinstance(value, list) else f"{value}"
            flat.append(f"{section}.{key}={text!r}" if key == "wandb" else f"{section}.{key}={text}")
    return flat
