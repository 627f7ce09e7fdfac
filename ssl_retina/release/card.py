"""The model card: what a stranger must know before using an export, from facts and not from memory.

In: `Facts`. Out: Markdown text without a path, a host or a user's name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ssl_retina import config
from ssl_retina.contract import Pool
from ssl_retina.models import lineage, receipt
from ssl_retina.models.pretrained import chosen_by
from ssl_retina.train.progress import done

POOLED: Mapping[Pool, str] = MappingProxyType(
    {"avg": "the mean of the patch tokens", "token": "the class token"}
)

PSEUDONYMISED = """\
The photographs were pseudonymised, not anonymised: ids were replaced under a secret key and free text was
left behind, but a retina is a biometric, and whoever holds another photograph of the same eye may recognise
it. The same caution holds for a model: features can be compared between photographs."""


@dataclass(frozen=True)
class DataSet:
    """One shard set: its index's SHA-256, and counts where the set was at hand (else None)."""

    digest: str
    samples: int | None
    groups: int | None
    counts: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True)
class Facts:
    """Everything the card says; nothing that a clock says, so that equal weights have equal cards.

    pooling: how timm makes the features of the tokens. objective: the method in a sentence.
    recipe: the run's config without paths. checkpoint: what stands beside the weights (`step`, `data`,
    `world_size`, `versions`, `commit`, `changes`). operations: floating-point operations of the whole
    training. progress: the values last logged up to that step.
    """

    architecture: str
    parameters: int
    features: int
    pooling: Pool
    preparation: Mapping[str, Any]
    method: str
    objective: str
    steps: int
    batch_size: int
    recipe: Mapping[str, Any]
    operations: float
    checkpoint: Mapping[str, Any]
    progress: Mapping[str, Any]
    data: tuple[DataSet, ...]


def write(facts: Facts) -> str:
    """The card in Markdown."""
    sections = (_head(facts), _use(facts), _data(facts), _training(facts), _limits(facts), _licence(facts))
    return "\n\n".join(sections) + "\n"


def _head(facts: Facts) -> str:
    version = facts.checkpoint["versions"]["ssl_retina"]
    return f"""---
library_name: timm
pipeline_tag: image-feature-extraction
tags: [retina, fundus, self-supervised, {facts.method}]
---

# {facts.architecture} ({_shape(facts)}), pretrained with {facts.method} on retinal images

An encoder without a head: {facts.parameters / 1e6:.1f} M parameters, {facts.features} features an image.
It was trained without labels by ssl-retina {version}. It is no medical device and gives no diagnosis;
what it is worth for a task has to be measured on labelled photographs of that task
(`ssl-retina probe`), and nothing on this page says that it is worth anything."""


def _shape(facts: Facts) -> str:
    model = facts.recipe["model"]
    depth = "" if model["depth"] is None else f", {model['depth']} blocks"
    return f"{model['image_size']} px, patch {config.Model(**model).patch}{depth}"


def _use(facts: Facts) -> str:
    preparation = facts.preparation
    size = preparation["input_size"][-1]
    return f"""## Use

```python
import timm
model = timm.create_model("local-dir:FOLDER", pretrained=True)  # FOLDER: where this file lies
```

`model(images)` gives (batch, {facts.features}): {POOLED[facts.pooling]} after the final norm.
`num_classes=3` adds a fresh head, `img_size=...` resamples the position embedding, `in_chans=1` folds the
colour channels. Images: the whole photograph, cropped to the illuminated field, padded square, resized to
{size} x {size} ({preparation["interpolation"]}), RGB in [0, 1], then minus {_numbers(preparation["mean"])}
and divided by {_numbers(preparation["std"])}. `timm.data.resolve_model_data_config(model)` gives the same."""


def _data(facts: Facts) -> str:
    known, chosen = facts.checkpoint["data"], facts.recipe["data"]
    lines = ["## Data", ""]
    for number, one in enumerate(facts.data, start=1):
        lines += _data_set(number, one)
    lines += [
        f"- Trained on {known['samples']} of them; held out by patient: {known['held_out_samples']}",
        chosen_by(chosen["where"], chosen["exclude"]),
        "",
        PSEUDONYMISED,
    ]
    return "\n".join(lines)


def _data_set(number: int, one: DataSet) -> list[str]:
    head = f"- Shard set {number}: {lineage.SUM} `{one.digest}`"
    if one.samples is None:
        return [head, "  - not at hand when this card was written, so it is not counted here"]
    lines = [head, f"  - {one.samples} photographs, {one.groups} patients or groups of patients"]
    for column, counts in one.counts.items():
        listed = ", ".join(f"{value or 'not stated'} {count}" for value, count in counts.items())
        lines.append(f"  - {column}: {listed}")
    return lines


def _training(facts: Facts) -> str:
    step, known = facts.checkpoint["step"], facts.checkpoint
    reached = done(known)
    state = "finished" if reached >= facts.steps else "not finished"
    versions = ", ".join(f"{name} {version}" for name, version in sorted(known["versions"].items()))
    recipe = json.dumps(facts.recipe, indent=1, sort_keys=True, ensure_ascii=False)
    return f"""## Training

- Objective: {facts.objective}
- {reached} of {facts.steps} steps ({state})
- {facts.batch_size} photographs a step, {step * facts.batch_size} seen in all
- Compute: about {facts.operations:.2g} floating-point operations in {known["world_size"]} process(es);
  how long they took is in the run's metrics and not here, so that equal weights have equal cards
- {versions}; commit {known.get("commit") or "not known"}
{_origin(known)}{_changes(known)}{_setbacks(known)}{_progress(facts.progress)}
<details><summary>The whole recipe</summary>

```json
{recipe}
```

</details>"""


def _origin(known: Mapping[str, Any]) -> str:
    """The receipt of the weights that training started from, in short; nothing where they were drawn."""
    given = known.get("init")
    if given is None:
        return f"{lineage.DRAWN}\n"
    resized = "".join(f"; {name} resized {old} to {new}" for name, old, new in given["resized"])
    handed_on = "\n".join(lineage.lines(receipt.inherited(given)))
    missing = f"; drawn at random: {', '.join(given['missing'])}" if given["missing"] else ""
    return (
        f"- Started from {given['source']}, SHA-256 of its {given['hashed']} `{given['sha256']}`: "
        f"{given['share_of_backbone']:.2%} of the encoder{resized}{missing}. The images it was trained on "
        f"come to those above\n{handed_on}\n"
    )


def _changes(known: Mapping[str, Any]) -> str:
    return "".join(f"- Changed on the way, at {change}\n" for change in known.get("changes", ()))


def _setbacks(known: Mapping[str, Any]) -> str:
    own = known.get("setbacks", {})
    if not own.get("rollbacks"):
        return ""
    return (
        f"- {own['spikes']} steps skipped as spikes of the loss or its gradient; {own['rollbacks']} time(s) "
        f"back to an earlier checkpoint, which gave up or passed over {own['lost']} steps; in the end the "
        f"learning rate was {own['rate_factor']:g} of the schedule's\n"
    )


def _progress(progress: Mapping[str, Any]) -> str:
    named = {
        "loss": "Training loss at the end",
        "held_out_loss": "Held-out loss",
        "positive_similarity": "Cosine similarity of two views of a photograph at the end",
        "contrast_top1": "Share of views whose other view was the nearest at the end",
        "false_negative_rate": "Share of a batch's possible negatives that were of the same patient",
        "feature_rank": "Effective rank of the features (RankMe)",
    }
    lines = [f"- {text}: {progress[key]:.4g}" for key, text in named.items() if progress.get(key) is not None]
    return "\n".join(lines) + "\n"


def _limits(facts: Facts) -> str:
    devices = {name for one in facts.data for name in one.counts.get("device", {})} - {"", "unknown"}
    known = (
        f"{len(devices)} named camera {'model' if len(devices) == 1 else 'models'}"
        if devices
        else "cameras that the archive does not name"
    )
    return f"""## Limits

- Seen in training: {known}. Other cameras, fields, populations and image qualities were not tried.
- Features carry the camera, the site and the image's quality beside the disease; a probe can live on those.
  Split by patient, and test on a site that was not trained on.
- Duplicates of these photographs in a test set make its numbers optimistic."""


def _licence(facts: Facts) -> str:
    given = facts.checkpoint.get("init")
    inherited = "" if given is None else f"\n\n{lineage.INHERITED}{lineage.bounded(given['licence'])}"
    return f"""## Licence

None is granted by this file: whoever answers for the photographs decides. Until they write a licence here,
ask them. ssl-retina itself is Apache-2.0.{inherited}"""


def _numbers(values: tuple[float, ...]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
