"""Test patients stay apart from training: whatever file they lie under, whatever key, whatever the labels."""

import csv
from pathlib import Path

import eyes
import numpy as np
import pytest

from ssl_retina import config, pseudonyms, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source
from ssl_retina.errors import InputError
from ssl_retina.real import halves
from ssl_retina.real.halves import Halves
from ssl_retina.real.sources import Source, sources


def divided(data: Path, sharded: Path, key_file: Path) -> dict[str, tuple[Source, Halves]]:
    return {
        source.name: (source, halves.divide(source, sharded / "shards" / source.name, key_file))
        for source in sources(data)
    }


def patients_of_test(hygd: Halves) -> set[str]:
    return {row[1] for row, side in zip(hygd.table.rows, hygd.rows, strict=True) if side == "test"}


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def names_of(sharded: Path, name: str, key: bytes, paths: list[str]) -> set[str]:
    """Sample keys under which files of the archive lie, aliases included."""
    wanted = {pseudonyms.image(key, path) for path in paths}
    reader = shards.Reader(shards.read_index(sharded / "shards" / name))
    found = set()
    for number in range(len(reader)):
        facts = reader.facts(number)
        if wanted & {facts["key"], *(alias["key"] for alias in facts["aliases"])}:
            found.add(reader.key(number))
    assert found
    return found


def test_the_trainer_never_sees_a_test_photograph_under_any_of_its_names(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    sets = divided(drawn.data, sharded, key_file)
    halves.write_exclusions(tmp_path / "held_out.txt", [one for _, one in sets.values()])
    folders = tuple(sharded / "shards" / name for name in sets)
    data = config.Data(
        shards=folders, batch_size=1, workers=0, held_out=0.0, exclude=tmp_path / "held_out.txt"
    )
    source = open_source(data, ViewSpec("plain", global_views=1, global_size=16), seed=0)
    batches = source.batches(0, rank=0, world=1, micro_batch=1)
    seen = {next(batches).keys[0] for _ in range(source.samples)}
    assert len(seen) == source.samples

    key = pseudonyms.read_key(key_file)
    forbidden = names_of(sharded, "idrid", key, list(drawn.forbidden))
    assert len(forbidden) == eyes.TEST
    hygd = sets["hygd"][1]
    patients = patients_of_test(hygd)
    tested = [row[0] for row in hygd.table.rows if row[1] in patients]
    forbidden |= names_of(sharded, "hygd", key, tested)
    assert not seen & forbidden
    assert len(seen) + len(forbidden) == sum(shards.read_index(folder).samples for folder in folders)


def test_half_of_the_patients_and_those_who_share_a_photograph_together(
    drawn: eyes.Eyes, sharded: Path, key_file: Path
) -> None:
    _, hygd = divided(drawn.data, sharded, key_file)["hygd"]
    patients = patients_of_test(hygd)
    training = {row[1] for row, side in zip(hygd.table.rows, hygd.rows, strict=True) if side == "train"}
    assert not patients & training
    for one, other in drawn.together:
        assert (one in patients) == (other in patients)
    assert hygd.groups == (16, 16)  # 34 patients, three of them one group
    assert set(hygd.rows) == {"train", "test"}


def test_the_declared_split_without_what_lies_on_both_sides(
    drawn: eyes.Eyes, sharded: Path, key_file: Path
) -> None:
    _, idrid = divided(drawn.data, sharded, key_file)["idrid"]
    said = {row[0]: side for row, side in zip(idrid.table.rows, idrid.rows, strict=True)}
    assert said["train/IDRiD_025.jpg"] == said["test/IDRiD_003.jpg"] == ""
    assert said["train/IDRiD_003.jpg"] == "train"
    assert (idrid.count("train"), idrid.count("test"), idrid.count("")) == (eyes.TRAIN, eyes.TEST - 1, 2)


def test_neither_key_nor_labels_of_test_patients_decide(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    before = divided(drawn.data, sharded, key_file)
    changed = eyes.relabelled(drawn, tmp_path / "data", sorted(patients_of_test(before["hygd"][1])))
    after = divided(changed, sharded, key_file)
    for name, (_, one) in before.items():
        assert after[name][1].table.rows != one.table.rows
        assert (after[name][1].rows, after[name][1].held_out) == (one.rows, one.held_out)

    other_key = tmp_path / "key"
    pseudonyms.make_key(other_key)
    for source in sources(drawn.data):
        eyes.shard(source, tmp_path / "shards" / source.name, other_key)
    for name, (_, one) in divided(drawn.data, tmp_path, other_key).items():
        assert one.rows == before[name][1].rows
        assert one.held_out != before[name][1].held_out


def test_labels_files_hold_a_side_or_say_which(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    _, hygd = divided(drawn.data, sharded, key_file)["hygd"]
    halves.write_training_labels(tmp_path / "train.csv", hygd)
    halves.write_all_labels(tmp_path / "all.csv", hygd)
    train, everything = (rows_of(tmp_path / name) for name in ("train.csv", "all.csv"))
    _, idrid = divided(drawn.data, sharded, key_file)["idrid"]
    halves.write_training_labels(tmp_path / "idrid.csv", idrid)
    assert not {row["file"] for row in rows_of(tmp_path / "idrid.csv")} & set(drawn.forbidden)
    patients = patients_of_test(hygd)
    assert {row["Patient"] for row in train} == {row[1] for row in hygd.table.rows} - patients
    assert len(everything) == len(hygd.table.rows)
    assert {row[halves.SIDE] for row in everything if row["Patient"] in patients} == {"test"}
    assert np.mean([row[halves.SIDE] == "test" for row in everything]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("lacking", ["idrid", "hygd"])
def test_an_absent_folder_is_one_sentence(drawn: eyes.Eyes, tmp_path: Path, lacking: str) -> None:
    other = "hygd" if lacking == "idrid" else "idrid"
    (tmp_path / other).symlink_to(drawn.data / other)
    with pytest.raises(InputError, match=rf"{lacking}\S*, {lacking}/labels.csv missing there") as caught:
        sources(tmp_path)
    assert "make real DATA=FOLDER" in str(caught.value)
    assert str(caught.value).count(f"{other}/labels.csv missing") == 0
