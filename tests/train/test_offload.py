"""`train.offload` on the real engine with two ranks: the numbers of a run that offloads nothing."""

from pathlib import Path

import pytest
import stages
import tiny
import torch
from offload_ranks import CLIPPED_WAYS, FEW, THOROUGH, WAYS
from test_zero import assert_bits, assert_close, result, tensors

from ssl_retina import methods
from ssl_retina.errors import ConfigError
from ssl_retina.train.engine import process_group

SLOW = (pytest.mark.slow, pytest.mark.timeout(1800))


def marked(*values: object) -> list[object]:
    return [pytest.param(value, marks=SLOW) for value in values]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("offloaded")
    tiny.on_ranks("offload_ranks.py", folder)
    return folder


@pytest.mark.parametrize("name", marked(*methods.available()))
def test_every_method_has_the_bits_of_a_run_that_offloads_nothing(two: Path, name: str) -> None:
    """Losses, evaluations, weights, teachers, buffers, moments; a NaN on one rank changes nothing."""
    for stage, offload in WAYS if name in THOROUGH else FEW:
        precisions = ("fp32", "bf16") if name in THOROUGH and stage != 2 else ("fp32",)
        for precision in precisions:
            found = result(two, f"{name}-{stage}-{offload}-{precision}")
            assert_bits(result(two, f"{name}-1-none-{precision}"), found)
            assert found["applied"] == [number != stages.BROKEN for number in range(stages.STEPS)]
            assert found["unchanged"]


@pytest.mark.parametrize("name", marked(*THOROUGH))
def test_a_state_continues_with_another_offload_bit_for_bit(two: Path, name: str) -> None:
    whole = result(two, f"{name}-1-none-fp32")
    for case in ("1-optimizer-fp32-at-3-parameters", "3-parameters-fp32-at-1-none"):
        found = result(two, f"{name}-{case}")
        assert found["loaded"]
        assert_bits({**whole, "evaluated": []}, found, steps=slice(stages.BROKEN + 1, None))
    again = result(two, f"{name}-3-parameters-fp32-at-3-parameters")
    assert_bits({**whole, "evaluated": []}, again, steps=slice(stages.BROKEN + 1, None))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_accumulated_and_clipped_gradients_are_the_same(two: Path) -> None:
    """Clipped gradients follow the norm, whose last digits differ."""
    first, *others = (result(two, f"mae-{stage}-{offload}-clipped") for stage, offload in CLIPPED_WAYS)
    for other in others:
        for (name, ours), theirs in zip(tensors(first).items(), tensors(other).values(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7, msg=name)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_step_that_runs_beside_a_gpu_is_the_same_but_for_rounding(two: Path) -> None:
    """torch's fused AdamW on the processor, whose last digits hang on where a part begins."""
    whole = result(two, "mocov3-1-none-fp32")
    for stage, offload in FEW:
        found = result(two, f"mocov3-{stage}-{offload}-fused")
        assert_close(result(two, "mocov3-1-none-fused"), found)
        assert found["losses"] == pytest.approx(whole["losses"], rel=1e-4, nan_ok=True)


@pytest.mark.filterwarnings("ignore:.torch.distributed:FutureWarning")
@pytest.mark.parametrize(("stage", "offload"), WAYS)
def test_what_is_offloaded_is_known_to_deepspeed(stage: int, offload: str) -> None:
    """Else the comparisons would compare nothing new."""
    with process_group():
        case = stages.Case(stages.run("mocov3", stage, train__offload=offload))
        zero = case.engine._zero
        assert bool(getattr(zero, "cpu_offload", False) or getattr(zero, "offload_optimizer", False)) == (
            offload != "none"
        )
        assert bool(getattr(zero, "offload_param", False)) == (offload == "parameters")


def test_weights_wait_elsewhere_only_where_they_are_cut() -> None:
    with pytest.raises(ConfigError, match="offload: parameters needs zero_stage 3, not 2"):
        stages.run("mae", 2, train__offload="parameters")
