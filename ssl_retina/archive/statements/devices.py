"""Device names against identities: what stands in a device field and would name a patient.

In: the device and the patient of every file. Out: the values that may not be written. Devices go into the
shards as they stand, and the character set of a model's name is that of a person's name too (law 8).
"""

import re

MAKERS = frozenset(
    (
        *("topcon", "trc", "dri", "maestro", "triton", "atlantis", "imagenet", "signal", "canon"),
        *("xephilio", "dgi", "zeiss", "meditec", "visucam", "visuscout", "visupac", "cirrus"),
        *("clarus", "stratus", "primus", "plex", "elite", "angioplex", "iolmaster"),
        *("forum", "nidek", "afc", "mirante", "glauvas", "navis", "kowa", "nonmyd", "optos"),
        *("daytona", "optomap", "panoramic", "california", "monaco", "silverstone", "heidelberg"),
        *("spectralis", "heyex", "anterion", "hra", "hrt", "retcam", "natus", "icam", "eidon"),
        *("centervue", "drs", "drsplus", "icare", "optovue", "rtvue", "avanti", "ivue"),
        *("ifusion", "solix", "angiovue", "optopol", "revo", "copernicus", "soct", "tomey"),
        *("casia", "volk", "pictor", "inview", "vistaview", "remidio", "fop", "instaris"),
        *("optomed", "aurora", "smartscope", "epicam", "forus", "nethra", "crystalvue", "nfc"),
        *("tonovue", "bosch", "phelcom", "eyer", "syseye", "cobra", "envisu", "bioptigen"),
        *("imagespectrum", "bluedot", "keeler", "riester", "merge", "kestrel", "horus"),
        *("medimaging", "mii", "nikon", "retinavue", "hillrom", "huvitz", "hoct", "hfc"),
        *("mediworks", "microclear", "visionix", "nexy", "robocam", "easyscan", "svision"),
        *("towardpi", "bmizar", "intalight", "paxos", "eyelike", "iphone", "samsung", "doct"),
        *("dtx", "txe", "camera", "kamera", "cam", "device", "scanner", "fundus", "oct", "model"),
        *("unit", "smartphone", "cr", "cx", "vx", "nw", "ff", "hs", "rs"),
    )
)
"""Words of makers and models, and plain words for a camera: a value needs one of them to name a device."""

FURTHER = frozenset(
    (
        *("retina", "retinal", "optical", "coherence", "tomography", "tomograph", "angiograph"),
        *("angiography", "ophthalmoscope", "ophthalmic", "digital", "mydriatic", "nonmydriatic"),
        *("non", "hybrid", "confocal", "laser", "slo", "photo", "photography", "photographer"),
        *("imaging", "system", "systems", "instrument", "engineering", "medical", "technologies"),
        *("eye", "swept", "source", "widefield", "wide", "ultra", "color", "colour"),
        *("truecolor", "multicolor", "flex", "module", "handheld", "portable", "pro", "plus"),
        *("lite", "advance", "advanced", "duo", "prime", "prestige", "alpha", "neo", "compact"),
        *("shuttle", "scope", "series", "version", "rev", "eos", "mini", "dual", "one", "scan"),
        *("image", "genesis", "myd", "diii", "classic", "envision", "icon"),
        *("corporation", "corp", "inc", "gmbh", "ltd", "company", "iii", "vk", "af", "fa", "nm"),
        *("hd", "xr", "xj", "nx", "wx", "dx", "tx", "ex", "ix", "fx", "sp", "ss", "sd", "hr"),
        *("iq", "ii", "iv", "ag", "fc", "ia", "ir", "mk"),
    )
)
"""What else names of models hold; two letters that are neither here nor beside a digit may be a surname."""

_HOUSES = re.compile(r"\b(carl zeiss|welch allyn|haag[ -]streit)\b")
_MARK = re.compile(r"\bmark (?=(i{1,3}|iv|v|\d+)\b)")
"""Names of people that are in names of devices: the whole of it, or nothing."""
_WORDS = re.compile(r"[a-z]{3,}|(?<![a-z\d])[a-z]{2}(?![a-z\d]|-\d)")
_CODE = re.compile(r"[A-Za-z]|[A-Za-z]{0,2}[ ._/+-]?\d{1,4}[A-Za-z]?")


def dated(text: str) -> bool:
    """Whether a value holds a date or a number of six digits and more, however they are separated."""
    return re.search(r"\d{6}", re.sub(r"(?<=\d)[\W_]+(?=\d)", "", text)) is not None or bool(
        re.search(r"(?i)(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*[\W_]*\d{2,4}\b", text)
        and re.search(r"\d{1,2}[\W_]*[A-Za-z]{3,9}[\W_]*\d{2,4}\b", text)
    )


def is_plain(device: str) -> bool:
    """Whether a value has known words alone or is a code (`B`, `CX-1`), so that it is no one's name."""
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
        """The values that look like people: with a word that no maker uses, not shared by two known patients.

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
    """Whether a maker's word is there and no unknown one: `Topcon` before a surname excuses nothing."""
    text = _MARK.sub(" ", _HOUSES.sub("device", device.casefold()))
    known = MAKERS.union(FURTHER).issuperset(_WORDS.findall(text))
    return known and not MAKERS.isdisjoint(re.findall(r"[a-z]+", text))
