"""Keyed pseudonyms: the same patient or image gets the same name under one key, and nobody without it.

In: an id as an archive or a labels file writes it. Out: 26 letters and digits (128 bit, base32) that go
into shards, ledgers and joins. Hashing without a key is refused: patient numbers can be tried in seconds.
"""

import base64
import hashlib
import hmac
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ssl_retina import files, shards
from ssl_retina.errors import StateError

KEY_BYTES = 32
KEY_VARIABLE = "SSL_RETINA_KEY_FILE"
MINUS = "\u2212"
SUFFIXES = frozenset(
    ("jpg", "jpeg", "png", "tif", "tiff", "bmp", "ppm", "pgm", "pnm", "dcm", "dicom", "webp", "gif")
)
"""What is taken for a suffix of a photograph; any other text behind a dot belongs to the name."""
NORMALISATION = (
    "2: NFKC, invisible characters dropped, digits and dashes of any script as ASCII, stripped, case-folded, "
    "inner spaces joined, leading zeros of plain numbers dropped"
)
"""The rule for ids, its version first: under another rule the same id is another patient."""
_DECIMAL, _WHOLE = re.compile(r"\d+\.\d+"), re.compile(r"\d+\.0+")


def default_key_file() -> Path:
    """The key file of this user: `SSL_RETINA_KEY_FILE`, or `ssl-retina/key` in the config folder."""
    named = os.environ.get(KEY_VARIABLE)
    if named:
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "ssl-retina" / "key"


def make_key(path: Path) -> None:
    """Write a new random key with mode 0600; never replaces one."""
    if not _make_first(path):
        raise StateError(f"{path} exists: a key is never replaced, since the pseudonyms hang on it")


def _make_first(path: Path) -> bool:
    """Make a key unless another process was first."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return files.write_first(path, secrets.token_hex(KEY_BYTES).encode() + b"\n", mode=0o600)


def read_key(path: Path | None = None) -> bytes:
    """The key's bytes; without `path` the user's own key, made on first use.

    Raises StateError for a key that is missing where one was named, short, open to other users, or that
    cannot be read or made.
    """
    try:
        return _key(path)
    except OSError as error:
        named = path or default_key_file()
        raise StateError(f"key file {named} cannot be read or made: {error.strerror or error}") from None


def _key(path: Path | None) -> bytes:
    given = path or (Path(os.environ[KEY_VARIABLE]) if os.environ.get(KEY_VARIABLE) else None)
    path = given or default_key_file()
    if not path.exists() and given is None:
        _make_first(path)
    if not path.is_file():
        raise StateError(
            f"key file {path} does not exist. Shards that were made with it can only be joined with it; "
            f"for a new archive make one: (umask 077; openssl rand -hex 32 > {path})"
        )
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise StateError(f"key file {path} can be read by other users: chmod 600 {path}")
    content = path.read_bytes().strip()
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        key = content
    if len(key) < KEY_BYTES:
        raise StateError(f"key file {path} holds {len(key)} bytes; {KEY_BYTES} random bytes are needed")
    return key


def check_key_place(path: Path, output: Path, what: str = "key file") -> None:
    """Refuse a key inside the output, any set of shards or a git checkout: it would travel with them.

    what: how the sentence calls the file, where it is another secret than the key.
    """
    resolved = path.resolve()
    if resolved.is_relative_to(output.resolve()):
        raise StateError(f"{what} {path} lies inside the output {output}: move it out")
    for folder in resolved.parents:
        if os.path.lexists(folder / ".git"):
            raise StateError(f"{what} {path} lies inside the git checkout {folder}: move it out")
        if _holds_shards(folder):
            raise StateError(f"{what} {path} lies inside {folder}, which holds shards: move it out")


def _holds_shards(folder: Path) -> bool:
    """Whether a folder has an index of ours, in whatever state it is."""
    index = folder / shards.INDEX_NAME
    return os.path.isfile(index) and b'"ssl_retina"' in index.read_bytes()


def normalise(identifier: str) -> str:
    """An id in the one spelling that is hashed: see NORMALISATION."""
    text = " ".join(plain(identifier).split()).casefold()
    return (text.lstrip("0") or "0") if text.isdecimal() else text


def plain(text: str) -> str:
    """NFKC, without what nobody sees (BOM, zero-width spaces), with ASCII's digits and hyphen."""
    if text.isascii():
        return text
    seen = "".join(one for one in text if unicodedata.category(one) != "Cf")
    return "".join(map(_ascii, unicodedata.normalize("NFKC", seen)))


def _ascii(character: str) -> str:
    """The ASCII digit or hyphen that a character stands for, else the character."""
    digit = unicodedata.decimal(character, None)
    if digit is not None:
        return str(digit)
    return "-" if unicodedata.category(character) == "Pd" or character == MINUS else character


def whole(ids: Sequence[str]) -> tuple[list[str], int]:
    """A column of ids with `65.0` as `65`, and how many were changed: so pandas writes numbers beside gaps.

    Nothing is changed where one decimal of the column ends in anything else: then `65.0` is an id.
    """
    decimals = {one: plain(one).strip() for one in dict.fromkeys(ids)}
    decimals = {one: text for one, text in decimals.items() if _DECIMAL.fullmatch(text)}
    if not all(map(_WHOLE.fullmatch, decimals.values())):
        return list(ids), 0
    read = [decimals[one].partition(".")[0] if one in decimals else one for one in ids]
    return read, sum(one in decimals for one in ids)


def normalise_path(relative: str) -> str:
    """A path inside an archive in the one spelling that is hashed (case is kept: it tells files apart)."""
    text = unicodedata.normalize("NFC", relative.replace(os.sep, "/"))
    tidy = text and not text.startswith((".", "/")) and not text.endswith("/")
    if tidy and "//" not in text and "/." not in text:
        return text  # ten times as fast, for archives of a million files
    return PurePosixPath(text).as_posix()


def bare(path: str) -> str:
    """A file's name without folder and suffix, in any case; `IMG_1.2` and a DICOM UID have no suffix."""
    last = path.replace("\\", "/").rsplit("/", 1)[-1]
    return without_suffix(last).casefold()


def without_suffix(path: str) -> str:
    """The path without the suffix of a photograph (SUFFIXES, in any case), if it has one."""
    stem, dot, suffix = path.rpartition(".")
    return stem if dot and stem and not stem.endswith("/") and suffix.casefold() in SUFFIXES else path


def _pseudonym(key: bytes, kind: str, site: str, text: str) -> str:
    message = "\0".join((kind, site, text)).encode("utf-8", "surrogateescape")
    digest = hmac.new(key, message, hashlib.sha256).digest()[:16]
    return base64.b32encode(digest).decode("ascii").rstrip("=").lower()


def patient(key: bytes, identifier: str, site: str = "") -> str:
    """Pseudonym of a patient."""
    return _pseudonym(key, "patient", site, normalise(identifier))


def withdrawal_mark(key: bytes, identifier: str, site: str = "") -> str:
    """Tells the key's holder that a patient was withdrawn; nobody else can join it to their pseudonym."""
    return _pseudonym(key, "withdrawn", site, normalise(identifier))


def image(key: bytes, relative_path: str, site: str = "") -> str:
    """Pseudonym of an image, from its path below the archive's root: the sample's key."""
    return _pseudonym(key, "image", site, normalise_path(relative_path))


def part(key: bytes, relative_path: str, place: str, site: str = "") -> str:
    """Pseudonym of one of several images of a file, such as its `frame 3`; without a place: the file's."""
    return image(key, f"{relative_path}\0{place}" if place else relative_path, site)


def name(key: bytes, relative_path: str, site: str = "") -> str:
    """Pseudonym of an image's bare file name without folder and suffix: what labels files often hold."""
    return _pseudonym(key, "name", site, bare(normalise_path(relative_path)))


def fingerprint(key: bytes) -> str:
    """Tells two keys apart without giving either away; written into every index."""
    return _pseudonym(key, "fingerprint", "", "ssl-retina")[:16]
