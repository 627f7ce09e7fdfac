"""The one source of randomness: uniform, independent, and a pure function of seed, purpose and position."""

import hashlib

import pytest
import torch
from torch import Tensor

from ssl_retina.contract import Clock, uniform

MASK = 2**64 - 1
PINNED = [
    [0.6243400573730469, 0.9147449135780334, 0.918461799621582],
    [0.178694486618042, 0.2663692831993103, 0.11066091060638428],
]


def _slow(seed: int, purpose: str, position: int, count: int, view: int) -> list[float]:
    """SplitMix64's finaliser in Python's own integers, written from Steele, Lea and Flood 2014."""

    def mixed(value: int) -> int:
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & MASK
        return value ^ (value >> 31)

    name = f"{seed}/{purpose}/{view}".encode()
    stream = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little")
    start = mixed((position + stream) & MASK)
    numbers = (mixed((start + (index + 1) * 0x9E3779B97F4A7C15) & MASK) for index in range(count))
    return [(number >> 40) / 2**24 for number in numbers]


def test_known_values_stay() -> None:
    """Pinned: a change here changes every crop, mask and drop path of every run that resumes."""
    drawn = uniform(3, "mask", torch.tensor([0, 12345678901]), 3, view=1)
    assert drawn.tolist() == PINNED
    assert drawn.dtype == torch.float32


@pytest.mark.parametrize("position", [0, 1, 7, 2**40, 2**62])
def test_equals_the_slow_version(position: int) -> None:
    drawn = uniform(11, "crop", torch.tensor([position]), 17, view=2)
    assert drawn[0].tolist() == _slow(11, "crop", position, 17, 2)


def test_one_draw_of_eight_equals_two_of_four() -> None:
    position = torch.tensor([5, 900, 3, 2**33, 77, 6, 1, 0])
    whole = Clock(4, 10, 7).uniform("drop_path", position, 24)
    parts = [Clock(9, 10, 7).uniform("drop_path", part, 24) for part in position.split(4)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole[:, :5], uniform(7, "drop_path", position, 5)), "more draws keep the first ones"


def test_torch_generator_is_neither_read_nor_moved() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = uniform(0, "mask", torch.arange(4), 4)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, uniform(0, "mask", torch.arange(4), 4))


def _chi_square(values: Tensor, bins: int) -> float:
    counts = torch.histc(values.double(), bins=bins, min=0, max=1)
    expected = values.numel() / bins
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.parametrize(
    ("position", "count"),
    [(torch.arange(100_000), 4), (torch.arange(4), 100_000), (torch.arange(0, 2**60, 2**44), 8)],
    ids=["many positions", "many draws", "far positions"],
)
def test_uniform(position: Tensor, count: int) -> None:
    """255 degrees of freedom: mean 255, standard deviation 22.6; 5 of those allowed."""
    drawn = uniform(0, "mask", position, count)
    assert float(drawn.min()) >= 0
    assert float(drawn.max()) < 1
    assert _chi_square(drawn.flatten(), 256) < 255 + 5 * 22.6
    assert float(drawn.mean()) == pytest.approx(0.5, abs=5 * 0.2887 / drawn.numel() ** 0.5)


def test_all_bits_are_drawn() -> None:
    bits = (uniform(0, "mask", torch.arange(20_000), 1).flatten() * 2**24).long()
    for bit in range(24):
        share = float(((bits >> bit) & 1).float().mean())
        assert share == pytest.approx(0.5, abs=5 * 0.5 / 20_000**0.5), bit


def _streams() -> dict[str, Tensor]:
    position = torch.arange(20_000)
    base = uniform(0, "mask", position, 2)
    return {
        "mask": base[:, 0],
        "next draw": base[:, 1],
        "next position": uniform(0, "mask", position + 1, 1)[:, 0],
        "other purpose": uniform(0, "drop_path", position, 1)[:, 0],
        "other view": uniform(0, "mask", position, 1, view=1)[:, 0],
        "other seed": uniform(1, "mask", position, 1)[:, 0],
        "far position": uniform(0, "mask", position + 2**40, 1)[:, 0],
    }


def test_independent_across_purpose_view_position_and_seed() -> None:
    """Correlation of any two streams, of them and of their squares, is that of independent numbers."""
    streams = _streams()
    names = list(streams)
    for power in (1, 2):
        matrix = torch.corrcoef(torch.stack([streams[name] for name in names]).double() ** power)
        off = (matrix - torch.eye(len(names), dtype=torch.float64)).abs()
        worst = divmod(int(off.argmax()), len(names))
        assert float(off.max()) < 5 / 20_000**0.5, (names[worst[0]], names[worst[1]])


def test_pairs_fill_the_square() -> None:
    """Two streams together: 16 by 16 cells, 255 degrees of freedom."""
    streams = _streams()
    for name, other in streams.items():
        if name == "mask":
            continue
        cells = (streams["mask"] * 16).long() * 16 + (other * 16).long()
        assert _chi_square((cells.double() + 0.5) / 256, 256) < 255 + 5 * 22.6, name


def test_no_two_samples_share_their_draws() -> None:
    drawn = uniform(0, "mask", torch.arange(50_000), 4)
    assert len(torch.unique(drawn, dim=0)) == 50_000
