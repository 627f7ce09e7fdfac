"""DATA -> shards -> held-out list -> pretraining of each method and seed -> one table of test patients.

In: the folder of IDRiD and HYGD, and recipes. Out: everything in one folder; a second run goes on where the
first stood, and with more methods or seeds does what is new. The labels of test patients are read after the
last training, by `walk` alone: `develop` and `vary`, which recipes are chosen and options judged by, get
labels files without them.
"""

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from itertools import combinations
from pathlib import Path

from ssl_retina import __version__, config, files, methods, shards
from ssl_retina.demo import story
from ssl_retina.demo.steps import Listener, near, verb
from ssl_retina.errors import InputError
from ssl_retina.models.pretrained import CONFIG_NAME, WEIGHTS_NAME
from ssl_retina.probe.evaluate import Judged
from ssl_retina.probe.features import RANDOM
from ssl_retina.probe.material import Settings
from ssl_retina.probe.patients import NO_PATIENTS
from ssl_retina.real import halves, judging, recipes, report, table
from ssl_retina.real.beginning import (
    EXCLUSIONS,
    REPORT,
    RESULT,
    VARIED,
    VARIED_REPORT,
    Ready,
    begun,
    facts_of,
    shards_of,
)
from ssl_retina.real.halves import Halves
from ssl_retina.real.judging import BASELINES, Asked, Posed, Weights
from ssl_retina.real.recipes import Budget, Recipe
from ssl_retina.real.sources import Source
from ssl_retina.real.stages import Answer, Stage, Stages

SIDES = {"test": "the look at the test patients", "dev": "inside the training patients"}


def walk(data: Path, out: Path, *, listener: Listener, asked: Sequence[Recipe], budget: Budget) -> Answer:
    """Go the whole path and give what `--json` prints: a row a recipe, beside the same baselines.

    Raises InputError for absent data, StateError for a folder of something else, StepError for a failed step,
    ConfigError before the first step.
    """
    trained = [recipes.budgeted(recipe, budget) for recipe in asked]
    _check(trained)
    with begun(data, out, listener) as (stages, ready):
        rows = [weights for recipe in trained for weights in _trained(stages, ready, recipe, budget)]
        posed = _final(ready)
        judged = _judged(stages, ready, posed, side="test", rows=[*rows, *_baselines(rows)])
        names = [recipe.name for recipe in trained]
        pairs = [(name, other) for name in names for other in BASELINES] + list(combinations(names, 2))
        tasks = table.table(posed, judged, pairs)
        result = _result(stages, ready, trained=trained, budget=budget, side="test", tasks=tasks)
        files.write_bytes(out / REPORT, report.markdown(result).encode())
        files.write_json(out / RESULT, result)
        return result


def develop(data: Path, out: Path, *, listener: Listener, recipe: Recipe, budget: Budget) -> Answer:
    """Try a recipe inside the training patients, by cross-fitting them.

    No label of a test patient is in any file that pretraining or the probe gets.
    """
    tried = recipes.budgeted(recipe, budget)
    if tried.name in BASELINES:
        raise InputError(f"--dev {tried.name}: a row of the table has that name; give another")
    _check([tried])
    with begun(data, out, listener) as (stages, ready):
        rows = _trained(stages, ready, tried, budget)
        posed = _dev(ready)
        judged = _judged(stages, ready, posed, side="dev", rows=[*rows, *_baselines(rows)])
        pairs = [(tried.name, other) for other in BASELINES]
        tasks = table.table(posed, judged, pairs)
        return _result(stages, ready, trained=[tried], budget=budget, side="dev", tasks=tasks)


def vary(data: Path, out: Path, *, listener: Listener, arms: Sequence[Recipe], budget: Budget) -> Answer:
    """Compare recipes of one changed value each with the first of `arms`, inside the training patients.

    The same seeds (first weights and order of photographs), patients, folds and resamples in every arm.
    """
    trained = [recipes.budgeted(recipe, budget) for recipe in arms]
    _check(trained)
    with begun(data, out, listener) as (stages, ready):
        rows = [weights for recipe in trained for weights in _trained(stages, ready, recipe, budget)]
        posed = _dev(ready)
        judged = _judged(stages, ready, posed, side="dev", rows=rows)
        pairs = [(recipe.name, trained[0].name) for recipe in trained[1:]]
        tasks = table.table(posed, judged, pairs)
        result = _result(stages, ready, trained=trained, budget=budget, side="dev", tasks=tasks)
        files.write_bytes(out / VARIED_REPORT, report.varied(result).encode())
        files.write_json(out / VARIED, result)
        return result


def count(recipes_asked: int, budget: Budget, *, baselines: Sequence[str] = BASELINES) -> int:
    """How many stages there will be: two shards; per training, it, its export and its probe; opponents."""
    drawn = sum(budget.seeds if name == RANDOM else 1 for name in baselines)
    return 2 + 3 * recipes_asked * budget.seeds + drawn


def _check(trained: Sequence[Recipe]) -> None:
    """Refuse what would fail after an hour, or compare a recipe with itself.

    Raises ConfigError, InputError.
    """
    known: dict[str, str] = {}
    for recipe in trained:
        resolved = repr(_run(recipe).dump())
        if resolved in known:
            raise InputError(f"{recipe.name} is the same as {known[resolved]}: there is nothing to compare")
        known[resolved] = recipe.name


def _run(recipe: Recipe) -> config.Run:
    """The recipe's values; folders are filled in when it runs."""
    stand_ins = ("data.shards=SHARDS", "out=OUT")
    return config.load(
        recipe.config, (*recipe.overrides, *stand_ins), methods.config_type, methods.available()
    )


def _trained(stages: Stages, ready: Ready, recipe: Recipe, budget: Budget) -> list[Weights]:
    """The exports of a recipe's pretrainings, seed by seed."""
    found = []
    for seed in range(budget.seeds):
        export = _pretrained(stages, ready, recipe, seed=seed, processes=budget.processes)
        digest = files.sha256(export / WEIGHTS_NAME)
        found.append(Weights(recipe.name, f"{recipe.folder}-seed-{seed}", digest, seed, export))
    return found


def _pretrained(stages: Stages, ready: Ready, recipe: Recipe, *, seed: int, processes: int) -> Path:
    """The export of one pretraining; what decides which photographs it sees comes last and so prevails."""
    folder = stages.out / recipe.folder / f"seed-{seed}"
    run, export, name = folder / "run", folder / "model", f"{recipe.folder}-seed-{seed}"
    folders = ",".join(str(shards_of(stages.out, source)) for source, _ in ready.divided)
    exclusions = stages.out / EXCLUSIONS
    stages.command(
        f"pretrain-{name}",
        "training photographs of both sets, no label",
        verb(
            *("pretrain", near(recipe.config), f"seed={seed}", *recipe.overrides),
            *(f"data.shards=[{folders}]", "data.where=null", f"data.exclude={exclusions}"),
            *(f"out={run}", "--processes", str(processes)),
        ),
        told=report.of_pretrain,
        config=files.sha256(recipe.config),
        exclusions=files.sha256(exclusions),
    )
    stages.command(
        f"export-{name}",
        "the encoder alone",
        verb("export", str(run), "--out", str(export)),
        told=story.of_export,
    )
    return export


def _baselines(rows: Sequence[Weights]) -> list[Weights]:
    """Opponents that cost nothing: `random` like the first recipe's encoder, once a seed; pixels once."""
    found = []
    for one in rows:
        if one.name == rows[0].name and one.export is not None:
            like = files.sha256(one.export / CONFIG_NAME)
            found.append(Weights(RANDOM, f"{RANDOM}-{like[:8]}-seed-{one.seed}", like, one.seed, one.export))
    return [*found, *(Weights(name, name, name) for name in BASELINES if name != RANDOM)]


def _judged(
    stages: Stages, ready: Ready, posed: Sequence[Posed], *, side: str, rows: Sequence[Weights]
) -> dict[str, dict[str, list[Judged]]]:
    """Task -> row -> seeds; each WEIGHTS and seed is a stage of its own, so that none is judged twice."""
    found: dict[str, dict[str, list[Judged]]] = {}
    for weights in rows:
        stage = Stage(f"{side}-{weights.title}", SIDES[side], _depends(ready, weights))
        judge = partial(judging.judge, posed, weights, _advance(stages.listener))
        for task, plain in stages.work(stage, judge, told=report.of_row).items():
            found.setdefault(task, {}).setdefault(weights.name, []).append(judging.restored(plain))
    return found


def _depends(ready: Ready, weights: Weights) -> dict[str, str]:
    """All that figures depend on: weights, photographs, labels, and the program that judges."""
    found = {"weights": weights.digest, "resamples": str(judging.RESAMPLES), "version": __version__}
    for source, _ in ready.divided:
        found[f"{source.name} shards"] = shards.read_index(shards_of(ready.out, source)).digest
        found[f"{source.name} labels"] = files.sha256(source.labels)
    return found


def _result(
    stages: Stages, ready: Ready, *, trained: Sequence[Recipe], budget: Budget, side: str, tasks: list[Answer]
) -> Answer:
    return {
        "version": __version__,
        "side": side,
        "recipes": [_described(stages, recipe, budget) for recipe in trained],
        "sets": [facts_of(source, halves) for source, halves in ready.divided],
        "tasks": tasks,
        "commands": stages.commands,
        "seconds": stages.seconds,
    }


def _described(stages: Stages, recipe: Recipe, budget: Budget) -> Answer:
    """What a row was given; `seconds`: of each of its trainings, on this machine as it was then."""
    run = _run(recipe)
    trainings = [f"pretrain-{recipe.folder}-seed-{seed}" for seed in range(budget.seeds)]
    return {
        "name": recipe.name,
        "config": near(recipe.config),
        "overrides": list(recipe.overrides),
        "steps": run.train.steps,
        "batch_size": run.data.batch_size,
        "photographs_seen": run.train.steps * run.data.batch_size,
        "seconds": [stages.seconds[name] for name in trainings],
    }


def _dev(ready: Ready) -> tuple[Posed, ...]:
    """The training side alone, cross-fitted."""
    return _posed(ready, halves.write_training_labels, None)


def _final(ready: Ready) -> tuple[Posed, ...]:
    """Fitted on the training side, judged on the test side: only here does a probe get test labels."""
    return _posed(ready, halves.write_all_labels, halves.SIDE)


def _posed(ready: Ready, write: Callable[[Path, Halves], None], split: str | None) -> tuple[Posed, ...]:
    with tempfile.TemporaryDirectory(prefix="ssl-retina-") as folder:  # labels name files: not in the output
        asked = []
        for source, one in ready.divided:
            path = Path(folder) / f"{source.name}.csv"
            write(path, one)
            asked.append(_asked(ready, source, path, split))
        return judging.pose(asked)


def _asked(ready: Ready, source: Source, path: Path, split: str | None) -> Asked:
    patient = source.patient or NO_PATIENTS
    settings = Settings(shards_of(ready.out, source), path, patient, split, source.file, ready.key_file)
    return Asked(source.task, settings)


def _advance(listener: Listener) -> Callable[[str, int], None]:
    told: set[str] = set()

    def tell(name: str, done: int) -> None:
        if name not in told:
            told.add(name)
            listener.note(f"features of {name} ...")

    return tell
