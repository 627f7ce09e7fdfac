"""Tables and patterns: which columns are taken, what their cells mean, which file a row speaks of."""

from pathlib import Path

import pytest
from photographs import write_table

from ssl_retina.archive.scan import Found
from ssl_retina.archive.statements import attributes, matching, pattern, table
from ssl_retina.archive.statements.attributes import Attributes
from ssl_retina.errors import InputError


def _read(
    folder: Path, header: list[str], *rows: list[object], columns: dict[str, str] | None = None
) -> table.Table:
    return table.read(write_table(folder / "t.csv", header, rows), columns or {})


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        *[(name, "file") for name in ("file", "Image", "IMAGE NAME", "filename", "file_path", "path")],
        *[(name, "patient") for name in ("patient", "Patient_ID", "PatientID", "subject id")],
        *[(name, "eye") for name in ("Eye", "laterality")],
        *[(name, "device") for name in ("device", "Camera")],
        *[("visit", "visit"), ("Split", "split"), ("modality", "modality")],
    ],
)
def test_common_names_are_recognised(tmp_path: Path, name: str, ours: str) -> None:
    header = [name] if ours == "file" else ["file", name]
    assert _read(tmp_path, header, ["1"] * len(header)).columns[ours] == name


def test_label_columns_are_never_taken_and_are_named(tmp_path: Path) -> None:
    read = _read(
        tmp_path,
        [
            "Image Name",
            "Patient",
            "Label",
            "dr_grade",
            "class",
            "diagnosis",
            "target",
            "dme_risk",
            "Quality Score",
        ],
        ["a.jpg", "1", "GON+", 3, 1, "x", 0, 2, 6.1],
    )
    assert dict(read.columns) == {"file": "Image Name", "patient": "Patient"}
    assert "Label" in read.ignored
    assert "not used: Label, dr_grade" in table.describe(read)


def test_patients_that_pandas_wrote_as_fractions_are_whole_and_counted(tmp_path: Path) -> None:
    rows = [["a", "65"], ["b", "65.0"], ["c", ""], ["d", "066.0"]]
    read = _read(tmp_path, ["file", "patient"], *rows)
    assert [one.patient for _, one in read.rows] == ["65", "65", None, "066"]
    stated, counts = matching.from_table([Found(name, 1) for name in "abcd"], read)
    assert (len(stated), counts[table.WHOLE]) == (4, 2)
    read = _read(tmp_path, ["file", "patient"], *rows, ["e", "65.5"])
    assert [one.patient for _, one in read.rows] == ["65", "65.0", None, "066.0", "65.5"]
    assert not read.remarks


def test_the_users_word_comes_first_and_mistakes_are_explained(tmp_path: Path) -> None:
    header = ["file", "id", "patient"]
    assert _read(tmp_path, header, ["a", "7", "8"], columns={"patient": "id"}).rows[0][1].patient == "7"
    with pytest.raises(InputError, match=r"no such column; did you mean 'patient'\?"):
        _read(tmp_path, header, ["a", "7", "8"], columns={"patient": "patiant"})
    with pytest.raises(InputError, match=r"no 'patiant'; did you mean 'patient'\?"):
        table.parse_map(["patiant=x"])
    with pytest.raises(InputError, match="ours=Theirs"):
        table.parse_map(["patient"])
    with pytest.raises(InputError, match="no column of the table is known to hold file names"):
        _read(tmp_path, ["number", "patient"], [1, 2])


def test_f100_a_table_without_header_is_not_quoted(tmp_path: Path) -> None:
    """No message repeats a cell; a column that may be one is called by its place."""
    header = ["DOE JOHN", "Anna Smith", "photo 1 Roe.jpg", "Image Name"]
    row = ["ROE JANE", "x", "y", "z"]
    with pytest.raises(InputError, match="column 1, column 2, column 3, Image Name") as error:
        _read(tmp_path, header, row, columns={"file": "DOE JOHM"})
    assert "did you mean" not in str(error.value)
    with pytest.raises(InputError, match="its columns are: column 1, column 2, column 3") as error:
        _read(tmp_path, header[:3], row[:3])
    assert "DOE" not in str(error.value)
    assert "not used: column 1, column 2, column 3" in table.describe(_read(tmp_path, header, row))


def test_a_table_in_an_old_code_page_names_its_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("file;patient\nü.png;1\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"^--table .*t.csv is not UTF-8 .*Save it as UTF-8: in Excel File"):
        table.read(tmp_path / "t.csv", {})


def test_a_strange_header_is_not_quoted(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        _read(tmp_path, ["DOE^JOHN", "4711.jpg"], ["ROE^JANE", "4712.jpg"])
    assert "DOE" not in str(error.value)
    assert "4711" not in str(error.value)


@pytest.mark.parametrize("word", ["R", "od", " Right ", "OD"])
def test_right(word: str) -> None:
    assert attributes.eye(word) == "right"


@pytest.mark.parametrize("word", ["L", "os", "LEFT"])
def test_left(word: str) -> None:
    assert attributes.eye(word) == "left"


@pytest.mark.parametrize("word", ["OU", "B", "both", "1", "0", "rechts", "D", "dexter", "re"])
def test_any_other_eye_is_unknown(word: str) -> None:
    assert attributes.eye(word) == "unknown"


@pytest.mark.parametrize(
    "word", ["", " ", "0000", "00", "ANONYMOUS", "anonymized", "N/A", "unknown", "XXX", "nan"]
)
def test_f36_no_patient(word: str) -> None:
    assert attributes.patient(word) is None


@pytest.mark.parametrize("word", ["0", "7", "007", "P-12", "000001"])
def test_a_patient(word: str) -> None:
    assert attributes.patient(word) == word


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("3", 3),
        ("V2", 2),
        ("visit 10", 10),
        ("2021-03-04", 20210304),
        ("20210304", 20210304),
        ("2.0", 2),
        ("2020-1-5", 20200105),
        ("2020/01/05 10:30", 20200105),
        ("baseline 0", 0),
        ("007", 7),
    ],
)
def test_visits_are_numbers_to_order_by(word: str, number: int) -> None:
    assert attributes.visit(word) == number


@pytest.mark.parametrize(
    "word", ["", "baseline", "03/04/2021", "1.5", "Jan 31", "Feb 1", "-1", "Apr2019", "2020-13-01"]
)
def test_ambiguous_visits_are_none(word: str) -> None:
    assert attributes.visit(word) is None


def test_free_text_in_device_or_split_is_refused_without_quoting_it(tmp_path: Path) -> None:
    for header, cell in (("device", "DOE^JOHN born 1950"), ("split", "Doe John"), ("device", "x" * 60)):
        with pytest.raises(InputError, match="looks like free text") as error:
            _read(
                tmp_path,
                ["file", header],
                ["a.jpg", "Topcon-1" if header == "device" else "train"],
                ["b", cell],
            )
        assert cell not in str(error.value)
    for count, rows in ((70, 1000), (12, 40)):
        many = [[f"{number}.jpg", f"D{number % count}"] for number in range(rows)]
        with pytest.raises(InputError, match=f"{count} different values in {rows} rows"):
            _read(tmp_path, ["file", "device"], *many)


def _fits(paths: list[str], *cells: str) -> dict[str, str]:
    """cell -> the file that it was matched with."""
    found = [Found(path, 1) for path in paths]
    rows = tuple((cell, Attributes(patient=cell)) for cell in cells)
    stated, _ = matching.from_table(found, table.Table({"file": "file"}, (), rows, {}))
    return {given.patient or "": paths[number] for number, given in stated.items()}


def test_rows_fit_by_path_then_by_unambiguous_bare_name() -> None:
    paths = ["train/1.jpg", "test/1.jpg", "test/2.JPG"]
    cells = ["train/1.jpg", "1.jpg", "2", "test\\1.jpg"]
    assert _fits(paths, *cells) == {"train/1.jpg": paths[0], "2": paths[2], "test\\1.jpg": paths[1]}
    assert _fits(paths, "/data/idrid/train/1.jpg") == {"/data/idrid/train/1.jpg": paths[0]}
    assert _fits(paths, "2.png") == {"2.png": paths[2]}


def test_a_bare_name_in_another_folder_is_another_file() -> None:
    """IDRiD: the same name in train and test is another photograph."""
    with pytest.raises(InputError, match="none of the 1 rows"):
        _fits(["test/IDRiD_104.jpg"], "train/IDRiD_104.jpg")


def test_what_fits_nothing_is_counted() -> None:
    found = [Found("a/1.jpg", 1), Found("b/1.jpg", 1), Found("2.jpg", 1)]
    rows = tuple((cell, Attributes()) for cell in ("1.jpg", "2.jpg", "2.jpg", "9.jpg", ""))
    _, counts = matching.from_table(found, table.Table({"file": "file"}, (), rows, {}))
    assert counts == {
        "table_rows_ambiguous": 1,
        "table_rows_of_one_file": 1,
        "table_rows_without_file": 2,
        "files_without_table_row": 2,
    }


def test_two_rows_of_one_file_must_agree() -> None:
    def both(first: Attributes, second: Attributes) -> Attributes:
        rows = (("1.jpg", first), ("1", second))
        return matching.from_table([Found("1.jpg", 1)], table.Table({"file": "file"}, (), rows, {}))[0][0]

    merged = both(
        Attributes(patient="012", eye="left", split="test", device="A"),
        Attributes(patient="12", eye="right", split="train", visit=2),
    )
    assert merged == Attributes("012", "unknown", "A", 2, "test|train", None)
    with pytest.raises(InputError, match="different patients for one file"):
        both(Attributes(patient="1"), Attributes(patient="2"))


def _named(text: str, *paths: str) -> list[Attributes | None]:
    stated, _ = matching.from_pattern([Found(path, 1) for path in paths], text)
    return [stated.get(number) for number in range(len(paths))]


def test_pattern_reads_the_bare_name() -> None:
    read = _named("{patient}_{eye}", "x/A_12_OD.jpg", "A_12_OU.jpg", "A12.jpg")
    assert read == [Attributes(patient="A_12", eye="right"), Attributes(patient="A_12", eye="unknown"), None]
    assert _named("{patient}_{_}", "100_9_a.png") == [Attributes(patient="100")]
    assert _named("{patient}_{visit}_{eye}", "7_3_L.png") == [Attributes(patient="7", visit=3, eye="left")]


def test_f33_a_split_of_a_file_name_that_is_none_is_refused() -> None:
    """Else a photograph that its name declares a test photograph passes `split != test`."""
    with pytest.raises(InputError, match=r"\{split\} of --pattern looks like free text: 1 of 2"):
        _named("{split}_{_}", "tst_1.jpg", "train_2.jpg")
    assert _named("{split}_{_}", "test_1.jpg") == [Attributes(split="test")]


def test_what_a_pattern_does_not_understand_is_counted() -> None:
    found = [Found(path, 1) for path in ("R_3_oct_1.jpg", "X_3b_cat_2.jpg", "L_4_fundus_3.jpg", "odd.jpg")]
    _, counts = matching.from_pattern(found, "{eye}_{visit}_{modality}_{_}")
    assert counts == {"unknown_eye": 1, "unknown_visit": 1, "unknown_modality": 1, "names_unlike_pattern": 1}


@pytest.mark.parametrize("path", ["DOE JOHN 19500102_1.jpg", "DOE^JOHN_1.jpg"])
def test_f99_free_text_for_a_device_in_a_file_name_is_refused(path: str) -> None:
    with pytest.raises(InputError, match="looks like free text") as error:
        _named("{device}_{_}", path)
    assert "DOE" not in str(error.value)


def _merged(*devices: tuple[str, str | None], named: bool = False) -> dict[int, Attributes]:
    stated = {
        number: Attributes(device=device, patient=patient) for number, (device, patient) in enumerate(devices)
    }
    return matching.merged({} if named else stated, stated if named else {})[0]


PEOPLE = (
    (("Anna Smith", "1"), ("Anna Smith", "1"), ("John Doe", "2")),
    (("Anna Smith", None), ("John Doe", None)),
    (("Anna Smith", "1"),),
    (("P1", "1"), ("P2", "2"), ("P3", "3"), ("P3", "3")),
    (*[("Pocketview", str(number)) for number in range(99)], ("A S", "a"), ("J D", "b"), ("R D", "c")),
    (*[("Topcon", str(number)) for number in range(99)], ("Anna Smith", "a")),
)


@pytest.mark.parametrize("named", [False, True], ids=["table", "pattern"])
@pytest.mark.parametrize("devices", PEOPLE)
def test_f99_devices_that_are_people_are_refused(
    devices: tuple[tuple[str, str | None], ...], named: bool
) -> None:
    with pytest.raises(InputError, match="look like patients") as error:
        _merged(*devices, named=named)
    assert not any(word in str(error.value) for word in ("Smith", "Doe", "P1", "Pocket"))


@pytest.mark.parametrize(
    "devices",
    [
        (("Topcon TRC-50", "1"), ("Canon CR-2", "2"), ("camera 3", None)),
        (("Halo NM-45", "1"), ("Halo NM-45", "2"), ("Pocketview", "3"), ("Pocketview", "4")),
        (("Halo", "1"), ("Halo", "2"), ("Halo", "3"), ("Pocketview", "3")),
        (("A", "1"), ("B", "2")),
    ],
)
def test_devices_that_are_devices_pass(devices: tuple[tuple[str, str | None], ...]) -> None:
    assert len(_merged(*devices)) == len(devices)


def test_a_side_file_is_no_second_photograph() -> None:
    paths = ["i0.bmp", "i0.xml", "i1.txt", "i1.jpg", "odd"]
    assert _fits(paths, "i0", "i1", "odd") == {"i0": "i0.bmp", "i1": "i1.jpg", "odd": "odd"}
    assert _fits(paths, "i0.png") == {"i0.png": "i0.bmp"}


def test_rows_that_fit_several_files_are_called_so() -> None:
    with pytest.raises(InputError, match="2 rows fit several files"):
        _fits(["a/1.jpg", "b/1.jpg"], "1.jpg", "1")


@pytest.mark.parametrize("wrong", ["{pateint}_{eye}", "plain", "{eye}_{eye}", "{_}"])
def test_patterns_with_mistakes_are_refused(wrong: str) -> None:
    with pytest.raises(InputError, match="--pattern"):
        pattern.compile_pattern(wrong)


def test_table_and_pattern_that_contradict_each_other_make_the_eye_unknown() -> None:
    stated, counts = matching.merged(
        {0: Attributes(patient="1", eye="left"), 1: Attributes(eye="left")},
        {0: Attributes(patient="2", eye="right"), 1: Attributes(patient="3"), 2: Attributes(patient="4")},
    )
    assert stated[0] == Attributes(patient="1", eye="unknown")
    assert stated[1] == Attributes(patient="3", eye="left")
    assert stated[2] == Attributes(patient="4")
    assert counts == {"eye_conflict": 1}


def test_two_spellings_of_an_accent_are_one_key_and_told_apart() -> None:
    paths = ["a.jpg", "e\u0301.jpg", "\u00e9.jpg", "z.jpg"]
    assert matching.collisions([Found(path, 1) for path in paths]) == {2: 1}
