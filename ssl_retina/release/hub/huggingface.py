"""Repositories of the Hugging Face Hub: `hf://OWNER/NAME[@REVISION]`.

In: such a name. Out: the address of each file at one commit, which `web.py` brings (the library's own
download starts anew in every process), or a commit that holds the export and nothing else. The library gives
the address of the hub (HF_ENDPOINT), the token (HF_TOKEN, or its login), and the upload.
"""

import contextlib
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import httpx2
import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.hf_api import ModelInfo

from ssl_retina import __version__, http_rules
from ssl_retina.errors import InputError, StateError
from ssl_retina.models import pretrained
from ssl_retina.models.pretrained import SUMS_NAME
from ssl_retina.release.export import NAMES
from ssl_retina.release.hub import contents, web
from ssl_retina.release.hub.contents import Wanted
from ssl_retina.release.hub.sources import Tell
from ssl_retina.release.hub.staging import Existing
from ssl_retina.release.hub.web import Patience, Web

SCHEME = "hf://"
Visibility = Literal["private", "public"]
KEPT = frozenset((".gitattributes",))
"""What the hub itself puts into a repository."""
_PLACE = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Place:
    """A model repository and a branch, tag or commit of it."""

    repository: str
    revision: str = "main"

    @property
    def shown(self) -> str:
        """The name as it is typed."""
        return f"{SCHEME}{self.repository}"


@dataclass(frozen=True)
class Pushed:
    """A commit that holds the export; `unchanged` where it did so before."""

    state: Literal["written", "unchanged"]
    commit: str
    visibility: Visibility


def parse(text: str) -> Place:
    """The place that `hf://OWNER/NAME[@REVISION]` names."""
    found = _PLACE.fullmatch(text)
    if found is None:
        raise InputError(f"{text} is no repository of the hub: hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    return Place(found[1], found[2] or "main")


def source(place: Place, patience: Patience) -> Web:
    """The export at the commit that the revision means now."""
    with _spoken(place):
        api = _api(patience)
        info = _info(api, place, patience)
    return _at(place, _commit(place, info), patience)


def push(folder: Path, place: Place, *, visibility: Visibility, existing: Existing, tell: Tell) -> Pushed:
    """Make the repository hold this export: one commit, in which all of it appears.

    The caller has verified the folder. A new repository is private unless the user said otherwise.

    Raises StateError where the repository holds something else that may not be replaced, InputError where
    the hub refuses or is open to more people than the user said.
    """
    patience = Patience()
    with _spoken(place):
        api = _api(patience)
        if huggingface_hub.get_token() is None:
            raise InputError("the hub wants to know who you are: hf auth login, or set HF_TOKEN")
        info = _repository(api, place, visibility=visibility, patience=patience)
        before = _commit(place, info)
        held = {one.rfilename for one in info.siblings or ()} - KEPT
        if held == NAMES and _same(folder, _at(place, before, patience)):
            return Pushed("unchanged", before, visibility)
        if held and existing == "refuse":
            raise StateError(
                f"{place.shown} holds {len(held)} files of something else: add --replace to exchange them "
                f"as a whole (the history keeps the earlier ones), or choose another name"
            )
        tell.note(f"sending {len(NAMES)} files to {place.shown} ({visibility})")
        return Pushed("written", _committed(api, place, folder, held - NAMES, before), visibility)


def _committed(api: HfApi, place: Place, folder: Path, gone: set[str], before: str) -> str:
    additions = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in sorted(NAMES)
    ]
    deletions = [CommitOperationDelete(path_in_repo=name, is_folder=False) for name in sorted(gone)]
    with _uploading(place):
        done = api.create_commit(
            place.repository,
            [*additions, *deletions],
            commit_message=f"Export of ssl-retina {__version__}",
            revision=place.revision,
            parent_commit=before,
        )
    return done.oid


def _repository(api: HfApi, place: Place, *, visibility: Visibility, patience: Patience) -> ModelInfo:
    """The repository as it stands, made if there is none; its visibility is what the user said."""
    try:
        info = _info(api, place, patience)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        api.create_repo(place.repository, private=visibility == "private")
        info = _info(api, place, patience)
    found = "private" if info.private else "public"
    if found != visibility:
        hint = "add --public if everybody may read it" if found == "public" else "leave --public out"
        raise InputError(
            f"{place.shown} is {found}: {hint}, or change it on the hub's page; nothing was sent"
        )
    return info


def _info(api: HfApi, place: Place, patience: Patience) -> ModelInfo:
    """What the revision means now; a hub that stumbles is asked again, with growing pauses."""
    for failures in range(1, patience.attempts):
        try:
            return api.model_info(place.repository, revision=place.revision)
        except (HfHubHTTPError, httpx2.TransportError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code not in http_rules.BUSY:
                raise
            time.sleep(patience.pause(failures))
    return api.model_info(place.repository, revision=place.revision)


def _same(folder: Path, there: Web) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch) / SUMS_NAME
        there.fetch(Wanted(SUMS_NAME, None), part, Tell())
        return part.read_bytes() == contents.write_sums(pretrained.read_folder_sums(folder))


def _at(place: Place, commit: str, patience: Patience) -> Web:
    """The files of one commit."""
    return Web(
        shown=place.shown,
        address=lambda name: huggingface_hub.hf_hub_url(place.repository, name, revision=commit),
        known={"source": place.shown, "revision": place.revision, "commit": commit},
        patience=patience,
        headers=_token_header(),
    )


def _token_header() -> Mapping[str, str]:
    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else huggingface_hub.get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


def _api(patience: Patience) -> HfApi:
    """The library's interface, over a client that is patient for so long and says only our name."""
    if huggingface_hub.is_offline_mode():
        raise InputError("HF_HUB_OFFLINE is set, so nothing is asked of the hub: unset it, or use a folder")

    def make() -> httpx2.Client:
        hooks = {"request": [_named]}
        return httpx2.Client(timeout=patience.stall_seconds, follow_redirects=True, event_hooks=hooks)

    huggingface_hub.set_client_factory(make)
    return HfApi()


def _named(request: httpx2.Request) -> None:
    """The library's own user agent tells which programs are installed here; ours does not."""
    request.headers["User-Agent"] = web.USER_AGENT


def _commit(place: Place, info: ModelInfo) -> str:
    if info.sha is None or _COMMIT.fullmatch(info.sha) is None:
        raise StateError(f"{place.shown}: the hub names no commit for {place.revision}; nothing was fetched")
    return info.sha


@contextlib.contextmanager
def _uploading(place: Place) -> Iterator[None]:
    """What the library's two ways of sending large files raise, beside its own errors, as one sentence."""
    try:
        yield
    except (ConnectionError, RuntimeError) as error:
        reason = str(error.__cause__ or error).split("\n", 1)[0]
        raise InputError(
            f"{place.shown}: the weights could not be sent ({reason[:300]}), so nothing appeared there. "
            f"The same command tries again; a server that offers no xet needs HF_HUB_DISABLE_XET=1"
        ) from None


@contextlib.contextmanager
def _spoken(place: Place) -> Iterator[None]:
    """The hub's refusals as sentences; order matters, as the kinds of error derive from one another."""
    try:
        yield
    except RevisionNotFoundError:
        raise InputError(
            f"{place.shown} has no revision {place.revision}: make it there, or name another"
        ) from None
    except GatedRepoError:
        raise InputError(f"{place.shown} is gated: ask for access on its page, then hf auth login") from None
    except RepositoryNotFoundError:
        raise InputError(
            f"{place.shown} does not exist, or your token (hf auth login, or HF_TOKEN) may not see it"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or "no reason given"
        raise InputError(f"the hub refuses {place.shown} (status {status}: {said[:200]})") from None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set, so nothing is asked of the hub") from None
    except HFValidationError as error:
        raise InputError(f"{place.shown} is no name that the hub knows ({error})") from None
    except httpx2.TransportError as error:
        raise InputError(
            f"the hub did not answer for {place.shown} ({type(error).__name__}): try again; what arrived "
            f"there is not sent twice"
        ) from None
