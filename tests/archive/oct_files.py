"""OCT files in the makers' formats, written by the tests; a word of a patient stands in each header."""

import io
import struct
from collections.abc import Sequence

import numpy as np
from PIL import Image

WORD = b"Zywickovna"
PATIENT = b"QX77319540"
HEIGHT, WIDTH = 40, 48


def reflectivity(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH) between 0 and 1: dark, with a bright band."""
    values = np.random.default_rng(number).uniform(0.0002, 0.004, (HEIGHT, WIDTH))
    values[10 + number % 20 : 16 + number % 20] += 0.5
    return values.astype("<f4")


def shown(values: np.ndarray) -> np.ndarray:
    """What the viewer of Heidelberg shows, 0 to 255."""
    return np.clip((np.log(values.astype(float) + 2.44e-4) + 8.3) / 8.285, 0, 1) * 255


def vol(slices: int, **changes: object) -> bytes:
    header = bytearray(2048)
    struct.pack_into("<12s3I", header, 0, b"HSF-OCT-103", WIDTH, slices, HEIGHT)
    struct.pack_into("<2I", header, 48, 64, 60)
    struct.pack_into("<4s", header, 84, b"OD")
    struct.pack_into("<I", header, 100, 300)
    struct.pack_into("<21s3xd", header, 140, PATIENT, 17000.0)
    struct.pack_into("<24sd", header, 176, WORD, float(changes.get("day", 40000.0)))
    scans = [changes.get(f"scan{number}", reflectivity(number)) for number in range(slices)]
    bodies = [WORD.ljust(300, b"\0") + np.asarray(scan, "<f4").tobytes() for scan in scans]
    slo = np.arange(64 * 60, dtype=np.uint32).astype(np.uint8)
    return bytes(header) + slo.tobytes() + b"".join(bodies)


def packed(values: np.ndarray) -> np.ndarray:
    """As the 16-bit floats of E2E, rounded down."""
    fraction, exponent = np.frexp(values.astype(float))  # fraction in [0.5, 1)
    return (((exponent - 1 + 63) << 10) | ((fraction * 2 - 1) * 1024).astype(int)).astype("<u2")


def _chunk(series: Sequence[int], number: int, ind: int, kind: int, data: bytes) -> bytes:
    return (
        struct.pack("<12s5I3Ii2H2I", b"MDbData", 0, 0, 0, len(data), 0, *series, number, ind, 0, kind, 0)
        + data
    )


def e2e(volumes: Sequence[int], directory: bool = True) -> bytes:
    """Series of so many B-scans with an SLO picture each; patient 7."""
    patient = struct.pack("<31s51s15sIs25s", WORD, WORD, b"", 19470513, b"F", PATIENT)
    chunks = [(0, _chunk((7, 0, 0), -1, 0, 9, patient))]
    for series, slices in enumerate(volumes):
        own = (7, 40, 500 + series)
        eye = bytes(14) + b"L" + bytes(12)
        slo = struct.pack("<5I", 0, 0, 0, 60, 64) + bytes(range(240)) * 16
        scan = bytes(88) + struct.pack("<Q", 130_000_000_000_000_000) + bytes(8)
        chunks += [(0, _chunk(own, -1, 0, 11, eye)), (0, _chunk(own, -1, 0, 1 << 30, slo))]
        chunks += [(0, _chunk(own, 0, 0, 10004, scan))]
        for number in reversed(range(slices)):
            data = struct.pack("<5I", 0, 0, 0, HEIGHT, WIDTH) + packed(reflectivity(number)).tobytes()
            chunks.append((0, _chunk(own, 2 * number, 1, 1 << 30, data)))
    entries = b""
    body = b""
    begin = 36 + 52 + 52 + 44 * len(chunks)
    for _, chunk in chunks:
        entries += struct.pack("<11I", 1, begin + len(body), len(chunk), *[0] * 8)
        body += chunk
    plain = struct.pack("<12sI20s", b"MDbMDir", 100, b"")
    inner = struct.pack("<12sI20s", b"MDbDir", 100, b"") + struct.pack("<4I", len(chunks), 0, 0, 0)
    main = plain + struct.pack("<4I", 512, 88 if directory else 2**31, 0, 0)
    return struct.pack("<12sI20s", b"CMDb", 100, b"") + main + inner + entries + body


def _named(name: str, data: bytes) -> bytes:
    return bytes([len(name)]) + name.encode() + struct.pack("<I", len(data)) + data


def _jpeg2000(values: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, "JPEG2000", irreversible=False)
    return stream.getvalue()


def _topcon(kind: bytes, *chunks: bytes) -> bytes:
    known = [
        _named("@HW_INFO_03", b"3DOCT-1000MK2".ljust(100, b"\0")),
        _named("@PATIENT_INFO_02", PATIENT.ljust(32, b"\0") + WORD.ljust(64, b"\0") + bytes(519)),
        _named("@CAPTURE_INFO_02", bytes([1]) + bytes(105) + struct.pack("<6H", 2010, 7, 9, 0, 0, 0)),
    ]
    return b"FOCT" + kind + bytes(8) + b"".join((*known, *chunks)) + b"\0"


def grey(number: int) -> np.ndarray:
    """(HEIGHT, WIDTH) uint8."""
    return np.rint(shown(reflectivity(number))).astype(np.uint8)


def fda(slices: int, first: int = 0) -> bytes:
    coded = [_jpeg2000(grey(first + number)) for number in range(slices)]
    scans = struct.pack("<B6I", 2, 0, 0, WIDTH, HEIGHT, slices, 0)
    scans += b"".join(struct.pack("<I", len(one)) + one for one in coded)
    colour = _jpeg2000(np.full((50, 60, 3), (10, 60, 200), np.uint8))
    fundus = struct.pack("<4I4sI", 60, 50, 24, 1, b"", len(colour)) + colour
    return _topcon(b"FDA", _named("@IMG_JPEG", scans), _named("@IMG_FUNDUS", fundus))


def fds(slices: int, first: int = 0) -> bytes:
    values = b"".join((grey(first + number).astype("<u2") * 100).tobytes() for number in range(slices))
    scans = struct.pack("<B4IBI", 2, WIDTH, HEIGHT, 16, slices, 0, len(values)) + values
    fundus = struct.pack("<4IBI", 60, 50, 24, 1, 0, 9000) + bytes((10, 60, 200)) * 3000
    return _topcon(b"FDS", _named("@IMG_SCAN_03", scans), _named("@IMG_OBS", fundus))


def cube_name(width: int, count: int, eye: str = "OS", kind: str = "cube_raw") -> str:
    """A file name as a Cirrus exports it, with words of a patient."""
    scan = f"Macular Cube {width}x{count}" if width == 512 else f"Optic Disc Cube {width}x{count}"
    return f"{PATIENT.decode()}_{WORD.decode()}_{scan}_7-9-2010_14-42-18_{eye}_sn44088_{kind}.img"


def cube_scan(number: int, width: int) -> np.ndarray:
    """(1024, width) uint8, the right way up: a bright line that falls to the right, deeper in each B-scan."""
    scan = np.full((1024, width), 20, np.uint8)
    columns = np.arange(width)
    for thick in range(12):
        scan[200 + 2 * number + columns // 4 + thick, columns] = 220
    return scan


def cube(width: int, count: int) -> bytes:
    """B-scans as a Cirrus writes them: each turned by half a turn."""
    return b"".join(cube_scan(number, width)[::-1, ::-1].tobytes() for number in range(count))
