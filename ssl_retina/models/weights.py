"""Weights of files -> tensors -> a module, without running anybody's code and without filling gaps.

In: `.safetensors`, or PyTorch's own format read with `weights_only`. Out: every tensor, or a refusal that
lists what is wrong. Nothing is loaded in part (law 12), nothing is unpickled (law 11).
"""

import argparse
import hashlib
import pickle
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ssl_retina.errors import CheckpointError, InputError

PICKLES = (".pth", ".pt", ".bin", ".ckpt")
WRAPPERS = ("model", "state_dict")
"""Under which key other programs put the weights when a file holds more than them."""
DAMAGE = (
    ArithmeticError,
    AssertionError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
)
"""What torch lets through of a file whose bytes were changed."""
SHOWN = 12
STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}
"""Kinds of number in a safetensors header that have a meaning here."""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one file, on the CPU, as they are stored.

    Raises InputError for a file that is missing or of another kind, CheckpointError for one that is cut,
    damaged, holds code, or holds something else than tensors.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist or is no file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    kinds = ", ".join((".safetensors", *PICKLES))
    raise InputError(f"{path} is no weights file that is read here ({kinds})")


def read_content(path: Path) -> Any:
    """What a file of anybody's training holds: tensors by name, or mappings in which such lie.

    As `read_tensors`, but MAE's and RETFound's files are read too, which carry an `argparse.Namespace`: a
    class of the standard library whose making sets attributes and runs nothing else. It is thrown away.
    """
    if path.is_file() and path.suffix in PICKLES:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return _load_pickle(path)
    return read_tensors(path)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is cut or damaged ({error}): copy or export it again") from None
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors")
    return tensors


def read_header(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """What a `.safetensors` file says about itself: its metadata, and its tensors on the device `meta`.

    No value is read. Raises CheckpointError for a file that is cut, damaged, or holds other numbers.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            slices = {name: stored.get_slice(name) for name in stored.keys()}  # noqa: SIM118 - no mapping
            kinds = {name: (one.get_shape(), one.get_dtype()) for name, one in slices.items()}
            metadata = dict(stored.metadata() or {})
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is cut or damaged ({error}): copy or export it again") from None
    strange = [name for name, (_, kind) in kinds.items() if kind not in STORED]
    if strange:
        raise CheckpointError(f"{path} holds other numbers than weights: {_listed(strange)}")
    return metadata, {
        name: torch.empty(shape, dtype=STORED[kind], device="meta") for name, (shape, kind) in kinds.items()
    }


def _read_pickle(path: Path) -> dict[str, Tensor]:
    return _unwrapped(_load_pickle(path), path)


def _load_pickle(path: Path) -> Any:
    """PyTorch's format, which is a pickle: only tensors and plain containers are built."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, ModuleNotFoundError, AttributeError):
        raise CheckpointError(
            f"{path} is refused: it asks to run code while it is read{_asked_for(path)}, and whoever made "
            f"the file chooses that code (torch.load with weights_only=True stopped it). "
            f"If you trust its maker, open it on a machine without patient data and save its weights as "
            f".safetensors there; no switch here reads it anyway"
        ) from None
    except DAMAGE as error:
        reason = str(error).split("\n", 1)[0] or type(error).__name__
        raise CheckpointError(f"{path} is cut or damaged ({reason}): copy it again") from None


def _asked_for(path: Path) -> str:
    """Which names a pickle wants to call, by looking at it only; nothing where that cannot be told."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
    except (pickle.UnpicklingError, AttributeError, *DAMAGE):
        return ""
    return f" ({_listed([repr(name) for name in names])})" if names else ""


def _unwrapped(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        for wrapper in WRAPPERS:
            if isinstance(content.get(wrapper), Mapping):
                content = content[wrapper]
                break
    if not isinstance(content, Mapping) or not content:
        raise CheckpointError(f"{path} holds no mapping of names to tensors")
    others = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if others:
        raise CheckpointError(f"{path} holds other things than tensors: {_listed(others)}")
    return {str(name): value for name, value in content.items()}


def load_into(module: nn.Module, tensors: Mapping[str, Tensor], source: str) -> None:
    """Load exactly: every key, shape and kind of number fits, or CheckpointError lists all that do not."""
    wanted = module.state_dict()
    problems = differences(wanted, tensors)
    if problems:
        raise CheckpointError(
            f"{source} does not fit the model:\n" + "\n".join(f"  {one}" for one in problems)
        )
    module.load_state_dict(dict(tensors), strict=True)


def differences(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps `given` from being loaded as `wanted`: missing and extra keys, shapes, dtypes."""
    problems = []
    missing = [name for name in wanted if name not in given]
    extra = [name for name in given if name not in wanted]
    if missing:
        problems.append(f"{len(missing)} missing: {_listed(missing)}")
    if extra:
        problems.append(f"{len(extra)} extra: {_listed(extra)}")
    for name in wanted.keys() & given.keys():
        if wanted[name].shape != given[name].shape:
            shapes = f"{tuple(given[name].shape)}, the model needs {tuple(wanted[name].shape)}"
            problems.append(f"{name} has shape {shapes}")
        if wanted[name].dtype != given[name].dtype:
            problems.append(f"{name} is {given[name].dtype}, the model needs {wanted[name].dtype}")
    return sorted(problems)


def unusable(tensors: Mapping[str, Tensor]) -> list[str]:
    """Tensors that no training leaves behind: NaN or infinite values, or a matrix of one single value."""
    problems = []
    for name, tensor in tensors.items():
        values = tensor.detach().float()
        if not bool(torch.isfinite(values).all()):
            problems.append(f"{name} holds values that are not finite")
        elif values.ndim > 1 and values.numel() > 1 and bool((values == values.flatten()[0]).all()):
            problems.append(f"{name} is {float(values.flatten()[0]):g} everywhere")
    return problems


def digest(module: nn.Module) -> str:
    """The SHA-256 of a module's names, shapes and values: the same weights, wherever they came from."""
    return digest_of(module.state_dict())


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """The SHA-256 of tensors by name, in whatever order they come."""
    summed = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        values = tensor.detach().cpu().contiguous()
        summed.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
        summed.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return summed.hexdigest()


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
