"""When a checkpoint is written and what happens when the disk refuses; all ranks hear the same answer.

In: the engine and where the run stands. Out: a committed checkpoint, older ones retired; one miss is said
and survived, the second in a row stops the run.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ssl_retina import dist
from ssl_retina.config import Run
from ssl_retina.errors import CheckpointError
from ssl_retina.train import checkpoint
from ssl_retina.train.engine import Engine, State
from ssl_retina.train.progress import Progress
from ssl_retina.train.spikes import Kept
from ssl_retina.train.terminal import Terminal

MISSES = 2
"""So many refused saves in a row stop the run."""


class Saver:
    """Writes the checkpoints of one run."""

    def __init__(
        self, run: Run, engine: Engine, *, facts: Mapping[str, Any], loaded: int | None, terminal: Terminal
    ) -> None:
        self._run = run
        self._engine = engine
        self._facts = facts
        self._loaded = loaded
        self._terminal = terminal
        self._misses = 0
        self._saved = loaded

    def save(self, progress: Progress, *, required: bool = False) -> bool:
        """Save a step on the first rank, and say whether it is there now; all ranks must call.

        A refusing disk is survived once and raises CheckpointError when it refuses again, or where the
        save is `required` because the run ends after it.
        """
        if self._saved == progress.step:
            return True
        state = self._engine.state()
        problem = dist.first_decides(lambda: self._commit(progress, state))
        if problem is None:
            self._misses, self._saved = 0, progress.step
            return True
        self._misses += 1
        text = f"step {progress.step} could not be saved ({problem}); the last checkpoint is {self._last()}"
        if required or self._misses >= MISSES:
            raise CheckpointError(f"{text}. Make room in {self._run.out}; the same command continues")
        self._terminal.say(f"{text}; training goes on")
        return False

    def keep(self, progress: Progress, *, required: bool) -> Progress:
        """Save where it is due by the config, or `required`; gives the progress with what was kept for good.

        Only steps that are due are anchors: a run that was stopped in between has the same ones.
        """
        due = progress.step % self._run.checkpoint.every_steps == 0
        if not due:
            if required:
                self.save(progress, required=True)
            return progress
        anchored = progress.anchored(self._run.train.spikes.span)
        return anchored if self.save(anchored, required=required) else progress

    def _last(self) -> str:
        return "none" if self._saved is None else f"step {self._saved}"

    def _commit(self, progress: Progress, state: State) -> str | None:
        out, keep = self._run.out, self._run.checkpoint.keep
        if not checkpoint.has_room(out):
            return "the disk has not 1.2 times the last checkpoint's size free"
        facts = {
            **self._facts,
            "samples": progress.step * self._run.data.batch_size,
            **progress.facts(),
            "window": asdict(state.window),
            "optimizer_steps": state.steps,
            "parent_step": self._saved,
        }
        content = checkpoint.Content(state.weights, state.moments, facts, self._run.dump())
        try:
            checkpoint.commit(out, progress.step, content)
        except OSError as error:
            return error.strerror or str(error)
        checkpoint.retain(out, keep=keep, spared={self._loaded, *progress.setbacks.anchors})
        return None


def load(folder: Path, engine: Engine) -> Progress:
    """Read a verified checkpoint on every rank, agree that all could, and put it into the engine."""
    facts: dict[str, Any] = {}
    state, problem = None, None
    try:
        facts = checkpoint.load_facts(folder)
        weights, moments = checkpoint.load_weights(folder), checkpoint.load_moments(folder)
        window = {name: tuple(values) for name, values in facts.get("window", {}).items()}
        state = State(weights, moments, facts["optimizer_steps"], Kept(**window))
    except (CheckpointError, OSError) as error:
        problem = CheckpointError(f"rank {dist.rank()} cannot read {folder.name}: {error}")
    dist.raise_first(problem)
    assert state is not None
    engine.load(state)
    return Progress.of(facts)
