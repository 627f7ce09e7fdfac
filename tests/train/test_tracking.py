"""Lines are whole and never run ahead of a resume; dashboards get numbers and no path of this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import tiny
from pydantic import BaseModel

from ssl_retina import methods
from ssl_retina.config import Run
from ssl_retina.train import tracking
from ssl_retina.train.terminal import Terminal, sentence
from ssl_retina.train.tracking import Lines

LINE = {"step": 3, "loss": 0.5, "gradient_norm": None, "skipped": 0, "clock": {"data_wait": 0.25}}


def logged(folder: Path) -> list[int]:
    return [line["step"] for line in tracking.read_lines(folder)]


def test_lines_after_the_resumed_step_go_and_a_torn_last_line_too(tmp_path: Path) -> None:
    sink = Lines(tmp_path, 0)
    for step in (1, 2, 3, 4):
        sink.write({"step": step, "loss": step / 3})
    sink.close()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 5, "lo')
    assert tracking.last_step(tmp_path) == 4
    sink = Lines(tmp_path, 2)
    assert logged(tmp_path) == [1, 2]
    sink.write({"step": 3, "loss": 1.0})
    sink.write({"step": 4, "loss": 4 / 3})
    sink.close()
    assert path.read_bytes() == whole  # floats come back in the same bytes
    assert not list(tmp_path.glob(".metrics*"))


def test_a_line_is_on_disk_when_write_returns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    sink = Lines(tmp_path, 0)
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), fsync(descriptor)))
    sink.write(LINE)
    assert len(synced) == 1
    assert logged(tmp_path) == [3]
    sink.close()


def test_json_has_no_nan() -> None:
    assert tracking.finite(float("nan")) is None
    assert tracking.finite(float("inf")) is None
    assert tracking.finite(1.5) == 1.5


def test_no_path_of_this_machine_goes_to_a_dashboard(tmp_path: Path) -> None:
    shards = tmp_path / "canary-shards"
    changes = {"data__exclude": "canary-list", "data__proportions": {str(shards): 1.0}}
    run = tiny.run(shards, tmp_path / "canary-out", **changes)
    content = tracking.public(run)
    assert "canary" not in json.dumps(content)
    assert str(tmp_path) not in json.dumps(content)
    assert content["data"]["batch_size"] == 8
    assert set(content) == set(run.dump()) - {"out"}


def _named_paths(section: type[BaseModel], before: str = "") -> Iterator[str]:
    """Fields of a config's sections that hold a path, by their dotted names."""
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _named_paths(inner, f"{before}{name}.")
        elif Path in _types(inner):
            yield before + name


def _types(annotation: object) -> set[object]:
    return {annotation}.union(*map(_types, get_args(annotation)))


def test_every_path_of_the_config_is_private() -> None:
    found = set(_named_paths(Run))
    for method in tiny.METHODS:
        found |= set(_named_paths(methods.config_type(method), "method."))
    assert {"out", "data.shards", "model.init_reference", "tracking.labels"} <= found
    assert found | {"model.init"} <= set(tracking.PRIVATE)


def test_weights_to_start_from_are_named_by_their_sum_alone(tmp_path: Path) -> None:
    started = {"model__init": "/canary/a.pth", "model__init_reference": "/canary/b.safetensors"}
    run = tiny.run(tmp_path / "shards", tmp_path, **started)
    assert "canary" not in json.dumps(tracking.public(run))
    told = {"source": "the file canary.pth", "layout": "MAE", "hashed": "file", "sha256": "0" * 64}
    (tmp_path / "receipt.json").write_text(json.dumps(told))
    content = tracking.public(run)
    assert content["init"] == {"layout": "MAE", "hashed": "file", "sha256": "0" * 64}
    assert "canary" not in json.dumps(content)


def test_wandb_is_not_loaded_unless_asked(tmp_path: Path) -> None:
    run = tiny.run(tmp_path, tmp_path)
    loaded = {name for name in sys.modules if name.startswith("wandb")}
    with tracking.sinks(run, 0) as opened:
        assert [type(sink) for sink in opened] == [Lines]
    assert {name for name in sys.modules if name.startswith("wandb")} == loaded


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::UserWarning")
def test_wandb_and_tensorboard_offline_with_one_id_for_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two starts of one run: one id, two folders to sync; no console, no code, no path, no chatter."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    run = tiny.run(
        tmp_path / "canary-shards", tmp_path, tracking__wandb="offline", tracking__tensorboard=True
    )
    for step in (0, 3):
        with tracking.sinks(run, step) as opened:
            for sink in opened:
                sink.write({**LINE, "step": step + 1})
        time.sleep(1.1)  # wandb names a folder by the second
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    name = (tmp_path / "wandb-id").read_text().strip()
    assert len(folders) == 2
    assert all(folder.name.endswith(f"-{name}") for folder in folders)
    for folder in folders:
        written = {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        records = b"".join(content for file, content in written.items() if file.endswith(".wandb"))
        assert b"batch_size" in records
        assert b"canary-shards" not in records
        assert str(tmp_path).encode() not in records
        assert "output.log" not in written
        assert not [file for file in written if file.endswith(".py")]
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2
    said = capfd.readouterr()
    assert "wandb" not in said.out + said.err


OFFLINE = """
import sys
import time
from pathlib import Path
import tiny
from ssl_retina.train import tracking
run = tiny.run(Path("shards"), Path(sys.argv[1]), tracking__wandb="offline", tracking__tensorboard=True)
with tracking.sinks(run, 0) as opened:
    for step in (1, 2):
        for sink in opened:
            sink.write({"step": step, "loss": 0.5})
"""
COUNTED = """
ip link set lo up; ip route add default dev lo
"$0" -W ignore -c "$1" "$2"
cat /proc/net/snmp
"""


@pytest.mark.slow
def test_law_10_offline_opens_no_connection_and_sends_no_datagram(tmp_path: Path) -> None:
    """In a network of its own, where every address leads to loopback: the kernel counts what was tried."""
    here = Path(__file__).parent
    path = f"{here}{os.pathsep}{here.parent}"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", COUNTED, sys.executable, OFFLINE, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("this user may not make a network namespace")
    assert len(tracking.read_lines(tmp_path)) == 2, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    counts = {
        (names[0], name): int(value)
        for names, values in zip(rows[::2], rows[1::2], strict=True)
        for name, value in zip(names[1:], values[1:], strict=True)
    }
    assert counts["Tcp:", "ActiveOpens"] == 0
    assert counts["Udp:", "OutDatagrams"] == 0


def test_the_terminal_says_little_and_only_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    terminal = Terminal(4, speaks=True)
    terminal.start(0)
    for step in (1, 2, 3, 4):
        terminal.write({**LINE, "step": step})
        terminal.advance(step)
    terminal.close()
    said = capsys.readouterr()
    assert said.out == ""
    assert [line.split()[1] for line in said.err.splitlines()] == ["1/4", "4/4"]
    silent = Terminal(4, speaks=False)
    silent.say("nothing")
    silent.write(LINE)
    assert capsys.readouterr().err == ""


def test_a_sentence_shows_what_is_there() -> None:
    assert sentence({**LINE, "skipped": 2, "held_out_loss": 0.25}) == (
        "loss 0.5000  held-out 0.2500  data wait 25%  skipped 2"
    )
    assert sentence({"step": 1, "loss": None}) == ""
