"""A run's curves and a probe's forest plot as SVG, and a contact sheet as JPEG.

In: lines of `metrics.jsonl`, a task of `probe.json`, decoded photographs. Out: text or bytes to put into a
page. Ink is `currentColor`, so that the same figure reads on light, dark and paper.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

INK = "#010203"
"""Stands for the page's own text colour until the SVG is written."""
FEWEST_BARS = 4
"""Bars that have room at least: a single one does not fill the picture."""
BLUE, ORANGE = "#3f83d6", "#d67f1f"
STYLE: Mapping[str, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "text.parse_math": False,
}

Line = Mapping[str, Any]


def _style(figure: str) -> dict[Any, Any]:
    """Settings of one figure; its name keeps the ids inside it apart from those of others on the page."""
    return {**STYLE, "svg.hashsalt": figure}


def curves(lines: Sequence[Line]) -> str:
    """Loss and held-out loss, learning rate, and feature rank over optimiser steps; '' without lines."""
    if not lines:
        return ""
    with mpl.rc_context(_style("curves")):
        drawing = Figure(figsize=(8.6, 2.7), layout="constrained")
        FigureCanvasSVG(drawing)
        losses, rates, ranks = drawing.subplots(1, 3, width_ratios=(1.5, 1, 1))
        _curve(losses, lines, "loss", colour=BLUE, label="training")
        _curve(losses, lines, "held_out_loss", colour=ORANGE, label="held-out patients", marker="o")
        losses.set_title("loss", loc="left", fontsize=9)
        losses.legend(frameon=False, fontsize=8, labelcolor=INK)
        _curve(rates, lines, "learning_rate", colour=BLUE)
        rates.set_title("learning rate", loc="left", fontsize=9)
        rates.ticklabel_format(axis="y", scilimits=(0, 0))
        _curve(ranks, lines, "feature_rank", colour=ORANGE, marker="o")
        ranks.set_title("feature rank (held-out)", loc="left", fontsize=9)
        for axes in (losses, rates, ranks):
            axes.set_xlabel("step")
        _mind_the_start(losses, lines)
        return _svg(drawing)


def _curve(
    axes: Axes, lines: Sequence[Line], name: str, *, colour: str, label: str = "", marker: str = ""
) -> None:
    known = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = [step for step, _ in known], [value for _, value in known]
    axes.plot(steps, values, color=colour, label=label, marker=marker, markersize=3.5, linewidth=1.4)


def _mind_the_start(axes: Axes, lines: Sequence[Line]) -> None:
    """The first steps fall from so high that the rest would be a flat line: cut them at three quarters."""
    values = [float(line["loss"]) for line in lines if line.get("loss") is not None]
    if len(values) < 8:
        return
    later = values[len(values) // 4 :]
    top, low = max(later), min(later)
    if max(values) > top + 3 * (top - low) > low:
        axes.set_ylim(low - 0.08 * (top - low), top + 0.6 * (top - low))


def forest(task: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """The headline metric of each WEIGHTS with its 95 % interval; `names` spells metrics and probes."""
    headline = task["metrics"][0]
    results = [one for one in task["results"] if one["metrics"][headline]["value"] is not None]
    with mpl.rc_context(_style(f"forest {task['name']}")):
        drawing = Figure(figsize=(8.6, 0.9 + 0.28 * len(results)), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.subplots()
        for place, one in enumerate(results):
            _interval(axes, place, one["metrics"][headline], colour=_colour(one["probe"]))
        labels = [f"{_short(one['weights'])}, {names[one['probe']]}" for one in results]
        axes.set_yticks(range(len(results)), labels)
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(len(results) - 0.5, -0.5)
        axes.spines["left"].set_visible(False)
        chance = 0.5 if headline == "auroc" else 0.0
        axes.axvline(chance, color=INK, linestyle=":", linewidth=0.9, alpha=0.6)
        axes.set_xlabel(f"{names[headline]} with 95 % interval; dotted: chance")
        return _svg(drawing)


def _colour(probe: str) -> str:
    return BLUE if probe == "logistic" else ORANGE


def _interval(axes: Axes, place: int, number: Mapping[str, float | None], *, colour: str) -> None:
    value = number["value"]
    assert value is not None
    low = value if number["low"] is None else number["low"]
    high = value if number["high"] is None else number["high"]
    axes.plot([low, high], [place, place], color=colour, linewidth=2.0, solid_capstyle="butt")
    axes.plot([value], [place], "o", color=colour, markersize=5.5)
    axes.annotate(f"{value:.3f}", (high, place), (6, 0), textcoords="offset points", va="center", fontsize=8)


def _short(text: str, limit: int = 44) -> str:
    return text if len(text) <= limit else "..." + text[3 - limit :]


def _svg(drawing: Figure) -> str:
    """The figure as an `<svg>` element that fills the width of its place."""
    stream = io.StringIO()
    drawing.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[a-z_.A-Z0-9]+"', "<g", text)
    text = re.sub(r'font: ([\d.]+px) [^;"]*', r"font: \1 system-ui, sans-serif", text)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', text, count=1).replace(
        ' height="', ' data-height="', 1
    )


def bars(name: str, counts: Mapping[int, int], across: str, up: str) -> str:
    """How often each number occurs, as bars; '' without any. `name` keeps figures of one page apart."""
    if not counts:
        return ""
    with mpl.rc_context(_style(name)):
        drawing = Figure(figsize=(4.2, 2.0), layout="constrained")
        FigureCanvasSVG(drawing)
        axes = drawing.subplots()
        axes.bar(list(counts), list(counts.values()), color=BLUE, width=0.8)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        first, last = min(counts), max(counts)
        axes.set_xlim(first - 0.6, max(last, first + FEWEST_BARS - 1) + 0.6)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return _svg(drawing)


def contact_sheet(pictures: Sequence[Image.Image], *, columns: int, cell: int) -> bytes:
    """The pictures in rows of `columns`, each in a square of `cell` pixels, on black: a JPEG."""
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell, rows * cell))
    for number, picture in enumerate(pictures):
        small = picture.convert("RGB")
        small.thumbnail((cell - 4, cell - 4))
        left = number % columns * cell + (cell - small.width) // 2
        sheet.paste(small, (left, number // columns * cell + (cell - small.height) // 2))
    stream = io.BytesIO()
    sheet.save(stream, "JPEG", quality=85)
    return stream.getvalue()
