"""Facts about an archive, a run and a probe -> one HTML page that needs no network and no script.

In: a `Page` of plain values; whatever is absent leaves its section out. Out: the page as text. Every value
is escaped but our own SVG; figures and pictures lie inside the page. Photographs are shown only where a
sheet is given.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ssl_retina import files
from ssl_retina.probe import report as probe_report
from ssl_retina.report import plots

TEMPLATE = "page.html.j2"


@dataclass(frozen=True)
class Step:
    """One step of how it was made; `command` is what a user would type, or empty."""

    name: str
    what: str
    command: str
    seconds: float


@dataclass(frozen=True)
class Sheet:
    """Photographs to show: a JPEG and what it shows. Only for pictures that are nobody's."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Page:
    """Everything a page can say.

    lead: opening paragraphs. verdict: the answer in a sentence or two. totals: an archive's counts
    (`archive.Totals` as a mapping). holdings: what `inspect --json` gives. metrics: lines of a run.
    probe: what `probe.json` holds. versions, digests: name and value. limits: what it does not show.
    """

    title: str
    lead: Sequence[str] = ()
    verdict: str = ""
    totals: Mapping[str, Any] | None = None
    holdings: Mapping[str, Any] | None = None
    sheet: Sheet | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    probe: Mapping[str, Any] | None = None
    steps: Sequence[Step] = ()
    environment: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)
    limits: Sequence[str] = ()


def write(page: Page, path: Path) -> None:
    """Write the page whole."""
    files.write_bytes(path, render(page).encode())


def render(page: Page) -> str:
    """The page as HTML text; the same values give the same text."""
    loader = PackageLoader("ssl_retina.report")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["count"] = _count
    return environment.get_template(TEMPLATE).render(
        page=page,
        parts=list(_parts(page.totals)) if page.totals else [],
        sheet=base64.b64encode(page.sheet.jpeg).decode("ascii") if page.sheet else "",
        curves=plots.curves(page.metrics),
        last=_last(page.metrics),
        tasks=list(_tasks(page.probe)) if page.probe else [],
        footer=probe_report.footer(page.probe) if page.probe else [],
        seconds=sum(step.seconds for step in page.steps),
    )


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _parts(totals: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """What the scanned files became, each with its share of the bar."""
    for name in ("written", "duplicates", "rejected"):
        share = 100 * totals[name] / max(totals["scanned"], 1)
        yield {"name": name, "count": totals[name], "share": f"{share:.2f}"}


def _last(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last known value of each number of a run."""
    known: dict[str, Any] = {}
    for line in lines:
        known |= {name: value for name, value in line.items() if value is not None}
    return known


def _tasks(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for task in result["tasks"]:
        head, *rows = probe_report.rows(task)
        difference_head, *differences = probe_report.difference_rows(task)
        yield {
            "name": task["name"],
            "heading": probe_report.heading(task, result["level"]),
            "head": head,
            "rows": rows,
            "difference_head": difference_head,
            "differences": differences,
            "left_out": task["left_out"],
            "forest": plots.forest(task, probe_report.NAMES),
        }
