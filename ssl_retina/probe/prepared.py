"""Everything that is known before the first fine-tuning: photographs, folds, weights, what is left to do.

In: the verb's settings. Out: a `Prepared`, or the refusal of what does not fit.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import files, labels
from ssl_retina.errors import InputError
from ssl_retina.models import classifier, encoder
from ssl_retina.models.pretrained import Pretrained
from ssl_retina.probe import features, material, tuning
from ssl_retina.probe.fits import Answer, Fit, Plan, Shelf
from ssl_retina.probe.material import Case, Material, Settings
from ssl_retina.probe.recipe import Recipe
from ssl_retina.probe.tuning import Bench

FITS = "fits"


@dataclass(frozen=True)
class Options:
    """How much is computed: seeds of the whole procedure, pairs of halves that are fitted again."""

    seed: int = 0
    seeds: int = 1
    pairs: int = 3
    resamples: int = 2000
    workers: int = 0

    @property
    def all_seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(range(self.seed, self.seed + self.seeds))


@dataclass(frozen=True)
class Prepared:
    """Everything that is known before the first step: all that can be refused was."""

    names: tuple[str, ...]
    gathered: Material
    labels_digest: str
    case: Case
    bench: Bench
    options: Options
    plan: Plan
    shelf: Shelf

    def fits(self) -> Iterator[Fit]:
        """Every fine-tuning in the order in which it is done."""
        yield self.final
        for name in self.names:
            for seed in self.options.all_seeds:
                yield from self.plan.fits(name, 0, seed)
            for part in range(1, len(self.plan.parts)):
                yield from self.plan.fits(name, part, self.options.seed)

    @property
    def final(self) -> Fit:
        """The fine-tuning whose model is handed out."""
        return self.plan.final(self.names[0], self.options.seed)

    def left(self) -> list[Fit]:
        """The fine-tunings without an answer."""
        found: dict[str, Fit] = {}
        for fit in self.fits():
            found.setdefault(self.shelf.name(fit), fit)
        return [fit for fit in found.values() if not self.shelf.finished(fit)]

    def answers(self, name: str, part: int, seed: int) -> Iterator[tuple[Fit, Answer]]:
        """The answer of each fold of a part, once all are done."""
        for fit in self.plan.fits(name, part, seed):
            assert self.shelf.finished(fit), "every fit is done before it is judged"
            yield fit, self.shelf.read(fit)

    def photographs(self, fit: Fit) -> int:
        """How many photographs a fine-tuning is shown in all."""
        learned = tuning.learned(fit.labelled, self.bench.recipe, seed=fit.seed)
        return self.bench.steps(learned, self.bench.recipe.epochs) * self.bench.batch(learned)


def prepare(
    names: Sequence[str], task: str, settings: Settings, *, recipe: Recipe, options: Options, folder: Path
) -> Prepared:
    """Join, split, load every WEIGHTS; answers are kept in `folder`. Raises UserError, models last."""
    if len(set(names)) < len(names):
        raise InputError("two WEIGHTS are the same: paired differences need different ones")
    pixels = [name for name in names if name in (features.MEAN_COLOUR, features.PIXEL_PCA)]
    if pixels:
        raise InputError(f"{pixels[0]} has nothing to fine-tune: its opponents here are random weights")
    gathered = material.gather(settings)
    case = material.case(gathered, labels.target(labels.parse_task(task), gathered.table), seed=options.seed)
    rows = gathered.joined.numbers[case.places]
    keys = [gathered.keys[int(place)] for place in case.places]
    plan = Plan.of(case.question, rows, keys, pairs=options.pairs, seed=options.seed)
    bench = Bench(gathered.index, recipe, case.question.count, options.workers)

    def start(name: str, seed: int) -> tuple[Pretrained, str]:
        loaded, about = features.load(name, names, seed=seed)
        vit = classifier.checked(loaded.module, name)
        if name == features.RANDOM:
            encoder.renew(vit, seed=seed)
        return loaded, about

    shelf = Shelf(folder / FITS, bench, start, ordinal=case.question.kind == "ordinal")
    prepared = Prepared(
        tuple(names), gathered, files.sha256(settings.labels), case, bench, options, plan, shelf
    )
    _check_choice(prepared)
    for name in names:
        shelf.start(name, options.seed)
    return prepared


def _check_choice(prepared: Prepared) -> None:
    """Refuse a choice of the epoch by patients that some training part does not have."""
    if any(tuning.too_few_to_choose(fit.labelled, prepared.bench.recipe) for fit in prepared.fits()):
        raise InputError(
            f"task {prepared.case.target.task.name}: too few patients of a class to choose the epoch inside "
            "every training part (the halves that give the intervals included). Give --epoch-choice last, "
            "or label more patients"
        )
