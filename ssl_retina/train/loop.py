"""The page to read first: a config comes in, a trained method lies in its run folder at the end.

Every number here counts optimiser steps of the whole world. Positions in the data and every random draw
follow from the step alone, which is why a resumed run equals an uninterrupted one. The schedules follow from
the steps that are done: the same number, until a roll-back gives some of them up.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock
from ssl_retina.data.views import finish
from ssl_retina.errors import NumericalError
from ssl_retina.train import rollback, schedule, setup, signals, skips, starts
from ssl_retina.train.engine import process_group
from ssl_retina.train.logbook import Line, Logbook, Outcome
from ssl_retina.train.meter import Meter
from ssl_retina.train.progress import WINDOW, Progress
from ssl_retina.train.setup import Session
from ssl_retina.train.signals import Stop
from ssl_retina.train.skips import Tried


@dataclass(frozen=True)
class Summary:
    """How a run ended: the step it began at and reached, and the last logged numbers."""

    out: str
    started_at: int
    steps: int
    samples: int
    skipped: int
    rollbacks: int
    loss: float | None
    held_out_loss: float | None


def pretrain(run: Run, stop: Stop, *, extend: bool = False, change: bool = False) -> Summary:
    """Train or resume, on every rank of the process group, until the last step or a signal.

    Raises RequeueError or InterruptedRunError after saving on a signal, NumericalError after too many
    steps without a finite loss or too many roll-backs, and what `setup.opened` raises.
    """
    with process_group(), setup.opened(run, extend=extend, change=change) as session:
        stop.begin()
        progress, number, last = _steps(session, stop)
        if dist.is_first():
            starts.ended(run.out, "signal" if number else "done")
    if number:
        total = run.train.steps + progress.setbacks.lost
        raise signals.stopped(number, f"and saved at step {progress.step} of {total}")
    return Summary(
        out=str(run.out),
        started_at=session.progress.step,
        steps=progress.step,
        samples=progress.step * run.data.batch_size,
        skipped=progress.skipped,
        rollbacks=progress.setbacks.rollbacks,
        loss=last.get("loss"),
        held_out_loss=last.get("held_out_loss"),
    )


def _steps(session: Session, stop: Stop) -> tuple[Progress, int, Line]:
    """From where the session stands to the end, or to the step after which all ranks agreed to stop."""
    run, progress = session.run, session.progress
    total, number = run.train.steps, 0
    meter = Meter(run.data.batch_size)
    logbook, batches = Logbook(session, meter), _batches(session, meter, progress)
    session.terminal.lengthen(total + progress.setbacks.lost)
    session.terminal.start(progress.step)
    while progress.done < total and not number:
        with meter.step():
            outcome = _step(session, batches, progress)
            number = int(dist.maximum(stop.signal))  # one rank with a signal is enough; waits for the device
        progress = progress.after(applied=outcome.applied, spiked=outcome.spike is not None)
        if not outcome.applied:
            session.terminal.say(_skipped(run, progress, outcome))
        logbook.record(progress, outcome)  # before the save: a checkpoint vouches for the lines up to it
        session.terminal.advance(progress.step)
        if not outcome.applied and progress.is_hopeless(run.train.skipped_limit):
            raise NumericalError(_hopeless(progress))
        if outcome.spike and rollback.is_due(run, progress):
            batches.close()  # its loader processes end before the checkpoint is read
            progress = rollback.back(session, progress, logbook)
            batches = _batches(session, meter, progress)
        ends = progress.done == total or number != 0
        progress = session.saver.keep(progress, required=ends)
    return progress, number, logbook.last


def _skipped(run: Run, progress: Progress, outcome: Outcome) -> str:
    """Why no rank applied the step, as a sentence, once its samples are written down."""
    if outcome.spike is None:
        return skips.note(run.out, progress.step, outcome.tried)
    return skips.note_spike(run.out, progress.step, outcome.tried, outcome.spike)


def _step(session: Session, batches: Iterator[Batch], progress: Progress) -> Outcome:
    """Forward and backward over the micro-batches, then one update on all ranks or on none."""
    engine, run = session.engine, session.run
    clock = Clock(progress.done, run.train.steps, run.seed)
    rate = schedule.learning_rate(run, clock.step) * progress.setbacks.rate_factor
    decay = schedule.weight_decay(run, clock.step)
    tried = []
    for _ in range(run.train.accumulate):
        batch = next(batches)
        output = engine.forward(batch, clock)
        engine.backward(output.loss)
        tried.append(Tried(output.loss.detach(), batch.keys))
        applied = engine.step(rate, decay, fraction=clock.fraction)
    if applied:
        session.method.after_step(clock, engine.weights)
    loss = torch.stack([one.loss for one in tried]).mean()
    return Outcome(loss, output, rate, applied, tuple(tried), None if applied else engine.spike())


def _batches(session: Session, meter: Meter, progress: Progress) -> Generator[Batch, None, None]:
    """This rank's micro-batches from a position on, on the device; waiting is measured."""
    source = session.source.batches(
        progress.step * session.run.data.batch_size,
        rank=dist.rank(),
        world=dist.world_size(),
        micro_batch=session.micro_batch,
    )
    device = dist.device()
    while True:
        with meter.waiting():  # on a GPU the changes of light and colour are only asked for here
            batch = finish(next(source), device=device)
        yield batch


def _hopeless(progress: Progress) -> str:
    return (
        f"the loss or its gradient was not finite in {progress.in_a_row} steps in a row, up to step "
        f"{progress.step}, and in {len(progress.recent)} of the last {WINDOW}; none of them changed the "
        "weights. Checkpoints from before are kept: lower optim.learning_rate or set optim.clip_norm, and "
        "continue with --change"
    )
