"""The pages that lie beside a set: `datasheet.html` and `croissant.json`, made where they are absent.

In: a folder with an index. Out: what was written. They are made from the set and no part of it.
"""

from pathlib import Path

from ssl_retina import shards
from ssl_retina.report import croissant, datasheet


def complete(folder: Path) -> list[Path]:
    """Write the pages that are missing. Raises ShardError where there is no set."""
    index = shards.read_index(folder)
    makers = {datasheet.NAME: datasheet.write, croissant.NAME: croissant.write}
    missing = {folder / name: make for name, make in makers.items() if not (folder / name).exists()}
    for path, make in missing.items():
        make(index, path)
    return list(missing)
