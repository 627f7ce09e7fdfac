"""May this run continue, and from where: the same command resumes, and nothing starts over silently.

In: a run folder and the config of now. Out: the checkpoint to continue from and notes for the person, or
none for a fresh start, or an error that lists what differs or what is broken.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina.config import Run
from ssl_retina.errors import CheckpointError, ConfigError, StateError
from ssl_retina.train import checkpoint, progress, schedule, tracking

HARMLESS = (
    "out",
    "checkpoint",
    "tracking",
    "data.workers",
    "data.shards",
    "data.exclude",
    "data.cache",
    "data.cache_gib",
    "model.init_reference",
    "train.zero_stage",
    "train.activation_checkpointing",
    "train.encoder_batch",
    "train.offload",
    "train.pack_crops",
)
"""Fields that may differ after a resume. What `data.shards` and `data.exclude` lead to is compared by its
digest instead of its path."""

STEPS = "train.steps"

CHANGEABLE = (
    "optim",
    "schedule",
    "train.precision",
    "train.accumulate",
    "train.compile",  # fused kernels round elsewhere
    "train.skipped_limit",
    "train.spikes",
)
"""Fields that may differ from a step on with `--change`; the checkpoint and the card keep a record of it."""


@dataclass(frozen=True)
class Start:
    """Where a run begins: a verified checkpoint, or None for a fresh start; and what to tell the person.

    init: the receipt of the weights that it once started from, which are not read again.
    """

    folder: Path | None
    notes: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()
    init: Mapping[str, Any] | None = None


def find(run: Run, data: Mapping[str, Any], *, extend: bool, change: bool) -> Start:
    """Decide where to begin. `data`: facts of the data that are compared with the checkpoint's.

    Renames checkpoints that do not verify out of the way. Raises CheckpointError where there is history
    but nothing to load, or where the config or the data are not those of the checkpoint.
    """
    found = checkpoint.survey(run.out)
    if found.newest is None:
        if _has_history(run.out, found):
            raise CheckpointError(_no_start(run.out, found))
        return Start(None)
    facts = checkpoint.load_facts(found.newest)
    notes = [f"resuming from {found.newest.name}", *_set_aside(found), *_stale_hint(run.out, found.newest)]
    told, record = _compare_config(
        run, _plain(found.newest), progress.done(facts), extend=extend, change=change
    )
    _compare_data(run, facts.get("data", {}), data)
    changes = (*facts.get("changes", ()), *record)
    return Start(found.newest, (*notes, *told), changes, facts.get("init"))


def look(run: Run, *, extend: bool, change: bool) -> None:
    """Ask whether a run may go on with this config before a job waits for it. Changes and hashes nothing.

    A checkpoint that cannot be read is passed over: what to do with it is decided where training starts.
    Raises CheckpointError as `find` does for another config, StateError where nothing is left to do.
    """
    for folder in checkpoint.folders(run.out):
        try:
            step, saved = progress.done(checkpoint.load_facts(folder)), _plain(folder)
            saved["train"]["steps"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        _compare_config(run, saved, step, extend=extend, change=change)
        if step >= run.train.steps:
            raise StateError(f"{run.out} is complete at step {step}; more {STEPS} need --extend")
        return


def _compare_config(
    run: Run, saved: Mapping[str, Any], step: int, *, extend: bool, change: bool
) -> tuple[list[str], tuple[str, ...]]:
    """Notes for the person and the record of what changes; raises CheckpointError for what may not."""
    differing = differences(saved, run.dump())
    changed = {field: differing[field] for field in sorted(set(differing) - {STEPS})}
    if changed and not (change and all(_is_one_of(field, CHANGEABLE) for field in changed)):
        raise CheckpointError(_other_config(run.out, changed))
    record = [f"step {step}: {line}" for line in _lines(changed)]
    notes = [f"changed from here on, as --change allows: {line}" for line in _lines(changed)]
    if STEPS in differing:
        notes.append(_extended(run, saved["train"]["steps"], step=step, extend=extend))
        record.append(f"step {step}: {STEPS}: {saved['train']['steps']} -> {run.train.steps}")
    return notes, tuple(record)


def _set_aside(found: checkpoint.Survey) -> list[str]:
    renamed = [(one, checkpoint.set_aside(one)) for one in found.bad]
    return [f"{one.folder.name} {one.sentence}; it is now {path.name}" for one, path in renamed]


def _stale_hint(run_dir: Path, newest: Path) -> list[str]:
    """A sentence where `latest` does not name what was taken; it decides nothing."""
    path = run_dir / checkpoint.FOLDER / checkpoint.LATEST
    said = path.read_text().strip() if path.is_file() else ""
    if said == newest.name:
        return []
    what = f"says {said!r}" if said else "is missing or empty"
    return [f"the hint {checkpoint.LATEST} {what}; {newest.name} is the newest checkpoint that verifies"]


def _has_history(run_dir: Path, found: checkpoint.Survey) -> bool:
    aside = any((run_dir / checkpoint.FOLDER).glob("step-*"))
    return bool(found.bad) or aside or tracking.last_step(run_dir) > 0


def _no_start(run_dir: Path, found: checkpoint.Survey) -> str:
    reached = tracking.last_step(run_dir)
    aside = sorted(path.name for path in (run_dir / checkpoint.FOLDER).glob("step-*.bad-*"))
    lines = "".join(f"\n  {name}: set aside earlier" for name in aside)
    return (
        f"{run_dir} has history (metrics up to step {reached}) but no checkpoint that can be loaded; "
        f"training does not start over by itself{checkpoint.listing(found.bad)}{lines}\n"
        "restore a checkpoint, or choose another out= to start over"
    )


def _plain(folder: Path) -> dict[str, Any]:
    """The checkpoint's config with today's defaults filled in, or as written where it no longer fits."""
    try:
        return checkpoint.load_config(folder).dump()
    except ConfigError:
        content = json.loads((folder / checkpoint.CONFIG).read_bytes())
        assert isinstance(content, dict)
        return content


def differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Fields whose values are not the checkpoint's: `section.key: (then, now)`, without the harmless."""
    then, today = _flat(saved), _flat(now)
    return {
        field: (then.get(field), today.get(field))
        for field in sorted({*then, *today})
        if then.get(field) != today.get(field) and not _is_one_of(field, HARMLESS)
    }


def _is_one_of(field: str, listed: Sequence[str]) -> bool:
    return any(field == one or field.startswith(f"{one}.") for one in listed)


def _lines(differing: Mapping[str, tuple[Any, Any]]) -> list[str]:
    return [f"{field}: {then!r} -> {now!r}" for field, (then, now) in differing.items()]


def _flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _other_config(run_dir: Path, differing: Mapping[str, tuple[Any, Any]]) -> str:
    lines = "".join(f"\n  {line}" for line in _lines(differing))
    possible = [field for field in differing if _is_one_of(field, CHANGEABLE)]
    with_change = (
        f"; --change continues with the new {', '.join(possible)}" if len(possible) == len(differing) else ""
    )
    return (
        f"{run_dir} was trained with another config (checkpoint -> now):{lines}\n"
        f"give the old values to continue, or another out= for a new run{with_change}"
    )


def _compare_data(run: Run, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """F59: another set of photographs under the same run would make the record of the run a lie."""
    if dict(saved) == dict(now):
        return
    lines = "".join(
        f"\n  {key}: {saved.get(key)} -> {now.get(key)}"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key)
    )
    raise StateError(
        f"the data are not those that {run.out} was trained on (checkpoint -> now):{lines}\n"
        "point data.shards at the old set, or give another out= for a new run"
    )


def _extended(run: Run, steps: int, *, step: int, extend: bool) -> str:
    """What another length does to the schedules. Raises CheckpointError unless it was asked for."""
    before = run.model_copy(update={"train": run.train.model_copy(update={"steps": steps})})
    then, now = schedule.learning_rate(before, step), schedule.learning_rate(run, step)
    if run.train.steps < steps:
        raise CheckpointError(
            f"{STEPS}: {run.out} is a run of {steps} steps and cannot be shortened to {run.train.steps}; "
            "stop it instead, its checkpoints can be exported"
        )
    _refuse_frozen_again(run, steps, step)
    effect = (
        f"the run becomes {run.train.steps} steps long instead of {steps}; the cosine is drawn anew over "
        f"that length, so the learning rate at step {step} is {now:.4g} instead of {then:.4g}"
        f"{_rewound(before, run, step)}"
    )
    if not extend:
        raise CheckpointError(f"{STEPS}: {steps} -> {run.train.steps}. With --extend {effect}")
    return effect


def _rewound(before: Run, run: Run, step: int) -> str:
    """What else follows the share of the run that is done, and so goes back, as the end of a sentence."""
    then, now = (
        {"weight decay": schedule.weight_decay(one, step), **one.method.scheduled(step / one.train.steps)}
        for one in (before, run)
    )
    lines = [
        f"{name} {value:.4g} instead of {then[name]:.4g}"
        for name, value in now.items()
        if value != then[name]
    ]
    return (
        f"; what else follows the share of the run that is done goes back too: {', '.join(lines)}"
        if lines
        else ""
    )


def _refuse_frozen_again(run: Run, steps: int, step: int) -> None:
    """Raise CheckpointError where a part that learns, such as prototypes, would have to wait again."""
    frozen = run.method.frozen
    if not step / run.train.steps < frozen <= step / steps:
        return
    longest = int(step / frozen)
    longest -= step / longest < frozen  # where the division was rounded up
    raise CheckpointError(
        f"{STEPS}: {steps} -> {run.train.steps}: at step {step} the first {frozen:.3g} of the run, in which "
        f"a part of {run.method_name} does not learn yet, would begin again; with at most {longest} {STEPS} "
        "it goes on learning, or give another out= and start from an export (model.init)"
    )
