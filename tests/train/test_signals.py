"""The first signal is noted; before training it ends the run at once, in a forked worker it is ignored."""

import os
import signal

import pytest

from ssl_retina.errors import InterruptedRunError, RequeueError
from ssl_retina.train import signals


def test_the_first_signal_counts_and_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in signals.ALL]
    with signals.noted() as stop:
        stop.begin()
        assert stop.signal == 0
        os.kill(os.getpid(), signal.SIGUSR2)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signal == signal.SIGUSR2
    assert [signal.getsignal(number) for number in signals.ALL] == before


@pytest.mark.parametrize(
    ("number", "kind", "code"),
    [
        (signal.SIGINT, InterruptedRunError, 130),
        (signal.SIGTERM, RequeueError, 75),
        (signal.SIGUSR1, RequeueError, 75),
        (signal.SIGUSR2, RequeueError, 75),
    ],
)
def test_before_the_first_step_there_is_nothing_to_save(
    number: signal.Signals, kind: type[Exception], code: int
) -> None:
    with signals.noted() as stop, pytest.raises(kind, match="nothing new to save") as caught:
        os.kill(os.getpid(), number)
        raise AssertionError("the signal was lost")
    assert caught.value.exit_code == code  # type: ignore[attr-defined]
    assert stop.signal == number


def test_a_forked_worker_ignores_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    stop = signals.Stop()
    own = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: own + 1)
    stop.note(signal.SIGTERM)
    assert stop.signal == 0
