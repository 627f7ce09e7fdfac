"""A set of shards -> its datasheet: one HTML page without network or script (Gebru et al. 2021, shortened).

In: the index of a set. Out: the page: what it holds, how it was made, who could be singled out, what may be
done with it, some photographs of each device. No pseudonym, path, name or date is in it; photographs are.
"""

import base64
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssl_retina import files
from ssl_retina.report import census, plots, sheet, strata
from ssl_retina.report.census import Census
from ssl_retina.shard_index.manifest import SEALED
from ssl_retina.shards import Index

NAME = "datasheet.html"
TEMPLATE = "datasheet.html.j2"
NOT_STATED = "not stated"
COLUMNS, DEVICES_SHOWN, PICTURES, CELL = 6, 12, 24, 160
WORDS_SHOWN = 16
USE = ("title", "licence", "consent", "citation", "page")
SAID_ELSEWHERE = ("format", "ids", "key_fingerprint")
"""Of what a set was made from: facts of the index too."""

LIMITS = (
    "The set is pseudonymised, not anonymous: a fundus photograph identifies an eye. Keep this page as you "
    "keep the shards: it shows some.",
    "k-anonymity counts device, age, sex and visits alone; what the pictures show is not in it, nor how many "
    "photographs a patient has.",
    "Letters in the pixels are looked for in scans and in photographs without a rim alone, words in all "
    "pictures only where 'ocr' stands above; damage that still "
    "decodes is not detected.",
    "Counts are of photographs, not of people, unless patients are named.",
)


def write(index: Index, path: Path) -> None:
    """Write the page whole: beside the set as readable as the set, anywhere else for this user alone."""
    text = render(index, census.take(index))
    beside = path.parent.resolve() == index.folder.resolve()
    files.write_bytes(path, text.encode(), files.mode_beside(path.parent) if beside else 0o600)


def render(index: Index, counts: Census) -> str:
    """The page as HTML; the same set gives the same text."""
    loader = PackageLoader("ssl_retina.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["count"] = lambda value: f"{value:,}" if isinstance(value, int) else str(value)
    facts = index.facts
    return environment.get_template(TEMPLATE).render(
        title=f"Datasheet of {name_of(index)}",
        counts=counts,
        parts=list(_parts(facts.get("totals"))),
        totals=facts.get("totals"),
        columns={name: _shortened(words) for name, words in counts.columns.items()},
        **_long_tail(index, counts),
        visits=plots.bars("visits", counts.visits, "visits of a patient", "patients"),
        photographs=plots.bars("photographs", counts.photographs, "photographs of a patient", "patients"),
        anonymity=facts.get("anonymity", {}),
        withdrawals=sum(one.get("what") == "withdrawn" for one in facts.get("history", ())),
        use=use(facts),
        made=list(_made(index)),
        versions=facts.get("made_with", {}),
        sheet=base64.b64encode(_contact_sheet(index)).decode("ascii"),
        devices=index.columns["device"][:DEVICES_SHOWN],
        each=_each(index),
        limits=LIMITS,
    )


def _long_tail(index: Index, counts: Census) -> dict[str, Any]:
    """The strata, and which reasons have a column."""
    lines = strata.take(index, counts)
    return {
        "strata": lines,
        "reasons": sorted({reason for one in lines for reason in one.taken}),
        "weighted": any(one.weight is not None for one in lines),
        "spared": next((one.spared for one in lines if one.kind == "rare"), {}),
    }


def name_of(index: Index) -> str:
    """How the set's shards begin."""
    return index.shards[0].url.rsplit("-", 1)[0] if index.shards else "an empty set"


def use(facts: Mapping[str, Any]) -> dict[str, str]:
    """Licence, consent and source as the recipe states them."""
    recipe = facts.get("recipe")
    stated = recipe if isinstance(recipe, dict) else {}
    return {name: str(stated.get(name) or NOT_STATED) for name in USE}


def _parts(totals: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """What the scanned files became, each with its share of the bar."""
    for name in ("written", "duplicates", "rejected") if totals else ():
        assert totals is not None
        share = 100 * totals[name] / max(totals["scanned"], 1)
        yield {"name": name, "count": totals[name], "share": f"{share:.2f}"}


def _shortened(words: Mapping[str, int]) -> dict[str, int]:
    """The most frequent words, and all others in one line."""
    shown = dict(list(words.items())[:WORDS_SHOWN])
    rest = sum(words.values()) - sum(shown.values())
    return shown | ({f"{len(words) - len(shown)} others": rest} if rest else {})


def _made(index: Index) -> Iterator[tuple[str, str]]:
    made = index.facts.get("made_from", {})
    for name, value in sorted(made.items()):
        if name not in (*SAID_ELSEWHERE, "listing", "attributes") and value not in ("", None, []):
            yield name.replace("_", " "), str(value)
    yield "ids", str(index.facts.get("ids", NOT_STATED))
    yield "key fingerprint", str(index.facts.get("key_fingerprint", NOT_STATED))
    yield "index (SHA-256)", index.digest
    yield "manifest (SHA-256)", str(index.facts.get(SEALED, "none: what the set was made from is not proven"))


def _contact_sheet(index: Index) -> bytes:
    each = _each(index)
    pictures = sheet.spread(index, each=each)[: each * DEVICES_SHOWN]
    return plots.contact_sheet(pictures, columns=COLUMNS, cell=CELL)


def _each(index: Index) -> int:
    """Photographs of each device: whole rows, and PICTURES in all where there are few devices."""
    rows = PICTURES // (COLUMNS * max(len(index.columns["device"]), 1))
    return COLUMNS * max(rows, 1)
