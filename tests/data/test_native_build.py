"""Compiling the crop: what a build says where it cannot, and that a library of other bits is never used."""

import importlib.util
import shutil
import sys
import types
from pathlib import Path
from typing import Generic, TypeVar

import pytest

from ssl_retina.data import native

ROOT = Path(__file__).parents[2]


def _hook(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """hatch_build.py, without hatchling, which only a build has."""
    held = types.ModuleType("interface")
    held.BuildHookInterface = types.new_class("BuildHookInterface", (Generic[TypeVar("T")],))
    monkeypatch.setitem(sys.modules, "hatchling.builders.hooks.plugin.interface", held)
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "FLAGS", ("-O0", *module.FLAGS[1:]))
    return module


def _source(hook: types.ModuleType, folder: Path) -> Path:
    for name in ("crop.c", "filter.h"):
        shutil.copy(ROOT / hook.FOLDER / name, folder)
    return folder / "crop.c"


def test_a_build_without_compiler_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an editable install has already stays."""
    hook = _hook(monkeypatch)
    _source(hook, tmp_path)
    (tmp_path / "crop.so").write_bytes(b"of another build")
    monkeypatch.setattr(hook.platform, "machine", lambda: "x86_64")
    no_program = tmp_path / "filter.h"
    for compiler, why in {
        "no-such-compiler": "no-such-compiler",
        "false": "the compiler failed",
        str(no_program): "Permission denied",
        'a"b': "No closing quotation",
    }.items():
        monkeypatch.setenv("CC", compiler)
        assert why in hook.compiled(tmp_path)
    monkeypatch.setattr(hook.platform, "machine", lambda: "aarch64")
    assert "aarch64" in hook.compiled(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"crop.c", "filter.h", "crop.so"}
    assert (tmp_path / "crop.so").read_bytes() == b"of another build"


def test_a_library_that_cannot_be_put_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = _hook(monkeypatch)
    monkeypatch.setattr(hook.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(hook, "_compile", lambda _, library: library.write_bytes(b"finished"))
    (tmp_path / "crop.so").mkdir()
    assert "directory" in hook.compiled(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["crop.so"]
    monkeypatch.setattr(hook, "_compile", lambda *_: (_ for _ in ()).throw(PermissionError("read-only")))
    assert hook.compiled(tmp_path) == "read-only"


FAULTS = {
    "left": ("left = left > border ? left - border : 0;", ""),
    "right": ("right = right + border < jpeg->output_width ? right + border : jpeg->output_width;", ""),
    "skip": ("(JDIMENSION)top);", "(JDIMENSION)top - 1), jpeg->output_scanline++;"),
}
"""A decoder that lacks the neighbouring colour, or one whose library skips a row less than it says."""


@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_a_library_with_other_bits_at_borders_is_refused(
    fault: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hook = _hook(monkeypatch)
    source = _source(hook, tmp_path)
    if fault:
        right, wrong = FAULTS[fault]
        text = source.read_text()
        assert text.count(right) == 1
        source.write_text(text.replace(right, wrong))
    trouble = hook.compiled(tmp_path)
    if trouble or "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip(trouble or "no AVX2")
    monkeypatch.setattr(native, "__file__", str(tmp_path / "any.py"))
    assert (native.library.__wrapped__() is None) == bool(fault)


def test_an_older_libjpeg_is_no_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = _hook(monkeypatch)
    text = _source(hook, tmp_path).read_text()
    if trouble := hook.compiled(tmp_path):
        pytest.skip(trouble)
    (tmp_path / "crop.so").unlink()
    older = "#undef LIBJPEG_TURBO_VERSION_NUMBER\n#define LIBJPEG_TURBO_VERSION_NUMBER 2000006\n"
    (tmp_path / "crop.c").write_text(text.replace("#if !defined(LIBJPEG", f"{older}#if !defined(LIBJPEG"))
    assert "needs libjpeg-turbo 2.1" in hook.compiled(tmp_path)
