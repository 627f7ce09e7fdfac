"""Which steps are written down, and what their line says.

In: the outcome of a step. Out: one line of numbers, equal on every rank, in every sink of the session.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_retina import dist
from ssl_retina.contract import Clock, Output
from ssl_retina.train import tracking
from ssl_retina.train.meter import Meter
from ssl_retina.train.progress import Progress
from ssl_retina.train.setup import Session
from ssl_retina.train.skips import Tried
from ssl_retina.train.spikes import Spike
from ssl_retina.train.tracking import finite

Line = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """One optimiser step: this rank's loss (a device scalar), the last micro-batch's answer, the rate.

    tried: each micro-batch of this rank. spike: why it was skipped, where all of it was finite.
    """

    loss: Tensor
    output: Output
    learning_rate: float
    applied: bool
    tried: tuple[Tried, ...] = ()
    spike: Spike | None = None


class Logbook:
    """The lines of one session; `last` is the newest of the run, on the first rank also of earlier starts."""

    def __init__(self, session: Session, meter: Meter) -> None:
        self._session = session
        self._meter = meter
        earlier = tracking.read_lines(session.run.out) if dist.is_first() else []
        self.last: Line = earlier[-1] if earlier else {}

    def record(self, progress: Progress, outcome: Outcome) -> None:
        """Write the step down where it is due: on schedule, at the end, and whenever it was skipped."""
        every = self._session.run.tracking.every_steps
        if outcome.applied and progress.step % every and not self._is_measured(progress):
            return
        self.last = self._line(progress, outcome)
        clocked = {**self.last, "clock": {**self._meter.read(), "replaced": self._replaced()}}
        for sink in self._session.sinks:
            sink.write(clocked)

    def record_rollback(self, progress: Progress, target: int) -> None:
        """Write down that the run went back to the checkpoint of step `target`, and stands here now."""
        own = progress.setbacks
        line = {**self._place(progress), "rolled_back_to": target, "rate_factor": own.rate_factor}
        for sink in self._session.sinks:
            sink.write(line)

    def _is_measured(self, progress: Progress) -> bool:
        run = self._session.run
        return progress.step % run.tracking.evaluate_every_steps == 0 or progress.done == run.train.steps

    def _place(self, progress: Progress) -> dict[str, float]:
        samples = progress.step * self._session.run.data.batch_size
        return {"step": progress.step, "samples": samples, **progress.counts}

    def _line(self, progress: Progress, outcome: Outcome) -> Line:
        """Here, and only here, the host waits for the numbers of the device; every rank must call."""
        run, spike = self._session.run, outcome.spike
        line: Line = {
            **self._place(progress),
            "loss": finite(float(dist.mean(outcome.loss))),
            "learning_rate": outcome.learning_rate,
            "gradient_norm": spike.norm if spike else finite(self._session.engine.gradient_norm()),
        }
        for name, value in outcome.output.logs.items():
            line[name] = finite(float(dist.mean(value)))
        if self._is_measured(progress):
            line |= self._session.evaluation.measure(Clock(progress.done, run.train.steps, run.seed))
        return line

    def _replaced(self) -> int:
        """Photographs of all ranks that did not decode since this start, and were replaced by others."""
        own = torch.tensor(float(self._session.source.replaced), device=dist.device())
        return round(float(dist.mean(own)) * dist.world_size())
