"""A finite loss or gradient that is far too large: is this step a spike, held against the last ones?

In: loss and gradient norm of a step that is about to be applied. Out: NaN in place of the norm where it is
one, so that DeepSpeed skips the step on all ranks where it asks for the norm anyway: all is decided by
tensors of the device, and the host waits for nothing more than it did.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssl_retina import dist
from ssl_retina.config import Spikes

LEAST = 0.01
"""A standard deviation is taken for this share of the mean at least: a loss that has come to rest would
otherwise leap by nothing."""


@dataclass(frozen=True)
class Kept:
    """Losses (means over the ranks) and gradient norms of the last applied steps, oldest first."""

    losses: tuple[float, ...] = ()
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Spike:
    """A step that was not taken: its numbers, and those of the window that it was held against.

    losses: of every rank. by_loss, by_norm: which of the two was too large.
    """

    loss: float
    norm: float
    losses: tuple[float, ...]
    mean: float
    deviation: float
    median: float
    by_loss: bool
    by_norm: bool

    def __str__(self) -> str:
        """What was too large, and by how much."""
        found = []
        if self.by_loss:
            far = (self.loss - self.mean) / self.deviation
            found.append(f"its loss {self.loss:.4g} lies {far:.3g} deviations above the mean {self.mean:.4g}")
        if self.by_norm:
            times = self.norm / self.median
            found.append(
                f"its gradient norm {self.norm:.4g} is {times:.3g} times the median {self.median:.4g}"
            )
        return " and ".join(found)


class Watch:
    """The window of one run, on the device, the same on every rank."""

    def __init__(self, config: Spikes) -> None:
        self._config = config
        self._rows: Tensor | None = None  # (ranks, 2): loss and norm of the step that was judged last
        self._flags: Tensor | None = None  # its (2,) verdicts; None where nothing was judged
        self._losses: Tensor
        self._norms: Tensor
        self.restore(Kept())

    def judge(self, loss: Tensor, norm: Tensor) -> Tensor:
        """0, or NaN where the step is a spike, as a scalar beside `norm`; every rank must call.

        `loss`: this rank's. All ranks see each other's numbers, so that none decides by a rounding of its
        own. What is not finite is no spike: that step is skipped as it is.
        """
        own = torch.stack((loss.double(), norm.detach().to(loss.device).double()))
        self._rows, self._flags = dist.every(own), None
        if len(self._losses) < self._config.window:
            return torch.zeros_like(norm)
        loss, reference = self._step()
        mean, deviation, median = self._statistics()
        far = loss - mean > self._config.deviations * deviation
        steep = (reference > self._config.times_median * median) & (median > 0)
        finite = loss.isfinite() & reference.isfinite() & (reference >= 0)
        self._flags = torch.stack((far, steep)) & finite
        return torch.where(self._flags.any(), float("nan"), 0.0).to(norm)

    def accept(self) -> None:
        """The step that was judged was applied: the next ones are held against it too."""
        if self._rows is None:
            return
        loss, norm = self._step()
        size = self._config.window
        self._losses = torch.cat((self._losses, loss[None]))[-size:]
        self._norms = torch.cat((self._norms, norm[None]))[-size:]
        self._rows, self._flags = None, None

    def spike(self) -> Spike | None:
        """The step that was judged last, where it is a spike; waits for the device."""
        if self._rows is None or self._flags is None or not bool(self._flags.any()):
            return None
        by_loss, by_norm = (bool(flag) for flag in self._flags.tolist())
        loss, norm = (float(value) for value in self._step())
        mean, deviation, median = (float(value) for value in self._statistics())
        losses = tuple(self._rows[:, 0].tolist())
        return Spike(loss, norm, losses, mean, deviation, median, by_loss, by_norm)

    def kept(self) -> Kept:
        """For a checkpoint; waits for the device."""
        return Kept(tuple(self._losses.tolist()), tuple(self._norms.tolist()))

    def restore(self, kept: Kept) -> None:
        """Go on with the window of a checkpoint."""
        size, device = self._config.window, dist.device()
        self._losses = torch.tensor(kept.losses[-size:], dtype=torch.float64, device=device)
        self._norms = torch.tensor(kept.norms[-size:], dtype=torch.float64, device=device)
        self._rows, self._flags = None, None

    def _step(self) -> tuple[Tensor, Tensor]:
        """Mean loss, and the norm as the first rank has it."""
        assert self._rows is not None
        return self._rows[:, 0].mean(), self._rows[0, 1]

    def _statistics(self) -> tuple[Tensor, Tensor, Tensor]:
        """The losses' mean and standard deviation (n - 1), and the norms' median."""
        mean, count = self._losses.mean(), len(self._norms)
        deviation = torch.maximum(self._losses.std(), LEAST * mean.abs())
        ordered = self._norms.sort().values
        return mean, deviation, (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
