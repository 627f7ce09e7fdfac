"""Masks: the stated share, uniform over patches, a function of the position alone."""

import pytest
import torch

from ssl_retina.contract import uniform
from ssl_retina.models.masking import hidden_count, random_mask


@pytest.mark.parametrize(
    ("patches", "ratio", "hidden"),
    [(196, 0.75, 147), (64, 0.75, 48), (10, 0.9, 9), (196, 0.6, 118), (9, 0.5, 4)],
)
def test_keep_and_hidden_partition_the_patches(patches: int, ratio: float, hidden: int) -> None:
    assert hidden_count(patches, ratio) == hidden
    mask = random_mask(uniform(0, "mask", torch.arange(50), patches), ratio)
    assert mask.hidden.shape == (50, hidden)
    assert mask.keep.shape == (50, patches - hidden)
    both = torch.cat(mask, dim=1).sort(dim=1).values
    assert torch.equal(both, torch.arange(patches).expand(50, -1))
    assert bool((mask.keep.diff(dim=1) > 0).all()), "ascending"


def test_the_largest_noise_is_hidden_also_with_ties() -> None:
    mask = random_mask(torch.tensor([[0.5, 0.1, 0.5, 0.9], [0.2, 0.2, 0.2, 0.2]]), 0.5)
    assert mask.keep.tolist() == [[0, 1], [0, 1]]
    assert mask.hidden.tolist() == [[2, 3], [2, 3]]


def test_every_patch_and_every_pair_is_hidden_equally_often() -> None:
    """Hypergeometric: 12 of 16 hidden; a pair with probability 12 * 11 / (16 * 15)."""
    samples = 20_000
    mask = random_mask(uniform(4, "mask", torch.arange(samples), 16), 0.75)
    hidden = torch.zeros(samples, 16).scatter_(1, mask.hidden, 1.0)
    assert bool(((hidden.mean(0) - 0.75).abs() < 5 * (0.75 * 0.25 / samples) ** 0.5).all())
    pairs = hidden.T @ hidden / samples
    expected = 12 * 11 / (16 * 15)
    error = (pairs - expected).fill_diagonal_(0).abs().max()
    assert float(error) < 5 * (expected * (1 - expected) / samples) ** 0.5


def test_a_mask_belongs_to_its_position() -> None:
    whole = random_mask(uniform(0, "mask", torch.arange(8), 64), 0.75)
    half = random_mask(uniform(0, "mask", torch.arange(4, 8), 64), 0.75)
    assert torch.equal(whole.keep[4:], half.keep)
    assert not torch.equal(whole.keep[0], whole.keep[1])
