"""Accelerators by name: what their makers state, and how much of it this trainer was seen to reach.

In: a name. Out: memory, rates and power. The makers' sheets give dense bf16 FLOP/s; a product of large random
matrices reached 0.73 of that on an H200 (`docs/benchmarks.md`), which is taken for all.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

REACHED = 0.73
"""Share of the stated bf16 rate that a product of large random matrices reaches: 720 of 989 TFLOP/s."""

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """memory: bytes. matrix: FLOP/s of a large product. bandwidth: bytes/s of its memory. watts: at most."""

    name: str
    memory: float
    matrix: float
    bandwidth: float
    watts: float | None


def _stated(name: str, gib: float, teraflops: float, terabytes: float, watts: float) -> Device:
    return Device(name, gib * GIB, teraflops * 1e12 * REACHED, terabytes * 1e12, watts)


KNOWN: Mapping[str, Device] = MappingProxyType(
    {
        one.name: one
        for one in (
            _stated("a100", 79.3, 312, 2.04, 400),
            _stated("a100-40", 39.4, 312, 1.56, 400),
            _stated("h100", 79.1, 989, 3.35, 700),
            _stated("h200", 140.4, 989, 4.8, 700),
            _stated("b200", 178.0, 2250, 8.0, 1000),
            _stated("l40s", 44.5, 362, 0.86, 350),
            _stated("l4", 22.0, 121, 0.30, 72),
            _stated("rtx4090", 23.5, 165, 1.01, 450),
        )
    }
)
"""SXM models where there are several; memory as the driver gives it."""


def device(name: str) -> Device:
    """The device of a name. Raises InputError with the names there are."""
    found = KNOWN.get(name.lower())
    if found is None:
        raise InputError(
            f"--device {name}: not known{did_you_mean(name.lower(), tuple(KNOWN)) or ';'} one of: "
            f"{', '.join(KNOWN)}"
        )
    return found
