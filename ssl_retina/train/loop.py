"""The page to read first: a config comes in, a trained method lies in its run folder at the end.

Every number here counts optimiser steps of the whole world. Positions in the data, the learning rate and
every random draw follow from the step alone, which is why a resumed run equals an uninterrupted one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock
from ssl_retina.data.views import finish
from ssl_retina.errors import NumericalError
from ssl_retina.train import schedule, setup, signals, skips, starts
from ssl_retina.train.engine import process_group
from ssl_retina.train.logbook import Line, Logbook, Outcome
from ssl_retina.train.meter import Meter
from ssl_retina.train.saving import WINDOW, Progress
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
    loss: float | None
    held_out_loss: float | None


def pretrain(run: Run, stop: Stop, *, extend: bool = False, change: bool = False) -> Summary:
    """Train or resume, on every rank of the process group, until the last step or a signal.

    Raises RequeueError or InterruptedRunError after saving on a signal, NumericalError after too many
    steps without a finite loss, and what `setup.opened` raises.
    """
    with process_group(), setup.opened(run, extend=extend, change=change) as session:
        stop.begin()
        progress, number, last = _steps(session, stop)
        if dist.is_first():
            starts.ended(run.out, "signal" if number else "done")
    if number:
        raise signals.stopped(number, f"and saved at step {progress.step} of {run.train.steps}")
    return Summary(
        out=str(run.out),
        started_at=session.progress.step,
        steps=progress.step,
        samples=progress.step * run.data.batch_size,
        skipped=progress.skipped,
        loss=last.get("loss"),
        held_out_loss=last.get("held_out_loss"),
    )


def _steps(session: Session, stop: Stop) -> tuple[Progress, int, Line]:
    """From where the session stands to the end, or to the step after which all ranks agreed to stop."""
    run, progress = session.run, session.progress
    total, number = run.train.steps, 0
    meter = Meter(run.data.batch_size)
    logbook, batches = Logbook(session, meter), _batches(session, meter)
    session.terminal.start(progress.step)
    while progress.step < total and not number:
        with meter.step():
            outcome = _step(session, batches, Clock(progress.step, total, run.seed))
            number = int(dist.maximum(stop.signal))  # one rank with a signal is enough; waits for the device
        progress = progress.after(applied=outcome.applied)
        if not outcome.applied:
            session.terminal.say(skips.note(run.out, progress.step, outcome.tried))
        logbook.record(progress, outcome)  # before the save: a checkpoint vouches for the lines up to it
        session.terminal.advance(progress.step)
        if not outcome.applied and progress.is_hopeless(run.train.skipped_limit):
            raise NumericalError(_hopeless(progress))
        ends = progress.step == total or number != 0
        if ends or progress.step % run.checkpoint.every_steps == 0:
            session.saver.save(progress, required=ends)
    return progress, number, logbook.last


def _step(session: Session, batches: Iterator[Batch], clock: Clock) -> Outcome:
    """Forward and backward over the micro-batches, then one update on all ranks or on none."""
    engine = session.engine
    rate = schedule.learning_rate(session.run, clock.step)
    decay = schedule.weight_decay(session.run, clock.step)
    tried = []
    for _ in range(session.run.train.accumulate):
        batch = next(batches)
        output = engine.forward(batch, clock)
        engine.backward(output.loss)
        tried.append(Tried(output.loss.detach(), batch.keys))
        applied = engine.step(rate, decay, fraction=clock.fraction)
    if applied:
        session.method.after_step(clock, engine.weights)
    return Outcome(torch.stack([one.loss for one in tried]).mean(), output, rate, applied, tuple(tried))


def _batches(session: Session, meter: Meter) -> Iterator[Batch]:
    """This rank's micro-batches from the session's position on, on the device; waiting is measured."""
    source = session.source.batches(
        session.progress.step * session.run.data.batch_size,
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
