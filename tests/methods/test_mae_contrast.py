"""MAE and contrast in one against loops over its two halves, and a recorded curve."""

import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from test_losses import slow_nt_xent
from torch import Tensor

from ssl_retina import config, methods, shipped
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.errors import ConfigError
from ssl_retina.methods import mae_contrast
from ssl_retina.models import encoder

CLOCK = Clock(step=2, total=10, seed=3)
SMALL = {
    "name": "mae_contrast",
    "decoder_width": 32,
    "decoder_depth": 2,
    "decoder_heads": 4,
    "projector_hidden": 24,
    "projector_out": 8,
}

CURVE = [
    1.821938,
    1.92926,
    2.123607,
    1.70821,
    1.772461,
    1.704423,
    1.767774,
    1.932433,
    1.799415,
    1.661743,
    1.640032,
    1.524124,
    1.599167,
    1.325961,
    1.181633,
    1.431961,
    1.630761,
    1.173966,
    1.386825,
    1.255598,
]
"""20 steps of AdamW (5e-4, betas 0.9 0.95, decay 0.05) on the batches of `_batch`, fp32, one CPU thread."""


def _method(*, checkpointing: bool = False, drop_path: float = 0.3, **changes: Any) -> mae_contrast.Method:
    model = config.Model(
        name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=drop_path
    )
    torch.manual_seed(0)
    settings = mae_contrast.Config.model_validate({**SMALL, **changes})
    return mae_contrast.Method(settings, partial(encoder.build, model, checkpointing=checkpointing))


def _batch(start: int, size: int) -> Batch:
    """Stripes of a direction and colour of the sample's own, each view with its phase."""
    position = torch.arange(start, start + size)
    own = uniform(9, "sample", position, 6).view(size, 6, 1, 1)
    axis = torch.linspace(-1, 1, 32)
    angle = own[:, 0] * math.pi
    slope = (angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]) * (4 + 8 * own[:, 1])
    phases = [uniform(9, "phase", position, 1, view).view(size, 1, 1) * 2 for view in range(2)]
    views = [(slope + phase).sin()[:, None] * (own[:, 2:5] - 0.5) * 4 + own[:, 5:6] - 0.5 for phase in phases]
    nowhere = torch.full((2, size, 4), float("nan"))
    return Batch(torch.stack(views), None, tuple("k" * size), position, position, nowhere)


def _slow_projector(method: mae_contrast.Method, rows: Tensor) -> Tensor:
    """Linear and batch norm over both views' rows, twice, ReLU between."""
    weights = {name: value.double() for name, value in method.projector.state_dict().items()}
    for linear in (0, 3):
        rows = rows @ weights[f"layers.{linear}.weight"].T
        centred = rows - rows.sum(dim=0) / len(rows)
        scale = (centred.square().sum(dim=0) / len(rows) + 1e-5).sqrt()
        rows = centred / scale * weights[f"layers.{linear + 1}.weight"] + weights[f"layers.{linear + 1}.bias"]
        rows = rows.clamp(min=0) if linear == 0 else rows
    return rows


def _slow(method: mae_contrast.Method, batch: Batch) -> tuple[float, float, float, float]:
    """Reconstruction patch by patch and value by value; contrast by the paper's loop; similarity, top-1."""
    total, count, pooled = 0.0, 0, []
    for view, images in enumerate(batch.global_views):
        for sample, position in enumerate(batch.position):
            noise = CLOCK.uniform("mask", position[None], 16, view)[0].tolist()
            order = sorted(range(16), key=lambda number, noise=noise: noise[number])
            left = sorted(order[8:])
            if method.config.predicted < 1:
                others = CLOCK.uniform("asked", position[None], 8, view)[0].tolist()
                left = sorted(left, key=lambda number: others[sorted(order[8:]).index(number)])[:4]
            keep, hidden = (torch.tensor([sorted(part)]) for part in (order[:8], left))
            one = images[sample : sample + 1]
            tokens = method.encoder(one, CLOCK, position[None], keep, view=view)
            guesses = method.decoder(tokens, keep, hidden)[0].tolist()
            pooled.append(tokens[0, 1:].detach().double().sum(dim=0) / 8)
            for guess, number in zip(guesses, hidden[0].tolist(), strict=True):
                line, column = divmod(number, 4)
                patch = one[0, :, line * 8 : line * 8 + 8, column * 8 : column * 8 + 8].double()
                values = patch.permute(1, 2, 0).flatten().tolist()
                mean = sum(values) / len(values)
                variance = sum((value - mean) ** 2 for value in values) / (len(values) - 1)
                for predicted, value in zip(guess, values, strict=True):
                    total += (predicted - (value - mean) / math.sqrt(variance + 1e-6)) ** 2
                    count += 1
    first, second = _slow_projector(method, torch.stack(pooled)).chunk(2)
    return total / count, *slow_nt_xent(first, second, 0.1)


@pytest.mark.parametrize(("share", "predicted"), [(0.03, 1), (0.6, 1), (0.03, 0.5)])
def test_equals_the_slow_version(share: float, predicted: float) -> None:
    """Drop path 0.3, of each view its own; other weights than the first ones."""
    method, batch = _method(contrast=share, predicted=predicted).train(), _batch(20, 4)
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.1 - 0.05)
    slow = _slow(method, batch)
    output = method(batch, CLOCK)
    assert output.loss.item() == pytest.approx((1 - share) * slow[0] + share * slow[1], rel=1e-4)
    found = [
        output.logs[name].item()
        for name in ("reconstruction", "contrast", "positive_similarity", "contrast_top1")
    ]
    assert found == pytest.approx(slow, rel=1e-4)


def test_the_two_views_hide_other_patches_and_hidden_ones_never_enter_the_encoder() -> None:
    method, seen, lengths = _method().train(), [], []
    method.encoder.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
    method.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    method(_batch(0, 4), CLOCK)
    assert not torch.equal(*seen)
    assert lengths == [9, 9]


def test_hidden_pixels_count_in_the_target_alone() -> None:
    method, batch, predictions = _method(drop_path=0.0).eval(), _batch(0, 3), []
    method.decoder.register_forward_hook(lambda *call: predictions.append(call[2].detach()))
    changed = batch.global_views.clone()
    for view in range(2):
        hidden = CLOCK.uniform("mask", batch.position, 16, view).argsort(dim=1)[:, 8:]
        for sample in range(3):
            for number in hidden[sample].tolist():
                line, column = divmod(number, 4)
                place = changed[view, sample, :, line * 8 : line * 8 + 8, column * 8 : column * 8 + 8]
                place += uniform(1, "other", torch.tensor([number]), 192).view(3, 8, 8)
    outputs = [method(one, CLOCK) for one in (batch, dataclasses.replace(batch, global_views=changed))]
    assert torch.equal(predictions[0], predictions[2])
    assert torch.equal(predictions[1], predictions[3])
    assert torch.equal(outputs[0].logs["contrast"], outputs[1].logs["contrast"])
    assert outputs[0].loss.item() != outputs[1].loss.item()


def test_every_trained_weight_learns_and_recomputed_blocks_change_no_bit() -> None:
    results = []
    for checkpointing in (False, True):
        method = _method(checkpointing=checkpointing).train()
        loss = method(_batch(0, 6), CLOCK).loss
        loss.backward()
        gradients = {name: one.grad for name, one in method.named_parameters() if one.requires_grad}
        assert [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0] == []
        results.append((loss.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


def _train(steps: int) -> list[float]:
    method = _method(drop_path=0.1, contrast=0.3).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=5e-4, betas=(0.9, 0.95), weight_decay=0.05)
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
    assert curve[-1] < 0.9 * curve[0]


def test_what_cannot_be_is_refused() -> None:
    for ratio in (0.01, 0.99):
        with pytest.raises(ConfigError, match=r"method\.mask_ratio"):
            _method(mask_ratio=ratio)
    with pytest.raises(ValueError, match="multiple of decoder_heads"):
        mae_contrast.Config(decoder_width=100, decoder_heads=16)


@pytest.mark.parametrize(("name", "size"), [("small", 21.67e6), ("base", 85.8e6), ("large", 303.3e6)])
def test_shipped_recipes_have_the_defaults(name: str, size: float) -> None:
    path = shipped.folder("configs") / "pretrain" / f"mae_contrast_vit_{name}.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert run.method.model_dump() == mae_contrast.Config().model_dump()
    assert run.schedule.warmup_steps == pytest.approx(run.train.steps / 20, rel=1e-3)
    with torch.device("meta"):
        method = mae_contrast.Method(run.method, partial(encoder.build, run.model, checkpointing=False))
    count = sum(parameter.numel() for parameter in method.encoder.vit.parameters())
    assert count == pytest.approx(size, rel=2e-3)
