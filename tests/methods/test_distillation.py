"""DINO, iBOT and DINOv2 against slow loops from the papers, law 3, their teachers, masks and recipes."""

import math
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import distillation_ranks
import pytest
import torch
from distillation_ranks import CASES, CLOCK, batch, large, made
from lightly.loss import KoLeoLoss
from test_contract_of_methods import PlainWeights
from torch import Tensor
from torch.nn import functional

from ssl_retina import config, launch, losses, methods, shipped
from ssl_retina.contract import Clock, uniform
from ssl_retina.errors import ConfigError
from ssl_retina.models import cropping, encoder, masking, teacher
from ssl_retina.models.heads import DINOHead
from ssl_retina.models.targets import Centring, Sinkhorn
from ssl_retina.train import optim

HERE = Path(__file__).parent
EVERY_CASE = pytest.mark.parametrize("case", CASES)
CURVES: dict[str, list[float]] = {
    "dino": [
        2.292566,
        1.129584,
        1.251585,
        1.124277,
        1.669845,
        2.00328,
        2.512256,
        3.030886,
        3.261794,
        3.725129,
        3.628319,
        3.623194,
        3.643357,
        4.447608,
        4.502836,
        4.344784,
        4.478135,
        4.830551,
        4.571725,
        4.271059,
    ],
    "ibot": [
        9.453005,
        7.793858,
        6.837311,
        6.868502,
        5.464079,
        5.748374,
        5.9413,
        6.304823,
        6.608954,
        6.124616,
        6.385419,
        6.335717,
        6.184783,
        5.890209,
        6.29347,
        5.873567,
        6.223765,
        6.181776,
        5.937249,
        5.887924,
    ],
    "dinov2": [
        9.580848,
        8.916167,
        8.38352,
        8.327019,
        8.143801,
        7.850332,
        7.922777,
        7.761065,
        7.764428,
        7.581935,
        7.634276,
        7.60446,
        7.496843,
        7.481168,
        7.397758,
        7.258887,
        7.17042,
        7.163368,
        7.176085,
        7.154752,
    ],
}


def _rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _softmax(values: list[float]) -> list[float]:
    powers = [math.exp(value - max(values)) for value in values]
    return [power / sum(powers) for power in powers]


def _cross(target: list[float], logits: list[float], temperature: float) -> float:
    shares = _softmax([value / temperature for value in logits])
    return -sum(one * math.log(other) for one, other in zip(target, shares, strict=True))


# losses and targets


def test_view_distillation_equals_the_slow_loop() -> None:
    student, targets = _rows(5, 3, 7), _rows(2, 3, 7, seed=1).softmax(dim=-1)
    terms = [
        sum(_cross(targets[one, row].tolist(), student[other, row].tolist(), 0.3) / 3 for row in range(3))
        for one in range(2)
        for other in range(5)
        if one != other
    ]
    entropy = [-sum(p * math.log(p) for p in row.tolist()) for row in targets.flatten(0, 1)]
    found = losses.view_distillation(student, targets, temperature=0.3)
    assert len(terms) == 8
    assert float(found.loss) == pytest.approx(sum(terms) / 8, rel=1e-5)
    assert float(found.teacher_entropy) == pytest.approx(sum(entropy) / 6, rel=1e-5)
    assert float(found.divergence) == pytest.approx(sum(terms) / 8 - sum(entropy) / 6, rel=1e-4)
    used = {max(range(7), key=row.tolist().__getitem__) for row in targets.flatten(0, 1)}
    assert float(found.prototypes_used) == pytest.approx(len(used) / 7)


def test_patch_distillation_equals_the_slow_loop() -> None:
    student, targets = _rows(3, 4, 7), _rows(3, 4, 7, seed=1).softmax(dim=-1)
    counts = [1, 4, 2]
    real = torch.arange(4) < torch.tensor(counts)[:, None]
    slow = [
        sum(_cross(targets[row, at].tolist(), student[row, at].tolist(), 0.3) for at in range(count)) / count
        for row, count in enumerate(counts)
    ]
    found = losses.patch_distillation(student, targets, real, temperature=0.3)
    assert float(found) == pytest.approx(sum(slow) / 3, rel=1e-5)


def test_koleo_equals_the_slow_loop_and_lightlys() -> None:
    vectors = _rows(6, 5)
    unit = [[value / math.sqrt(sum(one * one for one in row)) for value in row] for row in vectors.tolist()]
    nearest = [min(math.dist(row, other) for other in unit if other is not row) for row in unit]
    assert float(losses.koleo(vectors)) == pytest.approx(-sum(map(math.log, nearest)) / 6, rel=1e-5)
    assert float(losses.koleo(vectors)) == pytest.approx(float(KoLeoLoss()(vectors)), rel=1e-5)


def test_koleo_of_copies_is_finite_also_in_bf16() -> None:
    """F67: the same photograph twice in a batch."""
    vectors = _rows(4, 5).bfloat16()
    vectors[1] = vectors[0]
    vectors.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = losses.koleo(vectors)
    loss.backward()
    assert loss.dtype == torch.float32
    assert vectors.grad is not None
    assert bool(vectors.grad.isfinite().all())
    assert float(vectors.grad.abs().max()) < 100


def test_sinkhorn_equals_the_slow_algorithm() -> None:
    """With the counts of the usual notation, over the rows that are real; the others become zero."""
    logits, real = _rows(5, 4).clamp(-1, 1), torch.tensor([True, True, False, True, True])
    kept = [row for row in range(5) if real[row]]
    shares = {(row, k): math.exp(float(logits[row, k]) / 0.1) for row in kept for k in range(4)}
    everything = sum(shares.values())
    shares = {key: value / everything for key, value in shares.items()}
    for _ in range(3):
        columns = [sum(shares[row, k] for row in kept) for k in range(4)]
        shares = {(row, k): value / columns[k] / 4 for (row, k), value in shares.items()}
        sums = {row: sum(shares[row, k] for k in range(4)) for row in kept}
        shares = {(row, k): value / sums[row] / len(kept) for (row, k), value in shares.items()}
    found = Sinkhorn()(logits, 0.1, real)
    for (row, k), value in shares.items():
        assert float(found[row, k]) == pytest.approx(value * len(kept), rel=1e-4)
    assert not found[2].any()


@pytest.mark.parametrize("temperature", [0.004, 0.0115, 0.07])
def test_sinkhorn_is_finite_at_any_temperature(temperature: float) -> None:
    """exp(1 / 0.0115) is infinite in fp32, exp(-1 / 0.004) zero: against the algorithm in fp64."""
    logits, real = functional.normalize(_rows(6, 5), dim=1), torch.tensor([True] * 5 + [False])
    logits[0, 0] = 1.0
    shares = (logits[:5].double() / temperature).exp()
    for _ in range(3):
        shares /= shares.sum(dim=0)
        shares /= shares.sum(dim=1, keepdim=True)
    found = Sinkhorn()(logits, temperature, real)
    torch.testing.assert_close(found[:5].double(), shares, rtol=2e-4, atol=1e-7)
    assert not found[5].any()
    assert not Sinkhorn()(logits, temperature, torch.zeros(6, dtype=torch.bool)).any()


def test_softmaxes_are_fp32_of_half_logits() -> None:
    """Law 5 under autocast: the prototypes' product is bf16, and nothing after it."""
    head = DINOHead(8, hidden=16, bottleneck=6, prototypes=11, begins=0.0)
    vectors, temperature = _rows(2, 5, 8), 0.04
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = head(vectors)
        sharp = [Sinkhorn()(logits, temperature), Centring(11)(logits, temperature)]
        loss = losses.view_distillation(logits, sharp[1], temperature=0.1).loss
    assert logits.dtype == torch.bfloat16
    whole = logits.detach().float()
    expected = [Sinkhorn()(whole, temperature), Centring(11)(whole, temperature)]
    assert all(torch.equal(*pair) for pair in zip(sharp, expected, strict=True))
    assert torch.equal(loss, losses.view_distillation(whole, expected[1], temperature=0.1).loss)
    assert head(vectors).dtype == torch.float32


def test_a_centre_is_met_by_the_next_step_alone() -> None:
    """Equation 4 by hand; two micro-batches are one batch, evaluation adds nothing."""
    logits, more = _rows(2, 3, 7), _rows(5, 7, seed=1)
    real = torch.tensor([True, False, True, True, False])
    centring = Centring(7)
    first = centring(logits, 0.04)
    assert torch.equal(first, centring.eval()(logits, 0.04))
    centring.train()(more, 0.04, real)
    assert not centring.centre.any()
    centring.step()
    seen = torch.cat((logits.flatten(0, 1), more[real]))
    torch.testing.assert_close(centring.centre, 0.1 * seen.mean(dim=0))
    centring.eval().step()
    torch.testing.assert_close(centring.centre, 0.1 * seen.mean(dim=0), msg="a step that saw nothing")
    expected = _softmax([(float(a) - float(c)) / 0.04 for a, c in zip(more[0], centring.centre, strict=True)])
    assert centring(more, 0.04)[0].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-7)
    assert set(centring.state_dict()) == {"centre"}


# masks


@pytest.mark.parametrize("grid", [4, 14, 16])
def test_block_masks_hide_an_exact_share_of_one_view(grid: int) -> None:
    draws = uniform(0, "mask", torch.arange(400), masking.BLOCK_DRAWS)
    mask = masking.block_mask(draws, grid, (0.1, 0.5))
    first, second = mask.where.chunk(2)
    counts = (first | second).sum(dim=1)
    assert not (first.any(dim=1) & second.any(dim=1)).any()
    assert torch.equal(second.any(dim=1), mask.second)
    assert abs(float(mask.second.float().mean()) - 0.5) < 0.1
    wanted = ((0.1 + 0.4 * draws[:, 1]) * grid**2).round().long().clamp(min=1)
    assert torch.equal(counts, wanted)
    assert torch.equal(mask.real.sum(dim=1), wanted)
    assert mask.at.shape == (400, round(grid**2 / 2))
    for row in range(400):
        hidden = mask.at[row, mask.real[row]].tolist()
        assert sorted(hidden) == (first | second)[row].nonzero().flatten().tolist()
        assert len(set(mask.at[row].tolist())) == mask.at.shape[1]


def test_block_masks_are_blocks_and_reach_every_patch() -> None:
    """A hidden patch's right neighbour is hidden too far more often than by chance (a mean share of 0.3)."""
    mask = masking.block_mask(uniform(1, "mask", torch.arange(2000), masking.BLOCK_DRAWS), 14, (0.1, 0.5))
    hidden = mask.where.view(2, 2000, 14, 14).any(dim=0)
    together = (hidden[:, :, 1:] & hidden[:, :, :-1]).sum() / hidden[:, :, :-1].sum()
    assert float(together) > 0.7
    often = hidden.float().mean(dim=0)
    assert float(often.min()) > 0.01, "the corners, where few blocks fit"
    assert float((often - often.flip(1)).abs().max()) < 0.1


def test_taken_tokens_are_those_of_the_masked_view() -> None:
    mask = masking.block_mask(uniform(2, "mask", torch.arange(6), masking.BLOCK_DRAWS), 4, (0.1, 0.5))
    tokens = torch.arange(12 * 16.0).view(12, 16, 1)
    taken = mask.take(tokens)
    for row in range(6):
        view = 6 + row if mask.second[row] else row
        assert taken[row, :, 0].tolist() == [view * 16 + at for at in mask.at[row].tolist()]


# methods


def _slow_head(head: DINOHead, vectors: Tensor) -> Tensor:
    directions = torch.stack([row / row.norm() for row in head.prototypes.weight.double()])
    rows = []
    for vector in vectors.double():
        for layer in head.mlp:
            vector = layer.double()(vector)
        rows.append(directions @ (vector / vector.norm()))
    return torch.stack(rows)


def _slow_tokens(method: Any, images: Tensor, where: Tensor | None) -> Tensor:
    """Plain timm, with the mask token put in the place of patches one by one."""
    vit = method.encoder.vit
    patches = vit.patch_embed(images)
    if where is not None:
        for row, at in where.nonzero().tolist():
            patches[row, at] = method.mask_token
    tokens = vit._pos_embed(patches)
    for block in vit.blocks:
        tokens = block(tokens)
    return vit.norm(tokens)


def _slow_targets(case: str, logits: Tensor) -> Tensor:
    if case == "dinov2":
        return Sinkhorn()(logits.float(), 0.07)
    return (logits.float() / 0.07).softmax(dim=-1)


def _slow_patches(case: str, mask: masking.BlockMask, pairs: Any) -> float:
    """Half the mean over samples of the mean over hidden patches; `pairs`: logits of student and teacher."""
    known = _slow_targets(case, torch.cat([theirs for _, theirs in pairs]))
    per_sample = []
    for (ours, _), targets in zip(pairs, known.split(mask.real.sum(dim=1).tolist()), strict=True):
        terms = [_cross(a.tolist(), b.tolist(), 0.1) for a, b in zip(targets, ours, strict=True)]
        per_sample.append(sum(terms) / len(terms))
    return sum(per_sample) / len(per_sample) / 2


@pytest.mark.parametrize("case", ["dino", "ibot", "dinov2"])
@torch.no_grad()
def test_equals_the_slow_version(case: str) -> None:
    """View by view and patch by patch, in float64, with plain timm's own forward pass for the teacher."""
    method, given = made(case, drop_path=0.0), batch(40, 5)
    output = method(given, CLOCK)
    method.double()
    masked = case != "dino"
    mask = masking.block_mask(CLOCK.uniform("block_mask", given.position, masking.BLOCK_DRAWS), 4, (0.1, 0.5))
    where = mask.where.chunk(2) if masked else (None, None)
    images = given.global_views.double()
    large = [_slow_tokens(method, one, hidden) for one, hidden in zip(images, where, strict=True)]
    taught = [method.teacher.encoder.vit.forward_features(one) for one in images]
    small = [method.encoder(one.double(), CLOCK, given.position) for one in given.local_views]
    ours = method.heads if case == "dinov2" else {"views": method.head, "patches": method.head}
    head = method.teacher.head
    theirs = head if case == "dinov2" else {"views": head, "patches": head}
    student = torch.stack([_slow_head(ours["views"], one[:, 0]) for one in (*large, *small)])
    targets = _slow_targets(case, torch.stack([_slow_head(theirs["views"], one[:, 0]) for one in taught]))
    expected = float(losses.view_distillation(student.float(), targets, temperature=0.1).loss)
    if masked:
        places = [(int(mask.second[row]), row, mask.at[row, mask.real[row]] + 3) for row in range(5)]
        pairs = [
            (_slow_head(ours["patches"], large[v][r, at]), _slow_head(theirs["patches"], taught[v][r, at]))
            for v, r, at in places
        ]
        expected += _slow_patches(case, mask, pairs)
    if case == "dinov2":
        expected += 0.1 * sum(float(losses.koleo(one[:, 0])) for one in large)
    assert output.loss.item() == pytest.approx(expected, rel=2e-5)


@pytest.fixture(scope="module")
def one() -> dict[str, dict[str, Tensor]]:
    return distillation_ranks.everything()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder = tmp_path_factory.mktemp("two")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(HERE), str(HERE.parents[1]))))
        launch.run_ranks([sys.executable, str(HERE / "distillation_ranks.py"), str(folder)], 2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


@EVERY_CASE
def test_law_3_two_ranks_equal_one(one: Any, two: Any, case: str) -> None:
    """Loss, logs, every gradient (drop path 0.3, learned positions of both sizes) and the centres."""
    assert all(part[case].keys() == one[case].keys() for part in two)
    for name, value in one[case].items():
        mean = (two[0][case][name] + two[1][case][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-4, atol=2e-6, msg=name)
        if name.startswith("centre/"):
            assert torch.equal(two[0][case][name], two[1][case][name]), name


def test_a_rank_without_photographs_takes_part_in_an_evaluation(one: Any, two: Any) -> None:
    for case in ("dino", "ibot", "dinov2", "gram"):
        assert two[0]["idle"][case].item() == pytest.approx(one["idle"][case].item(), rel=1e-5)


def test_law_3_sinkhorn_and_koleo(one: Any, two: Any) -> None:
    joined = {
        name: torch.cat([part["pieces"][name] for part in two]) for name in ("sinkhorn", "cold", "koleo")
    }
    torch.testing.assert_close(joined["sinkhorn"], one["pieces"]["sinkhorn"])
    torch.testing.assert_close(joined["cold"], one["pieces"]["cold"], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(joined["koleo"] / 2, one["pieces"]["koleo"], rtol=1e-5, atol=1e-6)


def test_micro_batches_of_dino_and_ibot_are_their_batch() -> None:
    """So they may be accumulated; what KoLeo and Sinkhorn compare may not."""
    for case in ("dino", "ibot"):
        method, parts = made(case), made(case)
        loss = method(batch(40, 6), CLOCK).loss
        halves = [parts(batch(start, 3), CLOCK).loss for start in (40, 43)]
        assert float(sum(halves).detach()) / 2 == pytest.approx(float(loss.detach()), rel=1e-5)
        for each in (method, parts):
            each.after_step(CLOCK, PlainWeights())
        torch.testing.assert_close(parts.centring.centre, method.centring.centre)
        assert not methods.load(case).Config.couples_batch
    assert methods.load("dinov2").Config.couples_batch


@EVERY_CASE
def test_every_trained_weight_learns_and_the_teacher_gets_no_gradient(case: str) -> None:
    method = made(case)
    method(batch(0, 6, large=large(case)), CLOCK).loss.backward()
    dead = [
        name
        for name, one in method.named_parameters()
        if one.requires_grad and not (one.grad is not None and one.grad.abs().max() > 0)
    ]
    assert dead == []
    assert all(one.grad is None and not one.requires_grad for one in method.teacher.parameters())


@EVERY_CASE
def test_prototypes_wait_while_the_rest_learns(case: str) -> None:
    """They have a group of their own that begins later, in which they get gradients all the while."""
    method = made(case, freeze_prototypes=0.5)
    groups = optim.groups(method, method.encoder, config.Optim())
    late = {id(one) for group in groups if group["begins"] == 0.5 for one in group["params"]}
    last = {
        id(one) for name, one in method.named_parameters() if ".prototypes." in name and one.requires_grad
    }
    assert late == last != set()
    assert {group["begins"] for group in groups} == {0.0, 0.5}


@EVERY_CASE
def test_the_teacher_follows_and_is_the_product(case: str) -> None:
    method = made(case)
    before = {name: value.clone() for name, value in method.teacher.named_parameters()}
    students = dict(method.encoder.named_parameters(prefix="encoder"))
    head = method.heads if CASES[case]["name"] == "dinov2" else method.head
    students |= dict(head.named_parameters(prefix="head"))
    for number, parameter in enumerate(students.values()):
        parameter.data += 0.01 * (number + 1)
    method.after_step(CLOCK, PlainWeights())
    keeps = method.config.pace(CLOCK).momentum
    assert before.keys() == students.keys()
    for name, value in method.teacher.named_parameters():
        torch.testing.assert_close(value, keeps * before[name] + (1 - keeps) * students[name].detach())
    assert method.exported() is method.teacher.encoder
    assert not method.teacher.encoder.training


@EVERY_CASE
def test_recomputed_blocks_change_no_bit(case: str) -> None:
    results = []
    for checkpointing in (False, True):
        method = made(case, checkpointing=checkpointing)
        loss = method(batch(0, 4, large=large(case)), CLOCK).loss
        loss.backward()
        results.append(
            (loss.detach(), {n: one.grad for n, one in method.named_parameters() if one.requires_grad})
        )
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(value, results[1][1][name]) for name, value in results[0][1].items())


@EVERY_CASE
def test_evaluation_changes_nothing(case: str) -> None:
    method = made(case)
    method(batch(0, 4, large=large(case)), CLOCK)
    before = {name: value.clone() for name, value in method.named_buffers()}
    method.eval()
    with torch.no_grad():
        assert method(batch(9, 3, large=large(case)), CLOCK).loss.isfinite()
    assert all(torch.equal(value, before[name]) for name, value in method.named_buffers())


def test_schedules_follow_the_share_of_the_run() -> None:
    shares = [0, 0.1, 0.2, 0.3, 1]
    found = [teacher.temperature(0.04, 0.07, 0.2, share) for share in shares]
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])
    assert teacher.temperature(0.04, 0.07, 0.0, 0) == 0.07
    assert [teacher.momentum(0.9, share) for share in (0, 1)] == pytest.approx([0.9, 1.0])


def test_local_sizes_are_whole_patches() -> None:
    assert [cropping.local_size(side) for side in (32, 64, 224, 512)] == [16, 32, 96, 224]
    with pytest.raises(
        ConfigError, match=r"method\.local_size: 20 px are not whole patches of 8 px; give 16"
    ):
        made("dino", local_size=20)
    assert methods.load("dino").views(methods.load("dino").Config(local_size=56), 224).local_size == 56


def _train(case: str, steps: int) -> list[float]:
    method = made(case, drop_path=0.1)
    optimizer = torch.optim.AdamW(
        [one for one in method.parameters() if one.requires_grad], lr=5e-4, weight_decay=0.04
    )
    curve = []
    for step in range(steps):
        clock = Clock(step, steps, seed=3)
        loss = method(batch(step * 4, 4), clock).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        method.after_step(clock, PlainWeights())
        curve.append(round(loss.item(), 6))
    return curve


@pytest.mark.parametrize("case", ["dino", "ibot", "dinov2"])
def test_recorded_curve(case: str) -> None:
    """20 steps of AdamW, fp32, one thread: a change of a formula, an initial value or a draw moves this."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        curve = _train(case, 20)
    finally:
        torch.set_num_threads(threads)
    assert curve == pytest.approx(CURVES[case], rel=1e-4)


@pytest.mark.parametrize("name", ["dino", "ibot", "dinov2"])
@pytest.mark.parametrize(("size", "count"), [("small", 21.7e6), ("base", 85.8e6), ("large", 303.3e6)])
def test_shipped_recipes_are_the_papers(name: str, size: str, count: float) -> None:
    """Parameters counted without memory; rates, decay and warm-up; the config's defaults."""
    path = shipped.folder("configs") / "pretrain" / f"{name}_vit_{size}.yaml"
    run = config.load(path, ["data.shards=s", "out=o"], methods.config_type)
    assert (run.optim.weight_decay, run.optim.weight_decay_end, run.optim.betas) == (0.04, 0.4, (0.9, 0.999))
    peaks = {"dino": (2e-3, 3e-3), "ibot": (2e-3, 3e-3), "dinov2": (4e-3, 4e-3)}[name]
    assert run.peak_learning_rate == pytest.approx(peaks[size != "small"])
    epochs = run.train.steps * run.data.batch_size / 1e6
    assert run.schedule.warmup_steps / run.train.steps * epochs == pytest.approx(10, rel=1e-2)
    defaults = methods.load(name).Config()
    same = ("momentum", "prototypes", "student_temperature", "teacher_temperature", "hidden", "recipe")
    assert all(getattr(run.method, key) == getattr(defaults, key) for key in same)
    with torch.device("meta"):
        made_here = partial(encoder.build, run.model, checkpointing=False)
        method = methods.load(name).Method(run.method, made_here)
    assert sum(one.numel() for one in method.encoder.vit.parameters()) == pytest.approx(count, rel=1e-2)
