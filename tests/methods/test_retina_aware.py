"""A black patch is neither kept nor predicted; structure counts more; a flip never swaps the eye."""

import dataclasses
from functools import partial
from itertools import islice
from typing import Any

import factory
import numpy as np
import pytest
import torch
from torch import Tensor

from ssl_retina import config, methods
from ssl_retina.contract import Batch, Clock, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.images import opened
from ssl_retina.data.loader import open_source
from ssl_retina.data.recipes import RECIPES
from ssl_retina.methods import mae
from ssl_retina.models import encoder, masking

CLOCK = Clock(step=2, total=10, seed=3)
SIZE, PATCH, GRID = 64, 4, 16
SAMPLES = 24
BLACK = torch.tensor([-mean / std for mean, std in zip(views.IMAGENET_MEAN, views.IMAGENET_STD, strict=True)])


def _method(**changes: Any) -> mae.Method:
    model = config.Model(name="vit_tiny_patch16_224", image_size=SIZE, patch_size=PATCH, depth=1)
    small = {"name": "mae", "decoder_width": 32, "decoder_depth": 1, "decoder_heads": 4, "field": "retina"}
    torch.manual_seed(0)
    settings = mae.Config.model_validate({**small, **changes})
    return mae.Method(settings, partial(encoder.build, model, checkpointing=False)).eval()


@pytest.fixture(scope="module")
def batch(tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """Crops of discs on black, of stored fields; every eighth sample is a scan without one."""
    folder = tmp_path_factory.mktemp("set")
    factory.make_shards(folder, samples=SAMPLES, size=96)
    data = config.Data(shards=(folder,), batch_size=SAMPLES, workers=0, held_out=0.0)
    source = open_source(data, mae.views(mae.Config(crop_scale=(0.6, 1.0)), SIZE), seed=1)
    (loaded,) = islice(source.batches(0, rank=0, world=1, micro_batch=SAMPLES), 1)
    return views.finish(loaded, device=torch.device("cpu"))


def _patches(images: Tensor) -> Tensor:
    """(batch, 256, 3, 4, 4), row by row."""
    cut = images.view(len(images), 3, GRID, PATCH, GRID, PATCH).permute(0, 2, 4, 1, 3, 5)
    return cut.reshape(len(images), GRID * GRID, 3, PATCH, PATCH)


def _black(images: Tensor, level: int) -> Tensor:
    """(batch, 256): where nothing of a patch is brighter than so many of 255."""
    bright = (_patches(images) - BLACK[:, None, None]) * torch.tensor(views.IMAGENET_STD)[:, None, None]
    return bright.amax(dim=(2, 3, 4)) <= (level + 0.1) / 255


def _mask(method: mae.Method, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> masking.FieldMask:
    """What the method's forward pass asked for."""
    masks: list[masking.FieldMask] = []

    def noted(*given: Any, **named: Any) -> masking.FieldMask:
        masks.append(masking.field_mask(*given, **named))
        return masks[-1]

    monkeypatch.setattr(mae, "field_mask", noted)
    with torch.no_grad():
        method(batch, CLOCK)
    (mask,) = masks
    return mask


@pytest.mark.parametrize(("known", "level"), [(True, 12), (False, 1)])
def test_a_black_patch_is_neither_kept_nor_predicted(
    batch: Batch, known: bool, level: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Black but for JPEG's ringing where the field is known, else black. Without `field` both happens."""
    if not known:
        nowhere = torch.full_like(batch.field_of_view, torch.nan)
        batch = dataclasses.replace(batch, field_of_view=nowhere)
    black = _black(batch.global_views[0], level)
    if known:
        black &= ~batch.field_of_view[0].isnan().any(dim=1, keepdim=True)
    assert int(black.sum()) > 3 * SAMPLES
    mask = _mask(_method(), batch, monkeypatch)
    assert bool(mask.confined.all())
    assert not bool(black.gather(1, mask.keep).any())
    assert not bool((black.gather(1, mask.hidden) & mask.counted).any())
    assert mask.keep.shape == (SAMPLES, 64)
    plain = _mask(_method(field="ignore"), batch, monkeypatch)
    assert bool(black.gather(1, plain.keep).any())
    assert bool((black.gather(1, plain.hidden) & plain.counted).any())


def test_what_stands_outside_of_the_field_changes_neither_loss_nor_gradient(batch: Batch) -> None:
    """Noise in every patch with less than half retina."""
    share = masking.patch_field(batch.field_of_view[0], GRID, SIZE)
    noise = torch.randn(SAMPLES, GRID * GRID, 3, PATCH, PATCH) * (share < 0.5)[:, :, None, None, None]
    spread = noise.view(SAMPLES, GRID, GRID, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
    changed = batch.global_views + spread.reshape(1, SAMPLES, 3, SIZE, SIZE)
    found = {}
    for field in ("retina", "ignore"):
        for name, images in (("as it was", batch.global_views), ("changed", changed)):
            method = _method(field=field, structure=0.5)
            loss = method(dataclasses.replace(batch, global_views=images), CLOCK).loss
            loss.backward()
            gradient = torch.cat([one.grad.flatten() for one in method.parameters() if one.grad is not None])
            found[field, name] = (loss.detach(), gradient)
    assert all(map(torch.equal, found["retina", "as it was"], found["retina", "changed"]))
    assert not torch.equal(found["ignore", "as it was"][0], found["ignore", "changed"][0])


@pytest.mark.parametrize("changes", [{}, {"structure": 1.0}, {"field": "ignore", "structure": 0.5}])
@pytest.mark.parametrize("parts", [(12, 12), (1,) * 24])
def test_law_3_with_a_field_and_structure(
    batch: Batch, parts: tuple[int, ...], changes: dict[str, Any]
) -> None:
    """The mean of parts is the whole, though samples have unequally many patches that count."""

    def some(start: int, stop: int) -> Batch:
        return dataclasses.replace(
            batch,
            global_views=batch.global_views[:, start:stop],
            position=batch.position[start:stop],
            field_of_view=batch.field_of_view[:, start:stop],
        )

    method, results = _method(**changes), []
    for sizes in ((SAMPLES,), parts):
        method.zero_grad()
        starts = np.cumsum([0, *sizes])
        losses = [method(some(a, b), CLOCK).loss for a, b in zip(starts[:-1], starts[1:], strict=True)]
        (torch.stack(losses).sum() / len(losses)).backward()
        gradients = [one.grad.clone() for one in method.parameters() if one.grad is not None]
        results.append((sum(loss.item() for loss in losses) / len(losses), gradients))
    assert results[1][0] == pytest.approx(results[0][0], rel=1e-6)
    for whole, part in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-4, atol=1e-6)


def test_logs_tell_how_much_of_the_retina_is_hidden(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    method = _method()
    mask = _mask(method, batch, monkeypatch)
    shares = [int(one.sum()) / (int(one.sum()) + 64) for one in mask.counted]
    logs = method(batch, CLOCK).logs
    assert logs["hidden_retina"].item() == pytest.approx(sum(shares) / SAMPLES, rel=1e-5)
    assert logs["confined_masks"].item() == 1
    assert 0.6 < logs["hidden_retina"].item() < 0.75
    assert _method(field="ignore")(batch, CLOCK).logs == {}


def test_a_view_of_little_retina_pays_for_its_retina_alone(batch: Batch) -> None:
    """A field of four patches: the plain mask, and no NaN where none of them is hidden."""
    far = torch.tensor([8.0, 8.0, 8.0, 8.0]).expand_as(batch.field_of_view)
    output = _method()(dataclasses.replace(batch, field_of_view=far), CLOCK)
    assert output.logs["confined_masks"].item() == 0
    assert bool(output.loss.isfinite())


def test_structure_draws_the_loss_to_lesions(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bright spots of the discs lie in patches of much contrast."""
    weights: list[Tensor] = []
    kept = mae.Method._weight
    monkeypatch.setattr(
        mae.Method,
        "_weight",
        lambda *given: weights.append(kept(*given)) or weights[-1],  # type: ignore[func-returns-value]
    )
    mask = _mask(_method(structure=1.0), batch, monkeypatch)
    bright = _patches(batch.global_views[0])[:, :, 2].amax(dim=(2, 3)).gather(1, mask.hidden)
    share = masking.patch_field(batch.field_of_view[0], GRID, SIZE).gather(1, mask.hidden)
    retina = mask.counted & (share > 0.99)
    spots = retina & (bright > 0)
    assert int(spots.sum()) > 10
    assert float(weights[-1][spots].mean()) > 1.5 * float(weights[-1][retina & ~spots].mean())


def _sided() -> np.ndarray:
    """A right eye: its disc, the only bright spot, lies to the right."""
    image = np.full((96, 96, 3), (120, 50, 20), np.uint8)
    image[40:56, 68:84] = 250
    return image


@pytest.mark.parametrize("recipe", sorted(RECIPES))
@pytest.mark.parametrize("flip", [False, True])
def test_a_flip_never_swaps_the_eye(recipe: str, flip: bool) -> None:
    """Of 60 views that show the disc's place whole; with flips about half have it on the left."""
    spec = ViewSpec(recipe, 2, 48, crop_scale=None if recipe == "plain" else (0.9, 1.0), flip=flip)
    encoded = opened(factory.encoded(_sided(), "png"), "png")
    drawn, _ = views.plan(spec, 7, torch.arange(30))
    left = 0
    for number in range(30):
        out = [np.zeros((48, 48, 3), np.uint8) for _ in drawn]
        views.draw(encoded, drawn, number, out=out, field=None)
        for picture in out:
            columns = (picture[..., 2] > 150).sum(axis=0)
            left += bool(columns[:24].sum() > columns[24:].sum())
    expected = 30 if flip and RECIPES[recipe].flip else 0
    assert (RECIPES[recipe].flip > 0) == (recipe not in {"plain", "ijepa"})
    assert abs(left - expected) <= (0 if expected == 0 else 13)


@pytest.mark.parametrize("name", ["mae", "simclr", "mocov3"])
def test_methods_ask_for_views_without_flips(name: str) -> None:
    file = methods.load(name)
    assert file.views(file.Config(), 64).flip
    assert not file.views(file.Config(flip=False), 64).flip
