"""DATA -> de-identified shards of both sets, divided, and the list of what pretraining must not see.

In: the folder of IDRiD and HYGD, and the output folder. Out: `Ready`, and the stages of that folder.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_retina import files, pseudonyms
from ssl_retina.demo import story
from ssl_retina.demo.steps import Listener, environment, near, verb
from ssl_retina.real import halves, report
from ssl_retina.real.halves import Halves
from ssl_retina.real.sources import Source, sources
from ssl_retina.real.stages import FOLDER, Stages

SIZE = 256
"""Side of a stored photograph: views have half of it, and a quarter of the bytes are decoded."""
EXCLUSIONS = "held_out.txt"
RESULT, REPORT = "real.json", "report.md"
VARIED, VARIED_REPORT = "vary.json", "vary.md"
KNOWN = (RESULT, REPORT, VARIED, VARIED_REPORT, EXCLUSIONS, FOLDER, "shards", files.LOCK_NAME)


@dataclass(frozen=True)
class Ready:
    """Sharded and divided: what pretraining and probes start from."""

    out: Path
    key_file: Path
    divided: tuple[tuple[Source, Halves], ...]


@contextmanager
def begun(data: Path, out: Path, listener: Listener) -> Iterator[tuple[Stages, Ready]]:
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
        divided = tuple((source, halves.divide(source, shards_of(out, source), key_file)) for source in found)
        ready = Ready(out, key_file, divided)
        halves.write_exclusions(out / EXCLUSIONS, [one for _, one in divided])
        for source, one in divided:
            listener.note(f"{source.name}: {report.of_halves(facts_of(source, one))}")
        yield stages, ready


def _key() -> Path:
    """A key of its own, beside the user's, which is for their own archive; never inside the output."""
    path = pseudonyms.default_key_file().with_name("real-key")
    if not path.exists():
        pseudonyms.make_key(path)
    return path


def shards_of(out: Path, source: Source) -> Path:
    """Where the shards of a set lie."""
    return out / "shards" / source.name


def _shard(stages: Stages, source: Source) -> None:
    columns = {"file": source.file, "patient": source.patient, "split": source.split}
    mapped = [word for ours, theirs in columns.items() if theirs for word in ("--map", f"{ours}={theirs}")]
    stages.command(
        f"shard-{source.name}",
        f"{source.about} -> de-identified shards",
        verb(
            *("shard", str(source.images), "--table", str(source.labels), *mapped),
            *("--size", str(SIZE), "--out", str(shards_of(stages.out, source))),
        ),
        told=story.of_shard,
        labels=files.sha256(source.labels),
    )


def facts_of(source: Source, one: Halves) -> dict[str, Any]:
    """How a set was divided, as plain values."""
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
