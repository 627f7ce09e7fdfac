"""Errors of the user travel between ranks whole, and each kind has its exit code."""

import pickle

import pytest

from ssl_retina import errors, launch

EXAMPLES = (
    errors.UserError("a"),
    errors.ConfigError("c.yaml", ["data.where: wrong"]),
    errors.InputError("a"),
    errors.BadInputLimitError("a"),
    errors.StateError("a"),
    errors.ShardError("a"),
    errors.CheckpointError("a"),
    errors.NumericalError("a"),
    errors.RequeueError("a"),
    errors.InterruptedRunError("a"),
    launch.RanksError("a", 75),
)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
def test_an_error_crosses_ranks_with_its_message_and_exit_code(error: errors.UserError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.exit_code) == (type(error), str(error), error.exit_code)


def test_no_kind_is_forgotten() -> None:
    kinds = {kind for kind in vars(errors).values() if isinstance(kind, type)}
    assert {type(error) for error in EXAMPLES} >= {
        kind for kind in kinds if issubclass(kind, errors.UserError)
    }
