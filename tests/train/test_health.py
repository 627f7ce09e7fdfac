"""RankMe: one direction is rank one, white noise has nearly full rank, rotation changes nothing."""

import pytest
import torch

from ssl_retina.train.health import feature_rank


def test_rank_of_known_spectra() -> None:
    draw = torch.Generator().manual_seed(0)
    line = torch.randn(50, 1, generator=draw) * torch.randn(1, 16, generator=draw)
    assert feature_rank(line) == pytest.approx(1.0, abs=1e-3)
    assert feature_rank(torch.eye(16)) == pytest.approx(16.0)
    two = torch.diag(torch.tensor([3.0, 1.0]))  # shares 3/4 and 1/4
    entropy = -(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log())
    assert feature_rank(two) == pytest.approx(float(entropy.exp()))
    noise = torch.randn(500, 16, generator=draw)
    rotation = torch.linalg.qr(torch.randn(16, 16, generator=draw)).Q
    assert feature_rank(noise @ rotation) == pytest.approx(feature_rank(noise), rel=1e-5)
    assert 15 < (feature_rank(noise) or 0) <= 16


def test_no_number_for_dead_or_broken_features() -> None:
    assert feature_rank(torch.zeros(4, 3)) is None
    assert feature_rank(torch.tensor([[float("nan"), 1.0]])) is None
    assert feature_rank(torch.zeros(0, 3)) is None
