"""Finished encoders by name: an export of ours (a folder), or a model that timm knows.

In: what a user typed. Out: a module in eval mode that turns (batch, 3, H, W) into one vector a sample, and
how its images have to be prepared.
"""

import re
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
from ssl_retina.models import description, encoder, weights
from ssl_retina.models.description import Description

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
SUMS_NAME = "SHA256SUMS"
CARD_NAME = "README.md"
CONFIG_LIMIT = description.LIMIT
SUMS_LIMIT = 64 << 10
PROMISED = tuple(sorted((CARD_NAME, CONFIG_NAME, WEIGHTS_NAME)))
"""The files that an export's SHA256SUMS names."""
SHOWN = 60
_LINE = re.compile(r"([0-9a-f]{64})  (\S+)")


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
            if is_run(Path(name)):
                raise CheckpointError(no_export(Path(name)))
            described = _fitting(Path(name))
            module = _build(described, Path(name))
            encoder.renew(module, seed=seed)
            return _frozen(module, dict(described.pretrained_cfg))
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
    if description.read(folder / CONFIG_NAME).num_classes:
        raise InputError(
            f"{folder} holds a classifier that was fine-tuned with labels; give the encoder that it started "
            "from, whose features have seen no label"
        )
    described = _fitting(folder)
    module = _build(described, folder)
    weights.load_into(module, weights.read_tensors(folder / WEIGHTS_NAME), str(folder / WEIGHTS_NAME))
    return _frozen(module, dict(described.pretrained_cfg))


def check_fits(folder: Path) -> None:
    """Raise CheckpointError unless config.json and the header of the weights fit each other exactly.

    Nothing of the weights themselves is read, and no memory is taken for the model.
    """
    described = description.read(folder / CONFIG_NAME)
    if described.num_classes or described.label_names is not None:
        raise CheckpointError(
            f"{folder} holds a classifier that was fine-tuned with labels: push and pull carry encoders only"
        )
    _fitting(folder)
    metadata, _ = weights.read_header(folder / WEIGHTS_NAME)
    own = sorted({*metadata} - {"format"})
    if own:
        raise CheckpointError(f"{folder / WEIGHTS_NAME} holds metadata of its own: {', '.join(own)}")


def _fitting(folder: Path) -> Description:
    """What config.json says, if it describes the very tensors that the weights' header names.

    So no model is built that is larger than the file of its weights.
    """
    described = description.read(folder / CONFIG_NAME)
    _, given = weights.read_header(folder / WEIGHTS_NAME)
    with torch.device("meta"):
        wanted = _build(described, folder).state_dict()
    problems = weights.differences(wanted, given)
    if problems:
        listed = "\n".join(f"  {one}" for one in problems)
        raise CheckpointError(f"{folder / WEIGHTS_NAME} does not fit {CONFIG_NAME}:\n{listed}")
    return described


def verify_sums(folder: Path) -> None:
    """Check every file that SHA256SUMS names: exactly those of an export."""
    wrong = [
        name
        for name, digest in read_folder_sums(folder).items()
        if not (folder / name).is_file() or files.sha256(folder / name) != digest
    ]
    if wrong:
        raise CheckpointError(
            f"{folder} is not what was exported; missing or changed by {SUMS_NAME}: {', '.join(wrong)}. "
            f"Copy or export it again"
        )


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, which is easily given in place of its export."""
    return (folder / "checkpoints").is_dir() and not (folder / SUMS_NAME).exists()


def no_export(folder: Path) -> str:
    """The sentence for a folder that is no export, with the next step."""
    if is_run(folder):
        out = f"out/{folder.resolve().name}"
        return f"{folder} is a run, not an export: ssl-retina export {folder} --out {out}, then give {out}"
    return f"{folder} holds no {SUMS_NAME}: it is no export of ssl-retina, or not all of it"


def read_folder_sums(folder: Path) -> Mapping[str, str]:
    """What a folder's own SHA256SUMS promises; raises CheckpointError where there is none."""
    path = folder / SUMS_NAME
    if not path.is_file() or path.stat().st_size > SUMS_LIMIT:
        raise CheckpointError(no_export(folder))
    return read_sums(path.read_bytes(), str(folder))


def read_sums(content: bytes, where: str) -> Mapping[str, str]:
    """Name -> hex SHA-256 of the text of a SHA256SUMS: exactly the three files of an export, each once.

    Raises CheckpointError for everything else: another name (a path leads out of the folder), a name twice, a
    line that is none.
    """
    promised: dict[str, str] = {}
    for number, line in enumerate(content.decode("utf-8", errors="replace").splitlines(), start=1):
        found = _LINE.fullmatch(line)
        if found is None:
            raise _refused(where, f"line {number} is not a SHA-256, two spaces and a name")
        digest, name = found.groups()
        if name not in PROMISED:
            raise _refused(where, f"line {number} names {name[:SHOWN]!r}, which is no file of an export")
        if name in promised:
            raise _refused(where, f"line {number} names {name} a second time")
        promised[name] = digest
    missing = [name for name in PROMISED if name not in promised]
    if missing:
        raise _refused(where, f"it does not name {', '.join(missing)}")
    return promised


def _refused(where: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{SUMS_NAME} of {where} is refused: {why}. An export of ssl-retina names "
        f"{', '.join(PROMISED)} there, and nothing else is read"
    )


def _build(described: Description, folder: Path) -> Any:
    """The model; timm's own refusals of arguments that do not go together become ours."""
    try:
        return encoder.create(described.architecture, **described.model_args.model_dump(exclude_unset=True))
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_NAME}: {error.problems[0]}") from None
    except (AssertionError, ArithmeticError, ValueError, RuntimeError) as error:
        reason = str(error).split("\n", 1)[0][:200] or type(error).__name__
        raise CheckpointError(f"{folder / CONFIG_NAME}: timm cannot build that ({reason})") from None


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
