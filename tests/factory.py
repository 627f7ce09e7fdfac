"""Small shards that keep the contract, made with the standard library: coloured discs with a lesion.

In: how many samples, patients, shards. Out: a folder that `shards.Reader` reads, and a labels file for it.
"""

import csv
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ssl_retina import pseudonyms, shard_index
from ssl_retina.shards import Index, shard_name

KEY = bytes(range(32))
"""The site key of all factory shards; `write_key` puts it into a file."""

DEVICES = ("camera-a", "camera-b")


def write_key(path: Path) -> Path:
    """The key file that belongs to the factory's shards."""
    path.write_bytes(KEY.hex().encode() + b"\n")
    path.chmod(0o600)
    return path


def file_name(number: int) -> str:
    """The name that image `number` had in the archive."""
    return f"img_{number:04d}.png"


def key(number: int) -> str:
    """The sample key of image `number`."""
    return pseudonyms.image(KEY, file_name(number))


def patient_id(number: int, patients: int) -> str:
    """The patient of image `number`, as the archive writes it."""
    return f"P{number % patients:03d}"


def split(number: int, patients: int) -> str:
    """Every fourth patient is in the test split."""
    return "test" if number % patients % 4 == 3 else "train"


def grade(number: int, patients: int, seed: int = 0) -> int:
    """The disease grade of image `number`, 0 to 3: that of its patient."""
    return int(np.random.default_rng((seed, 17, number % patients)).integers(0, 4))


def pixels(number: int, *, size: int = 64, patients: int = 16, seed: int = 0) -> NDArray[np.uint8]:
    """(size, size, 3) uint8: a disc of some colour on black, with one bright spot for each grade."""
    random = np.random.default_rng((seed, number))
    y, x = np.mgrid[:size, :size]
    centre, radius = (size - 1) / 2, size * 0.48
    colour = random.uniform((120, 40, 10), (220, 110, 60))
    disc = (x - centre) ** 2 + (y - centre) ** 2 <= radius**2
    image = np.where(disc[..., None], colour + random.normal(0, 6, (size, size, 3)), 0.0)
    for _ in range(grade(number, patients, seed)):
        at = centre + random.uniform(-0.5, 0.5, 2) * radius
        spot = (x - at[0]) ** 2 + (y - at[1]) ** 2 <= (size * 0.06) ** 2
        image[spot] = (250, 240, 120)
    return np.clip(np.round(image), 0, 255).astype(np.uint8)


def facts(number: int, *, size: int = 64, patients: int = 16) -> dict[str, Any]:
    """The sample's JSON."""
    patient = pseudonyms.patient(KEY, patient_id(number, patients))
    centre, radius = size / 2, size * 0.48
    return {
        "key": key(number),
        "name": pseudonyms.name(KEY, file_name(number)),
        "patient": patient,
        "group": patient,
        "eye": ("right", "left", "unknown")[number % 3],
        "modality": "oct" if number % 8 == 7 else "fundus",
        "device": DEVICES[number % 2],
        "visit": number // patients,
        "split": split(number, patients),
        "width": size,
        "height": size,
        "source_width": 2 * size,
        "source_height": 2 * size,
        "field_of_view": None if number % 8 == 7 else [centre, centre, radius, radius],
        "aliases": [],
        "pixels_xxh128": f"{number:032x}",
    }


def encoded(image: NDArray[np.uint8], suffix: str = "jpg") -> bytes:
    """JPEG quality 92, 4:2:0, or PNG."""
    stream = io.BytesIO()
    if suffix == "png":
        Image.fromarray(image).save(stream, "PNG")
    else:
        Image.fromarray(image).save(stream, "JPEG", quality=92, subsampling="4:2:0")
    return stream.getvalue()


def write_tar(path: Path, parts: Sequence[tuple[str, bytes]]) -> None:
    """A tar with these members, always the same bytes."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in parts:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.uname = member.gname = "bigdata"
            member.mode = 0o444
            archive.addfile(member, io.BytesIO(content))


def sample_parts(
    number: int, *, size: int = 64, patients: int = 16, seed: int = 0
) -> list[tuple[str, bytes]]:
    """The tar members of one sample; every tenth image is a PNG."""
    suffix = "png" if number % 10 == 9 else "jpg"
    image = encoded(pixels(number, size=size, patients=patients, seed=seed), suffix)
    record = json.dumps(facts(number, size=size, patients=patients), sort_keys=True).encode()
    return [(f"{key(number)}.{suffix}", image), (f"{key(number)}.json", record)]


def make_shards(
    folder: Path, *, samples: int = 64, size: int = 64, patients: int = 16, shards: int = 2, seed: int = 0
) -> Index:
    """Write shards of `samples` images of `patients` patients, with their index."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, chosen in enumerate(np.array_split(np.arange(samples), shards)):
        parts = [
            part
            for at in chosen.tolist()
            for part in sample_parts(at, size=size, patients=patients, seed=seed)
        ]
        write_tar(folder / shard_name("factory", number), parts)
    return shard_index.write(folder, index_facts())


def index_facts() -> Mapping[str, Any]:
    """What the archive step adds to the index."""
    return {"key_fingerprint": pseudonyms.fingerprint(KEY), "ids": pseudonyms.NORMALISATION, "size": 64}


def make_labels(path: Path, *, samples: int = 64, patients: int = 16, seed: int = 0) -> Path:
    """Write a CSV `file,patient,split,disease,grade` for shards of the same arguments."""
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(("file", "patient", "split", "disease", "grade"))
        for number in range(samples):
            level = grade(number, patients, seed)
            row = (
                file_name(number),
                patient_id(number, patients),
                split(number, patients),
                int(level > 0),
                level,
            )
            writer.writerow(row)
    return path
