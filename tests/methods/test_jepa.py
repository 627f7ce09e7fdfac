"""I-JEPA: its blocks, its loss against loops, law 3 for the method itself, and a recorded curve."""

import copy
import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from test_contract_of_methods import PlainWeights
from torch import Tensor

from ssl_retina import config, losses, methods, shipped
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.errors import ConfigError
from ssl_retina.methods import ijepa
from ssl_retina.models import encoder
from ssl_retina.models.jepa import BlockPlan

CLOCK = Clock(step=2, total=10, seed=3)
PLAN = BlockPlan(14, 59, 4, (0.15, 0.2), (0.75, 1.5), (0.85, 1.0))
SMALL = {"name": "ijepa", "predictor_width": 32, "predictor_depth": 2, "predictor_heads": 4}

CURVE = [
    0.501342,
    0.482953,
    0.47219,
    0.461273,
    0.455313,
    0.455014,
    0.441645,
    0.438403,
    0.43359,
    0.427314,
    0.41925,
    0.416442,
    0.407893,
    0.401174,
    0.395206,
    0.388744,
    0.387318,
    0.386052,
    0.379833,
    0.373192,
]
"""20 steps of AdamW (5e-4, betas 0.9 0.999, decay 0.05) on the batches of `_batch`, fp32, one CPU thread."""


def _method(*, checkpointing: bool = False, drop_path: float = 0.3, **changes: Any) -> ijepa.Method:
    model = config.Model(
        name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=drop_path
    )
    torch.manual_seed(0)
    settings = ijepa.Config.model_validate({**SMALL, **changes})
    return ijepa.Method(settings, partial(encoder.build, model, checkpointing=checkpointing))


def _batch(start: int, size: int) -> Batch:
    """Stripes of random direction, width and colour: something that neighbours tell."""
    position = torch.arange(start, start + size)
    draws = uniform(9, "synthetic", position, 8).view(size, 8, 1, 1)
    axis = torch.linspace(-1, 1, 32)
    angle = draws[:, 0] * math.pi
    phase = (angle.cos() * axis[None, None, :] + angle.sin() * axis[None, :, None]) * (4 + 8 * draws[:, 1])
    images = (phase + 6 * draws[:, 2]).sin()[:, None] * (draws[:, 3:6] - 0.5) * 4 + draws[:, 6:7] - 0.5
    nowhere = torch.full((1, size, 4), float("nan"))
    return Batch(images[None], None, ("k",) * size, position, position, nowhere)


def _shaken(method: ijepa.Method) -> ijepa.Method:
    """Other weights than the first ones, and a teacher that is not the student."""
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.1 - 0.05)
    return method


@pytest.mark.parametrize("step", range(6))
def test_blocks_are_rectangles_and_context_is_beside_them(step: int) -> None:
    drawn = PLAN.draw(Clock(step, 10, 0), torch.arange(200), fixed=False)
    assert drawn.context.shape == (200, 59)
    shapes = set()
    for context, targets in zip(drawn.context.tolist(), drawn.targets.tolist(), strict=True):
        assert context == sorted(set(context))
        assert len(targets) == 4
        for block in targets:
            lines, columns = ({number // 14 for number in block}, {number % 14 for number in block})
            whole = {
                14 * line + column
                for line in range(min(lines), max(lines) + 1)
                for column in range(min(columns), max(columns) + 1)
            }
            assert set(block) == whole
            assert len(block) == len(whole)
            assert not whole & set(context)
            shapes.add((len(lines), len(columns)))
        assert 0 <= min(context) <= max(context) < 196
        for numbers in ({one // 14 for one in context}, {one % 14 for one in context}):
            assert max(numbers) - min(numbers) < PLAN.sizes((0.0, 0.0, 1.0)).context
    ((height, width),) = shapes
    assert 0.12 * 196 < height * width < 0.23 * 196
    assert 0.6 < height / width < 1.8


def test_sizes_follow_the_step_and_places_the_sample() -> None:
    everyone = torch.arange(40)
    drawn = [PLAN.draw(Clock(step, 99, 0), everyone, fixed=False) for step in range(12)]
    assert len({one.targets.shape[2] for one in drawn}) > 3
    middle = [PLAN.draw(Clock(step, 99, 0), everyone, fixed=True) for step in (0, 5)]
    assert torch.equal(middle[0].targets, middle[1].targets)
    assert torch.equal(middle[0].context, middle[1].context)
    some = PLAN.draw(Clock(3, 99, 0), torch.tensor([31, 7]), fixed=False)
    for place, sample in enumerate((31, 7)):
        assert torch.equal(some.context[place], drawn[3].context[sample])
        assert torch.equal(some.targets[place], drawn[3].targets[sample])
    assert len({tuple(row) for row in drawn[0].targets[:, 0].tolist()}) > 20
    starts = PLAN.draw(Clock(0, 9, 0), torch.arange(2000), fixed=True).targets.flatten().unique()
    assert len(starts) == 196, "blocks reach every corner"


def test_a_layout_that_leaves_too_little_is_drawn_again_or_drawn_together() -> None:
    """With as much context as one block alone leaves, the four lie upon each other."""
    for share, together in ((59, False), (PLAN.room, True)):
        drawn = dataclasses.replace(PLAN, kept=share).draw(CLOCK, torch.arange(300), fixed=False)
        assert drawn.context.shape[1] == share
        alike = (drawn.targets == drawn.targets[:, :1]).all(dim=2).all(dim=1)
        assert bool(alike.any()) == together
        for context, targets in zip(drawn.context.tolist(), drawn.targets.tolist(), strict=True):
            assert not set(context) & {number for block in targets for number in block}


def test_context_is_cut_by_noise_and_not_from_below() -> None:
    """The authors cut the list at its end, which always takes the lowest lines of the picture."""
    drawn = PLAN.draw(CLOCK, torch.arange(2000), fixed=True)
    lines = torch.bincount((drawn.context // 14).flatten(), minlength=14).float()
    assert float(lines[:5].sum() / lines[-5:].sum()) == pytest.approx(1, abs=0.1)


def _slow_loss(method: ijepa.Method, batch: Batch) -> float:
    """Sample by sample, block by block and value by value; in float64 but for the encoder of the context."""
    drawn = method.plan.draw(CLOCK, batch.position, fixed=not method.training)
    teacher = copy.deepcopy(method.teacher.encoder.vit).double()
    predictor = copy.deepcopy(method.predictor).double()
    images = batch.global_views[0]
    tokens = method.encoder(images, CLOCK, batch.position, drawn.context).detach().double()
    whole = teacher.forward_features(images.double()).detach()
    places = predictor.decoder.pos_embed[0]
    total, count = 0.0, 0
    for sample in range(len(images)):
        context = [
            predictor.embed(tokens[sample, 1 + place]) + places[number]
            for place, number in enumerate(drawn.context[sample].tolist())
        ]
        for block in drawn.targets[sample].tolist():
            asked = [predictor.decoder.mask_token[0, 0] + places[number] for number in block]
            sequence = torch.stack([*context, *asked])[None]
            for layer in predictor.decoder.blocks:
                sequence = layer(sequence)
            guesses = predictor.predict(predictor.decoder.norm(sequence))[0, len(context) :].tolist()
            for guess, number in zip(guesses, block, strict=True):
                values = whole[sample, 1 + number].tolist()
                mean = sum(values) / len(values)
                spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)
                for one, value in zip(guess, values, strict=True):
                    gap = abs(one - (value - mean) / spread)
                    total += gap * gap / 2 if gap < 1 else gap - 0.5
                    count += 1
    return total / count


@pytest.mark.parametrize("training", [True, False])
def test_equals_the_slow_version(training: bool) -> None:
    method = _shaken(_method()).train(training)
    batch = _batch(20, 3)
    output = method(batch, CLOCK)
    assert output.loss.item() == pytest.approx(_slow_loss(method, batch), rel=1e-5)
    pooled = method.teacher.tokens(batch.global_views[0], CLOCK, batch.position)[:, 1:].mean(dim=1)
    assert output.logs["target_std"].item() == pytest.approx(
        float(pooled.std(dim=0, unbiased=False).mean()), rel=1e-5
    )


def _loss_and_gradients(method: ijepa.Method, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    method.zero_grad()
    found = [method(batch, CLOCK).loss for batch in batches]
    (torch.stack(found).sum() / len(found)).backward()
    gradients = {name: one.grad.clone() for name, one in method.named_parameters() if one.grad is not None}
    return sum(loss.item() for loss in found) / len(found), gradients


@pytest.mark.parametrize("sizes", [(4, 4), (1,) * 8])
def test_law_3_parts_of_a_batch_equal_the_whole(sizes: tuple[int, ...]) -> None:
    method = _shaken(_method()).train()
    whole, gradients = _loss_and_gradients(method, [_batch(40, 8)])
    starts = [40 + sum(sizes[:number]) for number in range(len(sizes))]
    parts, split = _loss_and_gradients(method, [_batch(s, n) for s, n in zip(starts, sizes, strict=True)])
    assert parts == pytest.approx(whole, rel=1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_every_trained_weight_learns_and_the_teacher_does_not() -> None:
    method = _method().train()
    _, gradients = _loss_and_gradients(method, [_batch(0, 8)])
    assert gradients.keys() == {name for name, one in method.named_parameters() if one.requires_grad}
    assert [name for name, gradient in gradients.items() if not gradient.abs().sum() > 0] == []
    assert not any(name.startswith("teacher.") or "pos_embed" in name for name in gradients)


def test_pixels_outside_the_context_do_not_reach_the_prediction() -> None:
    method, batch, predictions = _method().eval(), _batch(0, 2), []
    method.predictor.register_forward_hook(lambda *call: predictions.append(call[2].detach()))
    drawn = method.plan.draw(CLOCK, batch.position, fixed=True)
    changed = batch.global_views.clone()
    for sample in range(2):
        for number in set(range(16)) - set(drawn.context[sample].tolist()):
            line, column = divmod(number, 4)
            changed[0, sample, :, line * 8 : line * 8 + 8, column * 8 : column * 8 + 8] += 1
    found = [
        method(one, CLOCK).loss.item() for one in (batch, dataclasses.replace(batch, global_views=changed))
    ]
    assert torch.equal(*predictions)
    assert found[0] != found[1]


def test_checkpointing_reaches_encoder_and_predictor_and_changes_nothing() -> None:
    results, counts = [], []
    for checkpointing in (False, True):
        method = _method(checkpointing=checkpointing).train()
        runs: list[int] = []
        for block in (*method.encoder.vit.blocks, *method.predictor.decoder.blocks):
            block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        results.append(_loss_and_gradients(method, [_batch(0, 4)]))
        counts.append(len(runs))
    assert counts == [4, 8]
    assert results[0][0] == results[1][0]
    assert all(torch.equal(gradient, results[1][1][name]) for name, gradient in results[0][1].items())


def test_the_teacher_follows_by_a_line_to_one_and_is_the_product() -> None:
    method = _shaken(_method())
    assert [method.momentum(Clock(step, 8, 0)) for step in (0, 4, 8)] == pytest.approx([0.996, 0.998, 1.0])
    product = method.exported()
    assert product is method.teacher.encoder
    before = {name: value.clone() for name, value in product.named_parameters()}
    method.after_step(Clock(4, 8, 0), PlainWeights())
    for name, value in product.named_parameters():
        expected = 0.998 * before[name] + 0.002 * method.encoder.get_parameter(name)
        torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-7, msg=name)


def test_collapsed_rows_have_no_deviation() -> None:
    assert losses.deviation(torch.ones(5, 3)).item() == 0
    assert losses.deviation(torch.tensor([[1.0], [3.0]])).item() == 1


def _train(steps: int) -> list[float]:
    method = _method(drop_path=0.1, momentum=0.9).train()
    trained = [one for one in method.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=5e-4, betas=(0.9, 0.999), weight_decay=0.05)
    curve = []
    for step in range(steps):
        clock = Clock(step, steps, seed=3)
        loss = method(_batch(step * 16, 16), clock).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(clock, PlainWeights())
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
    assert curve[-1] < 0.8 * curve[0]


def test_what_cannot_be_drawn_is_refused() -> None:
    for share in (0.01, 0.9):
        with pytest.raises(ConfigError, match=r"method\.context_share: .* patches are not 1 to"):
            _method(context_share=share)
    with pytest.raises(ValueError, match="multiple of predictor_heads"):
        ijepa.Config(predictor_width=100, predictor_heads=16)


@pytest.mark.parametrize(
    ("name", "depth", "heads", "size"),
    [("small", 6, 6, 21.67e6), ("base", 6, 12, 85.8e6), ("large", 12, 16, 303.3e6)],
)
def test_shipped_recipes_are_the_papers(name: str, depth: int, heads: int, size: float) -> None:
    """Appendix A: predictor, 1e-3 for a batch of 2048, 15 epochs of warm-up."""
    path = shipped.folder("configs") / "pretrain" / f"ijepa_vit_{name}.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert run.method.model_dump() == {
        **ijepa.Config().model_dump(),
        "predictor_depth": depth,
        "predictor_heads": heads,
    }
    assert run.peak_learning_rate == pytest.approx(1e-3 * run.data.batch_size / 2048)
    assert run.schedule.warmup_steps == pytest.approx(run.train.steps * 15 / 600, rel=2e-3)
    with torch.device("meta"):
        method = ijepa.Method(run.method, partial(encoder.build, run.model, checkpointing=False))
    assert (method.plan.grid, method.plan.kept) == (14, 59)
    count = sum(parameter.numel() for parameter in method.encoder.vit.parameters())
    assert count == pytest.approx(size, rel=2e-3)
