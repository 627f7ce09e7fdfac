"""Labels files, tasks and the join with shards: what is matched, what is counted, what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ssl_retina import labels, pseudonyms, shard_index
from ssl_retina.errors import InputError, StateError
from ssl_retina.shards import Reader

KEY = factory.KEY


def table(text: str, folder: Path) -> labels.Table:
    path = folder / "labels.csv"
    path.write_text(text)
    return labels.read(path)


def make(
    folder: Path, records: Sequence[Mapping[str, Any]], facts: Mapping[str, Any] | None = None
) -> Reader:
    """Shards of black images with these JSON records (each has its `key`)."""
    folder.mkdir()
    image = factory.encoded(np.zeros((8, 8, 3), np.uint8), "png")
    parts = [
        part
        for one in records
        for part in ((f"{one['key']}.png", image), (f"{one['key']}.json", json.dumps(dict(one)).encode()))
    ]
    factory.write_tar(folder / "set-000000.tar", parts)
    return Reader(shard_index.write(folder, factory.index_facts() if facts is None else facts))


def record(path: str, *aliases: str) -> dict[str, Any]:
    names = {"key": pseudonyms.image(KEY, path), "name": pseudonyms.name(KEY, path)}
    others = [{"key": pseudonyms.image(KEY, one), "name": pseudonyms.name(KEY, one)} for one in aliases]
    return {**names, "aliases": others}


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_reads_the_usual_spellings(delimiter: str, tmp_path: Path) -> None:
    text = '\ufefffile,grade,\r\n a.jpg ,1,\r\n\r\n"b,c.jpg",2,\r\n'
    content = text if delimiter == "," else text.replace('"b,c.jpg"', "b.jpg").replace(",", delimiter)
    found = table(content, tmp_path)
    assert found.columns == ("file", "grade")
    assert found.rows[0] == ("a.jpg", "1")
    assert found.column("grade") == ("1", "2")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,grade\n", "no rows"),
        ("file,grade\na.jpg,1\nb.jpg\n", "row 3 has 1 cells"),
        ("file,file\na,b\n", "'file' twice"),
        ('file,grade\n"a.jpg,1\n', "labels file"),
    ],
)
def test_a_broken_file_is_refused_by_its_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        table(text, tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_unicode_with_its_mark_is_read(encoding: str, tmp_path: Path) -> None:
    """Excel's "Unicode Text" is UTF-16 with tabs."""
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (tmp_path / "x.csv").write_bytes(f"{mark}file\tgröße\r\nä.jpg\t1\r\n".encode(encoding))
    found = labels.read(tmp_path / "x.csv")
    assert (found.columns, found.rows) == (("file", "größe"), (("ä.jpg", "1"),))


def test_a_file_that_is_no_text_or_not_there(tmp_path: Path) -> None:
    for content in ("file,größe\n".encode("latin-1"), "a,b\n1,2\n".encode("utf-16-le"), b"\xff\xfea\0b"):
        (tmp_path / "x.csv").write_bytes(content)
        with pytest.raises(InputError, match=r"labels file .*x.csv is not UTF-8.*'CSV UTF-8 \(Comma"):
            labels.read(tmp_path / "x.csv")
    with pytest.raises(InputError, match="none.csv cannot be read: No such file or directory"):
        labels.read(tmp_path / "none.csv")


def test_an_unknown_column_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'dr_grade'"):
        table("file,dr_grade\na,1\n", tmp_path).column("dr_grad")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("glaucoma=Label:GON+", ("glaucoma", "Label", "equals", "GON+")),
        ("referable=dr_grade>=2", ("referable", "dr_grade", ">=", "2")),
        ("mild=dr_grade < 1.5", ("mild", "dr_grade", "<", "1.5")),
        ("grade=dr_grade:ordinal", ("grade", "dr_grade", "ordinal", "")),
        ("disease=disease", ("disease", "disease", "column", "")),
        ("a=Image Quality", ("a", "Image Quality", "column", "")),
    ],
)
def test_tasks(text: str, expected: tuple[str, ...]) -> None:
    task = labels.parse_task(text)
    assert (task.name, task.column, task.rule, task.value) == expected


@pytest.mark.parametrize("text", ["dr_grade>=2", "=x", "a=", "grade", "a b=c"])
def test_a_task_without_a_name_or_spec(text: str) -> None:
    with pytest.raises(InputError, match="NAME=SPEC"):
        labels.parse_task(text)


GRADES = "file,g,word,mixed,same,id\n" + "".join(
    f"i{n}.jpg,{n % 3},{'AB'[n % 2]},{'x' if n == 3 else n},1,{n}\n" for n in range(24)
)


def classes(spec: str, folder: Path) -> tuple[labels.Target, list[int]]:
    target = labels.target(labels.parse_task(f"t={spec}"), table(GRADES, folder))
    return target, target.values[:4].tolist()


def test_what_counts_as_positive_is_said(tmp_path: Path) -> None:
    target, values = classes("g>=1", tmp_path)
    assert (target.kind, target.positive, values) == ("binary", "g >= 1", [0, 1, 1, 0])
    target, values = classes("word:A", tmp_path)
    assert (target.kind, target.positive, values) == ("binary", "word = A", [1, 0, 1, 0])
    target, values = classes("word", tmp_path)
    assert (target.kind, target.positive, values) == ("binary", "word = B", [0, 1, 0, 1])
    target, values = classes("g", tmp_path)
    assert (target.kind, target.classes, values) == ("classes", ("0", "1", "2"), [0, 1, 2, 0])
    target, values = classes("g:ordinal", tmp_path)
    assert (target.kind, target.positive, values) == ("ordinal", "grades 0, 1, 2", [0, 1, 2, 0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("word:C", "never holds 'C'; it holds 'A', 'B'"),
        ("mixed>=2", "1 values of column 'mixed' are not numbers"),
        ("same", "holds one value only, and a task needs two classes"),
        ("same:1", "column 'same' holds only '1', and a task needs two classes"),
        ("g>=0", "column 'g' holds only values >= 0"),
        ("g>7", "column 'g' holds no values > 7"),
        ("id", "24 different values"),
        ("nothing", "no column 'nothing'"),
    ],
)
def test_a_column_that_does_not_fit(spec: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        classes(spec, tmp_path)


def test_ids_never_stand_in_a_message(tmp_path: Path) -> None:
    """Law 8: whoever asks for the wrong column gets no list of its values."""
    with pytest.raises(InputError, match="it holds 24 different values") as caught:
        classes("file:P1", tmp_path)
    assert "i7" not in str(caught.value)


def test_missing_values_are_no_class(tmp_path: Path) -> None:
    found = table("file,g\na,1\nb,\nc,NA\nd,0\n", tmp_path)
    assert labels.target(labels.parse_task("t=g"), found).values.tolist() == [1, -1, -1, 0]
    assert labels.target(labels.parse_task("t=g>=1"), found).values.tolist() == [1, -1, -1, 0]
    assert labels.target(labels.parse_task("t=g:1"), found).values.tolist() == [1, -1, -1, 0]


def test_joins_the_factory_by_path(tmp_path: Path) -> None:
    reader = Reader(factory.make_shards(tmp_path / "s", samples=24))
    found = labels.read(factory.make_labels(tmp_path / "l.csv", samples=24))
    joined = labels.join(found, reader, KEY)
    assert joined.numbers.tolist() == list(range(24))
    assert (joined.how, joined.unknown, joined.ambiguous) == ({"path": 24}, 0, 0)
    numbers, values = labels.agreed(joined, labels.target(labels.parse_task("g=grade>=2"), found))
    assert [int(factory.grade(number, 16) >= 2) for number in numbers] == values.tolist()


def test_bare_names_aliases_and_other_slashes(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("train/a.jpg"), record("x/b.jpg", "y/copy.png"), record("z/c.jpg")])
    found = table("file,g\na,0\ny\\copy.png,1\nx/b.jpg,1\nz/c.jpg,0\nz/gone.jpg,1\n", tmp_path)
    joined = labels.join(found, reader, KEY)
    assert joined.numbers.tolist() == [0, 1, 2]
    assert joined.rows == ((0,), (1, 2), (3,))
    assert joined.unknown == 1
    assert joined.how == {"name": 1, "path": 3}


def test_a_bare_name_of_two_photographs_is_ambiguous(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("train/i1.jpg"), record("test/i1.jpg"), record("test/i2.jpg")])
    joined = labels.join(table("file,g\ni1.jpg,0\ni2.jpg,1\n", tmp_path), reader, KEY)
    assert (joined.numbers.tolist(), joined.ambiguous) == ([2], 1)


def test_a_bare_name_of_two_rows_is_ambiguous(tmp_path: Path) -> None:
    """IDRiD has two IDRiD_001: with only one of them in the shards, the label of the other is not its."""
    reader = make(tmp_path / "s", [record("i1.jpg"), record("train/i2.jpg")])
    found = table("file,g\ntrain/i1.jpg,0\ntest/i1.jpg,1\ntrain/i2.jpg,1\ntest/i2.jpg,0\n", tmp_path)
    joined = labels.join(found, reader, KEY)
    assert (joined.numbers.tolist(), joined.rows, joined.ambiguous) == ([1], ((2,),), 2)
    assert joined.unknown == 1  # test/i2.jpg is not train/i2.jpg


def test_foreign_shards_join_by_their_own_keys(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [{"key": "p-1"}, {"key": "p-2"}], facts={})
    found = table("file,g\nimages/p-1.jpg,0\np-2,1\n", tmp_path)
    joined = labels.join(found, reader, None)
    assert (joined.numbers.tolist(), joined.how) == ([0, 1], {"key": 2})


def test_aliases_that_contradict_each_other_have_no_class(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("a.jpg", "b.jpg"), record("c.jpg", "d.jpg")])
    found = table("file,g\na.jpg,0\nb.jpg,1\nc.jpg,1\nd.jpg,\n", tmp_path)
    target = labels.target(labels.parse_task("t=g"), found)
    joined = labels.join(found, reader, KEY)
    assert [labels.class_of(rows, target) for rows in joined.rows] == [labels.CONFLICT, 1]
    assert [one.tolist() for one in labels.agreed(joined, target)] == [[1], [1]]


def test_another_key_is_refused(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("a.jpg")])
    found = table("file,g\na.jpg,0\n", tmp_path)
    for key in (None, bytes(32)):
        with pytest.raises(StateError, match="--key-file") as caught:
            labels.join(found, reader, key)
        assert caught.value.exit_code == 4


def test_f96_labels_of_other_photographs_are_refused_with_hints(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record(f"a{n}.jpg") for n in range(30)])
    rows = "".join(f"other/b{n}.jpg,0\n" for n in range(29)) + "a1.jpg,1\n"
    with pytest.raises(InputError, match="only 1 of 30 photographs .*--file COLUMN.*--key-file") as caught:
        labels.join(table("file,g\n" + rows, tmp_path), reader, KEY)
    assert "b3" not in str(caught.value)


def test_the_file_column_must_be_clear(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("a.jpg")])
    with pytest.raises(InputError, match="several may hold file names"):
        labels.join(table("file,image,g\na.jpg,b,0\n", tmp_path), reader, KEY)
    with pytest.raises(InputError, match="none is known"):
        labels.join(table("scan,g\na.jpg,0\n", tmp_path), reader, KEY)
    assert len(labels.join(table("scan,g\na.jpg,0\n", tmp_path), reader, KEY, file="scan").numbers) == 1
    assert len(labels.join(table("Image Name,g\na.jpg,0\n", tmp_path), reader, KEY).numbers) == 1


@given(st.text(max_size=12))
def test_no_cell_of_the_file_column_is_a_crash(cell: str) -> None:
    from ssl_retina.labels.joining import _by_name, _Names

    assert _by_name(cell, {}, _Names(KEY, ""), {}) == (None, False)


def test_the_folder_can_stand_before_the_column(tmp_path: Path) -> None:
    """`train/{ID}.png`: a table that names 1 and 2, where 1.png stands in two folders."""
    reader = make(
        tmp_path / "set", [record("x/train/1.png"), record("x/test/1.png"), record("x/train/2.png")]
    )
    content = table("ID,grade\n1,3\n2,0\n", tmp_path)
    assert labels.join(content, reader, KEY, file="x/train/{ID}.png").numbers.tolist() == [0, 2]
    assert labels.join(content, reader, KEY, file="x/train/{ID}").numbers.tolist() == [0, 2]
    assert labels.join(content, reader, KEY, file="x/test/{ID}").numbers.tolist() == [1]
    with pytest.raises(InputError, match="no column 'id'"):
        labels.join(content, reader, KEY, file="x/train/{id}")


def test_a_dot_in_a_name_is_no_suffix(tmp_path: Path) -> None:
    """A label never falls on another photograph: IMG_1.2 is IMG_1.2.jpg, not IMG_1.jpg."""
    reader = make(tmp_path / "s", [record("IMG_1.jpg"), record("IMG_2.jpg"), record("IMG_2.1.jpg")])
    found = table("file,g\nIMG_1.2,1\nIMG_2.1,0\nIMG_2,1\n", tmp_path)
    joined = labels.join(found, reader, KEY)
    assert (joined.numbers.tolist(), joined.rows, joined.unknown) == ([1, 2], ((2,), (1,)), 1)
    foreign = make(tmp_path / "f", [{"key": "img_1"}, {"key": "img_2"}], facts={})
    joined = labels.join(table("file,g\nimg_1.2,1\nimg_2.jpg,0\n", tmp_path), foreign, None)
    assert (joined.numbers.tolist(), joined.rows) == ([1], ((1,),))


@pytest.mark.parametrize("suffix", ["jpg", "DCM", "dicom"])
def test_names_that_are_dicom_uids(suffix: str, tmp_path: Path) -> None:
    uids = [f"1.2.840.113619.3.{number}" for number in range(12)]
    reader = make(tmp_path / "s", [record(f"scans/{uid}.{suffix}") for uid in uids])
    joined = labels.join(table("file,g\n" + "".join(f"{uid},1\n" for uid in uids), tmp_path), reader, KEY)
    assert joined.rows == tuple((row,) for row in range(12))


def test_folders_that_the_cell_names_are_those_of_the_photograph(tmp_path: Path) -> None:
    reader = make(tmp_path / "s", [record("test/x.jpg"), record("b/y.JPG", "c/y.png"), record("z.jpg")])
    found = table("file,g\ntrain/x,1\nroot/b/y,0\n/data/other/z.png,1\n", tmp_path)
    joined = labels.join(found, reader, KEY)
    assert (joined.numbers.tolist(), joined.rows, joined.unknown) == ([1, 2], ((1,), (2,)), 1)
    both = make(tmp_path / "both", [record("train/x.jpg"), record("test/x.jpg")])
    joined = labels.join(table("file,g\ntest/x,1\ntrain/x.png,0\n", tmp_path), both, KEY)
    assert (joined.rows, joined.ambiguous) == (((1,), (0,)), 0)
    joined = labels.join(table("file,g\na/test/x,1\nb/test/x,0\ntrain/x,1\n", tmp_path), both, KEY)
    assert (joined.numbers.tolist(), joined.rows, joined.ambiguous) == ([0], ((2,),), 2)


@pytest.mark.parametrize(
    "cell", ["31415926", "1970-01-02", "02.01.1970", "2-Jan-1970", "a/IMG_7.JPG", "1.2.840.7", "X^Y"]
)
def test_f92_a_file_without_a_header_names_nobody(cell: str, tmp_path: Path) -> None:
    """Law 8: its first row is no list of columns."""
    found = table(f"DOE JOHN,{cell},eye\nROE JANE,8,left\n", tmp_path)
    messages = []
    for asked in ("DOE JOHM", "grade"):
        with pytest.raises(InputError) as caught:
            found.column(asked)
        messages.append(str(caught.value))
    reader = make(tmp_path / "s", [record("a.jpg")])
    with pytest.raises(InputError) as caught:
        labels.join(found, reader, KEY)
    messages.append(str(caught.value))
    assert all("column 1, column 2, eye" in message for message in messages)
    with pytest.raises(InputError, match="the column 'column 1' twice") as caught:
        table(f"DOE JOHN,{cell},DOE JOHN\nROE JANE,8,left\n", tmp_path)
    messages.append(str(caught.value))
    assert not any(word in message for message in messages for word in ("JOHN", cell))


def test_a_header_of_its_own_names_is_shown(tmp_path: Path) -> None:
    header = "scan,DR grade,GON+,CSME (0/1),t2_label,q1"
    with pytest.raises(InputError, match="It has: ") as caught:
        table(header + "\n" + ",".join("abcdef") + "\n", tmp_path).column("nothing")
    assert str(caught.value).endswith(f"It has: {header.replace(',', ', ')}")
