"""WEIGHTS as the user names them -> one row of numbers for each photograph.

In: an export's folder, a timm name, `random`, `mean-colour` or `pixel-pca`, and rows of the shards. Out:
(photographs, dimensions) float32 in the same order. Frozen, no gradient, no augmentation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ssl_retina import config, dist
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.loader import open_source
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.metrics import Integers
from ssl_retina.models import encoder, pretrained
from ssl_retina.models.pretrained import DataConfig, Pretrained
from ssl_retina.shards import Index

RANDOM, MEAN_COLOUR, PIXEL_PCA = "random", "mean-colour", "pixel-pca"
PIXELS = 32
COMPONENTS = 192
BATCH = 64
SMALLEST_FOR_WORKERS = 2000
WORKERS = 4
TINY = "vit_tiny_patch16_224"
TINY_PIXELS, TINY_PATCH = 64, 8

Advance = Callable[[str, int], None]
"""Told the name of the weights and how many photographs are done."""


@dataclass(frozen=True)
class Representation:
    """Features of the photographs; `components`: of a PCA that is fitted in each training part, or None.

    seen: whether the pretraining read these very shards, None where that is not knowable.
    """

    name: str
    about: str
    values: NDArray[np.float32]
    components: int | None = None
    seen: bool | None = None


def represent(
    names: Sequence[str], index: Index, rows: Integers, *, seed: int, advance: Advance
) -> Iterator[Representation]:
    """The features of every WEIGHTS, in order. Raises UserError for weights that cannot be used."""
    double = [name for name in names if names.count(name) > 1]
    if double:
        raise InputError(f"{double[0]} is given twice: paired differences need different weights")
    small: NDArray[np.float32] | None = None
    for name in names:
        if name not in (MEAN_COLOUR, PIXEL_PCA):
            yield _of_model(name, names, _Photographs(index, rows, advance), seed=seed)
            continue
        if small is None:
            photographs = _Photographs(index, rows, advance)
            small = np.concatenate([_flat(batch) for batch in photographs.batches(name, PIXELS)])
        yield _of_pixels(name, small)


@dataclass(frozen=True)
class _Photographs:
    """The chosen rows of the shards, at any size."""

    index: Index
    rows: Integers
    advance: Advance

    def batches(self, name: str, size: int) -> Iterator[Batch]:
        """Whole images (1, batch, 3, size, size) uint8."""
        workers = WORKERS if len(self.rows) >= SMALLEST_FOR_WORKERS else 0
        data = config.Data(shards=(self.index.folder,), batch_size=BATCH, workers=workers, held_out=0.0)
        source = open_source(data, ViewSpec("plain", global_views=1, global_size=size), seed=0)
        done = 0
        for batch in source.whole(self.rows, batch=BATCH):
            yield batch
            done += len(batch.keys)
            self.advance(name, done)


def _flat(batch: Batch) -> NDArray[np.float32]:
    scaled: NDArray[np.float32] = (batch.global_views[0].flatten(1).float() / 255).numpy()
    return scaled


def _of_pixels(name: str, small: NDArray[np.float32]) -> Representation:
    if name == MEAN_COLOUR:
        colour = small.reshape(len(small), 3, -1).mean(axis=2)
        return Representation(name, f"mean red, green and blue of the {PIXELS} px image", colour)
    about = f"up to {COMPONENTS} principal components of the {PIXELS} px image, fitted in each training part"
    return Representation(name, about, _rotated(small), COMPONENTS)


def _rotated(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same points in the fewest coordinates: no distance changes, and a PCA of any part costs less."""
    if len(pixels) >= pixels.shape[1]:
        return pixels
    basis = np.linalg.qr(pixels.T.astype(np.float64)).Q
    rotated: NDArray[np.float32] = (pixels @ basis).astype(np.float32)
    return rotated


def _of_model(name: str, names: Sequence[str], photographs: _Photographs, *, seed: int) -> Representation:
    model, about = _load(name, names, seed)
    data = model.data
    device = dist.device()
    module = model.module.to(device)
    parts = []
    with torch.inference_mode():
        for batch in photographs.batches(name, data.image_size):
            ready = views.finish(batch, device=device, mean=data.mean, std=data.std)
            parts.append(module(ready.global_views[0]).float().cpu().numpy())
    values = np.concatenate(parts)
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        raise CheckpointError(
            f"{name} gives features that are not finite for {broken} of {len(values)} photographs: "
            "the weights are damaged or the run diverged"
        )
    seen = _seen(Path(name), photographs.index)
    return Representation(name, f"{about}, {data.image_size} px", values, seen=seen)


def _load(name: str, names: Sequence[str], seed: int) -> tuple[Pretrained, str]:
    if name != RANDOM:
        kind = "export" if Path(name).is_dir() else "timm model"
        return pretrained.load_timm(name), kind
    like = _like(names)
    if like is None:
        return _tiny(seed), f"random weights, {TINY} with patches of {TINY_PATCH} px"
    return pretrained.untrained(like, seed=seed), f"random weights, architecture of {like}"


def _tiny(seed: int) -> Pretrained:
    """What `random` is where no other WEIGHTS name an architecture: small enough for any laptop."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = encoder.create(TINY, img_size=TINY_PIXELS, patch_size=TINY_PATCH, global_pool="avg")
    module.eval().requires_grad_(False)
    data = DataConfig(TINY_PIXELS, views.IMAGENET_MEAN, views.IMAGENET_STD, "bicubic", 1.0)
    return Pretrained(module, data)


def _like(names: Sequence[str]) -> str | None:
    """Whose architecture `random` takes: the first export's, else the first timm model's."""
    models = [name for name in names if name not in (RANDOM, MEAN_COLOUR, PIXEL_PCA)]
    exports = [name for name in models if Path(name).is_dir()]
    return next(iter(exports + models), None)


def _seen(folder: Path, index: Index) -> bool | None:
    """Whether an export's card names the index of these shards among what it was trained on."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    return index.digest in card.read_text(encoding="utf-8", errors="replace")
