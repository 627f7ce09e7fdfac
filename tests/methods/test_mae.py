"""MAE against loops written from the paper, law 3 for the method itself, and a recorded curve."""

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ssl_retina import config, methods, shipped
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.errors import ConfigError
from ssl_retina.methods import mae
from ssl_retina.models import encoder

CLOCK = Clock(step=2, total=10, seed=3)

CURVE = [
    1.274384,
    1.211103,
    1.194691,
    1.176145,
    1.159981,
    1.149954,
    1.142426,
    1.131795,
    1.122781,
    1.111589,
    1.105151,
    1.097894,
    1.090724,
    1.089335,
    1.083361,
    1.077283,
    1.071644,
    1.065327,
    1.060248,
    1.05236,
]
"""20 steps of AdamW (5e-4, betas 0.9 0.95, decay 0.05) on the batches of `_batch`, fp32, one CPU thread.

Measured against threads 1 and 2, no oneDNN, AVX2 alone, and fp64: they differ by at most 4e-7."""


def _method(*, checkpointing: bool = False, drop_path: float = 0.3, **changes: Any) -> mae.Method:
    model = config.Model(
        name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=3, drop_path=drop_path
    )
    small = {"name": "mae", "decoder_width": 32, "decoder_depth": 2, "decoder_heads": 4}
    torch.manual_seed(0)
    settings = mae.Config.model_validate({**small, **changes})
    return mae.Method(settings, partial(encoder.build, model, checkpointing=checkpointing))


def _batch(start: int, size: int) -> Batch:
    """Stripes of random direction, width and colour: something that neighbours predict."""
    position = torch.arange(start, start + size)
    draws = uniform(9, "synthetic", position, 8).view(size, 8, 1, 1)
    axis = torch.linspace(-1, 1, 32)
    angle = draws[:, 0] * math.pi
    phase = (angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]) * (4 + 8 * draws[:, 1])
    wave = (phase + 6 * draws[:, 2]).sin()[:, None]
    images = wave * (draws[:, 3:6] - 0.5) * 4 + draws[:, 6:7] - 0.5
    return Batch(
        global_views=images[None],
        local_views=None,
        keys=tuple(f"k{number}" for number in position.tolist()),
        position=position,
        group=position,
        field_of_view=torch.full((1, size, 4), float("nan")),
    )


# the slow version: one sample, one patch, one head at a time, from the weights by name


def _norm(tokens: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    rows = []
    for token in tokens:
        centred = token - token.mean()
        rows.append(centred / (centred.square().mean() + 1e-6).sqrt() * weight + bias)
    return torch.stack(rows)


def _block(tokens: Tensor, weights: dict[str, Tensor], name: str, heads: int, factors: Tensor) -> Tensor:
    def get(part: str) -> Tensor:
        return weights[f"{name}.{part}"]

    width = tokens.shape[1]
    normed = _norm(tokens, get("norm1.weight"), get("norm1.bias"))
    query, key, value = (normed @ get("attn.qkv.weight").T + get("attn.qkv.bias")).split(width, dim=1)
    mixed = torch.zeros_like(tokens)
    size = width // heads
    for head in range(heads):
        part = slice(head * size, head * size + size)
        for row in range(len(tokens)):
            scores = torch.stack([query[row, part] @ other for other in key[:, part]]) / size**0.5
            mixed[row, part] = (
                (scores - scores.max()).exp() @ value[:, part] / (scores - scores.max()).exp().sum()
            )
    tokens = tokens + factors[0] * (mixed @ get("attn.proj.weight").T + get("attn.proj.bias"))
    normed = _norm(tokens, get("norm2.weight"), get("norm2.bias"))
    inner = normed @ get("mlp.fc1.weight").T + get("mlp.fc1.bias")
    inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
    return tokens + factors[1] * (inner @ get("mlp.fc2.weight").T + get("mlp.fc2.bias"))


def _patch(image: Tensor, number: int) -> Tensor:
    """(3, 8, 8) of a 32 px image, patches counted row by row."""
    row, column = divmod(number, 4)
    return image[:, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8]


def _slow_loss(method: mae.Method, batch: Batch, *, training: bool) -> Tensor:
    weights = {name: value.detach().double() for name, value in method.state_dict().items()}
    losses = []
    for sample, position in enumerate(batch.position):
        image = batch.global_views[0, sample].double()
        noise = CLOCK.uniform("mask", position[None], 16)[0].tolist()
        order = sorted(range(16), key=lambda number: noise[number])
        keep, hidden = sorted(order[:4]), sorted(order[4:])
        if method.config.predicted < 1:
            others = CLOCK.uniform("asked", position[None], 12)[0].tolist()
            count = round(12 * method.config.predicted)
            hidden = sorted(sorted(hidden, key=lambda number: others[hidden.index(number)])[:count])
        draws = CLOCK.uniform("drop_path", position[None], 6)[0].double()
        losses.append(_slow_sample(weights, image, keep, hidden, draws if training else None))
    return torch.stack(losses).mean()


def _slow_sample(
    weights: dict[str, Tensor], image: Tensor, keep: list[int], hidden: list[int], draws: Tensor | None
) -> Tensor:
    vit = "encoder.vit"
    kernel = weights[f"{vit}.patch_embed.proj.weight"]
    places = weights[f"{vit}.pos_embed"][0]
    tokens = [weights[f"{vit}.cls_token"][0, 0] + places[0]]
    for number in keep:
        embedded = torch.stack([(_patch(image, number) * one).sum() for one in kernel])
        tokens.append(embedded + weights[f"{vit}.patch_embed.proj.bias"] + places[1 + number])
    encoded = torch.stack(tokens)
    for depth, rate in enumerate((0.0, 0.15, 0.3)):
        factors = torch.ones(2).double()
        if draws is not None:
            factors = (draws[2 * depth : 2 * depth + 2] >= rate).double() / (1 - rate)
        encoded = _block(encoded, weights, f"{vit}.blocks.{depth}", 3, factors)
    encoded = _norm(encoded, weights[f"{vit}.norm.weight"], weights[f"{vit}.norm.bias"])

    head = "decoder.decoder"
    narrow = encoded @ weights["decoder.embed.weight"].T + weights["decoder.embed.bias"]
    there = sorted((*keep, *hidden))  # what nobody asks for is no token of the decoder
    full = [narrow[0]]
    for number in there:
        full.append(narrow[1 + keep.index(number)] if number in keep else weights[f"{head}.mask_token"][0, 0])
    decoded = torch.stack(full) + weights[f"{head}.pos_embed"][0][[0, *(1 + number for number in there)]]
    for depth in range(2):
        decoded = _block(decoded, weights, f"{head}.blocks.{depth}", 4, torch.ones(2).double())
    decoded = _norm(decoded, weights[f"{head}.norm.weight"], weights[f"{head}.norm.bias"])
    errors = []
    for number in hidden:
        predicted = (
            decoded[1 + there.index(number)] @ weights["decoder.predict.weight"].T
            + weights["decoder.predict.bias"]
        )
        target = _patch(image, number).permute(1, 2, 0).flatten()
        target = (target - target.mean()) / (target.var(unbiased=True) + 1e-6).sqrt()
        errors.append((predicted - target).square().mean())
    return torch.stack(errors).mean()


@pytest.mark.parametrize(("training", "predicted"), [(True, 1), (False, 1), (True, 0.5), (True, 0.1)])
def test_equals_the_slow_version(training: bool, predicted: float) -> None:
    method = _method(predicted=predicted).train(training)
    with torch.no_grad():
        method.encoder.vit.pos_embed.add_(0.1)
        for parameter in method.parameters():
            parameter.add_(
                uniform(1, "shake", torch.arange(1), parameter.numel()).view_as(parameter) * 0.1 - 0.05
            )
    batch = _batch(20, 4)
    loss = method(batch, CLOCK).loss
    assert loss.item() == pytest.approx(_slow_loss(method, batch, training=training).item(), rel=1e-5)


def _loss_and_gradients(method: mae.Method, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    method.zero_grad()
    losses = [method(batch, CLOCK).loss for batch in batches]
    (torch.stack(losses).sum() / len(losses)).backward()
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    return sum(loss.item() for loss in losses) / len(losses), gradients


@pytest.mark.parametrize("predicted", [1, 0.5])
@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (1,) * 8])
def test_law_3_parts_of_a_batch_equal_the_whole(sizes: tuple[int, ...], predicted: float) -> None:
    """Loss and every gradient, drop path 0.3: what two ranks compute is what one computes."""
    method = _method(predicted=predicted).train()
    whole, gradients = _loss_and_gradients(method, [_batch(40, 8)])
    starts = [40 + sum(sizes[:number]) for number in range(len(sizes))]
    parts, split = _loss_and_gradients(method, [_batch(s, n) for s, n in zip(starts, sizes, strict=True)])
    assert parts == pytest.approx(whole, rel=1e-6)
    assert gradients.keys() == split.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_every_trained_weight_gets_a_gradient() -> None:
    method = _method().train()
    _, gradients = _loss_and_gradients(method, [_batch(0, 8)])
    trained = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    assert gradients.keys() == trained
    dead = [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0]
    assert not dead
    frozen = {name for name, parameter in method.named_parameters() if not parameter.requires_grad}
    assert frozen == {"encoder.vit.pos_embed", "decoder.decoder.pos_embed"}


def test_hidden_pixels_do_not_reach_the_prediction() -> None:
    """Other pixels in hidden patches: the same prediction, another loss."""
    method = _method(drop_path=0.0).eval()
    batch = _batch(0, 2)
    predictions = []
    method.decoder.register_forward_hook(lambda *call: predictions.append(call[2].detach()))
    hidden = CLOCK.uniform("mask", batch.position, 16).argsort(dim=1)[:, 4:]
    changed = batch.global_views.clone()
    for sample in range(2):
        for number in hidden[sample].tolist():
            _patch(changed[0, sample], number).add_(torch.randn(3, 8, 8))
    other = Batch(changed, None, batch.keys, batch.position, batch.group, batch.field_of_view)
    losses = [method(one, CLOCK).loss.item() for one in (batch, other)]
    assert torch.equal(*predictions)
    assert losses[0] != losses[1]


def test_masked_tokens_never_enter_the_encoder() -> None:
    method = _method().train()
    lengths = []
    method.encoder.vit.blocks[0].register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    method(_batch(0, 2), CLOCK)
    assert lengths == [1 + 4]


def test_patches_that_nobody_asks_for_never_enter_the_decoder() -> None:
    method = _method(predicted=0.5).train()
    lengths = []
    block = method.decoder.decoder.blocks[0]
    block.register_forward_pre_hook(lambda _, given: lengths.append(given[0].shape[1]))
    method(_batch(0, 2), CLOCK)
    assert lengths == [1 + 4 + 6]


def test_the_same_clock_gives_the_same_loss_whatever_torchs_generator_says() -> None:
    method = _method().train()
    losses = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        losses.append(method(_batch(0, 4), CLOCK).loss.item())
    assert losses[0] == losses[1]
    assert method(_batch(0, 4), Clock(2, 10, seed=4)).loss.item() != losses[0], "another seed, other masks"


def test_bf16_autocast_computes_the_loss_in_fp32() -> None:
    method = _method().train()
    exact = method(_batch(0, 4), CLOCK).loss.item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = method(_batch(0, 4), CLOCK)
    assert output.loss.dtype == torch.float32
    assert output.features is not None
    assert output.features.dtype == torch.float32
    assert output.loss.item() == pytest.approx(exact, rel=0.02)
    output.loss.backward()
    assert all(bool(p.grad.isfinite().all()) for p in method.parameters() if p.grad is not None)


def test_features_are_one_detached_vector_a_sample() -> None:
    output = _method().train()(_batch(0, 5), CLOCK)
    assert output.features is not None
    assert output.features.shape == (5, 192)
    assert not output.features.requires_grad


def test_checkpointing_reaches_encoder_and_decoder_and_changes_nothing() -> None:
    results, counts = [], []
    for checkpointing in (False, True):
        method = _method(checkpointing=checkpointing).train()
        runs: list[int] = []
        for block in (*method.encoder.vit.blocks, *method.decoder.decoder.blocks):
            block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        results.append(_loss_and_gradients(method, [_batch(0, 4)]))
        counts.append(len(runs))
    assert counts == [5, 10]
    assert results[0][0] == results[1][0]
    for name, gradient in results[0][1].items():
        assert torch.equal(gradient, results[1][1][name]), name


def _train(steps: int) -> list[float]:
    method = _method(drop_path=0.1).train()
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


def test_a_ratio_that_hides_nothing_or_all_is_refused() -> None:
    for ratio in (0.01, 0.99):
        with pytest.raises(ConfigError, match=r"method\.mask_ratio"):
            _method(mask_ratio=ratio)


def test_decoder_width_must_fit_its_heads() -> None:
    with pytest.raises(ValueError, match="multiple of decoder_heads"):
        mae.Config(decoder_width=100, decoder_heads=16)


def test_the_product_is_the_encoder_alone() -> None:
    product = _method().exported()
    assert isinstance(product, nn.Module)
    assert not any("mask_token" in name or "decoder" in name for name in product.state_dict())


@pytest.mark.parametrize(
    ("name", "encoder_size", "whole"),
    [
        ("mae_vit_small", 21.67e6, 47.6e6),
        ("mae_vit_base", 85.8e6, 111.9e6),
        ("mae_vit_large", 303.3e6, 329.5e6),
    ],
)
def test_shipped_recipes_have_the_papers_sizes(name: str, encoder_size: float, whole: float) -> None:
    """Parameters of the paper's own code (B and L), counted without memory."""
    path = shipped.folder("configs") / "pretrain" / f"{name}.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert run.schedule.warmup_steps == pytest.approx(run.train.steps / 20, rel=1e-3)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.clip_norm) == ((0.9, 0.95), 0.05, None)
    with torch.device("meta"):
        method = mae.Method(run.method, partial(encoder.build, run.model, checkpointing=False))
    count = sum(parameter.numel() for parameter in method.encoder.vit.parameters())
    assert count == pytest.approx(encoder_size, rel=2e-3)
    assert sum(parameter.numel() for parameter in method.parameters()) == pytest.approx(whole, rel=2e-3)
