"""Accelerators by name: what their makers state, and how much of it this trainer was seen to reach.

In: a name. Out: memory, rates and power. The makers' sheets give dense FLOP/s; a bf16 product of large random
matrices reached 0.73 of that on an H200 (`docs/benchmarks.md`), which is taken for all, and for fp32 too.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

REACHED = 0.73
"""Share of the stated rate that a product of large random matrices reaches: 720 of 989 TFLOP/s in bf16."""

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """memory: bytes. bf16, fp32: FLOP/s of a large product. bandwidth: bytes/s of its memory. watts: at most.

    fp32 is that of plain cores: the trainer lets no tensor core round to TF32.
    """

    name: str
    memory: float
    bf16: float
    fp32: float
    bandwidth: float
    watts: float | None

    def matrix(self, precision: str) -> float:
        """FLOP/s of a large product in `train.precision`."""
        return self.bf16 if precision == "bf16" else self.fp32


def _stated(name: str, gib: float, teraflops: tuple[float, float], terabytes: float, watts: float) -> Device:
    bf16, fp32 = (rate * 1e12 * REACHED for rate in teraflops)
    return Device(name, gib * GIB, bf16, fp32, terabytes * 1e12, watts)


KNOWN: Mapping[str, Device] = MappingProxyType(
    {
        one.name: one
        for one in (
            _stated("a100", 79.3, (312, 19.5), 2.04, 400),
            _stated("a100-40", 39.4, (312, 19.5), 1.56, 400),
            _stated("h100", 79.1, (989, 67), 3.35, 700),
            _stated("h200", 140.4, (989, 67), 4.8, 700),
            _stated("b200", 178.0, (2250, 75), 8.0, 1000),
            _stated("l40s", 44.5, (362, 91.6), 0.86, 350),
            _stated("l4", 22.0, (121, 30.3), 0.30, 72),
            _stated("rtx4090", 23.5, (165, 82.6), 1.01, 450),
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
