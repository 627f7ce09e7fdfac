"""Views: the distribution of torchvision's crop, PIL's pixels, an ellipse that follows, draws by position."""

import math
import random
from typing import Any

import factory
import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import geometry, recipes, views
from ssl_retina.data.geometry import Crop, View
from ssl_retina.data.images import Encoded, opened
from ssl_retina.errors import InputError

MAE = Crop(scale=(0.2, 1.0))


def _boxes(count: int, width: int, height: int, crop: Crop = MAE) -> np.ndarray:
    draws = torch.rand(count, geometry.DRAWS, generator=torch.Generator().manual_seed(1)).double().numpy()
    return np.array([geometry.crop_box(row, width, height, crop=crop) for row in draws])


def _reference(count: int, width: int, height: int, crop: Crop = MAE) -> np.ndarray:
    """torchvision's `RandomResizedCrop.get_params`, written from its documentation."""
    rng = random.Random(2)
    boxes = []
    for _ in range(count):
        box = None
        for _ in range(10):
            area = width * height * rng.uniform(*crop.scale)
            ratio = math.exp(rng.uniform(math.log(crop.ratio[0]), math.log(crop.ratio[1])))
            wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if 0 < wide <= width and 0 < tall <= height:
                left, top = rng.randint(0, width - wide), rng.randint(0, height - tall)
                box = (left, top, left + wide, top + tall)
                break
        if box is None:
            wide = min(width, round(height * crop.ratio[1]))
            tall = min(height, round(width / crop.ratio[0]))
            left, top = (width - wide) // 2, (height - tall) // 2
            box = (left, top, left + wide, top + tall)
        boxes.append(box)
    return np.array(boxes)


@pytest.mark.parametrize(("width", "height"), [(512, 512), (512, 300), (48, 64)])
def test_crops_are_distributed_as_torchvisions(width: int, height: int) -> None:
    """Two-sample Kolmogorov-Smirnov distance of area, shape and place; 1.95 / sqrt(n / 2) is p = 0.001."""
    count = 8000
    ours, theirs = _boxes(count, width, height), _reference(count, width, height)
    for measure in (
        lambda box: (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]),
        lambda box: (box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1]),
        lambda box: box[:, 0],
        lambda box: box[:, 1],
        lambda box: box[:, 2],
        lambda box: box[:, 3],
    ):
        a, b = np.sort(measure(ours)), np.sort(measure(theirs))
        grid = np.unique(np.concatenate([a, b]))
        apart = np.searchsorted(a, grid, "right") - np.searchsorted(b, grid, "right")
        assert np.abs(apart).max() / count < 1.95 * math.sqrt(2 / count)


def test_reference_agrees_with_torchvision_itself() -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    torch.manual_seed(0)
    image = torch.zeros(1, 300, 512)
    params = [transforms.RandomResizedCrop.get_params(image, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    areas = np.sort([tall * wide for _, _, tall, wide in params])
    ours = _boxes(4000, 512, 300)
    mine = np.sort((ours[:, 2] - ours[:, 0]) * (ours[:, 3] - ours[:, 1]))
    grid = np.unique(np.concatenate([areas, mine]))
    apart = np.searchsorted(areas, grid, "right") - np.searchsorted(mine, grid, "right")
    assert np.abs(apart).max() / 4000 < 1.95 * math.sqrt(2 / 4000)


@pytest.mark.parametrize(("width", "height"), [(600, 100), (100, 600)])
def test_fallback_is_the_largest_allowed_box_in_the_centre(width: int, height: int) -> None:
    for box in _boxes(50, width, height, Crop(scale=(0.9, 1.0))).tolist():
        assert width - 1 <= box[0] + box[2] <= width
        assert height - 1 <= box[1] + box[3] <= height
        assert (box[2] - box[0], box[3] - box[1]) == ((133, 100) if width > height else (100, 133))


def test_boxes_stay_inside_at_the_ends_of_the_draws() -> None:
    largest = np.nextafter(np.float32(1), np.float32(0))
    for value in (0.0, float(largest)):
        box = geometry.crop_box(np.full(geometry.DRAWS, value), 97, 64, crop=MAE)
        assert 0 <= box[0] < box[2] <= 97
        assert 0 <= box[1] < box[3] <= 64


def _encoded(image: Image.Image) -> Encoded:
    return opened(factory.encoded(np.asarray(image), "png"), "png")


def _drawn(view: View, number: int, image: Image.Image, field: list[float] | None = None):
    out = np.empty((view.size, view.size, 3), dtype=np.uint8)
    (followed,) = views.draw(_encoded(image), [view], number, out=[out], field=field)
    return out, followed


def test_pixels_are_pils_antialiased_bicubic() -> None:
    image = Image.fromarray(factory.pixels(3, size=96))
    positions = torch.arange(20)
    (view,), _ = views.plan(ViewSpec("mae", 1, 32), 7, positions)
    flips = 0
    for number in range(20):
        out, _ = _drawn(view, number, image)
        box = geometry.crop_box(view.draws[number], 96, 96, crop=MAE)
        cut = np.asarray(image.crop(box).resize((32, 32), Image.Resampling.BICUBIC))
        flipped = bool(view.draws[number][geometry.FLIP] < 0.5)
        flips += flipped
        assert np.abs(out.astype(int) - (cut[:, ::-1] if flipped else cut)).max() <= 1
    assert 0 < flips < 20


def test_all_views_come_from_one_decoding_at_the_size_that_they_allow() -> None:
    """The field of view follows into the smaller decoding, and a photograph is decoded once."""

    class Counted:
        width = height = 400
        asked: list[int] = []  # noqa: RUF012

        def pixels(self, share: int = 1) -> tuple[np.ndarray, int]:
            self.asked.append(share)
            return np.full((400 // share, 400 // share, 3), 90, np.uint8), share

    (first, second), _ = views.plan(ViewSpec("mae", 2, 48, crop_scale=(0.999, 1.0)), 7, torch.arange(1))
    counted, out = Counted(), [np.empty((48, 48, 3), np.uint8) for _ in range(2)]
    fields = views.draw(counted, [first, second], 0, out=out, field=[200.0, 180.0, 190.0, 150.0])
    assert counted.asked == [4]
    for field in fields:
        assert np.allclose(field, np.array([200.0, 180.0, 190.0, 150.0]) * 48 / 400)
    (whole,), _ = views.plan(ViewSpec("plain", 1, 48), 7, torch.arange(1))
    views.draw(counted, [whole], 0, out=out[:1], field=None)
    assert counted.asked == [4, 1]  # a probe judges by all pixels


def test_plain_is_the_whole_image() -> None:
    image = Image.fromarray(factory.pixels(3, size=96))
    (view,), _ = views.plan(ViewSpec("plain", 1, 48), 7, torch.arange(4))
    whole = np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)).astype(int)
    for number in range(4):
        assert np.abs(_drawn(view, number, image)[0] - whole).max() <= 1


def test_draws_hang_on_the_position_alone() -> None:
    spec = ViewSpec("mae", 2, 32)
    together, _ = views.plan(spec, 7, torch.arange(100, 108))
    for start in (100, 104):
        part, _ = views.plan(spec, 7, torch.arange(start, start + 4))
        for whole, piece in zip(together, part, strict=True):
            assert np.array_equal(whole.draws[start - 100 : start - 96], piece.draws)
    assert not np.array_equal(together[0].draws, together[1].draws)
    other, _ = views.plan(spec, 8, torch.arange(100, 108))
    assert not np.array_equal(together[0].draws, other[0].draws)


@pytest.mark.parametrize("recipe", ["mae", "contrast"])
def test_field_of_view_follows_crop_turn_and_flip(recipe: str) -> None:
    """The ellipse in the view covers the pixels of the disc in the view, as counted."""
    size = 128
    y, x = np.mgrid[:size, :size] + 0.5
    field = [70.0, 60.0, 40.0, 40.0]
    disc = (x - field[0]) ** 2 + (y - field[1]) ** 2 <= field[2] ** 2
    image = Image.fromarray(np.repeat((disc * 255).astype(np.uint8)[..., None], 3, axis=2))
    (view,), _ = views.plan(ViewSpec(recipe, 1, 64), 3, torch.arange(30))
    rows, columns = np.mgrid[:64, :64] + 0.5
    for number in range(30):
        out, (centre_x, centre_y, radius_x, radius_y) = _drawn(view, number, image, field)
        inside = ((columns - centre_x) / radius_x) ** 2 + ((rows - centre_y) / radius_y) ** 2
        seen = out[..., 0] > 127
        assert (seen != (inside <= 1)).mean() < 0.02
    assert np.isnan(_drawn(view, 0, image)[1]).all()


def test_finish_normalises_on_the_device() -> None:
    pixels = torch.randint(0, 256, (2, 3, 3, 8, 8), dtype=torch.uint8)
    batch = Batch(pixels, None, ("a", "b", "c"), torch.arange(3), torch.arange(3), torch.zeros(2, 3, 4))
    done = views.finish(batch, device=torch.device("cpu"))
    mean, std = (torch.tensor(part).view(3, 1, 1) for part in (views.IMAGENET_MEAN, views.IMAGENET_STD))
    assert torch.allclose(done.global_views, (pixels.float() / 255 - mean) / std, atol=1e-5)
    assert done.global_views.dtype == torch.float32
    assert done.local_views is None
    own = views.finish(batch, device=torch.device("cpu"), mean=(0, 0, 0), std=(1, 1, 1))
    assert torch.allclose(own.global_views, pixels.float() / 255)


def test_unknown_recipes_are_refused() -> None:
    with pytest.raises(InputError, match="'maee' does not exist; one of: mae, ijepa, plain, mae_retina"):
        recipes.recipe(ViewSpec("maee", 1, 32))
    with pytest.raises(InputError, match="no local views"):
        recipes.recipe(ViewSpec("mae", 1, 32, local_views=2, local_size=16))
    with pytest.raises(InputError, match="shows the whole image"):
        recipes.recipe(ViewSpec("plain", 1, 32, crop_scale=(0.5, 1.0)))
    for scale in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.1)):
        with pytest.raises(InputError, match="0 < low <= high <= 1"):
            recipes.recipe(ViewSpec("mae", 1, 32, crop_scale=scale))
    with pytest.raises(InputError, match="must be 0 or more"):
        recipes.recipe(ViewSpec("contrast", 1, 32, colour=-0.1))


@pytest.mark.parametrize("recipe", ["mae", "contrast", "mocov3"])
def test_the_asked_crop_replaces_the_recipes(recipe: str) -> None:
    """Areas fill the asked range, and shapes stay the recipe's."""
    spec = ViewSpec(recipe, 2, 32, crop_scale=(0.5, 0.6))
    for view in views.plan(spec, 7, torch.arange(400))[0]:
        assert view.crop is not None
        boxes = np.array([geometry.crop_box(row, 512, 512, crop=view.crop) for row in view.draws])
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / 512**2
        assert 0.497 < areas.min() < 0.503
        assert 0.597 < areas.max() < 0.603


class _Copies(TorchDispatchMode):
    """Counts copies from the processor to a device that the processor would wait for."""

    waiting = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func).split(".")[1]
        moved = name == "_to_copy" and str(kwargs.get("device")) == "meta" and args[0].device.type == "cpu"
        written = name == "copy_" and args[0].device.type == "meta" and args[1].device.type == "cpu"
        self.waiting += bool((moved or written) and not kwargs.get("non_blocking"))
        return func(*args, **kwargs)


@pytest.mark.parametrize("recipe", sorted(recipes.RECIPES))
def test_the_device_is_never_waited_for(recipe: str) -> None:
    spec, places, scans = ViewSpec(recipe, 2, 32), torch.arange(64), [False] * 64
    batch = Batch(
        global_views=torch.zeros((2, 64, 32, 32, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3),
        local_views=None,
        keys=("k",) * 64,
        position=places,
        group=places,
        field_of_view=torch.full((2, 64, 4), 16.0),
        colours=views.colours(spec, 0, places, scans=scans),
        cameras=views.cheap_cameras(spec, 0, places, scans=scans),
    )
    with _Copies() as copies:
        views.finish(batch, device=torch.device("meta"))
    assert copies.waiting == 0
