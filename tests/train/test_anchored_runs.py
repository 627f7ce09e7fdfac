"""Gram anchoring in whole runs: a resume on any side of a copy, weights to start from, what is exported."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ranks
import tiny
import torch
from test_laws import assert_bit_equal, lines

from ssl_retina.release import export
from ssl_retina.train import checkpoint
from ssl_retina.train.engine import process_group

pytestmark = pytest.mark.slow

GRAM = {"begin_step": 2, "every_steps": 3, "refreshes": 2}
"""Copies after steps 2, 5 and 8 of 12."""


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run that keeps all checkpoints, and shards."""
    found = tmp_path_factory.mktemp("anchored")
    tiny.make_shards(found / "shards")
    assert ranks.train(found, "whole", **changes(), checkpoint__keep=20)["ended"] == "done"
    return found


def changes(**gram: Any) -> dict[str, Any]:
    method = {**tiny.METHODS["dinov2"], "gram": {**GRAM, **gram}}
    return {"method": method, "checkpoint__every_steps": 1, "tracking__evaluate_every_steps": 12}


@pytest.mark.parametrize("stop", [1, 2, 6])
def test_law_4_a_resumed_run_is_the_whole_run(folder: Path, stop: int) -> None:
    """Stopped before the first copy, right after it, and between two; at another ZeRO stage."""
    name = f"stopped-{stop}"
    ranks.train(folder, name, ranks.StopAfter(stop, rank=0), **changes(), checkpoint__keep=20)
    end = ranks.train(folder, name, **changes(), checkpoint__keep=20, train__zero_stage=2)
    assert (end["ended"], end["from"]) == ("done", stop)
    assert_bit_equal(folder / "whole", folder / name)


def test_the_gram_teacher_is_an_earlier_teacher(folder: Path) -> None:
    """After each step: the teacher of the last copy, bit for bit; the loss is there from then on."""
    kept = {
        step: checkpoint.load_weights(folder / "whole" / "checkpoints" / checkpoint.name(step))
        for step in range(13)
    }
    names = [name.removeprefix("gram.encoder.") for name in kept[0] if name.startswith("gram.encoder.")]
    assert len(names) > 20
    for step, weights in kept.items():
        source = max((one for one in (2, 5, 8) if one <= step), default=0)
        assert int(weights["gram.made"]) == [0, 2, 5, 8].index(source)
        for name in names:
            teacher = kept[source][f"teacher.encoder.{name}"]
            assert torch.equal(weights[f"gram.encoder.{name}"], teacher), (step, name)
    logged = {line["step"]: line["gram"] for line in lines(folder / "whole")}
    assert [step for step, value in logged.items() if value == 0] == [1, 2]
    assert not any("gram" in name for name in checkpoint.load_moments(checkpoint.newest(folder / "whole")))


def test_an_export_is_the_first_anchor_and_holds_no_gram_teacher(folder: Path) -> None:
    out = folder / "export"
    export.export(folder / "whole", out)
    first = {**changes(begin_step=0, every_steps=99), "model__init": str(out), "train__steps": 4}
    assert ranks.train(folder, "refined", **first)["ended"] == "done"
    begun = checkpoint.load_weights(folder / "refined" / "checkpoints" / checkpoint.name(4))
    before = checkpoint.load_weights(checkpoint.newest(folder / "whole"))
    for name, value in before.items():
        if name.startswith("teacher.encoder."):
            anchor = begun[name.replace("teacher.", "gram.", 1)]
            assert torch.equal(anchor, value), name
            moved = begun[name.replace("teacher.", "", 1)]
            assert "pos_embed" in name or not torch.equal(moved, value), name
    assert all(line["gram"] > 0 for line in lines(folder / "refined"))
