"""The method of `docs/adding-a-method.md`, taken from the page: it is found, keeps the contract, trains."""

import ast
import importlib
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import factory
import pytest
import test_contract_of_methods as contract_tests
from typer.testing import CliRunner

from ssl_retina import methods, shipped
from ssl_retina.cli import app
from ssl_retina.train import checkpoint

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "adding-a-method.md"
NAME = "peek"
CHECKS = [name for name in vars(contract_tests) if name.startswith("test_")]


def _written() -> str:
    (code,) = re.findall(
        r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    return str(code)


@pytest.fixture
def peek(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The page's file in a folder that counts as one more part of `methods`."""
    (tmp_path / f"{NAME}.py").write_text(_written(), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    yield NAME
    sys.modules.pop(f"{methods.__name__}.{NAME}", None)
    vars(methods).pop(NAME, None)


def test_it_is_one_file_of_at_most_60_lines_that_imports_what_a_method_may() -> None:
    code = _written()
    assert len(code.splitlines()) <= 60
    assert max(map(len, code.splitlines())) <= 110
    modules = {node.module for node in ast.walk(ast.parse(code)) if isinstance(node, ast.ImportFrom)}
    ours = {name for name in modules if name and name.startswith("ssl_retina.")}
    assert {name.split(".")[1] for name in ours} <= {
        "contract",
        "config",
        "errors",
        "losses",
        "models",
        "dist",
    }


def test_the_file_is_its_registration(peek: str) -> None:
    assert peek in methods.available()
    kind = methods.config_type(peek)
    assert kind is not None
    assert Path(inspect.getfile(kind)).name == "peek.py"
    assert "peek" not in {path.stem for path in Path(inspect.getfile(methods)).parent.glob("*.py")}


@pytest.mark.parametrize("check", CHECKS)
def test_it_keeps_the_contract(peek: str, check: str, request: pytest.FixtureRequest) -> None:
    """Every test that runs over the folder."""
    function = getattr(contract_tests, check)
    wanted = set(inspect.signature(function).parameters) - {"name"}
    function(name=peek, **{fixture: request.getfixturevalue(fixture) for fixture in wanted})


def test_the_command_line_trains_it(peek: str, tmp_path: Path) -> None:
    """On shards, through DeepSpeed: 4 steps, a teacher that moves, a checkpoint."""
    (tmp_path / "shards").mkdir()
    factory.make_shards(tmp_path / "shards", samples=40, size=48, patients=15, shards=2)
    words = [
        f"data.shards={tmp_path / 'shards'}",
        f"out={tmp_path / 'run'}",
        f"method={{name: {peek}, hidden: 40}}",
        "model={name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, depth: 2, drop_path: 0.2}",
        "data.batch_size=8",
        "optim.learning_rate=0.05",
        "schedule.warmup_steps=1",
        "train.steps=4",
        "tracking.evaluate_every_steps=4",
    ]
    path = shipped.folder("configs") / "pretrain" / "debug_mae.yaml"
    done = CliRunner().invoke(app, ["pretrain", str(path), *words])
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "likeness" in line] == [1, 2, 3, 4]
    weights = checkpoint.load_weights(checkpoint.newest(tmp_path / "run"))
    name = "vit.blocks.0.attn.qkv.weight"
    assert not weights[f"encoder.{name}"].equal(weights[f"teacher.encoder.{name}"])
