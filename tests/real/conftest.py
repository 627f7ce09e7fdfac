"""Drawn eyes in the layout of the real sets, once; and what is made of them."""

from pathlib import Path

import eyes
import pytest

from ssl_retina import pseudonyms
from ssl_retina.real.sources import sources


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> eyes.Eyes:
    return eyes.draw(tmp_path_factory.mktemp("eyes"))


@pytest.fixture(scope="session")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "key"
    pseudonyms.make_key(path)
    return path


@pytest.fixture(scope="session")
def sharded(drawn: eyes.Eyes, key_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as `real` leaves it: shards/idrid and shards/hygd."""
    out = tmp_path_factory.mktemp("real")
    for source in sources(drawn.data):
        (out / "shards").mkdir(exist_ok=True)
        eyes.shard(source, out / "shards" / source.name, key_file)
    return out
