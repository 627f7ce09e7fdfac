"""DINOv3's Gram anchoring: the loss against a double loop, the closer look, and when teachers are copied."""

import math
from functools import partial
from typing import Any

import distillation_ranks
import pytest
import torch
from distillation_ranks import CLOCK, batch, made
from test_contract_of_methods import PlainWeights
from torch import Tensor
from torch.nn import functional

from ssl_retina import config, losses, methods, shipped
from ssl_retina.contract import Clock
from ssl_retina.errors import ConfigError
from ssl_retina.models import cropping, encoder
from ssl_retina.models.gram import Gram, GramTeacher


def _rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _slow(student: Tensor, teacher: Tensor) -> float:
    """Pair of patches by pair of patches; the mean over pairs and views."""

    def cosine(one: list[float], other: list[float]) -> float:
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    terms = [
        (cosine(mine[i], mine[j]) - cosine(theirs[i], theirs[j])) ** 2
        for mine, theirs in zip(student.tolist(), teacher.tolist(), strict=True)
        for i in range(len(mine))
        for j in range(len(mine))
    ]
    return sum(terms) / len(terms)


def test_the_loss_equals_a_double_loop() -> None:
    student, teacher = _rows(3, 5, 7), _rows(3, 5, 9, seed=1)
    assert losses.gram(student, teacher).item() == pytest.approx(_slow(student, teacher), rel=1e-5)
    halves = [losses.gram(student[part], teacher[part]).item() for part in (slice(1), slice(1, 3))]
    assert losses.gram(student, teacher).item() == pytest.approx((halves[0] + 2 * halves[1]) / 3, rel=1e-5)


def test_the_loss_is_fp32_and_silent_where_both_agree() -> None:
    student = _rows(2, 5, 7).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.gram(student, student.detach())
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()
    turned, _ = torch.linalg.qr(_rows(7, 7, seed=2))
    assert losses.gram(student, 3 * student @ turned).item() < 1e-12, "lengths and rotations are free"
    losses.gram(student, _rows(2, 5, 7, seed=1)).backward()
    assert student.grad.any()


def _teacher(scale: int, **keys: Any) -> tuple[Any, GramTeacher]:
    model = config.Model(name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2, drop_path=0.5)
    torch.manual_seed(0)
    student = encoder.build(model, checkpointing=False)
    return student, GramTeacher(Gram(scale=scale, **keys), student).train()


def test_the_closer_look_is_resampled_to_the_students_grid() -> None:
    """Between four patches of the fine grid: torch's cubic, a = -0.75, at their middle."""
    student, gram = _teacher(2)
    images, position = _rows(2, 3, 64, 64), torch.arange(2)
    found = gram(images, CLOCK, position, grid=4)
    fine = student.eval()(images, CLOCK, position)[:, 1:].view(2, 8, 8, -1)
    line = torch.tensor([-0.09375, 0.59375, 0.59375, -0.09375])
    inner = torch.einsum("i,j,bijw->bw", line, line, fine[:, 1:5, 3:7])  # patch (1, 2) lies on 2..3, 4..5
    assert found.shape == (2, 16, student.width)
    torch.testing.assert_close(found[:, 1 * 4 + 2], inner, rtol=1e-4, atol=1e-5)
    same = gram(images[:, :, :32, :32], CLOCK, position, grid=4)
    torch.testing.assert_close(same, student(images[:, :, :32, :32], CLOCK, position)[:, 1:])
    assert not found.requires_grad


def test_views_are_drawn_large_and_fitted_to_the_student() -> None:
    file = methods.load("dinov2")
    spec = file.views(file.Config(gram=Gram(scale=2)), 224)
    assert (spec.global_size, spec.local_size) == (448, 96)
    assert file.views(file.Config(), 224).global_size == 224
    given, method = batch(0, 3, large=64), made("gram")
    small = cropping.fitted(method.encoder, given)
    assert small.global_views.shape == (2, 3, 3, 32, 32)
    flat = torch.full_like(given.global_views, 0.7)
    evened = cropping.fitted(method.encoder, batch(0, 3, large=64))
    assert evened.local_views is not None
    flat_small = functional.interpolate(flat.flatten(0, 1), size=32, mode="bicubic", antialias=True)
    torch.testing.assert_close(flat_small, torch.full_like(flat_small, 0.7))
    assert cropping.fitted(method.encoder, small) is small


@torch.no_grad()
@pytest.mark.parametrize("scale", [1, 2])
def test_anchored_dinov2_is_dinov2_and_the_weighted_loss(scale: int) -> None:
    """Hidden patches count too; the Gram teacher sees the views as they were drawn, the others small ones."""
    keys = {"weight": 3.0, "scale": scale}
    method, plain = made("gram", gram=keys, drop_path=0.0), made("dinov2", drop_path=0.0)
    plain.load_state_dict({key: one for key, one in method.state_dict().items() if "gram" not in key})
    given = batch(40, 5, large=32 * scale)
    small = cropping.fitted(method.encoder, given)
    found, bare = method(given, CLOCK), plain(small, CLOCK)
    seen: list[Tensor] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "gram", lambda student, _: seen.append(student) or student.new_zeros(()))
        assert method(given, CLOCK).loss.item() == pytest.approx(bare.loss.item(), rel=1e-6)
    known = method.gram(given.global_views.flatten(0, 1), CLOCK, given.position, grid=4)
    expected = _slow(seen[0], known)
    assert expected > 1e-3
    assert found.logs["gram"].item() == pytest.approx(expected, rel=1e-4)
    assert found.loss.item() == pytest.approx(bare.loss.item() + 3 * expected, rel=1e-5)
    assert "gram" not in bare.logs


def test_copies_follow_the_steps() -> None:
    run = Gram(every_steps=3, refreshes=2)
    assert [run.copies(done) for done in range(11)] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2, 2]
    late = Gram(begin_step=4, every_steps=3, refreshes=1)
    assert [late.copies(done) for done in range(11)] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert [Gram(begin_step=2, refreshes=0).copies(done) for done in (1, 2, 99999)] == [0, 1, 1]


def _stepped(method: Any, steps: int, *, skipped: tuple[int, ...] = ()) -> list[bool]:
    """After which steps the Gram teacher is the teacher of that step."""
    copied = []
    for step in range(steps):
        with torch.no_grad():
            for parameter in method.encoder.parameters():
                parameter.add_(0.01)
        if step not in skipped:
            method.after_step(Clock(step, 100, 0), PlainWeights())
        pairs = zip(method.gram.encoder.parameters(), method.teacher.encoder.parameters(), strict=True)
        copied.append(all(torch.equal(one, other) for one, other in pairs))
    return copied


def test_the_gram_teacher_becomes_the_teacher_now_and_then() -> None:
    """Bit for bit; what falls on a skipped step comes after the next."""
    keys = {"every_steps": 3, "refreshes": 2}
    assert [i for i, one in enumerate(_stepped(made("gram", gram=keys), 10)) if one] == [2, 5]
    late = made("gram", gram={**keys, "begin_step": 2})
    assert [i for i, one in enumerate(_stepped(late, 10)) if one] == [1, 4, 7]
    skipping = made("gram", gram=keys)
    copied = _stepped(skipping, 10, skipped=(2, 3))
    assert [i for i, one in enumerate(copied) if one and i not in (2, 3)] == [4, 5]
    frozen = made("gram", gram={"refreshes": 0})
    before = [one.clone() for one in frozen.gram.encoder.parameters()]
    _stepped(frozen, 5)
    assert all(map(torch.equal, before, frozen.gram.encoder.parameters()))


def test_nothing_is_anchored_before_there_is_a_teacher_to_anchor_to() -> None:
    """Before begin_step no pass is made; after it the loss waits for a copy that a skipped step put off."""
    method = made("gram", gram={"begin_step": 5})
    given = batch(0, 4, large=64)
    calls: list[Any] = []
    method.gram.register_forward_hook(lambda *_: calls.append(1))
    early = method(given, Clock(4, 10, 0))
    assert not calls
    assert early.logs["gram"].item() == 0
    waiting = method(given, Clock(5, 10, 0))
    assert calls
    assert waiting.logs["gram"].item() > 0
    assert method.gram.weight().item() == 0
    method.after_step(Clock(5, 10, 0), PlainWeights())
    assert method.gram.weight().item() == 2
    assert made("gram").gram.weight().item() == 2


def test_the_gram_teacher_neither_learns_nor_is_the_product() -> None:
    method = made("gram")
    method(batch(0, 6, large=64), CLOCK).loss.backward()
    assert all(one.grad is None and not one.requires_grad for one in method.gram.parameters())
    assert method.exported() is method.teacher.encoder
    assert not method.gram.encoder.training
    saved = method.state_dict()
    other = made("gram", drop_path=0.0)
    other.load_state_dict(saved, strict=True)
    assert {"gram.made", "gram.encoder.vit.norm.weight"} <= saved.keys()


def _parsed(method: dict[str, Any], **model: Any) -> config.Run:
    content = {
        "out": "o",
        "data": {"shards": "s", "batch_size": 8},
        "method": {"name": "dinov2", **method},
        "model": model,
        "train": {"steps": 10},
    }
    return config.parse(content, methods.config_type)


def test_random_weights_are_no_anchor() -> None:
    with pytest.raises(ConfigError, match=r"would be random ones: give model\.init, or method\.gram\.begin"):
        _parsed({"gram": {}})
    with pytest.raises(
        ConfigError, match=r"method\.gram\.begin_step \(10\) must be below train\.steps \(10\)"
    ):
        _parsed({"gram": {"begin_step": 10}})
    assert _parsed({"gram": {"begin_step": 9}}).method.settled == 9
    run = _parsed({"gram": {}}, init="export")
    assert run.method.settled == 1
    assert config.parse(run.dump(), methods.config_type).dump() == run.dump()
    assert _parsed({}).dump()["method"]["gram"] is None


@pytest.mark.parametrize(("size", "count"), [("small", 21.7e6), ("base", 85.8e6), ("large", 303.3e6)])
def test_shipped_refinements_go_on_from_dinov2s_exports(size: str, count: float) -> None:
    """The same encoder and heads as dinov2_vit_*.yaml, the authors' rate, decay, weight and copies."""
    folder = shipped.folder("configs") / "pretrain"
    made_of = ["data.shards=s", "out=o"]
    run = config.load(folder / f"gram_vit_{size}.yaml", made_of, methods.config_type)
    first = config.load(folder / f"dinov2_vit_{size}.yaml", made_of, methods.config_type)
    assert run.model == first.model.model_copy(update={"init": "WEIGHTS"})
    assert run.method.gram == Gram()
    assert (run.method.prototypes, run.method.recipe) == (first.method.prototypes, first.method.recipe)
    assert run.peak_learning_rate == pytest.approx(3e-5 * 4 * (run.data.batch_size / 1024) ** 0.5)
    assert (run.schedule.final_fraction, run.optim.weight_decay, run.optim.weight_decay_end) == (
        1,
        0.04,
        None,
    )
    assert run.train.steps > 3 * run.method.gram.every_steps
    with torch.device("meta"):
        make = partial(encoder.build, run.model, checkpointing=False)
        method = methods.load("dinov2").Method(run.method, make)
    assert sum(one.numel() for one in method.gram.encoder.vit.parameters()) == pytest.approx(count, rel=1e-2)


def test_the_cases_of_two_ranks_hold_a_closer_look() -> None:
    """`test_distillation` holds law 3 over them."""
    assert distillation_ranks.large("gram") == 64
