"""An export from anywhere -> a folder, every byte checked before its name appears.

In: a source and a target. Out: the target, and what was done.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ssl_retina import files
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import pretrained
from ssl_retina.models.pretrained import SUMS_NAME
from ssl_retina.release.hub import contents, huggingface, sources, staging, web
from ssl_retina.release.hub.contents import LIMITS, ORIGIN_NAME, Wanted
from ssl_retina.release.hub.sources import Folder, Source, Tell, forget
from ssl_retina.release.hub.staging import Existing, Stage
from ssl_retina.release.hub.web import Patience

TRIES = 2
"""How often a file is fetched that does not come out as promised."""
CLASSES = 2
WEB = ("http://", "https://")


@dataclass(frozen=True)
class Placed:
    """An export under its final name: its files' digests and sizes, and where it came from."""

    folder: Path
    state: Literal["written", "unchanged"]
    digests: Mapping[str, str]
    sizes: Mapping[str, int]
    origin: Mapping[str, str]


def pull(source: Source, target: Path, *, existing: Existing = "refuse", tell: Tell | None = None) -> Placed:
    """Bring an export to the folder `target`, or find that it is there already.

    Interrupted, it leaves what arrived in a hidden folder beside the target, and the same call continues.

    Raises InputError where the source does not give an export or the disk refuses, StateError where the
    target holds something else, CheckpointError for files that are not what SHA256SUMS promises.
    """
    return place(source, target, "pull", existing=existing, tell=tell or Tell())


def place(source: Source, target: Path, verb: str, *, existing: Existing, tell: Tell) -> Placed:
    """Put an export under a final name; `verb` names the hidden folder."""
    with staging.opened(target, verb) as stage:
        promised = _promised(source, stage, tell)
        found = staging.standing(target, promised)
        if found == "same":
            stage.discard()
            return _placed(source, target, "unchanged", promised)
        staging.may_write(target, found, existing)
        stage.keep_only(promised)
        for name, digest in promised.items():
            _bring(source, Wanted(name, digest), stage, tell)
        pretrained.check_fits(stage.content)
        if source.origin():
            files.write_json(stage.content / ORIGIN_NAME, source.origin())
        files.write_bytes(stage.content / SUMS_NAME, contents.write_sums(promised))
        stage.settle(existing)
    return _placed(source, target, "written", promised)


def _placed(
    source: Source, target: Path, state: Literal["written", "unchanged"], promised: Mapping[str, str]
) -> Placed:
    return Placed(target, state, promised, staging.sizes(target, LIMITS), source.origin())


def _promised(source: Source, stage: Stage, tell: Tell) -> Mapping[str, str]:
    part = stage.parts / SUMS_NAME
    forget(part)
    try:
        source.fetch(Wanted(SUMS_NAME, None), part, tell)
        return pretrained.read_sums(part.read_bytes(), source.shown)
    finally:
        forget(part)


def _bring(source: Source, wanted: Wanted, stage: Stage, tell: Tell) -> None:
    """Fetch one file into the stage's content; what comes out wrong is fetched once more, from its start."""
    file = stage.content / wanted.name
    if file.exists():
        return  # an earlier call brought it, and `keep_only` has checked it
    assert wanted.digest is not None
    part = stage.parts / wanted.digest
    found = ""
    for left in reversed(range(TRIES)):
        source.fetch(wanted, part, tell)
        found = files.sha256(part)
        if found == wanted.digest:
            stage.accept(part, wanted.name)
            forget(part)
            return
        forget(part)
        if left:
            tell.note(f"{wanted.name} came with other bytes than promised; it is fetched again")
    raise CheckpointError(
        f"{source.shown}: {wanted.name} is not what {SUMS_NAME} promises, {TRIES} times: "
        f"expected {wanted.digest}, found {found}. Nothing was put under {stage.target}; if it is being "
        f"replaced there, wait and try again, otherwise ask whoever publishes it"
    )


def source(text: str, patience: Patience) -> Source:
    """What a typed source means: a folder, http(s)://HOST/PATH or hf://OWNER/NAME[@REVISION].

    For the hub this asks what the revision means now.
    """
    if text.startswith(huggingface.SCHEME):
        return huggingface.source(huggingface.parse(text), patience)
    if text.startswith(WEB):
        return web.at(text, patience)
    scheme, separator, _ = text.partition("://")
    if separator:
        raise InputError(f"{scheme}:// is not read: give a folder, http(s)://HOST/PATH or hf://OWNER/NAME")
    if not Path(text).is_dir():
        hint = sources.did_you_mean_address(text, (*WEB, huggingface.SCHEME))
        raise InputError(f"{text} is no folder; {hint}give one, http(s)://HOST/PATH or hf://OWNER/NAME")
    return Folder(Path(text))


def python_lines(folder: Path) -> list[str]:
    """The lines of Python that load the model in plain timm."""
    name = repr(f"local-dir:{folder}")
    return [
        "import timm",
        f"model = timm.create_model({name}, pretrained=True, num_classes={CLASSES})  # your classes",
    ]
