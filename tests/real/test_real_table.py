"""The table: means over seeds with paired intervals; choosing a recipe never meets a test label."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import eyes
import numpy as np
import pytest
from test_halves import divided, patients_of_test

from ssl_retina.metrics import Estimate
from ssl_retina.probe.features import Advance, Representation
from ssl_retina.real import path, report, table
from ssl_retina.real.path import Ready
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

    monkeypatch.setattr(table.features, "represent", represent)
    monkeypatch.setattr(table, "RESAMPLES", 100)
    return asked


class Silent:
    def note(self, text: str) -> None: ...

    def begin(self, number: int, name: str, what: str, command: str) -> None: ...

    def end(self, number: int, summary: str, seconds: float) -> None: ...


def ready(data: Path, sharded: Path, key_file: Path) -> Ready:
    return Ready(sharded, key_file, tuple(divided(data, sharded, key_file).values()))


EXPORTS = [Path("out/seed-0/model"), Path("out/seed-1/model")]


@pytest.mark.slow
@pytest.mark.usefixtures("numbered")
def test_test_labels_change_no_byte_of_the_dev_table_and_all_of_the_final_one(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, tmp_path: Path
) -> None:
    before = ready(drawn.data, sharded, key_file)
    patients = patients_of_test(before.divided[1][1])
    after = ready(eyes.relabelled(drawn, tmp_path / "data", sorted(patients)), sharded, key_file)
    dev, final = (
        [json.dumps(judged(one, EXPORTS, Silent()), sort_keys=True) for one in (before, after)]
        for judged in (path._dev, path._final)
    )
    assert dev[0] == dev[1]
    assert final[0] != final[1]
    costs = [
        [result["C"] for task in json.loads(text)["tasks"] for result in task["results"]] for text in final
    ]
    assert costs[0] == costs[1]


def test_dev_asks_for_no_test_photograph_and_the_final_table_tests_them_all(
    drawn: eyes.Eyes, sharded: Path, key_file: Path, numbered: dict[str, list[str]]
) -> None:
    start = ready(drawn.data, sharded, key_file)
    held_out = {key for _, one in start.divided for key in one.held_out}
    path._dev(start, EXPORTS[:1], Silent())
    assert numbered["idrid"]
    assert not held_out & {key for keys in numbered.values() for key in keys}
    tasks = path._final(start, EXPORTS[:1], Silent())["tasks"]
    assert [task["tested_images"] for task in tasks] == [one.count("test") for _, one in start.divided]
    assert [task["level"] for task in tasks] == ["image-level, optimistic", "patient"]
    assert tasks[1]["tested_patients"] == 16


@pytest.mark.usefixtures("numbered")
def test_a_table_in_words(drawn: eyes.Eyes, sharded: Path, key_file: Path) -> None:
    tasks = path._final(ready(drawn.data, sharded, key_file), EXPORTS, Silent())["tasks"]
    names = ["pretrained", "random", "mean-colour", "pixel-pca"]
    for task in tasks:
        rows = list(report.rows(task))
        assert [row[0] for row in rows] == names
        assert [len(row[2].split()) for row in rows] == [2, 2, 0, 0]
        assert [bool(row[3]) for row in rows] == [False, True, True, True]
        own, random = (one["probes"]["logistic"]["auroc"] for one in task["results"][:2])
        assert own["value"] == pytest.approx(np.mean(own["seeds"]))
        difference = task["differences"][0]["probes"]["logistic"]["auroc"]
        assert difference["value"] == pytest.approx(own["value"] - random["value"])
    text = report.markdown(
        {"sets": [], "tasks": tasks, "seconds": {"table": 60.0}, "version": "1", "commands": ["ssl-retina x"]}
    )
    assert text.count("| pretrained |") == 2
    assert "image-level, optimistic" in text
    assert "1.0 minutes" in text


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
    ("low", "high", "words"),
    [
        (0.01, 0.2, "better than"),
        (-0.2, -0.01, "worse than"),
        (-0.1, 0.1, "not told apart"),
        (None, None, "not told apart"),
    ],
)
def test_only_an_interval_that_clears_zero_tells_apart(
    low: float | None, high: float | None, words: str
) -> None:
    difference: dict[str, Any] = {"auroc": {"value": 0.0, "low": low, "high": high}}
    task = {"name": "t", "differences": [{"against": "random", "probes": {"logistic": difference}}]}
    assert words in report.verdict(task)
