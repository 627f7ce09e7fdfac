"""The momentum teacher on the real engine (law 5): fp32, out of the optimiser, following master weights."""

from collections.abc import Iterator
from pathlib import Path

import coupled_ranks
import pytest
import tiny
import torch

from ssl_retina.contract import Clock
from ssl_retina.train.engine import process_group

ENDLESS = Clock(0, 10**9, 0)
"""At its start the momentum is the config's."""


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    with process_group():
        yield


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_teacher_closes_its_gap_in_fp32(tmp_path: Path, precision: str) -> None:
    """200 steps of momentum 0.999 close 1 - 0.999^200 of the gap; weights in bf16 would not move at all."""
    section = {**tiny.METHODS["mocov3"], "momentum": 0.999}
    run = tiny.run(tmp_path, tmp_path, method=section, train__precision=precision, data__batch_size=6)
    method, engine = coupled_ranks.started(run)
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(1)
    student = {name: value.clone() for name, value in method.encoder.named_parameters()}
    output = engine.forward(coupled_ranks.batch(0), ENDLESS)
    assert output.loss.dtype == torch.float32
    for _ in range(200):
        method.after_step(ENDLESS, engine.weights)
    for name, value in method.teacher.encoder.named_parameters():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value - student[name], torch.full_like(value, 0.999**200), msg=name)


def test_the_teacher_follows_the_stepped_student(tmp_path: Path) -> None:
    """After a step of training in bf16: m * teacher + (1 - m) * the master that AdamW left."""
    run = tiny.run(
        tmp_path, tmp_path, method=tiny.METHODS["mocov3"], train__precision="bf16", data__batch_size=6
    )
    method, engine = coupled_ranks.started(run)
    for number in range(3):
        clock = Clock(number, 10, 0)
        before = {name: value.clone() for name, value in method.teacher.named_parameters()}
        engine.backward(engine.forward(coupled_ranks.batch(number), clock).loss)
        assert engine.step(1e-3)
        method.after_step(clock, engine.weights)
        momentum = method.momentum(clock)
        students = {"encoder": method.encoder, "head": method.projector}
        for name, value in method.teacher.named_parameters():
            part, rest = name.split(".", 1)
            master = engine.weights(students[part].get_parameter(rest)).double()
            expected = momentum * before[name].double() + (1 - momentum) * master
            torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7, msg=name)
    trained = {id(parameter) for group in engine._adamw.param_groups for parameter in group["params"]}
    assert not any(id(value) in trained for value in method.teacher.parameters())
    assert not any(value.requires_grad for value in method.teacher.parameters())
