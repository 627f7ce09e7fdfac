"""Why a file does not become a sample: one reason code and a detail that names no patient and no file.

Bad input is data, not a defect: readers and cleaning raise `Rejected`, the build writes it to the ledger.
"""

import errno
from types import TracebackType

IO = "io"
UNEXPECTED = "unexpected"
WITHDRAWN = "withdrawn"
"""The reason of a file whose patient was taken out: nothing else is kept of it but its key."""


class Rejected(Exception):  # noqa: N818 - the word of the ledger
    """A file that is left out; `reason` is a code to count by, `detail` holds numbers, no words of the file.

    Codes: not_regular, io, not_an_image, truncated, malformed, too_large, too_small, aspect, blank, float,
    bit_depth, colour, pages, sop_class, missing_attr, bad_geometry, no_decoder:<transfer syntax>, burned_in,
    not_retinal, quality, dicomdir, not_dicom, vendor_parse (a maker's OCT file), no_reader:<kind>,
    not_selected (a slice or page that --frames or --pages leaves out), skipped_by_recipe, WITHDRAWN.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, so that it survives the way back from a worker process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Unforeseen:
    """Turns an exception that nobody foresaw into a rejection that names its type and nothing else.

    A message or a traceback of a parser may quote a name, a path or a tag (faults.md F100). Such files are
    counted, and many of them stop the run (`stage.Limit`); a lack of memory is no property of a file.
    """

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, Rejected | MemoryError):
            return
        if isinstance(error, OSError) and error.errno is not None:
            raise Rejected(IO, errno.errorcode.get(error.errno, "errno")) from None
        raise Rejected(UNEXPECTED, type(error).__name__) from None
