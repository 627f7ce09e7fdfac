"""The schedule is a function of the step: warm-up, peak, cosine, floor."""

import math
from pathlib import Path

import pytest
import tiny

from ssl_retina.train.schedule import share_of_peak, weight_decay


def test_warm_up_then_half_a_cosine() -> None:
    shares = [share_of_peak(step, total=110, warmup=10, final=0.1) for step in range(111)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == shares[10] == 1.0
    assert shares[60] == pytest.approx(0.55)  # the cosine's middle
    assert shares[85] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(0.75 * math.pi)))
    assert shares[110] == pytest.approx(0.1)
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    assert share_of_peak(0, total=5, warmup=0, final=0.0) == 1.0
    assert share_of_peak(7, total=5, warmup=0, final=0.0) == 0.0


def test_weight_decay_stays_or_goes_to_its_end_by_half_a_cosine() -> None:
    run = tiny.run(Path("s"), Path("o"), optim__weight_decay=0.04)
    assert {weight_decay(run, step) for step in range(12)} == {0.04}
    run = tiny.run(Path("s"), Path("o"), optim__weight_decay=0.04, optim__weight_decay_end=0.4)
    found = [weight_decay(run, step) for step in range(13)]
    assert found[0] == pytest.approx(0.04)
    assert found[6] == pytest.approx(0.22)
    assert found[3] == pytest.approx(0.4 - 0.36 * 0.5 * (1 + math.cos(math.pi / 4)))
    assert found[12] == pytest.approx(0.4)
