"""Masks: the stated share, uniform over patches, a function of the position alone."""

import pytest
import torch

from ssl_retina.contract import uniform
from ssl_retina.models.masking import asked, field_mask, hidden_count, patch_field, random_mask


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


@pytest.mark.parametrize(("share", "count"), [(0.5, 6), (0.01, 1), (1.0, 12)])
def test_what_is_asked_for_is_uniform_and_ascending(share: float, count: int) -> None:
    samples = 20_000
    places = asked(uniform(4, "asked", torch.arange(samples), 12), share)
    assert places.shape == (samples, count)
    assert bool((places.diff(dim=1) > 0).all())
    often = torch.zeros(samples, 12).scatter_(1, places, 1.0).mean(0)
    expected = count / 12
    assert bool(((often - expected).abs() <= 5 * (expected * (1 - expected) / samples) ** 0.5 + 1e-6).all())


def test_what_counts_is_asked_for_first() -> None:
    counted = torch.tensor(
        [[True, False, False, True, False, True], [False, True, False, False, False, False]]
    )
    places = asked(torch.tensor([[0.9, 0.1, 0.2, 0.8, 0.3, 0.7], [0.5] * 6]), 0.5, counted=counted)
    assert places.tolist() == [[0, 3, 5], [0, 1, 2]]


@pytest.mark.parametrize(("grid", "size"), [(14, 224), (7, 56), (5, 33)])
def test_patches_of_the_field_are_what_is_counted(grid: int, size: int) -> None:
    """Circles and ellipses inside, cut by the view and beyond it, against a count of 20 x 20 points."""
    shares = [
        [0.5, 0.5, 0.5, 0.5],
        [0.6, 0.3, 0.7, 0.4],
        [-0.2, 1.1, 0.6, 0.9],
        [0.5, 0.5, 3, 3],
        [2, 2, 0.5, 0.5],
    ]
    field = torch.tensor(shares) * size
    found = patch_field(field, grid, size)
    assert found.shape == (5, grid * grid)
    places = (torch.arange(grid * 20) + 0.5) * size / (grid * 20)
    y, x = torch.meshgrid(places, places, indexing="ij")
    for one, (centre_x, centre_y, radius_x, radius_y) in zip(found, field.tolist(), strict=True):
        inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 <= 1
        counted = inside.float().view(grid, 20, grid, 20).mean(dim=(1, 3)).flatten()
        assert (one - counted).abs().max() < 0.04
        assert (one.mean() - counted.mean()).abs() < 0.003
    assert found[3] == pytest.approx(1, abs=1e-5)
    assert (found[4] == 0).all()


def test_an_unknown_field_is_everywhere_and_rows_do_not_mix() -> None:
    nan = float("nan")
    field = torch.tensor([[20.0, 20.0, 10.0, 10.0], [nan, nan, nan, nan], [5.0, 30.0, 12.0, 12.0]])
    found = patch_field(field, 4, 40)
    assert (found[1] == 1).all()
    assert torch.equal(found, torch.cat([patch_field(row[None], 4, 40) for row in field]))


@pytest.mark.parametrize("ratio", [0.4, 0.75, 0.9])
def test_a_field_mask_keeps_and_counts_the_field_alone(ratio: float) -> None:
    """196 patches of which 180, 154 and 40 are inside, against sets."""
    noise = uniform(2, "mask", torch.arange(12), 196)
    sizes = torch.tensor([180, 154, 40] * 4)
    places = uniform(3, "inside", torch.arange(12), 196).argsort(dim=1).argsort(dim=1)
    inside = places < sizes[:, None]
    mask = field_mask(noise, ratio, inside=inside)
    visible = 196 - hidden_count(196, ratio)
    plain = random_mask(noise, ratio)
    for row in range(12):
        field = set(inside[row].nonzero()[:, 0].tolist())
        keep, hidden = mask.keep[row].tolist(), mask.hidden[row].tolist()
        assert sorted(keep + hidden) == list(range(196))
        assert {patch for patch, one in zip(hidden, mask.counted[row], strict=True) if one} == field & {
            *hidden
        }
        enough = (len(field) - visible) / len(field) >= ratio / 2
        assert bool(mask.confined[row]) == enough
        if enough:
            lowest = sorted(field, key=lambda patch, row=row: float(noise[row, patch]))[:visible]
            assert keep == sorted(lowest)
        else:
            assert keep == plain.keep[row].tolist()
    assert 0 < int(mask.confined.sum()) < 12 or ratio != 0.75


def test_with_everything_inside_a_field_mask_is_the_random_one() -> None:
    noise = uniform(2, "mask", torch.arange(9), 64)
    mask, plain = (
        field_mask(noise, 0.75, inside=torch.ones(9, 64, dtype=torch.bool)),
        random_mask(noise, 0.75),
    )
    assert torch.equal(mask.keep, plain.keep)
    assert torch.equal(mask.hidden, plain.hidden)
    assert bool(mask.counted.all())


def test_every_patch_of_the_field_is_kept_equally_often() -> None:
    inside = (torch.arange(64) < 50).expand(20_000, -1)
    kept = torch.zeros(20_000, 64)
    kept.scatter_(1, field_mask(uniform(5, "mask", torch.arange(20_000), 64), 0.75, inside=inside).keep, 1.0)
    assert float((kept.mean(0)[:50] - 16 / 50).abs().max()) < 0.02
    assert float(kept[:, 50:].sum()) == 0
