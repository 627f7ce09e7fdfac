"""A YAML file and overrides -> one frozen `Run`; all mistakes at once, with file, line and suggestion.

Defaults live beside the types here and in the method files. Derived values are properties; nothing is
written back into a config.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    create_model,
    model_validator,
)

from ssl_retina import architecture, config_text
from ssl_retina.config_text import Source
from ssl_retina.errors import ConfigError
from ssl_retina.sections import (
    Adversary,
    Area,
    Checkpoint,
    CropScale,
    Data,
    MaskRatio,
    Model,
    Natural,
    Optim,
    Positive,
    Schedule,
    Section,
    Share,
    Spikes,
    Tracking,
    Train,
)

__all__ = [
    "Adversary",
    "Area",
    "Checkpoint",
    "CropScale",
    "Data",
    "MaskRatio",
    "Model",
    "Natural",
    "Optim",
    "Positive",
    "Resolve",
    "Run",
    "Schedule",
    "Section",
    "Share",
    "Spikes",
    "Tracking",
    "Train",
    "load",
    "parse",
    "validate",
]


class Run(Section):
    """One pretraining run; `method` is validated by the method file's own `Config`."""

    out: Path
    data: Data
    method: Section
    train: Train
    seed: Natural = 0
    model: Model = Model()
    adversary: Adversary = Adversary()
    optim: Optim = Optim()
    schedule: Schedule = Schedule()
    checkpoint: Checkpoint = Checkpoint()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _consistent(self) -> "Run":
        if self.schedule.warmup_steps >= self.train.steps:
            raise ValueError(
                f"schedule.warmup_steps ({self.schedule.warmup_steps}) must be below "
                f"train.steps ({self.train.steps})"
            )
        if self.data.batch_size % self.train.accumulate:
            raise ValueError(
                f"data.batch_size ({self.data.batch_size}) must be a multiple of "
                f"train.accumulate ({self.train.accumulate})"
            )
        return self

    @model_validator(mode="after")
    def _fitting_method(self) -> "Run":
        if problem := self.method.conflict(init=self.model.init, steps=self.train.steps):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _whole_batches(self) -> "Run":
        """Law 3: what compares samples needs the whole batch at once, so that ranks change nothing."""
        if not self.method.couples_batch:
            return self
        why = f"for {self.method_name}: its loss compares the samples of a batch with each other"
        if self.train.accumulate > 1:
            raise ValueError(
                f"train.accumulate ({self.train.accumulate}) must be 1 {why}, and parts of a batch have "
                "other losses than the whole; lower data.batch_size, or use more processes"
            )
        if self.data.batch_size < 2:
            raise ValueError(f"data.batch_size ({self.data.batch_size}) must be at least 2 {why}")
        return self

    @model_validator(mode="after")
    def _parts_of_batches(self) -> "Run":
        if self.train.encoder_batch is not None and not self.method.encodes_in_parts:
            remedy = "leave it out" if self.method.couples_batch else "set train.accumulate instead"
            raise ValueError(
                f"train.encoder_batch ({self.train.encoder_batch}) is not for {self.method_name}: cached "
                f"gradients are there for methods that contrast one vector of each view; {remedy}"
            )
        if self.train.pack_crops and not getattr(self.method, "local_views", 0):
            raise ValueError(
                f"train.pack_crops needs large and small crops, and {self.method_name} has one size here: "
                "leave it out"
            )
        return self

    @property
    def method_name(self) -> str:
        """The name of the method's file."""
        return str(getattr(self.method, "name"))  # noqa: B009 - declared by every method's own Config

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate after warm-up: linear in the batch (Goyal et al. 2017)."""
        return self.optim.learning_rate * self.data.batch_size / 256

    def dump(self) -> dict[str, Any]:
        """Plain JSON values, as they stand beside a checkpoint."""
        return self.model_dump(mode="json")


Resolve = Callable[[str], type[Section] | None]


def load(path: Path, overrides: Sequence[str], resolve: Resolve, methods: Sequence[str] = ()) -> Run:
    """Read one config.

    `resolve` gives a method's `Config` by name, or None for an unknown one; `methods` are the names to
    choose from. Raises ConfigError that lists every problem.
    """
    source = architecture.filled(config_text.read(path, overrides))
    return validate(source, resolve, methods)


def parse(content: Mapping[str, Any], resolve: Resolve) -> Run:
    """A config from plain values, such as the JSON beside a checkpoint."""
    return validate(config_text.from_values(content), resolve)


def validate(source: Source, resolve: Resolve, methods: Sequence[str] = ()) -> Run:
    """Check a config's values against the types of `Run` and of its method."""
    problems = list(source.problems)
    config_type, trouble = _method_config(source, resolve, methods)
    problems.extend(trouble)
    type_of_run = create_model("Run", __base__=Run, method=(config_type, ...))
    run, wrong = config_text.check(type_of_run, source, skip=("method",) if trouble else ())
    problems.extend(wrong)
    if problems:
        raise ConfigError(source.name, problems)
    assert isinstance(run, Run)
    return run


def _method_config(
    source: Source, resolve: Resolve, methods: Sequence[str]
) -> tuple[type[Section], Sequence[str]]:
    section = source.values.get("method")
    name = section.get("name") if isinstance(section, dict) else None
    choices = f"one of: {', '.join(methods)}" if methods else "the name of a method"
    if not isinstance(name, str):
        where = source.place(("method", "name"), ("method",))
        return Section, (f"method.name: required, not given; {choices}   {where}",)
    found = resolve(name)
    if found is None:
        hint = config_text.did_you_mean(name, methods)
        return Section, (
            f"method.name: no method {name!r}{hint or ';'} {choices}   {source.place(('method', 'name'))}",
        )
    return found, ()
