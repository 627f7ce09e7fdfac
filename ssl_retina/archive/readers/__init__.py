"""A file of an archive -> `Picture`, whatever its name says: the kind is told by the content.

In: a path. Out: decoded pixels with what the file itself states, or `Rejected` with a reason.
"""

import stat
from pathlib import Path

from ssl_retina.archive.picture import Picture
from ssl_retina.archive.readers import dicom, images
from ssl_retina.archive.rejection import Rejected

__all__ = ["Picture", "Rejected", "read"]

FILE_LIMIT = 1024**3


def read(path: Path) -> Picture:
    """Decode one photograph: JPEG, PNG, TIFF, BMP, PPM, GIF of one picture, or single-frame DICOM.

    Raises Rejected, and nothing else for any content of the file. Reads one file at a time per process.
    """
    content = _content(path)
    if dicom.recognised(content):
        return dicom.read(content)
    return images.read(content)


def _content(path: Path) -> bytes:
    """The file's bytes; never waits on a pipe or a device."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("not_regular")
        if status.st_size > FILE_LIMIT:
            raise Rejected("too_large", f"{status.st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise Rejected("io", f"errno {error.errno}") from None
