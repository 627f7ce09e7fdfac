"""How long a step waits for data at an address and in a folder: `python tests/remote_wait.py FOLDER`.

Draws a set, serves it on a line of a given rate, and runs `pretrain` on folder and address in turns, with a
cache that holds a part of the set. Prints each run's share of step time spent waiting, and the medians.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import factory
import numpy as np
from servers import served

from ssl_retina import shard_index

ROOT = Path(__file__).parents[1]
SHARDS, SAMPLES, SIZE = 24, 48, 512
WARM = 4
"""Steps that are not counted: before them the first window comes."""


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


def waited(run: Path) -> tuple[float, float]:
    """Share of step time spent waiting and images a second, over the steps after the first ones."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()][WARM:]
    seconds = [1 / line["clock"]["images_per_second"] for line in lines]
    share = sum(one["clock"]["data_wait"] * time for one, time in zip(lines, seconds, strict=True)) / sum(
        seconds
    )
    return share, 1 / statistics.mean(seconds)


def pretrain(out: Path, *overrides: str) -> tuple[float, float]:
    """One run."""
    shutil.rmtree(out, ignore_errors=True)
    config = str(ROOT / "configs" / "pretrain" / "debug_mae.yaml")
    fixed = (
        "model.depth=12",
        "data.workers=1",
        "data.held_out=0.0",
        "train.steps=36",
        "data.shuffle_shards=4",
    )
    command = [sys.executable, "-W", "ignore", "-m", "ssl_retina", "pretrain", config, f"out={out}"]
    environment = {**os.environ, "DS_ACCELERATOR": "cpu"}
    subprocess.run([*command, *fixed, *overrides], check=True, env=environment, stderr=subprocess.DEVNULL)
    return waited(out)


def main() -> None:
    """Interleaved repetitions and their medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rate", type=float, default=8.0, help="MB a second of the line.")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    place = given.folder / "set"
    size = draw(place) if not place.exists() else sum(one.stat().st_size for one in place.glob("*.tar"))
    print(
        f"{SHARDS} shards, {size / 1e6:.1f} MB, {size / SHARDS / SAMPLES / 1e3:.0f} kB a photograph",
        flush=True,
    )
    found: dict[str, list[tuple[float, float]]] = {"folder": [], "address": []}
    for _ in range(given.rounds):
        found["folder"].append(pretrain(given.folder / "run", f"data.shards={place}"))
        shutil.rmtree(given.folder / "cache", ignore_errors=True)
        with served({path.name: path.read_bytes() for path in place.iterdir()}) as site:
            site.rate = given.rate * 1e6
            cache = (f"data.cache={given.folder / 'cache'}", f"data.cache_gib={size / 2 / 2**30}")
            found["address"].append(pretrain(given.folder / "run", f"data.shards={site.address}", *cache))
            sent = sum(one.sent for one in site.asked)
        for name in found:
            share, speed = found[name][-1]
            print(f"{name}: waits {share:.2%} of step time, {speed:.1f} images/s", flush=True)
        print(f"sent {sent / 1e6:.1f} MB", flush=True)
    for name, runs in found.items():
        shares, speeds = ([one[at] for one in runs] for at in (0, 1))
        print(
            f"{name}: median wait {statistics.median(shares):.2%}, {statistics.median(speeds):.1f} images/s"
        )


if __name__ == "__main__":
    main()
