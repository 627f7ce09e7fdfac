"""The verb `demo`: one JSON object or a table on stdout, everything else on stderr."""

import json

import pytest
from typer.testing import CliRunner

from ssl_retina.cli import app
from ssl_retina.demo import path


def record() -> dict[str, object]:
    def number(value: float) -> dict[str, dict[str, float]]:
        return {"auroc": {"value": value, "low": value - 0.1, "high": value + 0.1}}

    results = [
        {"weights": name, "probe": probe, "metrics": number(0.6)}
        for name in ("[b]out/model", "random")
        for probe in ("logistic", "knn")
    ]
    differences = [{"against": "random", "probe": "logistic", "metrics": number(0.0)}]
    task = {"name": "referable", "tested_images": 599, "tested_patients": 148}
    return {
        "seconds": 200.0,
        "page": "out/index.html",
        "task": {**task, "results": results, "differences": differences},
        "verdict": {"sentence": "Two minutes of pretraining prove nothing here."},
    }


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> None:
    def walk(out: object, listener: path.Listener) -> dict[str, object]:
        listener.note("$ export A=b")
        listener.begin(1, "draw", "an archive", "")
        listener.begin(2, "shard", "files", "ssl-retina shard a")
        listener.end(2, "669 scanned", 3.2)
        return record()

    monkeypatch.setattr(path, "walk", walk)


@pytest.mark.usefixtures("walked")
def test_json_is_one_object_and_alone_on_stdout():
    done = CliRunner().invoke(app, ["demo", "--out", "x", "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == record()


@pytest.mark.usefixtures("walked")
def test_a_person_reads_the_table_and_what_it_proves():
    done = CliRunner().invoke(app, ["demo", "--out", "x"], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    for words in (
        "[b]out/model",
        "0.600 (0.500 to 0.700)",
        "+0.000 (-0.100 to +0.100)",
        "prove nothing",
        "148 patients",
    ):
        assert words in done.stdout
    assert "ssl-retina shard a" not in done.stdout


def test_help_has_an_example():
    done = CliRunner().invoke(app, ["demo", "--help"])
    assert "ssl-retina demo --out" in done.stdout
