"""A run on an address equals the run on the folder, bit for bit, whatever the server does meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from servers import Fault, served

from ssl_retina.data import remote
from ssl_retina.train import checkpoint

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "debug_mae.yaml"


def _ssl_retina(*arguments: str) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-W", "ignore", "-m", "ssl_retina", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def _lines(run: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "clock"} for line in found]


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    folder = checkpoint.newest(run)
    return checkpoint.load_weights(folder) | checkpoint.load_moments(folder)


@pytest.mark.slow
def test_a_run_on_an_address_equals_the_run_on_the_folder(tmp_path: Path) -> None:
    """Two ranks with a worker each share the cache; a resumed run takes the folder for the address."""
    place = tiny.make_shards(tmp_path / "shards")
    given = tiny.overrides(place, tmp_path / "local")
    assert _ssl_retina("pretrain", str(CONFIG), *given, "--processes", "2").returncode == 0
    with served({path.name: path.read_bytes() for path in place.iterdir()}) as site:
        site.script["/a/factory-000000.tar"] = [Fault(), Fault(cut=20_000), Fault(corrupt=900)]
        site.script["/a/factory-000001.tar"] = [Fault(status=503), Fault(), Fault(status=503)]
        address = site.address.replace("://", "://ann:opensesame@")
        moved = [f"data.shards={address}", f"data.cache={tmp_path / 'cache'}", "data.workers=1"]
        away = [*given, f"out={tmp_path / 'away'}", *moved]
        done = _ssl_retina("pretrain", str(CONFIG), *away, "--processes", "2")
        assert done.returncode == 0, done.stderr
        checked = _ssl_retina("check", str(CONFIG), *away)
    assert _lines(tmp_path / "away") == _lines(tmp_path / "local")
    ours, theirs = _tensors(tmp_path / "away"), _tensors(tmp_path / "local")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    wholes = [one for one in site.asked if one.path.endswith(".tar") and one.status == 200]
    assert "2 shards" in done.stderr
    assert f"data.cache {tmp_path / 'cache'}, which keeps at most 50 GiB" in done.stderr
    assert f"data.cache {tmp_path / 'cache'}, which keeps at most 50 GiB" in " ".join(checked.stdout.split())
    assert len(wholes) < 12
    for path in (tmp_path / "away").rglob("*"):
        assert not path.is_file() or b"sesame" not in path.read_bytes()
    assert "sesame" not in done.stderr + done.stdout + checked.stdout + checked.stderr
    digest = checkpoint.load_facts(checkpoint.newest(tmp_path / "away"))["data"]["digests"][0]
    saved = checkpoint.load_config(checkpoint.newest(tmp_path / "away")).data
    assert str(saved.shards[0]) == site.address.replace("://", "://***@")
    assert remote.kept(saved.shards[0], digest, saved.cache) is not None  # type: ignore[arg-type]
    resumed = [*given, f"out={tmp_path / 'away'}", "train.steps=14"]
    assert _ssl_retina("pretrain", str(CONFIG), *resumed, "--extend").returncode == 0
