"""What a run writes down while it trains: `metrics.jsonl` always, wandb and TensorBoard by config.

In: one mapping a logged step; numbers that depend on the machine's clock stand under `"clock"`, so that all
others of a resumed run equal those of an uninterrupted one. One process writes. Nothing is sent unless
`tracking.wandb` is `online`, and never an image, a path or a line of the console.
"""

import contextlib
import importlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from ssl_retina import files
from ssl_retina.config import Run
from ssl_retina.models import receipt

METRICS = "metrics.jsonl"
WANDB_ID = "wandb-id"
PRIVATE = (
    "out",
    "data.shards",
    "data.proportions",
    "data.exclude",
    "data.cache",
    "model.init",
    "model.init_reference",
    "tracking.labels",
)
"""What is a path of this machine or may be one: it stays out of what a dashboard gets."""

Line = Mapping[str, Any]


class Sink(Protocol):
    """Somewhere a line goes."""

    def write(self, line: Line) -> None:
        """Take one logged step."""
        ...

    def close(self) -> None:
        """Finish; called once."""
        ...


def finite(value: float) -> float | None:
    """JSON has no NaN and no infinity: null stands for them."""
    return value if math.isfinite(value) else None


def read_lines(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl`; a last line that a kill cut short is left out."""
    path = run_dir / METRICS
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        with contextlib.suppress(json.JSONDecodeError):
            lines.append(json.loads(text))
    return lines


def last_step(run_dir: Path) -> int:
    """The last step that the metrics know of; 0 without any."""
    return max((int(line["step"]) for line in read_lines(run_dir)), default=0)


class Lines:
    """`metrics.jsonl`: a line is on disk before the step's checkpoint is; later lines than `step` go."""

    def __init__(self, run_dir: Path, step: int) -> None:
        path = run_dir / METRICS
        kept = [line for line in read_lines(run_dir) if line["step"] <= step]
        files.write_bytes(path, b"".join(_encoded(line) for line in kept))
        self._file: BinaryIO = path.open("ab")

    def write(self, line: Line) -> None:
        """Append, flush, fsync."""
        self._file.write(_encoded(line))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _encoded(line: Line) -> bytes:
    return json.dumps(line, sort_keys=True, allow_nan=False).encode() + b"\n"


def _scalars(line: Line, prefix: str = "") -> Iterator[tuple[str, float]]:
    for key, value in line.items():
        if isinstance(value, Mapping):
            yield from _scalars(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


class TensorBoard:
    """Event files in `tensorboard/`, for whoever prefers them."""

    def __init__(self, run_dir: Path, step: int) -> None:
        module = importlib.import_module("torch.utils.tensorboard")  # takes seconds, seldom asked for
        self._writer: Any = module.SummaryWriter(str(run_dir / "tensorboard"), purge_step=step + 1)

    def write(self, line: Line) -> None:
        """One scalar a number."""
        for name, value in _scalars(line):
            if name != "step" and not name.startswith("clock/time"):
                self._writer.add_scalar(name, value, int(line["step"]))

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Wandb:
    """wandb, offline unless the config says online; one id for the life of the run folder.

    Console, code, git, machine and metadata capture are off: a console can hold paths, and paths can
    hold patients. Each process start makes a folder of its own; `wandb sync` joins them by the id.
    """

    def __init__(self, run: Run) -> None:
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # its crash reports would be network traffic
        self._wandb: Any = importlib.import_module("wandb")  # the package can be absent
        settings = self._wandb.Settings(
            console="off",
            save_code=False,
            silent=True,
            disable_git=True,
            x_disable_meta=True,
            x_disable_machine_info=True,
        )
        self.note = ""
        start = partial(self._started, run, settings=settings)
        try:
            self._run: Any = start(run.tracking.wandb)
        except self._wandb.errors.Error as error:  # no key, no network: training goes on
            self._run = start("offline")
            reason = str(error).split("\n", 1)[0]
            self.note = f"wandb is offline ({reason}); later: wandb sync {run.out}/wandb/offline-run-*"
        self._run.define_metric("*", step_metric="step")

    def _started(self, run: Run, mode: str, *, settings: Any) -> Any:
        return self._wandb.init(
            project=run.tracking.project,
            id=_wandb_id(run.out),
            dir=str(run.out),
            mode=mode,
            resume="allow" if mode == "online" else None,
            config=public(run),
            settings=settings,
        )

    def write(self, line: Line) -> None:
        """Log the line's numbers; our own `step` is the axis, since wandb's never goes back."""
        self._run.log(dict(_scalars(line)))

    def close(self) -> None:
        """Finish the run, which waits for its own process."""
        self._run.finish()


def _wandb_id(run_dir: Path) -> str:
    path = run_dir / WANDB_ID
    if not path.is_file():
        files.write_bytes(path, secrets.token_hex(8).encode() + b"\n")
    return path.read_text().strip()


def public(run: Run) -> dict[str, Any]:
    """The config without the paths of this machine; weights to start from by layout and SHA-256."""
    content = run.dump()
    told = run.out / receipt.NAME
    if run.model.init is not None and told.is_file():
        known = json.loads(told.read_bytes())
        content["init"] = {name: known[name] for name in ("layout", "hashed", "sha256")}
    for field in PRIVATE:
        *sections, key = field.split(".")
        section = content
        for name in sections:
            section = section[name]
        section.pop(key, None)
    return content


@contextlib.contextmanager
def sinks(run: Run, step: int) -> Iterator[list[Sink]]:
    """Open what the config asks for, after a start at `step`; the metrics file first and closed last."""
    with contextlib.ExitStack() as stack:
        opened: list[Sink] = []

        def add(sink: Sink) -> None:
            opened.append(sink)
            stack.callback(sink.close)

        add(Lines(run.out, step))
        if run.tracking.tensorboard:
            add(TensorBoard(run.out, step))
        if run.tracking.wandb != "off":
            add(Wandb(run))
        yield opened
