"""Options that several verbs share: one name, one type and one help text, wherever a verb asks for them."""

from pathlib import Path
from typing import Annotated

import typer

Shards = Annotated[Path, typer.Option(help="Folder of shards.")]
Labels = Annotated[Path, typer.Option(help="CSV with a row for each labelled photograph.")]
Patient = Annotated[str | None, typer.Option(help="Column of patient ids, or none where no ids exist.")]
Split = Annotated[str | None, typer.Option(help="Column that says train or test; default: folds by patient.")]
FileColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of file names, or 'train/{ID}.png' with columns in it; default: a common name."
    ),
]
KeyFile = Annotated[Path | None, typer.Option(help="The key that made the shards.")]
Exclude = Annotated[Path | None, typer.Option(help="File of pseudonyms, one a line, that are left out.")]
Resamples = Annotated[int, typer.Option(min=1000, help="Bootstrap resamples.")]
ResultAsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
