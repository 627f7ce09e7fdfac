"""An export -> where others find it: a folder that a server serves, or a repository of the hub.

In: an export's folder and a destination. Out: the export there, whole, or a refusal before anything is sent.
"""

import re
from pathlib import Path

from ssl_retina.errors import InputError
from ssl_retina.release.hub import huggingface, publishable, pull
from ssl_retina.release.hub.huggingface import Place, Pushed, Visibility
from ssl_retina.release.hub.pull import Placed
from ssl_retina.release.hub.sources import Folder, Tell, did_you_mean_address
from ssl_retina.release.hub.staging import Existing


def destination(text: str) -> Path | Place:
    """What a typed destination means; raises InputError for one that cannot be written."""
    if text.startswith(huggingface.SCHEME):
        return huggingface.parse(text)
    scheme, separator, _ = text.partition("://")
    if separator:
        raise InputError(
            f"{scheme}:// cannot be pushed to: push to the folder that the server serves, "
            f"or to hf://OWNER/NAME"
        )
    if re.match(r"\w\w+:/|hf:", text):
        hint = did_you_mean_address(text, (huggingface.SCHEME,))
        raise InputError(f"{text} is no folder's name: {hint}give a folder or hf://OWNER/NAME")
    return Path(text)


def to_folder(
    folder: Path, registry: Path, *, existing: Existing = "refuse", tell: Tell | None = None
) -> Placed:
    """Publish an export as `registry`/NAME, NAME being the folder's own.

    Raises what `publishable.verify` and `pull.pull` raise; nothing is written before all is verified.
    """
    publishable.verify(folder)
    name = folder.resolve().name
    if registry.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{registry} lies inside {folder}: give the registry's folder, beside it")
    return pull.place(Folder(folder), registry / name, "push", existing=existing, tell=tell or Tell())


def to_hub(
    folder: Path,
    place: Place,
    *,
    visibility: Visibility,
    existing: Existing = "refuse",
    tell: Tell | None = None,
) -> Pushed:
    """Publish an export as one commit of a repository of the hub; nothing is sent before all is verified."""
    publishable.verify(folder)
    return huggingface.push(folder, place, visibility=visibility, existing=existing, tell=tell or Tell())
