"""Compiling the crop: what a build says where it cannot, and that a library of other bits is never used."""

import importlib.util
import shutil
import sys
import types
from pathlib import Path
from typing import Generic, TypeVar

import pytest

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
