"""The whole path: draw -> shard -> inspect -> pretrain -> export -> plain timm -> probe -> page.

In: a folder. Out: everything a user's own archive would give, in that folder, and what it proves. Every
step is the command that it shows, in a process of its own; a second run goes on where the first stood.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ssl_retina import __version__, files, pseudonyms, shipped, synthetic
from ssl_retina.demo import story
from ssl_retina.demo.steps import Command, Listener, Stopwatch, environment, near, python, run, verb
from ssl_retina.demo.verdict import judge
from ssl_retina.errors import StateError
from ssl_retina.report import page

SEED = 0
SIZE = 256
PROCESSES = 2
RECORD = "demo.json"
PAGE = "index.html"
BASELINES = ("random", "mean-colour", "pixel-pca")
TASK = "referable=referable"
CREATE = "timm.create_model('local-dir:{folder}', pretrained=True)"
TIMM = """
import json, sys, timm, torch
model = {create}.eval()
with torch.inference_mode():
    features = model(torch.zeros(2, *model.pretrained_cfg["input_size"]))
known = any(name.startswith("ssl_retina") for name in sys.modules)
print(json.dumps({{"features": list(features.shape), "ssl_retina": known}}))
"""


@dataclass
class Course:
    """How the demo goes: where it writes, who listens, and what was done so far."""

    out: Path
    listener: Listener
    surroundings: dict[str, str]
    steps: list[page.Step] = field(default_factory=list)
    answers: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str, what: str, command: Command, told: Callable[[dict[str, Any]], str]) -> None:
        """Run one command and note it; `told` makes its JSON a short sentence."""
        with self.noted(name, what, command.typed) as summary:
            answer = run(name, command, self.surroundings)
            self.answers[name] = answer
            summary.append(told(answer))

    @contextmanager
    def noted(self, name: str, what: str, command: str = "") -> Iterator[list[str]]:
        """Note beginning, end and seconds of a step; it leaves its summary in the list."""
        number, watch, summary = len(self.steps) + 1, Stopwatch(), list[str]()
        self.listener.begin(number, name, what, command)
        yield summary
        self.steps.append(page.Step(name, what, command, watch.seconds))
        self.listener.end(number, "; ".join(summary), watch.seconds)


def walk(out: Path, listener: Listener) -> dict[str, Any]:
    """Go the whole path in `out` and give what `--json` prints.

    Raises StateError for a folder that holds something else, StepError for a step that failed.
    """
    _claim(out)
    with files.lock(out):
        key_file = _key()
        course = Course(out, listener, environment(key_file))
        for line in story.surroundings(near(key_file)):
            listener.note(f"$ {line}")
        _draw(course)
        _archive_steps(course)
        _model_steps(course)
        return _tell(course, key_file)


def _claim(out: Path) -> None:
    """Take a new or empty folder, or one of an earlier demo of this version."""
    out.mkdir(parents=True, exist_ok=True)
    record = out / RECORD
    inside = [entry.name for entry in out.iterdir() if not entry.name.startswith(files.LOCK_NAME)]
    if inside and not record.is_file():
        raise StateError(f"{out} holds other things than a demo: choose another --out, or empty it")
    if not record.is_file():
        files.write_json(record, _identity())
    known = json.loads(record.read_text())
    if {name: known.get(name) for name in _identity()} != _identity():
        raise StateError(f"{out} holds the demo of another version: choose another --out, or remove it")


def _identity() -> dict[str, Any]:
    return {"version": __version__, "seed": SEED, "size": SIZE}


def _key() -> Path:
    """The demo's own key, beside the user's; never inside the output, which people pass on."""
    path = pseudonyms.default_key_file().with_name("demo-key")
    if not path.exists():
        pseudonyms.make_key(path)
    return path


def _draw(course: Course) -> None:
    with course.noted("draw", "a messy archive of 150 invented patients, for the demo only") as summary:
        drawn = synthetic.summary(course.out, seed=SEED)
        if drawn.labels.is_file():
            summary.append("drawn already")
        else:
            drawn = synthetic.draw_archive(course.out, seed=SEED)
        summary.append(
            f"{drawn.photographs} photographs of 4 cameras, {drawn.scans} OCT B-scans, "
            f"{drawn.copies} copies, {drawn.bad} files that are no pictures of eyes"
        )


def _archive_steps(course: Course) -> None:
    out = course.out
    course.step(
        "shard",
        "raw files with names in them -> de-identified shards",
        verb(
            *("shard", f"{out}/archive", "--table", f"{out}/attributes.csv"),
            *("--size", str(SIZE), "--out", f"{out}/shards"),
        ),
        story.of_shard,
    )
    course.step(
        "inspect",
        "every byte against the index",
        verb("inspect", f"{out}/shards"),
        story.of_inspect,
    )


def _model_steps(course: Course) -> None:
    out = course.out
    config = near(shipped.folder("configs") / "pretrain" / "demo_mae.yaml")
    course.step(
        "pretrain",
        "a masked autoencoder, DeepSpeed, two processes, about two minutes",
        verb(
            *("pretrain", config, f"data.shards={out}/shards", f"out={out}/run"),
            *("--processes", str(PROCESSES)),
        ),
        story.of_pretrain,
    )
    course.step(
        "export",
        "the encoder alone, with a card and checksums",
        verb("export", f"{out}/run", "--out", f"{out}/model"),
        story.of_export,
    )
    create = CREATE.format(folder=f"{out}/model")
    course.step(
        "timm",
        "plain timm loads it, in a process without ssl_retina",
        python(TIMM.format(create=create), typed=f"import timm; {create}"),
        story.of_timm,
    )
    course.step(
        "probe",
        "what it is worth: a small labelled set, held against three baselines",
        verb(
            *("probe", f"{out}/model", *BASELINES, "--data", f"{out}/shards"),
            *("--labels", f"{out}/labels.csv", "--task", TASK, "--patient", "patient"),
            *("--out", f"{out}/probe"),
        ),
        story.of_probe,
    )


def _tell(course: Course, key_file: Path) -> dict[str, Any]:
    """Write the page and the record, and give the record."""
    verdict = judge(course.answers["probe"])
    with course.noted("page", "everything on one page") as summary:
        content = story.page_of(course.out, course.steps, course.answers, verdict=verdict, key=near(key_file))
        page.write(content, course.out / PAGE)
        summary.append(str(course.out / PAGE))
    record = {
        **_identity(),
        "out": str(course.out),
        "seconds": round(sum(step.seconds for step in course.steps), 1),
        "steps": [{**asdict(step), "seconds": round(step.seconds, 1)} for step in course.steps],
        "totals": dict(content.totals or {}),
        "pretrain": course.answers["pretrain"],
        "task": course.answers["probe"]["tasks"][0],
        "verdict": asdict(verdict),
        "page": str(course.out / PAGE),
    }
    files.write_json(course.out / RECORD, record)
    return record
