"""The page: complete, escaped, without network or script, the same for the same values, and readable."""

import io
import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from ssl_retina.report import page, plots
from ssl_retina.report.page import Page, Sheet, Step

HOSTILE = "<script>alert('$x$')</script> & \"q\""


def number(value: float, spread: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value - spread, "high": value + spread}


def probe_result(name: str = "out/model") -> dict[str, object]:
    weights = (name, "random", "mean-colour")
    results = [
        {
            "weights": one,
            "probe": kind,
            "metrics": {"auroc": number(0.7 - 0.05 * place), "auprc": number(0.6)},
        }
        for place, one in enumerate(weights)
        for kind in ("logistic", "knn")
    ]
    differences = [
        {
            "weights": name,
            "against": one,
            "probe": "logistic",
            "metrics": {"auroc": number(0.05), "auprc": number(0)},
        }
        for one in weights[1:]
    ]
    task = {
        "name": "referable",
        "spec": "referable",
        "kind": "binary",
        "metrics": ["auroc", "auprc"],
        "split": "5 folds of patients",
        "tested_images": 600,
        "tested_patients": 148,
        "results": results,
        "differences": differences,
        "left_out": {"aliases disagree": 1},
        "conflicts": {},
    }
    return {
        "level": "patient",
        "patients_from": "column patient",
        "resamples": 2000,
        "seed": 0,
        "notes": ["60 of 660 photographs of the shards have no row in the labels file"],
        "weights": [{"name": one, "about": "", "dimensions": 3} for one in weights],
        "tasks": [task],
    }


def lines() -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for step in range(1, 41):
        line = {"step": step, "samples": 64 * step, "loss": 1 / step, "learning_rate": 1e-3, "skipped": 0}
        found.append(line | ({"held_out_loss": 1.1 / step, "feature_rank": 4.0} if step % 10 == 0 else {}))
    return found


def full(title: str = "A page", weights: str = "out/model") -> Page:
    sheet = plots.contact_sheet([Image.new("RGB", (80, 60), "orange")] * 5, columns=3, cell=40)
    return Page(
        title=title,
        lead=("What this is.",),
        verdict="Nothing is proven.",
        totals={
            "scanned": 669,
            "written": 660,
            "rejected": 3,
            "duplicates": 6,
            "reasons": {"not_an_image": 1, "truncated": 2},
            "remarks": {"id_conflict": 2},
        },
        holdings={
            "samples": 660,
            "shards": 1,
            "bytes": 11_700_000,
            "patients": 148,
            "columns": {"device": {"": 2, "Halo": 658}},
            "sizes": {"256x256": 600},
            "damage": [],
        },
        sheet=Sheet(sheet, "Five pictures"),
        metrics=lines(),
        probe=probe_result(weights),
        steps=(
            Step("shard", "makes shards", "ssl-retina shard a --out b", 12.4),
            Step("draw", "draws", "", 3.0),
        ),
        environment=("export A=b",),
        versions={"torch": "2.13"},
        digests={"shards": "ab" * 32},
        limits=("Drawings.",),
    )


class Outline(HTMLParser):
    """Sections, addresses and the balance of the tags."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        known = dict(attributes)
        self.tags.add(tag)
        self.addresses += [known[name] or "" for name in ("src", "href", "xlink:href") if name in known]
        self.ids += [known["id"] or ""] if "id" in known else []
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def outline(text: str) -> Outline:
    parsed = Outline()
    parsed.feed(text)
    assert not parsed.open
    return parsed


def test_every_section_is_there_and_well_formed():
    text = page.render(full())
    parsed = outline(text)
    assert {"archive", "shards", "run", "probe", "made", "limits"} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids)), "an id that stands twice breaks the figures"
    for words in (
        "660",
        "not an image",
        "0.700 (0.650 to 0.750)",
        "+0.050",
        "ssl-retina shard a --out b",
        "15",
    ):
        assert words in text


def test_nothing_is_fetched_and_nothing_runs():
    text = page.render(full())
    parsed = outline(text)
    assert not parsed.tags & {"script", "iframe", "link", "object", "embed", "base"}
    assert all(address.startswith(("data:image/", "#")) for address in parsed.addresses)
    assert "url(http" not in text
    assert "@import" not in text


def test_values_are_escaped_also_in_figures():
    """F99's cousin: a weights' name or a title is text, never markup, and no mathematics either."""
    text = page.render(full(title=HOSTILE, weights=HOSTILE))
    assert "<script" not in text
    assert text.count("alert(") > 2
    forest = text[text.index("<svg", text.index('id="probe"')) :].partition("</svg>")[0]
    assert "$x$" in re.sub(r"<!--.*?-->", "", forest, flags=re.DOTALL)
    assert outline(text).tags.isdisjoint({"script"})


def test_absent_facts_leave_their_section_out():
    text = page.render(Page(title="Bare"))
    assert outline(text).ids == []
    assert "<h2>" not in text


def test_no_photograph_unless_a_sheet_is_given():
    """Law 8: a page about real data shows no picture of it by itself."""
    bare = Page(title="Real", totals=full().totals, holdings=full().holdings, metrics=lines())
    assert "data:image" not in page.render(bare)


def test_same_values_give_the_same_page(tmp_path: Path):
    page.write(full(), tmp_path / "a.html")
    page.write(full(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_figures_take_the_pages_ink():
    for figure in (
        plots.curves(lines()),
        plots.forest(probe_result()["tasks"][0], {"auroc": "AUROC", "logistic": "l", "knn": "k"}),
    ):  # type: ignore[index]
        assert figure.startswith("<svg")
        assert "currentColor" in figure
        assert plots.INK not in figure
        assert 'width="100%"' in figure
        assert "<?xml" not in figure


@pytest.mark.parametrize("counts", [{1: 5}, {3: 1}, {1: 40, 2: 1}, {1: 5, 2: 7, 7: 2, 30: 1}])
def test_bars_of_few_values_have_whole_ticks_and_sane_widths(counts: dict[int, int]):
    svg = plots.bars("visits", counts, "visits of a patient", "patients")
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
    ticks = texts[: texts.index("visits of a patient")]
    assert str(min(counts)) in ticks or len(counts) > 2
    assert all(re.fullmatch(r"\d+", tick) for tick in ticks)
    bar = re.search(rf'd="M ([\d.]+) [\d.]+ \nL ([\d.]+) [^"]*" clip-path[^>]*fill: {plots.BLUE}', svg)
    assert bar is not None
    assert float(bar[2]) - float(bar[1]) < 70  # points, of 302


def test_contact_sheet_holds_every_picture():
    colours = ("red", "lime", "blue", "yellow")
    sheet = plots.contact_sheet([Image.new("RGB", (50, 50), one) for one in colours], columns=3, cell=30)
    with Image.open(io.BytesIO(sheet)) as image:
        assert image.size == (90, 60)
        assert image.getpixel((75, 15))[2] > 200  # blue, the third
        assert max(image.getpixel((75, 45))) < 40  # nothing there


CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))),
    None,
)


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium here: the page is not looked at in a browser")
@pytest.mark.parametrize("width", [390, 1100])
def test_a_browser_shows_the_page(tmp_path: Path, width: int):
    """Nothing sticks out sideways, the figures have a size, and print gives a PDF."""
    text = page.render(full(weights="out/" + "very-long-name-" * 8))
    probe = (
        "<script>document.title = [document.documentElement.scrollWidth, innerWidth,"
        " ...[...document.querySelectorAll('figure svg, figure img')].map(one =>"
        " Math.round(one.getBoundingClientRect().height))].join(' ')</script></body>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text).replace("</body>", probe)
    file = tmp_path / "page.html"
    file.write_text(text)
    dumped = browse(tmp_path, f"--window-size={width},900", "--dump-dom", file.as_uri())
    title = re.search(r"<title>([^<]*)</title>", dumped)
    assert title is not None
    inner, shown, *heights = (int(word) for word in title.group(1).split())
    assert inner <= shown, "something sticks out sideways"
    assert len(heights) == 3
    assert min(heights) > 30
    browse(tmp_path, f"--print-to-pdf={tmp_path / 'page.pdf'}", file.as_uri())
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")


def browse(folder: Path, *arguments: str) -> str:
    quiet = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
    )
    assert CHROMIUM is not None
    command = [CHROMIUM, *quiet.split(), f"--user-data-dir={folder / 'profile'}", *arguments]
    environment = {**os.environ, "HOME": str(folder)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True, env=environment)
    return done.stdout
