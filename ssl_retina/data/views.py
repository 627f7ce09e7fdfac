"""Named recipes: a photograph -> the views that a method asked for (`ViewSpec`).

In: a decoded image and numbers drawn for its position. Out: uint8 views and the field of view in them;
`finish` normalises a whole batch on the device. Geometry as torchvision's RandomResizedCrop, resampled by
PIL's antialiased bicubic filter in one call, as MAE and RETFound do.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ssl_retina.contract import Batch, ViewSpec, uniform
from ssl_retina.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
TRIES = 10
DRAWS = 2 * TRIES + 3
"""Numbers drawn for one view: area and shape of each try, the crop's place (2), the flip."""

Box = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels of the stored image."""


@dataclass(frozen=True)
class Crop:
    """A random crop: its share of the image's area and its width over height (drawn log-uniformly)."""

    scale: tuple[float, float]
    ratio: tuple[float, float] = (3 / 4, 4 / 3)


@dataclass(frozen=True)
class Recipe:
    """How views are drawn; no crop means the whole image, resized to a square."""

    global_crop: Crop | None
    local_crop: Crop | None = None
    flip: bool = True


RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # He et al. 2022, table 1e: crop and flip only
        "mae": Recipe(global_crop=Crop(scale=(0.2, 1.0))),
        "plain": Recipe(global_crop=None, flip=False),
    }
)


def recipe(spec: ViewSpec) -> Recipe:
    """The recipe that a method named. Raises InputError for an unknown one, or one without local views."""
    found = RECIPES.get(spec.recipe)
    if found is None:
        raise InputError(f"recipe {spec.recipe!r} does not exist; one of: {', '.join(RECIPES)}")
    if spec.local_views and found.local_crop is None:
        raise InputError(f"recipe {spec.recipe!r} draws no local views; {spec.local_views} were asked for")
    return found


@dataclass(frozen=True)
class View:
    """One view of every sample of a batch: crop, flip, size, and the numbers (batch, DRAWS) in [0, 1)."""

    crop: Crop | None
    flip: bool
    size: int
    draws: NDArray[np.float64]


def plan(spec: ViewSpec, seed: int, positions: Tensor) -> tuple[list[View], list[View]]:
    """The global and the local views of a batch; view v of a position is the same in every batch."""
    found = recipe(spec)
    kinds = [(found.global_crop, spec.global_size)] * spec.global_views
    kinds += [(found.local_crop, spec.local_size)] * spec.local_views
    views = []
    for number, (crop, size) in enumerate(kinds):
        draws = uniform(seed, "crop", positions, DRAWS, number).double().numpy()
        views.append(View(crop, found.flip, size, draws))
    return views[: spec.global_views], views[spec.global_views :]


def crop_box(draws: NDArray[np.float64], width: int, height: int, *, crop: Crop) -> Box:
    """Where to crop: ten tries for a box of the drawn area and shape, else the largest allowed in the centre.

    The distribution of torchvision's `RandomResizedCrop.get_params`.
    """
    low, high = (math.log(bound) for bound in crop.ratio)
    for turn in range(TRIES):
        area = width * height * (crop.scale[0] + draws[2 * turn] * (crop.scale[1] - crop.scale[0]))
        ratio = math.exp(low + draws[2 * turn + 1] * (high - low))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(draws[2 * TRIES] * (width - wide + 1))
            top = int(draws[2 * TRIES + 1] * (height - tall + 1))
            return left, top, left + wide, top + tall
    return _central_box(width, height, crop.ratio)


def _central_box(width: int, height: int, ratio: tuple[float, float]) -> Box:
    wide, tall = width, height
    if width / height < ratio[0]:
        tall = round(width / ratio[0])
    elif width / height > ratio[1]:
        wide = round(height * ratio[1])
    left, top = (width - wide) // 2, (height - tall) // 2
    return left, top, left + wide, top + tall


def draw(
    image: Image.Image, view: View, number: int, *, out: NDArray[np.uint8], field: Sequence[float] | None
) -> NDArray[np.float32]:
    """Write sample `number`'s view into `out` (3, size, size); give its field of view, NaN if unknown."""
    width, height = image.size
    draws = view.draws[number]
    box = (0, 0, width, height) if view.crop is None else crop_box(draws, width, height, crop=view.crop)
    shape = (view.size, view.size)
    pixels = np.asarray(image.resize(shape, Image.Resampling.BICUBIC, box=box))
    flipped = bool(view.flip and draws[-1] < 0.5)
    out[:] = (pixels[:, ::-1] if flipped else pixels).transpose(2, 0, 1)
    return follow(field, box, view.size, flipped=flipped)


def follow(field: Sequence[float] | None, box: Box, size: int, *, flipped: bool) -> NDArray[np.float32]:
    """The ellipse (centre x, y, radius x, y; pixel i covers i to i + 1) in the view cut from `box`."""
    if field is None:
        return np.full(4, np.nan, dtype=np.float32)
    centre_x, centre_y, radius_x, radius_y = field
    left, top, right, bottom = box
    across, down = size / (right - left), size / (bottom - top)
    x, y = (centre_x - left) * across, (centre_y - top) * down
    return np.array((size - x if flipped else x, y, radius_x * across, radius_y * down), dtype=np.float32)


def finish(
    batch: Batch,
    *,
    device: torch.device,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Batch:
    """The batch on the device, its uint8 views as normalised float32."""

    def normalised(views: Tensor) -> Tensor:
        shift = torch.tensor(mean, device=device).mul(255).view(3, 1, 1)
        scale = torch.tensor(std, device=device).mul(255).view(3, 1, 1)
        return (views.to(device, non_blocking=True).float() - shift) / scale

    return dataclasses.replace(
        batch,
        global_views=normalised(batch.global_views),
        local_views=None if batch.local_views is None else normalised(batch.local_views),
        position=batch.position.to(device),
        group=batch.group.to(device),
        field_of_view=batch.field_of_view.to(device),
    )
