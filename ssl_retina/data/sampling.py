"""How often each sample comes and how far it is shuffled: a config and its chosen samples -> an `Order`.

In: indexes, row numbers, `data.sampling`, `proportions`, `shuffle_shards`, `together`. Out: the order of
training and facts about its epoch. Nothing is held for equal weights, else 8 bytes a sample (for pairs up to
16), shared by all processes.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ssl_retina import config, shards, shares
from ssl_retina.data.order import Order, Runs
from ssl_retina.data.selection import Rows
from ssl_retina.data.shared import SharedArray
from ssl_retina.data.together import By, related
from ssl_retina.errors import ConfigError, InputError, ShardError
from ssl_retina.shard_index.weights import BALANCE
from ssl_retina.shards import Index

CHUNK = 1 << 16
LINE = 1 << 60
"""Ticks that the line of all weights has at most: among ten million samples about 2**36 for each."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ways:
    """How samples are drawn: `config.Data`'s keys of these meanings, `shares` summing to 1.

    sets: what the sets are called in messages; their folders' names by default.
    """

    weights: Literal["uniform", "balanced"] = "uniform"
    shares: tuple[float, ...] | None = None
    shuffle_shards: int | None = None
    sets: tuple[str, ...] = ()
    together: By | None = None

    @classmethod
    def of(cls, data: config.Data) -> "Ways":
        """Those that a config asks for."""
        sets = tuple(map(str, data.shards))
        given = shares.of(data.proportions, data.shards)
        together = None if data.together == "none" else data.together
        return cls(data.sampling, given, data.shuffle_shards, sets, together)

    @property
    def even(self) -> bool:
        """Whether every sample comes once an epoch."""
        return self.weights == "uniform" and self.shares is None


EVENLY = Ways()


@dataclass(frozen=True)
class Part:
    """What a set has in an epoch: chosen samples, their share of the draws, and the column of its weights."""

    name: str
    samples: int
    share: float
    balanced: str | None


@dataclass(frozen=True)
class Epoch:
    """An epoch in numbers.

    distinct: how many different samples are expected in it. effective: the effective sample size of its
    weights, (sum w)^2 / sum w^2 (Kish 1965). open_shards of all_shards are shuffled with each other.
    """

    draws: int
    distinct: int
    effective: int
    parts: tuple[Part, ...]
    open_shards: int
    all_shards: int
    paired: tuple[int, str] | None = None

    def repeats(self, batch: int) -> float:
        """Pairs of the same sample that are expected in a batch; more where few shards are shuffled."""
        if not self.draws:
            return 0.0
        together = self.draws * self.open_shards / self.all_shards
        pairs = batch * min(batch, together) / 2 * (1 / self.effective - 1 / self.draws)
        return max(pairs, 0) * self.draws / together

    def sentences(self) -> list[str]:
        """What is not plain: weights, proportions, shards that are shuffled few at a time."""
        said = []
        columns = [f"by {part.balanced} in {part.name}" for part in self.parts if part.balanced]
        mixed = any(abs(part.share * self.draws - part.samples) > 0.5 for part in self.parts)
        if columns:
            said.append(f"data.sampling draws by the sets' weights, {', '.join(columns)}")
        if mixed and len(self.parts) > 1:
            shares = (f"{part.share:.1%} from {part.name} ({part.samples} chosen)" for part in self.parts)
            said.append(f"draws come {', '.join(shares)}")
        if columns or mixed:
            said.append(
                f"an epoch is {self.draws} draws; about {self.distinct} different photographs come in it, "
                f"and its weights are worth {self.effective} equally weighted ones"
            )
        if self.open_shards < self.all_shards:
            size = round(self.draws * self.open_shards / self.all_shards)
            said.append(
                f"data.shuffle_shards: photographs are shuffled within {self.open_shards} of "
                f"{self.all_shards} shards at a time, about {size} draws"
            )
        if self.paired:
            count, what = self.paired
            said.append(f"data.together: {count} of {self.draws} photographs come in pairs of one {what}")
        return said

    def as_json(self) -> dict[str, Any]:
        """Plain values for `ssl-retina check`."""
        return {**vars(self), "parts": [vars(part) for part in self.parts]}


def check(data: config.Data, indexes: Sequence[Index]) -> None:
    """Raise ConfigError that names what does not go with `data.together`, or every set without the weights
    that `data.sampling` asks for.
    """
    _check_together(data)
    sets = zip(data.shards, indexes, strict=True)
    without = [name for name, index in sets if BALANCE not in index.facts]
    if data.sampling == "balanced" and without:
        raise ConfigError(
            f"data.sampling={data.sampling}",
            [
                f"{name} has no weights: ssl-retina balance {name} --embeddings FILE makes "
                "some (FILE from ssl-retina embed), and so does ssl-retina shard --balance device; "
                "or take data.sampling=uniform"
                for name in without
            ],
        )


def _check_together(data: config.Data) -> None:
    """Pairs are of samples that come once an epoch, from anywhere, and no batch may end within one."""
    others = {
        "sampling=uniform": data.sampling == "uniform",
        "proportions=null": data.proportions is None,
        "shuffle_shards=null": data.shuffle_shards is None,
    }
    wrong = [f"it needs data.{name}" for name, given in others.items() if not given]
    if data.batch_size % 2:
        wrong.append(f"it needs an even data.batch_size, not {data.batch_size}: a batch would cut a pair")
    if data.together != "none" and wrong:
        raise ConfigError(f"data.together={data.together}", [*wrong, "or take data.together=none"])


def listed(rows: Rows) -> Order:
    """An order for those who ask for rows by their place in a list: it is never shuffled."""
    runs = Runs(np.array([0, len(rows)]), np.zeros((1, 2), np.int64))
    return Order(0, runs, SharedArray.of(rows))


def order(indexes: Sequence[Index], rows: Rows, ways: Ways, *, seed: int) -> tuple[Order, Epoch]:
    """The order of these rows (ascending), and what an epoch of it is.

    Raises InputError where a share belongs to a set of which nothing was chosen and where no pair was found
    for `data.together`, ShardError for weights that are none.
    """
    runs, names = _runs(indexes, rows), ways.sets or [index.folder.name for index in indexes]
    everything = len(rows) == sum(index.samples for index in indexes)
    kept = None if everything else SharedArray.of(rows)
    at_once, window = len(runs), None
    if ways.shuffle_shards is not None and ways.shuffle_shards < len(runs):
        window = ways.shuffle_shards
        at_once = -(-len(runs) // -(-len(runs) // window))
    bounds = np.searchsorted(rows, _offsets(indexes).astype(rows.dtype)).tolist()
    counts = [int(count) for count in np.diff(bounds)]
    if ways.even:
        shares: Sequence[float] = [count / max(len(rows), 1) for count in counts]
        ends, distinct, effective = None, len(rows), len(rows)
    else:
        _refuse_empty(names, counts, ways.shares)
        ends, shares, (distinct, effective) = _line(indexes, rows, bounds, ways)
    by = [index.facts.get(BALANCE) if ways.weights == "balanced" else None for index in indexes]
    parts = tuple(
        Part(name, count, share, column)
        for name, count, share, column in zip(names, counts, shares, by, strict=True)
    )
    pairing = related(indexes, rows, ways.together) if ways.together else None
    paired = None if pairing is None or not ways.together else (pairing.paired, ways.together)
    epoch = Epoch(len(rows), distinct, effective, parts, at_once, len(runs), paired)
    return Order(seed, runs, kept, ends, window, pairing), epoch


def _offsets(indexes: Sequence[Index]) -> NDArray[np.int64]:
    """(sets + 1,) the first row of each set, and how many rows there are."""
    return np.cumsum([0, *(index.samples for index in indexes)], dtype=np.int64)


def _runs(indexes: Sequence[Index], rows: Rows) -> Runs:
    """Tables hold the samples of one shard after the other, so that no row has to be looked at."""
    sizes = [shard.nsamples for index in indexes for shard in index.shards]
    named = [(at, number) for at, index in enumerate(indexes) for number in range(len(index.shards))]
    # of the rows' own type: of another, numpy would copy all rows into a third
    marks = np.searchsorted(rows, np.cumsum([0, *sizes], dtype=np.int64).astype(rows.dtype))
    filled = np.flatnonzero(np.diff(marks))
    starts = np.append(marks[filled], len(rows)).astype(np.int64)
    return Runs(starts, np.array(named, np.int64).reshape(-1, 2)[filled])


def _refuse_empty(names: Sequence[str], counts: Sequence[int], shares: Sequence[float] | None) -> None:
    empty = [name for name, count in zip(names, counts, strict=True) if not count]
    if shares is not None and empty:
        raise InputError(
            f"data.proportions gives a share to {', '.join(empty)}, of which no sample is left: take it out "
            "of data.shards and data.proportions, or change data.where"
        )


def _line(
    indexes: Sequence[Index], rows: Rows, bounds: Sequence[int], ways: Ways
) -> tuple[SharedArray, list[float], tuple[int, int]]:
    """Where each sample's weight ends on the line of weights; each set's share; distinct and effective.

    Weights become whole ticks, sums of which are exact: the same on every machine, in pieces of any size.
    """
    line = SharedArray(len(rows), np.int64)
    weights: Floats = line.array.view(np.float64)  # until they are replaced by where they end
    totals = [0.0] * len(indexes)
    for number, index in enumerate(indexes):
        for here in _pieces(bounds[number], bounds[number + 1]):
            weights[here] = _weights(index, rows[here], int(_offsets(indexes)[number]), ways.weights)
            totals[number] += float(np.cumsum(weights[here])[-1])  # one after the other: always the same sum
    if sum(totals) == 0 or (ways.shares is not None and 0 in totals):
        raise ShardError("all samples chosen of a set have weight 0: ssl-retina balance draws weights anew")
    shares = ways.shares or [total / sum(totals) for total in totals]
    scales = [math.ldexp(1.0, _room(sum(totals)))] * len(indexes)
    if ways.shares is not None:
        scales = [share / total * (LINE / 2) for share, total in zip(ways.shares, totals, strict=True)]
    end, squares, distinct = 0, 0.0, 0.0
    length = sum(total * scale for total, scale in zip(totals, scales, strict=True))
    for number in range(len(indexes)):
        for here in _pieces(bounds[number], bounds[number + 1]):
            ticks = np.rint(weights[here] * scales[number]).astype(np.int64)
            line.array[here] = end + np.cumsum(ticks)
            end = int(line.array[here.stop - 1])
            expected = ticks * (len(rows) / length)
            squares += float((expected**2).sum())
            distinct += float(np.minimum(expected, 1).sum())
    return line, list(shares), (round(distinct), round(len(rows) ** 2 / squares))


def _room(total: float) -> int:
    """The power of two by which weights of this sum still fit on the line."""
    return math.frexp(LINE / total)[1] - 2


def _pieces(start: int, stop: int) -> Iterator[slice]:
    for begin in range(start, stop, CHUNK):
        yield slice(begin, min(begin + CHUNK, stop))


def _weights(index: Index, rows: Rows, offset: int, kind: str) -> Floats:
    """The weights of rows of one set that follow each other."""
    if kind == "uniform":
        return np.ones(len(rows))
    first, last = int(rows[0]) - offset, int(rows[-1]) - offset
    table = shards.read_positions(index)[first : last + 1]
    found: Floats = table["weight"][rows.astype(np.int64) - offset - first].astype(np.float64)
    if not np.isfinite(found).all() or (found < 0).any():
        raise ShardError(
            f"{index.folder} has weights that are no weights: ssl-retina balance draws them anew"
        )
    return found
