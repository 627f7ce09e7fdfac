"""A patient leaves a set: every photograph of theirs goes, and the set is whole again without them.

In: a complete set, the patient's id as the archive writes it, the key. Out: the set without them, its ledger
saying `withdrawn`, and counts. Neither the id nor the patient's pseudonym is printed or kept.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ssl_retina import files, pseudonyms, shard_index, shards
from ssl_retina.archive import exchange, longtail, output, pack
from ssl_retina.archive.rejection import WITHDRAWN
from ssl_retina.archive.revision import revise
from ssl_retina.archive.settings import Totals
from ssl_retina.archive.statements import attributes
from ssl_retina.errors import InputError, ShardError, StateError
from ssl_retina.shard_index import manifest
from ssl_retina.shards import Index, Reader

DERIVED = ("datasheet.html", "croissant.json")
"""Pages about the set that may show the patient's photographs: they go too, and are made anew afterwards."""


@dataclass(frozen=True)
class Withdrawal:
    """What was taken out, in counts. A photograph that several patients share is the patient's: it goes.

    samples: photographs removed; files: what the ledger now calls withdrawn, copies and rejected files
    included. shared: of the samples, those that also lay under other patients; sharers: how many such
    patients. regrouped: samples of others whose group has a new name. shards: rewritten, and removed where
    nothing was left. earlier: digests of the set's older indexes, all of which held the patient or may have.
    digest: now. again: the patient had been withdrawn before.
    """

    samples: int
    files: int
    shared: int
    sharers: int
    regrouped: int
    rewritten: int
    removed: int
    left: int
    earlier: tuple[str, ...]
    digest: str
    again: bool = False

    def as_json(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {**asdict(self), "earlier": list(self.earlier)}


@dataclass(frozen=True)
class _Patient:
    """Who is meant: the pseudonym, and the mark that stays in the index so that nobody brings them back."""

    pseudonym: str
    mark: str


def withdraw(out: Path, patient: str, *, key_file: Path | None = None, site: str | None = None) -> Withdrawal:
    """Take a patient out of a set, or finish a withdrawal that was interrupted.

    A patient of whom the set holds no photograph is marked all the same: their files were rejected, or come
    later. Raises InputError for an id that names nobody, StateError for another key, a damaged set, another
    writer, and a set that would be empty; nothing is changed then.
    """
    with output.speaking("the set", out), files.lock(out):
        answer = exchange.finish(out)
        index = shards.read_index(out)
        who = _who(index, patient, key_file, site)
        if who.mark in index.facts.get(WITHDRAWN, ()):
            output.drop_leftovers(out)
            finished = answer is not None and answer.get("mark") == who.mark
            return _answered(answer or {}) if finished else _nothing_left(index)
        _require_whole(index)
        reader = Reader(index)
        try:
            return _answered(_taken_out(index, reader, who))
        finally:
            reader.close()


def _answered(answer: Mapping[str, Any]) -> Withdrawal:
    told = {name: value for name, value in answer.items() if name != "mark"}
    return Withdrawal(**{**told, "earlier": tuple(told["earlier"])})


def _nothing_left(index: Index) -> Withdrawal:
    return Withdrawal(0, 0, 0, 0, 0, 0, 0, index.samples, earlier(index.facts), index.digest, again=True)


def earlier(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Digests of the indexes that the set had before, oldest first."""
    return tuple(one["index"] for one in facts.get("history", ()))


def _who(index: Index, patient: str, key_file: Path | None, site: str | None) -> _Patient:
    made_with = index.facts.get("key_fingerprint")
    if made_with is None:
        raise StateError(
            f"{index.folder} was not made by ssl-retina shard: its patients have no pseudonyms of ours. Take "
            "the files out where the set was made, and index it again"
        )
    key = pseudonyms.read_key(key_file)
    if pseudonyms.fingerprint(key) != made_with:
        raise StateError(
            f"the set was made with the key of fingerprint {made_with}, this is another key: --key-file FILE"
        )
    if index.facts.get("ids") != pseudonyms.NORMALISATION:
        raise StateError(
            f"{index.folder} was made by another version of ssl-retina, which reads patient ids by another "
            "rule: this one might miss the patient. Nothing was taken out: remove the patient's files from "
            "the archive and make the set anew (another --out), or withdraw with that version"
        )
    if attributes.patient(patient) is None:
        raise InputError("--patient: this text names nobody (empty, zeros, 'anonymous' and the like)")
    place = index.facts.get("site", "") if site is None else site
    return _Patient(pseudonyms.patient(key, patient, place), pseudonyms.withdrawal_mark(key, patient, place))


def _require_whole(index: Index) -> None:
    """A damaged set is mended before anything is taken out of it: its proof would end here else."""
    wrong = shard_index.verify(index, hashes=False)
    ledger = index.folder / shards.LEDGER_NAME
    if not ledger.is_file():
        wrong.append(f"{ledger.name} is missing")
    if wrong:
        raise ShardError(
            f"{index.folder} is damaged: {'; '.join(wrong[: output.WRONG_SHOWN])}. Nothing was taken out: "
            "bring those files back from a copy first (ssl-retina inspect lists all)"
        )


def _taken_out(index: Index, reader: Reader, who: _Patient) -> dict[str, Any]:
    """Find the patient's photographs, write the files that differ, put them into the set; the answer."""
    gone: dict[int, revise.Facts] = {}
    holdings = revise.Holdings()
    clusters = _clusters(reader, who)
    for row, facts in revise.every(reader):
        if revise.cluster(facts) in clusters:
            gone[row] = facts
        else:
            holdings.add(facts)
    if len(gone) == index.samples:
        raise StateError(
            f"{index.folder} holds photographs of this patient alone: remove that folder instead"
        )
    groups = {shards.group_number(facts["group"]) for facts in gone.values()}
    mates = [row for row in range(len(reader)) if int(reader.positions[row]["group"]) in groups]
    staying = ((row, reader.facts(row)) for row in mates if row not in gone)
    several = files_of_several(index.folder / shards.LEDGER_NAME)
    changes = revise.regrouped(staying, several)
    answer = _answer(index, gone, changes) | {"mark": who.mark}
    changes |= dict.fromkeys(gone)
    folder = exchange.begin(index.folder)
    revised = revise.rewrite(index, reader, changes, folder)
    theirs = _Theirs.of(who, {facts["key"] for facts in gone.values()}, several)
    counted = _write_ledger(index.folder, folder, theirs)
    answer |= {"files": counted.total()}
    answer |= {"rewritten": len(revised.rewritten), "removed": len(revised.removed)}
    totals = _totals(index, counted, holdings, len(index.shards) - len(revised.removed))
    new = revise.index_again(index, revised, folder, _facts(index, totals, who))
    answer |= {"digest": new.digest}
    output.drop_leftovers(index.folder)
    exchange.commit(index.folder, [*revised.removed, *DERIVED], answer)
    return answer


def _clusters(reader: Reader, who: _Patient) -> set[str]:
    """The patient's photographs, each with its near duplicates: a resized copy shows the same eye."""
    every = revise.every(reader)
    return {revise.cluster(facts) for _, facts in every if who.pseudonym in revise.owners(facts)}


def files_of_several(ledger: Path) -> dict[str, str]:
    """Key -> file of every picture that is not the only one of its file."""
    return {line["key"]: line["file"] for line in manifest.lines(ledger) if "file" in line}


def _answer(
    index: Index, gone: Mapping[int, revise.Facts], regrouped: Mapping[int, object]
) -> dict[str, Any]:
    everyone: dict[str, set[str]] = {}
    for facts in gone.values():
        everyone.setdefault(revise.cluster(facts), set()).update(revise.owners(facts))
    owners = [everyone[revise.cluster(facts)] for facts in gone.values()]
    shared = [one for one in owners if len(one) > 1]
    return {
        "samples": len(gone),
        "shared": len(shared),
        "sharers": len(set().union(*shared)) - 1 if shared else 0,
        "regrouped": len(regrouped),
        "left": index.samples - len(gone),
        "earlier": [*earlier(index.facts), index.digest] if gone else [],
    }


@dataclass(frozen=True)
class _Theirs:
    """What tells the patient's ledger lines. keys: of samples that go; files: those that held several."""

    pseudonym: str
    keys: set[str]
    files: set[str]

    @classmethod
    def of(cls, who: _Patient, keys: set[str], several: Mapping[str, str]) -> "_Theirs":
        """By the samples that go; several: key -> file."""
        return cls(who.pseudonym, keys, {several[key] for key in keys if key in several})

    def hold(self, line: Mapping[str, Any]) -> bool:
        """Whether the picture is theirs; of a rejected one the line itself says whose it is."""
        return (
            not self.keys.isdisjoint((line["key"], line.get("of"))) or line.get("patient") == self.pseudonym
        )

    def may_hold(self, line: Mapping[str, Any]) -> bool:
        """Whether a rejected picture lies in a file of theirs."""
        return line["outcome"] == pack.REJECTED and line.get("file") in self.files


def _write_ledger(out: Path, folder: Path, theirs: _Theirs) -> Counter[str]:
    """The ledger with the patient's files as `withdrawn`: only their keys stay.

    Gives how many there were of each outcome, or reason of the rejected. A rejected picture in a
    file of theirs of which nobody knows whose it is keeps its reason and nothing else.
    """
    counts: Counter[str] = Counter()
    with (
        files.whole(folder / shards.LEDGER_NAME, files.mode_beside(folder)) as temporary,
        temporary.open("w", encoding="utf-8") as stream,
    ):
        for line in manifest.lines(out / shards.LEDGER_NAME):
            if theirs.hold(line):
                counts[line["reason"] or line["outcome"]] += 1
                line = _bare(line) | {"outcome": pack.REJECTED, "reason": WITHDRAWN}
            elif theirs.may_hold(line) and "patient" not in line:
                line = _bare(line) | {name: line[name] for name in ("outcome", "reason")}
            stream.write(json.dumps(line, sort_keys=True) + "\n")
    return counts


def _bare(line: Mapping[str, Any]) -> dict[str, Any]:
    """A line without what its file says: the pseudonyms of picture and file are left."""
    return {name: line[name] for name in ("key", "file") if name in line} | {"detail": "", "source": ""}


def _totals(index: Index, counted: Counter[str], holdings: revise.Holdings, number: int) -> Totals:
    old = Totals(**index.facts["totals"])
    written, duplicates = counted[pack.WRITTEN], counted[pack.DUPLICATE]
    before = Counter({name: n for name, n in counted.items() if name not in (pack.WRITTEN, pack.DUPLICATE)})
    return Totals(
        scanned=old.scanned,
        written=old.written - written,
        rejected=old.rejected + written + duplicates,
        duplicates=old.duplicates - duplicates,
        patients=len(holdings.patients),
        shards=number,
        reasons=dict(Counter(old.reasons) - before + Counter({WITHDRAWN: counted.total()})),
        remarks=holdings.revised(old.remarks),
    )


def _facts(index: Index, totals: Totals, who: _Patient) -> dict[str, Any]:
    """What the new index and its manifest say: that a withdrawal happened, not of whom."""
    facts = {name: value for name, value in index.facts.items() if name not in shard_index.OWN_FACTS}
    facts["totals"] = asdict(totals)
    if "anonymity" in facts:
        facts["anonymity"] = {**facts["anonymity"], "smallest": None}
    if taken := facts.get("taken_out"):
        facts["taken_out"] = longtail.without_devices(taken, totals.remarks)
    facts["history"] = [*facts.get("history", ()), {"what": WITHDRAWN, "index": index.digest}]
    facts[WITHDRAWN] = sorted([*facts.get(WITHDRAWN, ()), who.mark])
    return facts
