"""Losses against slow loops written from the formula."""

import math

import pytest
import torch
from lightly.loss import NTXentLoss
from torch import Tensor

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


def test_weighted_patches_equal_the_slow_loop() -> None:
    """A sample's weighted mean; one without weight costs nothing and counts as a sample."""
    torch.manual_seed(1)
    predicted, target = torch.randn(4, 5, 12), torch.randn(4, 5, 12) * 3 + 1
    weight = torch.rand(4, 5) * (torch.rand(4, 5) > 0.4)
    weight[2] = 0
    expected = 0.0
    for sample in range(4):
        errors = [
            _slow(
                predicted[sample : sample + 1, k : k + 1],
                target[sample : sample + 1, k : k + 1],
                normalise=True,
            )
            for k in range(5)
        ]
        total = float(weight[sample].sum())
        expected += sum(w * e for w, e in zip(weight[sample].tolist(), errors, strict=True)) / (total or 1)
    loss = losses.patch_regression(predicted, target, normalise=True, weight=weight)
    assert float(loss) == pytest.approx(expected / 4, rel=1e-5)
    even = losses.patch_regression(predicted, target, normalise=True, weight=torch.ones(4, 5))
    assert float(even) == pytest.approx(_slow(predicted, target, normalise=True), rel=1e-5)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_structure_weights_equal_the_slow_loop(strength: float) -> None:
    torch.manual_seed(2)
    target = torch.randn(3, 6, 16 * 3) * torch.tensor([0.0, 0.1, 0.5, 1.0, 2.0, 30.0])[:, None]
    whole = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]]).bool()
    found = losses.structure_weight(target, whole=whole, strength=strength)
    for sample in range(3):
        contrast = []
        for patch in target[sample].double():
            colours = [patch[colour::3].tolist() for colour in range(3)]
            means = [sum(one) / 16 for one in colours]
            contrast.append(
                sum(
                    math.sqrt(sum((v - m) ** 2 for v in one) / 16)
                    for one, m in zip(colours, means, strict=True)
                )
                / 3
            )
        known = [c for c, one in zip(contrast, whole[sample], strict=True) if one]
        for patch in range(6):
            expected = 1.0
            if whole[sample, patch]:
                expected = 1 - strength + strength * min(contrast[patch] / (sum(known) / len(known)), 4)
            assert float(found[sample, patch]) == pytest.approx(expected, rel=1e-4, abs=1e-6)


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


def _cosine(left: Tensor, right: Tensor) -> float:
    a, b = left.double().tolist(), right.double().tolist()
    inner = sum(x * y for x, y in zip(a, b, strict=True))
    return inner / math.sqrt(sum(x * x for x in a)) / math.sqrt(sum(y * y for y in b))


def slow_nt_xent(first: Tensor, second: Tensor, temperature: float) -> tuple[float, float, float]:
    """Eq. 1 of the paper with pairs (2k - 1, 2k) interleaved, as it numbers them; loss, similarity, top-1."""
    every = [one for pair in zip(first, second, strict=True) for one in pair]
    loss, similarity, nearest = 0.0, 0.0, 0
    for i in range(len(every)):
        j = i + 1 if i % 2 == 0 else i - 1
        others = [k for k in range(len(every)) if k != i]
        denominator = sum(math.exp(_cosine(every[i], every[k]) / temperature) for k in others)
        loss -= math.log(math.exp(_cosine(every[i], every[j]) / temperature) / denominator)
        similarity += _cosine(every[i], every[j])
        nearest += max(others, key=lambda k, i=i: _cosine(every[i], every[k])) == j
    return loss / len(every), similarity / len(every), nearest / len(every)


def slow_moco(query: Tensor, key: Tensor, temperature: float) -> tuple[float, float, float]:
    """`ctr` of algorithm 1: labels are the row numbers, 2 * tau * cross entropy."""
    loss, similarity, nearest = 0.0, 0.0, 0
    for i in range(len(query)):
        denominator = sum(math.exp(_cosine(query[i], one) / temperature) for one in key)
        loss -= math.log(math.exp(_cosine(query[i], key[i]) / temperature) / denominator)
        similarity += _cosine(query[i], key[i])
        nearest += max(range(len(key)), key=lambda k, i=i: _cosine(query[i], key[k])) == i
    return 2 * temperature * loss / len(query), similarity / len(query), nearest / len(query)


def _pair(count: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(count)
    first = torch.randn(count, 6) * 3
    return first, first + 2 * torch.randn(count, 6)


@pytest.mark.parametrize("count", [1, 2, 7])
@pytest.mark.parametrize("temperature", [0.1, 0.2, 1.0])
def test_contrastive_losses_equal_the_slow_loops(count: int, temperature: float) -> None:
    for fast, slow in ((losses.nt_xent, slow_nt_xent), (losses.moco_contrast, slow_moco)):
        found = fast(*_pair(count), temperature=temperature)
        expected = slow(*_pair(count), temperature)
        assert [float(value) for value in found[:3]] == pytest.approx(expected, rel=1e-5, abs=1e-6), fast


def test_nt_xent_is_lightlys() -> None:
    """Loss and gradient of the library that it stands in for."""
    results = []
    for loss in (
        lambda *pair: losses.nt_xent(*pair, temperature=0.1).loss,
        NTXentLoss(temperature=0.1),
    ):
        first, second = (one.requires_grad_() for one in _pair(5))
        value = loss(first, second)
        value.backward()
        results.append((value.detach(), first.grad, second.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", [losses.nt_xent, losses.moco_contrast])
def test_contrast_is_fp32_under_autocast(loss: object) -> None:
    """At temperature 0.01 a similarity in bf16 would be wrong by up to 0.4 after the division."""
    assert callable(loss)
    pair = [one.bfloat16() for one in _pair(7)]
    exact = loss(*(one.float() for one in pair), temperature=0.01).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss(*pair, temperature=0.01).loss
    assert found.dtype == torch.float32
    assert torch.equal(found, exact)


def test_keys_get_no_gradient() -> None:
    query, key = (one.requires_grad_() for one in _pair(4))
    losses.moco_contrast(query, key, temperature=0.2).loss.backward()
    assert key.grad is None
    assert query.grad is not None


def test_features_that_all_collapse_cost_log_of_the_choices() -> None:
    """A zero vector has no direction: no NaN, similarity 0 to all."""
    zero = torch.zeros(4, 6, requires_grad=True)
    loss = losses.nt_xent(zero, zero, temperature=0.1).loss
    loss.backward()
    assert loss.item() == pytest.approx(math.log(7))
    assert bool(zero.grad.isfinite().all())
