"""The verb `dedup`: copies of a test set are found in a training set, and training leaves them out."""

import json
import sys
from pathlib import Path

import factory
import pytest
from photographs import shard
from test_near import COPIES, eye

from ssl_retina import cli, pseudonyms, shards
from ssl_retina.archive.duplicates import against
from ssl_retina.data import selection
from ssl_retina.errors import StateError


def test_copies_of_a_test_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
    for number in range(4):
        eye(number).save(train / f"t{number}.png")
    eye(1).save(test / "same.png")
    COPIES["all"](eye(2)).save(test / "altered.png")
    eye(9).save(test / "other.png")
    shard(tmp_path, train, "a")
    shard(tmp_path, test, "b")
    listing = tmp_path / "exclude.txt"
    arguments = [str(tmp_path / "a"), "--against", str(tmp_path / "b"), "--out", str(listing), "--json"]
    monkeypatch.setattr(sys, "argv", ["ssl-retina", "dedup", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    told = json.loads(capfd.readouterr().out)
    same, altered = (pseudonyms.image(factory.KEY, f"t{number}.png") for number in (1, 2))
    assert told == {"samples": 4, "exact": [same], "near": [altered]}
    index = shards.read_index(tmp_path / "a")
    assert selection.select([index], exclude=listing).train.size == 2


def _as_by_an_earlier_version(out: Path) -> None:
    """Give the samples of a set the digest that an earlier version wrote."""
    index = shards.read_index(out)
    tar = out / index.shards[0].url
    content = tar.read_bytes()
    assert b'"pixels_xxh128"' in content
    tar.write_bytes(content.replace(b'"pixels_xxh128"', b'"pixels_sha256"'))


def test_sets_whose_pixels_have_other_digests_are_not_compared(tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    eye(1).save(source / "a.png")
    for name in ("new", "old"):
        shard(tmp_path, source, name)
    indexes = [shards.read_index(tmp_path / name) for name in ("new", "old")]
    assert against.find(*indexes, advance=lambda _: None).exact
    _as_by_an_earlier_version(tmp_path / "old")
    for one, other in (indexes, indexes[::-1]):
        with pytest.raises(StateError, match=r"An earlier version made \S+old: shard it again"):
            against.find(one, other, advance=lambda _: None)
    _as_by_an_earlier_version(tmp_path / "new")
    assert against.find(*indexes, advance=lambda _: None).exact
