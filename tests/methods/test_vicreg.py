"""VICReg against loops written from the paper and against lightly's loss, and a recorded curve."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from lightly.loss import VICRegLoss
from torch import Tensor

from ssl_retina import config, losses, methods, shipped
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.methods import vicreg
from ssl_retina.models import encoder

CLOCK = Clock(step=2, total=10, seed=3)
PAPER = (25.0, 25.0, 1.0)

CURVE = [
    19.540272,
    18.732101,
    17.22504,
    17.564594,
    15.782752,
    16.517551,
    14.866518,
    15.87158,
    15.151387,
    15.190194,
    15.134312,
    14.214809,
    14.586402,
    14.473318,
    14.851478,
    14.917617,
    13.517403,
    13.562549,
    13.067142,
    13.161601,
]
"""20 steps of AdamW (5e-4, betas 0.9 0.999, decay 0.05) on the batches of `_batch`, fp32, one CPU thread."""


def _method(*, drop_path: float = 0.3, checkpointing: bool = False, **changes: Any) -> vicreg.Method:
    model = config.Model(
        name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=drop_path
    )
    torch.manual_seed(0)
    settings = vicreg.Config.model_validate({"name": "vicreg", "hidden": 24, "out": 10, **changes})
    return vicreg.Method(settings, partial(encoder.build, model, checkpointing=checkpointing))


def _batch(start: int, size: int) -> Batch:
    """Waves of a direction and colour of the sample's own, each view with its phase and noise."""
    position = torch.arange(start, start + size)
    own = uniform(9, "sample", position, 6).view(size, 6, 1, 1)
    axis = torch.linspace(-1, 1, 32)
    angle = own[:, 0] * math.pi
    slope = (angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]) * (4 + 8 * own[:, 1])
    views = []
    for view in range(2):
        phase = uniform(9, "phase", position, 1, view).view(size, 1, 1) * 2
        noise = uniform(9, "noise", position, 3 * 32 * 32, view).view(size, 3, 32, 32) - 0.5
        views.append((slope + phase).sin()[:, None] * (own[:, 2:5] - 0.5) * 4 + own[:, 5:6] + noise)
    nowhere = torch.full((2, size, 4), float("nan"))
    return Batch(torch.stack(views), None, tuple("k" * size), position, position, nowhere)


def _slow(first: Tensor, second: Tensor) -> tuple[float, float, float, float]:
    """Equations 1 to 5 value by value: invariance, hinge and covariance, and the mean deviation."""
    count, width = first.shape
    one, other = first.double().tolist(), second.double().tolist()
    apart = sum((one[i][j] - other[i][j]) ** 2 for i in range(count) for j in range(width))
    hinge, covariance, spread = 0.0, 0.0, 0.0
    for view in (one, other):
        mean = [sum(row[j] for row in view) / count for j in range(width)]
        matrix = [
            [sum((row[j] - mean[j]) * (row[k] - mean[k]) for row in view) / (count - 1) for k in range(width)]
            for j in range(width)
        ]
        deviation = [math.sqrt(matrix[j][j] + 1e-4) for j in range(width)]
        hinge += sum(max(0.0, 1 - value) for value in deviation) / width / 2
        spread += sum(deviation) / width / 2
        covariance += sum(matrix[j][k] ** 2 for j in range(width) for k in range(width) if j != k) / width
    return apart / count / width, hinge, covariance, spread


@pytest.mark.parametrize(("count", "width"), [(7, 5), (4, 12), (2, 3)])
def test_the_loss_equals_the_slow_loops(count: int, width: int) -> None:
    """More rows than columns, and fewer: the squares come from the products of rows either way."""
    position = torch.arange(count)
    first, second = (uniform(1, "rows", position, width, view) * 4 - 1 for view in range(2))
    second = second + first  # two columns of a view hang together, too
    first[:, 1] = first[:, 0] * 0.4
    found = losses.vicreg(first, second, weights=(3.0, 5.0, 7.0))
    slow = _slow(first, second)
    assert [value.item() for value in found.logs().values()] == pytest.approx(slow, rel=1e-4, abs=1e-6)
    assert found.loss.item() == pytest.approx(3 * slow[0] + 5 * slow[1] + 7 * slow[2], rel=1e-5)


def test_loss_and_gradient_are_lightlys() -> None:
    position = torch.arange(9)
    rows = [uniform(2, "rows", position, 16, view).mul(2).requires_grad_() for view in range(2)]
    losses.vicreg(*rows, weights=PAPER).loss.backward()
    ours = [row.grad for row in rows]
    others = [row.detach().requires_grad_() for row in rows]
    expected = VICRegLoss()(*others)
    expected.backward()
    assert losses.vicreg(*rows, weights=PAPER).loss.item() == pytest.approx(expected.item(), rel=1e-5)
    for gradient, other in zip(ours, others, strict=True):
        torch.testing.assert_close(gradient, other.grad, rtol=1e-4, atol=1e-7)


def test_collapse_is_seen_and_costs() -> None:
    """All rows alike: the hinge is nearly 1, nothing is infinite; spread rows cost less."""
    alike = torch.ones(6, 8, requires_grad=True)
    found = losses.vicreg(alike, alike, weights=PAPER)
    found.loss.backward()
    assert found.variance_hinge.item() == pytest.approx(0.99)
    assert found.embedding_std.item() == pytest.approx(0.01)
    assert bool(torch.isfinite(alike.grad).all())
    apart = losses.vicreg(4 * torch.eye(6, 8), 4 * torch.eye(6, 8), weights=PAPER)
    assert apart.loss.item() < found.loss.item()


def test_bf16_rows_are_compared_in_fp32() -> None:
    position = torch.arange(6)
    first, second = (uniform(3, "rows", position, 8, view).bfloat16() for view in range(2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.vicreg(first, second, weights=PAPER)
    assert found.loss.dtype == torch.float32
    assert found.covariance.item() == pytest.approx(_slow(first.float(), second.float())[2], rel=1e-4)


def _slow_expander(method: vicreg.Method, rows: Tensor) -> Tensor:
    """Linear, batch norm over one view's rows, ReLU, twice; then linear."""
    weights = {name: value.double() for name, value in method.expander.state_dict().items()}
    for number in (0, 3):
        rows = rows @ weights[f"0.layers.{number}.weight"].T
        centred = rows - rows.sum(dim=0) / len(rows)
        scale = (centred.square().sum(dim=0) / len(rows) + 1e-5).sqrt()
        norm = f"0.layers.{number + 1}"
        rows = (centred / scale * weights[f"{norm}.weight"] + weights[f"{norm}.bias"]).clamp(min=0)
    return rows @ weights["2.weight"].T


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_method_equals_the_slow_version(pool: str) -> None:
    method, batch = _method(drop_path=0.0, pool=pool).train(), _batch(0, 5)
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.1 - 0.05)
    expanded, pooled = [], []
    for images in batch.global_views:
        tokens = method.encoder.vit.forward_features(images).detach().double()
        pooled.append(tokens[:, 0] if pool == "token" else tokens[:, 1:].mean(dim=1))
        expanded.append(_slow_expander(method, pooled[-1]))
    output = method(batch, CLOCK)
    slow = _slow(*expanded)
    assert output.loss.item() == pytest.approx(25 * slow[0] + 25 * slow[1] + slow[2], rel=1e-4)
    assert [value.item() for value in output.logs.values()] == pytest.approx(slow, rel=1e-3)
    torch.testing.assert_close(output.features.double(), pooled[0], rtol=1e-5, atol=1e-5)


def test_views_drop_other_paths_and_recomputed_blocks_change_no_bit() -> None:
    results = []
    for checkpointing in (False, True):
        method, calls = _method(checkpointing=checkpointing).train(), []
        method.encoder.register_forward_pre_hook(
            lambda _, args, given, calls=calls: calls.append(given["view"]), with_kwargs=True
        )
        loss = method(_batch(0, 4), CLOCK).loss
        loss.backward()
        assert calls == [0, 1]
        gradients = {key: one.grad for key, one in method.named_parameters() if one.grad is not None}
        results.append((loss.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


def test_every_trained_weight_learns_but_what_batch_norm_takes_out() -> None:
    method = _method(drop_path=0.0).train()
    method(_batch(0, 6), CLOCK).loss.backward()
    strength = {
        key: float(one.grad.abs().max()) for key, one in method.named_parameters() if one.requires_grad
    }
    assert strength.pop("encoder.vit.norm.bias") < 1e-4 * strength["encoder.vit.norm.weight"]
    strength.pop("encoder.vit.cls_token")  # read by nobody but through attention: small
    assert [key for key, value in strength.items() if not value > 1e-6] == []


def _train(steps: int) -> list[float]:
    method = _method(drop_path=0.1).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05)
    curve = []
    for step in range(steps):
        loss = method(_batch(step * 16, 16), Clock(step, steps, seed=3)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def test_recorded_curve() -> None:
    """A change of a formula, an initial value or a draw moves this; rounding on other CPUs does not."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        curve = _train(20)
    finally:
        torch.set_num_threads(threads)
    assert curve == pytest.approx(CURVE, rel=2e-5)
    assert curve[-1] < curve[0]


@pytest.mark.parametrize(("name", "size"), [("small", 21.67e6), ("base", 85.8e6), ("large", 303.3e6)])
def test_shipped_recipes_have_the_papers_expander(name: str, size: float) -> None:
    path = shipped.folder("configs") / "pretrain" / f"vicreg_vit_{name}.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert run.method.model_dump() == vicreg.Config().model_dump()
    assert (run.method.invariance, run.method.variance, run.method.covariance) == PAPER
    with torch.device("meta"):
        method = vicreg.Method(run.method, partial(encoder.build, run.model, checkpointing=False))
    count = sum(parameter.numel() for parameter in method.encoder.vit.parameters())
    assert count == pytest.approx(size, rel=2e-3)
    wide = method.encoder.width * 8192 + 2 * 8192**2 + 4 * 8192
    assert sum(parameter.numel() for parameter in method.expander.parameters()) == wide
