"""Photographs of the drawn cohort by cameras with as many pixels as are asked for.

In: a folder, how many, pixels across. Out: a file for each; nothing is enlarged, the retina is drawn finer.
"""

import dataclasses
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from ssl_retina.synthetic.cameras import CAMERAS, Camera
from ssl_retina.synthetic.cohort import Shot, draw_cohort
from ssl_retina.synthetic.photograph import draw_photograph
from ssl_retina.synthetic.writing import encode


def draw_large(folder: Path, *, photographs: int, side: int, seed: int = 0) -> None:
    """Draw the first photographs, with all cores; their field of view is `side` pixels across at least."""
    shots = [shot for shot in draw_cohort(seed) if shot.modality == "fundus"][:photographs]
    folder.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=context) as pool:
        for _ in pool.map(partial(_draw, folder, side=side, seed=seed), range(len(shots)), shots):
            pass


def _draw(folder: Path, number: int, shot: Shot, *, side: int, seed: int) -> None:
    suffix = Path(shot.file).suffix
    pixels = draw_photograph(shot, seed, finer(CAMERAS[shot.camera], side))
    (folder / f"{number:06d}{suffix}").write_bytes(encode(shot, pixels))


def finer(camera: Camera, side: int) -> Camera:
    """The camera with more pixels: what is seen of its circle is `side` across; noise stays as it is."""
    times = side / min(*camera.size, 2 * camera.radius)
    width, height = (round(length * times) for length in camera.size)
    x, y = (place * times for place in camera.centre)
    return dataclasses.replace(
        camera, size=(width, height), centre=(x, y), radius=camera.radius * times, blur=camera.blur * times
    )
