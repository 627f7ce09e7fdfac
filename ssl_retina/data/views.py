"""A photograph -> the views that a method asked for (`ViewSpec`), as its recipe (`recipes`) draws them.

In: an encoded image and numbers drawn for its position. Out: uint8 views, the field of view in them
(`geometry`), and how `finish` shall change their colours (`photometry`) and normalise them, a whole batch
at a time on the device.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssl_retina.contract import Batch, ViewSpec, uniform
from ssl_retina.data import cameras, cutting, geometry, native, photometry, placing, recipes
from ssl_retina.data.cameras import Camera
from ssl_retina.data.geometry import View
from ssl_retina.data.images import Decodable, Pixels

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def plan(spec: ViewSpec, seed: int, positions: Tensor) -> tuple[list[View], list[View]]:
    """The global and the local views of a batch; view v of a position is the same in every batch."""
    found = recipes.recipe(spec)
    kinds = [(found.global_crop, spec.global_size)] * spec.global_views
    kinds += [(found.local_crop, spec.local_size)] * spec.local_views
    views = []
    for number, (crop, size) in enumerate(kinds):
        draws = uniform(seed, "crop", positions, geometry.DRAWS, number).double().numpy()
        views.append(View(crop, found.flip and spec.flip, found.turn, size, draws))
    return views[: spec.global_views], views[spec.global_views :]


def colours(spec: ViewSpec, seed: int, positions: Tensor, *, scans: Sequence[bool]) -> Tensor | None:
    """How `finish` shall change the views, global then local ones: (views, batch, photometry.COLUMNS).

    `scans`: which samples are OCT B-scans. None where the recipe leaves colours alone.
    """
    allowed = recipes.recipe(spec).colours
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
    allowed = recipes.recipe(spec).cameras
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
    encoded: Decodable,
    drawn: Sequence[View],
    number: int,
    *,
    out: Sequence[Pixels],
    field: Sequence[float] | None,
    scan: bool = False,
) -> list[NDArray[np.float32]]:
    """Write sample `number`'s views into `out`, one (size, size, 3) each, from one decoding.

    All poses are drawn before: where every crop is large enough, the photograph is decoded at a part of its
    size (`cutting.share`); a whole image, by which probes judge, never is, and Pillow itself resizes it, as
    plain timm does. Gives each view's field of view,
    NaN if unknown. `scan`: the image is an OCT B-scan, which is hardly turned. Raises Undecodable.
    """
    width, height = encoded.width, encoded.height
    poses = [
        geometry.pose(view, number, width=width, height=height, field=field, scan=scan) for view in drawn
    ]
    whole = any(view.crop is None for view in drawn)
    share = 1 if whole else cutting.share(poses, [view.size for view in drawn])
    places = [cutting.shrunk(pose, share, width=width, height=height) for pose in poses]
    if whole or not native.cut(encoded, share, places, out):
        pixels, share = encoded.pixels(share)
        places = [cutting.shrunk(pose, share, width=width, height=height) for pose in poses]
        for view, where, one in zip(drawn, places, out, strict=True):
            if view.crop is None and where.angle == 0 and not where.flipped:
                cutting.shrink(pixels, one)
            else:
                cutting.cut(pixels, where, one)
    field = field if field is None or share == 1 else [part / share for part in field]
    return [geometry.follow(field, where, view.size) for view, where in zip(drawn, places, strict=True)]


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
        pixels = changes.views.to(device, non_blocking=True)
        pixels = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        full = 255 if changes.colours is None and changes.cameras is None else 1
        if full == 1:
            changes.apply(pixels.div_(255).flatten(0, 1))
        shift, scale = (
            placing.sent(torch.tensor(level).mul(full).view(3, 1, 1), device) for level in (mean, std)
        )
        return pixels.sub_(shift).div_(scale)

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
        field_of_view=placing.sent(changes.fields, device),
        local_field_of_view=None if local is None else placing.sent(local.fields, device),
        colours=None,
        cameras=None,
        origin=None if batch.origin is None else batch.origin.to(device, non_blocking=True),
        device=None if batch.device is None else batch.device.to(device, non_blocking=True),
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
