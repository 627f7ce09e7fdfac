"""The two pipelines that `bench stream` runs beside ours, written as the documents of their libraries show.

In: tars, a recipe's name. Out: an endless iterator of float32 batches on the CPU. "plain" is webdataset, PIL
and the transforms of torchvision and lightly; "tensors" is webdataset and torchvision's transforms v2 on
decoded tensors. Both use torch's DataLoader; neither knows how to resume.
"""

import warnings
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import torch
import webdataset
from lightly.transforms import BYOLTransform, BYOLView1Transform, BYOLView2Transform, DINOTransform
from torch.utils.data import DataLoader
from torchvision import io, transforms
from torchvision.transforms import v2

from ssl_retina.data.views import IMAGENET_MEAN, IMAGENET_STD

SHUFFLED = 100
"""Samples in webdataset's buffer; its documents have 100 to 1000, this is the cheaper end."""

MAE_SCALE, PAPER_SCALE, DINO_SCALE, LOCAL_SCALE = (0.2, 1.0), (0.08, 1.0), (0.4, 1.0), (0.05, 0.4)
BICUBIC = transforms.InterpolationMode.BICUBIC

Transform = Any
"""An image, in whatever form, -> its views."""


def plain(recipe: str) -> Transform:
    """A PIL image -> its float32 views: MAE's own transform, lightly's of BYOL (MoCo v3) and of DINO."""
    if recipe == "mae":
        return transforms.Compose(
            [
                transforms.RandomResizedCrop(224, scale=MAE_SCALE, interpolation=BICUBIC),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )
    if recipe == "two_views":
        first, second = BYOLView1Transform(input_size=224), BYOLView2Transform(input_size=224)
        return BYOLTransform(first, second)
    assert recipe == "multi_crop", recipe
    return DINOTransform(n_local_views=8)


def tensors(recipe: str) -> Transform:
    """The same on an encoded image's bytes, with torchvision's decoder and transforms v2 on uint8 tensors."""
    views = {
        "mae": [_view(224, MAE_SCALE, None)],
        "two_views": [_view(224, PAPER_SCALE, 1.0), _view(224, PAPER_SCALE, 0.1, solarised=0.2)],
        "multi_crop": [
            _view(224, DINO_SCALE, 1.0),
            _view(224, DINO_SCALE, 0.1, solarised=0.2),
            *[_view(96, LOCAL_SCALE, 0.5)] * 8,
        ],
    }[recipe]

    def transform(content: bytes) -> list[torch.Tensor]:
        encoded = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        with warnings.catch_warnings():  # torchvision hands decoding over to torchcodec, some day
            warnings.simplefilter("ignore", DeprecationWarning)
            image = io.decode_image(encoded, io.ImageReadMode.RGB)
        return [view(image) for view in views]

    return transform


def _view(
    size: int, scale: tuple[float, float], blurred: float | None, *, solarised: float = 0.0
) -> Transform:
    """One view; `blurred` is the probability of the blur, None for no change of colours at all."""
    steps: list[Transform] = [
        v2.RandomResizedCrop(size, scale=scale, interpolation=BICUBIC, antialias=True),
        v2.RandomHorizontalFlip(),
    ]
    if blurred is not None:
        steps += [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(23, (0.1, 2.0))], p=blurred),
        ]
    steps += [v2.RandomSolarize(128, p=solarised)] if solarised else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)]
    return v2.Compose(steps)


def batches(
    tars: Sequence[Path], transform: Transform, *, decoder: str | None, batch: int, workers: int
) -> Generator[Any, None, None]:
    """Endless batches: read in order, shuffled in a buffer, decoded, transformed, collated."""
    read = webdataset.WebDataset([str(tar) for tar in tars], shardshuffle=False, empty_check=False)
    shuffled = read.repeat().shuffle(SHUFFLED)
    decoded = shuffled if decoder is None else shuffled.decode(decoder)
    samples = decoded.to_tuple("jpg;png").map_tuple(transform)
    workers = min(workers, len(tars))  # one without a tar of its own would look for one for ever
    context = "fork" if workers else None
    loader: DataLoader[Any] = DataLoader(
        samples, batch_size=batch, num_workers=workers, multiprocessing_context=context
    )
    yield from loader
