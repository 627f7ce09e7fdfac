"""Figures of `--ocr` on real photographs: false alarms, drawn words that are found, seconds a picture.

`PYTHONPATH=. python tests/archive/ocr_figures.py alarms|planted FOLDER... [--every N]`; nothing is written.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ssl_retina.archive import readers
from ssl_retina.archive.picture import Pixels
from ssl_retina.archive.pixels import clean, ocr
from ssl_retina.archive.rejection import Rejected

HEIGHTS = (8, 12, 16, 24)
LEVELS = (255, 60, 30, 20, -60)
WORDS = ("DOE^JOHN", "1950-03-12")
CAPITALS = 0.72
"""Height of a capital over the size of Pillow's own font."""


def pictures(folders: Sequence[Path], every: int) -> Iterator[Pixels]:
    """The pixels that `shard` stores of every N-th file."""
    files = (path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file())
    for path in itertools.islice(files, 0, None, every):
        try:
            for part in readers.parts(readers.content(path), path.name):
                picture = part.decode()
                yield clean.clean(picture.pixels, picture.modality, 512).pixels
        except Rejected:
            continue


def planted(pixels: Pixels, words: str, height: int, level: int, place: str) -> Pixels:
    """With words of so many pixels of height, so much brighter than what they stand on."""
    image = Image.fromarray(pixels)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(height / CAPITALS)
    left, top, right, bottom = (int(value) for value in pen.textbbox((0, 0), words, font=font))
    y = image.height // 3 if place == "inside" else 6
    x = (image.width - right) // 2 if place == "inside" else 6
    ground = pixels[y : y + bottom, x : x + right].reshape(-1, 3).mean(axis=0)
    pen.text((x, y), words, font=font, fill=tuple(int(value) for value in np.clip(ground + level, 0, 255)))
    return np.asarray(image)


def alarms(every: Iterator[Pixels]) -> tuple[int, int, float]:
    """Pictures, those in which words are read, seconds of this process for each."""
    count = read = 0
    seconds = 0.0
    for pixels in every:
        begun = time.process_time()
        read += ocr.reads_words(pixels)
        seconds += time.process_time() - begun
        count += 1
    return count, read, seconds / max(1, count)


def found(every: Sequence[Pixels], place: str, height: int, level: int) -> int:
    """In how many pictures the words are read, a name and a date in turn."""
    drawn = (planted(one, WORDS[at % 2], height, level, place) for at, one in enumerate(every))
    return sum(map(ocr.reads_words, drawn))


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("alarms", "planted"))
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--every", type=int, default=1)
    given = parser.parse_args()
    ocr.require()
    if given.what == "alarms":
        for folder in given.folders:
            count, read, seconds = alarms(pictures([folder], given.every))
            print(f"{folder.name}: {count} pictures, words in {read}, {seconds:.2f} s each", flush=True)
        return
    chosen = list(pictures(given.folders, given.every))
    print(f"{len(chosen)} pictures; columns: {', '.join(f'{level:+}' for level in LEVELS)} grey levels")
    for place, height in itertools.product(("inside", "corner"), HEIGHTS):
        row = [found(chosen, place, height, level) for level in LEVELS]
        print(f"{place} {height} px: {' '.join(map(str, row))}", flush=True)


if __name__ == "__main__":
    main()
