"""The compiled crop: the wheels' bits or none, their verdict on every damaged file, and no trace in a run."""

import io
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from PIL import Image

from ssl_retina import config
from ssl_retina.contract import Batch, ViewSpec, uniform
from ssl_retina.data import cutting, geometry, images, native, recipes, views
from ssl_retina.data.cutting import Piece
from ssl_retina.data.images import Encoded, Undecodable, opened
from ssl_retina.data.loader import open_source
from ssl_retina.data.stream import as_positions

REQUIRE = "SSL_RETINA_REQUIRE_NATIVE"
COLOURS = {"444": ("RGB", 0), "422": ("RGB", 1), "420": ("RGB", 2), "grey": ("L", 0)}


@pytest.fixture
def built() -> None:
    """The compiled code runs here; where CI says that it must, its absence is a failure."""
    if native.library() is None:
        assert not os.environ.get(REQUIRE), (
            "the compiled code is not there, or does not give the wheels' bits"
        )
        pytest.skip("data/native/crop.c is not built (no compiler, no jpeglib.h, or no AVX2)")


def _content(draw: random.Random, size: tuple[int, int], colours: str, **options: Any) -> bytes:
    mode, subsampling = COLOURS[colours]
    small = np.random.default_rng(draw.getrandbits(32)).integers(
        0, 256, (-(-size[1] // 4), -(-size[0] // 4), 3), np.uint8
    )
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).convert(mode)
    if mode == "RGB":
        options["subsampling"] = subsampling
    out = io.BytesIO()
    image.save(out, "JPEG", quality=draw.choice((50, 92, 98)), **options)
    return out.getvalue()


def _pieces(draw: random.Random, width: int, height: int) -> list[Piece]:
    """Boxes of any size, one pixel and the whole image among them, at borders and inside."""
    found = []
    for _ in range(draw.randint(1, 4)):
        left, right = draw.choice([sorted(draw.sample(range(width + 1), 2)), (0, width), (width - 1, width)])
        top, bottom = draw.choice([sorted(draw.sample(range(height + 1), 2)), (0, height), (0, 1)])
        size = draw.choice([(32, 32), (draw.randint(1, 70), draw.randint(1, 70))])
        place = np.zeros((*size, 3), np.uint8)
        found.append(Piece((left, top, right, bottom), draw.random() < 0.5, place))
    return found


def _by_wheels(pixels: images.Pixels, pieces: list[Piece]) -> Iterator[images.Pixels]:
    for piece in pieces:
        other = Piece(piece.box, piece.mirrored, np.empty_like(piece.out))
        cutting.resample(pixels, other)
        yield other.out


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("share", [1, 2, 4, 8])
@pytest.mark.parametrize("colours", COLOURS)
def test_bits_are_those_of_the_wheels(colours: str, share: int) -> None:
    draw = random.Random(f"{colours}{share}")
    for number in range(25):
        least, most = ((1, 40), (100, 300))[number % 2]
        size = draw.randint(least, most), draw.randint(least, most)
        restarts = {"restart_marker_blocks": 3} if number % 5 == 0 else {}
        encoded = opened(_content(draw, size, colours, **restarts), "jpg")
        pixels, given = encoded.pixels(share)
        assert given == share
        pieces = _pieces(draw, pixels.shape[1], pixels.shape[0])
        assert native.resample(encoded, share, pieces)
        for piece, expected in zip(pieces, _by_wheels(pixels, pieces), strict=True):
            assert np.array_equal(piece.out, expected), (size, piece.box, piece.mirrored, piece.out.shape)


@pytest.mark.usefixtures("built")
def test_weights_are_those_of_the_wheels_at_every_scale() -> None:
    draw = random.Random(0)
    encoded = opened(_content(draw, (700, 24), "420"), "jpg")
    pixels, _ = encoded.pixels()
    for width in range(1, 700, 3):
        pieces = [
            Piece((0, 0, width, 24), width % 2 == 0, np.empty((24, size, 3), np.uint8)) for size in (96, 224)
        ]
        assert native.resample(encoded, 1, pieces)
        for piece, expected in zip(pieces, _by_wheels(pixels, pieces), strict=True):
            assert np.array_equal(piece.out, expected), width


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("share", [1, 2, 4])
@pytest.mark.parametrize("colours", COLOURS)
def test_what_is_left_out_around_a_view_changes_nothing(colours: str, share: int) -> None:
    """Wherever in a block a view alone begins and ends, its borders are those of the whole image."""
    encoded = opened(_content(random.Random(5), (190, 180), colours), "jpg")
    pixels, _ = encoded.pixels(share)
    height, width = pixels.shape[:2]
    for at in range(36):
        top, right, bottom = (at * step % 36 // share for step in (7, 5, 11))
        box = (at // 2, 2 * top, width - right, height - bottom)
        piece = Piece(box, False, np.empty((box[3] - box[1], box[2] - box[0], 3), np.uint8))
        assert native.resample(encoded, share, [piece])
        assert np.array_equal(piece.out, pixels[box[1] : box[3], box[0] : box[2]]), box


def _mutants(draw: random.Random) -> Iterator[bytes]:
    """Files that are cut, overwritten, shortened, lengthened, or lie about their size and their colours."""
    wholes = [_content(draw, (90, 70), name) for name in COLOURS]
    wholes.append(_content(draw, (90, 70), "420", restart_marker_blocks=2))
    for number in range(600):
        content = bytearray(draw.choice(wholes))
        place = draw.randrange(len(content))
        if number % 5 == 0:
            del content[place:]
        elif number % 5 == 1:
            content[place] = draw.randrange(256)
        elif number % 5 == 2:
            del content[place : place + draw.randint(1, 30)]
        elif number % 5 == 3:
            content[place:place] = draw.randbytes(9)
        else:
            header = content.index(b"\xff\xc0") + draw.randint(4, 12)
            content[header] = draw.choice((0, 1, 2, 17, 18, 33, 34, 66, 255))
        yield bytes(content)


def _drawn(content: bytes, view: geometry.View) -> np.ndarray | str:
    """The view, or why there is none."""
    out = np.zeros((view.size, view.size, 3), np.uint8)
    try:
        views.draw(opened(content, "jpg"), [view], 0, out=[out], field=None)
    except Undecodable as error:
        return str(error)
    return out


@pytest.mark.usefixtures("built")
def test_damaged_files_get_the_same_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    verdicts = {True: 0, False: 0}
    crop = recipes.RECIPES["mocov3_paper"].global_crop
    for number, content in enumerate(_mutants(random.Random(3))):
        draws = uniform(0, "crop", torch.tensor([number]), geometry.DRAWS, 0).double().numpy()
        view = geometry.View(crop, True, None, 16, draws)
        ours = _drawn(content, view)
        with monkeypatch.context() as patch:
            patch.setattr(native, "library", lambda: None)
            theirs = _drawn(content, view)
        assert np.array_equal(ours, theirs), (number, ours, theirs)
        verdicts[isinstance(ours, str)] += 1
    assert min(verdicts.values()) > 50, verdicts


@pytest.mark.usefixtures("built")
def test_other_files_are_left_to_the_wheels() -> None:
    draw = random.Random(1)
    place = [Piece((0, 0, 40, 30), False, np.zeros((8, 8, 3), np.uint8))]
    progressive = opened(_content(draw, (64, 48), "420", progressive=True), "jpg")
    whole = opened(_content(draw, (64, 48), "420"), "jpg")
    assert not native.resample(progressive, 1, place)
    assert not native.resample(Encoded(whole.content, "jpg", 65, 48, direct=True), 1, place)  # another size
    assert not native.resample(
        Encoded(whole.content[:-40], "jpg", 64, 48, direct=True), 1, place
    )  # below the crop
    assert not native.resample(whole, 1, [Piece((0, 0, 65, 30), False, place[0].out)])
    assert not native.resample(whole, 1, [])
    assert native.resample(whole, 1, place)


def _batches(folder: Path, spec: ViewSpec) -> list[Batch]:
    data = config.Data(shards=(folder,), batch_size=6, workers=0, held_out=0.0)
    stream = open_source(data, spec, seed=0).stream
    found = [stream.load(as_positions(start, 6)).batch for start in (0, 6)]
    return [batch for batch in found if batch is not None]


@pytest.mark.usefixtures("built")
@pytest.mark.parametrize("recipe", ["mae", "mocov3_paper", "dino_paper", "contrast"])
@pytest.mark.parametrize("size", [16, 80])
def test_a_run_does_not_notice(
    recipe: str, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crops decoded smaller (16) and in full (80), turned ones too."""
    factory.make_shards(tmp_path, samples=12, shards=2, size=96)
    local = 4 if recipe == "dino_paper" else 0
    spec = ViewSpec(recipe, 2, size, local, 12 if local else 0)
    counted = []
    real = native.resample
    monkeypatch.setattr(native, "resample", lambda *given: counted.append(real(*given)) or counted[-1])
    ours = _batches(tmp_path, spec)
    assert counted == [True] * 11  # the twelfth is a PNG
    monkeypatch.setattr(native, "library", lambda: None)
    for one, other in zip(ours, _batches(tmp_path, spec), strict=True):
        assert torch.equal(one.global_views, other.global_views)
        assert torch.equal(one.field_of_view.nan_to_num(), other.field_of_view.nan_to_num())
        assert not local or torch.equal(one.local_views, other.local_views)


@pytest.mark.usefixtures("built")
def test_it_can_be_switched_off_and_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    look = native.library.__wrapped__
    assert look() is not None
    monkeypatch.setenv(native.SWITCH, "0")
    assert look() is None
    monkeypatch.delenv(native.SWITCH)
    with monkeypatch.context() as patch:
        patch.setattr(native, "LIBRARY", "absent.so")
        assert look() is None
    with monkeypatch.context() as patch:
        patch.setattr(native, "LIBRARY", "crop.c")  # no library
        assert look() is None
    real = cutting.resample
    monkeypatch.setattr(
        cutting, "resample", lambda pixels, piece: (real(pixels, piece), piece.out.__iadd__(1))
    )
    assert look() is None
