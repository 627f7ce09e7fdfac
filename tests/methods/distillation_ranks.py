"""DINO, iBOT and DINOv2 on one rank or several, for one comparison.

`python distillation_ranks.py FOLDER`: what this rank found, into FOLDER/RANK.pt.
"""

import sys
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_retina import config, dist, losses, methods
from ssl_retina.contract import Batch, Clock, uniform
from ssl_retina.models import encoder
from ssl_retina.models.targets import Centring, Sinkhorn

SAMPLES = 6
CLOCK = Clock(step=3, total=10, seed=3)
SMALL = {"hidden": 24, "bottleneck": 12, "prototypes": 30, "local_views": 3}
CASES: dict[str, dict[str, Any]] = {
    "dino": {"name": "dino"},
    "lengths": {"name": "dino", "fixed_length": False, "pool": "avg"},
    "ibot": {"name": "ibot"},
    "dinov2": {"name": "dinov2", "patch_bottleneck": 8},
    "shared": {"name": "dinov2", "patch_head": "shared", "targets": "centring"},
    "gram": {"name": "dinov2", "patch_bottleneck": 8, "gram": {}},
}
"""Every branch of the three methods."""


def made(case: str, *, drop_path: float = 0.3, checkpointing: bool = False, **changes: Any) -> Any:
    """A small method in training whose teacher differs from its student."""
    settings = {**SMALL, **CASES[case], **changes}
    model = config.Model(
        name="vit_tiny_patch16_224",
        image_size=32,
        patch_size=8,
        depth=2,
        drop_path=drop_path,
        registers=2,
        position_embedding="learned",
    )
    torch.manual_seed(0)
    file = methods.load(settings["name"])
    make = partial(encoder.build, model, checkpointing=checkpointing)
    method = file.Method(file.Config.model_validate(settings), make)
    with torch.no_grad():
        for number, parameter in enumerate(method.parameters()):
            noise = uniform(number, "shake", torch.arange(1), parameter.numel()).view_as(parameter)
            parameter.add_(noise * 0.2 - 0.1)
    return method.train()


def batch(start: int, size: int, *, large: int = 32) -> Batch:
    """Views of a sample resemble each other, samples do not. `large`: the large views' side."""
    position = torch.arange(start, start + size)
    common = uniform(0, "sample", position, 3 * large * large).view(size, 3, large, large)

    def views(numbers: range, side: int) -> Tensor:
        drawn = [uniform(0, "noise", position, 3 * side * side, view) for view in numbers]
        noise = torch.stack(drawn).view(len(numbers), size, 3, side, side)
        return (common[:, :, :side, :side] + noise) * 2 - 2

    nowhere = torch.full((2, size, 4), float("nan"))
    return Batch(
        views(range(2), large), views(range(2, 5), 16), tuple("k" * size), position, position, nowhere
    )


def large(case: str) -> int:
    """The side of the large views that a case wants."""
    file = methods.load(CASES[case]["name"])
    size: int = file.views(file.Config.model_validate({**SMALL, **CASES[case]}), 32).global_size
    return size


def own(value: Tensor) -> Tensor:
    """This rank's rows."""
    count = len(value) // dist.world_size()
    return value[dist.rank() * count :][:count]


def whole(case: str) -> dict[str, Tensor]:
    """Loss, logs and every gradient of a global batch, and the centres that the next step meets."""
    method, count = made(case), SAMPLES // dist.world_size()
    output = method(batch(40 + dist.rank() * count, count, large=large(case)), CLOCK)
    output.loss.backward()
    found = {f"log/{name}": value for name, value in {"loss": output.loss.detach(), **output.logs}.items()}
    found |= {name: one.grad for name, one in method.named_parameters() if one.grad is not None}
    for module in method.modules():
        if isinstance(module, Centring | Sinkhorn):
            module.step()
    return found | {f"centre/{name}": value.float() for name, value in method.named_buffers()}


def pieces() -> dict[str, Tensor]:
    """Sinkhorn of random cosines with rows that do not count; KoLeo with a copy on the other rank."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.rand(8, 30, generator=generator) * 2 - 1
    real = torch.arange(8) % 3 > 0
    vectors = torch.randn(6, 5, generator=generator)
    vectors[5] = vectors[0]
    rows = own(vectors).clone().requires_grad_()
    losses.koleo(rows).backward()
    assert rows.grad is not None
    warm, cold = (Sinkhorn()(own(logits), temperature, own(real)) for temperature in (0.05, 0.004))
    return {"sinkhorn": warm, "cold": cold, "koleo": rows.grad}


def idle() -> dict[str, Tensor]:
    """The losses of an evaluation of five samples, which all lie on the first rank."""
    found = {}
    for case in ("dino", "ibot", "dinov2", "gram"):
        given = batch(9, 0 if dist.rank() else 5, large=large(case))
        with torch.no_grad():
            found[case] = made(case).eval()(given, CLOCK).loss
    return found


def everything() -> dict[str, dict[str, Tensor]]:
    return {"pieces": pieces(), "idle": idle(), **{case: whole(case) for case in CASES}}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with dist.joined(timedelta(seconds=60)):
        torch.save(everything(), Path(sys.argv[1], f"{dist.rank()}.pt"))
        dist.barrier()
        torch.distributed.destroy_process_group()
