"""WEIGHTS as the user names them -> one row of numbers for each photograph.

In: an export's folder, a timm name, `random`, `mean-colour` or `pixel-pca`, and rows of the shards. Out:
(photographs, dimensions) float32 in the same order. Frozen, no gradient, no augmentation. `embed` and
`finetune` read photographs and weights through the same functions.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
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
from ssl_retina.models import encoder, lineage, pretrained
from ssl_retina.models.pretrained import DataConfig, Pretrained
from ssl_retina.shards import Index

RANDOM, MEAN_COLOUR, PIXEL_PCA = "random", "mean-colour", "pixel-pca"
PIXELS = 32
COMPONENTS = 192
ABOUT_COLOUR = f"mean red, green and blue of the {PIXELS} px image"
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
            yield _of_model(name, names, Photographs(index, rows, advance), seed=seed)
            continue
        if small is None:
            photographs = Photographs(index, rows, advance)
            small = np.concatenate([flat(batch) for batch in photographs.batches(name, PIXELS)])
        yield _of_pixels(name, small)


@dataclass(frozen=True)
class Photographs:
    """The chosen rows of the shards, at any size. `workers`: None for some where it pays."""

    index: Index
    rows: Integers
    advance: Advance
    batch: int = BATCH
    workers: int | None = None

    def batches(self, name: str, size: int) -> Iterator[Batch]:
        """Whole images (1, batch, 3, size, size) uint8."""
        workers = self.workers
        if workers is None:
            workers = WORKERS if len(self.rows) >= SMALLEST_FOR_WORKERS else 0
        data = config.Data(shards=(self.index.folder,), batch_size=self.batch, workers=workers, held_out=0.0)
        source = open_source(data, ViewSpec("plain", global_views=1, global_size=size), seed=0)
        done = 0
        for batch in source.whole(self.rows, batch=self.batch, size=size):
            yield batch
            done += len(batch.keys)
            self.advance(name, done)


def flat(batch: Batch) -> NDArray[np.float32]:
    """Pixels of whole images (batch, 3 * size * size) in [0, 1], channel by channel."""
    scaled: NDArray[np.float32] = (batch.global_views[0].flatten(1).float() / 255).numpy()
    return scaled


def _of_pixels(name: str, small: NDArray[np.float32]) -> Representation:
    if name == MEAN_COLOUR:
        return Representation(name, ABOUT_COLOUR, mean_colour(small))
    about = f"up to {COMPONENTS} principal components of the {PIXELS} px image, fitted in each training part"
    return Representation(name, about, _rotated(small), COMPONENTS)


def mean_colour(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """Mean red, green and blue (photographs, 3) of flat pixels."""
    colour: NDArray[np.float32] = pixels.reshape(len(pixels), 3, -1).mean(axis=2)
    return colour


def _rotated(pixels: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same points in the fewest coordinates: no distance changes, and a PCA of any part costs less."""
    if len(pixels) >= pixels.shape[1]:
        return pixels
    basis = np.linalg.qr(pixels.T.astype(np.float64)).Q
    rotated: NDArray[np.float32] = (pixels @ basis).astype(np.float32)
    return rotated


def _of_model(name: str, names: Sequence[str], photographs: Photographs, *, seed: int) -> Representation:
    model, about = load(name, names, seed=seed)
    values = np.concatenate(list(vectors(model, photographs.batches(name, model.data.image_size))))
    check_finite(name, values)
    seen = seen_in_pretraining(name, photographs.index)
    return Representation(name, f"{about}, {model.data.image_size} px", values, seen=seen)


def vectors(model: Pretrained, batches: Iterable[Batch]) -> Iterator[NDArray[np.float32]]:
    """What the model gives of each batch of whole images: (batch, features) float32."""
    device, data = dist.device(), model.data
    module = model.module.to(device)
    for batch in batches:
        ready = views.finish(batch, device=device, mean=data.mean, std=data.std)
        with torch.inference_mode():
            given: NDArray[np.float32] = module(ready.global_views[0]).float().cpu().numpy()
        yield given


def check_finite(name: str, values: NDArray[np.float32]) -> None:
    """Raise CheckpointError where any of the (photographs, features) is NaN or infinite."""
    broken = int((~np.isfinite(values)).any(axis=1).sum())
    if broken:
        raise CheckpointError(
            f"{name} gives features that are not finite for {broken} of {len(values)} photographs: "
            "the weights are damaged or the run diverged"
        )


def load(name: str, names: Sequence[str], *, seed: int) -> tuple[Pretrained, str]:
    """A frozen encoder and what it is; `names`: all WEIGHTS, whose architecture `random` takes."""
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


def seen_in_pretraining(name: str, index: Index) -> bool | None:
    """Whether an export saw these shards, by its card, itself or by way of the weights that it started from.

    None where a part of them was chosen, where what its start was trained on is not known, or without a card.
    """
    text = card(name)
    return None if text is None else lineage.seen(lineage.of_card(text), index.digest)


def card(name: str) -> str | None:
    """The card of an export; None of other weights."""
    path = Path(name) / pretrained.CARD_NAME
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None
