"""Where weights to start from come from: `model.init` -> tensors, their SHA-256, and what is known of them.

In: an export's folder, a file, a timm name, `local-dir:FOLDER` or `hf-hub:OWNER/NAME`. Out: an `Origin`.
Nothing is unpickled (`weights.read_content`), and only what is named is downloaded.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from timm.models import _hub
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from ssl_retina import files
from ssl_retina.architecture import FILES, HUB, LIMIT, LOCAL
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import layouts, lineage, pretrained, weights
from ssl_retina.models.fitting import Scaling
from ssl_retina.models.layouts import Found
from ssl_retina.models.lineage import Lineage

CACHED = "without network all of it must lie in huggingface_hub's cache (HF_HOME) already"
LEAST_STD = 1e-3
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth")
"""Names of weights that timm and transformers write; the first that is there is read."""


@dataclass(frozen=True)
class Origin:
    """Weights with their history.

    source: what they are, without a path. character: what tensors do not say of the function that they
    belong to (heads, norms, activations), as far as the source tells it. lineage: known of exports alone.
    scaling: how images were normalised, where the source tells it.
    """

    source: str
    sha256: str
    hashed: str
    found: Found
    licence: str | None
    character: Mapping[str, Any]
    lineage: Lineage = Lineage()
    scaling: Scaling | None = None


def read(start: str) -> Origin:
    """Read what `model.init` names. Raises InputError for a name, CheckpointError for weights."""
    if start.startswith(HUB):
        return _from_hub(start)
    if start.startswith(LOCAL):
        return _from_local(Path(start.removeprefix(LOCAL)), start.removeprefix(LOCAL))
    path = Path(start)
    if path.is_dir():
        return _from_export(path)
    if path.is_file():
        return _from_file(path)
    if path.suffix in FILES:
        raise InputError(f"model.init: the file {start} does not exist")
    return _from_timm(start)


def character(vit: Any) -> dict[str, Any]:
    """What two ViTs must share beside their shapes, to be the same function with the same tensors."""
    block = vit.blocks[0]
    return {
        "heads": block.attn.num_heads,
        "norm": f"{type(block.norm1).__name__}, epsilon {getattr(block.norm1, 'eps', None)}",
        "activation": type(block.mlp.act).__name__,
    }


def _from_export(folder: Path) -> Origin:
    loaded, data = pretrained.load_timm(str(folder))
    module: Any = loaded
    card = (folder / pretrained.CARD_NAME).read_text(encoding="utf-8", errors="replace")
    name = module.pretrained_cfg.get("architecture", type(module).__name__)
    return Origin(
        source=f"an export of ssl-retina ({name})",
        sha256=files.sha256(folder / pretrained.WEIGHTS_NAME),
        hashed="file",
        found=_of_module(module),
        licence=lineage.licence_of_card(card),
        character=character(module),
        lineage=lineage.of_card(card),
        scaling=(data.mean, data.std),
    )


def _from_timm(name: str) -> Origin:
    if not timm.is_model(name.split(".", 1)[0]):
        hint = did_you_mean(name, timm.list_models("vit_*"))
        raise InputError(f"model.init: {name} is no folder, no file and no model that timm knows{hint}")
    if "." not in name or not timm.is_model_pretrained(name):
        raise InputError(f"model.init: timm has no weights of the name {name}; it has {_known(name)}")
    _require_plain(name, name)
    with torch.random.fork_rng(devices=[]):
        loaded, data = pretrained.load_timm(name)
    module: Any = loaded
    return Origin(
        source=f"timm's {name}",
        sha256=weights.digest(module),
        hashed="tensors",
        found=_of_module(module),
        licence=module.pretrained_cfg.get("license"),
        character=character(module),
        scaling=(data.mean, data.std),
    )


def _known(name: str) -> str:
    known = timm.list_pretrained(f"{name.split('.', 1)[0]}.*")
    return ", ".join(known[:3]) or "none of this architecture"


def _require_plain(name: str, source: str) -> Any:
    """A ViT of this name without memory; what is none is refused before anything is downloaded."""
    with torch.device("meta"):
        vit = timm.create_model(name.split(".", 1)[0], pretrained=False, num_classes=0)
    if type(vit) is VisionTransformer:
        return vit
    rotary = ", whose places enter by rotary embedding" if getattr(vit, "rope", None) is not None else ""
    raise CheckpointError(
        f"{source}: timm builds it as {type(vit).__name__}{rotary}: another function than the plain "
        "VisionTransformer that is trained here, so nothing of it is loaded; start from a plain one, such as "
        "vit_base_patch14_reg4_dinov2.lvd142m"
    )


def _of_module(module: Any) -> Found:
    tensors = dict(module.state_dict())
    others = [name for name in tensors if not layouts.is_encoders(name)]
    own = {name: tensors[name] for name in tensors if name not in others}
    return Found("timm", own, tuple(others), parameters(tensors), ())


def _from_file(path: Path) -> Origin:
    if (path.parent / "MANIFEST.json").is_file() and path.name == "weights.safetensors":
        raise InputError(f"{path} is a run's checkpoint: export the run, then give the export's folder")
    if (path.parent / pretrained.SUMS_NAME).is_file() and path.name == pretrained.WEIGHTS_NAME:
        return _from_export(path.parent)
    return _of_file(path, f"the file {lineage.bounded(path.name)}", {})


def _of_file(path: Path, source: str, described: Mapping[str, Any]) -> Origin:
    stated = described.get("pretrained_cfg")
    licence = stated.get("license") if isinstance(stated, dict) else None
    return Origin(
        source=source,
        sha256=files.sha256(path),
        hashed="file",
        found=layouts.recognise(weights.read_content(path), source),
        licence=licence if isinstance(licence, str) else None,
        character=_described(described, source),
        scaling=_scaling(described, source),
    )


def _from_local(folder: Path, shown: str) -> Origin:
    if not folder.is_dir():
        raise InputError(f"model.init: {LOCAL}{shown}: there is no such folder")
    if (folder / pretrained.SUMS_NAME).is_file():
        return _from_export(folder)
    found = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"model.init: {LOCAL}{shown} holds none of {', '.join(WEIGHTS)}")
    return _of_file(found, f"{found.name} of a local folder", _config(folder / pretrained.CONFIG_NAME))


def _from_hub(start: str) -> Origin:
    name = start.removeprefix(HUB)
    for file in WEIGHTS:
        path = _fetched(name, file, start)
        if path is not None:
            described = _fetched(name, pretrained.CONFIG_NAME, start)
            return _of_file(path, f"{file} of {start}", {} if described is None else _config(described))
    raise InputError(f"model.init: {start} gives none of {', '.join(WEIGHTS)}; {CACHED}")


def _fetched(name: str, file: str, start: str) -> Path | None:
    """A file of a repository; None where there is none of that name, and only there.

    In huggingface_hub's offline mode a file that its cache does not hold counts as one that is not there.
    """
    try:
        return Path(_hub.download_from_hf(name, file))
    except (OSError, RuntimeError, ValueError, EntryNotFoundError, httpx2.HTTPError) as error:
        lost = isinstance(error, LocalEntryNotFoundError) and not constants.HF_HUB_OFFLINE
        if isinstance(error, EntryNotFoundError) and not lost:
            return None
        reason = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
        raise InputError(f"model.init: {file} of {start} cannot be had ({reason}); {CACHED}") from None


def _config(path: Path) -> Mapping[str, Any]:
    """A stranger's config.json: of it only names and numbers are compared, nothing is handed to timm."""
    if not path.is_file():
        return {}
    if path.stat().st_size > LIMIT:
        raise CheckpointError(f"{path.name} is larger than {LIMIT} bytes")
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise CheckpointError(f"{path.name} beside the weights is no JSON") from None
    return content if isinstance(content, dict) else {}


def _described(content: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The character of a model that timm's or transformers' config.json describes."""
    heads, name = content.get("num_attention_heads"), content.get("architecture")
    if isinstance(heads, int):
        return {"heads": heads}
    if not isinstance(name, str) or not timm.is_model(name):
        return {}
    arguments = content.get("model_args")
    told = character(_require_plain(name, source))
    given = arguments.get("num_heads") if isinstance(arguments, dict) else None
    return {**told, "heads": given if isinstance(given, int) else told["heads"]}


def _scaling(content: Mapping[str, Any], source: str) -> Scaling | None:
    """Mean and std of timm's config.json; CheckpointError where they are none."""
    inner = content.get("pretrained_cfg")
    stated = inner if isinstance(inner, dict) else content
    mean, std = (_colours(stated.get(name)) for name in ("mean", "std"))
    if stated.get("mean") is None and stated.get("std") is None:
        return None
    if mean is None or std is None or min(std) < LEAST_STD:
        raise CheckpointError(f"{source}: mean and std of its config.json are not three numbers each")
    return mean, std


def _colours(value: Any) -> tuple[float, ...] | None:
    if not isinstance(value, list) or len(value) != 3:
        return None
    right = all(isinstance(one, int | float) and abs(one) <= 1 for one in value)
    return tuple(float(one) for one in value) if right else None


def parameters(tensors: Mapping[str, Tensor]) -> int:
    """How many numbers tensors hold."""
    return sum(tensor.numel() for tensor in tensors.values())
