"""The schedule is a function of the step: warm-up, peak, cosine, floor."""

import math

import pytest

from ssl_retina.train.schedule import share_of_peak


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
