"""What `check --device` counts without doing it is what a real step of every method does."""

from pathlib import Path

import pytest
import tiny
from torch.utils.flop_counter import FlopCounterMode

from ssl_retina.bench import loops
from ssl_retina.bench import step as bench
from ssl_retina.contract import Clock
from ssl_retina.plan import counting
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group

CASES = {**tiny.METHODS, "gram": {**tiny.METHODS["dinov2"], "gram": {"begin_step": 50}}}
"""The last is counted from where its third encoder looks."""


@pytest.mark.parametrize("name", sorted(CASES))
def test_counted_flops_are_those_of_a_real_step(name: str, tmp_path: Path) -> None:
    """Of the same step: I-JEPA's blocks have other sizes in each."""
    run = tiny.run(tmp_path, tmp_path, method=dict(CASES[name]), train__steps=100)
    work = counting.count(run)
    with process_group(), setup.deterministic():
        trainer = loops.Plain(run, bench.drawn(setup.build_method(run)[1], 4))
        with FlopCounterMode(display=False) as counter:
            trainer.step(Clock(run.method.settled, run.train.steps, run.seed))
    assert work.flops == pytest.approx(counter.get_total_flops() / 4, rel=0.06)
    method = setup.build_method(run)[0]
    assert work.all == sum(one.numel() for one in method.parameters())
    assert work.trained == sum(one.numel() for one in method.parameters() if one.requires_grad)
