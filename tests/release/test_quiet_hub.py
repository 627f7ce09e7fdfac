"""What a verb with a timm name tells the hub (law 10): a real request to a server in the hub's place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from factory import make_shards
from servers import Server, listening

VERB = "from ssl_retina import cli; cli.main()"


def asked_as(tmp_path: Path, **more: str) -> str:
    """Run `embed` with a model of timm's; how its requests named themselves."""
    make_shards(tmp_path / "shards", samples=2)
    server = Server()
    words = ["embed", "vit_tiny_patch16_224.augreg_in21k", "--data", str(tmp_path / "shards")]
    with listening({"GET": server.serve, "HEAD": server.serve}) as address:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "DO_NOT"))}
        own = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "127.0.0.1"}
        done = subprocess.run(
            [sys.executable, "-c", VERB, *words, "--out", str(tmp_path / "x.parquet")],
            env={**kept, **own, **more},
            capture_output=True,
            text=True,
            check=False,
        )
    assert "timm cannot give weights" in done.stderr, done.stderr
    assert server.asked
    return " ".join(one.headers["user-agent"] for one in server.asked)


@pytest.mark.slow
def test_law_10_a_timm_name_tells_nothing_of_the_machines_libraries(tmp_path: Path) -> None:
    assert "torch" not in asked_as(tmp_path)


@pytest.mark.slow
def test_law_10_who_wants_to_tell_it_may(tmp_path: Path) -> None:
    assert "torch/" in asked_as(tmp_path, HF_HUB_DISABLE_TELEMETRY="0")
