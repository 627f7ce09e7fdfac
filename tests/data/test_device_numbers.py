"""Which device a batch says its samples are of: one number a device over all sets, or unknown."""

import json
from pathlib import Path

import factory
import torch

from ssl_retina import config, shard_index
from ssl_retina.contract import UNKNOWN, ViewSpec
from ssl_retina.data import views
from ssl_retina.data.loader import open_source

WORDS = {"one": ["zeta", "alpha", None, "zeta"], "two": ["mu", "zeta", "alpha", None]}


def test_devices_have_one_number_over_all_sets(tmp_path: Path) -> None:
    folders = []
    for name, words in WORDS.items():
        folder = tmp_path / name
        folder.mkdir()
        parts = []
        for number, word in enumerate(words):
            facts = {} if word is None else {"device": word}
            pixels = factory.encoded(factory.pixels(number, size=32), "png")
            parts += [(f"{name}{number}.png", pixels), (f"{name}{number}.json", json.dumps(facts).encode())]
        factory.write_tar(folder / f"{name}-000000.tar", parts)
        shard_index.write(folder, {})
        folders.append(folder)
    data = config.Data(shards=tuple(folders), batch_size=8, workers=1, held_out=0.0)
    source = open_source(data, ViewSpec("mae", 1, 32), seed=0)
    assert source.devices == ("alpha", "mu", "zeta")
    batch = next(source.batches(0, rank=0, world=1, micro_batch=8))
    done = views.finish(batch, device=torch.device("cpu"))
    assert done.device is not None
    for key, number in zip(done.keys, done.device.tolist(), strict=True):
        word = WORDS[key[:-1]][int(key[-1])]
        assert number == (UNKNOWN if word is None else source.devices.index(word))
