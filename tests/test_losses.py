"""Losses against slow loops written from the formula."""

import pytest
import torch

from ssl_retina import losses


def _slow(predicted: torch.Tensor, target: torch.Tensor, *, normalise: bool) -> float:
    total, count = 0.0, 0
    for sample in range(target.shape[0]):
        for patch in range(target.shape[1]):
            values = target[sample, patch].double().tolist()
            mean, scale = 0.0, 1.0
            if normalise:
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
                scale = (variance + 1e-6) ** 0.5
            for index, value in enumerate(values):
                total += (float(predicted[sample, patch, index]) - (value - mean) / scale) ** 2
                count += 1
    return total / count


@pytest.mark.parametrize("normalise", [True, False])
def test_patch_regression_equals_the_slow_loop(normalise: bool) -> None:
    torch.manual_seed(0)
    predicted, target = torch.randn(3, 5, 12), torch.randn(3, 5, 12) * 3 + 1
    loss = losses.patch_regression(predicted, target, normalise=normalise)
    assert float(loss) == pytest.approx(_slow(predicted, target, normalise=normalise), rel=1e-5)


def test_patch_regression_is_fp32_under_autocast() -> None:
    torch.manual_seed(0)
    predicted = torch.randn(2, 3, 12).bfloat16()
    target = torch.randn(2, 3, 12) + 100
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.patch_regression(predicted, target, normalise=True)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(_slow(predicted.float(), target, normalise=True), rel=1e-4)


def test_a_black_patch_costs_no_infinity() -> None:
    """Fundus photographs have black corners: a patch of one value has variance 0."""
    predicted = torch.zeros(1, 2, 12, requires_grad=True)
    loss = losses.patch_regression(predicted, torch.full((1, 2, 12), -2.1), normalise=True)
    loss.backward()
    assert loss.item() < 1e-3
    assert bool(torch.isfinite(predicted.grad).all())
