"""Device names against identities: what stands in a device field and would name a patient.

In: the device and the patient of every file. Out: the values that may not be written. Devices go into the
shards as they stand, and the character set of a model's name is that of a person's name too (law 8).
"""

import re

MAKERS = frozenset(
    (
        *("topcon", "trc", "maestro", "triton", "canon", "cr", "cx", "zeiss", "visucam", "cirrus", "clarus"),
        *("nidek", "afc", "kowa", "nonmyd", "vx", "optos", "daytona", "optomap", "heidelberg", "spectralis"),
        *(
            "hra",
            "retcam",
            "natus",
            "icam",
            "eidon",
            "centervue",
            "drs",
            "icare",
            "optovue",
            "rtvue",
            "avanti",
        ),
        *("optopol", "revo", "tomey", "volk", "remidio", "fop", "optomed", "aurora", "smartscope", "pictor"),
        *("forus", "nethra", "crystalvue", "nfc", "bosch", "phelcom", "eyer", "dgi", "syseye", "imagenet"),
        *("silverstone", "california", "monaco", "nw", "dri", "cobra", "visuscout", "visupac", "ff", "plex"),
        *("elite", "solix", "xephilio", "envisu", "bioptigen", "soct", "copernicus", "hs", "rs", "mirante"),
        *("imagespectrum", "bluedot", "keeler", "riester", "merge", "kestrel", "horus", "medimaging", "mii"),
        *("camera", "kamera", "cam", "device", "scanner", "fundus", "oct", "model", "unit", "smartphone"),
    )
)
"""Words of makers and models, and plain words for a camera: a value with one of them names a device."""

_CODE = re.compile(r"[A-Za-z]|[A-Za-z]{0,2}[ ._/+-]?\d{1,4}[A-Za-z]?")


def dated(text: str) -> bool:
    """Whether a value holds a date or a number of six digits and more, however they are separated."""
    return re.search(r"\d{6}", re.sub(r"(?<=\d)[\W_]+(?=\d)", "", text)) is not None or bool(
        re.search(r"(?i)(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\W_]*\d{2,4}\b", text)
        and re.search(r"\d{1,2}[\W_]*[A-Za-z]{3,9}[\W_]*\d{2,4}\b", text)
    )


def is_plain(device: str) -> bool:
    """Whether a value has a maker's word or is a code such as `B` or `CX-1`, so that it is no one's name."""
    return _is_maker(device) or _CODE.fullmatch(device) is not None


class Usage:
    """Counts who was photographed with which device; memory: two patients for each device, and one set."""

    def __init__(self) -> None:
        self._patients: dict[str, set[str]] = {}
        self._carriers: set[str] = set()

    def add(self, device: str | None, patient: str | None) -> None:
        """One file. patient: any spelling that is the same for the same patient; None is unknown."""
        if device is None:
            return
        known = self._patients.setdefault(device, set())
        if patient is not None and not _is_maker(device):
            self._carriers.add(patient)
            if len(known) < 2:
                known.add(patient)

    @property
    def distinct(self) -> int:
        """How many different devices there are."""
        return len(self._patients)

    def identities(self) -> frozenset[str]:
        """The values that look like people: without a maker's word, and not shared by two known patients.

        A value that is shared shows that it is no identity. Words: where more than two stand alone, or at
        least half as many as patients carry one; codes (`B`, `D-12`): where both hold.
        """
        alone = {one for one, patients in self._patients.items() if len(patients) < 2 and not _is_maker(one)}
        words = {one for one in alone if not _CODE.fullmatch(one)}
        codes = {one for one in alone - words if self._patients[one]}
        many = 2 * len(alone) >= len(self._carriers)
        return frozenset(
            (words if many or len(words) > 2 else set()) | (codes if many and len(codes) > 2 else set())
        )


def _is_maker(device: str) -> bool:
    return not MAKERS.isdisjoint(re.findall(r"[a-z]+", device.casefold()))
