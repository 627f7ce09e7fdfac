"""Which fine-tunings a question needs, and their answers on disk: a finished one is never done again.

In: a case, weights, seeds, pairs of halves. Out: one answer a fit. An answer's file is named by the
SHA-256 of all that it hangs on (weights, recipe, photographs, labels of the training part), so the same
command goes on where it was killed, and other settings never meet a stale answer.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ssl_retina import __version__, dist, files
from ssl_retina.metrics import Integers
from ssl_retina.models import weights
from ssl_retina.models.classifier import Classifier
from ssl_retina.models.pretrained import Pretrained
from ssl_retina.probe import features, linear, tuning
from ssl_retina.probe.question import Question, halves
from ssl_retina.probe.splits import Fold
from ssl_retina.probe.tuning import Advance, Bench, Labelled

Start = Callable[[str, int], tuple[Pretrained, str]]
"""Gives the weights of a name and a seed, and what they are."""


@dataclass(frozen=True)
class Fit:
    """One fine-tuning: what it starts from, what it learns, which rows of the shards it is asked about.

    kept: the model is wanted, too.
    """

    weights: str
    seed: int
    labelled: Labelled
    asked: Integers
    kept: bool = False


@dataclass(frozen=True)
class Answer:
    """What a fit says: logits (asked, classes), cuts between grades, the epoch its weights are of."""

    logits: NDArray[np.float32]
    cuts: NDArray[np.float64]
    epoch: int


@dataclass(frozen=True)
class Plan:
    """The photographs of a question as rows and keys (photographs,), and its parts that are fitted.

    parts: the whole question, then its halves, each with the places of its photographs.
    """

    question: Question
    rows: Integers
    keys: tuple[str, ...]
    parts: tuple[tuple[Integers, Question], ...]

    @classmethod
    def of(cls, question: Question, rows: Integers, keys: Sequence[str], *, pairs: int, seed: int) -> "Plan":
        """Plan the whole question and `pairs` pairs of halves of its patients."""
        parts = [(np.arange(len(rows)), question)]
        parts += [part for pair in range(pairs) for part in halves(question, seed=seed + pair)]
        return cls(question, rows, tuple(keys), tuple(parts))

    def fits(self, name: str, part: int, seed: int) -> Iterator[Fit]:
        """One fit for each fold of a part; part 0 is the whole question."""
        places, question = self.parts[part]
        for fold in question.folds:
            labelled, asked = self._sides(places, fold)
            yield Fit(name, seed, labelled, asked)

    def final(self, name: str, seed: int) -> Fit:
        """The fit whose model is handed out: of a declared split its own, else one on all photographs."""
        if len(self.question.folds) == 1:
            return dataclasses.replace(next(self.fits(name, 0, seed)), kept=True)
        everything = Fold(np.arange(len(self.rows)), np.empty(0, np.int64))
        labelled, asked = self._sides(np.arange(len(self.rows)), everything)
        return Fit(name, seed, labelled, asked, kept=True)

    def _sides(self, places: Integers, fold: Fold) -> tuple[Labelled, Integers]:
        train, test = places[fold.train], places[fold.test]
        keys = tuple(self.keys[int(place)] for place in train)
        question = self.question
        labelled = Labelled(self.rows[train], keys, question.classes[train], question.groups[train])
        return labelled, self.rows[test]


@dataclass(frozen=True)
class Begun:
    """The weights that fits begin with, what they are, and the SHA-256 of their tensors."""

    model: Pretrained
    about: str
    digest: str


class Shelf:
    """The folder of answers. `start` gives weights; each is loaded when a fit first needs it."""

    def __init__(self, folder: Path, bench: Bench, start: Start, *, ordinal: bool) -> None:
        self._folder, self._bench, self._start, self._ordinal = folder, bench, start, ordinal
        self._starts: dict[tuple[str, int], Begun] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, name: str, seed: int) -> Begun:
        """The weights of a name; only `random` has others for each seed."""
        key = (name, seed if name == features.RANDOM else 0)
        if key not in self._starts:
            model, about = self._start(name, seed)
            self._starts[key] = Begun(model, about, weights.digest(model.module))
        return self._starts[key]

    def finished(self, fit: Fit) -> bool:
        """Whether the answer (and the model, where it is kept) lies here."""
        return self._path(fit).is_file() and (not fit.kept or self.model_file(fit).is_file())

    def read(self, fit: Fit) -> Answer:
        """The answer of a finished fit."""
        with np.load(self._path(fit), allow_pickle=False) as content:
            return Answer(content["logits"], content["cuts"], int(content["epoch"]))

    def model_file(self, fit: Fit) -> Path:
        """Where the weights of a kept fit lie."""
        return self._path(fit).with_suffix(".safetensors")

    def do(self, fit: Fit, advance: Advance) -> None:
        """Fine-tune; the model's file is written before the answer."""
        start = self.start(fit.weights, fit.seed).model
        pretrained = fit.weights != features.RANDOM
        tuned = tuning.tune(
            start, fit.labelled, self._bench, seed=fit.seed, pretrained=pretrained, advance=advance
        )
        said = tuning.logits(tuned.model, start, fit.asked, self._bench)
        cuts = self._cuts(tuned.model, start, fit)
        if fit.kept:
            with files.whole(self.model_file(fit)) as temporary:
                save_file(_state(tuned.model), temporary, metadata={"format": "pt"})
        with files.whole(self._path(fit)) as temporary, temporary.open("wb") as stream:
            np.savez(stream, logits=said, cuts=cuts, epoch=np.array(tuned.epoch))

    def _cuts(self, model: Classifier, start: Pretrained, fit: Fit) -> NDArray[np.float64]:
        """Cuts that give the training photographs their own frequencies of grades."""
        if not self._ordinal:
            return np.empty(0)
        said = tuning.shares(tuning.logits(model, start, fit.labelled.rows, self._bench))
        return linear.cuts(said @ np.arange(said.shape[1]), fit.labelled.classes)

    def _path(self, fit: Fit) -> Path:
        return self._folder / f"{self.name(fit)}.npz"

    def name(self, fit: Fit) -> str:
        """The SHA-256 of everything that the answer hangs on; the labels of `asked` are no part of it."""
        begun = self.start(fit.weights, fit.seed)
        bench = self._bench
        content = {
            "version": __version__,
            "device": dist.device().type,
            "weights": begun.digest,
            "fresh": fit.weights == features.RANDOM,
            "preparation": dataclasses.asdict(begun.model.data),
            "index": bench.index.digest,
            "recipe": bench.recipe.model_dump(mode="json"),
            "classes": bench.classes,
            "ordinal": self._ordinal,
            "seed": fit.seed,
            "rows": fit.labelled.rows.tolist(),
            "labels": fit.labelled.classes.tolist(),
            "groups": fit.labelled.groups.tolist(),
            "asked": fit.asked.tolist(),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _state(model: Classifier) -> dict[str, Tensor]:
    """The timm model's own tensors with its head, fp32, on the CPU."""
    return {name: tensor.float().cpu().contiguous() for name, tensor in model.vit.state_dict().items()}
