"""`--ocr`: words that can be read are found wherever they stand, the middle of a retina included (F39)."""

import sys
from pathlib import Path

import factory
import numpy as np
import ocr_figures
import pytest
from photographs import contents, shard
from PIL import Image, ImageDraw, ImageFont

from ssl_retina import shards
from ssl_retina.archive import worker
from ssl_retina.archive.pixels import clean, ocr
from ssl_retina.archive.settings import Settings
from ssl_retina.errors import InputError

NAME = "DOE JOHN 1950"


@pytest.fixture
def engine() -> None:
    """The test is skipped, and says so, where the extra is not installed."""
    pytest.importorskip("rapidocr", reason="rapidocr is not installed (extra ocr): nothing is read")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra ocr): nothing is read")


def photograph(number: int, words: str = "", level: int = 70, height: int = 16) -> np.ndarray:
    """A drawn fundus of 400 pixels, with words in the middle of it."""
    image = Image.fromarray(factory.pixels(number, size=400))
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height)
    left, top, right, bottom = pen.textbbox((0, 0), words, font=font)
    place = (200 - (right - left) / 2, 200 - (bottom - top) / 2)
    ground = np.asarray(image)[200, 200].astype(int)
    pen.text(place, words, font=font, fill=tuple(map(int, np.clip(ground + level, 0, 255))))
    return np.asarray(image)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    source = tmp_path / "archive"
    source.mkdir()
    Image.fromarray(photograph(1)).save(source / "0plain.png")
    Image.fromarray(photograph(2, NAME)).save(source / "1named.png")
    return source


@pytest.mark.usefixtures("engine")
def test_f39_a_name_inside_the_field_of_view_is_rejected_and_not_told(archive: Path, tmp_path: Path) -> None:
    totals = shard(tmp_path, archive, ocr=True)
    assert (totals.written, dict(totals.reasons)) == (1, {"burned_in": 1})
    ledger = (tmp_path / "out" / shards.LEDGER_NAME).read_text()
    assert '"detail": "ocr"' in ledger
    for content in contents(tmp_path / "out").values():
        assert not any(word.lower() in content.lower() for word in (b"doe", b"john"))
    index = shards.read_index(tmp_path / "out")
    assert index.facts["made_from"]["ocr"] is True
    assert set(ocr.PACKAGES) <= set(index.facts["made_with"])


def test_without_it_such_a_photograph_is_kept(archive: Path, tmp_path: Path) -> None:
    """The limit that docs/privacy.md tells: nothing looks for words inside a field that was found."""
    assert clean.clean(photograph(2, NAME), None, 512).field_of_view is not None
    assert shard(tmp_path, archive).written == 2
    assert "ocr" not in shards.read_index(tmp_path / "out").facts["made_from"]


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("level", [-40, 40, 120])
def test_names_and_dates_are_seen(level: int) -> None:
    for words in (NAME, "1950-03-12", "García"):
        assert ocr.reads_words(photograph(3, words, level)), words


@pytest.mark.usefixtures("engine")
def test_eyes_and_their_marks_hold_no_words() -> None:
    for number in range(4):
        assert not ocr.reads_words(photograph(number)), number
    assert not ocr.reads_words(photograph(5, "OD"))


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_real_eyes_hold_no_words_and_drawn_ones_are_found(real_data: Path) -> None:
    """A few of the pictures that docs/privacy.md gives the figures of."""
    chosen = list(ocr_figures.pictures([real_data / "hygd", real_data / "idrid"], 60))
    assert len(chosen) >= 15
    assert ocr_figures.alarms(iter(chosen))[1] == 0
    for place in ("inside", "corner"):
        assert ocr_figures.found(chosen, place, 16, 60) >= 0.95 * len(chosen)


@pytest.mark.usefixtures("engine")
def test_the_engine_fetches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its networks are named by path, and looking at a picture opens no connection."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection")

    ocr.engine.cache_clear()
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    assert ocr.reads_words(photograph(2, NAME))


@pytest.mark.parametrize("absent", ["rapidocr", "onnxruntime", "cv2"])
def test_without_the_engine_the_run_does_not_begin(
    archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rapidocr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    monkeypatch.setattr(worker, "process_chunk", None)
    with pytest.raises(InputError, match=r"pip install 'ssl-retina\[ocr\]'"):
        shard(tmp_path, archive, ocr=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("engine")
def test_a_package_without_its_networks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocr, "NETWORKS", {"Det": "absent.onnx"})
    with pytest.raises(InputError, match=r"without absent.onnx"):
        Settings(ocr=True)
