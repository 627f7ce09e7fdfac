"""Named recipes: a photograph -> the views that a method asked for (`ViewSpec`).

In: a decoded image and numbers drawn for its position. Out: uint8 views, the field of view in them
(`geometry`), and how `finish` shall change their colours (`photometry`) and normalise them, a whole batch
at a time on the device.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_retina.contract import Batch, ViewSpec, uniform
from ssl_retina.data import cameras, geometry, photometry
from ssl_retina.data.cameras import Camera
from ssl_retina.data.geometry import Crop, Turn, View
from ssl_retina.data.photometry import Blur, Colours, Jitter, Solarise
from ssl_retina.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Recipe:
    """How views are drawn; no crop means the whole image, resized to a square.

    colours: those of view 0, 1, ... (local views count on from the global ones), the last for all further
        views; none leaves every view as it is.
    cameras: the same for the cheap cameras that may take a view; None is the camera of the photograph.
    """

    global_crop: Crop | None
    local_crop: Crop | None = None
    flip: bool = True
    turn: Turn | None = None
    colours: tuple[Colours, ...] = ()
    cameras: tuple[Camera | None, ...] = ()


LEAST_FIELD = 0.7
"""Share of a crop that is retina.

A square cut to its field, as `ssl-retina shard` writes it, holds 0.785 as a whole, and no crop of HYGD or
IDRiD falls below (737 and 510 photographs, four crops each: mean 0.93 and 0.94, least 0.77 and 0.79), so
these keep the distribution of the plain crop. Of a 3 to 2 frame with a circle of its full height 27 % of
the plain crops do (mean 0.78, first percentile 0.55; with it 0.83 and 0.70, and the mean area is 46 % of the
frame for 48 %). At 0.8 it would be 58 %, and the crops smaller.
"""

RETINA_CROP = Crop(scale=(0.25, 1.0), least_field=LEAST_FIELD)
"""Two crops nearly always overlap, and the smallest shows a quarter of the photograph, in which a disc fits
(though it is seldom whole there); the papers' 0.08 would show a patch of background."""

RETINA_TURN = Turn(photograph=30.0, scan=5.0)
"""Heads and cameras tilt. Nothing is ever turned upside down: superior and inferior are not the same."""

RETINA_JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.3, saturation=0.2, hue=0.01)
"""As much as photographs of one camera differ, since the colour of a lesion is signal.

Measured on the mean colour in 187 photographs of HYGD and 104 of IDRiD: brightness has a standard deviation
of 23 and 16 % of its mean (0.4 either way: 23 %), saturation 11 and 13 % (0.2: 12 %), hue 3.3 and 4.3
degrees (0.01 of the circle: 3.6 at most). Twice that makes a disc green that was yellow.
"""

RETINA_GREY = 0.05
RETINA_SIGMA = (0.0005, 0.005)
"""Half of the papers' sigma (0.1 to 2 px at 224 px), for the sake of small lesions."""

RETINA_COLOURS = Colours(RETINA_JITTER, RETINA_GREY, Blur(0.5, RETINA_SIGMA))
MAE_CROP = Crop(scale=(0.2, 1.0), least_field=LEAST_FIELD)

PAPER_CROP = Crop(scale=(0.08, 1.0))
PAPER_SIGMA = (0.1 / 224, 2.0 / 224)
PAPER_JITTER = Jitter(probability=0.8, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1)

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # He et al. 2022, table 1e: crop and flip only
        "mae": Recipe(global_crop=Crop(scale=(0.2, 1.0))),
        "plain": Recipe(global_crop=None, flip=False),
        # The paper's, with retina in every crop, and every third view as of a cheap camera
        "mae_retina": Recipe(global_crop=MAE_CROP),
        "mae_primary_care": Recipe(global_crop=MAE_CROP, cameras=(Camera(probability=0.35),)),
        # SimCLR (Chen et al. 2020, appendix A) with what retinas bear: both views alike
        "contrast": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(RETINA_COLOURS,),
        ),
        # The same eye before a good camera and before a cheap one: what they share is the retina. A fifth
        # of the second views stay good, so that fine detail is worth learning
        "primary_care": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(RETINA_COLOURS,),
            cameras=(None, Camera(probability=0.8)),
        ),
        # MoCo v3 (Chen, Xie and He 2021), where the views differ. Not solarised: the red of a photograph is
        # near its limit over the disc and bright lesions, and inverting it paints them green
        "mocov3": Recipe(
            global_crop=RETINA_CROP,
            turn=RETINA_TURN,
            colours=(
                Colours(RETINA_JITTER, RETINA_GREY, Blur(1.0, RETINA_SIGMA)),
                Colours(RETINA_JITTER, RETINA_GREY, Blur(0.1, RETINA_SIGMA)),
            ),
        ),
        # The same paper's own numbers (those of BYOL), to compare with: made for cats and cars
        "mocov3_paper": Recipe(
            global_crop=PAPER_CROP,
            colours=(
                Colours(PAPER_JITTER, 0.2, Blur(1.0, PAPER_SIGMA)),
                Colours(PAPER_JITTER, 0.2, Blur(0.1, PAPER_SIGMA), Solarise(0.2, 0.5)),
            ),
        ),
    }
)


def recipe(spec: ViewSpec) -> Recipe:
    """The recipe that a method named, with the crop that it asked for.

    Raises InputError for an unknown recipe, for local views or a crop that it does not draw, and for a
    crop or a strength of colour that cannot be.
    """
    found = RECIPES.get(spec.recipe)
    if found is None:
        raise InputError(f"recipe {spec.recipe!r} does not exist; one of: {', '.join(RECIPES)}")
    if spec.local_views and found.local_crop is None:
        raise InputError(f"recipe {spec.recipe!r} draws no local views; {spec.local_views} were asked for")
    if spec.colour < 0:
        raise InputError(f"colour ({spec.colour}) must be 0 or more: it multiplies the recipe's ranges")
    if spec.crop_scale is None:
        return found
    if found.global_crop is None:
        raise InputError(f"recipe {spec.recipe!r} shows the whole image: crop_scale does not go with it")
    low, high = spec.crop_scale
    if not 0 < low <= high <= 1:
        raise InputError(f"crop_scale ({low}, {high}) must be two shares of the area: 0 < low <= high <= 1")
    crop = dataclasses.replace(found.global_crop, scale=(low, high))
    return dataclasses.replace(found, global_crop=crop)


def plan(spec: ViewSpec, seed: int, positions: Tensor) -> tuple[list[View], list[View]]:
    """The global and the local views of a batch; view v of a position is the same in every batch."""
    found = recipe(spec)
    kinds = [(found.global_crop, spec.global_size)] * spec.global_views
    kinds += [(found.local_crop, spec.local_size)] * spec.local_views
    views = []
    for number, (crop, size) in enumerate(kinds):
        draws = uniform(seed, "crop", positions, geometry.DRAWS, number).double().numpy()
        views.append(View(crop, found.flip, found.turn, size, draws))
    return views[: spec.global_views], views[spec.global_views :]


def colours(spec: ViewSpec, seed: int, positions: Tensor, *, scans: Sequence[bool]) -> Tensor | None:
    """How `finish` shall change the views, global then local ones: (views, batch, photometry.COLUMNS).

    `scans`: which samples are OCT B-scans. None where the recipe leaves colours alone.
    """
    allowed = recipe(spec).colours
    if not allowed:
        return None
    sizes = [spec.global_size] * spec.global_views + [spec.local_size] * spec.local_views
    changes = [
        photometry.drawn(
            allowed[min(number, len(allowed) - 1)],
            uniform(seed, "colour", positions, photometry.DRAWS, number),
            size=size,
            strength=spec.colour,
            scans=scans,
        )
        for number, size in enumerate(sizes)
    ]
    return torch.stack(changes)


def cheap_cameras(spec: ViewSpec, seed: int, positions: Tensor, *, scans: Sequence[bool]) -> Tensor | None:
    """Which cheap cameras took the views, global then local ones: (views, batch, cameras.COLUMNS).

    `scans` as in `colours`. None where the recipe has none.
    """
    allowed = recipe(spec).cameras
    if not allowed:
        return None
    sizes = [spec.global_size] * spec.global_views + [spec.local_size] * spec.local_views
    changes = []
    for number, size in enumerate(sizes):
        camera = allowed[min(number, len(allowed) - 1)] or Camera(probability=0.0)
        draws = uniform(seed, "camera", positions, cameras.DRAWS, number)
        changes.append(cameras.drawn(camera, draws, size=size, scans=scans))
    return torch.stack(changes)


def draw(
    image: Image.Image,
    view: View,
    number: int,
    *,
    out: NDArray[np.uint8],
    field: Sequence[float] | None,
    scan: bool = False,
) -> NDArray[np.float32]:
    """Write sample `number`'s view into `out` (3, size, size); give its field of view, NaN if unknown.

    `scan`: the image is an OCT B-scan, which is hardly turned.
    """
    width, height = image.size
    where = geometry.pose(view, number, width=width, height=height, field=field, scan=scan)
    out[:] = geometry.cut(image, where, view.size).transpose(2, 0, 1)
    return geometry.follow(field, where, view.size)


def finish(
    batch: Batch,
    *,
    device: torch.device,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Batch:
    """The batch on the device: its uint8 views changed as the batch says, and normalised to float32.

    The field of view becomes that of the camera that took the view.
    """

    def normalised(changes: _Changes) -> Tensor:
        pixels = changes.views.to(device, non_blocking=True).float()
        full = 255 if changes.colours is None and changes.cameras is None else 1
        if full == 1:
            changes.apply(pixels.div_(255).flatten(0, 1))
        shift = torch.tensor(mean, device=device).mul(full).view(3, 1, 1)
        scale = torch.tensor(std, device=device).mul(full).view(3, 1, 1)
        return (pixels - shift) / scale

    changes, local = _Changes.of(batch, batch.global_views, batch.field_of_view, first=0), None
    if batch.local_views is not None:
        first = len(batch.global_views)
        local = _Changes.of(batch, batch.local_views, batch.local_field_of_view, first=first)
    return dataclasses.replace(
        batch,
        global_views=normalised(changes),
        local_views=None if local is None else normalised(local),
        position=batch.position.to(device, non_blocking=True),
        group=batch.group.to(device, non_blocking=True),
        field_of_view=changes.fields.to(device, non_blocking=True),
        local_field_of_view=None if local is None else local.fields.to(device, non_blocking=True),
        colours=None,
        cameras=None,
    )


@dataclass(frozen=True)
class _Changes:
    """What is to change in some views; `fields` (views, batch, 4) as the camera that took them shows them."""

    views: Tensor
    colours: Tensor | None
    cameras: Tensor | None
    fields: Tensor

    @classmethod
    def of(cls, batch: Batch, views: Tensor, fields: Tensor | None, *, first: int) -> "_Changes":
        some = slice(first, first + len(views))
        took = None if batch.cameras is None else batch.cameras[some].flatten(0, 1)
        if fields is None:
            fields = torch.full((*views.shape[:2], 4), float("nan"))
        if took is not None:
            shown = cameras.narrowed(fields.flatten(0, 1), took, size=views.shape[-1])
            fields = shown.view_as(fields)
        colours = None if batch.colours is None else batch.colours[some].flatten(0, 1)
        return cls(views, colours, took, fields)

    def apply(self, pixels: Tensor) -> None:
        """Change pixels (views * batch, 3, side, side) in [0, 1] in place."""
        if self.colours is not None:
            photometry.recolour(pixels, self.colours)
        if self.cameras is not None:
            cameras.degrade(pixels, self.cameras, self.fields.flatten(0, 1))
