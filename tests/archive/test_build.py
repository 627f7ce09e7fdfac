"""The build: nothing is lost, the same bytes every time, one writer, groups of patients, clear refusals."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import contents, save, shard, write_table

from ssl_retina import files, pseudonyms, shards
from ssl_retina.archive import build as build_module
from ssl_retina.archive import chunk_store, dedup, pack, process, stage, worker
from ssl_retina.archive.pixels.encode import Encoding
from ssl_retina.archive.scan import Found
from ssl_retina.errors import BadInputLimitError, InputError, StateError

FIELDS = {
    *("key", "name", "patient", "group", "eye", "modality", "device", "visit", "split", "width", "height"),
    *("source_width", "source_height", "field_of_view", "aliases", "pixels_xxh128"),
    *("volume", "slice", "slices"),
    *("near", "id_conflict", "quality", "cluster"),
}


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Ten photographs of four patients, a duplicate under another patient, three files that are none."""
    return _messy(tmp_path / "archive")


def _messy(source: Path) -> Path:
    for number in range(10):
        save(source / f"{number % 2}" / f"p{number % 4}_{'OD' if number % 2 else 'OS'}_{number}.jpg", number)
    (source / "1" / "copy.jpg").write_bytes((source / "0" / "p0_OS_0.jpg").read_bytes())
    (source / "page.jpg").write_text("<html>no image</html>")
    (source / "empty.png").touch()
    (source / "link.jpg").symlink_to("page.jpg")
    return source


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive, its table, and outputs of it: one complete, one stopped at its start."""
    folder = tmp_path_factory.mktemp("prepared")
    source, table = _messy(folder / "archive"), _table(folder)
    shard(folder, source, "complete", table=table)
    _plan_only(folder, source, table)
    return folder


def _table(folder: Path) -> Path:
    rows = [
        [f"{n % 2}/p{n % 4}_{'OD' if n % 2 else 'OS'}_{n}.jpg", f"p{n % 4}", f"20{20 - n}-01-01", "train", n]
        for n in range(10)
    ]
    return write_table(
        folder / "table.csv",
        ["file", "patient", "visit", "split", "grade"],
        [*rows, ["1/copy.jpg", "p3", "2021-01-01", "test", 9]],
    )


def _samples(out: Path) -> list[dict[str, Any]]:
    reader = shards.Reader(shards.read_index(out))
    try:
        return [dict(reader.sample(number).facts) for number in range(len(reader))]
    finally:
        reader.close()


def _ledger(out: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (out / shards.LEDGER_NAME).read_text().splitlines()]


def test_law_1_every_file_has_its_line(tmp_path: Path, messy: Path) -> None:
    totals = shard(tmp_path, messy, table=_table(tmp_path))
    assert totals.counts() == {
        **{"scanned": 14, "written": 10, "rejected": 3, "duplicates": 1},
        **{"patients": 4, "shards": 1},
    }
    assert dict(totals.reasons) == {"not_an_image": 2, "not_regular": 1}
    assert totals.remarks["id_conflict"] == 1
    ledger = {line["key"]: line for line in _ledger(tmp_path / "out")}
    assert len(ledger) == 14
    assert {line["key"] for line in _ledger(tmp_path / "out") if line["outcome"] == "written"} == {
        sample["key"] for sample in _samples(tmp_path / "out")
    }
    duplicate = ledger[pseudonyms.image(factory.KEY, "1/copy.jpg")]
    assert duplicate["outcome"] == "duplicate"
    assert duplicate["of"] == pseudonyms.image(factory.KEY, "0/p0_OS_0.jpg")
    assert ledger[pseudonyms.image(factory.KEY, "link.jpg")]["reason"] == "not_regular"


def test_samples_hold_the_contracts_fields_and_no_others(tmp_path: Path, messy: Path) -> None:
    shard(tmp_path, messy, table=_table(tmp_path), pattern="{patient}_{eye}_{_}")
    samples = {sample["key"]: sample for sample in _samples(tmp_path / "out")}
    assert all(set(sample) == FIELDS for sample in samples.values())
    first = samples[pseudonyms.image(factory.KEY, "0/p0_OS_0.jpg")]
    p0, p3 = (pseudonyms.patient(factory.KEY, one) for one in ("p0", "p3"))
    assert first["name"] == pseudonyms.name(factory.KEY, "p0_OS_0.jpg")
    assert first["patient"] == p0
    assert first["group"] == min(p0, p3)
    assert first["split"] == "test|train"
    assert first["eye"] == "left"
    assert [alias["patient"] for alias in first["aliases"]] == [p3]
    assert [alias["split"] for alias in first["aliases"]] == ["test"]
    groups = {sample["group"] for sample in samples.values()}
    assert len(groups) == 3  # p0 and p3 share a photograph
    assert {sample["group"] for sample in samples.values() if sample["patient"] == p3} == {min(p0, p3)}


def test_visits_are_an_order_within_the_patient(tmp_path: Path, messy: Path) -> None:
    shard(tmp_path, messy, table=_table(tmp_path))
    samples = {sample["key"]: sample["visit"] for sample in _samples(tmp_path / "out")}
    # p1 was seen in 2019, 2015 and 2011 (images 1, 5, 9)
    visits = [samples[pseudonyms.image(factory.KEY, f"1/p1_OD_{number}.jpg")] for number in (1, 5, 9)]
    assert visits == [2, 1, 0]


def test_same_input_key_and_settings_give_the_same_bytes(tmp_path: Path, messy: Path) -> None:
    options = {"table": _table(tmp_path), "samples_per_shard": 4}
    shard(tmp_path, messy, "a", **options)
    shard(tmp_path, messy, "b", **options, processes=3)
    made = contents(tmp_path / "a")
    assert made == contents(tmp_path / "b")
    assert sorted(made) == [
        *("index.json", "ledger.jsonl", "manifest.json", "positions.npy"),
        *(f"retina-{number:06d}.tar" for number in range(3)),
    ]


def test_chunks_depend_on_the_archive_alone() -> None:
    assert [stage.chunk_rows(count) for count in (1, 700, 10_000, 1_000_000)] == [8, 8, 79, 256]


def test_a_complete_output_is_left_as_it_is(tmp_path: Path, messy: Path) -> None:
    first = shard(tmp_path, messy)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    assert shard(tmp_path, messy) == first
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("output", ["complete", "interrupted"])
@pytest.mark.parametrize("change", ["size", "quality", "key", "listing", "table", "site", "shards"])
def test_other_settings_on_the_same_output_are_refused(
    tmp_path: Path, prepared: Path, change: str, output: str
) -> None:
    shutil.copytree(prepared, tmp_path / "p", symlinks=True)
    folder = tmp_path / "p"
    messy, table = folder / "archive", folder / "table.csv"
    before = contents(folder / output)
    options: dict[str, Any] = {"table": table}
    if change == "size":
        options["size"] = 48
    elif change == "quality":
        options["encoding"] = Encoding(quality=80)
    elif change == "site":
        options["site"] = "north"
    elif change == "shards":
        options["samples_per_shard"] = 3
    elif change == "key":
        (folder / "key").write_text("cd" * 32)
    elif change == "listing":
        save(messy / "new.jpg", 77)
    else:
        table.write_text(table.read_text().replace("train", "test"))
    with pytest.raises(StateError, match="other settings or from another archive") as error:
        shard(folder, messy, output, **options)
    assert error.value.exit_code == 4
    expected = {"key": "another key", "listing": "files of the source", "table": "table and the pattern"}
    assert expected.get(change, change) in str(error.value).replace("samples_per_shard", "shards")
    assert contents(folder / output) == before


def _plan_only(folder: Path, source: Path, table: Path) -> None:
    """An output whose run was stopped before its first chunk."""
    run = stage.run

    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    stage.run = stop
    try:
        with pytest.raises(KeyboardInterrupt):
            shard(folder, source, "interrupted", table=table)
    finally:
        stage.run = run


def test_an_output_with_other_files_is_refused(tmp_path: Path, messy: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("x")
    with pytest.raises(StateError, match="something else"):
        shard(tmp_path, messy)
    assert contents(tmp_path / "out") == {"thesis.txt": b"x"}


def test_f46_a_second_writer_is_refused(tmp_path: Path, messy: Path) -> None:
    (tmp_path / "out").mkdir()
    with files.lock(tmp_path / "out"), pytest.raises(StateError, match="is being written by process"):
        shard(tmp_path, messy)


@pytest.mark.parametrize("kind", ["absent", "file", "empty", "no_image"])
def test_f18_a_source_without_images_leaves_nothing_behind(tmp_path: Path, kind: str) -> None:
    source = tmp_path / "archive"
    if kind == "file":
        source.write_text("x")
    elif kind != "absent":
        (source / "deep").mkdir(parents=True)
    if kind == "no_image":
        (source / "deep" / "notes.txt").write_text("notes")
        (source / "page.jpg").write_text("<html>")
    with pytest.raises(InputError) as error:
        shard(tmp_path, source, "new/out")
    assert error.value.exit_code == 2
    assert "\n" not in str(error.value)
    assert sorted(path.name for path in tmp_path.iterdir() if path != source) == ["key"]


def test_f18_thousands_of_tiny_files(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    for number in range(40):
        save(source / f"{number}.png", number, size=40)
    for number in range(2000):
        (source / f"t{number}.txt").write_text(str(number))
    totals = shard(tmp_path, source, processes=2)
    assert (totals.scanned, totals.written, totals.rejected) == (2040, 40, 2000)
    assert dict(totals.reasons) == {"not_an_image": 2000}


def test_f17_odd_names_are_processed(tmp_path: Path) -> None:
    names = [b"new\nline.jpg", b'quo"te.jpg', b"\xff\xfe.jpg", b"-rf.jpg", "\U0001f441.jpg".encode()]
    names += [b"n" * 251 + b".jpg", "e\u0301.jpg".encode(), "\u00e9.jpg".encode()]
    source = tmp_path / "archive"
    for number, name in enumerate(names):
        save(source / os.fsdecode(name), number)
    totals = shard(tmp_path, source, id_map=tmp_path / "map.csv")
    assert (totals.scanned, totals.written) == (8, 7)
    assert dict(totals.reasons) == {"same_name": 1}  # two spellings of one name are one key
    assert len({line["key"] for line in _ledger(tmp_path / "out")}) == 8
    assert b"\xff\xfe.jpg" in (tmp_path / "map.csv").read_bytes()


def test_f19_patients_that_share_photographs_are_one_group(tmp_path: Path) -> None:
    """a-b share one, b-c another: a, b and c are one group; the image without a patient joins them."""
    source = tmp_path / "archive"
    rows = [("a1", 1, "a"), ("b1", 1, "b"), ("b2", 2, "b"), ("c1", 2, "c"), ("c2", 3, "c"), ("d1", 4, "d")]
    rows += [("n1", 3, ""), ("n2", 5, "0000")]
    for name, number, _ in rows:
        save(source / f"{name}.png", number)
    table = write_table(
        tmp_path / "t.csv", ["file", "patient"], [[name, patient] for name, _, patient in rows]
    )
    totals = shard(tmp_path, source, table=table)
    assert (totals.written, totals.duplicates, totals.patients) == (5, 3, 4)
    assert totals.remarks["id_conflict"] == 2
    assert totals.remarks["no_patient"] == 1  # the other one is a copy of a known patient's
    group = min(pseudonyms.patient(factory.KEY, one) for one in "abc")
    found = {sample["key"]: sample["group"] for sample in _samples(tmp_path / "out")}
    key = {name: pseudonyms.image(factory.KEY, f"{name}.png") for name, _, _ in rows}
    assert [found[key[name]] for name in ("a1", "b2", "c2")] == [group] * 3
    assert found[key["d1"]] == pseudonyms.patient(factory.KEY, "d")
    assert found[key["n2"]] == key["n2"]


def test_f19_a_picture_that_lies_everywhere_is_a_placeholder(tmp_path: Path) -> None:
    """300 patients with the same "no image" card do not become one group."""
    records = [_record(number, sha=0 if number < 300 else number) for number in range(302)]
    resolution = dedup.resolve(lambda: records)
    assert resolution.groups.repeated == frozenset(range(300))
    assert not resolution.root
    lines = [line for _, line in pack._items(((0, record) for record in records), resolution)]
    assert [line["reason"] for line in lines] == ["repeated"] * 300 + [""] * 2


def _record(number: int, *, sha: int) -> dict[str, Any]:
    base = factory.facts(number, patients=1000) | {"pixels_xxh128": f"{sha:032x}", "visit_order": None}
    base |= {"volume": None, "slice": None, "slices": None}
    return base | {"remarks": [], "notes": [], "suffix": "jpg", "offset": 0, "bytes": 1, "crc": 0}


def test_f49_the_writer_refuses_a_key_twice_and_f48_a_key_with_dots() -> None:
    for twin in (_record(1, sha=1) | {"pixels_xxh128": "ff" * 16}, _record(2, sha=2) | {"key": "1.2.840"}):
        records = [_record(1, sha=1), twin]
        resolution = dedup.resolve(lambda rows=records: rows)
        with pytest.raises(AssertionError, match="key"):
            list(pack._items(((0, record) for record in records), resolution))


def test_workers_import_neither_torch_nor_webdataset(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    save(source / "a.jpg", 1)
    job = worker.Job(source, tmp_path, factory.KEY, "", 64, Encoding())
    with process.pool(1) as executor:
        chunks = [chunk_store.Chunk(0, ((Found("a.jpg", 1), None),))]
        assert executor.submit(worker.process_chunks, job, chunks).result() == [[""]]
        loaded = executor.submit(eval, "sorted(__import__('sys').modules)").result()
    assert "ssl_retina.archive.worker" in loaded
    assert not {"torch", "webdataset", "torchvision", "timm"} & set(loaded)


def test_an_unreadable_mount_stops_the_run_and_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F15: the files are listed and cannot be opened; later they can."""
    source = tmp_path / "archive"
    save(source / "000.jpg", 0)
    listing = [Found("000.jpg", 1), *(Found(f"{number:03d}.jpg", 1) for number in range(1, 60))]
    monkeypatch.setattr(build_module, "scan", lambda _: iter(listing))
    with pytest.raises(BadInputLimitError, match=r"50 in a row .*io") as error:
        shard(tmp_path, source)
    assert error.value.exit_code == 3
    assert str(source) not in str(error.value)
    for number in range(1, 60):
        save(source / f"{number:03d}.jpg", number)
    assert shard(tmp_path, source).written == 60


def test_the_limit_is_fifty_in_a_row_or_a_twentieth_of_a_thousand() -> None:
    stage.Limit().count(["io"] * 49 + [""] + ["io"] * 49 + [""] * 2000)
    stage.Limit().count(["not_an_image"] * 5000)
    with pytest.raises(BadInputLimitError, match="50 in a row"):
        stage.Limit().count(["io"] * 50)
    stage.Limit().count((["io"] + [""] * 20) * 200)  # 4.8 %
    with pytest.raises(BadInputLimitError, match="5% of the last 1,000"):
        stage.Limit().count([""] * 900 + (["io"] + [""] * 18) * 200)
    with pytest.raises(BadInputLimitError, match="unexpected 50"):
        stage.Limit().count(["unexpected"] * 50)


def test_f100_an_unforeseen_exception_names_only_pseudonym_and_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        raise {"a": KeyError, "b": RecursionError, "c": OSError}[path.stem](5, f"DOE^JOHN in {path}")

    monkeypatch.setattr(worker.readers, "content", fail)
    monkeypatch.setattr(worker, "PAUSES", ())
    job = worker.Job(tmp_path, tmp_path, factory.KEY, "", 64, Encoding())
    rows = tuple((Found(f"DOE/{name}.jpg", 1), None) for name in "abc")
    assert worker.process_chunks(job, [chunk_store.Chunk(0, rows)]) == [["unexpected", "unexpected", "io"]]
    text = chunk_store.records_path(tmp_path, 0).read_text()
    assert "DOE" not in text
    records = chunk_store.read_records(tmp_path, 0) or []
    assert [record["detail"] for record in records] == ["KeyError", "RecursionError", "EIO"]
    assert records[0]["key"] == pseudonyms.image(factory.KEY, "DOE/a.jpg")


def test_a_lack_of_memory_is_no_property_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> None:
        raise MemoryError

    monkeypatch.setattr(worker.readers, "content", fail)
    job = worker.Job(tmp_path, tmp_path, factory.KEY, "", 64, Encoding())
    with pytest.raises(MemoryError):
        worker.process_chunks(job, [chunk_store.Chunk(0, ((Found("a.jpg", 1), None),))])


def test_a_full_disk_is_a_sentence_and_the_run_continues(
    tmp_path: Path, messy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pack, "_shard", full)
        with pytest.raises(StateError, match="is full"):
            shard(tmp_path, messy)
    assert shard(tmp_path, messy).written == 10


def test_the_id_map_is_written_only_when_asked_private_and_apart(tmp_path: Path, messy: Path) -> None:
    shard(tmp_path, messy, table=_table(tmp_path), id_map=tmp_path / "map.csv")
    text = (tmp_path / "map.csv").read_text()
    assert (tmp_path / "map.csv").stat().st_mode & 0o777 == 0o600
    assert f"image,{pseudonyms.image(factory.KEY, 'page.jpg')},page.jpg" in text
    assert f"patient,{pseudonyms.patient(factory.KEY, 'p3')},p3" in text
    for place, why in (
        (tmp_path / "out" / "map.csv", "inside the output"),
        (messy / "m", "inside the source"),
    ):
        with pytest.raises(InputError, match=why):
            shard(tmp_path, messy, id_map=place)
    (tmp_path / "other.csv").write_text("a,b\n")
    with pytest.raises(InputError, match="not replaced"):
        shard(tmp_path, messy, table=_table(tmp_path), id_map=tmp_path / "other.csv")


def test_an_output_inside_the_source_is_refused(tmp_path: Path, messy: Path) -> None:
    with pytest.raises(InputError, match="inside the source"):
        shard(tmp_path, messy, "archive/out")
    assert not (messy / "out").exists()


def test_lossless_is_png(tmp_path: Path, messy: Path) -> None:
    shard(tmp_path, messy, encoding=Encoding(lossless=True))
    reader = shards.Reader(shards.read_index(tmp_path / "out"))
    assert {reader.sample(number).suffix for number in range(len(reader))} == {"png"}
    reader.close()


HYGD_SHARED = {"65", "81", "110", "180", "187", "197", "239", "257"}


def test_hygd_photographs_of_several_patients_are_found(tmp_path: Path, real_data: Path) -> None:
    """65, 81, 110 and 180 are one cluster; 187 = 197; 239 = 257."""
    source = tmp_path / "archive"
    source.mkdir()
    for path in (real_data / "hygd" / "images").iterdir():
        if path.stem.split("_")[0] in HYGD_SHARED:
            (source / path.name).write_bytes(path.read_bytes())
    totals = shard(tmp_path, source, pattern="{patient}_{_}", size=64, processes=2)
    assert totals.remarks["id_conflict"] == 6
    groups = {sample["group"] for sample in _samples(tmp_path / "out")}
    assert totals.patients == 8
    assert len(groups) == 3


@pytest.mark.slow
def test_all_real_photographs(tmp_path: Path, real_data: Path) -> None:
    hygd = shard(
        tmp_path,
        real_data / "hygd" / "images",
        "hygd",
        table=real_data / "hygd" / "labels.csv",
        columns={"file": "Image Name", "patient": "Patient"},
        processes=2,
    )
    assert (hygd.scanned, hygd.written, hygd.rejected, hygd.duplicates) == (747, 737, 0, 10)
    assert (hygd.patients, hygd.remarks["id_conflict"]) == (288, 6)
    idrid = shard(
        tmp_path, real_data / "idrid", "idrid", table=real_data / "idrid" / "labels.csv", processes=2
    )
    assert (idrid.scanned, idrid.written, idrid.rejected, idrid.duplicates) == (519, 510, 3, 6)
    assert dict(idrid.reasons) == {"not_an_image": 3}
    assert (idrid.patients, idrid.remarks["split_conflict"]) == (0, 1)
