"""Every shipped recipe on a small tree of its layout, through the real build; two on their real files."""

import json
import os
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import factory
import pytest
from layouts import LAYOUTS, Layout
from photographs import contents, save, shard, write_table

from ssl_retina import labels, shards
from ssl_retina.archive import recipe
from ssl_retina.archive.build import Listener, Settings, build
from ssl_retina.errors import InputError, StateError


def _facts(out: Path) -> list[dict[str, Any]]:
    reader = shards.Reader(shards.read_index(out))
    try:
        return [dict(reader.facts(number)) for number in range(len(reader))]
    finally:
        reader.close()


def _ledger(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / shards.LEDGER_NAME).read_text().splitlines()]


def test_every_shipped_recipe_has_a_layout() -> None:
    assert recipe.shipped_names() == sorted(LAYOUTS)


@pytest.mark.parametrize("name", sorted(LAYOUTS))
def test_layout(name: str, tmp_path: Path) -> None:
    """Images, patients, eyes, splits, devices, visits and what is left out, each with its reason."""
    layout = LAYOUTS[name]
    used = recipe.load(name)
    out, told = tmp_path / "out", []
    settings = Settings(recipe=used, key_file=factory.write_key(tmp_path / "key"), size=32, processes=1)
    totals = build(layout.draw(tmp_path / "source"), out, settings, Listener(advise=told.append))
    facts = _facts(out)
    assert totals.written == len(facts) == layout.images, totals
    assert totals.scanned == len(layout.files)
    assert totals.patients == layout.patients
    assert Counter(one["eye"] for one in facts) == layout.eyes
    assert Counter(one["split"] for one in facts) == layout.splits
    assert Counter(one["device"] for one in facts) == layout.devices
    assert Counter(one["modality"] for one in facts) == layout.modalities
    if layout.visits is not None:
        assert Counter(one["visit"] for one in facts) == layout.visits
    skipped = [line for line in _ledger(out) if line["reason"] == recipe.SKIPPED]
    assert Counter(line["detail"] for line in skipped) == layout.skipped
    assert {line["outcome"] for line in skipped} <= {"rejected"}
    assert totals.reasons == ({recipe.SKIPPED: len(skipped)} if skipped else {})
    assert json.loads((out / shards.INDEX_NAME).read_text())["ssl_retina"]["recipe"] == used.facts()
    _labels_are_found(told, layout, out)


def _labels_are_found(told: list[str], layout: Layout, out: Path) -> None:
    """Each command that is told joins its labels with the shards as `probe` does; each task reads them."""
    reader = shards.Reader(shards.read_index(out))
    try:
        found = []
        for words in (shlex.split(line) for line in told if "--labels" in line.split(" --task ")[0]):
            if words[:3] != ["labels:", "ssl-retina", "probe"]:
                continue
            table = labels.read(Path(words[words.index("--labels") + 1]))
            joined = labels.join(table, reader, factory.KEY, file=words[words.index("--file") + 1])
            asked = [labels.parse_task(words[at + 1]) for at, word in enumerate(words) if word == "--task"]
            numbers = {len(labels.agreed(joined, labels.target(task, table))[0]) for task in asked}
            assert len(numbers) == 1, "every task of a table labels the same photographs here"
            found += sorted(numbers)
            for option in ("--patient", "--split"):
                column = words[words.index(option) + 1] if option in words else "none"
                assert column == "none" or table.column(column)
    finally:
        reader.close()
    assert tuple(found) == layout.labelled, told


def test_the_same_recipe_gives_the_same_bytes_and_another_is_refused(tmp_path: Path) -> None:
    source = LAYOUTS["eyepacs"].draw(tmp_path / "source")
    for out in ("one", "two"):
        shard(tmp_path, source, out, recipe=recipe.load("eyepacs"), size=32)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    with pytest.raises(StateError, match="recipe was eyepacs, is plain"):
        shard(tmp_path, source, "one", recipe=recipe.load("plain"), size=32)


def test_a_recipe_that_was_changed_is_another(tmp_path: Path) -> None:
    """What is left out decides the bytes: an output of the older recipe is not taken for the new one's."""
    for number, name in enumerate(("a.jpg", "b.jpg")):
        save(tmp_path / "source" / name, number)
    shard(tmp_path, tmp_path / "source", recipe=_own(tmp_path, "images: '*.jpg'\n"))
    with pytest.raises(StateError, match="the files of the source"):
        shard(tmp_path, tmp_path / "source", recipe=_own(tmp_path, "images: 'a.jpg'\n"))


def test_the_labels_are_told_and_never_written(tmp_path: Path) -> None:
    source = LAYOUTS["hygd"].draw(tmp_path / "a b")
    told: list[str] = []
    notes: list[str] = []
    settings = Settings(recipe=recipe.load("hygd"), key_file=factory.write_key(tmp_path / "key"), size=32)
    build(source, tmp_path / "out", settings, Listener(notes.append, advise=told.append))
    assert told == [
        f"labels: ssl-retina probe WEIGHTS --data {tmp_path}/out --labels '{source}/Labels.csv' "
        "--file 'Image Name' --patient Patient --task glaucoma=Label:GON+ --out out/probe"
    ]
    assert not any("not verified" in note for note in notes)
    assert b"GON" not in b"".join(contents(tmp_path / "out").values())


def test_an_unverified_recipe_says_so(tmp_path: Path) -> None:
    source = LAYOUTS["fives"].draw(tmp_path / "source")
    notes: list[str] = []
    told: list[str] = []
    settings = Settings(recipe=recipe.load("fives"), key_file=factory.write_key(tmp_path / "key"), size=32)
    build(source, tmp_path / "out", settings, Listener(notes.append, advise=told.append))
    assert [note for note in notes if "not verified" in note]
    assert "2 left out: masks of vessels" in " ".join(notes)
    assert told == [f"labels: {recipe.load('fives').no_labels}"]


def test_what_is_given_by_hand_counts_before_the_recipe(tmp_path: Path) -> None:
    """A column given by hand is taken for every file: two sources of patients are never mixed."""
    source = LAYOUTS["hygd"].draw(tmp_path / "source")
    rows = [("0_0.jpg", "A"), ("1_0.jpg", "A"), ("1_1.jpg", "B")]
    table = write_table(tmp_path / "mine.csv", ("file", "patient"), rows)
    totals = shard(tmp_path, source, recipe=recipe.load("hygd"), table=table, size=32)
    assert totals.patients == 2
    assert {one["device"] for one in _facts(tmp_path / "out")} == {"Topcon DRI OCT Triton"}
    with pytest.raises(InputError, match=r"--table CSV\); the recipe hygd maps its own tables"):
        Settings(recipe=recipe.load("hygd"), columns={"patient": "Patient"})


def _own(folder: Path, body: str) -> recipe.Recipe:
    path = folder / "own.yaml"
    path.write_text(
        "title: t\nlicence: l\ncitation: c\npage: none\nverified: true\nno_labels: none\n" + body, "utf-8"
    )
    return recipe.read(path)


def test_sources_that_name_different_patients_are_refused(tmp_path: Path) -> None:
    """Both are named, no patient is, and nothing is written."""
    for number, name in enumerate(("0_0.jpg", "1_0.jpg")):
        save(tmp_path / "source" / name, number)
    write_table(tmp_path / "source" / "t.csv", ("image", "who"), [("0_0.jpg", "0"), ("1_0.jpg", "Meier")])
    own = _own(
        tmp_path,
        "images: '*.jpg'\n"
        "tables: [{table: t.csv, rows: '{image}', fits: '{name}', states: {patient: '{who}'}}]\n"
        "paths: [{fits: '{who}_{_}.jpg', states: {patient: '{who}'}}]\n",
    )
    with pytest.raises(InputError) as refused:
        shard(tmp_path, tmp_path / "source", recipe=own)
    assert "tables.0 and its path give different patients for 1 images" in str(refused.value)
    assert "Meier" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_eyes_that_contradict_become_unknown(tmp_path: Path) -> None:
    for number, name in enumerate(("0_OD.jpg", "1_OD.jpg", "2_OD.jpg")):
        save(tmp_path / "source" / name, number)
    write_table(tmp_path / "source" / "t.csv", ("id", "side"), [("0", "2"), ("1", "1.0"), ("2", "?")])
    own = _own(
        tmp_path,
        "images: '*.jpg'\nvalues: {eye: {'1': right, '2': left, '?': null}}\n"
        "tables: [{table: t.csv, rows: '{id}', fits: '{who}', states: {eye: '{side}'}}]\n"
        "paths: [{fits: '{who}_{side}.jpg', states: {eye: '{side}'}}]\n",
    )
    totals = shard(tmp_path, tmp_path / "source", recipe=own)
    assert Counter(one["eye"] for one in _facts(tmp_path / "out")) == {"unknown": 1, "right": 2}
    assert totals.remarks["eye_conflict"] == 1
    assert "unknown_eye" not in totals.remarks


def test_tables_are_joined_by_patient(tmp_path: Path) -> None:
    """One table by file, one by the patient that the path names; ids are built of parts."""
    for number, name in enumerate(("a/007/x.jpg", "a/007/y.jpg", "b/007/x.jpg", "b/8/x.jpg")):
        save(tmp_path / "source" / name, number)
    write_table(tmp_path / "source/people.csv", ("clinic", "nr", "cam"), [("a", "7", "B"), ("b", "7", "C")])
    own = _own(
        tmp_path,
        "images: '**/*.jpg'\n"
        "tables: [{table: people.csv, rows: '{clinic}-{nr}', fits: '{clinic}-{nr}',"
        " states: {device: '{cam}'}}]\n"
        "paths: [{fits: '{clinic}/{zeros:0*}{nr}/{_}', states: {patient: '{clinic}-{nr}'}},"
        " {fits: '{clinic}/{nr}/{_}', states: {patient: '{clinic}-{nr}'}}]\n",
    )
    totals = shard(tmp_path, tmp_path / "source", recipe=own)
    assert totals.patients == 3
    assert Counter(one["device"] for one in _facts(tmp_path / "out")) == {"B": 2, "C": 1, None: 1}
    assert totals.remarks["files_without_table_row"] == 1


def test_no_word_of_a_patient_leaves_by_a_recipe(tmp_path: Path) -> None:
    """Planted in folders, names and cells: neither output nor notes nor advice hold it (F99)."""
    for number, name in enumerate(("Canary^Eva/19610203/Canary_L.jpg", "Canary^Eva/19610203/mask.jpg")):
        save(tmp_path / "source" / name, number)
    write_table(tmp_path / "source" / "t.csv", ("id", "born", "grade"), [("Canary_L", "Canary61", "1")])
    own = _own(
        tmp_path,
        "images: '**/*.jpg'\nskip: [{files: '**/mask.jpg', why: masks}]\n"
        "tables: [{table: t.csv, rows: '{id}', states: {patient: '{born}'}}]\n"
        "paths: [{fits: '{who}/{day}/{_}_{side}.jpg', states: {visit: '{day}', eye: '{side}'}}]\n",
    )
    lines: list[str] = []
    settings = Settings(recipe=own, key_file=factory.write_key(tmp_path / "key"), size=32)
    totals = build(
        tmp_path / "source", tmp_path / "out", settings, Listener(lines.append, advise=lines.append)
    )
    assert (totals.written, totals.patients) == (1, 1)
    written = b"".join(contents(tmp_path / "out").values())
    for planted in ("Canary", "canary", "19610203", "mask.jpg"):
        assert planted.encode() not in written
        assert planted not in "\n".join(lines)


def test_a_table_that_is_absent_or_lacks_a_column_is_refused(tmp_path: Path) -> None:
    source = LAYOUTS["octdl"].draw(tmp_path / "source")
    table = source / "OCTDL_labels.csv"
    table.write_text(table.read_text().replace("patient_id", "person"))
    with pytest.raises(InputError, match=r"tables\.0 asks for the column 'patient_id'.*it has: file_name"):
        shard(tmp_path, source, recipe=recipe.load("octdl"))
    table.unlink()
    with pytest.raises(InputError, match="its table .*OCTDL_labels.csv is not below the source"):
        shard(tmp_path, source, recipe=recipe.load("octdl"))
    (tmp_path / "empty").mkdir()
    save(tmp_path / "empty" / "x.bmp", 1)
    with pytest.raises(InputError, match="no image of the recipe brset: it looks for"):
        shard(tmp_path, tmp_path / "empty", recipe=recipe.load("brset"))


def test_unreadable_files_keep_their_reason(tmp_path: Path) -> None:
    """A link is never followed, skipped or not: the ledger says what it is."""
    save(tmp_path / "source" / "a.jpg", 1)
    os.symlink(tmp_path / "source" / "a.jpg", tmp_path / "source" / "link.csv")
    totals = shard(tmp_path, tmp_path / "source", recipe=recipe.load("plain"))
    assert totals.reasons == {"not_regular": 1}


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "written", "duplicates", "patients", "conflicts"),
    [("idrid", 510, 6, 0, 0), ("hygd", 737, 10, 288, 6)],
)
def test_real_files(
    real_data: Path, tmp_path: Path, name: str, written: int, duplicates: int, patients: int, conflicts: int
) -> None:
    """The real IDRiD and HYGD: their listed duplicates, and those across patients as id_conflict."""
    totals = shard(tmp_path, real_data / name, recipe=recipe.load(name), size=64, processes=2)
    assert (totals.written, totals.duplicates, totals.patients) == (written, duplicates, patients)
    assert totals.remarks.get("id_conflict", 0) == conflicts
    assert set(totals.reasons) == {recipe.SKIPPED}
    facts = _facts(tmp_path / "out")
    if name == "idrid":
        splits = Counter(one["split"] for one in facts)
        assert splits == {"train": 407, "test": 102, "test|train": 1}
        return
    sizes = Counter(one["group"] for one in facts)
    people = {one["group"]: set() for one in facts}
    for one in facts:
        people[one["group"]] |= {one["patient"], *(alias["patient"] for alias in one["aliases"])}
    assert sorted(len(one) for one in people.values() if len(one) > 1) == [2, 2, 4]
    assert sum(sizes.values()) == written
