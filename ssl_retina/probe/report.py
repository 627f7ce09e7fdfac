"""The result of a probe or of fine-tuning -> `report.md` and a forest plot.

Every number stands with its interval, counts beside it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

NAMES: Mapping[str, str] = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "quadratic_kappa": "quadratic kappa",
    "balanced_accuracy": "balanced accuracy",
    "logistic": "logistic",
    "knn": "kNN",
    "finetune": "fine-tuned",
}
COLOURS = {"logistic": "#1f5fa8", "knn": "#d08a1d", "finetune": "#2d7f5e"}
TITLES = {"finetune": "Fine-tuning"}
ABOUT_INTERVALS = "Intervals: 95 %, bootstrap over {unit} ({resamples} resamples), {stretch}. "
STRETCHED = "stretched to the spread of the whole procedure on random halves of the {unit}"
NOT_STRETCHED = (
    "with the fitted models as they are: what other training {unit} would have changed is left out, the "
    "intervals are too narrow"
)
ABOUT_DIFFERENCES = "Differences are paired; one whose interval holds 0 shows nothing."


def shown(number: Mapping[str, float | None], *, sign: str = "") -> str:
    """`0.812 (0.760 to 0.861)`; `sign` "+" for differences."""
    if number["value"] is None:
        return "undefined"
    value = f"{number['value']:{sign}.3f}"
    if number["low"] is None or number["high"] is None:
        return f"{value} (no interval: too few patients)"
    return f"{value} ({number['low']:{sign}.3f} to {number['high']:{sign}.3f})"


def heading(task: Mapping[str, Any], level: str) -> str:
    """One line on what was asked of how many."""
    unit = "patients" if level == "patient" else "groups"
    line = f"{task['name']} ({task['spec']}): {task['tested_images']} images of "
    line += f"{task['tested_patients']} {unit} scored, {task['split']}"
    if "positives" in task:
        line += f"; {task['positives']} positive images ({task['positive']}) of "
        line += f"{task['positive_patients']} {unit}"
        line += f", base rate {task['base_rate']:.3f}"
    return line


def rows(task: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table of a task: WEIGHTS, probe and one cell for each metric; the first row names the columns."""
    names = task["metrics"]
    yield ("weights", "probe", *(_metric(task, name) for name in names))
    for one in task["results"]:
        yield (one["weights"], NAMES[one["probe"]], *(shown(one["metrics"][name]) for name in names))


def device_rows(task: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The table by device: each was left out of the training of the probes that scored it."""
    names = task["metrics"]
    devices = {one["name"]: one for one in task["devices"]}
    yield (
        "device left out",
        "images (patients)",
        "weights",
        "probe",
        *(_metric(task, name) for name in names),
    )
    for one in task["by_device"]:
        there = devices.get(one["device"])
        counted = f"{there['tested_images']} ({there['tested_patients']})" if there else ""
        cells = (shown(one["metrics"][name]) for name in names)
        yield (one["device"], counted, one["weights"], NAMES[one["probe"]], *cells)


def difference_rows(task: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """The same for the paired differences between the first WEIGHTS and each other one."""
    names = task["metrics"]
    yield ("difference", "probe", *(NAMES[name] for name in names))
    for one in task["differences"]:
        pair = f"{one['weights']} - {one['against']}"
        yield (pair, NAMES[one["probe"]], *(shown(one["metrics"][name], sign="+") for name in names))


def _metric(task: Mapping[str, Any], name: str) -> str:
    if name == "auprc" and "base_rate" in task:
        return f"AUPRC (base {task['base_rate']:.3f})"
    mean = ", mean of classes" if task["kind"] == "classes" and name != "balanced_accuracy" else ""
    return NAMES[name] + mean


def footer(result: Mapping[str, Any]) -> list[str]:
    """What has to be read with the tables."""
    unit = "patients" if result["level"] == "patient" else "photographs"
    stretch = (STRETCHED if result.get("halves", 2) > 1 else NOT_STRETCHED).format(unit=unit)
    about = ABOUT_INTERVALS.format(unit=unit, resamples=result["resamples"], stretch=stretch)
    return [
        about + ABOUT_DIFFERENCES,
        f"Level: {result['level']}; {result['patients_from']}. Seed {result['seed']}.",
        *result["notes"],
    ]


def markdown(result: Mapping[str, Any]) -> str:
    """The whole report as one page of Markdown."""
    lines = [f"# {TITLES.get(result.get('verb', ''), 'Probe')}", ""]
    lines += [f"- `{one['name']}`: {one['about']}, {one['dimensions']} numbers" for one in result["weights"]]
    for task in result["tasks"]:
        lines += ["", f"## {task['name']}", "", heading(task, result["level"]), ""]
        lines += _table(rows(task))
        if "by_device" in task:
            lines += ["", *_table(device_rows(task))]
        if task["differences"]:
            lines += ["", *_table(difference_rows(task))]
        if task["left_out"]:
            counted = ", ".join(f"{count} {reason}" for reason, count in task["left_out"].items())
            lines += ["", f"Left out: {counted}."]
        for reason, keys in task["conflicts"].items():
            lines += ["", f"Photographs left out, {reason}: {', '.join(keys)}"]
    return "\n".join([*lines, "", *(f"- {line}" for line in footer(result)), ""])


def _table(table: Iterator[tuple[str, ...]]) -> list[str]:
    first, *rest = ([cell.replace("|", "\\|") for cell in row] for row in table)
    return [f"| {' | '.join(row)} |" for row in (first, ["---"] * len(first), *rest)]


def figure(result: Mapping[str, Any], path: Path) -> None:
    """Draw the headline metric of every task as a forest plot (PNG)."""
    tasks = result["tasks"]
    longest = max(len(one["name"]) for one in result["weights"])
    height = 1.1 + sum(0.62 + 0.3 * len(task["results"]) for task in tasks)
    drawing = Figure(figsize=(min(6.2 + 0.07 * longest, 12.0), height), layout="constrained")
    FigureCanvasAgg(drawing)
    ratios = [len(task["results"]) + 1.5 for task in tasks]
    panels = drawing.subplots(len(tasks), 1, squeeze=False, height_ratios=ratios)[:, 0]
    for axes, task in zip(panels, tasks, strict=True):
        _panel(axes, task)
    unit = "patients" if result["level"] == "patient" else "photographs"
    optimistic = "" if result["level"] == "patient" else f" ({result['level']})"
    drawing.supxlabel(f"value with 95 % interval over {unit}{optimistic}; dotted: chance", fontsize=8)
    drawing.savefig(path, dpi=150, format="png", metadata={"Software": None})


def _panel(axes: Axes, task: Mapping[str, Any]) -> None:
    headline = task["metrics"][0]
    ticks = []
    for place, one in enumerate(task["results"]):
        number = one["metrics"][headline]
        ticks.append(f"{one['weights']}, {NAMES[one['probe']]}")
        if number["value"] is None:
            continue
        low = number["value"] if number["low"] is None else number["low"]
        high = number["value"] if number["high"] is None else number["high"]
        colour = COLOURS[one["probe"]]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot([number["value"]], [place], "o", color=colour, markersize=5)
        axes.annotate(
            f"{number['value']:.3f}",
            (high, place),
            (4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
        )
    _finish(axes, task, ticks)


def _finish(axes: Axes, task: Mapping[str, Any], ticks: Sequence[str]) -> None:
    headline = task["metrics"][0]
    chance = 0.5 if headline == "auroc" else 0.0
    axes.axvline(chance, color="0.5", linestyle=":", linewidth=1)
    axes.set_yticks(range(len(ticks)), [_short(tick) for tick in ticks], fontsize=8)
    axes.set_ylim(len(ticks) - 0.5, -0.5)
    left, right = axes.get_xlim()
    axes.set_xlim(left, right + 0.06 * (right - left))
    axes.tick_params(axis="x", labelsize=8)
    counted = f", {task['positives']} positive" if "positives" in task else ""
    axes.set_title(
        f"{task['name']}: {NAMES[headline]}, {task['tested_images']} images{counted}", fontsize=9, loc="left"
    )
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _short(text: str, limit: int = 48) -> str:
    return text if len(text) <= limit else "..." + text[3 - limit :]
