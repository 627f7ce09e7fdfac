"""Learning rate and weight decay of every optimiser step: pure functions of the step, nothing is stored.

In: the step that is about to be done, counted from 0, and the run's config. Out: the values at it.
"""

import math

from ssl_retina.config import Run


def share_of_peak(step: int, *, total: int, warmup: int, final: float) -> float:
    """Linear warm-up to 1 over `warmup` steps, then half a cosine down to `final` at step `total`.

    Skipped steps count: the schedule hangs on the step alone, so that a resumed run continues it exactly.
    Cosine: Loshchilov and Hutter 2017, eq. 5, without restarts.
    """
    if step < warmup:
        return (step + 1) / warmup
    fraction = min(1.0, (step - warmup) / max(1, total - warmup))
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * fraction))


def learning_rate(run: Run, step: int) -> float:
    """The learning rate of step `step` of a run, before layer-wise decay."""
    schedule = run.schedule
    return run.peak_learning_rate * share_of_peak(
        step, total=run.train.steps, warmup=schedule.warmup_steps, final=schedule.final_fraction
    )


def weight_decay(run: Run, step: int) -> float:
    """The weight decay of step `step`: half a cosine from its start to its end, without warm-up."""
    start, end = run.optim.weight_decay, run.optim.weight_decay_end
    if end is None:
        return start
    return end + (start - end) * share_of_peak(step, total=run.train.steps, warmup=0, final=0.0)
