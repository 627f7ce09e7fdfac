"""Other people's weights by their layout: what a file holds -> an encoder's tensors under timm's names.

In: what was read of a file, wrappers and all. Out: the encoder's tensors, what lies beside them, and what was
done to get there. Layouts: timm, MAE (RETFound too), MoCo v3, DINO, DINOv2 (RETFound and RETFound-Green too)
and Hugging Face's ViT and DINOv2. Nothing is guessed: what is no plain ViT is refused with the reason.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ssl_retina.errors import CheckpointError

Tensors = dict[str, Tensor]

WRAPPERS = ("teacher", "model", "state_dict", "model_state_dict", "target_encoder", "student")
"""Under which keys programs put weights, the first of them that is there; DINO's teacher is its product."""
ANCHOR = "patch_embed.proj.weight"
LARGEST_PATCH = 128
ANCHOR_HF = "embeddings.patch_embeddings.projection.weight"
_ENCODER = re.compile(r"(cls_token|reg_token|dist_token|pos_embed$|patch_embed\.|norm_pre\.|blocks\.|norm\.)")
_ROTARY = re.compile(r"(^|\.)(rope|storage_tokens)|\.bias_mask$")
_HF_NAMES = (
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.(cls_token|mask_token|register_tokens)$", r"\1"),
    (r"^encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.attention\.(?:attention\.)?(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"^(blocks\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.layer_scale(\d)\.lambda1$", r".ls\1.gamma"),
    (r"\.mlp\.weights_in\.", ".mlp.fc1."),
    (r"\.mlp\.weights_out\.", ".mlp.fc2."),
    (r"^layernorm\.", "norm."),
)
_DINOV2_NAMES = (
    (r"\.mlp\.w12\.", ".mlp.fc1."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
    (r"^register_tokens$", "reg_token"),
)
_CHUNK = re.compile(r"^blocks\.\d+\.(\d+)\.")
_SPLIT = re.compile(r"^(blocks\.\d+\.attn\.)(q|k|v)(?:uery|ey|alue|_proj)?\.(weight|bias)$")


@dataclass(frozen=True)
class Found:
    """An encoder in a file.

    others: names that are no part of it. parameters: numbers of all tensors there. steps: what was done.
    """

    layout: str
    tensors: Tensors
    others: tuple[str, ...]
    parameters: int
    steps: tuple[str, ...]


def recognise(content: Any, where: str) -> Found:
    """Find the encoder in what was read of `where`. Raises CheckpointError where there is none."""
    given, wrapper = _unwrapped(content, where)
    prefix, steps = _prefix(given, where)
    own = {name.removeprefix(prefix): value for name, value in given.items() if name.startswith(prefix)}
    others = [name for name in given if not name.startswith(prefix)]
    _refuse_rotary(own, where)
    layout = _layout(own, wrapper, prefix)
    if wrapper:
        steps.insert(0, f"taken from {wrapper!r} of the file")
    renamed = _renamed(own, steps)
    tensors = {name: value for name, value in renamed.items() if is_encoders(name)}
    _refuse_empty(tensors, where)
    others += [f"{prefix}{name}" for name in renamed if name not in tensors]
    if "reg_token" in tensors and layout.startswith(("DINOv2", "Hugging")):
        tensors["reg_token"] = tensors["reg_token"].reshape(1, -1, tensors["reg_token"].shape[-1])
    fused = _fused(tensors, steps, where)
    _refuse_shapes(fused, where)
    return Found(layout, fused, tuple(others), sum(value.numel() for value in given.values()), tuple(steps))


def is_encoders(name: str) -> bool:
    """Whether timm's name of a tensor is that of an encoder's own, and not of a head or a decoder."""
    return _ENCODER.match(name) is not None


def _unwrapped(content: Any, where: str) -> tuple[Tensors, str]:
    """The mapping of names to tensors, and by which keys it was reached."""
    path: list[str] = []
    while isinstance(content, Mapping) and not any(isinstance(value, Tensor) for value in content.values()):
        inner = [key for key in WRAPPERS if isinstance(content.get(key), Mapping)]
        if not inner:
            break
        path.append(inner[0])
        content = content[inner[0]]
    if not isinstance(content, Mapping) or not any(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(
            f"{where} holds no weights that are known: tensors by name, bare or under one of "
            f"{', '.join(WRAPPERS)}"
        )
    given = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    for name, value in given.items():
        if not _is_stored(value):
            raise CheckpointError(
                f"{where}: {name} is no plain tensor of real numbers that all lie in the file: refused"
            )
    return given, ".".join(path)


def _is_stored(tensor: Tensor) -> bool:
    """Whether every value lies in the file: a copy of a tensor that repeats a few could fill all memory."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_nested
    if not plain or tensor.is_quantized or tensor.is_complex():
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _refuse_empty(tensors: Tensors, where: str) -> None:
    for name, value in tensors.items():
        if value.ndim == 0 or value.numel() == 0:
            raise CheckpointError(f"{where}: {name} is {tuple(value.shape)}, no vector and no matrix")


def _refuse_shapes(tensors: Tensors, where: str) -> None:
    """What is computed with before the shapes of the model are compared: embeddings and tokens."""
    weight = tensors[ANCHOR]
    wrong = [ANCHOR] if weight.ndim != 4 or max(weight.shape[2:]) > LARGEST_PATCH else []
    for name in ("pos_embed", "cls_token", "reg_token"):
        shape = tensors[name].shape if name in tensors else (1, 1, weight.shape[0])
        if len(shape) != 3 or shape[0] != 1 or shape[2] != weight.shape[0]:
            wrong.append(name)
    if wrong:
        told = ", ".join(f"{name} {tuple(tensors[name].shape)}" for name in wrong)
        raise CheckpointError(f"{where} holds no ViT of one width: {told}")


def _prefix(given: Tensors, where: str) -> tuple[str, list[str]]:
    """What stands before the encoder's names.

    Of several encoders a trained one comes before one that follows it, a teacher before its student; where
    neither decides, nothing is chosen.
    """
    found = {
        name.removesuffix(anchor)
        for name in given
        for anchor in (ANCHOR, ANCHOR_HF)
        if name == anchor or name.endswith(f".{anchor}")
    }
    if not found:
        raise CheckpointError(
            f"{where} holds no ViT: there is no {ANCHOR}, under no prefix; its names begin with "
            f"{', '.join(sorted(given)[:3])}"
        )
    chosen, *left = sorted(found, key=_rank)
    equal = [prefix for prefix in found if _rank(prefix)[:2] == _rank(chosen)[:2]]
    if len(equal) > 1:
        raise CheckpointError(
            f"{where} holds {len(equal)} encoders, and nothing in it says which is meant: they stand under "
            f"{', '.join(map(repr, sorted(equal)))}; save the tensors of one of them in a file of its own"
        )
    if len(left) == 0:
        return chosen, [f"prefix {chosen!r} removed"] if chosen else []
    return chosen, [f"{chosen!r} taken of {len(found)} encoders; the others: {', '.join(map(repr, left))}"]


def _rank(prefix: str) -> tuple[bool, bool, str]:
    return "momentum" in prefix, "student" in prefix, prefix


def _refuse_rotary(own: Tensors, where: str) -> None:
    """DINOv3 turns queries and keys by their place and adds no embedding: another function."""
    rotary = [name for name in own if _ROTARY.search(name)]
    placed = any(name in own for name in ("pos_embed", "embeddings.position_embeddings"))
    if rotary or not placed:
        why = f"it has {rotary[0]}" if rotary else "it has no position embedding"
        raise CheckpointError(
            f"{where} is of DINOv3's kind or its like ({why}): places enter by turning queries and keys "
            "(rotary embedding), while the ViTs here add an embedding to the patches. Patch embedding, norms "
            "and MLPs would fit, the attention was trained for other inputs, so nothing of it is loaded. "
            "Start from DINOv2 instead (model.name=vit_base_patch14_reg4_dinov2)"
        )


def _layout(own: Tensors, wrapper: str, prefix: str) -> str:
    if ANCHOR_HF in own:
        return "Hugging Face DINOv2" if any("layer_scale" in name for name in own) else "Hugging Face ViT"
    if prefix.endswith(("base_encoder.", "momentum_encoder.")):
        return "MoCo v3"
    scaled = any(name.endswith(".ls1.gamma") for name in own)
    chunked = any(_CHUNK.match(name) for name in own)
    if chunked or "register_tokens" in own or (scaled and ("mask_token" in own or wrapper)):
        return "DINOv2"
    if any(name.startswith("decoder_") for name in own):
        return "MAE"
    if wrapper.split(".")[0] in ("teacher", "student") or prefix.startswith(("teacher.", "student.")):
        return "DINO"
    return "timm"


def _renamed(own: Tensors, steps: list[str]) -> Tensors:
    tables: list[tuple[str, Sequence[tuple[str, str]]]] = [("DINOv2's names", _DINOV2_NAMES)]
    if ANCHOR_HF in own:
        tables.insert(0, ("Hugging Face's names", _HF_NAMES))
    for said, table in tables:
        after = {_through(table, name): value for name, value in own.items()}
        if after.keys() != own.keys():
            steps.append(f"{said} translated")
        own = after
    whole = {_CHUNK.sub(r"blocks.\1.", name): value for name, value in own.items()}
    if whole.keys() != own.keys():
        steps.append("chunks of blocks put in one row")
    return whole


def _through(table: Sequence[tuple[str, str]], name: str) -> str:
    for pattern, new in table:
        name = re.sub(pattern, new, name)
    return name


def _fused(tensors: Tensors, steps: list[str], where: str) -> Tensors:
    """Queries, keys and values side by side, as timm has them; a bias that only two have is 0 for keys."""
    parts: dict[str, dict[str, Tensor]] = {}
    fused: Tensors = {}
    for name, value in tensors.items():
        split = _SPLIT.match(name)
        old = re.match(r"^(blocks\.\d+\.attn\.)(q|v)_bias$", name)
        if split:
            parts.setdefault(f"{split[1]}qkv.{split[3]}", {})[split[2]] = value
        elif old:
            both = parts.setdefault(f"{old[1]}qkv.bias", {"k": torch.zeros_like(value)})
            both[old[2]] = value
        else:
            fused[name] = value
    for name, three in parts.items():
        if three.keys() != {"q", "k", "v"}:
            raise CheckpointError(
                f"{where} holds {', '.join(sorted(three))} for {name}, not all of q, k and v"
            )
        if len({value.shape for value in three.values()}) > 1:
            raise CheckpointError(f"{where}: q, k and v of {name} differ in shape")
        fused[name] = torch.cat([three[part] for part in "qkv"])
    if parts:
        steps.append("queries, keys and values put in one")
    return fused
