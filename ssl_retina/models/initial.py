"""An encoder that starts from weights that exist already, with a receipt; all of them, or a refusal.

In: the config's `model.init`. Out: encoders of the config's architecture filled with them. What would make
them another function than the one that was trained is refused, and so is less than 95 % of the encoder.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ssl_retina.config import Model
from ssl_retina.contract import Pool
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import encoder, fitting, origin, receipt, weights
from ssl_retina.models.encoder import Encoder
from ssl_retina.models.fitting import PATCH, PLACES, REGISTERS, Fitted
from ssl_retina.models.origin import Origin
from ssl_retina.models.receipt import Receipt

LEAST = 0.95
"""Share of the encoder's parameters below which nothing is loaded."""
DRAWN = ("cls_token", "reg_token", "norm.weight", "norm.bias")
"""What may start as drawn: the function of the rest does not hang on it."""
TOLERANCE = 1e-3
"""Of the largest reference feature: fp32 on other machines and other kernels of attention."""
MOCO_SMALL = (384, 12)
SIZES = ((192, "tiny"), (384, "small"), (768, "base"), (1024, "large"), (1280, "huge"))


class Initial:
    """Weights to start from, read once and put into every encoder that a method asks for.

    receipt: of the last encoder that was filled, None before.
    """

    def __init__(self, model: Model) -> None:
        assert model.init is not None
        self._model = model
        self._origin = origin.read(model.init)
        self.receipt: Receipt | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of the tensors that were found: names, kinds of number, shapes and values."""
        return weights.digest_of(self._origin.found.tensors)

    def build(
        self,
        *,
        checkpointing: bool,
        at_once: int | None = None,
        packing: bool = False,
        pool: Pool = "avg",
    ) -> Encoder:
        """`encoder.build`, filled. Raises CheckpointError where the weights do not fit the config."""
        made = encoder.build(
            self._model, checkpointing=checkpointing, at_once=at_once, packing=packing, pool=pool
        )
        self.receipt = _fill(made, self._origin, self._model.init_reference)
        return made


def _fill(made: Encoder, given: Origin, reference: Path | None) -> Receipt:
    vit = made.vit
    fitted = fitting.fit(given.found.tensors, vit, given.source)
    wanted = dict(vit.state_dict())
    _refuse_other_function(given, vit)
    _refuse_misfits(fitted, wanted, given)
    missing = [name for name in wanted if name not in fitted.tensors]
    vit.load_state_dict(fitted.tensors, strict=False)
    used = origin.parameters(fitted.tensors)
    compared = None if reference is None else _compared(made, reference)
    scaled = [] if given.scaling is None else fitting.fold(vit, given.scaling)
    return Receipt(
        source=given.source,
        sha256=given.sha256,
        hashed=given.hashed,
        layout=given.found.layout,
        matched=tuple(fitted.tensors),
        resized=tuple(fitted.resized),
        missing=tuple(missing),
        unexpected=given.found.others,
        share_of_backbone=used / origin.parameters(wanted),
        share_of_file=_used(given),
        steps=(*given.found.steps, *fitted.steps, *_unsaid(given, vit), *scaled),
        licence=receipt.licence(given.found.layout, given.licence),
        digests=given.lineage.digests,
        partly=given.lineage.partly,
        all_data_known=given.lineage.complete,
        reference=compared,
    )


def _used(given: Origin) -> float:
    return origin.parameters(given.found.tensors) / max(given.found.parameters, 1)


def _unsaid(given: Origin, vit: Any) -> list[str]:
    said = []
    if "heads" not in given.character:
        heads = origin.character(vit)["heads"]
        said.append(f"the file does not say its number of attention heads; {heads} are used")
    if given.scaling is None:
        said.append("the file does not say how its images were normalised; ImageNet's mean and std are used")
    return said


def _refuse_other_function(given: Origin, vit: Any) -> None:
    """Equal shapes with other heads, norms or activations: every tensor fits and the features are wrong."""
    own = origin.character(vit)
    differing = [
        f"{key} {value} instead of {own[key]}" for key, value in given.character.items() if value != own[key]
    ]
    width = given.found.tensors[PATCH].shape[0]
    if given.found.layout == "MoCo v3" and width == MOCO_SMALL[0] and own["heads"] != MOCO_SMALL[1]:
        differing.append(f"{MOCO_SMALL[1]} heads in MoCo v3's ViT-S instead of {own['heads']}")
    if differing:
        raise CheckpointError(
            f"{given.source} computes otherwise than the model of the config: {'; '.join(differing)}. Its "
            "tensors would be another function there, so nothing is loaded; give the model.name that it was "
            "trained as, or other weights"
        )


def _refuse_misfits(fitted: Fitted, wanted: dict[str, Tensor], given: Origin) -> None:
    """Raise CheckpointError with everything that does not fit, and what the weights seem to be."""
    tensors = fitted.tensors
    missing = [name for name in wanted if name not in tensors]
    needed = [name for name in missing if name not in DRAWN]
    nowhere = [name for name in tensors if name not in wanted]
    shaped = [
        f"{name} {tuple(tensors[name].shape)}, the model needs {tuple(wanted[name].shape)}"
        for name in wanted.keys() & tensors.keys()
        if tensors[name].shape != wanted[name].shape
    ]
    fits = sum(
        value.numel()
        for name, value in wanted.items()
        if name in tensors and tensors[name].shape == value.shape
    )
    share = fits / origin.parameters(wanted)
    broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(f"{given.source} holds values that are not finite: {receipt.listed(broken)}")
    if not needed and not nowhere and not shaped and share >= LEAST:
        return
    lines = [
        *([f"missing: {receipt.listed(missing)}"] if missing else []),
        *([f"no place in the model: {receipt.listed(nowhere)}"] if nowhere else []),
        *([f"other shapes: {receipt.listed(sorted(shaped))}"] if shaped else []),
        f"the weights look like {_looks(given.found.tensors)}",
    ]
    raise CheckpointError(
        f"{given.source} fills {share:.1%} of the encoder, and all of it has to fit (at least {LEAST:.0%} "
        "and every block), so nothing is loaded:\n" + "\n".join(f"  {line}" for line in lines)
    )


def _looks(tensors: dict[str, Tensor]) -> str:
    """The encoder that tensors are of, as far as they show it, and the override that asks for it."""
    weight = tensors[PATCH]
    width, patch = weight.shape[0], weight.shape[-1]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    registers = tensors[REGISTERS].shape[1] if REGISTERS in tensors else 0
    scaled = any(name.endswith(".ls1.gamma") for name in tensors)
    size = dict(SIZES).get(width)
    side = math.isqrt(tensors[PLACES].shape[1]) * patch
    told = f"a ViT of width {width}, {depth} blocks, patch {patch}, {registers} registers, for {side} px"
    if size is None:
        return f"{told}: no width of timm's usual ViTs"
    name = f"vit_{size}_patch{patch}_224"
    if scaled:
        name = f"vit_{size}_patch14_{f'reg{registers}_' if registers else ''}dinov2"
    usual = {"large": 24, "huge": 32}.get(size, 12)
    depth_too = "" if depth == usual else f" model.depth={depth}"
    extra = f" model.registers={registers}" if registers and not scaled else ""
    return f"{told}: try model.name={name} model.patch_size={patch}{depth_too}{extra}"


@torch.no_grad()
def _compared(made: Encoder, path: Path) -> dict[str, Any]:
    """Hold the encoder against features that somebody else computed; raise CheckpointError where they differ.

    The file: `image` (count, 3, size, size), prepared as for the model that gave `features` (count, width),
    which are the class token after the last norm, or the mean of the patch tokens.
    """
    content = weights.read_tensors(path)
    image, features = content.get("image"), content.get("features")
    vit, size = made.vit, made.grid * made.patch_size
    if image is None or features is None or image.shape[1:] != (3, size, size) or features.ndim != 2:
        raise InputError(
            f"model.init_reference: {path.name} must hold `image` (count, 3, {size}, {size}) and `features` "
            f"(count, {made.width})"
        )
    training = made.training
    tokens = vit.eval().forward_features(image.float())
    made.train(training)
    pooled = {"the mean of the patch tokens": tokens[:, made.prefix_tokens :].mean(dim=1)}
    if vit.cls_token is not None:
        pooled["the class token"] = tokens[:, 0]
    if features.shape != tokens[:, 0].shape:
        raise InputError(f"model.init_reference: `features` must be ({len(image)}, {made.width})")
    scale = max(float(features.float().abs().max()), 1e-12)
    apart = {name: float((value - features).abs().max()) / scale for name, value in pooled.items()}
    nearest = min(apart, key=lambda name: apart[name])
    if not apart[nearest] <= TOLERANCE:
        raise CheckpointError(
            f"the encoder does not give the features of {path.name}: {nearest} is {apart[nearest]:.2g} of "
            f"their largest value away (at most {TOLERANCE:g}): other weights, another preparation of the "
            "image, or another model; nothing is trained"
        )
    return {"pooled": nearest, "difference": apart[nearest]}
