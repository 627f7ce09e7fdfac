"""Parameters of a method -> the groups of AdamW: what is not decayed, and layer-wise learning rates.

In: the method's module and its encoder. Out: groups in a fixed order, each with the factors that the
schedule's learning rate (`scale`) and weight decay (`decay`, 1 or 0) are multiplied with.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw as adamw_of

from ssl_retina import dist
from ssl_retina.config import Optim
from ssl_retina.models.heads import Prototypes

PART = 2**16
"""Elements that a processor's caches hold with their gradient, moments and what AdamW computes on the way."""

_NOT_DECAYED = re.compile(r"(^|[._])(pos_embed|position_embedding|[a-z_]*tokens?)$")
_BLOCK = re.compile(r"(^|\.)blocks\.(\d+)\.")
_FIRST_LAYER = re.compile(r"(^|\.)(patch_embed\.|pos_embed$|position_embedding$|[a-z_]*tokens?$)")


@dataclass(frozen=True)
class Named:
    """A trainable parameter with what decides its group."""

    name: str
    parameter: nn.Parameter
    scale: float
    decayed: bool
    begins: float = 0.0


def is_decayed(name: str, parameter: torch.Tensor) -> bool:
    """Weight decay is for matrices: not for biases, norms, position embeddings and tokens."""
    return parameter.ndim > 1 and _NOT_DECAYED.search(name) is None


def layer(name: str, depth: int) -> int:
    """The layer of an encoder's parameter: 0 the embedding, 1..depth the blocks, depth + 1 what follows."""
    block = _BLOCK.search(name)
    if block:
        return int(block.group(2)) + 1
    return 0 if _FIRST_LAYER.search(name) else depth + 1


def named(method: nn.Module, encoder: nn.Module, *, layer_decay: float) -> Iterator[Named]:
    """Every trainable parameter once, in the module's order.

    Layer-wise decay is for the encoder alone (BEiT, Bao et al. 2022; MAE's fine-tuning): the factor of
    layer l is `layer_decay ** (depth + 1 - l)`; heads and decoders keep 1. A method's own `mask_token`
    enters the encoder with the patches and has their factor, as in DINOv2; a decoder's keeps 1.
    """
    late = {
        id(parameter): module.begins
        for module in method.modules()
        if isinstance(module, Prototypes)
        for parameter in module.parameters()
    }
    inside = {id(parameter): name for name, parameter in encoder.named_parameters()}
    blocks = [int(match.group(2)) for name in inside.values() if (match := _BLOCK.search(name))]
    depth = max(blocks, default=-1) + 1
    for name, parameter in method.named_parameters():
        if not parameter.requires_grad:
            continue
        own = name if name == "mask_token" else inside.get(id(parameter))
        scale = 1.0 if own is None else layer_decay ** (depth + 1 - layer(own, depth))
        yield Named(name, parameter, scale, is_decayed(name, parameter), late.get(id(parameter), 0.0))


def groups(method: nn.Module, encoder: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Parameter groups for AdamW, sorted by (scale, begins, decay): equal on every rank and at every start.

    begins: share of the run before which the group's learning rate is 0.
    """
    found: dict[tuple[float, float, bool], list[nn.Parameter]] = {}
    for one in named(method, encoder, layer_decay=optim.layer_decay):
        found.setdefault((one.scale, one.begins, one.decayed), []).append(one.parameter)
    return [
        {
            "params": found[scale, begins, decayed],
            "scale": scale,
            "begins": begins,
            "lr": optim.learning_rate * scale,
            "weight_decay": optim.weight_decay if decayed else 0.0,
            "decay": float(decayed),
        }
        for scale, begins, decayed in sorted(found)
    ]


def adamw(method: nn.Module, encoder: nn.Module, optim: Optim) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019) over `groups`; on a GPU one pass over memory in place of ten."""
    return torch.optim.AdamW(
        groups(method, encoder, optim),
        betas=optim.betas,
        eps=optim.epsilon,
        fused=dist.device().type == "cuda",
    )


@torch.no_grad()
def step_in_parts(optimizer: torch.optim.AdamW, number: int, flat: Tensor) -> None:
    """On a processor: `optimizer.step()` for the one parameter of a group, bit for bit, but faster.

    On all of a flat tensor at once AdamW goes ten times through the memory, and asks for it anew each time.
    """
    group, state = optimizer.param_groups[number], optimizer.state[flat]
    assert flat.grad is not None
    whole = (flat.detach(), flat.grad, state["exp_avg"], state["exp_avg_sq"])
    parameters, gradients, first, second = (list(one.split(PART)) for one in whole)
    adamw_of(
        parameters,
        gradients,
        first,
        second,
        [],
        [state["step"].clone() for _ in parameters],
        foreach=False,
        fused=False,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    state["step"] += 1
