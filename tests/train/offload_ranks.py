"""One rank of a group that steps engines with states in the machine's memory: all cases in one start.

`python offload_ranks.py FOLDER`: as `stages.stepped` ends them, to FOLDER/METHOD-STAGE-OFFLOAD-PRECISION.pt.
"""

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from stages import BROKEN, STEPS, Case, biting, run, same, stepped

from ssl_retina import dist, launch, methods
from ssl_retina.train import optim, setup
from ssl_retina.train.engine import State, process_group

WAYS = ((1, "none"), (1, "optimizer"), (2, "optimizer"), (3, "optimizer"), (3, "parameters"))
FEW = ((1, "none"), (1, "optimizer"), (3, "parameters"))
THOROUGH = ("mocov3", "simclr")
"""One with a teacher and one without."""

CLIPPED = {"train__accumulate": 2, "optim__clip_norm": 0.01}
CLIPPED_WAYS = ((1, "none"), (2, "optimizer"), (3, "parameters"))


def continued(folder: Path, half: str, stage: int, offload: str) -> None:
    """The rest of the steps of a saved state with another offload."""
    kept = torch.load(folder / f"half-{half}.pt")
    state = State(kept["weights"], kept["moments"], kept["steps"])
    one = Case(run(half.split("-")[0], stage, train__offload=offload), state=state)
    loaded = one.engine.state()
    one.found["loaded"] = not dist.is_first() or same(loaded, state)
    for number in range(BROKEN + 1, STEPS):
        one.step(number)
    one.end(folder, f"{half}-at-{stage}-{offload}")


def fused(method: Any, encoder: Any, section: Any) -> torch.optim.AdamW:
    """AdamW as it is where there is a GPU, whose offloaded step then runs on the processor."""
    groups = optim.groups(method, encoder, section)
    return torch.optim.AdamW(groups, betas=section.betas, eps=section.epsilon, fused=True)


def everything(folder: Path) -> None:
    for name in methods.available():
        for stage, offload in WAYS if name in THOROUGH else FEW:
            precisions = ("fp32", "bf16") if name in THOROUGH and stage != 2 else ("fp32",)
            for precision in precisions:
                case = f"{name}-{stage}-{offload}-{precision}"
                stepped(folder, case, run(name, stage, precision, train__offload=offload))
    for stage, offload in CLIPPED_WAYS:
        settings = run("mae", stage, train__offload=offload, **CLIPPED)
        stepped(folder, f"mae-{stage}-{offload}-clipped", settings)
    for name in THOROUGH:
        continued(folder, f"{name}-1-optimizer-fp32", 3, "parameters")
        continued(folder, f"{name}-3-parameters-fp32", 1, "none")
        continued(folder, f"{name}-3-parameters-fp32", 3, "parameters")
    with mock.patch.object(optim, "adamw", fused):
        for stage, offload in FEW:
            stepped(folder, f"mocov3-{stage}-{offload}-fused", run("mocov3", stage, train__offload=offload))


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group(), biting(), setup.deterministic():
        everything(Path(sys.argv[1]))
