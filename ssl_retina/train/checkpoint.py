"""Checkpoints appear whole or not at all, and only what verifies is ever taken.

In: full fp32 tensors, facts and the config of a step. Out: `checkpoints/step-00000010/`, published by one
rename after a manifest with every file's size and SHA-256; and back. No pickle, no DeepSpeed: exports and
probes read checkpoints with this file.
"""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_retina import config, files, methods
from ssl_retina.errors import CheckpointError, InputError

FORMAT = 1
FOLDER = "checkpoints"
LATEST = "latest"
MANIFEST = "MANIFEST.json"
WEIGHTS = "weights.safetensors"
MOMENTS = "moments.safetensors"
FACTS = "state.json"
CONFIG = "config.json"
REQUIRED = (WEIGHTS, MOMENTS, FACTS, CONFIG)
_STEP = re.compile(r"step-(\d{8,})")
_LIMIT = 64 * 1024 * 1024


@dataclass(frozen=True)
class Content:
    """What a checkpoint holds: the method's state dict, AdamW's moments, facts of the run, its config."""

    weights: Mapping[str, Tensor]
    moments: Mapping[str, Tensor]
    facts: Mapping[str, Any]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Bad:
    """A checkpoint that does not verify: a short code for its new name, and a sentence."""

    folder: Path
    code: str
    sentence: str


@dataclass(frozen=True)
class Survey:
    """What a run folder holds: the newest checkpoint that verifies, and the bad ones that are newer."""

    newest: Path | None
    bad: tuple[Bad, ...]


def name(step: int) -> str:
    """`step-00000010`."""
    return f"step-{step:08d}"


def step_of(folder: Path) -> int:
    """The step in a checkpoint's name."""
    match = _STEP.fullmatch(folder.name)
    assert match, folder
    return int(match.group(1))


def folders(run_dir: Path) -> list[Path]:
    """The published checkpoints, newest step first; by number, never by time."""
    found = [path for path in (run_dir / FOLDER).glob("step-*") if _STEP.fullmatch(path.name)]
    return sorted(found, key=step_of, reverse=True)


def commit(run_dir: Path, step: int, content: Content) -> Path:
    """Write a checkpoint under a temporary name, hash it, and publish it by one rename.

    Raises OSError where the disk refuses; then nothing is left of the attempt, and no earlier checkpoint
    was touched. A crash at any moment leaves the earlier checkpoints as the newest that verify.
    """
    parent = run_dir / FOLDER
    parent.mkdir(parents=True, exist_ok=True)
    temporary = parent / f".tmp-{name(step)}-{os.getpid()}"
    final = parent / name(step)
    try:
        _write(temporary, step, content)
        os.rename(temporary, final)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    files.sync_folder(parent)
    with contextlib.suppress(OSError):  # only a hint
        files.write_bytes(parent / LATEST, f"{final.name}\n".encode())
    return final


def _write(folder: Path, step: int, content: Content) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for file, tensors in ((WEIGHTS, content.weights), (MOMENTS, content.moments)):
        try:
            save_file(dict(tensors), folder / file)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(f"{file}: {error}") from None
        _sync(folder / file)
    files.write_json(folder / FACTS, {"format": FORMAT, "step": step, **content.facts})
    files.write_json(folder / CONFIG, content.config)
    listed = {
        file: {"bytes": (folder / file).stat().st_size, "sha256": files.sha256(folder / file)}
        for file in REQUIRED
    }
    files.write_json(folder / MANIFEST, {"format": FORMAT, "step": step, "files": listed})


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify(folder: Path) -> Bad | None:
    """Hold every file of a checkpoint against its manifest; None where all is well."""
    try:
        manifest = _json(folder / MANIFEST)
    except FileNotFoundError:
        return Bad(folder, "no-manifest", f"has no {MANIFEST}")
    except (ValueError, OSError) as error:
        return Bad(folder, "manifest", f"{MANIFEST} cannot be read ({error})")
    if manifest.get("format") != FORMAT:
        found = manifest.get("format")
        return Bad(folder, "format", f"has format {found!r}; this version reads format {FORMAT}")
    listed = manifest.get("files")
    if manifest.get("step") != step_of(folder) or not isinstance(listed, dict):
        return Bad(folder, "manifest", f"{MANIFEST} is not that of this step")
    for file in REQUIRED:
        problem = _verify_file(folder, file, listed.get(file))
        if problem is not None:
            return problem
    return None


def _verify_file(folder: Path, file: str, promised: Any) -> Bad | None:
    stem = file.split(".", 1)[0]
    if not isinstance(promised, dict):
        return Bad(folder, "manifest", f"{MANIFEST} does not list {file}")
    try:
        size = (folder / file).stat().st_size
        if size != promised.get("bytes"):
            written = promised.get("bytes")
            return Bad(folder, f"size-{stem}", f"{file} has {size} bytes, {written} were written")
        digest = files.sha256(folder / file)
    except FileNotFoundError:
        return Bad(folder, f"missing-{stem}", f"{file} is missing")
    except OSError as error:
        return Bad(folder, f"unreadable-{stem}", f"{file} cannot be read ({error.strerror})")
    if digest != promised.get("sha256"):
        return Bad(folder, f"hash-{stem}", f"{file} does not have the SHA-256 with which it was written")
    return None


def survey(run_dir: Path) -> Survey:
    """Go down from the highest step to the first checkpoint that verifies. Changes nothing.

    `latest` is not asked: it is a hint for people, and may be missing, empty or stale.
    """
    bad: list[Bad] = []
    for folder in folders(run_dir):
        problem = verify(folder)
        if problem is None:
            return Survey(folder, tuple(bad))
        bad.append(problem)
    return Survey(None, tuple(bad))


def newest(run_dir: Path) -> Path:
    """The newest checkpoint of a run that verifies. Raises CheckpointError that lists each one's fault."""
    if not run_dir.is_dir():
        raise InputError(f"{run_dir} does not exist or is no folder: give the folder of a run (its out=)")
    if _STEP.fullmatch(run_dir.name):
        raise InputError(f"{run_dir} is one checkpoint: give its run, {run_dir.parent.parent}")
    found = survey(run_dir)
    if found.newest is None:
        raise CheckpointError(f"{run_dir} holds no checkpoint that can be loaded{listing(found.bad)}")
    return found.newest


def listing(bad: tuple[Bad, ...]) -> str:
    """The bad ones as lines below a sentence, or nothing."""
    return "".join(f"\n  {one.folder.name}: {one.sentence}" for one in bad)


def set_aside(bad: Bad) -> Path:
    """Rename a bad checkpoint to `step-N.bad-REASON`: out of the way, never deleted."""
    target = bad.folder.with_name(f"{bad.folder.name}.bad-{bad.code}")
    number = 1
    while target.exists():
        number += 1
        target = bad.folder.with_name(f"{bad.folder.name}.bad-{bad.code}-{number}")
    os.rename(bad.folder, target)
    return target


def retain(run_dir: Path, *, keep: int, spared: Collection[int | None]) -> None:
    """Remove all but the newest `keep` and the `spared` steps: what this process resumed from, for one.

    Called after a commit only. A folder first leaves its name, so that a crash here leaves no torn
    checkpoint. A disk that refuses does not stop training.
    """
    for folder in folders(run_dir)[keep:]:
        if step_of(folder) in spared:
            continue
        old = folder.with_name(f".old-{folder.name}")
        try:
            os.rename(folder, old)
        except OSError:
            continue
        shutil.rmtree(old, ignore_errors=True)


def sweep(run_dir: Path) -> None:
    """Remove what earlier, ended processes left half written or half removed."""
    for pattern in (".tmp-step-*", ".old-step-*"):
        for path in (run_dir / FOLDER).glob(pattern):
            shutil.rmtree(path, ignore_errors=True)


def has_room(run_dir: Path) -> bool:
    """Whether 1.2 times the newest checkpoint's size is free; True before the first."""
    existing = folders(run_dir)
    if not existing:
        return True
    size = sum(path.stat().st_size for path in existing[0].iterdir())
    return shutil.disk_usage(run_dir).free >= 1.2 * size


def load_weights(folder: Path) -> dict[str, Tensor]:
    """The method's state dict, fp32, on the CPU. Verify the folder first (`newest` does)."""
    return _tensors(folder / WEIGHTS)


def load_moments(folder: Path) -> dict[str, Tensor]:
    """AdamW's moments as `exp_avg/NAME` and `exp_avg_sq/NAME`."""
    return _tensors(folder / MOMENTS)


def load_facts(folder: Path) -> dict[str, Any]:
    """The step, the samples seen, counters, and what the data were."""
    return _json(folder / FACTS)


def load_config(folder: Path) -> config.Run:
    """The resolved config that the checkpoint was trained with."""
    return config.parse(_json(folder / CONFIG), methods.config_type)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(load_file(path))
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _LIMIT:
        raise ValueError(f"{path.name} is larger than {_LIMIT} bytes")
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} holds no JSON object")
    return content
