"""Judged fine-tunings -> the plain values of `finetune.json`, and the table of what was said of whom.

Shaped as `probe.json` is, so that report, plot and page read both.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssl_retina import __version__
from ssl_retina.models import lineage, receipt
from ssl_retina.models.lineage import Lineage
from ssl_retina.probe import features, summary, tuning
from ssl_retina.probe.evaluate import Judged
from ssl_retina.probe.prepared import Prepared

FORMAT = 1
PROBE = "finetune"


def result(prepared: Prepared, judged: Sequence[Judged]) -> dict[str, Any]:
    """The whole result: see docs/statistics.md for what its numbers mean."""
    gathered, options, names = prepared.gathered, prepared.options, prepared.names
    described = [_weights(prepared, name) for name in names]
    results = list(summary.results(names, judged))
    for entry in results:
        entry["epochs"] = [
            [answer.epoch for _, answer in prepared.answers(entry["weights"], 0, seed)]
            for seed in options.all_seeds
        ]
    return {
        "format": FORMAT,
        "verb": PROBE,
        "version": __version__,
        "seed": options.seed,
        "seeds": list(options.all_seeds),
        "resamples": options.resamples,
        "halves": len(prepared.plan.parts) - 1,
        "recipe": prepared.bench.recipe.model_dump(mode="json"),
        "level": gathered.grouping.level,
        "patients_from": gathered.grouping.about,
        "data": {**summary.data(gathered), "labels_sha256": prepared.labels_digest},
        "weights": described,
        "tasks": [
            {
                **summary.task(prepared.case, gathered),
                "classes": list(prepared.case.target.classes),
                "results": results,
                "differences": list(summary.differences(names, judged)),
            }
        ],
        "model": _model(prepared),
        "notes": [*summary.notes(gathered, [prepared.case], described), *_notes(prepared)],
    }


def _weights(prepared: Prepared, name: str) -> dict[str, Any]:
    begun = prepared.shelf.start(name, prepared.options.seed)
    return {
        "name": name,
        "about": f"{begun.about}, {begun.model.data.image_size} px, fine-tuned",
        "sha256_of_tensors": begun.digest,
        "dimensions": int(begun.model.module.num_features),  # type: ignore[arg-type]
        "constant": False,
        "test_images_seen_in_pretraining": features.seen_in_pretraining(name, prepared.gathered.index),
        "inherited": _inherited(name),
        "licence": _licence(name, begun.model.module),
    }


def _licence(name: str, module: Any) -> str | None:
    """Of weights to start from, and of what they started from; None where they were drawn."""
    if name == features.RANDOM:
        return None
    text = features.card(name)
    stated = getattr(module, "pretrained_cfg", {}).get("license")
    return receipt.licence("timm", stated) if text is None else lineage.licence_of_card(text)


def _inherited(name: str) -> dict[str, Any]:
    """What weights to start from were trained on, under a receipt's names."""
    text = features.card(name)
    given = Lineage(complete=name == features.RANDOM) if text is None else lineage.of_card(text)
    return {"digests": [*given.digests], "partly": [*given.partly], "all_data_known": given.complete}


def _model(prepared: Prepared) -> dict[str, Any]:
    """What the model that is handed out learned from, and whether it is the one that was judged."""
    fit = prepared.final
    return {
        "weights": fit.weights,
        "seed": fit.seed,
        "photographs": len(fit.labelled.rows),
        "patients": len(np.unique(fit.labelled.groups)),
        "judged": len(prepared.plan.question.folds) == 1,
        "epoch": prepared.shelf.read(fit).epoch,
    }


def _notes(prepared: Prepared) -> Iterator[str]:
    """What belongs to fine-tuning alone."""
    recipe, options = prepared.bench.recipe, prepared.options
    fits = len({prepared.shelf.name(fit) for fit in prepared.fits()})
    halves = len(prepared.plan.parts) - 1
    count = "1 fine-tuning" if fits == 1 else f"{fits} fine-tunings"
    yield f"{count}; {halves} of random halves of the patients give the intervals their stretch"
    if options.seeds > 1:
        yield f"values are means over {options.seeds} seeds of order, crops and drop path, in the same folds"
    if features.RANDOM in prepared.names and recipe.layer_decay < 1:
        yield "random: fresh weights are trained without layer-wise decay, which would hold them back"
    if prepared.case.question.kind == "ordinal":
        yield "grades: expected grades, cut where those of the training photographs keep their frequencies"
    if len(prepared.plan.question.folds) > 1:
        yield "the model in model/ learned from all labelled photographs; the figures are of its folds"
    yield "recipe: " + ", ".join(f"{name} {value}" for name, value in recipe.model_dump(mode="json").items())


def predictions(prepared: Prepared) -> Iterator[tuple[str, ...]]:
    """A head, then a row for each WEIGHTS, seed and tested photograph, by its pseudonym."""
    names = prepared.case.target.classes
    yield ("weights", "seed", "fold", "key", "true", *(f"share of {name}" for name in names))
    plan = prepared.plan
    for weights in prepared.names:
        label = Path(weights).name if Path(weights).is_dir() else weights
        for seed in prepared.options.all_seeds:
            for number, (_, answer) in enumerate(prepared.answers(weights, 0, seed)):
                test = plan.question.folds[number].test
                for place, shares in zip(test.tolist(), tuning.shares(answer.logits), strict=True):
                    true = names[int(plan.question.classes[place])]
                    said = (f"{share:.6f}" for share in shares)
                    yield (label, str(seed), str(number), plan.keys[place], true, *said)
