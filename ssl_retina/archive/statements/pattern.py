"""`{patient}_{eye}` -> what a bare file name states.

In: a pattern and file names without folder and suffix. Out: the text of each field.
"""

import re
from pathlib import PurePosixPath

from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

FIELDS = {
    "patient": ".+?",
    "eye": "[A-Za-z]+",
    "visit": "[0-9A-Za-z-]+",
    "device": "[^_]+",
    "split": "[^_]+",
    "modality": "[^_]+",
}
SKIP = "_"
"""`{_}` stands for anything that is not used."""


def compile_pattern(pattern: str) -> re.Pattern[str]:
    """The regular expression of a pattern; a patient's part is as short as the rest of the name allows.

    Raises InputError for unknown or repeated fields.
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    named = parts[1::2]
    known = [*FIELDS, SKIP]
    for name in named:
        if name not in known:
            hint = did_you_mean(name, known)
            raise InputError(f"--pattern has no field {name!r}{hint or '.'} Fields: {', '.join(known)}")
        if name != SKIP and named.count(name) > 1:
            raise InputError(f"--pattern names {name!r} twice")
    if not set(named) - {SKIP}:
        raise InputError("--pattern names no field; write it like {patient}_{eye}")
    pieces = [re.escape(text) for text in parts]
    pieces[1::2] = [".*" if name == SKIP else f"(?P<{name}>{FIELDS[name]})" for name in named]
    return re.compile("".join(pieces), re.DOTALL)


def parts(compiled: re.Pattern[str], path: str) -> dict[str, str] | None:
    """The text of each field in the bare name of `path`, or None where it does not follow the pattern."""
    match = compiled.fullmatch(PurePosixPath(path).stem)
    return None if match is None else match.groupdict(default="")
