"""What a config leaves open about its encoder, filled in from the weights that it starts from.

In: a config's values as written. Out: the same with `model.name`, sizes, `depth` and `registers` of the run's
own record, of the export's config.json, or of a timm name; what is written stays as it is.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ssl_retina.config_text import Source

LIMIT = 1 << 20
LOCAL, HUB = "local-dir:", "hf-hub:"
FILES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Ends of names of weight files; no name of timm's has one."""
RECORD = "config.json"
"""The name of a run's own record, and of an export's description."""
FILLED = ("name", "image_size", "patch_size", "depth", "registers")


def filled(source: Source) -> Source:
    """`source` with the encoder of `model.init`, where the config names none or the same one.

    A run that began already is asked first: it goes on without the files that it started from.
    """
    model = source.values.get("model")
    start = model.get("init") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(start, str):
        return source
    found: Mapping[str, Any] = (
        _of_run(source.values.get("out"), start) or _of_export(start) or _of_name(start)
    )
    if model.get("name", found.get("name")) != found.get("name"):
        return source
    new = {key: found[key] for key in FILLED if key not in model and found.get(key) is not None}
    places = dict(source.places) | {("model", key): f"the encoder of model.init={start}" for key in new}
    return replace(source, values={**source.values, "model": {**model, **new}}, places=places)


def _of_run(out: Any, start: str) -> Mapping[str, Any]:
    model = _read(Path(out) / RECORD).get("model") if isinstance(out, str) else None
    return model if isinstance(model, dict) and model.get("init") == start else {}


def _of_export(start: str) -> Mapping[str, Any]:
    """Unchecked: what is filled in is checked as if it had been written, and weights against it."""
    content = _read(Path(start.removeprefix(LOCAL)) / RECORD)
    if "architecture" not in content:
        return {}
    given = content.get("model_args")
    arguments = given if isinstance(given, dict) else {}
    return {
        "name": content.get("architecture"),
        "image_size": arguments.get("img_size"),
        "patch_size": arguments.get("patch_size"),
        "depth": arguments.get("depth"),
        "registers": arguments.get("reg_tokens"),
    }


def _of_name(start: str) -> Mapping[str, Any]:
    """`vit_small_patch14_dinov2.lvd142m` names the architecture before its point."""
    return {"name": start.partition(".")[0]} if local(start) is None and not start.startswith(HUB) else {}


def local(start: str) -> Path | None:
    """The file or folder of this machine that `model.init` names; None for a name of timm's or of a hub."""
    if start.startswith(LOCAL):
        return Path(start.removeprefix(LOCAL))
    path = Path(start)
    named = "." in start and "/" not in start and path.suffix not in FILES and not path.exists()
    return None if named or start.startswith(HUB) else path


def _read(path: Path) -> Mapping[str, Any]:
    """A small JSON object, or nothing: what is wrong with the file is told where its weights are read."""
    try:
        if path.stat().st_size > LIMIT:
            return {}
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
