"""The result on real eyes in words: tables, what was tested, and what they show.

In: the plain values of `real.json` or `vary.json`. Out: Markdown, rows for the terminal, sentences. Figures
are AUROC of the logistic probe; the other figures stand in the JSON.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ssl_retina.probe.report import shown
from ssl_retina.real.judging import BASELINES

HEAD = ("weights", "AUROC, mean of seeds (95 %)", "each seed")
BETWEEN = ("one less another", "AUROC, mean of seeds (95 %)", "each seed", "verdict")
INTERVALS = (
    "Intervals: 95 %, bootstrap over patients (photographs where no patient ids exist), stretched to the "
    "spread of the whole procedure on random halves; they hold the spread over patients, not over trainings, "
    "which the figures of each seed show. Differences are paired: the same photographs, folds and resamples. "
    "Told apart is what has an interval without 0 and seeds that agree on the sign; all else shows nothing."
)
ALIKE = (
    "Equal are the encoder, the photographs, the steps and the photographs of a step; not equal is the "
    "computing, since methods draw other numbers of views: the seconds stand above (of an interrupted "
    "training those since its last start)."
)
TWO_SETS = (
    "IDRiD has no patient ids: image-level, optimistic. Two small public sets of one clinic each: nothing "
    "here says how an encoder does elsewhere."
)
UNTRAINED = (
    "random: the same architecture, untrained, its weights drawn as pretraining draws them, once a seed."
)
HELD_OUT = (
    "No test photograph, and none that is identical to one, was seen in pretraining. Every choice was made "
    "inside the training patients; what was tried stands in docs/results.md."
)
INSIDE = (
    "Inside the training patients, cross-fitted: no label of a test patient was read. The photographs of the "
    "probe were seen, without labels, in pretraining."
)
SAME_START = (
    "Every arm began with the same weights and saw the same photographs in the same order, seed by seed."
)
ONE_TRAINING = "One training of each recipe: how much another seed would change its figures is not known."

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


def of_row(answer: Mapping[str, Any]) -> str:
    """One WEIGHTS of one seed, as a stage keeps it, in a line."""
    values = {task: plain["estimates"]["logistic"]["auroc"]["value"] for task, plain in answer.items()}
    return "AUROC " + ", ".join(f"{task} {_value(value)}" for task, value in values.items())


def _value(value: float | None, sign: str = "") -> str:
    return "undefined" if value is None else f"{value:{sign}.3f}"


def of_recipe(facts: Mapping[str, Any]) -> str:
    """What a row was given, in a line."""
    changed = " ".join(facts["overrides"])
    seconds = ", ".join(f"{one:.0f}" for one in facts["seconds"])
    return (
        f"{facts['name']}: {facts['config']}{f' {changed}' if changed else ''}; {facts['steps']} steps of "
        f"{facts['batch_size']}, {facts['photographs_seen']:,} photographs seen; {seconds} s a training"
    )


def tested(task: Task) -> str:
    """Of how many photographs and patients a task's figures are."""
    unit = "patients" if task["level"] == "patient" else f"groups ({task['level']})"
    return (
        f"{task['name']}: {task['tested_images']} photographs of {task['tested_patients']} {unit}, "
        f"{task['counts'][task['positive']]} of them {task['positive']}; {task['split']}"
    )


def head(task: Task) -> tuple[str, ...]:
    """The columns of `rows`."""
    return (*HEAD, *(f"less {name} (95 %)" for name in _opponents(task)))


def _opponents(task: Task) -> list[str]:
    """The cheap ones that rows are compared with."""
    found = {one["against"] for one in task["differences"]}
    return [name for name in BASELINES if name in found]


def rows(task: Task) -> Iterator[tuple[str, ...]]:
    """The cells below `head`."""
    apart = {(one["weights"], one["against"]): shown(_auroc(one), sign="+") for one in task["differences"]}
    for one in task["results"]:
        number, name = _auroc(one), one["weights"]
        each = _seeds(number) if len(number["seeds"]) > 1 else ""
        less = (apart.get((name, other), "") for other in _opponents(task))
        yield name, shown(number), each, *less


def between(task: Task) -> Iterator[tuple[str, ...]]:
    """The cells below BETWEEN: trained encoders less each other; none where there is one alone."""
    for one in task["differences"]:
        if one["against"] not in BASELINES:
            number = _auroc(one)
            name = f"{one['weights']} less {one['against']}"
            words = "inconclusive" if _told_apart(number) == SAME else _told_apart(number).split()[0]
            yield name, shown(number, sign="+"), _seeds(number, sign="+"), words


def _seeds(number: Mapping[str, Any], *, sign: str = "") -> str:
    return " ".join(_value(value, sign) for value in number["seeds"])


def _auroc(result: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result["probes"]["logistic"]["auroc"]
    return found


BETTER, WORSE, SAME = "better than", "worse than", "not told apart from"


def verdicts(task: Task) -> Iterator[str]:
    """What the table shows of each trained encoder: what it is told from, and what not."""
    found: dict[str, dict[str, list[str]]] = {}
    for one in task["differences"]:
        words = found.setdefault(one["weights"], {BETTER: [], WORSE: [], SAME: []})
        words[_told_apart(_auroc(one))].append(one["against"])
    for name, words in found.items():
        parts = [f"{said} {', '.join(others)}" for said, others in words.items() if others]
        yield f"{task['name']}: {name} is {'; '.join(parts)}."


def _told_apart(difference: Mapping[str, Any]) -> str:
    """An interval over patients leaves the spread over trainings out: the seeds must agree too."""
    low, high, seeds = difference["low"], difference["high"], difference.get("seeds", ())
    if low is not None and low > 0 and all(value is not None and value > 0 for value in seeds):
        return BETTER
    if high is not None and high < 0 and all(value is not None and value < 0 for value in seeds):
        return WORSE
    return SAME


def markdown(result: Mapping[str, Any]) -> str:
    """The report of test patients."""
    lines = ["# Real eyes", ""]
    return "\n".join([*lines, *_facts(result), *_tasks(result), *_end(result)])


def varied(result: Mapping[str, Any]) -> str:
    """The report of one changed value each."""
    lines = ["# One value changed, inside the training patients", ""]
    return "\n".join([*lines, *_facts(result), *_tasks(result), *_end(result)])


def _facts(result: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"- {one['about']}: {of_halves(one)}; split: {one['split']}." for one in result["sets"])
    yield from (f"- {of_recipe(one)}." for one in result["recipes"])


def _tasks(result: Mapping[str, Any]) -> Iterator[str]:
    for task in result["tasks"]:
        yield from ("", f"## {task['name']} ({task['spec']})", "", tested(task), "")
        yield from _table(head(task), rows(task))
        pairs = list(between(task))
        if pairs:
            yield from ("", *_table(BETWEEN, pairs))
        yield from ("", *verdicts(task))
        if task["left_out"]:
            yield "Left out: " + ", ".join(f"{n} {why}" for why, n in task["left_out"].items()) + "."


def limits(result: Mapping[str, Any]) -> Iterator[str]:
    """What a reader has to know of the figures, in sentences."""
    several, inside = len(result["recipes"]) > 1, result["side"] == "dev"
    yield INTERVALS
    if several:
        yield SAME_START if inside else ALIKE
    if len(result["recipes"][0]["seconds"]) == 1:
        yield ONE_TRAINING
    if any(_opponents(task) for task in result["tasks"]):
        yield UNTRAINED
    yield INSIDE if inside else HELD_OUT
    yield TWO_SETS


def _end(result: Mapping[str, Any]) -> Iterator[str]:
    minutes = sum(result["seconds"].values()) / 60
    yield from ("", *(f"- {line}" for line in limits(result)), "")
    yield f"{minutes:.1f} minutes in all, version {result['version']}:"
    yield from ("", "```", *result["commands"], "```", "")


def _table(titles: Sequence[str], found: Iterable[tuple[str, ...]]) -> Iterator[str]:
    for cells in (titles, ("---",) * len(titles), *found):
        yield f"| {' | '.join(cells)} |"
