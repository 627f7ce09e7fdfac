"""Where a run stands: plain numbers that follow from what happened to each step, equal on every rank.

In: was a step applied, not finite, a spike; a save; a roll-back. Out: counts, the position in the data, the
step of the schedule, and which checkpoints a roll-back may go to. All of it stands in every checkpoint.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

WINDOW = 1000
"""Steps that are looked back on for skipped ones."""


def done(facts: Mapping[str, Any]) -> int:
    """Steps of the schedule behind a checkpoint, from its facts; those of older ones know no roll-backs."""
    return int(facts["step"]) - int(facts.get("setbacks", {}).get("lost", 0))


@dataclass(frozen=True)
class Setbacks:
    """What spikes did to a run so far.

    spikes: steps that were not taken for one. recent: those of the last WINDOW steps, since the last
    roll-back. rollbacks: how many. lost: steps that were given up by them, and batches passed over.
    rate_factor: on the learning rate, from here on. anchors: steps of the checkpoints that a roll-back
    can go to, oldest first; these are kept whatever their number. A run begins with that of step 0.
    """

    spikes: int = 0
    recent: tuple[int, ...] = ()
    rollbacks: int = 0
    lost: int = 0
    rate_factor: float = 1.0
    anchors: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Progress:
    """Where a run stands.

    step: global batches that the run has come past, its position in the data; it never falls. skipped:
    steps that no rank applied, spikes included. in_a_row: the last ones, not finite. recent: those not
    finite among the last WINDOW steps.
    """

    step: int = 0
    skipped: int = 0
    in_a_row: int = 0
    recent: tuple[int, ...] = ()
    setbacks: Setbacks = field(default_factory=Setbacks)

    @property
    def done(self) -> int:
        """Steps of the schedule that are done: what a roll-back gave up is done again."""
        return self.step - self.setbacks.lost

    def after(self, *, applied: bool, spiked: bool = False) -> "Progress":
        """One step further; `spiked`: it was not applied, though all of it was finite."""
        step = self.step + 1
        recent = tuple(one for one in self.recent if one > step - WINDOW)
        now = replace(self, step=step, in_a_row=0, recent=recent)
        if applied:
            return now
        if not spiked:
            row = self.in_a_row + 1
            return replace(now, skipped=self.skipped + 1, in_a_row=row, recent=(*recent, step))
        own = self.setbacks
        steps = (*(one for one in own.recent if one > step - WINDOW), step)
        setbacks = replace(own, spikes=own.spikes + 1, recent=steps)
        return replace(now, skipped=self.skipped + 1, setbacks=setbacks)

    def is_hopeless(self, limit: int) -> bool:
        """Whether `limit` steps in a row were not finite, or as many (a hundredth at least) of WINDOW."""
        return self.in_a_row >= limit or len(self.recent) >= max(limit, WINDOW // 100)

    def spikes_within(self, span: int) -> tuple[int, ...]:
        """The spikes among the last `span` steps that no roll-back has answered yet."""
        return tuple(one for one in self.setbacks.recent if one > self.step - span)

    def anchored(self, span: int) -> "Progress":
        """With this step, at which a scheduled checkpoint is about to be written, among the anchors.

        One that has proved good stays, and one that may yet: the oldest of those behind it. So a good one
        is always there and moves on, however seldom or often the run is saved; it is two at most.
        """
        known = sorted({*self.setbacks.anchors, self.step})
        good = [one for one in known if one <= self._proved(span)]
        others = [one for one in known if one > self._proved(span)]
        return replace(self, setbacks=replace(self.setbacks, anchors=(*good[-1:], *others[:1])))

    def candidates(self, span: int) -> tuple[int, ...]:
        """The anchors in the order in which a roll-back tries them: the newest that has proved good first.

        Where none has, the run has not come that far, or what it had is gone: then from the oldest on.
        """
        good = [one for one in self.setbacks.anchors if one <= self._proved(span)]
        others = [one for one in self.setbacks.anchors if one > self._proved(span)]
        return (*reversed(good), *others)

    def _proved(self, span: int) -> int:
        """Up to this step a checkpoint is good: at least `span` steps older than now, or than the first of
        the spikes that are counted now, since what makes a spike begins before it."""
        return min((*self.spikes_within(span), self.step)) - span

    def rolled_back(self, then: "Progress", *, ahead: int, rate_factor: float) -> "Progress":
        """As far as `then`, but `ahead` batches behind the last that was seen.

        What comes next is saved at once and is a copy of a good checkpoint, so it is the one anchor.
        """
        step, own = self.step + ahead, self.setbacks
        setbacks = Setbacks(
            spikes=own.spikes,
            rollbacks=own.rollbacks + 1,
            lost=step - then.done,
            rate_factor=own.rate_factor * rate_factor,
            anchors=(step,),
        )
        return replace(self, step=step, in_a_row=0, setbacks=setbacks)

    @property
    def counts(self) -> dict[str, int]:
        """For a line of the metrics."""
        own = self.setbacks
        return {
            "skipped": self.skipped,
            "spikes": own.spikes,
            "rollbacks": own.rollbacks,
            "lost": own.lost,
        }

    def facts(self) -> dict[str, Any]:
        """For a checkpoint, beside its step."""
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": self.in_a_row,
            "skipped_recently": list(self.recent),
            "setbacks": asdict(self.setbacks),
        }

    @classmethod
    def of(cls, facts: Mapping[str, Any]) -> "Progress":
        """From a checkpoint's facts; older ones do not say which were recent, and know no spikes."""
        known = dict(facts.get("setbacks", {"anchors": (facts["step"],)}))
        lists = {name: tuple(known[name]) for name in ("recent", "anchors") if name in known}
        return cls(
            facts["step"],
            facts["skipped"],
            facts["skipped_in_a_row"],
            tuple(facts.get("skipped_recently", ())),
            Setbacks(**{**known, **lists}),
        )
