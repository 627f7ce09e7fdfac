"""What `shard` tells of its counts: every remark and reason in words, with what to do about it."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_retina.cli import console

if TYPE_CHECKING:
    from ssl_retina.archive.settings import Totals

REMARKS = {
    "patient_whole": "rows whose patient is written like 65.0: read as 65, as no patient of the column is a "
    "fraction",
    "no_patient": "photographs without a patient id: each is its own group",
    "id_conflict": "photographs that lie under several patients: those patients are one group",
    "split_conflict": "photographs that lie in several splits",
    "eye_conflict": "photographs with contradicting eyes: their eye is unknown",
    "eye_unknown": "photographs without a known eye",
    "eye_unverified": "photographs whose eye is known from an OCT maker's file alone: not verified",
    "unknown_eye": "cells of the eye column that are none of R, L, OD, OS, right, left",
    "unknown_visit": "cells of the visit column without a number or date (year first)",
    "unknown_modality": "cells of the modality column that were not understood",
    "table_rows_without_file": "rows of the table without a file",
    "table_rows_ambiguous": "rows of the table whose bare file name fits several files (give relative paths)",
    "table_rows_of_one_file": "rows of the table that speak of a file again",
    "files_without_table_row": "files without a row in the table",
    "names_unlike_pattern": "file names that do not follow the pattern, or no path rule of the recipe",
    "near_duplicate": "photographs that are near duplicates of another: marked, and in its group",
    "near_merged": "near duplicates that became aliases",
    "rare": "files of the rare stratum",
    "rare_spared": "files of the rare stratum that --min-quality would have rejected: kept",
    "no_field_of_view": "photographs without a found field of view: nothing of them was made black",
    "device_unknown": "photographs whose device was dropped: words of no maker, or it looks like a person",
    "unknown_age": "cells of the age column that are no years",
    "unknown_sex": "cells of the sex column that are none of F, M, female, male",
    "suppressed_age": "photographs whose age was made unknown: fewer than k patients share what is known",
    "suppressed_sex": "photographs whose sex was made unknown too",
    "suppressed_visit": "photographs whose visit was made unknown too",
    "suppressed_device": "photographs whose device was made unknown too",
    "below_k": "patients in all, fewer than k: age, sex, visit and device of all of them were made unknown",
    "visit_unknown": "photographs added to patients whose earlier visits the archive tells otherwise now",
    "devices_dropped": "more than 64 different devices: that is free text, none was written",
}

WARNINGS = {
    "below_k": "so few patients cannot be k: the set is not k-anonymous. Add patients, or keep it to yourself"
}
"""Remarks after which something is to be done."""

LEFT_OUT = ("not_selected", "skipped_by_recipe")
"""Reasons of files that were to be left out: no sign of a wrong folder."""

HINTS = {
    "sop_class": " (not ophthalmic; --also vl,sc reads photographs and captures)",
    "pages": " (--pages first or all takes them)",
    "not_selected": " (left out by --frames or --pages)",
    "no_reader:container": " (only .zip, .tar, .tar.gz and .tgz are read: unpack them)",
    "nested_container": " (containers inside containers are not read: unpack the outer one)",
    "burned_in": " (a device wrote into the pixels; look at them, then perhaps --keep-text, or no --ocr)",
    "quality": " (below --min-quality)",
    "skipped_by_recipe": " (the ledger says which for what reason)",
    "not_retinal": " (no fundus photograph and no OCT; declare them in the table, or --keep-other)",
}


def _hint(reason: str) -> str:
    """What to do about a reason."""
    if reason.startswith("no_decoder:1.2.840.10008.1.2.4."):
        return " (compressed pixels; pip install 'ssl-retina[dicom]' reads JPEG Lossless and JPEG-LS)"
    return HINTS.get(reason, "")


def slice_made(part: str, rows: int) -> None:
    """Tell that a slice is done, and what comes next."""
    console.note(f"slice {part}: {rows:,} files are done; when all slices are: the same command with --merge")


def summary(totals: "Totals", out: Path, advice: Sequence[str]) -> dict[str, Any]:
    """Tell the totals of a build, what was kept of every stratum, and what a recipe advises; give them."""
    from ssl_retina import shards
    from ssl_retina.report import strata

    lines = strata.read(shards.read_index(out))
    counts = totals.counts()
    shown = ", ".join(f"{counts[name]:,} {name}" for name in ("scanned", "written", "rejected", "duplicates"))
    console.note(f"{shown}; {totals.patients:,} patients; shards: {totals.shards:,} in {out}")
    for reason, count in sorted(totals.reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        console.note(f"  rejected {count:,}: {reason}{_hint(reason)}")
    left_out = sum(totals.reasons.get(reason, 0) for reason in LEFT_OUT)
    if 2 * (counts["rejected"] - left_out) > counts["scanned"] - left_out:
        console.note("WARNING: more than half of the files were rejected: is this the right folder?")
    for remark, count in sorted(totals.remarks.items()):
        console.note(f"  {count:,} {REMARKS.get(remark, remark)}")
        if remark in WARNINGS:
            console.note(f"WARNING: {WARNINGS[remark]}")
    for one in lines:
        console.note(f"  {one.sentence()}")
    if not totals.patients:
        console.note("  no patient ids: statistics will be image-level (probe --patient none)")
    console.note(f"next: ssl-retina inspect {out}")
    for line in advice:
        console.note(line)
    return {**counts, "strata": [one.as_json() for one in lines]} if lines else counts
