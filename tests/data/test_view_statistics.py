"""Our views beside torchvision's and lightly's own transforms: the same statistics over many draws."""

import math
import random
from collections.abc import Callable

import factory
import numpy as np
import pytest
import torch
from lightly.transforms.byol_transform import BYOLView1Transform, BYOLView2Transform
from lightly.transforms.dino_transform import DINOViewTransform
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision import transforms

from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.images import opened

COUNT, SIZE, LOCAL = 500, 64, 32
BICUBIC = transforms.InterpolationMode.BICUBIC
GLOBAL_SIGMAS, LOCAL_SIGMAS = (0.1 * SIZE / 224, 2 * SIZE / 224), (0.1 * LOCAL / 96, 2 * LOCAL / 96)

Transform = Callable[[Image.Image], Tensor]
Numbers = NDArray[np.float64]


def picture() -> Image.Image:
    """Colours, waves and spots; no black, whose surround our colours leave alone on purpose."""
    y, x = np.mgrid[:150, :180]
    waves = (150 + 60 * np.sin(x / 9), 90 + 40 * np.cos(y / 7 + x / 40), 60 + 30 * np.sin((x + y) / 5))
    image = np.stack(waves, axis=2)
    image[(x - 120) ** 2 + (y - 60) ** 2 < 300] = (230, 210, 120)
    return Image.fromarray(np.clip(image, 25, 255).astype(np.uint8))


def _mae() -> list[Transform]:
    crop = transforms.RandomResizedCrop(SIZE, scale=(0.2, 1.0), interpolation=BICUBIC)
    return [transforms.Compose([crop, transforms.RandomHorizontalFlip(), transforms.ToTensor()])]


def _byol() -> list[Transform]:
    return [_view(BYOLView1Transform), _view(BYOLView2Transform)]


def _view(kind: type, smallest: float = 0.08, **options: object) -> Transform:
    """Lightly's, with the crop's filter of all our recipes."""
    found = kind(**{"input_size": SIZE, "sigmas": GLOBAL_SIGMAS, "normalize": None, **options})
    found.transform.transforms[0] = transforms.RandomResizedCrop(
        SIZE, scale=(smallest, 1.0), interpolation=BICUBIC
    )
    return found


def _dino() -> list[Transform]:
    large = {"crop_size": SIZE, "sigmas": GLOBAL_SIGMAS, "normalize": None}
    small = {"crop_size": LOCAL, "crop_scale": (0.05, 0.4), "sigmas": LOCAL_SIGMAS, "normalize": None}
    return [
        DINOViewTransform(**large, gaussian_blur=1.0, solarization_prob=0.0),
        DINOViewTransform(**large, gaussian_blur=0.1, solarization_prob=0.2),
        DINOViewTransform(**small, gaussian_blur=0.5, solarization_prob=0.0),
    ]


CASES = {
    "mae": (ViewSpec("mae", 1, SIZE), _mae),
    "two views": (ViewSpec("mocov3_paper", 2, SIZE), _byol),
    "multi-crop": (ViewSpec("dino_paper", 2, SIZE, 1, LOCAL), _dino),
}


def ours(spec: ViewSpec) -> list[Tensor]:
    """(draws, 3, size, size) in [0, 1] of every view, all of one picture."""
    encoded = opened(factory.encoded(np.asarray(picture()), "png"), "png")
    places = torch.arange(COUNT)
    planned = [view for part in views.plan(spec, 3, places) for view in part]
    drawn = [np.empty((COUNT, view.size, view.size, 3), np.uint8) for view in planned]
    for number in range(COUNT):
        views.draw(encoded, planned, number, out=[one[number] for one in drawn], field=None)
    stacks = [torch.from_numpy(one).permute(0, 3, 1, 2) for one in drawn]
    changes = views.colours(spec, 3, places, scans=[False] * COUNT)
    return [
        _finished(stack, None if changes is None else changes[at : at + 1]) for at, stack in enumerate(stacks)
    ]


def _finished(stack: Tensor, changes: Tensor | None) -> Tensor:
    nobody = torch.zeros(COUNT, dtype=torch.int64)
    batch = Batch(stack[None], None, ("",) * COUNT, nobody, nobody, torch.zeros(1, COUNT, 4), changes)
    return views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1)).global_views[0]


def statistics(stack: Tensor) -> dict[str, Numbers]:
    """One number of each draw."""
    grey = stack.mean(dim=1)
    laplacian = 4 * grey[:, 1:-1, 1:-1] - grey[:, :-2, 1:-1] - grey[:, 2:, 1:-1]
    laplacian = laplacian - grey[:, 1:-1, :-2] - grey[:, 1:-1, 2:]
    flat = stack.flatten(2)
    found = {f"mean {channel}": flat[:, channel].mean(dim=1) for channel in range(3)}
    found |= {f"spread {channel}": flat[:, channel].std(dim=1) for channel in range(3)}
    found["detail"] = laplacian.square().mean(dim=(1, 2)).sqrt()
    found["colour"] = (stack.amax(dim=1) - stack.amin(dim=1)).mean(dim=(1, 2))
    found["slope"] = (stack[..., : stack.shape[-1] // 2] - stack[..., stack.shape[-1] // 2 :]).mean(
        dim=(1, 2, 3)
    )
    return {name: numbers.double().numpy() for name, numbers in found.items()}


def apart(one: Numbers, other: Numbers) -> float:
    """Kolmogorov-Smirnov distance of two samples."""
    grid = np.concatenate((one, other))
    shares = [np.searchsorted(np.sort(part), grid, side="right") / len(part) for part in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def theirs(transform: Transform) -> Tensor:
    image = picture()
    return torch.stack([transform(image) for _ in range(COUNT)])


@pytest.mark.parametrize("case", list(CASES))
def test_pixels_are_distributed_as_the_references(case: str) -> None:
    """Level, spread, detail and colour of each view; the distance's p is 0.001 at 1.95 sqrt(2 / n)."""
    spec, make = CASES[case]
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 - lightly draws from it
    found, transformed = ours(spec), [theirs(one) for one in make()]
    assert len(found) == len(transformed)
    for own, reference in zip(found, transformed, strict=True):
        assert own.shape == reference.shape
        _assert_alike(statistics(own), statistics(reference))


def _assert_alike(own: dict[str, Numbers], reference: dict[str, Numbers]) -> None:
    distances = {name: apart(own[name], reference[name]) for name in own}
    assert max(distances.values()) < 1.95 * math.sqrt(2 / COUNT), distances


@pytest.mark.parametrize(
    ("smallest", "options"), [(0.4, {}), (0.08, {"cj_strength": 0.4}), (0.08, {"sigmas": (0.6, 2.0)})]
)
def test_another_recipe_is_told_apart(smallest: float, options: dict[str, object]) -> None:
    """The comparison has the power to see a wrong range of areas, of colours, of the blur."""
    spec, _ = CASES["two views"]
    torch.manual_seed(2)
    other = theirs(_view(BYOLView1Transform, smallest, **options))
    with pytest.raises(AssertionError):
        _assert_alike(statistics(ours(spec)[0]), statistics(other))
