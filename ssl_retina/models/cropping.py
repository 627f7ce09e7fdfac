"""Small crops beside large ones: which side they have, whether an encoder can take them, and encoding both.

In: the large crops' side, or the encoder and a batch. Out: pixels, or an error; tokens.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from ssl_retina.contract import Batch, Clock, Crops, Encoder, Hidden
from ssl_retina.errors import ConfigError

STEP = 16


def local_size(image_size: int) -> int:
    """The papers' 96 of 224 pixels, to whole 16 (the nearest, at least one)."""
    return max(round(image_size * 96 / 224 / STEP), 1) * STEP


def check(encoder: Encoder, size: int | None) -> None:
    """Raise ConfigError where small crops of a side, or of the side from `local_size`, do not divide."""
    side = size or local_size(encoder.grid * encoder.patch_size)
    if side % encoder.patch_size:
        near = max(round(side / encoder.patch_size), 1) * encoder.patch_size
        problem = f"{side} px are not whole patches of {encoder.patch_size} px; give {near}"
        raise ConfigError("config", [f"method.local_size: {problem}"])


def fitted(encoder: Encoder, batch: Batch) -> Batch:
    """The batch with large views of the encoder's own side, by bicubic resampling where they are larger.

    As DINOv3's authors take one crop for two teachers, and shrink it after its colours were changed.
    """
    views, side = batch.global_views, encoder.grid * encoder.patch_size
    found = views.shape[-1]
    if found == side:
        return batch
    shrunk: Tensor = functional.interpolate(
        views.flatten(0, 1), size=(side, side), mode="bicubic", align_corners=False, antialias=True
    )
    fields = batch.field_of_view * (side / found)
    resized = shrunk.view(*views.shape[:3], side, side)
    return dataclasses.replace(batch, global_views=resized, field_of_view=fields)


def encoded(
    encoder: Encoder, batch: Batch, clock: Clock, *, hidden: Hidden | None = None
) -> tuple[Tensor, Tensor]:
    """Pooled views (views * batch, width), the large ones first, and the large ones' patches.

    The patches are (large views * batch, patches, width). One pass for each size, or one for both where the
    encoder packs; `hidden` are patches of the large views.
    """
    large, small = batch.global_views, batch.local_views
    crops = [Crops(large.flatten(0, 1), range(len(large)), hidden)]
    if small is not None:
        crops.append(Crops(small.flatten(0, 1), range(len(large), len(large) + len(small))))
    if encoder.packing and small is not None:
        tokens = encoder.together(crops, clock, batch.position)
    else:
        tokens = [
            encoder(one.images, clock, batch.position, view=one.view, hidden=one.hidden) for one in crops
        ]
    return torch.cat([encoder.pool(one) for one in tokens]), tokens[0][:, encoder.prefix_tokens :]
