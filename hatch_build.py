"""Compiles the optional fast path of the loader (`ssl_retina/data/native`) while the package is built.

Needs a C compiler and libjpeg-turbo's headers. Where they are missing one line says so, the build goes on,
and the loader takes the wheels' path: the same bits, more time.
"""

import contextlib
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("ssl_retina", "data", "native")
FLAGS = ("-O2", "-shared", "-fPIC", "-Wall", "-Wextra")
MACHINES = ("x86_64", "AMD64")


class CustomBuildHook(BuildHookInterface[Any]):
    """What hatchling calls for a wheel and for an editable install."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and put the library into the wheel, which is then of this platform."""
        if self.target_name != "wheel":
            return
        trouble = compiled(Path(self.root, FOLDER))
        if trouble:
            self.app.display_warning(
                f"ssl-retina: cropping was not compiled ({trouble}); the loader works without"
            )
            return
        build_data["artifacts"].append(str(FOLDER / "crop.so"))
        if version != "editable":
            build_data["pure_python"] = False
            build_data["tag"] = f"py3-none-{re.sub('[-.]', '_', sysconfig.get_platform())}"


def compiled(folder: Path) -> str:
    """Compile `crop.c` beside its source; gives why not, in a few words, or nothing.

    A library that is there, an editable install's, is replaced by a finished one alone; the loader tries it
    before it is used.
    """
    if not sys.platform.startswith("linux") or platform.machine() not in MACHINES:
        return f"written for Linux on x86-64, this is {sys.platform} on {platform.machine()}"
    unfinished = folder / f"crop.so.{os.getpid()}"
    try:
        _compile(folder / "crop.c", unfinished)
        unfinished.replace(folder / "crop.so")
    except subprocess.CalledProcessError as error:
        if "jpeglib.h" in error.stderr or "-ljpeg" in error.stderr:
            return "no jpeglib.h: apt-get install libjpeg62-turbo-dev, or libjpeg-turbo8-dev on Ubuntu"
        return next(iter(error.stderr.strip().splitlines()), "the compiler failed")
    except (OSError, ValueError) as error:  # no such compiler, CC with an open quote, a folder of others
        return str(error)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return ""


def _compile(source: Path, library: Path) -> None:
    compiler = shlex.split(os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or "")
    if not compiler:
        raise ValueError("no C compiler")
    command = [*compiler, *FLAGS, "-o", str(library), str(source), "-ljpeg"]
    subprocess.run(command, check=True, capture_output=True, encoding="utf-8", errors="replace")
