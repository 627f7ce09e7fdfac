"""`train.pack_crops`: large and small crops in one pass through the blocks give what two passes give."""

from pathlib import Path
from typing import Any

import pytest
import stages
import tiny
import torch
from test_zero import assert_bits, assert_close, result
from torch import Tensor

from ssl_retina.bench import step as bench
from ssl_retina.config import Run
from ssl_retina.contract import Clock
from ssl_retina.errors import ConfigError
from ssl_retina.models import blocks, encoder
from ssl_retina.train import setup

EVERY = pytest.mark.parametrize("name", ["dino", "ibot", "dinov2"])


def run(name: str, **changes: Any) -> Run:
    method = dict(tiny.METHODS[name])
    model = {"model__drop_path": 0.5, "model__registers": 2}
    return tiny.run(Path("shards"), Path("out"), method=method, **{**model, **changes})


def answered(method: Any, settings: Run) -> dict[str, Tensor]:
    """Loss and gradients of five samples in training."""
    given = bench.drawn(setup.build_method(settings)[1], 5)
    output = method.train()(given, Clock(3, 10, settings.seed))
    output.loss.backward()
    found = {name: one.grad for name, one in method.named_parameters() if one.grad is not None}
    return {"loss": output.loss.detach(), **found}


def assert_same(right: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    assert found.keys() == right.keys()
    for key, value in right.items():
        torch.testing.assert_close(found[key], value, rtol=1e-3, atol=1e-5, msg=key)


@EVERY
@pytest.mark.parametrize("recompute", [False, True])
def test_packed_crops_have_the_loss_and_gradient_of_two_passes(name: str, *, recompute: bool) -> None:
    """With drop path, registers, hidden patches; the student's blocks run once, or twice if recomputed."""
    right = answered(setup.build_method(run(name))[0], run(name))
    settings = run(name, train__pack_crops=True, train__activation_checkpointing=recompute)
    method: Any = setup.build_method(settings)[0]
    calls: list[int] = []
    method.encoder.vit.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    assert_same(right, answered(method, settings))
    assert len(calls) == (2 if recompute else 1)
    assert method.encoder.vit.blocks[0].attn.groups == ()


def test_the_comparison_sees_attention_across_crops(monkeypatch: pytest.MonkeyPatch) -> None:
    right = answered(setup.build_method(run("dino"))[0], run("dino"))
    once = blocks._once

    def mixed(block: Any, tokens: Tensor, scales: Tensor | None, groups: Any) -> Tensor:
        return once(block, tokens, scales, (blocks.Group(1, tokens.shape[1]),) if groups else ())

    monkeypatch.setattr(blocks, "_once", mixed)
    settings = run("dino", train__pack_crops=True)
    found = answered(setup.build_method(settings)[0], settings)
    assert abs(float(found["loss"] - right["loss"])) > 1e-3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_packed_blocks_are_compiled_whole() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    settings = run("dinov2", train__pack_crops=True, model__depth=1)
    plain, compiled = setup.build_method(settings)[0], setup.build_method(settings)[0]
    blocks.compile_all(compiled, steady=True, backend="aot_eager")
    assert_same(answered(plain, settings), answered(compiled, settings))
    assert not torch._dynamo.utils.counters["graph_break"], "a block falls apart"


def test_a_block_that_may_pack_is_timms_own_otherwise() -> None:
    """The same names, and the same bits where nothing is packed: the export is a copy."""
    made = [encoder.build(run("dino").model, checkpointing=False, packing=one) for one in (False, True)]
    made[1].load_state_dict(made[0].state_dict())
    images = torch.randn((2, 3, 32, 32), generator=torch.Generator().manual_seed(0))
    left, right = (one.eval().features(images) for one in made)
    assert torch.equal(left, right)


def test_one_size_cannot_be_packed() -> None:
    with pytest.raises(ConfigError, match="pack_crops needs large and small crops, and mae has one size"):
        run("mae", train__pack_crops=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_ranks_pack_at_stage_3_as_at_stage_1(tmp_path: Path) -> None:
    tiny.on_ranks("packing_ranks.py", tmp_path)
    packed = result(tmp_path, "dinov2-1-packed")
    assert_bits(packed, result(tmp_path, "dinov2-3-packed"))
    assert_bits(packed, result(tmp_path, "dinov2-3-recomputed"))
    assert_close(result(tmp_path, "dinov2-1-fp32"), packed)
    assert packed["applied"] == [number != stages.BROKEN for number in range(stages.STEPS)]
