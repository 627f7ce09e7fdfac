"""How much of the draws each of several shard sets gives, as a config says it.

In: a list of numbers in the order of the sets, or a mapping from the sets' paths or names. Out: the same,
checked, and shares that sum to 1. Whatever is wrong is said at once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import ValidationInfo

from ssl_retina import config_text
from ssl_retina.addresses import masked


class Named(Protocol):
    """A path, or what else says where a set lies: text of it is the whole, `name` its last part."""

    @property
    def name(self) -> str:
        """The last part."""
        ...


Proportions = tuple[float, ...] | dict[str, float]


def checked(value: object, info: ValidationInfo) -> object:
    """A validator for a field that comes after `shards`. Raises ValueError that lists all mistakes."""
    paths: Sequence[Named] | None = info.data.get("shards")
    if value is None or paths is None:  # sets that are no sets are complained of by themselves
        return None
    if isinstance(value, Mapping):
        wrong = _wrong_names(list(map(str, value)), paths) + _wrong_numbers(value)
    elif isinstance(value, list | tuple):
        wrong = _wrong_numbers(dict(enumerate(value, 1)))
        if len(value) != len(paths):
            wrong.insert(0, f"{len(value)} numbers for {len(paths)} sets of data.shards")
    else:
        wrong = [
            f"{masked(repr(value))} is neither a list of numbers, one for each of data.shards, nor a "
            "mapping to them"
        ]
    if wrong:
        raise ValueError("; ".join(wrong))
    return tuple(value) if isinstance(value, list) else value


def of(proportions: Proportions | None, paths: Sequence[Named]) -> tuple[float, ...] | None:
    """The share of each set, in the order of `paths`; None where nothing was said."""
    if proportions is None:
        return None
    if isinstance(proportions, dict):
        called = (_names(path, paths) for path in paths)
        proportions = tuple(proportions[name] for names in called for name in names if name in proportions)
    total = math.fsum(proportions)
    return tuple(number / total for number in proportions)


def _names(path: Named, paths: Sequence[Named]) -> list[str]:
    """What a set may be called: its path as written, and the path's last part where that is its alone."""
    alone = sum(other.name == path.name for other in paths) == 1
    return [str(path), path.name] if alone and path.name != str(path) else [str(path)]


def _wrong_names(given: Sequence[str], paths: Sequence[Named]) -> list[str]:
    called = [_names(path, paths) for path in paths]
    known = [name for names in called for name in names]
    wrong = [
        f"no set of data.shards is called {masked(name)!r}{config_text.did_you_mean(name, known)}"
        for name in given
        if name not in known
    ]
    for names in called:
        count = sum(name in given for name in names)
        if count != 1:
            wrong.append(f"{names[0]} has {'two numbers' if count else 'no number'}")
    return wrong


def _wrong_numbers(given: Mapping[object, object]) -> list[str]:
    return [
        f"{masked(str(name))}: {masked(repr(number))} is no number above 0"
        for name, number in given.items()
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 < number < math.inf
    ]
