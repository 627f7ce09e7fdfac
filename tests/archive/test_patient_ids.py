"""One patient under many spellings is one patient of a set; sets of another rule for ids are not mixed."""

from pathlib import Path

import pytest
from photographs import samples_of, save, shard, write_table

from ssl_retina import pseudonyms
from ssl_retina.archive import build, recipe
from ssl_retina.archive.build import Listener, Settings
from ssl_retina.archive.revision.append import append
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.archive.settings import Totals
from ssl_retina.archive.slices import parse
from ssl_retina.archive.statements import table
from ssl_retina.cli.archive_words import REMARKS
from ssl_retina.errors import StateError

SPELLINGS = ("65", "65.0", "\ufeff65", "6\u200b5", "\u0666\u0665", "065", "\uff16\uff15.\uff10")
OLDER = "NFKC, stripped, case-folded, inner spaces joined, leading zeros of plain numbers dropped"


def _archive(folder: Path, patients: tuple[str, ...]) -> Path:
    rows = [(f"{number}.png", patient) for number, patient in enumerate(patients)]
    for number, (name, _) in enumerate(rows):
        save(folder / "archive" / name, number, size=40)
    return write_table(folder / "t.csv", ["file", "patient"], rows)


def test_f102_spellings_in_one_table_are_one_patient_and_it_is_told(tmp_path: Path) -> None:
    made = _archive(tmp_path, SPELLINGS)
    totals = shard(tmp_path, tmp_path / "archive", table=made)
    assert (totals.patients, totals.remarks[table.WHOLE]) == (1, 2)
    assert "read as 65" in REMARKS[table.WHOLE]
    assert len({one["group"] for one in samples_of(tmp_path / "out").values()}) == 1
    assert withdraw(tmp_path / "out", "65.0", key_file=tmp_path / "key").samples == 0


def test_a_fraction_beside_other_fractions_is_an_id_of_its_own(tmp_path: Path) -> None:
    made = _archive(tmp_path, ("65", "65.0", "65.1"))
    totals = shard(tmp_path, tmp_path / "archive", table=made)
    assert (totals.patients, totals.remarks.get(table.WHOLE)) == (3, None)


def test_tables_of_a_recipe_are_read_so_too(tmp_path: Path) -> None:
    _archive(tmp_path, ("65", "65.0", "66"))
    (tmp_path / "t.csv").rename(tmp_path / "archive" / "t.csv")
    (tmp_path / "r.yaml").write_text(
        "title: t\nlicence: l\ncitation: c\npage: none\nverified: true\nno_labels: none\nimages: '*.png'\n"
        "tables: [{table: t.csv, rows: '{file}', fits: '{name}', states: {patient: '{patient}'}}]\n"
    )
    totals = shard(tmp_path, tmp_path / "archive", recipe=recipe.load(str(tmp_path / "r.yaml")))
    assert (totals.patients, totals.remarks[table.WHOLE]) == (2, 1)


@pytest.fixture
def older(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `out`, a set that an older rule for ids made, and `part`, one that is not finished."""
    made = _archive(tmp_path, ("a-1", "a-2"))
    monkeypatch.setattr(pseudonyms, "NORMALISATION", OLDER)
    shard(tmp_path, tmp_path / "archive", table=made)
    build.build_slice(tmp_path / "archive", tmp_path / "part", _settings(tmp_path), parse("1/1"))
    monkeypatch.undo()
    return tmp_path


def _settings(folder: Path) -> Settings:
    return Settings(table=folder / "t.csv", key_file=folder / "key", processes=1)


def _again(folder: Path) -> Totals:
    return build.build(folder / "archive", folder / "out", _settings(folder), Listener())


def _append(folder: Path) -> Totals:
    return append(folder / "archive", folder / "out", _settings(folder), Listener())


def _merge(folder: Path) -> Totals:
    return build.merge(folder / "archive", folder / "part", _settings(folder), Listener())


@pytest.mark.parametrize("step", [_again, _append, _merge])
def test_f102_nothing_is_added_to_a_set_of_another_rule_for_ids(older: Path, step: object) -> None:
    assert callable(step)
    with pytest.raises(StateError, match=r"reads patient ids by another rule.*another --out"):
        step(older)


def test_f102_nobody_is_sought_in_a_set_of_another_rule_for_ids(older: Path) -> None:
    with pytest.raises(StateError, match=r"reads patient ids by another rule.*Nothing was taken out"):
        withdraw(older / "out", "a-1", key_file=older / "key")
