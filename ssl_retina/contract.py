"""The small types that data, methods and trainer speak to each other, and the one source of randomness.

A method states the views that it needs (`ViewSpec`), the loader gives them (`Batch`), the trainer says
where the run stands (`Clock`), the method answers with its loss (`Output`).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

Pool = Literal["avg", "token"]
"""How tokens become one vector, in timm's words: the mean over the patches, or the class token."""


ORIGIN = ("patient", "eye", "visit", "volume", "slice", "scan")
"""Columns of `Batch.origin`: the patient as a number, 0 for a right and 1 for a left eye, the visit's number,
the OCT volume as a number, the slice's number in it, 1 for a B-scan and 0 for a photograph."""

UNKNOWN = -1
"""What is not known of a sample's origin."""


@dataclass(frozen=True)
class ViewSpec:
    """Which views of a photograph a method wants; `recipe` names how they are drawn (`data/views.py`).

    crop_scale: smallest and largest share of the area in a global crop, in place of the recipe's.
    colour: factor on the recipe's colour ranges; 0 leaves the colours as they are.
    flip: False takes the recipe's mirroring away, so that a right eye never looks like a left one.
    """

    recipe: str
    global_views: int
    global_size: int
    local_views: int = 0
    local_size: int = 0
    crop_scale: tuple[float, float] | None = None
    colour: float = 1.0
    flip: bool = True


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch; views come first, as papers write them.

    global_views: (views, batch, 3, height, width); uint8 from the loader, normalised float32 after
        `data.views.finish`.
    local_views: the same for local crops, or None.
    keys: the samples' pseudonyms.
    position: (batch,) int64, each sample's place in the endless global order.
    group: (batch,) int64, which patients belong together (one number per group of patients).
    field_of_view: (views, batch, 4) float32: centre x, centre y, radius x, radius y of the illuminated
        field in pixels of the view; NaN where it is unknown.
    local_field_of_view: the same for local views, or None.
    colours: how `data.views.finish` shall change each view's colours, (global and local views, batch,
        photometry.COLUMNS) float32; None where it leaves them alone, and once that is done.
    cameras: the same for the cheap cameras that took the views, (..., cameras.COLUMNS).
    origin: (batch, len(ORIGIN)) int64, which eye, visit, volume each sample is of; None: nothing is known.
    device: (batch,) int64, the number of each sample's device among those of all sets, or UNKNOWN; None: all
        are unknown.
    """

    global_views: Tensor
    local_views: Tensor | None
    keys: tuple[str, ...]
    position: Tensor
    group: Tensor
    field_of_view: Tensor
    colours: Tensor | None = None
    local_field_of_view: Tensor | None = None
    cameras: Tensor | None = None
    origin: Tensor | None = None
    device: Tensor | None = None

    @property
    def kin(self) -> Tensor:
        """(batch, 1 + len(ORIGIN)) int64: group and origin of each sample, by which pairs are related."""
        group = self.group[:, None]
        origin = group.new_full((len(group), len(ORIGIN)), UNKNOWN) if self.origin is None else self.origin
        return torch.cat((group, origin), dim=1)


@dataclass(frozen=True)
class Clock:
    """Where the run stands. It knows no rank: every random choice is a function of seed and position."""

    step: int
    total: int
    seed: int

    @property
    def fraction(self) -> float:
        """Share of the run that is done, in [0, 1]."""
        return self.step / max(self.total, 1)

    def uniform(self, purpose: str, position: Tensor, count: int, view: int = 0) -> Tensor:
        """Draw (batch, count) float32 in [0, 1): see `uniform`."""
        return uniform(self.seed, purpose, position, count, view)


@dataclass(frozen=True)
class Output:
    """What a method answers: a scalar loss, scalars to log (still on the device), features for health."""

    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)
    features: Tensor | None = None


class Hidden(NamedTuple):
    """Patches whose content the encoder shall not see: a token of the method's stands in their place.

    where: (batch, patches) bool. token: (width,), which the method trains.
    """

    where: Tensor
    token: Tensor


class Crops(NamedTuple):
    """Images of one size: views * samples of (3, H, W), the numbers of their views, patches to hide."""

    images: Tensor
    view: range
    hidden: Hidden | None = None


@dataclass(frozen=True)
class Pack:
    """Crops that go through the blocks together."""

    crops: tuple[Crops, ...]


class Encoder(Protocol):
    """What a method may ask of the encoder (`models/encoder.py`).

    `checkpointing`: blocks are recomputed in the backward pass; a method's own blocks follow it.
    `packing`: crops of several sizes are to go through the blocks `together`.
    `at_once`: so many images at most are in the blocks at a time in `vectors`; None: all.
    `pooling`: how the export, in plain timm, will give one vector of an image.
    """

    width: int
    depth: int
    patch_size: int
    grid: int
    prefix_tokens: int
    checkpointing: bool
    at_once: int | None
    packing: bool
    pooling: Pool

    def __call__(
        self,
        images: Tensor,
        clock: Clock,
        position: Tensor,
        keep: Tensor | None = None,
        *,
        view: int | range = 0,
        hidden: Hidden | None = None,
    ) -> Tensor:
        """Tokens (batch, prefix + kept, width) of images (batch, 3, H, W); `keep` (batch, kept) int64.

        Images may have another side than the config's, a multiple of the patch. Drop path is drawn by
        position (samples,) and `view`, the number of the view that the images are, or those of the views
        that they are one behind the other: then the batch is views * samples.
        """
        ...

    def together(self, crops: Sequence[Crops], clock: Clock, position: Tensor) -> list[Tensor]:
        """The tokens of each of the crops, as a call would give them, by one pass through the blocks."""
        ...

    def vectors(self, images: Tensor, clock: Clock, position: Tensor, *, view: int = 0) -> Tensor:
        """What `pool` makes of a call on (batch, 3, H, W): (batch, width), by cached gradients if asked."""
        ...

    def pool(self, tokens: Tensor) -> Tensor:
        """One vector (batch, width) of the tokens that a call gave: what the export gives of the image."""
        ...

    def freeze_patch_embedding(self) -> None:
        """Leave the projection of patches to tokens as it was drawn."""
        ...


class MakeEncoder(Protocol):
    """Builds the config's encoder with fresh weights; the method says how its product pools."""

    def __call__(self, *, pool: Pool = "avg") -> Encoder:
        """A new encoder."""
        ...


class Weights(Protocol):
    """The engine's fp32 master weights, whatever the ZeRO stage; all ranks must ask together."""

    def __call__(self, parameter: nn.Parameter) -> Tensor:
        """The full master of one parameter."""
        ...

    def follow(self, teacher: nn.Module, student: nn.Module, momentum: float) -> None:
        """Teacher <- momentum * teacher + (1 - momentum) * master, for each of its parameters, in fp32.

        Parameters are matched by name; buffers are left to the teacher's own forward passes.
        """
        ...


class Method(Protocol):
    """One file in `methods/`: beside this class it gives `Config` and `views(config, image_size)`.

    encoder: the one that is trained; the product may be a teacher's.
    """

    encoder: Encoder

    def __call__(self, batch: Batch, clock: Clock) -> Output:
        """Everything the paper says, in reading order."""
        ...

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Follow the student; called only when the optimiser's step was really applied."""
        ...

    def exported(self) -> nn.Module:
        """Give the encoder that is the product."""
        ...


_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed integer
_FIRST = -4658895280553007687  # 0xBF58476D1CE4E5B9
_SECOND = -7723592293110705685  # 0x94D049BB133111EB


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own keeps the sign."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mixed(value: Tensor) -> Tensor:
    """SplitMix64's finaliser (Steele, Lea and Flood 2014): int64 arithmetic that wraps, on any device."""
    value = (value ^ _shifted(value, 30)) * _FIRST
    value = (value ^ _shifted(value, 27)) * _SECOND
    return value ^ _shifted(value, 31)


def uniform(seed: int, purpose: str, position: Tensor, count: int, view: int = 0) -> Tensor:
    """Draw `count` numbers for every position: (batch, count) float32 in [0, 1).

    A pure function of (seed, purpose, position, view): drawing 8 positions equals drawing 4 twice, on
    every device and in every process, which is what makes two ranks equal one and a resume exact.
    """
    name = f"{seed}/{purpose}/{view}".encode()
    stream = int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "little", signed=True)
    index = torch.arange(1, count + 1, dtype=torch.int64, device=position.device)
    state = _mixed(_mixed(position + stream)[:, None] + index * _GOLDEN)
    return _shifted(state, 40).to(torch.float32) / (1 << 24)
