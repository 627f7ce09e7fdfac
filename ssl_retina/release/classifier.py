"""A fine-tuned ViT -> a folder that plain timm loads with its head, and the card that says what it is worth.

In: the model, timm's description of it, and the plain values of `finetune.json`. Out: the same four files
as an export has. The card holds no path and no name of a labels file.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ssl_retina.models import lineage, receipt
from ssl_retina.release.card import PSEUDONYMISED
from ssl_retina.release.export import Content, check_tensors, publish

METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "quadratic_kappa": "Quadratic kappa",
    "balanced_accuracy": "Balanced accuracy",
}


def write(vit: Any, description: Mapping[str, Any], result: Mapping[str, Any], out: Path) -> Path:
    """Write the folder; an earlier one there is replaced. `vit`: in evaluation mode, on the CPU.

    Raises CheckpointError for weights that are not finite, or where plain timm gives other logits.
    """
    tensors = {name: tensor.float().contiguous() for name, tensor in vit.state_dict().items()}
    check_tensors(tensors, "the fine-tuned model")
    return publish(Content(tensors, description, card(description, result), vit), out)


def card(description: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """The card in Markdown; equal results give equal cards."""
    sections = (
        _head(description, result),
        _use(description),
        _worth(result),
        _training(result),
        _limits(result),
        _licence(result),
    )
    return "\n\n".join(sections) + "\n"


def _head(description: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    task = result["tasks"][0]
    size = description["pretrained_cfg"]["input_size"][-1]
    return f"""---
library_name: timm
pipeline_tag: image-classification
tags: [retina, fundus, fine-tuned]
---

# {description["architecture"]} ({size} px), fine-tuned for the task {task["name"]}

A classifier for {task["spec"]} ({task["kind"]}: {task["positive"]}), made by ssl-retina {result["version"]}.

**It is not a medical device.** It gives no diagnosis, nobody has approved it for care, and the figures below
are of one labelled set of one origin."""


def _use(description: Mapping[str, Any]) -> str:
    preparation = description["pretrained_cfg"]
    size = preparation["input_size"][-1]
    classes = "\n".join(f"- {number}: {name}" for number, name in enumerate(description["label_names"]))
    return f"""## Use

```python
import timm
model = timm.create_model("local-dir:FOLDER", pretrained=True)  # FOLDER: where this file lies
```

`model(images)` gives logits (batch, {description["num_classes"]}), `.softmax(1)` makes them shares. Classes:

{classes}

Images: the whole photograph, cropped to the illuminated field, padded square, resized to {size} x {size}
({preparation["interpolation"]}), RGB in [0, 1], then minus {_numbers(preparation["mean"])} and divided by
{_numbers(preparation["std"])}. `timm.data.resolve_model_data_config(model)` gives the same."""


def _worth(result: Mapping[str, Any]) -> str:
    """The figures of the first WEIGHTS, with what they are figures of."""
    task, model = result["tasks"][0], result["model"]
    unit = "patients" if result["level"] == "patient" else "photographs (image-level, optimistic)"
    if model["judged"]:
        what = "This very model, on photographs of the test part, which it was asked about once."
    else:
        what = (
            "Sisters of this model, each trained without the patients that it is asked about; this one "
            "learned from all labelled photographs, so no figure of its own exists."
        )
    entry = next(one for one in task["results"] if one["weights"] == model["weights"])
    lines = [f"- {METRICS[name]}: {_shown(entry['metrics'][name])}" for name in task["metrics"]]
    if "base_rate" in task:
        lines.append(f"- Base rate: {task['base_rate']:.3f}")
    return "\n".join(
        [
            "## What it was worth",
            "",
            f"{what} {task['tested_images']} images of {task['tested_patients']} {unit}; {task['split']}.",
            "",
            *lines,
            "",
            f"95 % intervals over {unit}: bootstrap ({result['resamples']} resamples), {_stretch(result)}.",
        ]
    )


def _stretch(result: Mapping[str, Any]) -> str:
    if result["halves"] < 2:
        return "with the trained models as they are, which is too narrow"
    return f"stretched by the spread of the whole procedure on {result['halves']} random halves"


def _shown(number: Mapping[str, float | None]) -> str:
    if number["value"] is None:
        return "undefined"
    if number["low"] is None or number["high"] is None:
        return f"{number['value']:.3f} (no interval: too few patients)"
    return f"{number['value']:.3f} ({number['low']:.3f} to {number['high']:.3f})"


def _training(result: Mapping[str, Any]) -> str:
    model, data, start = result["model"], result["data"], _start(result)
    seen = {True: "yes, without labels", False: "no", None: "not known"}
    handed_on = "\n".join(lineage.lines(receipt.inherited(start["inherited"])))
    recipe = json.dumps(result["recipe"], indent=1, sort_keys=True)
    return f"""## Training

- Started from weights with the SHA-256 of tensors `{start["sha256_of_tensors"]}`
- Those were pretrained on the shards of the test images: {seen[start["test_images_seen_in_pretraining"]]}
{handed_on}
- Shards: SHA-256 of their index `{data["digest"]}`; {data["photographs"]} photographs, {data["with_labels"]}
  of them with a label
- Labels file: SHA-256 `{data["labels_sha256"]}`
- Learned from {model["photographs"]} photographs of {model["patients"]} groups of patients; seed
  {model["seed"]}, weights after epoch {model["epoch"]}

{PSEUDONYMISED}

<details><summary>The whole recipe</summary>

```json
{recipe}
```

</details>"""


def _limits(result: Mapping[str, Any]) -> str:
    told_above = ("recipe: ", *(f"{one['name']}: " for one in result["weights"]))  # a name may be a path
    notes = "\n".join(f"- {note}" for note in result["notes"] if not note.startswith(told_above))
    return f"""## Limits

- Other cameras, sites, populations and image qualities were not tried; the shares are not calibrated.
{notes}"""


def _licence(result: Mapping[str, Any]) -> str:
    given = _start(result)["licence"]
    inherited = "" if given is None else f"\n\n{lineage.INHERITED}{lineage.bounded(given)}"
    return f"""## Licence

None is granted by this file: whoever answers for the photographs decides. Until they write a licence here,
ask them. ssl-retina itself is Apache-2.0.{inherited}"""


def _start(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The WEIGHTS that the model was made from."""
    found: Mapping[str, Any] = next(
        one for one in result["weights"] if one["name"] == result["model"]["weights"]
    )
    return found


def _numbers(values: list[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"
