"""An encoder's tensors of one size -> those that a model of another size needs.

In: tensors under timm's names, and the model. Out: tensors of the model's shapes: patch embedding by the
pseudo-inverse of the resize (FlexiViT, Beyer et al. 2023, section 3.4), position embedding by antialiased
bicubic interpolation of its grid, both timm's; a place that belongs to the class token goes where it has one.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import resample_abs_pos_embed, resample_patch_embed
from torch import Tensor

from ssl_retina.errors import CheckpointError

PATCH, PLACES, CLASS, REGISTERS = "patch_embed.proj.weight", "pos_embed", "cls_token", "reg_token"

Scaling = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each colour, by which images are normalised."""
IMAGENET: Scaling = (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


@dataclass
class Fitted:
    """Tensors on their way into a model. resized: `(name, from, to)` of grids. steps: sentences."""

    tensors: dict[str, Tensor]
    resized: list[tuple[str, str, str]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def fit(given: dict[str, Tensor], vit: Any, where: str) -> Fitted:
    """Everything float32, embeddings of the model's size; what still has another shape is left to the caller.

    Raises CheckpointError for positions that are no square grid.
    """
    kinds = sorted({str(value.dtype).removeprefix("torch.") for value in given.values()} - {"float32"})
    fitted = Fitted({name: value.detach().float().contiguous() for name, value in given.items()})
    if kinds:
        fitted.steps.append(f"stored as {', '.join(kinds)}, taken as float32")
    if PATCH in fitted.tensors:
        _patches(fitted, tuple(vit.patch_embed.patch_size))
    if PLACES in fitted.tensors and fitted.tensors[PLACES].ndim == 3:
        _places(fitted, vit, where)
    return fitted


@torch.no_grad()
def fold(vit: Any, scaling: Scaling) -> list[str]:
    """Make a ViT that was trained on (x - mean) / std give the same of images scaled by ImageNet's.

    Exact, since the patch embedding is linear and pads nothing. What was done, in a sentence.
    """
    mean, std, own_mean, own_std = (torch.tensor(one, dtype=torch.float64) for one in (*scaling, *IMAGENET))
    if torch.allclose(mean, own_mean, atol=1e-4) and torch.allclose(std, own_std, atol=1e-4):
        return []
    told = ", ".join(f"{name} {tuple(values)}" for name, values in zip(("mean", "std"), scaling, strict=True))
    said = f"its images were normalised by {told}, those here are by ImageNet's"
    proj = vit.patch_embed.proj
    if proj.bias is None:
        return [f"{said}: its patch embedding has no bias that could make up for it, so features differ"]
    weight = proj.weight.double()
    shift = torch.einsum("oihw,i->o", weight, (own_mean - mean) / std)
    proj.weight.copy_(weight * (own_std / std).view(1, 3, 1, 1))
    proj.bias.copy_(proj.bias.double() + shift)
    return [f"{said}: the difference was folded into the patch embedding"]


def _patches(fitted: Fitted, wanted: tuple[int, ...]) -> None:
    weight = fitted.tensors[PATCH]
    if weight.ndim != 4 or tuple(weight.shape[2:]) == wanted:
        return
    fitted.resized.append((PATCH, _by(*weight.shape[2:]), _by(*wanted)))
    fitted.tensors[PATCH] = resample_patch_embed(weight, list(wanted)).float()


def _places(fitted: Fitted, vit: Any, where: str) -> None:
    places = fitted.tensors[PLACES]
    grid: tuple[int, int] = vit.patch_embed.grid_size
    wanted = 0 if vit.no_embed_class else vit.num_prefix_tokens
    before = _rows_before(fitted, places.shape[1], wanted, where)
    rows, patches = places[:, :before], places[:, before:]
    side = math.isqrt(patches.shape[1])
    if (side, side) != grid:
        fitted.resized.append((PLACES, _by(side, side), _by(*grid)))
        patches = resample_abs_pos_embed(
            patches, new_size=list(grid), old_size=[side, side], num_prefix_tokens=0
        )
    fitted.tensors[PLACES] = torch.cat((_prefix(fitted, rows, wanted), patches), dim=1).contiguous()


def _rows_before(fitted: Fitted, count: int, wanted: int, where: str) -> int:
    """How many rows of a position embedding stand before the patches: none, the class token's, all.

    As many as the model has are asked for first: a few counts are square in two ways.
    """
    registers = fitted.tensors[REGISTERS].shape[1] if REGISTERS in fitted.tensors else 0
    possible = (0, 1, 1 + registers)
    for before in (wanted, *possible) if wanted in possible else possible:
        if count > before and math.isqrt(count - before) ** 2 == count - before:
            return before
    raise CheckpointError(
        f"{where}: its position embedding of {count} places is no square grid, with or without a class "
        "token; only square images are trained on here"
    )


def _prefix(fitted: Fitted, rows: Tensor, wanted: int) -> Tensor:
    """(1, wanted, width) to stand before the patches; where none stand there, tokens take them up."""
    width, given = rows.shape[2], rows.shape[1]
    if wanted == 0 and given and CLASS in fitted.tensors:
        fitted.tensors[CLASS] = fitted.tensors[CLASS] + rows[:, :1]
        if given > 1:
            fitted.tensors[REGISTERS] = fitted.tensors[REGISTERS] + rows[:, 1:]
        fitted.steps.append("the place of the class token was added to the token")
    return torch.cat((rows[:, :wanted], rows.new_zeros((1, max(wanted - given, 0), width))), dim=1)


def _by(height: int, width: int) -> str:
    return f"{height}x{width}"
