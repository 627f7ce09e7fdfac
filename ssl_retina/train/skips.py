"""Which photographs stood in a step that was skipped: `skipped.jsonl` beside the metrics.

In: this rank's losses and keys of a step that no rank applied. Out: a line that names the samples by their
pseudonyms, where the loss was not finite, or all of the step where only its gradient was not, or it was a
spike: then with the loss of each rank.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_retina import dist, files
from ssl_retina.train.spikes import Spike

SKIPPED = "skipped.jsonl"
SHOWN = 3


@dataclass(frozen=True)
class Tried:
    """One micro-batch of this rank: its loss, still on the device, and its samples."""

    loss: Tensor
    keys: tuple[str, ...]


def note(run_dir: Path, step: int, tried: Sequence[Tried]) -> str:
    """Write down the samples of a skipped step, on the first rank, and say it; every rank must call.

    Lines of this step and later ones, of a start that was interrupted, go. Waits for the device.
    """
    finite = [bool(torch.isfinite(one.loss)) for one in tried]
    broken = [key for one, whole in zip(tried, finite, strict=True) if not whole for key in one.keys]
    ranks = dist.gather_objects({"broken": broken, "all": [key for one in tried for key in one.keys]})
    named = [{"rank": rank, "keys": said["broken"]} for rank, said in enumerate(ranks) if said["broken"]]
    cause = "loss" if named else "gradient"
    if not named:
        named = [{"rank": rank, "keys": said["all"]} for rank, said in enumerate(ranks)]
    if dist.is_first():
        _write(run_dir / SKIPPED, {"step": step, "not_finite": cause, "ranks": named})
    keys = [key for one in named for key in one["keys"]]
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    of = ", ".join(str(one["rank"]) for one in named)
    return (
        f"step {step} was skipped: its {cause} was not finite on rank {of}, samples {' '.join(keys[:SHOWN])}"
        f"{more}; {SKIPPED} names all"
    )


def note_spike(run_dir: Path, step: int, tried: Sequence[Tried], spike: Spike) -> str:
    """Write down a step that was a spike, as `note` does, and say it; every rank must call."""
    ranks = dist.gather_objects([key for one in tried for key in one.keys])
    named = [{"rank": rank, "loss": spike.losses[rank], "keys": keys} for rank, keys in enumerate(ranks)]
    cause = [word for word, too_large in (("loss", spike.by_loss), ("gradient", spike.by_norm)) if too_large]
    numbers = {name: getattr(spike, name) for name in ("loss", "norm", "mean", "deviation", "median")}
    if dist.is_first():
        _write(run_dir / SKIPPED, {"step": step, "spike": cause, **numbers, "ranks": named})
    return f"step {step} was skipped: {spike}; {SKIPPED} names its samples and each rank's loss"


def _write(path: Path, line: dict[str, Any]) -> None:
    earlier = path.read_text().splitlines() if path.exists() else []
    kept = [one for one in earlier if json.loads(one)["step"] < line["step"]]
    files.write_bytes(path, "".join(f"{one}\n" for one in [*kept, json.dumps(line)]).encode())
