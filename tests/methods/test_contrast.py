"""SimCLR and MoCo v3 against loops written from the papers, their teacher, their views and their recipes."""

import dataclasses
import math
from functools import partial
from typing import Any

import pytest
import torch
from test_losses import slow_moco, slow_nt_xent
from torch import Tensor, nn

from ssl_retina import config, methods, shipped
from ssl_retina.contract import ORIGIN, UNKNOWN, Batch, Clock, uniform
from ssl_retina.models import encoder
from ssl_retina.relations import KINDS

CLOCK = Clock(step=2, total=10, seed=3)
SMALL: dict[str, dict[str, Any]] = {
    "simclr": {"name": "simclr", "projector_hidden": 24, "projector_out": 8, "projector_layers": 3},
    "mocov3": {"name": "mocov3", "hidden": 24, "out": 8},
}
BOTH = pytest.mark.parametrize("name", SMALL)
PAPERS: dict[str, dict[str, Any]] = {
    # Chen et al. 2020, section 2.1 and table 5
    "simclr": {"temperature": 0.1, "projector_hidden": 2048, "projector_out": 128, "projector_layers": 2},
    # Chen, Xie, He 2021, section 5, and the authors' main_moco.py
    "mocov3": {
        "temperature": 0.2,
        "momentum": 0.99,
        "hidden": 4096,
        "out": 256,
        "freeze_patch_embedding": True,
        "pool": "token",
    },
}


def _method(name: str, *, drop_path: float = 0.0, checkpointing: bool = False, **changes: Any) -> Any:
    model = config.Model(
        name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=drop_path
    )
    torch.manual_seed(0)
    file = methods.load(name)
    settings = file.Config.model_validate({**SMALL[name], **changes})
    method = file.Method(settings, partial(encoder.build, model, checkpointing=checkpointing))
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.1 - 0.05)
    return method


def _batch(size: int, start: int = 0) -> Batch:
    position = torch.arange(start, start + size)
    common = uniform(0, "sample", position, 3 * 32 * 32)
    pixels = [common + uniform(0, "noise", position, 3 * 32 * 32, view) for view in range(2)]
    views = torch.stack(pixels).view(2, size, 3, 32, 32) * 2 - 2
    nowhere = torch.full((2, size, 4), float("nan"))
    return Batch(views, None, tuple("k" * size), position, position, nowhere)


def _pooled(made: encoder.Encoder, images: Tensor, pool: str) -> Tensor:
    """Plain timm's tokens, pooled by hand, in float64."""
    tokens = made.vit.forward_features(images).detach().double()
    return tokens[:, 0] if pool == "token" else tokens[:, 1:].sum(dim=1) / (tokens.shape[1] - 1)


def _slow_mlp(head: nn.Module, rows: Tensor) -> Tensor:
    """Linear, batch norm over these rows, ReLU between: one value at a time."""
    weights = {name: value.double() for name, value in head.state_dict().items()}
    numbers = sorted({int(name.split(".")[1]) for name in weights})
    linears = [number for number in numbers if f"layers.{number}.running_mean" not in weights]
    for number in linears:
        rows = rows @ weights[f"layers.{number}.weight"].T
        for column in range(rows.shape[1]):
            values = rows[:, column].tolist()
            mean = sum(values) / len(values)
            spread = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-5)
            scale = float(weights.get(f"layers.{number + 1}.weight", torch.ones(99))[column])
            shift = float(weights.get(f"layers.{number + 1}.bias", torch.zeros(99))[column])
            new = [(value - mean) / spread * scale + shift for value in values]
            rows[:, column] = torch.tensor(new).double()
        if number != linears[-1]:
            rows = rows.clamp(min=0)
    return rows


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_simclr_equals_the_slow_version(pool: str) -> None:
    """Both views pass through the projector as one batch; drop path is off."""
    method, batch = _method("simclr", pool=pool).train(), _batch(5)
    pooled = torch.cat([_pooled(method.encoder, images, pool) for images in batch.global_views])
    first, second = _slow_mlp(method.projector, pooled).chunk(2)
    output = method(batch, CLOCK)
    assert output.logs["false_negative_rate"].item() == 0, "each sample is a patient"
    found = [output.loss.item(), *(value.item() for value in list(output.logs.values())[:2])]
    assert found == pytest.approx(slow_nt_xent(first, second, 0.1), rel=1e-4, abs=1e-5)
    torch.testing.assert_close(output.features.double(), pooled[:5], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_mocov3_equals_the_slow_version(pool: str) -> None:
    """Algorithm 1, view by view; the teacher has other weights than the student."""
    method, batch = _method("mocov3", pool=pool).train(), _batch(5)
    queries, keys = [], []
    for images in batch.global_views:
        projected = _slow_mlp(method.projector, _pooled(method.encoder, images, pool))
        queries.append(_slow_mlp(method.predictor, projected))
        keys.append(_slow_mlp(method.teacher.head, _pooled(method.teacher.encoder, images, pool)))
    assert float((queries[0] - keys[0]).abs().max()) > 0.1
    crossed = (slow_moco(queries[0], keys[1], 0.2), slow_moco(queries[1], keys[0], 0.2))
    output = method(batch, CLOCK)
    assert output.loss.item() == pytest.approx(crossed[0][0] + crossed[1][0], rel=1e-4)
    for place, name in ((1, "positive_similarity"), (2, "contrast_top1")):
        mean = (crossed[0][place] + crossed[1][place]) / 2
        assert output.logs[name].item() == pytest.approx(mean, rel=1e-4, abs=1e-5)
    assert output.logs["momentum"].item() == pytest.approx(method.momentum(CLOCK))


@BOTH
def test_relatives_reach_the_loss(name: str) -> None:
    """Samples 0 to 2 are one eye at one visit, 3 its fellow; by default none is contrasted with another."""
    batch = _batch(6)
    group = torch.tensor([7, 7, 7, 7, 8, 9])
    origin = torch.full((6, len(ORIGIN)), UNKNOWN)
    origin[:, 0], origin[:4, 1], origin[:4, 2] = group, torch.tensor([0, 0, 0, 1]), 0
    origin[:, 5] = 0
    batch = dataclasses.replace(batch, group=group, origin=origin)
    found = {}
    for related in (
        {},
        {"same_visit": 0.5},
        {"fellow_eye": 0.5},
        dict.fromkeys(KINDS[1:], "negative"),
    ):
        output = _method(name, related=related).train()(batch, CLOCK)
        found[str(related)] = output.loss.item()
        expected = 12 / 30
        assert output.logs["false_negative_rate"].item() == pytest.approx(expected)
    assert len({round(loss, 4) for loss in found.values()}) == 4
    alone = _method(name).train()(_batch(6), CLOCK).loss.item()
    assert found[str(dict.fromkeys(KINDS[1:], "negative"))] == pytest.approx(alone, rel=1e-6)


@BOTH
def test_the_two_views_of_a_sample_drop_other_paths(name: str) -> None:
    method, batch = _method(name, drop_path=0.5).train(), _batch(8)
    images = batch.global_views[0]
    seen = [method.encoder(images, CLOCK, batch.position, view=view) for view in (0, 0, 1)]
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])
    calls: list[int] = []
    method.encoder.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append(kwargs["view"]), with_kwargs=True
    )
    method(batch, CLOCK)
    assert calls == [0, 1]


@BOTH
def test_recomputed_blocks_change_no_bit(name: str) -> None:
    """With drop path and two views: the recomputation of the first view must not use the second's factors."""
    results = []
    for checkpointing in (False, True):
        method = _method(name, drop_path=0.5, checkpointing=checkpointing).train()
        loss = method(_batch(4), CLOCK).loss
        loss.backward()
        gradients = {key: one.grad for key, one in method.named_parameters() if one.grad is not None}
        results.append((loss.detach(), gradients))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][key]) for key, value in results[0][1].items())


@BOTH
def test_every_trained_weight_learns_but_what_batch_norm_takes_out(name: str) -> None:
    """The final norm's bias is the same for all rows, so the head's first batch norm removes it."""
    method = _method(name).train()
    method(_batch(6), CLOCK).loss.backward()
    trained = {key: one.grad for key, one in method.named_parameters() if one.requires_grad}
    assert all(value is not None for value in trained.values())
    strength = {key: float(value.abs().max()) for key, value in trained.items()}
    assert strength.pop("encoder.vit.norm.bias") < 1e-5 * strength["encoder.vit.norm.weight"]
    keys = [key for key in strength if not strength[key] > 1e-5]
    assert keys == []


@BOTH
def test_evaluation_uses_running_statistics_and_leaves_them(name: str) -> None:
    """Held-out photographs must not change the run, and their neighbours in a batch not the projection."""
    method = _method(name).train()
    before = {key: value.clone() for key, value in method.named_buffers()}
    method(_batch(6), CLOCK)
    trained = {key: value.clone() for key, value in method.named_buffers()}
    moved = {key for key, value in trained.items() if not torch.equal(value, before[key])}
    assert moved == set(before), "every head's statistics, the teacher's too"
    method.eval()
    with torch.no_grad():
        method(_batch(3, start=40), CLOCK)
    assert all(torch.equal(value, trained[key]) for key, value in method.named_buffers())


def test_the_teacher_never_drops_a_path_and_gets_no_gradient() -> None:
    method, batch = _method("mocov3", drop_path=0.9).train(), _batch(6)
    images = batch.global_views[0]
    keys = method.teacher(images, CLOCK, batch.position)
    expected = _slow_mlp(method.teacher.head, _pooled(method.teacher.encoder, images, "token"))
    torch.testing.assert_close(keys.double(), expected, rtol=1e-3, atol=1e-4)
    assert not keys.requires_grad
    assert method.encoder.training
    assert method.teacher.head.training
    assert not method.teacher.encoder.training
    method(batch, CLOCK).loss.backward()
    assert all(one.grad is None for one in method.teacher.parameters())


def test_a_fresh_teacher_is_the_student() -> None:
    settings = methods.load("mocov3").Config.model_validate(SMALL["mocov3"])
    make = partial(encoder.build, config.Model(image_size=32, patch_size=8, depth=1), checkpointing=False)
    method = methods.load("mocov3").Method(settings, make)
    for teacher, student in (
        (method.teacher.encoder, method.encoder),
        (method.teacher.head, method.projector),
    ):
        ours, theirs = teacher.state_dict(), student.state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert {id(one) for one in teacher.parameters()}.isdisjoint({id(one) for one in student.parameters()})


def test_momentum_is_a_cosine_to_one() -> None:
    method = _method("mocov3")
    found = [method.momentum(Clock(step, 8, 0)) for step in (0, 2, 4, 8)]
    expected = [0.99, 1 - 0.01 * (1 + math.sqrt(0.5)) / 2, 0.995, 1.0]
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_patch_embedding_stays_as_it_was_drawn() -> None:
    name = "vit.patch_embed.proj.weight"
    frozen, trained = (_method("mocov3", freeze_patch_embedding=value).train() for value in (True, False))
    for method in (frozen, trained):
        method(_batch(4), CLOCK).loss.backward()
    assert frozen.encoder.get_parameter(name).grad is None
    assert float(trained.encoder.get_parameter(name).grad.abs().max()) > 0


@BOTH
def test_views_are_those_of_the_config(name: str) -> None:
    file = methods.load(name)
    settings = file.Config(crop_scale=(0.3, 0.9), colour=0.5, recipe="plain")
    spec = file.views(settings, 96)
    assert (spec.recipe, spec.global_views, spec.global_size) == ("plain", 2, 96)
    assert (spec.crop_scale, spec.colour, spec.local_views) == ((0.3, 0.9), 0.5, 0)
    assert file.Config().recipe == {"simclr": "contrast", "mocov3": "mocov3"}[name]
    for wrong in ((0.9, 0.3), (0.0, 0.5), (0.5, 1.5)):
        with pytest.raises(ValueError, match="crop_scale"):
            file.Config(crop_scale=wrong)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("simclr", 768 * 2048 + 2048 * 128 + 2 * (2048 + 128)),
        ("mocov3", 768 * 4096 + 4096**2 + 4096 * 256 + 4 * 4096 + 2 * 256 * 4096 + 2 * 4096),
    ],
)
def test_shipped_recipes_have_the_papers_heads_and_schedule(name: str, heads: int) -> None:
    """Parameters counted without memory; MoCo v3's schedule: 40 of 300 epochs of warm-up, decay 0.1."""
    path = shipped.folder("configs") / "pretrain" / f"{name}_vit_base.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert run.schedule.warmup_steps == pytest.approx(run.train.steps * 40 / 300, rel=1e-3)
    assert (run.optim.learning_rate, run.optim.weight_decay, run.data.batch_size) == (1.5e-4, 0.1, 4096)
    assert run.optim.betas == (0.9, 0.999)
    for settings in (run.method, methods.load(name).Config()):
        assert PAPERS[name].items() <= settings.model_dump().items()
    assert run.method.recipe == {"simclr": "contrast", "mocov3": "mocov3"}[name], "what retinas bear"
    assert run.method.model_dump() == methods.load(name).Config().model_dump()
    with torch.device("meta"):
        make = partial(encoder.build, run.model, checkpointing=False)
        method = methods.load(name).Method(run.method, make)
    assert sum(one.numel() for one in method.encoder.vit.parameters()) == pytest.approx(85.8e6, rel=2e-3)
    parts = [one for key, one in method.named_parameters() if not key.startswith(("encoder.", "teacher."))]
    assert sum(one.numel() for one in parts) == heads
