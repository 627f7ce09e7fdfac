"""Back to the last good checkpoint, past the batches that brought the spikes, with a lower learning rate.

In: a run in which spikes came too close together. Out: the run with the weights, moments and window of a
checkpoint from before them, at a position that it has not seen, saved at once; or the end of the run.

All that is decided follows from a checkpoint's state, and the save publishes decision and deed by one
rename: a run that is killed in between comes to the same decision again, one that is killed later goes on
from there.
"""

from pathlib import Path

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.errors import NumericalError
from ssl_retina.train import checkpoint, saving
from ssl_retina.train.checkpoint import Bad
from ssl_retina.train.logbook import Logbook
from ssl_retina.train.progress import Progress
from ssl_retina.train.setup import Session


def is_due(run: Run, progress: Progress) -> bool:
    """Whether `train.spikes.limit` spikes lie within the last `train.spikes.span` steps."""
    return len(progress.spikes_within(run.train.spikes.span)) >= run.train.spikes.limit


def back(session: Session, progress: Progress, logbook: Logbook) -> Progress:
    """Go back, write it down and save it; every rank must call.

    Raises NumericalError after `train.spikes.rollbacks` of them, or where no good checkpoint verifies.
    """
    run, spikes = session.run, session.run.train.spikes
    if progress.setbacks.rollbacks >= spikes.rollbacks:
        raise NumericalError(dist.first_decides(lambda: _given_up(run, progress)))
    folder = dist.first_decides(lambda: _good(run, progress))
    if folder is None:
        raise NumericalError(_no_way_back(run, progress))
    then = saving.load(folder, session.engine)
    now = progress.rolled_back(then, ahead=spikes.skip_batches, rate_factor=spikes.rate_factor)
    session.terminal.say(_told(run, progress, now, target=then))
    session.terminal.lengthen(run.train.steps + now.setbacks.lost)
    logbook.record_rollback(now, then.step)
    session.saver.save(now, required=True)
    return now


def _good(run: Run, progress: Progress) -> Path | None:
    """The checkpoint to go back to: the newest good one that verifies."""
    for step in progress.candidates(run.train.spikes.span):
        folder = run.out / checkpoint.FOLDER / checkpoint.name(step)
        if folder.is_dir() and checkpoint.verify(folder) is None:
            return folder
    return None


def _close(run: Run, progress: Progress) -> str:
    steps = progress.spikes_within(run.train.spikes.span)
    return f"{len(steps)} spikes within {run.train.spikes.span} steps ({', '.join(map(str, steps))})"


def _told(run: Run, progress: Progress, now: Progress, *, target: Progress) -> str:
    return (
        f"{_close(run, progress)}: the run goes back to the checkpoint of step {target.step}, roll-back "
        f"{now.setbacks.rollbacks} of {run.train.spikes.rollbacks}; it goes on with step {now.step + 1}, "
        f"behind all batches that it has seen and {run.train.spikes.skip_batches} more, at "
        f"{now.setbacks.rate_factor:g} of the scheduled learning rate"
    )


def _given_up(run: Run, progress: Progress) -> str:
    """Set aside what was saved too near to the spikes, so that the newest checkpoint is the good one."""
    folder = _good(run, progress)
    stands = _left_with(run, folder) if folder else "no good checkpoint verifies"
    return (
        f"{_close(run, progress)} after {progress.setbacks.rollbacks} roll-backs, the most that "
        f"train.spikes.rollbacks allows; {stands}. Lower optim.learning_rate or set optim.clip_norm, and "
        "continue with --change; where the loss may well leap (other data, another part of the loss), raise "
        "train.spikes.deviations or set train.spikes.enabled=false"
    )


def _left_with(run: Run, good: Path) -> str:
    newer = [one for one in checkpoint.folders(run.out) if checkpoint.step_of(one) > checkpoint.step_of(good)]
    aside = [checkpoint.set_aside(Bad(one, "spikes", "was saved too near to spikes")).name for one in newer]
    rest = f"; saved too near to the spikes: {', '.join(aside)}" if aside else ""
    return f"the last good checkpoint is {good.name}{rest}"


def _no_way_back(run: Run, progress: Progress) -> str:
    tried = ", ".join(checkpoint.name(step) for step in progress.candidates(run.train.spikes.span))
    return (
        f"{_close(run, progress)}, and none of the checkpoints to go back to verifies ({tried or 'none'}); "
        "put one back, or lower optim.learning_rate and continue with --change"
    )
