"""The verb `embed`: features of every photograph of a shard set to one Parquet file."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ssl_retina.cli import console
from ssl_retina.cli.options import Exclude, Shards

# a bracket before a letter would begin rich's markup
EPILOG = (
    "Read it with pyarrow: table = pyarrow.parquet.read_table('features.parquet'); "
    "vectors = table['embedding'].combine_chunks().flatten().to_numpy().reshape(len(table), -1); what made "
    "it: json.loads(table.schema.metadata\\[b'ssl_retina'])."
    "\n\nExample: ssl-retina embed out/model --data out/shards --out out/features.parquet"
)


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("embed", epilog=EPILOG)(embed)


def embed(
    weights: Annotated[
        str, typer.Argument(help="Folder of an export, a timm name, random, mean-colour or pixel-pca.")
    ],
    data: Shards,
    out: Annotated[Path, typer.Option(help="The Parquet file.")],
    where: Annotated[
        str | None, typer.Option(help="Conditions, such as 'modality == fundus and split != test'.")
    ] = None,
    exclude: Exclude = None,
    batch: Annotated[int, typer.Option(min=1, help="Photographs at once.")] = 64,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Loader processes; default: 4 from 2000 photographs on.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random weights.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier file.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON on stdout.")] = False,
) -> None:
    """Write key, patient, group, modality, eye, split and `embedding` (float32) of each photograph.

    Rows stand in the order of the index; the file appears when it is whole, so a stopped command starts
    again. Frozen features of the whole image, as `probe` judges them. Embeddings are biometric data: they
    match photographs of one eye, so keep the file as you keep the photographs.
    """
    from ssl_retina.errors import InterruptedRunError
    from ssl_retina.probe import embedding

    _check(out, replace=replace)
    chosen = embedding.choose(data, where=where, exclude=exclude, batch=batch, workers=workers)
    try:
        with _progress(len(chosen.rows)) as advance:
            about = embedding.write(weights, chosen, out, seed=seed, advance=advance)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted; nothing was written, the command starts anew") from None
    if json:
        console.result({"out": str(out), **about})
    console.note(f"written: {out}, {about['rows']} rows of {about['dimensions']} numbers. {about['privacy']}")


def _check(out: Path, *, replace: bool) -> None:
    """Refuse before the work what could not be written after it."""
    from ssl_retina import files
    from ssl_retina.errors import InputError

    files.check_file(out, f"--out {out}")
    if out.exists() and not replace:
        raise InputError(f"{out} exists: say --replace, or give another name")


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[str, int], None]]:
    """Count photographs; the library tells how many are done, the bar wants how many more."""
    with console.progress("photographs", total) as advance:
        last = 0

        def tell(name: str, done: int) -> None:
            nonlocal last
            advance(done - last)
            last = done

        yield tell
