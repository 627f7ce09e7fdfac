"""Stages that are done once: what a command answered is noted, and an interrupted path goes on from there.

In: a command and who listens. Out: its JSON, from now or from before. A stage of other arguments, or of
another config, is never taken for this one.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina import files
from ssl_retina.demo.steps import Command, Listener, Stopwatch, run
from ssl_retina.errors import StateError

FOLDER = "stages"

Answer = dict[str, Any]
Told = Callable[[Mapping[str, Any]], str]
"""A stage's answer as a short sentence."""


@dataclass(frozen=True)
class Stage:
    """name: of its record. what: a heading. of: everything that its answer depends on, as plain values."""

    name: str
    what: str
    of: Mapping[str, Any]


class Stages:
    """The stages of one output folder, in the order in which they are asked for."""

    def __init__(self, out: Path, listener: Listener, surroundings: Mapping[str, str]) -> None:
        self.out, self.listener, self.surroundings = out, listener, surroundings
        self.seconds: dict[str, float] = {}
        self.commands: list[str] = []

    def command(self, name: str, what: str, command: Command, *, told: Told, **of: str) -> Answer:
        """Run a verb once; `of`: what it depends on beside its arguments. Raises StepError, StateError."""
        self.commands.append(command.typed)
        stage = Stage(name, what, {"arguments": list(command.run[1:]), **of})
        return self.work(stage, lambda: run(name, command, self.surroundings), told=told, typed=command.typed)

    def work(self, stage: Stage, do: Callable[[], Answer], *, told: Told, typed: str = "") -> Answer:
        """Do a stage of our own once; its answer is plain JSON."""
        number, watch = len(self.seconds) + 1, Stopwatch()
        self.listener.begin(number, stage.name, stage.what, typed)
        record = self.out / FOLDER / f"{stage.name}.json"
        known = _known(record, stage)
        if known is None:
            answer = do()
            known = {"of": dict(stage.of), "answer": answer, "seconds": round(watch.seconds, 1)}
            record.parent.mkdir(parents=True, exist_ok=True)
            files.write_json(record, known)
            summary = told(answer)
        else:
            summary = f"done before: {told(known['answer'])}"
        self.seconds[stage.name] = known["seconds"]
        self.listener.end(number, summary, watch.seconds)
        found: Answer = known["answer"]
        return found


def _known(record: Path, stage: Stage) -> Answer | None:
    if not record.is_file():
        return None
    known: Answer = json.loads(record.read_text())
    if known["of"] != stage.of:
        differing = sorted(
            key for key in {*known["of"], *stage.of} if known["of"].get(key) != stage.of.get(key)
        )
        raise StateError(
            f"{record} is of another {' and '.join(differing)}: name another --out, or remove "
            f"{record.parent.parent} to begin anew"
        )
    return known
