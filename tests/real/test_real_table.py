"""The table: means over seeds with paired intervals; choosing a recipe never meets a test label."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import eyes
import numpy as np
import pytest
from test_halves import divided, patients_of_test

from ssl_retina.metrics import Estimate
from ssl_retina.probe.evaluate import Judged
from ssl_retina.probe.features import Advance, Representation
from ssl_retina.real import judging, path, report, table
from ssl_retina.real.beginning import Ready
from ssl_retina.real.judging import BASELINES, Posed, Weights
from ssl_retina.shards import Index, Reader


@pytest.fixture
def numbered(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """Features that are drawn from name, seed and photograph; gives the photographs that were asked for."""
    asked: dict[str, list[str]] = {}

    def represent(
        names: Sequence[str], index: Index, rows: np.ndarray, *, seed: int, advance: Advance
    ) -> Iterator[Representation]:
        reader = Reader(index)
        keys = [reader.key(int(row)) for row in rows]
        reader.close()
        asked.setdefault(index.folder.name, []).extend(keys)
        for name in names:
            advance(name, len(keys))
            drawn = [
                np.random.default_rng([seed, *name.encode(), *key.encode()]).normal(size=6) for key in keys
            ]
            yield Representation(name, "drawn", np.array(drawn, np.float32))

    monkeypatch.setattr(judging.features, "represent", represent)
    monkeypatch.setattr(judging, "RESAMPLES", 100)
    return asked


class Silent:
    def note(self, text: str) -> None: ...

    def begin(self, number: int, name: str, what: str, command: str) -> None: ...

    def end(self, number: int, summary: str, seconds: float) -> None: ...


def ready(data: Path, sharded: Path, key_file: Path) -> Ready:
    return Ready(sharded, key_file, tuple(divided(data, sharded, key_file).values()))


SEEDS = 2


def weights(*names: str) -> list[Weights]:
    """Rows of two seeds, and the cheap opponents; no export is there, since features are drawn."""
    trained = [
        Weights(name, f"{name}-{seed}", "d", seed, Path(name)) for name in names for seed in range(SEEDS)
    ]
    drawn = [Weights("random", f"random-{seed}", "d", seed, Path(names[0])) for seed in range(SEEDS)]
    return [*trained, *drawn, Weights("mean-colour", "m", "m"), Weights("pixel-pca", "p", "p")]


def judged(posed: Sequence[Posed], names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> Any:
    """The table by way of JSON, as a stage keeps each row."""
    found: dict[str, dict[str, list[Any]]] = {}
    for one in weights(*names):
        kept = json.loads(json.dumps(judging.judge(posed, one, lambda name, done: None), allow_nan=False))
        for task, plain in kept.items():
            found.setdefault(task, {}).setdefault(one.name, []).append(judging.restored(plain))
    return table.table(posed, found, pairs)


def against_baselines(*names: str) -> list[tuple[str, str]]:
    return [(name, other) for name in names for other in BASELINES]


@pytest.mark.slow
@pytest.mark.usefixtures("numbered")
def test_test_labels_change_no_byte_of_the_dev_table_and_all_of_the_final_one(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    before = ready(drawn.data, sharded, key_file)
    patients = patients_of_test(before.divided[1][1])
    after = ready(eyes.relabelled(drawn, tmp_path / "data", sorted(patients)), sharded, key_file)
    pairs = against_baselines("mae")
    dev, final = (
        [json.dumps(judged(pose(one), ["mae"], pairs), sort_keys=True) for one in (before, after)]
        for pose in (path._dev, path._final)
    )
    assert dev[0] == dev[1]
    assert final[0] != final[1]
    costs = [[result["C"] for task in json.loads(text) for result in task["results"]] for text in final]
    assert costs[0] == costs[1]


def test_dev_asks_for_no_test_photograph_and_the_final_table_tests_them_all(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, numbered: dict[str, list[str]]
) -> None:
    start = ready(drawn.data, sharded, key_file)
    held_out = {key for _, one in start.divided for key in one.held_out}
    one = weights("mae")[0]
    judging.judge(path._dev(start), one, lambda name, done: None)
    assert numbered["idrid"]
    assert not held_out & {key for keys in numbered.values() for key in keys}
    posed = path._final(start)
    plain = judging.judge(posed, one, lambda name, done: None)
    rows = {task: {"mae": [judging.restored(found)]} for task, found in plain.items()}
    tasks = table.table(posed, rows, [])
    assert [task["tested_images"] for task in tasks] == [one.count("test") for _, one in start.divided]
    assert [task["level"] for task in tasks] == ["image-level, optimistic", "patient"]
    assert tasks[1]["tested_patients"] == 16


RECIPE = {
    "name": "mae",
    "config": "mae.yaml",
    "overrides": ["train.steps=2"],
    "steps": 2,
    "batch_size": 8,
    "photographs_seen": 16,
    "seconds": [1.0, 2.0],
}


@pytest.mark.usefixtures("numbered")
def test_a_row_a_method_beside_the_same_opponents(drawn: eyes.Eyes, sharded: Path, key_file: Path) -> None:
    posed = path._final(ready(drawn.data, sharded, key_file))
    alone = judged(posed, ["mae"], against_baselines("mae"))
    pairs = [*against_baselines("mae", "simclr"), ("mae", "simclr")]
    tasks = judged(posed, ["mae", "simclr"], pairs)
    for one, task in zip(alone, tasks, strict=True):
        rows = list(report.rows(task))
        assert [row[0] for row in rows] == ["mae", "simclr", "random", "mean-colour", "pixel-pca"]
        assert [len(row[2].split()) for row in rows] == [2, 2, 2, 0, 0]
        assert report.head(task)[3:] == tuple(f"less {name} (95 %)" for name in BASELINES)
        assert [all(row[3:]) for row in rows] == [True, True, False, False, False]
        assert not any(cell for row in rows[2:] for cell in row[3:])
        assert rows[0] == next(iter(report.rows(one))), "another method beside it changes no figure"
        assert rows[2][1] not in (rows[0][1], rows[1][1]), "random takes an architecture, not weights"
        assert list(report.between(one)) == []
        ((pair, *_),) = report.between(task)
        assert pair == "mae less simclr"
        _check_difference(task)
    facts = {"sets": [], "seconds": {"table": 60.0}, "version": "1", "commands": ["ssl-retina x"]}
    text = report.markdown({**facts, "side": "test", "tasks": tasks, "recipes": [RECIPE, RECIPE]})
    assert "Equal are the encoder" in text
    assert report.ONE_TRAINING not in text
    assert text.count("| mae |") == text.count("| simclr |") == 2
    for words in (
        "image-level, optimistic",
        "1.0 minutes",
        "16 photographs seen; 1, 2 s a training",
        "Equal are",
    ):
        assert words in text


def _check_difference(task: Mapping[str, Any]) -> None:
    mae, simclr = (one["probes"]["logistic"]["auroc"] for one in task["results"][:2])
    assert mae["value"] == pytest.approx(np.mean(mae["seeds"]))
    found = task["differences"][-1]["probes"]["logistic"]["auroc"]
    assert found["value"] == pytest.approx(mae["value"] - simclr["value"])
    assert found["seeds"] == pytest.approx(np.subtract(mae["seeds"], simclr["seeds"]))
    assert found["low"] < found["value"] < found["high"]


def test_what_a_stage_keeps_is_what_was_judged() -> None:
    """Undefined values too: JSON has no NaN."""
    one = Estimate(float("nan"), np.array([0.1 + 0.2, np.nan]), np.array([]), -1.0)
    plain = json.loads(
        json.dumps(judging._plain(Judged({"knn": {"auroc": one}}, (1.0, 0.1))), allow_nan=False)
    )
    back = judging.restored(plain)
    found = back.estimates["knn"]["auroc"]
    assert np.isnan(found.value)
    np.testing.assert_array_equal(found.resampled, one.resampled)
    assert (len(found.refitted), found.lowest, back.costs) == (0, -1.0, (1.0, 0.1))


def test_a_mean_over_seeds_is_taken_in_every_resample() -> None:
    estimates = [
        Estimate(0.6, np.array([0.5, 0.7]), np.array([0.4, 0.8])),
        Estimate(0.8, np.array([0.9, 0.7]), np.array([0.6, 0.6])),
    ]
    found = table.mean(estimates)
    assert found.value == pytest.approx(0.7)
    assert found.resampled == pytest.approx([0.7, 0.7])
    assert found.refitted == pytest.approx([0.5, 0.7])


@pytest.mark.parametrize(
    ("low", "high", "seeds", "words"),
    [
        (0.01, 0.2, [], "better than"),
        (-0.2, -0.01, [], "worse than"),
        (-0.1, 0.1, [], "not told apart"),
        (None, None, [], "not told apart"),
        (0.01, 0.2, [0.1, 0.05], "better than"),
        (0.01, 0.2, [0.2, -0.01], "not told apart"),
        (-0.2, -0.01, [-0.2, None], "not told apart"),
    ],
)
def test_only_an_interval_that_clears_zero_and_seeds_that_agree_tell_apart(
    low: float | None, high: float | None, seeds: list[float | None], words: str
) -> None:
    number = {"value": 0.0, "low": low, "high": high, "seeds": seeds}
    difference = {"weights": "mae", "against": "random", "probes": {"logistic": {"auroc": number}}}
    (said,) = report.verdicts({"name": "t", "differences": [difference]})
    assert words in said
