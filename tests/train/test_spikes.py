"""A spike is told by a window of the last applied steps; where a run goes back to follows from its state."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from ssl_retina.config import Spikes
from ssl_retina.train.progress import Progress
from ssl_retina.train.spikes import Kept, Spike, Watch

SMALL = Spikes(window=12, deviations=6.0, times_median=10.0)


def slow(config: Spikes, losses: list[float], norms: list[float], step: tuple[float, float]) -> bool:
    """The rule as it is written, by plain loops."""
    if len(losses) < config.window or not all(math.isfinite(value) for value in step):
        return False
    mean = 0.0
    for value in losses:
        mean += value / len(losses)
    square = 0.0
    for value in losses:
        square += (value - mean) ** 2 / (len(losses) - 1)
    deviation = max(square**0.5, 0.01 * abs(mean))
    below = [sum(other < value for other in norms) for value in norms]
    half = len(norms) // 2
    middle = [value for value, count in zip(norms, below, strict=True) if count in (half - 1, half)]
    median = sum(middle) / 2  # an even window of different norms
    return step[0] > mean + config.deviations * deviation or step[1] > config.times_median * median


def drawn(count: int) -> Iterator[tuple[float, float]]:
    """Losses that fall and rise, norms that grow; leaps of every size, some not finite."""
    random = np.random.default_rng(5)
    for step in range(count):
        loss = 3 + math.sin(step / 40) + 0.2 * random.standard_normal()
        norm = (1 + step / 100) * random.uniform(0.5, 2)
        if step % 7 == 3:
            loss += random.choice([0.5, 1, 1.5, 2, 3, 100, math.inf, -50])
        if step % 11 == 5:
            norm *= random.choice([3, 7, 10, 14, 20, 1e6, math.nan])
        yield loss, norm


def judged(watch: Watch, step: tuple[float, float]) -> bool:
    loss, norm = (torch.tensor(value, dtype=torch.float32) for value in step)
    penalty = watch.judge(loss, norm)
    assert penalty.dtype == norm.dtype
    assert math.isnan(penalty) or penalty == 0
    return math.isnan(penalty)


def test_the_window_is_that_of_plain_loops() -> None:
    """Skipped steps do not enter it; a window that was restored half way goes on with the same verdicts."""
    watch, losses, norms, found = Watch(SMALL), list[float](), list[float](), list[bool]()
    for number, step in enumerate(drawn(600)):
        exact = tuple(float(np.float32(value)) for value in step)
        found.append(slow(SMALL, losses, norms, exact))
        if number == 300:
            kept = watch.kept()
            watch = Watch(SMALL)
            watch.restore(kept)
        assert judged(watch, step) == found[-1], (number, step)
        spike = watch.spike()
        assert (spike is not None) == found[-1]
        if found[-1] or not all(math.isfinite(value) for value in step):
            continue
        watch.accept()
        losses, norms = [*losses, exact[0]][-SMALL.window :], [*norms, exact[1]][-SMALL.window :]
        assert watch.kept() == Kept(tuple(losses), tuple(norms))
    assert 40 < sum(found) < 200
    assert not any(found[: SMALL.window])


def test_a_spike_tells_its_numbers() -> None:
    watch = Watch(Spikes(window=4))
    watch.restore(Kept((1.0, 2.0, 3.0, 2.0), (1.0, 5.0, 2.0, 4.0)))
    assert judged(watch, (12.0, 40.0))
    spike = watch.spike()
    deviation = pytest.approx((2 / 3) ** 0.5)
    assert spike == Spike(12.0, 40.0, (12.0,), 2.0, deviation, 3.0, by_loss=True, by_norm=True)
    assert str(spike) == (
        "its loss 12 lies 12.2 deviations above the mean 2 and "
        "its gradient norm 40 is 13.3 times the median 3"
    )
    assert not judged(watch, (6.8, 30.0))  # 5.9 deviations, exactly ten times
    assert watch.spike() is None


@pytest.mark.parametrize(
    ("name", "is_spike"),
    [("rest", False), ("zero", False), ("line", False), ("growth", False), ("fall", False), ("leap", True)],
)
def test_what_a_loss_may_do(name: str, is_spike: bool) -> None:
    """A loss at rest, one that rises steadily or by 5 % a step (distillation does), one that falls."""
    noise = np.random.default_rng(2).standard_normal(400)
    steps = np.arange(400)
    curves = {
        "rest": 1 + 1e-6 * noise,
        "zero": np.zeros(400),
        "line": 1 + steps / 50 + 0.1 * noise,
        "growth": 1e-3 * 1.05**steps,
        "fall": 5 * 0.98**steps,
        "leap": 1 + 0.1 * noise + (steps >= 300),
    }
    watch, found = Watch(Spikes()), []
    for value in curves[name]:
        found.append(judged(watch, (float(value), 1.0)))
        if not found[-1]:
            watch.accept()
    assert any(found) == is_spike
    if is_spike:
        assert found.index(True) == 300


def test_gradients_of_zero_are_no_measure() -> None:
    watch = Watch(Spikes(window=3))
    watch.restore(Kept((1.0,) * 3, (0.0,) * 3))
    assert not judged(watch, (1.0, 1.0))


def test_another_window_takes_the_newest() -> None:
    watch = Watch(Spikes(window=2))
    watch.restore(Kept((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    assert watch.kept() == Kept((2.0, 3.0), (5.0, 6.0))


@pytest.mark.parametrize("every", [1, 7, 30, 100, 250])
def test_a_good_checkpoint_is_always_kept_and_moves_on(every: int) -> None:
    """Seldom or often saved: two at most, and the one to go back to is at most two spans and saves old."""
    span, progress = 100, Progress()
    for step in range(1, 3001):
        progress = progress.after(applied=True)
        if step % every == 0:
            progress = progress.anchored(span)
        anchors = progress.setbacks.anchors
        assert len(anchors) <= 2
        first = progress.candidates(span)[0]
        assert first <= max(step - span, 0)
        assert step - first < 2 * (span + every)


def test_what_was_saved_too_near_to_a_spike_is_not_gone_back_to() -> None:
    progress = Progress()
    for step in range(1, 1041):
        spiked = step in (1020, 1030, 1040)
        progress = progress.after(applied=not spiked, spiked=spiked)
        if step % 500 == 0:
            progress = progress.anchored(100)
    assert progress.setbacks.anchors == (500, 1000)
    assert progress.spikes_within(100) == (1020, 1030, 1040)
    assert progress.candidates(100) == (500, 1000)
    back = progress.rolled_back(Progress(500), ahead=100, rate_factor=0.5)
    assert (back.step, back.done, back.skipped, back.spikes_within(100)) == (1140, 500, 3, ())
    assert back.setbacks.anchors == (1140,)
    assert Progress.of({"step": back.step, **back.facts()}) == back
    again = back.after(applied=True).rolled_back(back, ahead=0, rate_factor=0.5)
    assert (again.step, again.done, again.setbacks.rollbacks, again.setbacks.rate_factor) == (
        1141, 500, 2, 0.25,
    )  # fmt: skip


def test_one_spike_in_a_hundred_steps_is_borne() -> None:
    progress, spikes = Progress(), Spikes()
    for step in range(1, 2000):
        spiked = step % 51 == 0  # two in any hundred
        progress = progress.after(applied=not spiked, spiked=spiked)
        assert len(progress.spikes_within(spikes.span)) < spikes.limit
    assert (progress.skipped, progress.setbacks.spikes, progress.recent) == (39, 39, ())


def test_a_checkpoint_is_as_old_as_the_first_of_the_spikes_asks() -> None:
    """960 is more than a span older than the last spike, but not than the first."""
    progress = Progress()
    for step in range(1, 1101):
        spiked = step in (1020, 1060, 1100)
        progress = progress.after(applied=not spiked, spiked=spiked)
        if step in (500, 960):
            progress = progress.anchored(100)
    assert progress.candidates(100) == (500, 960)
