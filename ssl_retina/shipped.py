"""Where the files shipped beside the code lie: `configs/`, `shards/` and `launch/`.

In a wheel they travel inside the package; in a checkout they are the top-level folders.
"""

from pathlib import Path


def folder(name: str) -> Path:
    """The shipped folder `configs`, `shards` or `launch`."""
    package = Path(__file__).parent
    for candidate in (package / "shipped" / name, package.parent / name):
        if candidate.is_dir():
            return candidate
    raise AssertionError(f"the installation holds no folder {name!r}")
