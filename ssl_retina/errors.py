"""What a user can get wrong: one class per kind, each with its exit code.

The command line prints the message of these and no traceback; every other exception is a defect of ours
and keeps its traceback. A message says what is wrong, where, and what to do next, and never names a
patient, a source path or a file of the archive (law 8).
"""

from collections.abc import Sequence


class UserError(Exception):
    """Something that the user can mend; the message is all that is shown."""

    exit_code = 2


class ConfigError(UserError):
    """A config with mistakes: all of them, each with its file, line and suggestion."""

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, tuple(problems)
        noun = "problem" if len(problems) == 1 else "problems"
        lines = "\n".join(f"  {problem}" for problem in problems)
        super().__init__(f"{len(problems)} {noun} in {source}\n{lines}")

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[str, tuple[str, ...]]]:
        """Travel between ranks whole."""
        return type(self), (self.source, self.problems)


class InputError(UserError):
    """An argument or an input that cannot be used."""


class BadInputLimitError(UserError):
    """More bad input than the stated limit: the mount is broken, not the files."""

    exit_code = 3


class StateError(UserError):
    """State in doubt (key, lock, output of other settings): we stop, we do not guess."""

    exit_code = 4


class ShardError(StateError):
    """Shards that do not match their index, or hold what the contract forbids."""


class CheckpointError(StateError):
    """A run or weights that cannot be continued or loaded, with the reason for each file."""


class NumericalError(UserError):
    """The loss is not finite any more."""

    exit_code = 5


class RequeueError(UserError):
    """Saved after a signal of the scheduler: the same command continues. `signal`: its number."""

    exit_code = 75

    def __init__(self, message: str, signal: int = 0) -> None:
        super().__init__(message)
        self.signal = signal


class InterruptedRunError(UserError):
    """Stopped by the person at the keyboard, after saving what could be saved."""

    exit_code = 130
