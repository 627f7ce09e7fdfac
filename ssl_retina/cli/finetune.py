"""The verb `finetune`: a checkpoint trained end to end on a small labelled set, judged as `probe` judges."""

import contextlib
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssl_retina.cli import console, probe
from ssl_retina.cli.options import (
    Exclude,
    FileColumn,
    KeyFile,
    Labels,
    Patient,
    Resamples,
    ResultAsJson,
    Shards,
    Split,
)

if TYPE_CHECKING:
    from ssl_retina.probe.finetune import Outcome
    from ssl_retina.probe.prepared import Prepared
    from ssl_retina.probe.tuning import Advance

EPILOG = (
    "Example: ssl-retina finetune out/model random --data out/shards --labels labels.csv "
    "--task glaucoma=Label:GON+ --patient Patient --epochs 30 --out out/finetune"
)
NAMES = ("finetune.json", "report.md", "finetune.png", "predictions.csv", "model", "fits", probe.STRADDLING)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("finetune", epilog=EPILOG)(finetune)


def finetune(
    weights: Annotated[
        list[str],
        typer.Argument(
            metavar="WEIGHTS...",
            help="Folder of an export, a timm ViT, or random (fresh weights); the first is compared with "
            "each other one, and its model is written.",
        ),
    ],
    data: Shards,
    labels: Labels,
    task: Annotated[
        str,
        typer.Option(help="NAME=SPEC; SPEC is COLUMN:VALUE, COLUMN>=NUMBER, COLUMN:ordinal or a column."),
    ],
    out: Annotated[
        Path, typer.Option(help="Folder for finetune.json, report.md, finetune.png, predictions.csv, model/.")
    ],
    patient: Patient = None,
    split: Split = None,
    file: FileColumn = None,
    key_file: KeyFile = None,
    exclude: Exclude = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML with any of the recipe's values; see configs/probe/finetune.yaml."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Default 50; a fifth of them warms up.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Default 16.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Per 256 samples; default 5e-3.")] = None,
    layer_decay: Annotated[float | None, typer.Option(help="Default 0.65; 1 is none.")] = None,
    drop_path: Annotated[float | None, typer.Option(help="Default 0.2.")] = None,
    epoch_choice: Annotated[
        str | None, typer.Option(help="last, or inner: by a fifth of the training patients.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds, order, crops and random weights.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Repeat with so many seeds; values are means.")] = 1,
    halves: Annotated[
        int,
        typer.Option(
            min=0,
            help="Pairs of random halves of the patients that are fitted again for the intervals; each "
            "costs as much as the whole. 0: intervals that are too narrow; 1: hardly bounded ones.",
        ),
    ] = 3,
    resamples: Resamples = 2000,
    workers: Annotated[int, typer.Option(min=0, help="Loader processes; they change no number.")] = 0,
    json: ResultAsJson = False,
) -> None:
    """Train weights end to end on a labelled set and judge them on patients they never saw.

    Labels, patients, splits, metrics and intervals are those of `probe`. Finished trainings are kept in
    OUT/fits: the same command goes on where it was stopped. Hours on a CPU where the model is not tiny.
    """
    from ssl_retina import files
    from ssl_retina.errors import InterruptedRunError
    from ssl_retina.probe import finetune as trainer
    from ssl_retina.probe import prepared, recipe
    from ssl_retina.probe.material import Settings

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "layer_decay": layer_decay,
        "drop_path": drop_path,
        "epoch_choice": epoch_choice,
    }
    chosen = recipe.load(config, given)
    settings = Settings(data, labels, patient, split, file, key_file, exclude)
    options = prepared.Options(seed, seeds, halves, resamples, workers)
    files.claim_folder(out, (*NAMES, files.LOCK_NAME), "the output of finetune")
    try:
        with probe.straddling_listed(out), files.lock(out):
            ready = prepared.prepare(weights, task, settings, recipe=chosen, options=options, folder=out)
            with _progress(ready) as advance:
                outcome = trainer.run(ready, advance)
            _write(outcome, out)
    except KeyboardInterrupt:
        raise InterruptedRunError(
            "interrupted; the same command goes on after the last finished fit"
        ) from None
    if json:
        console.result(outcome.result)
    else:
        probe.show(outcome.result)
    console.note(f"written: {out / 'finetune.json'}, report.md, finetune.png, predictions.csv, model/")


@contextlib.contextmanager
def _progress(ready: "Prepared") -> Iterator["Advance"]:
    """Say what will be done, and how far it is."""
    left = ready.left()
    total = sum(ready.photographs(fit) for fit in left)
    console.note(f"{len(left)} fine-tuning{'' if len(left) == 1 else 's'} to do, {total} photographs in all")
    with console.progress("fine-tuning, photographs", total or None) as advance:
        yield advance


def _write(outcome: "Outcome", out: Path) -> None:
    """Write every file whole, `finetune.json` last."""
    from ssl_retina import files
    from ssl_retina.probe import report
    from ssl_retina.release import classifier

    classifier.write(outcome.vit, outcome.description, outcome.result, out / "model")
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows(outcome.predictions)
    files.write_bytes(out / "predictions.csv", table.getvalue().encode())
    with files.whole(out / "finetune.png") as temporary:
        report.figure(outcome.result, temporary)
    files.write_bytes(out / "report.md", report.markdown(outcome.result).encode())
    files.write_json(out / "finetune.json", outcome.result)
