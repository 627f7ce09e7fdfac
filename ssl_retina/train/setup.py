"""A config -> everything a run needs, opened in one order and closed in the other.

In: a frozen `Run`. Out: a `Session`: data that were verified, the method, the engine at the step to go on
from, and the places that lines and checkpoints go to. Nothing is written before config and data are good.
"""

import contextlib
import json
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from ssl_retina import __version__, dist, files, methods
from ssl_retina.config import Run
from ssl_retina.contract import Method, ViewSpec
from ssl_retina.data.loader import Source, open_source
from ssl_retina.errors import InputError, ShardError
from ssl_retina.models import adversary, blocks, encoder
from ssl_retina.models.initial import Initial
from ssl_retina.train import beginning, checkpoint, knn, optim, resume, saving, skips, starts, tracking
from ssl_retina.train.engine import Engine
from ssl_retina.train.evaluation import Evaluation
from ssl_retina.train.progress import Progress
from ssl_retina.train.saving import Saver
from ssl_retina.train.terminal import Terminal
from ssl_retina.train.tracking import Sink

VERIFIED = "verified.json"
MANY_EPOCHS = 10_000
LARGE_ON_CPU = 512
FEW_HELD_OUT = 16
MANY_PAIRS = 0.01


@dataclass(frozen=True)
class Session:
    """One started run."""

    run: Run
    micro_batch: int
    source: Source
    method: Method
    engine: Engine
    evaluation: Evaluation
    saver: Saver
    sinks: tuple[Sink, ...]
    terminal: Terminal
    progress: Progress


@contextlib.contextmanager
def opened(run: Run, *, extend: bool = False, change: bool = False) -> Iterator[Session]:
    """Open a run on every rank, fresh or where its newest checkpoint left it.

    Raises InputError, ConfigError (batch, method, selection), ShardError (data), CheckpointError (resume).
    """
    micro_batch = micro_batch_of(run, dist.world_size())
    with contextlib.ExitStack() as stack:
        stack.enter_context(deterministic())
        initial = beginning.weights(run)
        method, views = build_method(run, initial)
        source = open_source(run.data, views, seed=run.seed)
        refuse_repeats(run, source)
        refuse_devices(run, source)
        dist.first_decides(lambda: _claim(run.out, stack))
        verify_data(run, source)
        facts = _facts(run, source)
        labelled = dist.first_decides(lambda: knn.neighbours(run, source))
        start = dist.first_decides(lambda: resume.find(run, facts["data"], extend=extend, change=change))
        facts["init"], told = beginning.record(run, initial, start.init)
        notes = (*start.notes, *told, *source.epoch.sentences(), *remarks(run, source, micro_batch))
        terminal = Terminal(run.train.steps, speaks=dist.is_first())
        for note in notes:
            terminal.say(note)
        optimizer = optim.adamw(method, method.encoder, run.optim)  # type: ignore[arg-type]
        engine = Engine(method, optimizer, run=run, micro_batch=micro_batch)
        progress = saving.load(start.folder, engine) if start.folder else Progress()
        loaded = progress.step if start.folder else None
        facts["changes"] = list(start.changes)
        saver = Saver(run, engine, facts=facts, loaded=loaded, terminal=terminal)
        sinks = _sinks(run, progress.step, terminal=terminal, stack=stack)
        saver.save(progress, required=True)
        if dist.is_first():
            stack.enter_context(starts.noted(run.out, progress.step, world_size=dist.world_size()))
        yield Session(
            run=run,
            micro_batch=micro_batch,
            source=source,
            method=cast(Method, method),
            engine=engine,
            evaluation=Evaluation(engine, source, batch=micro_batch, neighbours=labelled),
            saver=saver,
            sinks=sinks,
            terminal=terminal,
            progress=progress,
        )


def micro_batch_of(run: Run, world: int) -> int:
    """Samples of one forward pass on one rank. Raises InputError where the batch does not divide."""
    parts = world * run.train.accumulate
    if run.data.batch_size % parts:
        raise InputError(
            f"data.batch_size ({run.data.batch_size}) must be a multiple of processes x train.accumulate "
            f"({world} x {run.train.accumulate}), so that every rank gets equally many samples"
        )
    return run.data.batch_size // parts


def refuse_repeats(run: Run, source: Source) -> None:
    """Raise InputError where a loss that contrasts a batch would meet each photograph as its own negative."""
    size, samples = run.data.batch_size, source.samples
    if run.method.couples_batch and size > samples:
        raise InputError(
            f"data.batch_size ({size}) must be at most the {samples} photographs to train on for "
            f"{run.method_name}: its loss tells the samples of a batch apart, and some would be there twice; "
            "lower it, or give more shards"
        )


def refuse_devices(run: Run, source: Source) -> None:
    """Raise InputError where an adversary has nothing to tell apart, or more than it can."""
    count, most = len(source.devices), run.adversary.devices
    if run.adversary.weight and count < 2:
        raise InputError(
            f"adversary.weight ({run.adversary.weight:g}) needs photographs of two known devices at least; "
            f"the sets name {count or 'none'}. Leave it out, or shard again with a table that names devices"
        )
    if run.adversary.weight and count > most:
        raise InputError(f"adversary.devices ({most}) must be at least the {count} devices of the sets")


def remarks(run: Run, source: Source, micro_batch: int) -> list[str]:
    """Where photographs of addresses are kept, and what is allowed but seldom meant, as sentences."""
    said = [*source.notes]
    if run.data.batch_size > source.samples:
        said.append(
            f"data.batch_size ({run.data.batch_size}) is larger than the {source.samples} photographs to "
            "train on: every step repeats them; lower it"
        )
    epochs = run.train.steps * run.data.batch_size / max(source.samples, 1)
    if epochs > MANY_EPOCHS:
        steps = max(round(800 * source.samples / run.data.batch_size), 1)
        said.append(
            f"train.steps ({run.train.steps}) are {epochs:.0f} epochs; 800 would be train.steps={steps} "
            f"schedule.warmup_steps={steps // 20}"
        )
    if micro_batch > LARGE_ON_CPU and dist.device().type == "cpu":
        divided = f"train.accumulate={micro_batch * run.train.accumulate // LARGE_ON_CPU} divides them"
        remedy = "lower data.batch_size" if run.method.couples_batch else divided
        said.append(f"{micro_batch} photographs in one forward pass on a CPU take much memory; {remedy}")
    if run.data.shuffle_shards is not None and run.train.spikes.enabled:
        said.append(
            "with data.shuffle_shards batches follow the shards: where these hold sites of much different "
            "loss, raise train.spikes.deviations, so that a change of site is no spike"
        )
    pairs = source.epoch.repeats(run.data.batch_size)
    if run.method.couples_batch and pairs > MANY_PAIRS * run.data.batch_size:
        said.append(
            f"with these weights about {pairs:.0f} pairs in a batch of {run.data.batch_size} are the same "
            f"photograph, which {run.method_name} takes for another one: weigh less, or lower data.batch_size"
        )
    if 0 < source.held_out_samples < FEW_HELD_OUT:
        said.append(f"only {source.held_out_samples} held-out photographs: the held-out loss says little")
    return said


def build_method(run: Run, initial: Initial | None = None) -> tuple[nn.Module, ViewSpec]:
    """The method with fresh or `initial` weights, the same on every rank, and the views that it wants."""
    module = methods.load(run.method_name)
    torch.manual_seed(run.seed)
    build = partial(encoder.build, run.model) if initial is None else initial.build
    train = run.train
    make = partial(
        build,
        checkpointing=train.activation_checkpointing,
        at_once=train.encoder_batch,
        packing=train.pack_crops,
    )
    method = module.Method(run.method, make)
    adversary.attach(method, run.adversary)
    if run.train.compile:
        blocks.compile_all(method, steady=run.method.steady_shapes)
    return cast(nn.Module, method), cast(ViewSpec, module.views(run.method, run.model.image_size))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Kernels that give the same bits again; an operation that has none on a GPU is an error there."""
    fill: Any = torch.utils.deterministic  # a module that its stubs do not know
    before = torch.are_deterministic_algorithms_enabled(), fill.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    fill.fill_uninitialized_memory = False  # every read value is written first
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        fill.fill_uninitialized_memory = before[1]


def _claim(out: Path, stack: contextlib.ExitStack) -> None:
    """Be the only writer of the run folder, and clear away what dead writers left half done."""
    own = (checkpoint.FOLDER, "config.json", VERIFIED, beginning.RECEIPT)
    known = (*own, tracking.METRICS, skips.SKIPPED, starts.STARTS, starts.SUBMISSIONS)
    files.claim_folder(out, known, "a run")
    stack.enter_context(files.lock(out))
    checkpoint.sweep(out)


def verify_data(run: Run, source: Source) -> None:
    """Hold the shards against their index on the first rank of each machine, before the first step.

    Sizes always; SHA-256 at the first start and whenever a shard's size or time changed since then.
    Raises ShardError on every rank.
    """
    problem = None
    if dist.local_rank() == 0:
        seen, record = _seen(run), run.out / VERIFIED
        known = json.loads(record.read_text()) if record.is_file() else None
        try:
            source.verify(hashes=seen != known)
        except ShardError as error:
            problem = error
    dist.raise_first(problem)
    if dist.is_first() and seen != known:
        files.write_json(record, seen)


def _seen(run: Run) -> dict[str, list[int]]:
    stats = {
        str(path.resolve()): path.stat()
        for folder in run.data.shards
        if isinstance(folder, Path)  # what comes from an address is hashed as it comes
        for path in sorted(folder.glob("*.tar"))
    }
    return {path: [stat.st_size, stat.st_mtime_ns] for path, stat in stats.items()}


def _facts(run: Run, source: Source) -> dict[str, Any]:
    """What stands beside every checkpoint: what it was trained on, and with what."""
    packages = ("torch", "deepspeed", "timm", "lightly", "safetensors")
    return {
        "data": {
            "digests": list(source.digests),
            "samples": source.samples,
            "held_out_samples": source.held_out_samples,
            "exclude": files.sha256(run.data.exclude) if run.data.exclude else None,
        },
        "world_size": dist.world_size(),
        "versions": {
            "ssl_retina": __version__,
            "python": platform.python_version(),
            **{package: metadata.version(package) for package in packages},
        },
        "commit": _commit(),
    }


def _commit() -> str | None:
    """The git commit of the checkout this package runs from, or None in an installation."""
    git = Path(__file__).parents[2] / ".git"
    head = git / "HEAD"
    if not head.is_file():
        return None
    text = head.read_text().strip()
    if not text.startswith("ref: "):
        return text
    reference = git / text.removeprefix("ref: ")
    return reference.read_text().strip() if reference.is_file() else None


def _sinks(run: Run, step: int, *, terminal: Terminal, stack: contextlib.ExitStack) -> tuple[Sink, ...]:
    """Where lines go: the first rank's files and terminal, nowhere on the others."""
    if not dist.is_first():
        return ()
    files.write_json(run.out / "config.json", run.dump())
    opened_sinks = stack.enter_context(tracking.sinks(run, step))
    stack.callback(terminal.close)
    for sink in opened_sinks:
        if isinstance(sink, tracking.Wandb) and sink.note:
            terminal.say(sink.note)
    return (*opened_sinks, terminal)
