"""A run's newest checkpoint -> a folder that plain timm loads.

In: a run folder. Out: `model.safetensors` (the encoder alone, fp32, timm's keys), `config.json`,
`README.md` (the card) and `SHA256SUMS`; the folder appears whole, and only after plain timm has given the
same features from it.
"""

import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ssl_retina import config, files, methods
from ssl_retina.contract import uniform
from ssl_retina.data.views import IMAGENET_MEAN, IMAGENET_STD
from ssl_retina.errors import CheckpointError, StateError
from ssl_retina.models import adversary, encoder, weights
from ssl_retina.models.encoder import Encoder
from ssl_retina.models.pretrained import CARD_NAME, CONFIG_NAME, SUMS_NAME, WEIGHTS_NAME
from ssl_retina.release import card, facts
from ssl_retina.release.check import plain_timm_features
from ssl_retina.train import checkpoint

NAMES = frozenset({WEIGHTS_NAME, CONFIG_NAME, CARD_NAME, SUMS_NAME})
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Trained:
    """What a checkpoint gives: config, the method's weights, its facts, and the values last logged."""

    run: config.Run
    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    progress: Mapping[str, Any]


def export(run_dir: Path, out: Path) -> Path:
    """Export the newest verified checkpoint of `run_dir` to the folder `out`.

    `out` may be missing, empty, or an earlier export, which is replaced. Raises CheckpointError for weights
    that are not finite or hold one single value, StateError for a folder that holds anything else.
    """
    check_target(out)
    return write(_trained(run_dir), out)


def write(trained: Trained, out: Path) -> Path:
    """Write the export: see `export`."""
    check_target(out)
    method = _method(trained)
    product = method.exported()
    assert isinstance(product, Encoder)
    description = _timm_config(trained.run, product)
    text = card.write(_facts(trained, method, description))
    return publish(Content(_tensors(product), description, text, product.features), out)


@dataclass(frozen=True)
class Content:
    """What a folder for timm holds, and `answer`: what the trained model says of images (batch, 3, H, W)."""

    tensors: dict[str, Tensor]
    description: Mapping[str, Any]
    card: str
    answer: Callable[[Tensor], Tensor]


def publish(content: Content, out: Path) -> Path:
    """Write a folder whole, after plain timm in another process said of two images what `answer` says."""
    check_target(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _fill(temporary, content)
        _prove(temporary, content)
        _put_in_place(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out


def check_target(out: Path) -> None:
    """Raise StateError where `out` is neither free nor an earlier export."""
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise StateError(f"{out} exists and is no folder: choose another --out")
    if not out.exists():
        return
    inside = {entry.name for entry in out.iterdir()}
    if inside and not (SUMS_NAME in inside and inside <= NAMES):
        raise StateError(f"{out} holds other things than an export: choose another --out, or empty it")


def _trained(run_dir: Path) -> Trained:
    folder = checkpoint.newest(run_dir)
    known = checkpoint.load_facts(folder)
    return Trained(
        run=checkpoint.load_config(folder),
        tensors=checkpoint.load_weights(folder),
        facts=known,
        progress=facts.progress(run_dir, known["step"]),
    )


def _method(trained: Trained) -> Any:
    """The method with every weight of it in place, for evaluation."""
    run = trained.run
    method = methods.load(run.method_name).Method(
        run.method, partial(encoder.build, run.model, checkpointing=False)
    )
    adversary.attach(method, run.adversary)
    weights.load_into(method, trained.tensors, "the checkpoint")
    return method.eval()


def _tensors(product: Encoder) -> dict[str, Tensor]:
    """The timm model's own tensors, checked: an export of a dead run helps nobody."""
    tensors = {name: tensor.float().contiguous() for name, tensor in product.vit.state_dict().items()}
    check_tensors(tensors, "the newest checkpoint")
    return tensors


def check_tensors(tensors: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointError where weights are not finite or hold one single value."""
    problems = weights.unusable(tensors)
    if problems:
        listed = "\n".join(f"  {one}" for one in problems[: weights.SHOWN])
        raise CheckpointError(f"{what} is not worth exporting:\n{listed}")


def _timm_config(run: config.Run, product: Encoder) -> dict[str, Any]:
    """What `timm.create_model("local-dir:...")` reads."""
    arguments = encoder.model_args(run.model, product.pooling)
    size = run.model.image_size
    return {
        "architecture": run.model.name,
        "num_classes": 0,
        "num_features": product.width,
        "global_pool": arguments["global_pool"],
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, size, size],
            "fixed_input_size": True,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _facts(trained: Trained, method: Any, description: Mapping[str, Any]) -> card.Facts:
    run, product = trained.run, method.exported()
    return card.Facts(
        architecture=description["architecture"],
        parameters=sum(parameter.numel() for parameter in product.vit.parameters()),
        features=product.width,
        pooling=product.pooling,
        preparation=description["pretrained_cfg"],
        method=run.method_name,
        objective=facts.objective(run.method_name),
        steps=run.train.steps,
        batch_size=run.data.batch_size,
        recipe=facts.recipe(run),
        operations=facts.step_operations(run, method) * trained.facts["step"],
        checkpoint=trained.facts,
        progress=trained.progress,
        data=facts.data_sets(run.data, trained.facts["data"]["digests"]),
    )


def _fill(folder: Path, content: Content) -> None:
    """The four files, on disk; the sums last."""
    with files.whole(folder / WEIGHTS_NAME) as path:
        save_file(content.tensors, path, metadata={"format": "pt"})
    files.write_json(folder / CONFIG_NAME, content.description)
    files.write_bytes(folder / CARD_NAME, content.card.encode())
    names = sorted(NAMES - {SUMS_NAME})
    sums = "".join(f"{files.sha256(folder / name)}  {name}\n" for name in names)
    files.write_bytes(folder / SUMS_NAME, sums.encode())


def _prove(folder: Path, content: Content) -> None:
    """Plain timm, in another process, must say what the model says that was trained."""
    size = content.description["pretrained_cfg"]["input_size"][-1]
    pixels = uniform(0, "export", torch.arange(2), 3 * size * size)
    images = pixels.view(2, 3, size, size) * 4 - 2
    with torch.inference_mode():
        expected = content.answer(images)
    difference = float((plain_timm_features(folder, images) - expected).abs().max())
    if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
        raise CheckpointError(
            f"plain timm gives other features or logits than the trained model (by {difference:.3g}): "
            f"nothing was exported; this is a defect of ssl-retina or of the installed timm: report it"
        )


def _put_in_place(temporary: Path, out: Path) -> None:
    """Rename; an earlier export moves aside first and comes back if the rename fails."""
    files.sync_folder(temporary)
    aside = out.with_name(f".{out.name}.old-{os.getpid()}")
    if out.exists():
        os.rename(out, aside)
    try:
        os.rename(temporary, out)
    except OSError:
        if aside.exists():
            os.rename(aside, out)
        raise
    files.sync_folder(out.parent)
    shutil.rmtree(aside, ignore_errors=True)
