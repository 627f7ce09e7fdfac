"""A file of an archive -> its pictures, whatever its name says: the kind is told by the content.

In: bytes. Out: parts, each of which decodes to pixels with what the file itself states, or `Rejected`.
"""

import stat
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ssl_retina.archive.picture import Part, Picture
from ssl_retina.archive.readers import dicom, heidelberg, images, topcon, zeiss
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.selection import EVERYTHING, Selection

__all__ = ["Picture", "Rejected", "content", "parts", "read"]

FILE_LIMIT = 1024**3
MARKED = (".e2e", ".vol", ".fda", ".fds")
"""Suffixes of makers whose files begin with a mark."""


def parts(content: bytes, name: str, selection: Selection = EVERYTHING) -> Sequence[Part]:
    """The pictures of a file, one or more, none decoded yet.

    content: JPEG, PNG, TIFF, BMP, PPM, GIF, DICOM, or OCT files of Heidelberg, Topcon and Zeiss. name: its
    suffix counts only where the content does not tell the kind.
    Raises Rejected for a file of which no picture can be read, and nothing else.
    """
    suffix = PurePosixPath(name).suffix.casefold()
    if dicom.recognised(content, suffix):
        return dicom.parts(content, selection)
    if heidelberg.recognised(content):
        return heidelberg.parts(content, selection)
    if topcon.recognised(content):
        return topcon.parts(content, selection)
    unknown = images.kind(content) is None
    if zeiss.recognised(content, suffix) or (suffix == zeiss.SUFFIX and unknown):
        return zeiss.parts(content, name, selection)
    if suffix in MARKED and unknown:
        raise Rejected("vendor_parse")
    return images.parts(content, selection)


def read(path: Path) -> Picture:
    """The first picture of a file on disk. Raises Rejected."""
    return parts(content(path), path.name)[0].decode()


def content(path: Path) -> bytes:
    """A file's bytes; never waits on a pipe or a device. Raises Rejected: not_regular, too_large, io."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Rejected("not_regular")
        if status.st_size > FILE_LIMIT:
            raise Rejected("too_large", f"{status.st_size} bytes")
        return path.read_bytes()
    except OSError as error:
        raise Rejected("io", f"errno {error.errno}") from None
