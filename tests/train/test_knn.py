"""The online kNN: labels joined by pseudonym, patients apart, nothing that the run may not see."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import tiny

from ssl_retina.config import Run
from ssl_retina.data.loader import Source, open_source
from ssl_retina.errors import InputError, StateError
from ssl_retina.train import knn, loop, setup
from ssl_retina.train.engine import process_group
from ssl_retina.train.signals import Stop


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture
def shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SSL_RETINA_KEY_FILE", str(factory.write_key(tmp_path / "key")))
    return tiny.make_shards(tmp_path / "shards")


def labelled(shards: Path, task: str = "sick=disease==1", **changes: Any) -> Run:
    table = factory.make_labels(shards.parent / "labels.csv", samples=tiny.SAMPLES, patients=23)
    tracking = {"tracking__labels": str(table), "tracking__task": task, "train__steps": 4}
    return tiny.run(shards, shards.parent / "run", **{**tracking, **changes})


def source(run: Run) -> Source:
    _, views = setup.build_method(run)
    return open_source(run.data, views, seed=run.seed)


def test_patients_are_whole_and_both_halves_have_both_classes(shards: Path) -> None:
    run = labelled(shards, task="sick=grade>=1")
    opened = source(run)
    found = knn.neighbours(run, opened)
    assert found is not None
    groups = np.concatenate([knn.Reader(index).positions["group"] for index in opened.indexes])[found.rows]
    for patient in np.unique(groups):
        assert len(np.unique(found.half[groups == patient])) == 1
    assert len(found.rows) == tiny.SAMPLES
    expected = [int(factory.grade(number, 23, 0) > 0) for number in range(tiny.SAMPLES)]
    by_key = {factory.key(number): expected[number] for number in range(tiny.SAMPLES)}
    keys = [knn.Reader(opened.indexes[0]).key(int(row)) for row in found.rows]
    assert [by_key[key] for key in keys] == found.classes.tolist()


def test_photographs_that_the_run_may_not_see_are_not_looked_at(shards: Path) -> None:
    run = labelled(shards, task="sick=grade>=1", data__where="split != test")
    opened = source(run)
    found = knn.neighbours(run, opened)
    assert found is not None
    splits = {factory.key(number): factory.split(number, 23) for number in range(tiny.SAMPLES)}
    keys = [knn.Reader(opened.indexes[0]).key(int(row)) for row in found.rows]
    assert keys
    assert all(splits[key] != "test" for key in keys)


def test_the_score_stands_in_the_lines_and_training_does_not_notice(shards: Path) -> None:
    with_labels = loop.pretrain(labelled(shards, task="sick=grade>=1"), Stop())
    plain = tiny.run(shards, shards.parent / "plain", train__steps=4)
    assert loop.pretrain(plain, Stop()).loss == with_labels.loss
    line = (shards.parent / "run" / "metrics.jsonl").read_text().splitlines()[-1]
    assert 0 <= float(line.split('"knn_auroc": ')[1].split(",")[0]) <= 1


def test_the_score_is_high_where_the_features_tell_the_label(shards: Path) -> None:
    run = labelled(shards, task="sick=grade>=1")
    found = knn.neighbours(run, source(run))
    assert found is not None
    telling = np.stack((found.classes + 0.1, 1.1 - found.classes), axis=1).astype(float)
    scored = found.score(telling)
    assert scored is not None
    assert (scored.value, scored.low) == (1.0, 1.0)
    assert found.score(telling * np.nan) is None


def test_mistakes_are_told_before_the_first_step(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="needs two classes"):
        loop.pretrain(labelled(shards, task="grade=grade:ordinal"), Stop())
    monkeypatch.delenv("SSL_RETINA_KEY_FILE")
    with pytest.raises(StateError, match="no key is here"):
        loop.pretrain(labelled(shards, task="sick=grade>=1"), Stop())
    assert not (shards.parent / "run" / "metrics.jsonl").exists()
