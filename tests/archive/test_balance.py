"""Weights by a checkpoint's embeddings: whole or not at all, no shard touched, the same bytes again."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from killing import Bomb, killed
from photographs import contents, damage_of, save, shard, write_table
from typer.testing import CliRunner

from ssl_retina import shards
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.filters import Balance, Filters
from ssl_retina.archive.revision import balance
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.cli import app
from ssl_retina.data import inspection
from ssl_retina.errors import InputError, ShardError, StateError
from ssl_retina.probe import embedding

COUNT = 12
KINDS = [0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2]
"""What the vectors of the photographs say: three kinds, in the order of the set."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`set`: 12 photographs of 6 patients in 3 shards, weighted by device; `x.parquet`: three kinds."""
    folder = tmp_path_factory.mktemp("made")
    for number in range(COUNT):
        save(folder / "archive" / f"{number:02d}.png", number, size=40)
    rows = [[f"{number:02d}", f"P{number % 6}", f"Camera {number % 2}"] for number in range(COUNT)]
    table = write_table(folder / "t.csv", ["file", "patient", "device"], rows)
    shard(folder, folder / "archive", "set", table=table, samples_per_shard=4, filters=FILTERS)
    _embed(folder / "set", folder / "x.parquet", KINDS)
    return folder


FILTERS = Filters(balance=Balance.DEVICE, rare="clusters=0.2")


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "place"))


def _embed(folder: Path, path: Path, kinds: list[int], **about: object) -> Path:
    """A file as `embed` writes it; photographs of one kind have vectors of one direction."""
    index = shards.read_index(folder)
    reader = shards.Reader(index)
    facts = {"index": index.digest, "dimensions": 4, "sha256_of_tensors": "0" * 64, **about}
    vectors = np.eye(4, dtype=np.float32)[kinds] * np.linspace(1, 9, len(kinds), dtype=np.float32)[:, None]
    columns: dict[str, Any] = {"key": [reader.key(row) for row in range(len(kinds))]}
    columns |= dict.fromkeys(("patient", "group", *embedding.VOCABULARY), pa.nulls(len(kinds), pa.string()))
    columns["embedding"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), 4)
    pq.write_table(pa.table(columns, schema=embedding._schema(facts)), path)
    reader.close()
    return path


def _table(folder: Path) -> tuple[Any, list[str]]:
    index = shards.read_index(folder)
    table = np.array(shards.read_positions(index))
    return table, [index.columns["cluster"][code] for code in table["cluster"]]


def test_clusters_of_embeddings_are_drawn_equally_often(place: Path) -> None:
    before, old = contents(place / "set"), shards.read_index(place / "set")
    done = balance.by_embeddings(place / "set", place / "x.parquet")
    assert (done.balance, done.sizes, done.heaviest) == ("cluster", {"c00": 7, "c01": 4, "c02": 1}, 4.0)
    table, words = _table(place / "set")
    assert words == [f"c{kind:02d}" for kind in KINDS]
    assert table["weight"] == pytest.approx([12 / (3 * KINDS.count(kind)) for kind in KINDS])
    after = contents(place / "set")
    changed = {name for name in after if after[name] != before.get(name)}
    assert changed == {"index.json", "manifest.json", "positions.npy"}
    assert set(after) == set(before)
    assert damage_of(place / "set") == ()
    index = shards.read_index(place / "set")
    assert index.digest == done.digest
    assert index.facts["history"] == [{"what": "balanced", "index": old.digest}]
    assert (index.facts["totals"], index.facts["made_from"]) == (old.facts["totals"], old.facts["made_from"])


def test_the_same_file_again_changes_nothing(place: Path) -> None:
    shutil.copytree(place / "set", place / "other")
    balance.by_embeddings(place / "set", place / "x.parquet")
    wanted = contents(place / "set")
    assert not balance.by_embeddings(place / "set", place / "x.parquet").changed
    assert contents(place / "set") == wanted
    balance.by_embeddings(place / "other", place / "x.parquet")
    assert contents(place / "other") == wanted


def test_undo_brings_back_what_the_archive_step_wrote(place: Path) -> None:
    before, old = contents(place / "set"), shards.read_index(place / "set")
    assert not balance.undo(place / "set").changed
    balance.by_embeddings(place / "set", place / "x.parquet")
    done = balance.undo(place / "set")
    assert (done.balance, done.sizes) == ("device", {"Camera 0": 6, "Camera 1": 6})
    assert contents(place / "set")["positions.npy"] == before["positions.npy"]
    assert shards.read_index(place / "set").columns == old.columns
    assert damage_of(place / "set") == ()


@pytest.mark.parametrize("wrong", ["missing", "twice", "foreign", "another set", "no file", "text", "nan"])
def test_a_file_that_does_not_fit_changes_nothing(place: Path, wrong: str) -> None:
    path = place / "x.parquet"
    table = pq.read_table(path)
    if wrong == "missing":
        pq.write_table(table.slice(0, 10), path)
    elif wrong == "twice":
        pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), path)
    elif wrong == "foreign":
        withdraw(place / "set", "P3", key_file=place / "key")
    elif wrong == "another set":
        _embed(place / "set", path, KINDS, index="f" * 64)
    elif wrong == "no file":
        path.unlink()
    elif wrong == "text":
        path.write_text("key,embedding\n")
    else:
        flat = table["embedding"].combine_chunks().flatten().to_numpy().copy()
        flat[5] = np.nan
        column = pa.FixedSizeListArray.from_arrays(pa.array(flat), 4)
        pq.write_table(table.set_column(6, table.schema.field(6), column), path)
    words = {
        "missing": "no row for 2 of 12 ",
        "twice": "1 photographs twice",
        "foreign": "2 rows of photographs that are not in",
        "another set": "made from another set",
        "no file": "there is no such file",
        "text": "is no file of ssl-retina embed",
        "nan": "not finite",
    }
    before = contents(place / "set")
    with pytest.raises(InputError, match=words[wrong]):
        balance.by_embeddings(place / "set", path)
    assert contents(place / "set") == before


def test_a_modality_without_rows_is_left_as_no_fundus(place: Path) -> None:
    """`embed --where 'modality == fundus'` is a whole file for a set that holds scans too."""
    rows = [[f"{number:02d}", "oct" if number < 2 else "fundus"] for number in range(COUNT)]
    table = write_table(place / "m.csv", ["file", "modality"], rows)
    shard(place, place / "archive", "mixed", table=table)
    _embed(place / "mixed", place / "m.parquet", KINDS)
    pq.write_table(pq.read_table(place / "m.parquet").slice(2), place / "m.parquet")
    done = balance.by_embeddings(place / "mixed", place / "m.parquet")
    assert done.sizes == {"c00": 5, "c01": 4, "c02": 1, "c16": 2}
    assert _table(place / "mixed")[1][:2] == ["c16", "c16"]


def test_a_withdrawal_keeps_the_clusters_of_the_others(place: Path) -> None:
    """Its rewritten shards hold the JSON of the archive step, which knows of no embeddings."""
    balance.by_embeddings(place / "set", place / "x.parquet")
    withdraw(place / "set", "P5", key_file=place / "key")
    table, words = _table(place / "set")
    kinds = [kind for number, kind in enumerate(KINDS) if number % 6 != 5]
    assert words == [f"c{kind:02d}" for kind in kinds]
    assert table["weight"] == pytest.approx([10 / (len(set(kinds)) * kinds.count(kind)) for kind in kinds])
    assert damage_of(place / "set") == ()


def test_new_files_have_no_embeddings(place: Path) -> None:
    shard(place, place / "archive", "plain", samples_per_shard=4)
    balance.by_embeddings(place / "plain", _embed(place / "plain", place / "p.parquet", KINDS))
    settings = Settings(key_file=place / "key", processes=1, samples_per_shard=4)
    with pytest.raises(StateError, match="--undo first"):
        append(place / "archive", place / "plain", settings, Listener())


def test_a_damaged_set_is_mended_first(place: Path) -> None:
    (place / "set" / "ledger.jsonl").unlink()
    with pytest.raises(ShardError, match=r"ledger.jsonl is missing. Nothing was changed"):
        balance.by_embeddings(place / "set", place / "x.parquet")


def test_an_index_that_is_made_anew_says_nothing_of_embeddings(place: Path) -> None:
    balance.by_embeddings(place / "set", place / "x.parquet")
    (place / "set" / "positions.npy").unlink()
    index = inspection.write_index(place / "set", advance=lambda _: None)
    assert (index.facts["balance"], "clusters" in index.facts) == ("device", False)


def test_killed_anywhere_the_same_command_finishes_to_the_same_bytes(place: Path) -> None:
    shutil.copytree(place / "set", place / "wanted")
    balance.by_embeddings(place / "wanted", place / "x.parquet")
    wanted, at = contents(place / "wanted"), 0

    def work(bomb: Bomb, out: Path) -> None:
        balance.by_embeddings(out, place / "x.parquet")

    while True:
        out = Path(shutil.copytree(place / "set", place / str(at)))
        if not killed(at, lambda bomb, out=out: work(bomb, out)):
            break
        balance.by_embeddings(out, place / "x.parquet")
        assert contents(out) == wanted, at
        at += 1
    assert at > 8


def test_the_verb_takes_what_embed_writes(place: Path) -> None:
    run = CliRunner().invoke
    path = str(place / "real.parquet")
    command = ["embed", "mean-colour", "--data", str(place / "set"), "--out", path, "--workers", "0"]
    assert run(app, command).exit_code == 0
    done = run(app, ["balance", str(place / "set"), "--embeddings", path, "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert (told["balance"], sum(told["sizes"].values()), told["changed"]) == ("cluster", COUNT, True)
    assert (place / "set" / "datasheet.html").is_file()
    for words in ([], ["--embeddings", path, "--undo"]):
        assert isinstance(run(app, ["balance", str(place / "set"), *words]).exception, InputError)
