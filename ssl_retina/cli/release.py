"""Verb `export`: a run's newest checkpoint -> a folder that plain timm loads."""

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(help="The run's folder (`out` of its config).")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; an earlier export there is replaced.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Export a run's newest checkpoint: model.safetensors, config.json, README.md (card), SHA256SUMS.

    The folder appears only after plain timm, in a process of its own, gave the same features from it.

    Example: ssl-retina export runs/a --out out/a
    """
    from ssl_retina.cli import console
    from ssl_retina.release.export import export as write_export

    folder = write_export(run, out)
    if as_json:
        console.result({"out": str(folder), "files": sorted(path.name for path in folder.iterdir())})
        return
    console.note(f"exported to {folder}; plain timm gave the same features from it")
    console.note(f'  timm.create_model("local-dir:{folder}", pretrained=True)')
