"""A table (CSV, Excel, Parquet) about the archive -> which of its columns are used, and what each row states.

In: a file and `--map ours=Theirs`. Out: a `Table` of file names and `Attributes`. Label columns are never
taken: only the attributes below have a meaning here.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import labels, pseudonyms
from ssl_retina.archive import containers
from ssl_retina.archive.found import Found
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.statements import cells
from ssl_retina.archive.statements.attributes import Attributes
from ssl_retina.config_text import did_you_mean, tame_columns
from ssl_retina.errors import InputError

COMMON = {
    "file": (
        *("file", "filename", "filepath", "relativepath", "path", "image", "imagename", "imagefile"),
        *("imagepath", "imagefilename", "imageid", "img", "imgname", "photo", "photograph", "fundus"),
    ),
    "patient": (
        *("patient", "patientid", "patientcode", "patientnumber", "patientno", "subject", "subjectid"),
        *("participant", "participantid", "personid", "person", "pid"),
    ),
    "eye": ("eye", "laterality", "imagelaterality", "eyeside", "eyelaterality", "side"),
    "device": ("device", "devicemodel", "camera", "cameramodel", "cameraname", "manufacturermodelname"),
    "visit": ("visit", "visitnumber", "visitid", "visitdate", "examdate", "studydate", "acquisitiondate"),
    "split": ("split", "subset", "partition", "fold"),
    "modality": ("modality", "imagemodality", "imagetype"),
    "age": (),
    "sex": (),
}
"""Names of columns, without case, spaces and punctuation, in the order in which they are preferred.

Age and sex are taken only where the user says so (`--map age=Age`)."""

WHOLE = "patient_whole"
"""The remark that counts patients of a column which were written as `65.0`."""


@dataclass(frozen=True)
class Table:
    """columns: ours -> the table's. ignored: columns not used, as they may be shown.

    rows: (file, attributes). remarks: counts: cells of a column that were not understood (`unknown_eye`),
    patients written as `65.0` (WHOLE).
    """

    columns: Mapping[str, str]
    ignored: tuple[str, ...]
    rows: tuple[tuple[str, Attributes], ...]
    remarks: Mapping[str, int]


def read(path: Path, mapping: Mapping[str, str]) -> Table:
    """Read a table. Raises InputError for columns that do not exist, or hold what may be free text."""
    content = raw(path, f"--table {path}")
    columns = _chosen(content.columns, mapping)
    if "file" not in columns:
        raise InputError(_no_file_column(content.columns))
    texts: dict[str, Sequence[str]] = {ours: content.column(theirs) for ours, theirs in columns.items()}
    remarks = Counter({WHOLE: 0})
    if "patient" in texts:
        texts["patient"], remarks[WHOLE] = pseudonyms.whole(texts["patient"])
    titles = {ours: f"column {theirs!r}, taken for the {ours}," for ours, theirs in columns.items()}
    values, unknown = cells.parse(texts, titles)
    remarks.update({f"unknown_{name}": count for name, count in unknown.items()})
    rows = tuple(
        (file, Attributes(**{ours: column[at] for ours, column in values.items()}))
        for at, file in enumerate(texts["file"])
    )
    shown = zip(content.columns, tame_columns(content.columns), strict=True)
    ignored = tuple(tame for name, tame in shown if name not in columns.values())
    return Table(columns, ignored, rows, +remarks)


def _bytes(path: Path) -> bytes:
    """A table's bytes; `photos.zip/labels.csv` is a table inside a container. Raises InputError."""
    for folder in path.parents:
        if folder.is_file() and containers.kind(folder.name):
            return _inside(folder, path.relative_to(folder).as_posix())
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"the table {path} cannot be read: {error.strerror or error}") from None


def _inside(container: Path, name: str) -> bytes:
    with closing(containers.Reader(container)) as reader:
        for one in containers.members(container, Found(container.name, 0), ""):
            if one.path == name and one.member is not None:
                try:
                    return reader.content(one, one.member)
                except Rejected as refusal:
                    raise InputError(f"the table {name} in {container} cannot be read: {refusal}") from None
    raise InputError(f"{container} holds no table {name}")


def raw(path: Path, called: str) -> labels.Table:
    """A table as it stands: what a recipe reads; `called` names it in messages. Raises InputError."""
    return labels.parse(_bytes(path), called)


def describe(table: Table) -> str:
    """Which columns are used for what, and which are not looked at."""
    used = ", ".join(f"{ours} = {theirs}" for ours, theirs in table.columns.items())
    ignored = ", ".join(table.ignored) or "none"
    return f"table of {len(table.rows)} rows: {used}; not used: {ignored}"


def parse_map(pairs: Sequence[str]) -> dict[str, str]:
    """`["file=Image Name", ...]` as a mapping; raises InputError for what is none."""
    mapping: dict[str, str] = {}
    for pair in pairs:
        ours, equals, theirs = pair.partition("=")
        ours, theirs = ours.strip(), theirs.strip()
        if not equals or not theirs:
            raise InputError(f"--map {pair!r} is not written ours=Theirs, such as --map 'patient=Patient ID'")
        if ours not in COMMON:
            raise InputError(
                f"--map knows no {ours!r}{did_you_mean(ours, list(COMMON)) or '.'} "
                f"It knows: {', '.join(COMMON)}"
            )
        if ours in mapping:
            raise InputError(f"--map gives {ours!r} twice")
        mapping[ours] = theirs
    return mapping


def _chosen(names: Sequence[str], mapping: Mapping[str, str]) -> dict[str, str]:
    """ours -> theirs: what the user said, then the common names; no column is used twice."""
    for ours, theirs in mapping.items():
        if theirs not in names:
            hint = did_you_mean(theirs, sorted(set(names) & set(tame_columns(names))))
            raise InputError(f"--map {ours}={theirs}: the table has no such column{hint}; {_listed(names)}")
    plain = {re.sub(r"[\W_]", "", name.casefold()): name for name in names if name not in mapping.values()}
    chosen = dict(mapping)
    for ours, common in COMMON.items():
        known = [plain[word] for word in common if word in plain]
        if ours not in chosen and known:
            chosen[ours] = known[0]
    return {ours: chosen[ours] for ours in COMMON if ours in chosen}


def _listed(names: Sequence[str]) -> str:
    """The columns' names for a message; what may be data is not repeated: a table may lack its header."""
    return f"its columns are: {', '.join(tame_columns(names))}"


def _no_file_column(names: Sequence[str]) -> str:
    return (
        f"no column of the table is known to hold file names; {_listed(names)}. "
        "Name it: --map 'file=COLUMN' (the first line of the table must be its column names)"
    )
