"""Cells of a table, or parts of file names -> known values; what may be free text is refused.

In: the texts of each attribute, and what to call their source. Out: values, and counts of what was not
understood.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_retina.archive.statements.attributes import DEVICES_LIMIT, PARSERS
from ssl_retina.errors import InputError


def parse(
    texts: Mapping[str, Sequence[str]], titles: Mapping[str, str]
) -> tuple[dict[str, Sequence[Any]], dict[str, int]]:
    """Every attribute's texts as values, and how many of eye, visit and modality were not understood.

    titles: attribute -> the beginning of a sentence about its source. Raises InputError for devices and
    splits that may be free text.
    """
    values: dict[str, Sequence[Any]] = {}
    unknown: dict[str, int] = {}
    for ours, parser in PARSERS.items():
        if ours not in texts:
            continue
        known = {text: parser(text) for text in dict.fromkeys(texts[ours])}  # one object for equal cells
        found = values[ours] = [known[text] for text in texts[ours]]
        pairs = zip(texts[ours], found, strict=True)
        wrong = sum(bool(text) and value in (None, "unknown") for text, value in pairs)
        _refuse_free_text(ours, titles[ours], wrong=wrong, found=found)
        if wrong and ours != "patient":
            unknown[ours] = wrong
    return values, unknown


def _refuse_free_text(ours: str, title: str, *, wrong: int, found: Sequence[object]) -> None:
    """Devices and splits go into the shards as they stand: only short words that come again and again may."""
    distinct = len(set(found) - {None})
    if ours == "device" and (wrong or distinct > min(DEVICES_LIMIT, max(8, len(found) // 4))):
        trouble = (
            f"{wrong} are no short plain names, or hold a date or a long number"
            if wrong
            else f"{distinct} different values in {len(found)} rows"
        )
        raise InputError(
            f"{title} looks like free text ({trouble}): shards carry "
            "none. Take the device from elsewhere (--map device=COLUMN, --pattern), or clean it up"
        )
    if ours == "split" and wrong:
        raise InputError(
            f"{title} looks like free text: {wrong} of {len(found)} are none of train, "
            "val, test, holdout, external, fold 0 ... 99. Map another column (--map split=COLUMN), mend the "
            "--pattern, or clean it up"
        )
