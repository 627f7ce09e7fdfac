"""Pseudonyms: keyed, the same for all spellings of an id, and only under a key that is kept well."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from ssl_retina import pseudonyms
from ssl_retina.errors import StateError

KEY = bytes(range(32))


def _key_file(folder: Path, content: str = "ab" * 32, mode: int = 0o600) -> Path:
    path = folder / "key"
    path.write_text(content)
    path.chmod(mode)
    return path


def test_f101_first_use_makes_a_private_key_and_keeps_it() -> None:
    first = pseudonyms.read_key()
    path = pseudonyms.default_key_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert len(first) == 32
    assert pseudonyms.read_key() == first
    with pytest.raises(StateError, match="never replaced"):
        pseudonyms.make_key(path)


def test_f101_two_first_uses_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the key between our look and our write: its key stays, and is what we read."""
    path = pseudonyms.default_key_file()
    link = os.link

    def late(candidate: Path, where: Path) -> None:
        path.write_text("cd" * 32)
        path.chmod(0o600)
        link(candidate, where)

    monkeypatch.setattr(os, "link", late)
    assert pseudonyms.read_key() == bytes.fromhex("cd" * 32)
    assert list(path.parent.iterdir()) == [path]


def test_f101_a_named_key_that_is_missing_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StateError, match="does not exist"):
        pseudonyms.read_key(tmp_path / "absent")
    monkeypatch.setenv(pseudonyms.KEY_VARIABLE, str(tmp_path / "absent"))
    with pytest.raises(StateError, match="does not exist"):
        pseudonyms.read_key()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "ab" * 31, "secret", "ab" * 16])
def test_f101_short_keys_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(StateError, match="32 random bytes are needed"):
        pseudonyms.read_key(_key_file(tmp_path, content))


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660])
def test_f101_keys_of_others_are_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(StateError, match="chmod 600"):
        pseudonyms.read_key(_key_file(tmp_path, mode=mode))


def test_f101_keys_in_the_output_or_in_git_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    with pytest.raises(StateError, match="inside the output"):
        pseudonyms.check_key_place(_key_file(out / "deep"), out)
    checkout = tmp_path / "checkout"
    (checkout / "config").mkdir(parents=True)
    subprocess.run(["git", "init", "--quiet", str(checkout)], check=True)
    with pytest.raises(StateError, match="inside the git checkout"):
        pseudonyms.check_key_place(_key_file(checkout / "config"), out)
    link = tmp_path / "link"
    link.symlink_to(checkout / "config" / "key")
    with pytest.raises(StateError, match="inside the git checkout"):
        pseudonyms.check_key_place(link, out)
    pseudonyms.check_key_place(_key_file(tmp_path), out)


def test_f101_keys_in_any_set_of_shards_are_refused(tmp_path: Path) -> None:
    """Of another output too, and below it; an index of somebody else's is none of our business."""
    shards, deep = tmp_path / "site-b", tmp_path / "site-b" / "deep"
    deep.mkdir(parents=True)
    (shards / "index.json").write_text('{"pages": []}')
    pseudonyms.check_key_place(_key_file(deep), tmp_path / "out")
    (shards / "index.json").write_text('{"__kind__": "wids-shard-index-v1", "ssl_retina": {"format": 1}}')
    for folder in (shards, deep):
        with pytest.raises(StateError, match="which holds shards"):
            pseudonyms.check_key_place(_key_file(folder), tmp_path / "out")


def test_f101_a_key_that_cannot_be_made_is_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    with pytest.raises(StateError, match="cannot be read or made: Not a directory"):
        pseudonyms.read_key()


def test_f101_the_fingerprint_tells_keys_apart_and_gives_nothing_away() -> None:
    other = KEY[::-1]
    assert pseudonyms.fingerprint(KEY) != pseudonyms.fingerprint(other)
    assert KEY.hex()[:8] not in pseudonyms.fingerprint(KEY)


@pytest.mark.parametrize("variant", ["12", "0012", "0012 ", " 12", "\uff11\uff12", "\u30000012", "12\n"])
def test_f102_spellings_of_one_number_are_one_patient(variant: str) -> None:
    assert pseudonyms.patient(KEY, variant) == pseudonyms.patient(KEY, "12")


@pytest.mark.parametrize("variant", ["ab  c", "AB C", " Ab\tC ", "\uff21b c"])
def test_f102_spellings_of_one_word_are_one_patient(variant: str) -> None:
    assert pseudonyms.patient(KEY, variant) == pseudonyms.patient(KEY, "ab c")


UNSEEN = ["\ufeff12", "12\u200b", "1\u200d2", "\u200e12\u200f", "1\u00ad2"]
DIGITS = ["\u0661\u0662", "\u06f1\u06f2", "\u0967\u0968", "\u0660\u0661\u0662"]


@pytest.mark.parametrize("variant", UNSEEN + DIGITS)
def test_f102_what_nobody_sees_and_digits_of_other_scripts_are_no_other_patient(variant: str) -> None:
    assert pseudonyms.patient(KEY, variant) == pseudonyms.patient(KEY, "12")
    assert pseudonyms.withdrawal_mark(KEY, variant) == pseudonyms.withdrawal_mark(KEY, "12")


@pytest.mark.parametrize("dash", "\u2010\u2011\u2012\u2013\u2014\u2212\uff0d\ufe63")
def test_f102_dashes_are_one_dash(dash: str) -> None:
    assert pseudonyms.patient(KEY, f"A{dash}1") == pseudonyms.patient(KEY, "a-1")
    assert pseudonyms.patient(KEY, f"A{dash}1") != pseudonyms.patient(KEY, "a1")


@pytest.mark.parametrize(
    ("written", "read", "changed"),
    [
        (["65", "65.0", "66.00", "", "P7"], ["65", "65", "66", "", "P7"], 2),
        (["65.0", "066.0"], ["65", "066"], 2),
        (["\ufeff65.0", "\u0666\u0665.\u0660"], ["65", "65"], 2),
        (["65", "65.0", "65.1"], ["65", "65.0", "65.1"], 0),
        (["1.2.0", "65.", ".0", "a.0"], ["1.2.0", "65.", ".0", "a.0"], 0),
        ([], [], 0),
    ],
)
def test_f102_whole_numbers_that_pandas_wrote_are_whole(
    written: list[str], read: list[str], changed: int
) -> None:
    assert pseudonyms.whole(written) == (read, changed)


@pytest.mark.parametrize("other", ["120", "1-2", "P12", "0", "1 2", "12.0", "1.2"])
def test_f102_other_ids_are_other_patients(other: str) -> None:
    assert pseudonyms.patient(KEY, other) != pseudonyms.patient(KEY, "12")


def test_zero_is_a_patient_of_its_own() -> None:
    """HYGD numbers its patients from 0."""
    assert pseudonyms.normalise("0") == pseudonyms.normalise("000") == "0"


def test_pseudonyms_hang_on_key_kind_and_site() -> None:
    made = {
        pseudonyms.patient(KEY, "12"),
        pseudonyms.patient(KEY[::-1], "12"),
        pseudonyms.patient(KEY, "12", "site"),
        pseudonyms.image(KEY, "12"),
        pseudonyms.name(KEY, "12"),
    }
    assert len(made) == 5
    assert all(len(one) == 26 and one.isalnum() and one.islower() for one in made)


def test_separators_cannot_be_smuggled() -> None:
    assert pseudonyms.patient(KEY, "b", "a") != pseudonyms.patient(KEY, "a\0b", "")


def test_names_are_bare_and_paths_are_not() -> None:
    assert pseudonyms.name(KEY, "train/A_1.JPG") == pseudonyms.name(KEY, "test/a_1.png")
    assert pseudonyms.image(KEY, "train/1.jpg") != pseudonyms.image(KEY, "test/1.jpg")
    assert pseudonyms.image(KEY, "e\u0301.jpg") == pseudonyms.image(KEY, "\u00e9.jpg")
    assert pseudonyms.image(KEY, os.fsdecode(b"\xff.jpg")) != pseudonyms.image(KEY, os.fsdecode(b"\xfe.jpg"))


@pytest.mark.parametrize("name", ["IMG_1.2", "1.2.840.113619.3.5", "scan v1.0", ".jpg", "x.csv"])
def test_only_the_suffix_of_a_photograph_is_one(name: str) -> None:
    assert pseudonyms.bare(f"a.b/{name}") == name.casefold()
    for suffix in ("jpg", "JPEG", "Tif", "dcm", "DICOM", "webp", "pgm"):
        assert pseudonyms.bare(f"a.b/{name}.{suffix}") == name.casefold()
        assert pseudonyms.name(KEY, f"{name}.{suffix}") == pseudonyms.name(KEY, name) or name == ".jpg"
    assert pseudonyms.name(KEY, name) != pseudonyms.name(KEY, name.rpartition(".")[0])
