"""Verbs `push` and `pull`: an export goes to a folder or the Hugging Face Hub, and comes back from there."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_retina.cli import console

if TYPE_CHECKING:
    from ssl_retina.release.hub.huggingface import Place, Visibility
    from ssl_retina.release.hub.pull import Placed
    from ssl_retina.release.hub.sources import Tell
    from ssl_retina.release.hub.staging import Existing

MEGABYTE = 1e6
Advance = Callable[[str, int, int | None], None]
"""Told of a file's name, the bytes that are there, and those in all or None."""
Done = tuple[dict[str, Any], str]
"""The content of `--json`, and the sentence for a person."""


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command("push", epilog="Example: ssl-retina push out/a out/registry")(push)
    app.command("pull", epilog="Example: ssl-retina pull http://127.0.0.1:8123/a out/pulled")(pull)


def push(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="An export: what ssl-retina export wrote.")],
    destination: Annotated[
        str, typer.Argument(metavar="DEST", help="A folder (DEST/NAME appears in it), or hf://OWNER/NAME.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Exchange another export that is there, as a whole.")
    ] = False,
    public: Annotated[
        bool, typer.Option("--public", help="On the hub: for everybody. Otherwise it is private.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Publish an export, whole, after its sums, its names and its texts were checked.

    Nothing is sent that does not belong: no path, no host, no user, no state of the optimiser.
    A web server is fed through the folder that it serves.
    """
    _no_bars_in_logs()
    from ssl_retina.release.hub import push as hub

    place = hub.destination(destination)
    existing: Existing = "replace" if replace else "refuse"
    if isinstance(place, Path):
        content, sentence = _to_folder(folder, place, existing, public)
    else:
        content, sentence = _to_hub(folder, place, existing, public)
    if as_json:
        console.result(content)
    else:
        console.note(sentence)


def _to_folder(folder: Path, registry: Path, existing: "Existing", public: bool) -> Done:
    from ssl_retina.errors import InputError
    from ssl_retina.release.hub import push as hub

    if public:
        raise InputError("--public is for the hub; who may read a folder is for its server to say")
    with _told() as tell:
        placed = hub.to_folder(folder, registry, existing=existing, tell=tell)
    return _placed(placed), f"{placed.folder}: {_state(placed.state, 'pushed')}"


def _to_hub(folder: Path, place: "Place", existing: "Existing", public: bool) -> Done:
    from ssl_retina.release.card import PSEUDONYMISED
    from ssl_retina.release.hub import push as hub

    if public:
        console.note(f"--public: everybody will be able to read this.\n{PSEUDONYMISED}")
    visibility: Visibility = "public" if public else "private"
    with _told() as tell:
        pushed = hub.to_hub(folder, place, visibility=visibility, existing=existing, tell=tell)
    content = {"repository": place.shown, **dataclasses.asdict(pushed)}
    where = f"{place.shown}, {pushed.visibility}, commit {pushed.commit}"
    return content, f"{where}: {_state(pushed.state, 'pushed')}"


def pull(
    origin: Annotated[
        str,
        typer.Argument(metavar="SOURCE", help="A folder, http(s)://HOST/PATH or hf://OWNER/NAME@REVISION."),
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The folder that appears, whole or not at all.")
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="Exchange another export that is there, as a whole.")
    ] = False,
    stall: Annotated[
        float, typer.Option("--stall-seconds", min=0.1, help="A server silent for so long is asked again.")
    ] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Fetch an export; every byte is checked against SHA256SUMS before the folder appears.

    After a cut, the same command continues where it stopped. What it prints loads the model in plain timm.
    """
    _no_bars_in_logs()
    from ssl_retina.release.hub import pull as hub
    from ssl_retina.release.hub.web import Patience

    with _told() as tell:
        source = hub.source(origin, Patience(stall_seconds=stall))
        placed = hub.pull(source, folder, existing="replace" if replace else "refuse", tell=tell)
    lines = hub.python_lines(folder)
    if as_json:
        console.result({**_placed(placed), "source": source.shown, "python": lines})
        return
    commit = f", commit {placed.origin['commit']}" if "commit" in placed.origin else ""
    where = f"{source.shown}{commit}"
    what = f"pulled from {where}" if placed.state == "written" else f"the export of {where} was there already"
    console.note(f"{folder}: {what}")
    print("\n".join(lines))


def _no_bars_in_logs() -> None:
    """Before huggingface_hub is imported: it must not fill a log with bars."""
    if not console.NOTES.is_terminal:
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _state(state: str, done: str) -> str:
    return done if state == "written" else "the same export was there already"


def _placed(placed: "Placed") -> dict[str, Any]:
    listed = {
        name: {"sha256": digest, "bytes": placed.sizes[name]} for name, digest in placed.digests.items()
    }
    return {"folder": str(placed.folder), "state": placed.state, "files": listed, **placed.origin}


@contextlib.contextmanager
def _told() -> Iterator["Tell"]:
    """Whom to tell of the work; Ctrl-C ends it with a sentence."""
    from ssl_retina.errors import InterruptedRunError
    from ssl_retina.release.hub.sources import Tell

    try:
        if console.NOTES.is_terminal:
            with _bars() as advance:
                yield Tell(advance, console.note)
        else:
            yield Tell(_lines(), console.note)
    except KeyboardInterrupt:
        raise InterruptedRunError("interrupted: what arrived is kept, the same command continues") from None


@contextlib.contextmanager
def _bars() -> Iterator[Advance]:
    """A bar for each file."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console.NOTES, transient=True) as bars:
        known: dict[str, Any] = {}

        def advance(name: str, done: int, total: int | None) -> None:
            task = known[name] if name in known else known.setdefault(name, bars.add_task(name, total=total))
            bars.update(task, completed=done, total=total)

        yield advance


def _lines() -> Advance:
    """A progress function that prints a plain line every `console.LINE_SECONDS`."""
    last = time.monotonic()

    def advance(name: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= console.LINE_SECONDS:
            last = time.monotonic()
            whole = f" of {total / MEGABYTE:.1f}" if total else ""
            console.note(f"{name}: {done / MEGABYTE:.1f}{whole} MB")

    return advance
