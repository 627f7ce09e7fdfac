"""Finished encoders by name: an export of ours (a folder), or a model that timm knows.

In: what a user typed. Out: a module in eval mode that turns (batch, 3, H, W) into one vector a sample, and
how its images have to be prepared.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from ssl_retina import files
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import CheckpointError, ConfigError, InputError
from ssl_retina.models import encoder, weights

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SUMS_NAME = "SHA256SUMS"
CONFIG_LIMIT = 1 << 20
ARGUMENTS = ("img_size", "patch_size", "depth", "global_pool", "fc_norm")
"""What a folder's config.json may hand to timm; anything else could make timm open other files."""
CONFIG_KEYS = frozenset(
    ("architecture", "num_classes", "num_features", "global_pool", "model_args", "pretrained_cfg")
)
PREPARATION_KEYS = frozenset(
    ("input_size", "fixed_input_size", "interpolation", "crop_pct", "mean", "std", "num_classes")
    + ("first_conv", "classifier")
)
"""All that an export's config.json says; timm would follow other keys (`url`, `file`, `custom_load`)."""


def chosen_by(where: str | None, exclude: str) -> str:
    """The line of a model card that says which photographs of its shard sets pretraining chose from."""
    return f"- Chosen by: {where or 'no condition'}; list of exclusions: {exclude}"


@dataclass(frozen=True)
class DataConfig:
    """How images are prepared: resized whole to `image_size`, scaled to [0, 1], then (x - mean) / std."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str
    crop_fraction: float


class Pretrained(NamedTuple):
    """A frozen encoder: `module(images)` is (batch, features)."""

    module: nn.Module
    data: DataConfig


def load_timm(name: str) -> Pretrained:
    """Load an export folder or a pretrained timm model, without its head.

    The features are what timm's own forward pass gives: for our exports the mean of the patch tokens (their
    config.json says so), for timm's models the pooling they were trained with. A folder is checked against
    its SHA256SUMS. timm models are downloaded on first use: naming one is what switches that on.

    Raises InputError for a name that is neither, CheckpointError for weights that cannot be trusted to be
    what they were.
    """
    if Path(name).is_dir():
        return _load_export(Path(name))
    _check_name(name)
    try:
        module = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0]
        raise InputError(
            f"timm cannot give weights for {name} ({reason[:200]}); without network they must lie in "
            f"huggingface_hub's cache (HF_HOME) already"
        ) from None
    return _frozen(module, resolve_model_data_config(module))


def untrained(name: str, *, seed: int) -> Pretrained:
    """The same architecture and preparation with fresh weights: the baseline `random`.

    `name`: an export folder, whose pretraining began with weights like those of `encoder.renew` and not with
    timm's (worse by some hundredths of AUROC on real photographs), or a timm model. torch's generator is
    left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if Path(name).is_dir():
            content = read_export_config(Path(name))
            module = _build(content, Path(name))
            encoder.renew(module, seed=seed)
            return _frozen(module, content["pretrained_cfg"])
        _check_name(name)
        module = timm.create_model(name, pretrained=False, num_classes=0)
        return _frozen(module, resolve_model_data_config(module))


def _check_name(name: str) -> None:
    if Path(name).exists():
        raise InputError(f"{name} is a file; give the folder that ssl-retina export wrote")
    if any(letter in name for letter in "/\\:"):
        raise InputError(f"{name} does not exist; give an export's folder or the name of a timm model")
    if not timm.is_model(name.split(".", 1)[0]):
        hint = did_you_mean(name, timm.list_models())
        raise InputError(f"{name} is neither a folder nor a model that timm knows{hint}")


def _load_export(folder: Path) -> Pretrained:
    verify_sums(folder)
    content = read_export_config(folder)
    if content.get("num_classes"):
        raise InputError(
            f"{folder} holds a classifier that was fine-tuned with labels; give the encoder that it started "
            "from, whose features have seen no label"
        )
    module = _build(content, folder)
    weights.load_into(module, weights.read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
    return _frozen(module, content["pretrained_cfg"])


def check_fits(folder: Path) -> None:
    """Raise CheckpointError unless config.json and the header of the weights fit each other exactly.

    Nothing of the weights themselves is read, and no memory is taken for the model.
    """
    content = read_export_config(folder)
    strange = sorted({*content} - CONFIG_KEYS) + sorted({*content["pretrained_cfg"]} - PREPARATION_KEYS)
    if strange:
        raise CheckpointError(f"{folder / CONFIG_NAME} says more than an export's: {', '.join(strange)}")
    with torch.device("meta"):
        wanted = _build(content, folder).state_dict()
    metadata, given = weights.read_header(folder / WEIGHTS_NAME)
    problems = weights.differences(wanted, given)
    if set(metadata) - {"format"}:
        problems.append(f"metadata of its own: {', '.join(sorted(set(metadata) - {'format'}))}")
    if problems:
        listed = "\n".join(f"  {one}" for one in problems)
        raise CheckpointError(f"{folder / WEIGHTS_NAME} does not fit {CONFIG_NAME}:\n{listed}")


def verify_sums(folder: Path) -> None:
    """Check every file that SHA256SUMS names; weights and config must be among them."""
    path = folder / SUMS_NAME
    if not path.is_file():
        raise CheckpointError(
            f"{folder} holds no {SUMS_NAME}: it is no export of ssl-retina, or not all of it"
        )
    promised = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        promised[name] = digest
    wrong = [name for name in (WEIGHTS_NAME, CONFIG_NAME) if name not in promised]
    for name, digest in promised.items():
        file = folder / name
        if Path(name).name != name or not file.is_file() or files.sha256(file) != digest:
            wrong.append(name)
    if wrong:
        raise CheckpointError(
            f"{folder} is not what was exported; missing or changed by {SUMS_NAME}: {', '.join(wrong)}. "
            f"Copy or export it again"
        )


def read_export_config(folder: Path) -> Mapping[str, Any]:
    """The folder's config.json: `architecture`, `model_args`, `pretrained_cfg` are there."""
    path = folder / CONFIG_NAME
    if not path.is_file() or path.stat().st_size > CONFIG_LIMIT:
        raise CheckpointError(f"{path} is missing or larger than {CONFIG_LIMIT} bytes: export again")
    try:
        content = json.loads(path.read_bytes())
        for key in ("architecture", "model_args", "pretrained_cfg"):
            content[key]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is no config of an export ({type(error).__name__}: {error})") from None
    unknown = [key for key in content["model_args"] if key not in ARGUMENTS]
    if unknown:
        raise CheckpointError(
            f"{path} asks timm for {', '.join(unknown)}; only {', '.join(ARGUMENTS)} are read"
        )
    parsed: Mapping[str, Any] = content
    return parsed


def _build(content: Mapping[str, Any], folder: Path) -> Any:
    try:
        return encoder.create(content["architecture"], **content["model_args"])
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {error.problems[0]}") from None


def _frozen(module: Any, data: Mapping[str, Any]) -> Pretrained:
    module.eval().requires_grad_(False)
    size = tuple(data["input_size"])
    return Pretrained(
        module,
        DataConfig(
            image_size=int(size[-1]),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            interpolation=str(data["interpolation"]),
            crop_fraction=float(data["crop_pct"]),
        ),
    )
