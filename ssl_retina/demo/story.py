"""The demo's answers in words: a short sentence for each step, and the page about all of them.

In: the JSON of every step and what lies in the demo's folder. Out: sentences, and a `report.page.Page`.
"""

import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from ssl_retina import files, launch, pseudonyms, shards
from ssl_retina.demo.verdict import Verdict
from ssl_retina.report import plots, sheet
from ssl_retina.report.page import Page, Sheet, Step
from ssl_retina.train import tracking

PACKAGES = ("ssl-retina", "torch", "deepspeed", "timm", "lightly", "webdataset", "numpy", "pillow")
LEAD = (
    "A messy archive of eye photographs goes in; de-identified shards, a pretrained encoder and a probe "
    "with honest statistics come out. Every step below is a command that works the same on a real archive.",
    "The patients of this page are invented and their photographs drawn: lesions are dots, rings, flecks "
    "and a large cup, and healthy eyes carry streaks of the same colours and the same area, so that mean "
    "colour and camera say nothing about the disease.",
)
LIMITS = (
    "These are drawings. Nothing here says how the encoder does on eyes.",
    "One run, one seed, one small task. The intervals are over patients; another training seed moves the "
    "numbers too, and that is not in them.",
    "The probe's photographs were seen, without labels, in pretraining.",
    "Where a feature holds nothing, an out-of-fold AUROC lies somewhat below 0.5: the training part of a "
    "balanced set leans away from its test part.",
    "Shards are pseudonymised, not anonymous: a photograph of a retina can be matched to another of the "
    "same eye.",
    "Last digits differ between processors and numbers of processes.",
)
SHOWN_OF_EACH_DEVICE = 8
CELL = 116


def of_shard(answer: Mapping[str, Any]) -> str:
    """Law 1 in a line."""
    return (
        f"{answer['scanned']} scanned = {answer['written']} written + {answer['rejected']} rejected + "
        f"{answer['duplicates']} duplicates; {answer['patients']} patients"
    )


def of_inspect(answer: Mapping[str, Any]) -> str:
    """What was looked at."""
    found = f"{len(answer['damage'])} findings" if answer["damage"] else "no damage"
    return f"{answer['samples']} samples in {answer['bytes'] / 1e6:.1f} MB, {found}"


def of_pretrain(answer: Mapping[str, Any]) -> str:
    """How training ended, or that it had ended before."""
    if answer["started_at"] == answer["steps"]:
        return f"trained already, {answer['steps']} steps"
    return (
        f"{answer['steps']} steps, {answer['samples']} samples; loss {answer['loss']:.4f}, on held-out "
        f"patients {answer['held_out_loss']:.4f}"
    )


def of_export(answer: Mapping[str, Any]) -> str:
    """Which files."""
    return ", ".join(answer["files"])


def of_timm(answer: Mapping[str, Any]) -> str:
    """What plain timm gave."""
    assert not answer["ssl_retina"], "the process that loads the export must not know us"
    images, width = answer["features"]
    return f"{width} features of each of {images} images, ssl_retina was never imported"


def of_probe(answer: Mapping[str, Any]) -> str:
    """How much was judged."""
    (task,) = answer["tasks"]
    return (
        f"{task['tested_images']} photographs of {task['tested_patients']} patients, "
        f"{task['positives']} with referable disease"
    )


def surroundings(key: str) -> tuple[str, ...]:
    """What a user types first to repeat the steps by hand."""
    return (
        f"export {pseudonyms.KEY_VARIABLE}={key}   # the demo's own key, outside its output",
        "export CUDA_VISIBLE_DEVICES=   # the same path on every machine: no GPU",
    )


def page_of(
    out: Path, steps: Sequence[Step], answers: Mapping[str, Any], *, verdict: Verdict, key: str
) -> Page:
    """The page about a demo in `out`."""
    index = shards.read_index(out / "shards")
    return Page(
        title="From a messy archive to a probed checkpoint",
        lead=LEAD,
        verdict=verdict.sentence,
        totals=index.facts["totals"],
        holdings=answers["inspect"],
        sheet=_sheet(index),
        metrics=tracking.read_lines(out / "run"),
        probe=answers["probe"],
        steps=steps,
        environment=surroundings(key),
        versions=_versions(),
        digests={
            "shards (index.json, SHA-256)": index.digest,
            "model.safetensors (SHA-256)": files.sha256(out / "model" / "model.safetensors"),
        },
        limits=LIMITS,
    )


def _sheet(index: shards.Index) -> Sheet:
    pictures = sheet.spread(index, each=SHOWN_OF_EACH_DEVICE)
    jpeg = plots.contact_sheet(pictures, columns=SHOWN_OF_EACH_DEVICE, cell=CELL)
    devices = ", ".join(name for name in index.columns["device"] if name)
    return Sheet(jpeg, f"As the shards hold them, eight of each device, row by row: {devices}. All drawn.")


def _versions() -> dict[str, str]:
    return {
        "Python": platform.python_version(),
        **{name: metadata.version(name) for name in PACKAGES},
        "cores": str(launch.cores()),
    }
