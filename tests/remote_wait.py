"""How long a step waits for data at an address and in a folder: `python tests/remote_wait.py FOLDER`.

Draws a set, serves it on a line of a given rate, and reads folder and address in turns with one loader
process, a few shards shuffled at a time and a cache that holds half of the set. A step is a pause, as of a
device that computes. Prints each run's share of time spent waiting for the next batch, and the medians.
"""

import argparse
import shutil
import statistics
import time
from pathlib import Path

import factory
import numpy as np
from servers import served

from ssl_retina import config, shard_index
from ssl_retina.contract import ViewSpec
from ssl_retina.data.loader import open_source

SHARDS, SAMPLES, SIZE = 24, 48, 512
BATCH, WARM = 32, 4
"""The first steps are not counted: before them the first shards come."""


def draw(folder: Path) -> int:
    """A set of photographs about as large as real ones of 512 px; its bytes."""
    folder.mkdir(parents=True)
    for shard in range(SHARDS):
        numbers = range(shard * SAMPLES, (shard + 1) * SAMPLES)
        parts = []
        for number in numbers:
            noise = np.random.default_rng(number).integers(0, 32, (SIZE, SIZE, 1), dtype=np.uint8)
            image = factory.pixels(number, size=SIZE) // 2 + noise
            parts.append((f"k{number:06d}.jpg", factory.encoded(image.astype(np.uint8))))
        factory.write_tar(folder / f"drawn-{shard:06d}.tar", parts)
    return sum(shard.filesize for shard in shard_index.write(folder, {}).shards)


def waited(place: str, cache: Path, size: int, given: argparse.Namespace) -> float:
    """Share of the time spent waiting for batches, after the first ones."""
    data = config.Data(
        shards=(place,),  # type: ignore[arg-type]
        batch_size=BATCH,
        workers=1,
        held_out=0.0,
        shuffle_shards=4,
        cache=cache,
        cache_gib=size / 2 / 2**30,
    )
    source = open_source(data, ViewSpec("mae", global_views=1, global_size=224), seed=1)
    batches = source.batches(0, rank=0, world=1, micro_batch=BATCH)
    waiting, begin = 0.0, 0.0
    for step in range(WARM + given.steps):
        if step == WARM:
            waiting, begin = 0.0, time.monotonic()
        asked = time.monotonic()
        next(batches)
        waiting += time.monotonic() - asked
        time.sleep(given.step)
    batches.close()  # type: ignore[attr-defined]
    return waiting / (time.monotonic() - begin)


def main() -> None:
    """Interleaved repetitions and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=8.0, help="MB a second of the line.")
    parser.add_argument("--step", type=float, default=1.0, help="Seconds that a step computes.")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    place, cache = given.folder / "set", given.folder / "cache"
    size = draw(place) if not place.exists() else sum(one.stat().st_size for one in place.glob("*.tar"))
    print(f"{SHARDS} shards, {size / 1e6:.1f} MB; {BATCH} photographs a step are", end=" ")
    print(
        f"{size / SHARDS / SAMPLES * BATCH / given.step / 1e6:.1f} MB/s of {given.rate:.1f} MB/s", flush=True
    )
    found: dict[str, list[float]] = {"folder": [], "address": []}
    for _ in range(given.rounds):
        found["folder"].append(waited(str(place), cache, size, given))
        shutil.rmtree(cache, ignore_errors=True)
        with served({path.name: path.read_bytes() for path in place.iterdir()}) as site:
            site.rate = given.rate * 1e6
            found["address"].append(waited(site.address, cache, size, given))
            sent = sum(one.sent for one in site.asked)
        print(*(f"{name}: waits {shares[-1]:.2%}" for name, shares in found.items()), sep=", ", end="")
        print(f"; {sent / 1e6:.1f} MB sent", flush=True)
    print(*(f"{name}: median {statistics.median(shares):.2%}" for name, shares in found.items()), sep=", ")


if __name__ == "__main__":
    main()
