"""DATA -> shards -> held-out list -> pretraining in three seeds -> exports -> one table of test patients.

In: the folder of IDRiD and HYGD. Out: everything in one folder; a second run goes on where the first stood.
The labels of test patients are read by `walk`'s last stage alone: `develop`, which recipes are chosen by,
gets labels files without them.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina import __version__, files, pseudonyms, shards, shipped
from ssl_retina.demo import story
from ssl_retina.demo.steps import Listener, environment, near, verb
from ssl_retina.models.pretrained import WEIGHTS_NAME
from ssl_retina.probe.material import Settings
from ssl_retina.probe.patients import NO_PATIENTS
from ssl_retina.real import halves, report, table
from ssl_retina.real.halves import Halves
from ssl_retina.real.sources import Source, sources
from ssl_retina.real.stages import FOLDER, Answer, Stage, Stages
from ssl_retina.real.table import Asked

SEEDS = (0, 1, 2)
SIZE = 256
"""Side of a stored photograph: views have half of it, and a quarter of the bytes are decoded."""
PROCESSES = 2
EXCLUSIONS = "held_out.txt"
RESULT, REPORT = "real.json", "report.md"
KNOWN = (RESULT, REPORT, EXCLUSIONS, FOLDER, "shards", files.LOCK_NAME)


def config() -> Path:
    """The shipped recipe."""
    return shipped.folder("configs") / "pretrain" / "real_cpu.yaml"


@dataclass(frozen=True)
class Ready:
    """Sharded and divided: what pretraining and probes start from."""

    out: Path
    key_file: Path
    divided: tuple[tuple[Source, Halves], ...]


def walk(data: Path, out: Path, listener: Listener) -> Answer:
    """Go the whole path and give what `--json` prints.

    Raises InputError for absent data, StateError for a folder of something else, StepError for a failed step.
    """
    with _begun(data, out, listener) as (stages, ready):
        exports = [_trained(stages, ready, f"seed-{seed}", (f"seed={seed}",)) for seed in SEEDS]
        stage = Stage("table", "the one look at the test patients", _depends(ready, exports))
        answer = stages.work(stage, lambda: _final(ready, exports, listener), told=report.of_table)
        result = {
            "version": __version__,
            "config": near(config()),
            "sets": [_facts(source, halves) for source, halves in ready.divided],
            "tasks": answer["tasks"],
            "commands": stages.commands,
            "seconds": stages.seconds,
        }
        files.write_bytes(out / REPORT, report.markdown(result).encode())
        files.write_json(out / RESULT, result)
        return result


def develop(data: Path, out: Path, listener: Listener, *, name: str, recipe: Sequence[str]) -> Answer:
    """Try a recipe (overrides of the shipped config) inside the training patients, by cross-fitting them.

    No label of a test patient is in any file that pretraining or the probe gets.
    """
    with _begun(data, out, listener) as (stages, ready):
        export = _trained(stages, ready, f"dev-{name}", recipe)
        stage = Stage(f"dev-{name}-table", "inside the training patients", _depends(ready, [export]))
        return stages.work(stage, lambda: _dev(ready, [export], listener), told=report.of_table)


@contextmanager
def _begun(data: Path, out: Path, listener: Listener) -> Iterator[tuple[Stages, Ready]]:
    """Shard both sets and list what pretraining must not see; the folder is ours meanwhile."""
    found = sources(data)
    files.claim_folder(out, KNOWN, "results on real eyes")
    with files.lock(out):
        key_file = _key()
        stages = Stages(out, listener, environment(key_file))
        for line in story.surroundings(near(key_file)):
            listener.note(f"$ {line}")
        for source in found:
            _shard(stages, source)
        divided = tuple((source, halves.divide(source, _shards(out, source), key_file)) for source in found)
        ready = Ready(out, key_file, divided)
        halves.write_exclusions(out / EXCLUSIONS, [one for _, one in divided])
        for source, one in divided:
            listener.note(f"{source.name}: {report.of_halves(_facts(source, one))}")
        yield stages, ready


def _key() -> Path:
    """A key of its own, beside the user's, which is for their own archive; never inside the output."""
    path = pseudonyms.default_key_file().with_name("real-key")
    if not path.exists():
        pseudonyms.make_key(path)
    return path


def _shards(out: Path, source: Source) -> Path:
    return out / "shards" / source.name


def _shard(stages: Stages, source: Source) -> None:
    columns = {"file": source.file, "patient": source.patient, "split": source.split}
    mapped = [word for ours, theirs in columns.items() if theirs for word in ("--map", f"{ours}={theirs}")]
    stages.command(
        f"shard-{source.name}",
        f"{source.about} -> de-identified shards",
        verb(
            *("shard", str(source.images), "--table", str(source.labels), *mapped),
            *("--size", str(SIZE), "--out", str(_shards(stages.out, source))),
        ),
        told=story.of_shard,
        labels=files.sha256(source.labels),
    )


def _trained(stages: Stages, ready: Ready, name: str, recipe: Sequence[str]) -> Path:
    """The export of one pretraining; what decides which photographs it sees comes last and so prevails."""
    run, export = stages.out / name / "run", stages.out / name / "model"
    folders = ",".join(str(_shards(stages.out, source)) for source, _ in ready.divided)
    exclusions = stages.out / EXCLUSIONS
    stages.command(
        f"pretrain-{name}",
        "training photographs of both sets, no label",
        verb(
            *("pretrain", near(config()), *recipe, f"data.shards=[{folders}]", "data.where=null"),
            *(f"data.exclude={exclusions}", f"out={run}", "--processes", str(PROCESSES)),
        ),
        told=report.of_pretrain,
        config=files.sha256(config()),
        exclusions=files.sha256(exclusions),
    )
    stages.command(
        f"export-{name}",
        "the encoder alone",
        verb("export", str(run), "--out", str(export)),
        told=story.of_export,
    )
    return export


def _depends(ready: Ready, exports: Sequence[Path]) -> dict[str, str]:
    """All that a table's figures depend on: encoders, photographs, labels, and the program that judges."""
    found = {export.parent.name: files.sha256(export / WEIGHTS_NAME) for export in exports}
    for source, _ in ready.divided:
        found[f"{source.name} shards"] = shards.read_index(_shards(ready.out, source)).digest
        found[f"{source.name} labels"] = files.sha256(source.labels)
    return {**found, "version": __version__}


def _dev(ready: Ready, exports: Sequence[Path], listener: Listener) -> Answer:
    """The training side alone, cross-fitted."""
    with tempfile.TemporaryDirectory(prefix="ssl-retina-") as folder:  # labels name files: not in the output
        asked = []
        for source, one in ready.divided:
            path = Path(folder) / f"{source.name}.csv"
            halves.write_training_labels(path, one)
            asked.append(_asked(ready, source, path, None))
        return {"tasks": table.table(asked, exports, _advance(listener))}


def _final(ready: Ready, exports: Sequence[Path], listener: Listener) -> Answer:
    """Fitted on the training side, judged on the test side: only here does a probe get test labels."""
    with tempfile.TemporaryDirectory(prefix="ssl-retina-") as folder:
        asked = []
        for source, one in ready.divided:
            path = Path(folder) / f"{source.name}.csv"
            halves.write_all_labels(path, one)
            asked.append(_asked(ready, source, path, halves.SIDE))
        return {"tasks": table.table(asked, exports, _advance(listener))}


def _asked(ready: Ready, source: Source, path: Path, split: str | None) -> Asked:
    patient = source.patient or NO_PATIENTS
    settings = Settings(_shards(ready.out, source), path, patient, split, source.file, ready.key_file)
    return Asked(source.task, settings)


def _advance(listener: Listener) -> Callable[[str, int], None]:
    told: set[str] = set()

    def tell(name: str, done: int) -> None:
        if name not in told:
            told.add(name)
            listener.note(f"features of {name} ...")

    return tell


def _facts(source: Source, one: Halves) -> dict[str, Any]:
    return {
        "name": source.name,
        "about": source.about,
        "patients_known": source.patient is not None,
        "split": "declared"
        if source.split
        else f"half of the patients, drawn with seed {halves.SEED}, no label read",
        "train": one.count("train"),
        "test": one.count("test"),
        "on_both_sides": one.count(""),
        "train_groups": one.groups[0],
        "test_groups": one.groups[1],
        "held_out": len(one.held_out),
    }
