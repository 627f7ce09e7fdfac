"""The demo's folder, key and steps; the whole path once (slow)."""

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssl_retina import pseudonyms
from ssl_retina.demo import path, steps
from ssl_retina.errors import StateError


class Silent:
    def note(self, text: str) -> None: ...

    def begin(self, number: int, name: str, what: str, command: str) -> None: ...

    def end(self, number: int, summary: str, seconds: float) -> None: ...


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(StateError, match="holds other things than a demo"):
        path.walk(tmp_path, Silent())
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_demo_of_another_version_is_not_mixed_up(tmp_path: Path):
    (tmp_path / path.RECORD).write_text(json.dumps({"version": "0.0.0", "seed": 0, "size": 256}))
    with pytest.raises(StateError, match="another version"):
        path.walk(tmp_path, Silent())


def test_the_demo_has_a_key_of_its_own_outside_the_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """F101: not inside the output, not open to others, not the user's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    key = path._key()
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert key != pseudonyms.default_key_file()
    assert not pseudonyms.default_key_file().exists()
    assert path._key() == key
    pseudonyms.check_key_place(key, tmp_path / "out")


def test_steps_see_no_gpu_no_launcher_and_the_demos_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("MASTER_PORT", "1")
    surroundings = steps.environment(tmp_path / "key")
    assert not {"RANK", "MASTER_PORT"} & surroundings.keys()
    assert surroundings["CUDA_VISIBLE_DEVICES"] == ""
    assert surroundings[pseudonyms.KEY_VARIABLE] == str(tmp_path / "key")


def test_what_is_shown_is_what_is_run(monkeypatch: pytest.MonkeyPatch):
    command = steps.verb("inspect", "out/a b", "--write-index")
    assert command.run[1:] == ("-m", "ssl_retina", "inspect", "--json", "out/a b", "--write-index")
    assert command.typed.endswith("ssl-retina inspect 'out/a b' --write-index")
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert steps.verb("inspect", "x").typed == "ssl-retina inspect x"


def test_a_step_that_fails_stops_the_demo_with_its_exit_code(tmp_path: Path):
    command = steps.verb("inspect", str(tmp_path))
    with pytest.raises(steps.StepError, match="the step inspect ended with exit code 4") as caught:
        steps.run("inspect", command, steps.environment(tmp_path / "key"))
    assert caught.value.exit_code == 4


def test_an_interrupted_step_may_save(tmp_path: Path):
    """SIGTERM reaches the step, and we wait for it."""
    saves = (
        "import pathlib, signal, sys, time\n"
        "def save(*_): pathlib.Path('saved').touch(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, save); pathlib.Path('ready').touch(); time.sleep(60)"
    )
    runs = (
        "import signal, sys; from ssl_retina.demo import steps\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"steps.run('x', steps.python({saves!r}, typed=''), dict(__import__('os').environ))"
    )
    process = subprocess.Popen([sys.executable, "-c", runs], cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_path_twice(tmp_path: Path):
    """Exit 0, counts that add up, a page, an honest sentence; a second run goes on where the first stood."""
    command = [sys.executable, "-m", "ssl_retina", "demo", "--out", "demo", "--json"]
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "config")}
    first, second = (
        json.loads(
            subprocess.run(command, cwd=tmp_path, env=environment, check=True, stdout=subprocess.PIPE).stdout
        )
        for _ in range(2)
    )
    totals = first["totals"]
    assert (totals["scanned"], totals["written"], totals["rejected"], totals["duplicates"]) == (
        669,
        660,
        3,
        6,
    )
    assert totals["reasons"] == {"blank": 1, "not_an_image": 1, "truncated": 1}
    assert [step["name"] for step in first["steps"]] == [
        *("draw", "shard", "inspect", "pretrain", "export", "timm", "probe", "page")
    ]
    scores = {
        one["weights"]: one["metrics"]["auroc"]
        for one in first["task"]["results"]
        if one["probe"] == "logistic"
    }
    assert set(scores) == {"demo/model", "random", "mean-colour", "pixel-pca"}
    assert all(one["low"] <= one["value"] <= one["high"] for one in scores.values())
    assert scores["mean-colour"]["high"] <= 0.60
    assert first["verdict"]["proven"] or "prove nothing" in first["verdict"]["sentence"]
    assert "docs/results.md" in first["verdict"]["sentence"]
    text = (tmp_path / "demo" / "index.html").read_text()
    assert first["verdict"]["sentence"].replace("'", "&#39;") in text
    assert second["pretrain"]["started_at"] == first["pretrain"]["steps"]
    assert second["task"] == first["task"]
    _no_name_left(tmp_path / "demo")


def _no_name_left(out: Path) -> None:
    """F99: no surname of the archive in anything that the path made from it."""
    surnames = {folder.name.split("_")[0] for folder in (out / "archive" / "quadra").glob("*/*")}
    assert len(surnames) > 5
    for made in ("shards", "run", "model", "probe", "index.html", "demo.json"):
        root = out / made
        for file in [root] if root.is_file() else [one for one in root.rglob("*") if one.is_file()]:
            content = file.read_bytes().lower()
            assert not [name for name in surnames if name.lower().encode() in content], file
