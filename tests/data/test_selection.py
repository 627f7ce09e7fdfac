"""Which samples are trained on: conditions, exclusions, held-out patients, several sets, flat memory."""

import json
import tracemalloc
from itertools import islice
from pathlib import Path

import factory
import numpy as np
import pytest

from ssl_retina import config, pseudonyms, shard_index, shards
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source
from ssl_retina.data.selection import AS_OPTIONS, select
from ssl_retina.errors import ConfigError, InputError
from ssl_retina.shards import Index


def _aliased(folder: Path, splits: list[str]) -> Index:
    """One sample for each declared split; sample 0 carries an alias of another patient."""
    folder.mkdir()
    parts = []
    for number, split in enumerate(splits):
        record = factory.facts(number) | {"split": split}
        if number == 0:
            alias = {"key": factory.key(90), "name": "n" * 26, "patient": "b" * 26, "split": "test"}
            record |= {"aliases": [alias]}
        image, _ = factory.sample_parts(number)
        parts += [image, (f"{factory.key(number)}.json", json.dumps(record).encode())]
    factory.write_tar(folder / "set-000000.tar", parts)
    return shard_index.write(folder, {})


def _facts(index: Index, rows: np.ndarray) -> list[shards.Facts]:
    reader = shards.Reader(index)
    return [reader.facts(int(row)) for row in rows]


def test_everything_without_conditions(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=21)
    chosen = select([index])
    assert chosen.train.tolist() == list(range(21))
    assert not len(chosen.held_out)


def test_where_on_columns(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    chosen = select([index], where="split != test and modality == fundus and device=='camera-a'")
    facts = _facts(index, chosen.train)
    assert len(facts) == sum(
        one["split"] == "train" and one["modality"] == "fundus" and one["device"] == "camera-a"
        for one in _facts(index, np.arange(64))
    )
    assert 0 < len(facts) < 64


def test_split_of_aliases(tmp_path: Path) -> None:
    index = _aliased(tmp_path / "set", ["test|train", "train", "test", "", "train"])
    assert select([index], where="split != test").train.tolist() == [1, 3, 4]
    assert select([index], where="split == train").train.tolist() == [1, 4]
    assert select([index], where="split == ''").train.tolist() == [3]
    assert select([index], where="split != train").train.tolist() == [2, 3]


def test_mistakes_in_where_are_all_named(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    with pytest.raises(ConfigError) as caught:
        select([index], where="splitt != test and split != tets and eye = left and modality == funduss")
    problems = caught.value.problems
    assert len(problems) == 4
    assert "no such column" in problems[0]
    assert "did you mean 'test'?" in problems[1]
    assert "column == value" in problems[2]
    assert "did you mean 'fundus'?" in problems[3]


def test_where_that_drops_nothing_is_allowed(tmp_path: Path) -> None:
    """The shipped `split != test` must work for sets without declared splits."""
    index = _aliased(tmp_path / "set", ["", "", ""])
    assert len(select([index], where="split != test").train) == 3


def test_nothing_left(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=4, patients=2)
    with pytest.raises(InputError, match="no sample is left"):
        select([index], where="split != train")


def test_exclude_keys_names_patients_and_aliases(tmp_path: Path) -> None:
    index = _aliased(tmp_path / "set", ["train"] * 20)  # samples 0 and 16 are of one patient
    path = tmp_path / "exclude.txt"

    def left(*names: str) -> set[int]:
        path.write_text("# withdrawn\n\n" + "\n".join(f"{name}  # why" for name in names) + "\n")
        return set(range(20)) - set(select([index], exclude=path).train.tolist())

    assert left(factory.key(5)) == {5}
    assert left(pseudonyms.name(factory.KEY, factory.file_name(6))) == {6}
    assert left(pseudonyms.patient(factory.KEY, factory.patient_id(1, 16))) == {1, 17}
    assert left(factory.key(90)) == {0}
    assert left("n" * 26) == {0}
    assert left("b" * 26) == {0, 16}  # a patient of an alias takes the group along
    assert left(factory.key(5), factory.key(7)) == {5, 7}


def test_unknown_exclusions_are_refused_without_naming_them(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path / "set", samples=8)
    path = tmp_path / "exclude.txt"
    path.write_text(f"{factory.key(1)}\nSmith, John 1950\n")
    with pytest.raises(InputError, match=r"1 of 2 entries .*line 2") as caught:
        select([index], exclude=path)
    assert "Smith" not in str(caught.value)
    with pytest.raises(InputError, match=r"data.exclude: .*absent.txt cannot be read: No such file"):
        select([index], exclude=tmp_path / "absent.txt")
    with pytest.raises(InputError, match=r"^--exclude: .*absent.txt cannot be read: No such file"):
        select([index], exclude=tmp_path / "absent.txt", named=AS_OPTIONS)


def test_a_split_that_was_never_declared_is_said(tmp_path: Path) -> None:
    index = _aliased(tmp_path / "set", ["", "", ""])
    with pytest.raises(ConfigError, match="1 problem in --where\n  split: no split was declared when"):
        select([index], where="split == test", named=AS_OPTIONS)


def test_held_out_patients_are_never_trained_on(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=200, patients=40)
    chosen = select([index], held_out=0.25)
    groups = shards.read_positions(index)["group"]
    train, held_out = set(groups[chosen.train].tolist()), set(groups[chosen.held_out].tolist())
    assert not train & held_out
    assert len(train | held_out) == 40
    assert 3 <= len(held_out) <= 20
    assert len(chosen.train) + len(chosen.held_out) == 200


def test_held_out_patients_are_the_same_in_every_combination_of_sets(tmp_path: Path) -> None:
    first = factory.make_shards(tmp_path / "a", samples=100, patients=40)
    second = factory.make_shards(tmp_path / "b", samples=150, patients=40, shards=3)
    groups = [shards.read_positions(index)["group"] for index in (first, second)]
    alone = set(groups[0][select([first], held_out=0.2).held_out].tolist())
    both = select([second, first], held_out=0.2)
    together = np.concatenate([groups[1], groups[0]])
    assert set(together[both.held_out].tolist()) == alone
    assert not set(together[both.train].tolist()) & alone
    some = select([first], where="device == camera-a", held_out=0.2)
    assert set(groups[0][some.held_out].tolist()) <= alone


@pytest.mark.parametrize("patients", [1, 2, 3])
def test_few_patients(tmp_path: Path, patients: int) -> None:
    index = factory.make_shards(tmp_path, samples=12, patients=patients)
    for share in (0.01, 0.5):
        chosen = select([index], held_out=share)
        assert len(chosen.train) > 0
        assert (len(chosen.held_out) > 0) == (patients > 1)


def _repeated(folder: Path, samples: int) -> Path:
    """A set whose table names one small image again and again, under other keys and groups."""
    index = factory.make_shards(folder, samples=1, shards=1, size=16)
    table = np.repeat(np.load(folder / shards.POSITIONS_NAME), samples)
    table["key"] = [f"{number:026d}".encode() for number in range(samples)]
    table["group"] = np.arange(samples) // 3
    np.save(folder / shards.POSITIONS_NAME, table)
    content = json.loads((folder / shards.INDEX_NAME).read_text())
    content["shardlist"][0]["nsamples"] = samples
    (folder / shards.INDEX_NAME).write_text(json.dumps(content))
    assert index.samples == 1
    return folder


def _peak(folder: Path) -> int:
    """The largest memory in use while a source is opened and streams, in bytes."""
    data = config.Data(shards=(folder,), batch_size=8, workers=0, where="eye == right", held_out=0.05)
    tracemalloc.start()
    source = open_source(data, ViewSpec("mae", 1, 16), seed=1)
    for batch in islice(source.batches(12345, rank=0, world=1, micro_batch=8), 5):
        assert batch.global_views.shape == (1, 8, 3, 16, 16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_memory_is_flat(tmp_path: Path) -> None:
    """From 1,000 to 100,000 samples at most 21 bytes a sample are added: 210 MB for ten millions."""
    _peak(_repeated(tmp_path / "warm", 10))
    small, large = _peak(_repeated(tmp_path / "small", 1000)), _peak(_repeated(tmp_path / "large", 100_000))
    assert large - small < 21 * 99_000, (small, large)


def test_memory_of_indexing_is_that_of_one_shard(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        folder = tmp_path / str(count)
        folder.mkdir()
        for shard in range(count):
            parts = [(f"s{shard}-{number}.jpg", b"x" * 600) for number in range(200)]
            factory.write_tar(folder / f"set-{shard:06d}.tar", parts)
        tracemalloc.start()
        shard_index.write(folder, {})
        largest = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return largest

    one, many = peak(2), peak(12)
    assert many - one < 100 * 2000, (one, many)
