"""Compiled blocks: the same step, the same names, and every block of encoder, teacher and decoder is one.

torch's `aot_eager` stands in for its code generator, which needs a C++ compiler: what is traced, and how
often, is the same.
"""

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from ssl_retina.bench import step as bench
from ssl_retina.contract import Clock
from ssl_retina.errors import ConfigError
from ssl_retina.models import blocks
from ssl_retina.train import setup

# torch's tracer looks at `.grad` of what is no leaf, and the tests turn its warning into an error
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")


def gradients(method: nn.Module, run: Any, steps: tuple[int, ...] = (1,)) -> dict[str, Tensor]:
    """Of steps with drop path, after a pass without: one that is held out."""
    batch = bench.drawn(setup.build_method(run)[1], 3)
    with torch.no_grad():
        method.eval()(batch, Clock(0, 10, run.seed))
    method.train()
    for step in steps:
        output = method(batch, Clock(step, 10, run.seed))
        output.loss.backward()
    found = {name: one.grad for name, one in method.named_parameters() if one.grad is not None}
    return {"loss": output.loss.detach(), **found}


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("name", ["mae", "mocov3"])
def test_a_compiled_step_is_the_step(name: str, recompute: bool, tmp_path: Path) -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = tiny.run(
        tmp_path, tmp_path, method=dict(tiny.METHODS[name]), train__activation_checkpointing=recompute
    )
    plain, compiled = setup.build_method(run)[0], setup.build_method(run)[0]
    count = sum(isinstance(module, Block | blocks.LastBlock) for module in plain.modules())
    assert count == (3 if name == "mae" else 4)
    assert blocks.compile_all(compiled, steady=True, backend="aot_eager") == count
    assert compiled.state_dict().keys() == plain.state_dict().keys()
    right, found = gradients(plain, run), gradients(compiled, run)
    assert found.keys() == right.keys()
    for key, value in right.items():
        torch.testing.assert_close(found[key], value, msg=key)
    counted = torch._dynamo.utils.counters
    assert counted["stats"]["unique_graphs"] >= 2
    assert not counted["graph_break"], "a block falls apart"


@pytest.mark.parametrize("name", ["ijepa", "dino"])
def test_other_numbers_of_tokens_are_the_step_too(name: str, tmp_path: Path) -> None:
    """I-JEPA's sizes change from step to step, DINO has crops of two sizes in each."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    run = tiny.run(tmp_path, tmp_path, method=dict(tiny.METHODS[name]), model__depth=1)
    plain, compiled = setup.build_method(run)[0], setup.build_method(run)[0]
    blocks.compile_all(compiled, steady=name != "ijepa", backend="eager")
    steps = (1, 2) if name == "ijepa" else (1,)
    right, found = gradients(plain, run, steps), gradients(compiled, run, steps)
    assert found.keys() == right.keys()
    for key, value in right.items():
        torch.testing.assert_close(found[key], value, msg=key)
    assert not torch._dynamo.utils.counters["graph_break"], "a block falls apart"


def test_too_many_shapes_fail_and_never_run_uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)  # put back afterwards
    monkeypatch.setattr(blocks, "VARIANTS", 2)
    block = Block(8, 2)
    blocks.compile_all(block, steady=True, backend="eager")
    for tokens in (3, 4):
        block(torch.ones((1, tokens, 8)))
    with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
        block(torch.ones((1, 5, 8)))


def test_without_the_switch_nothing_is_compiled(tmp_path: Path) -> None:
    method = setup.build_method(tiny.run(tmp_path, tmp_path))[0]
    assert all(one._compiled_call_impl is None for one in method.modules())
    method = setup.build_method(tiny.run(tmp_path, tmp_path, train__compile=True))[0]
    kinds = Block | blocks.LastBlock
    assert all(one._compiled_call_impl is not None for one in method.modules() if isinstance(one, kinds))


def test_stage_3_refuses_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compile needs zero_stage 1 or 2"):
        tiny.run(tmp_path, tmp_path, train__compile=True, train__zero_stage=3)
