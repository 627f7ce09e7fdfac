"""The shard contract: what a reader may rely on, and what it refuses."""

import gc
import json
import pickle
import warnings
from pathlib import Path

import factory
import numpy as np
import pytest

from ssl_retina import shards
from ssl_retina.errors import ShardError


def _edit(folder: Path, change: dict[str, object]) -> None:
    path = folder / shards.INDEX_NAME
    content = json.loads(path.read_text())
    content["shardlist"][0] |= change
    path.write_text(json.dumps(content))


def test_stock_webdataset_reads_our_shards(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    index = factory.make_shards(tmp_path, samples=65, shards=3)
    reader = shards.Reader(index)
    urls = [str(tmp_path / shard.url) for shard in index.shards]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the last shard open
        read = list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))
        gc.collect()
    assert len(read) == index.samples == 65
    for number, sample in enumerate(read):
        assert sample["__key__"] == reader.key(number)
        assert sample[reader.suffix(number)] == reader.image(number)
        assert json.loads(sample["json"]) == reader.facts(number)


@pytest.mark.parametrize(
    "url",
    [
        "pipe:cat factory-000000.tar",
        "http://example.org/a.tar",
        "file:///etc/passwd",
        "/etc/a.tar",
        "../a.tar",
        ".a.tar",
        "a.tar.gz",
        "a/b.tar",
        None,
        7,
    ],
)
def test_f53_only_plain_names_beside_the_index(
    tmp_path: Path, url: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOPEN_REWRITE", f"factory={tmp_path}/elsewhere")
    factory.make_shards(tmp_path)
    shards.Reader(shards.read_index(tmp_path)).sample(0)
    _edit(tmp_path, {"url": url})
    with pytest.raises(ShardError, match="only plain names"):
        shards.read_index(tmp_path)


@pytest.mark.parametrize("change", [{"nsamples": "7"}, {"nsamples": -1}, {"filesize": None}])
def test_an_index_with_other_types_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    factory.make_shards(tmp_path)
    _edit(tmp_path, change)
    with pytest.raises(ShardError, match="not an index of ours"):
        shards.read_index(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"ssl_retina": 3, "shardlist": []}', "[" * 100_000]
)
def test_a_foreign_index_is_refused_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / shards.INDEX_NAME).write_text(content)
    with pytest.raises(ShardError, match="--write-index"):
        shards.read_index(tmp_path)


def test_f44_table_of_another_set(tmp_path: Path) -> None:
    factory.make_shards(tmp_path / "a", samples=20)
    factory.make_shards(tmp_path / "b", samples=21)
    (tmp_path / "a" / shards.POSITIONS_NAME).write_bytes(
        (tmp_path / "b" / shards.POSITIONS_NAME).read_bytes()
    )
    with pytest.raises(ShardError, match="does not fit"):
        shards.Reader(shards.read_index(tmp_path / "a"))


def test_a_pickled_table_is_never_loaded(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    path = tmp_path / shards.POSITIONS_NAME
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ShardError, match="cannot be read"):
        shards.Reader(index)
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(ShardError, match="cannot be read"):
        shards.Reader(index)


def test_a_shard_that_vanished_is_named(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=10, shards=2)
    (tmp_path / index.shards[1].url).unlink()
    reader = shards.Reader(index)
    reader.sample(0)
    with pytest.raises(ShardError, match=index.shards[1].url):
        reader.sample(9)


def test_few_files_are_open_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "OPEN_LIMIT", 2)
    reader = shards.Reader(factory.make_shards(tmp_path, samples=10, shards=5))
    before = len(list(Path("/proc/self/fd").iterdir()))
    for number in [*range(10), *range(10)]:
        assert reader.sample(number).key == factory.key(number)
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 2
    reader.close()


def test_keys_and_groups_of_foreign_sets() -> None:
    assert shards.key_of("a_b-7") == "a_b-7"
    for name in ("A", "a b", "a/b", "a" * 65, "é", ""):
        key = shards.key_of(name)
        assert shards.KEY_PATTERN.fullmatch(key)
        assert key == shards.key_of(name)
        assert len(key) == 28
    numbers = {shards.group_number(name) for name in ("P-001", "17", "é", "", "x" * 200)}
    assert len(numbers) == 5
    assert all(0 <= number < 2**63 for number in numbers)
