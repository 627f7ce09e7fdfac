"""Why a file does not become a sample: one reason code and a detail that names no patient and no file.

Bad input is data, not a defect: readers and cleaning raise `Rejected`, the build writes it to the ledger.
"""


class Rejected(Exception):  # noqa: N818 - the word of the ledger
    """A file that is left out; `reason` is a code to count by, `detail` holds numbers, no words of the file.

    Codes: not_regular, io, not_an_image, truncated, malformed, too_large, too_small, aspect, blank, float,
    bit_depth, colour, pages, sop_class, missing_attr, bad_geometry, no_decoder:<transfer syntax>, burned_in,
    dicomdir, not_dicom, vendor_parse (a maker's OCT file), no_reader:<kind>, not_selected (a
    slice or page that --frames or --pages leaves out).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)  # both, so that it survives the way back from a worker process
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
