"""The result on real eyes in words: one table, what was tested, and what it shows.

In: the plain values of `real.json`. Out: Markdown, rows for the terminal, sentences. Figures are AUROC of the
logistic probe; the other figures stand in `real.json`.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ssl_retina.probe.report import shown
from ssl_retina.real.table import PRETRAINED

HEAD = ("weights", "AUROC, mean of seeds (95 %)", "each seed", "pretrained less this (95 %)")
LIMITS = (
    "Intervals: 95 %, bootstrap over patients (photographs where no patient ids exist), stretched to the "
    "spread of the whole procedure on random halves; they hold the spread over patients, not over trainings, "
    "which the figures of each seed show. Differences are paired; one whose interval holds 0 shows nothing.",
    "random: the same architecture, untrained, its weights drawn as pretraining draws them, once a seed.",
    "No test photograph, and none that is identical to one, was seen in pretraining. Every choice was made "
    "inside the training patients; what was tried stands in docs/results.md.",
    "IDRiD has no patient ids: image-level, optimistic. Two small public sets of one clinic each: nothing "
    "here says how an encoder does elsewhere.",
)

Task = Mapping[str, Any]


def of_halves(facts: Mapping[str, Any]) -> str:
    """How a set was divided, in a line."""
    unit = "patients" if facts["patients_known"] else "photographs"
    return (
        f"{facts['train']} photographs of {facts['train_groups']} {unit} to train and choose by, "
        f"{facts['test']} of {facts['test_groups']} to test; {facts['held_out']} kept out of pretraining"
    )


def of_pretrain(answer: Mapping[str, Any]) -> str:
    """How a training ended."""
    return f"{answer['steps']} steps, {answer['samples']} samples"


def of_table(answer: Mapping[str, Any]) -> str:
    """The pretrained encoder's figures, in a line."""
    return "; ".join(f"{task['name']} {shown(_auroc(task['results'][0]))}" for task in answer["tasks"])


def tested(task: Task) -> str:
    """Of how many photographs and patients a task's figures are."""
    unit = "patients" if task["level"] == "patient" else f"groups ({task['level']})"
    return (
        f"{task['name']}: {task['tested_images']} photographs of {task['tested_patients']} {unit}, "
        f"{task['counts'][task['positive']]} of them {task['positive']}; {task['split']}"
    )


def rows(task: Task) -> Iterator[tuple[str, ...]]:
    """The cells below HEAD."""
    apart = {
        one["against"]: shown(one["probes"]["logistic"]["auroc"], sign="+") for one in task["differences"]
    }
    for one in task["results"]:
        number = _auroc(one)
        seeds = " ".join("undefined" if value is None else f"{value:.3f}" for value in number["seeds"])
        each = seeds if len(number["seeds"]) > 1 else ""
        yield one["weights"], shown(number), each, apart.get(one["weights"], "")


def _auroc(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["probes"]["logistic"]["auroc"]
    return found


def verdict(task: Task) -> str:
    """What the table shows of a task: which of the others the interval of the difference tells it from."""
    found: dict[str, list[str]] = {"better than": [], "worse than": [], "not told apart from": []}
    for one in task["differences"]:
        found[_told_apart(one["probes"]["logistic"]["auroc"])].append(one["against"])
    parts = [f"{words} {', '.join(names)}" for words, names in found.items() if names]
    return f"{task['name']}: the {PRETRAINED} encoder is {'; '.join(parts)}."


def _told_apart(difference: Mapping[str, float | None]) -> str:
    low, high = difference["low"], difference["high"]
    if low is not None and low > 0:
        return "better than"
    if high is not None and high < 0:
        return "worse than"
    return "not told apart from"


def markdown(result: Mapping[str, Any]) -> str:
    """The report."""
    lines = ["# Real eyes", ""]
    lines += [f"- {one['about']}: {of_halves(one)}; split: {one['split']}." for one in result["sets"]]
    for task in result["tasks"]:
        lines += [
            "",
            f"## {task['name']} ({task['spec']})",
            "",
            tested(task),
            "",
            *_table(task),
            "",
            verdict(task),
        ]
        if task["left_out"]:
            lines.append("Left out: " + ", ".join(f"{n} {why}" for why, n in task["left_out"].items()) + ".")
    minutes = sum(result["seconds"].values()) / 60
    lines += [
        "",
        *(f"- {line}" for line in LIMITS),
        "",
        f"{minutes:.1f} minutes in all, version {result['version']}:",
    ]
    lines += ["", "```", *result["commands"], "```", ""]
    return "\n".join(lines)


def _table(task: Task) -> Iterator[str]:
    for cells in (HEAD, ("---",) * len(HEAD), *rows(task)):
        yield _line(cells)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
