"""`inspect`: damage by shard and sample, all at once and with exit code 4; foreign sets become readable."""

import json
from pathlib import Path

import factory
import pytest
import typer
from typer.testing import CliRunner, Result

from ssl_retina import shards
from ssl_retina.cli import inspect as verb
from ssl_retina.errors import InputError, ShardError, StateError


def _run(*arguments: object) -> Result:
    app = typer.Typer()
    verb.register(app)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _damage(folder: Path) -> list[str]:
    result = _run(folder, "--json")
    assert isinstance(result.exception, ShardError)
    assert result.exception.exit_code == 4
    damage = json.loads(result.stdout)["damage"]
    assert all(sentence in str(result.exception) for sentence in damage)
    return list(damage)


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_a_sound_set_is_described(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=65, shards=3)
    result = _run(tmp_path, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["damage"] == []
    assert (report["samples"], report["shards"], report["patients"]) == (65, 3, 16)
    assert report["bytes"] == sum(shard.filesize for shard in index.shards)
    assert report["sizes"] == {"64x64": 65}
    assert report["digest"] == index.digest
    for column, words in report["columns"].items():
        assert sum(words.values()) == 65, column
    assert report["columns"]["modality"] == {"fundus": 57, "oct": 8}
    shown = _run(tmp_path)
    assert shown.exit_code == 0
    for word in ("camera-a 33", "right 22", "fundus 57", "train 49", "64x64 65", "damage    none"):
        assert word in shown.stdout


def test_all_damage_is_named_at_once(tmp_path: Path) -> None:
    """F40-F44 in one set: every shard is hurt in another way, each sample is named."""
    index = factory.make_shards(tmp_path, samples=60, shards=6)
    table = shards.read_positions(index)
    names = [shard.url for shard in index.shards]
    _flip(tmp_path / names[0], int(table["image_offset"][2]) + 700)
    cut = int(table["image_offset"][17]) - 512
    (tmp_path / names[1]).write_bytes((tmp_path / names[1]).read_bytes()[:cut])
    (tmp_path / names[2]).unlink()
    (tmp_path / names[3]).write_bytes(b"")
    _flip(tmp_path / names[4], int(table["json_offset"][45]))
    (tmp_path / "other.tar").write_bytes(b"x")
    damage = _damage(tmp_path)
    for name in [*names[:5], "other.tar"]:
        assert any(sentence.startswith(name) for sentence in damage), name
    assert not any(sentence.startswith(names[5]) for sentence in damage)
    of_samples = {number: [s for s in damage if factory.key(number) in s] for number in range(60)}
    assert {number for number, found in of_samples.items() if found} == {2, 17, 18, 19, 45}
    assert "CRC-32" in of_samples[2][0]
    assert "10 samples are lost" in next(s for s in damage if s.startswith(names[2]))
    assert any(s.startswith(names[1]) and "cut" in s for s in damage)


def test_f41_a_damaged_header_is_found_though_every_sample_reads(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=20, shards=1)
    _flip(tmp_path / index.shards[0].url, int(shards.read_positions(index)["image_offset"][5]) - 512 + 150)
    damage = _damage(tmp_path)
    assert len(damage) == 2
    assert "SHA-256" in damage[0]
    assert "damaged: its members end" in damage[1]


def test_images_that_do_not_decode_are_found_though_every_hash_fits(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    parts = [("a.jpg", image), ("b.jpg", image[:-300]), ("c.jpg", b"<html>"), ("d.png", image)]
    factory.write_tar(tmp_path / "set-0.tar", parts)
    written = _run(tmp_path, "--write-index", "--json")
    assert isinstance(written.exception, ShardError)
    damage = json.loads(written.stdout)["damage"]
    assert len(damage) == 3
    for key, sentence in zip("bcd", damage, strict=True):
        assert sentence.startswith(f"set-0.tar: the image of sample {key} cannot be decoded")


def test_facts_that_contradict_the_image(tmp_path: Path) -> None:
    image, (name, record) = factory.sample_parts(0)
    wrong = json.dumps(json.loads(record) | {"width": 99}).encode()
    factory.write_tar(tmp_path / "set-0.tar", [image, (name, wrong)])
    result = _run(tmp_path, "--write-index", "--json")
    (sentence,) = json.loads(result.stdout)["damage"]
    assert sentence.endswith("says width 99, found 64")


def test_a_table_of_another_set(tmp_path: Path) -> None:
    factory.make_shards(tmp_path / "a", samples=20)
    factory.make_shards(tmp_path / "b", samples=20, seed=1)
    name = shards.POSITIONS_NAME
    (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
    (sentence,) = _damage(tmp_path / "a")
    assert sentence.startswith(name)


def test_write_index_makes_a_foreign_set_readable(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    parts = [("x/IMG_1.jpeg", image), ("x/IMG_1.cls", b"1"), ("x/IMG_2.jpeg", image)]
    factory.write_tar(tmp_path / "train-0.tar", parts)
    before = _run(tmp_path)
    assert isinstance(before.exception, ShardError)
    assert "--write-index" in str(before.exception)
    result = _run(tmp_path, "--write-index", "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["samples"], report["patients"], report["ignored"]) == (2, 0, {"cls": 1})
    assert shards.Reader(shards.read_index(tmp_path)).sample(1).image == image
    assert "IMG" not in (tmp_path / shards.INDEX_NAME).read_text()


def test_write_index_overwrites_no_index_that_fits(tmp_path: Path) -> None:
    factory.make_shards(tmp_path, samples=20)
    before = (tmp_path / shards.INDEX_NAME).read_bytes()
    result = _run(tmp_path, "--write-index")
    assert isinstance(result.exception, StateError)
    assert result.exception.exit_code == 4
    assert (tmp_path / shards.INDEX_NAME).read_bytes() == before


def test_write_index_mends_an_index_that_does_not_fit_and_keeps_its_facts(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=20, shards=2)
    (tmp_path / index.shards[1].url).unlink()
    result = _run(tmp_path, "--write-index", "--json")
    assert result.exit_code == 0, result.output
    mended = shards.read_index(tmp_path)
    assert mended.samples == 10
    assert mended.facts["key_fingerprint"] == index.facts["key_fingerprint"]
    (tmp_path / shards.INDEX_NAME).write_text('{"other": "index"}')
    assert _run(tmp_path, "--write-index").exit_code == 0
    assert "key_fingerprint" not in shards.read_index(tmp_path).facts


def test_f46_one_writer(tmp_path: Path) -> None:
    from ssl_retina import files

    factory.write_tar(tmp_path / "a.tar", factory.sample_parts(0))
    with files.lock(tmp_path):
        result = _run(tmp_path, "--write-index")
    assert isinstance(result.exception, StateError)
    assert "being written" in str(result.exception)


def test_f45_an_unfinished_set_gets_no_index(tmp_path: Path) -> None:
    factory.write_tar(tmp_path / "a.tar", factory.sample_parts(0))
    (tmp_path / ".work").mkdir()
    result = _run(tmp_path, "--write-index")
    assert isinstance(result.exception, StateError)
    assert "unfinished" in str(result.exception)


def test_nothing_to_inspect(tmp_path: Path) -> None:
    assert _run(tmp_path / "absent").exit_code == 2
    empty = _run(tmp_path)
    assert isinstance(empty.exception, ShardError)
    with pytest.raises(ShardError, match="holds no"):
        raise _run(tmp_path, "--write-index").exception or InputError("no error")


def test_inspection_never_imports_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    factory.make_shards(tmp_path, samples=4)
    code = (
        "import sys; from pathlib import Path; from ssl_retina.data import inspection;"
        f"inspection.inspect(Path({str(tmp_path)!r}), advance=lambda n: None); print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_a_foreign_set_with_numbers_for_patients_shows_its_groups(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    ids = (b"7", b"7.0", b"8")
    parts = [
        part
        for at, number in enumerate(ids)
        for part in ((f"k{at}.jpg", image), (f"k{at}.json", b'{"patient_id": ' + number + b"}"))
    ]
    factory.write_tar(tmp_path / "a.tar", parts)
    result = _run(tmp_path, "--write-index")
    assert result.exit_code == 0, result.output
    assert "patients  unknown, 2 groups" in result.stdout


def test_without_patients_each_photograph_is_its_own_group(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    parts = [part for at in range(3) for part in ((f"k{at}.jpg", image), (f"k{at}.json", b"{}"))]
    factory.write_tar(tmp_path / "a.tar", parts)
    result = _run(tmp_path, "--write-index")
    assert result.exit_code == 0, result.output
    assert "patients  unknown: each photograph its own group" in result.stdout
    assert json.loads(_run(tmp_path, "--json").stdout)["groups"] == 3


def test_photographs_of_nobody_are_groups_beside_the_patients(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    records = (b'{"patient": "p"}', b'{"patient": "p"}', b'{"patient": null}')
    parts = [
        part for at, record in enumerate(records) for part in ((f"k{at}.jpg", image), (f"k{at}.json", record))
    ]
    factory.write_tar(tmp_path / "a.tar", parts)
    shown = _run(tmp_path, "--write-index").stdout
    assert "patients  1, 2 groups that share no photograph (photographs without a patient count too)" in shown


def test_nothing_of_a_foreign_set_reaches_the_terminal_unescaped(tmp_path: Path) -> None:
    image = factory.encoded(factory.pixels(0))
    record = rb'{"patient": "\ud800", "device": "\u001b[31m", "eye": "\ud800", "split": "\u001b[2J"}'
    parts = [("k.jpg", image), ("k.json", record), ("k.\x1b[31mx", b"1"), ("k.\udcff", b"1")]
    factory.write_tar(tmp_path / "a.tar", parts)
    result = _run(tmp_path, "--write-index")
    assert result.exit_code == 0, result.output
    assert "\x1b" not in result.output
    assert r".\x1b[31mx 1" in result.stdout
    assert json.loads(_run(tmp_path, "--json").stdout)["ignored"] == {r"\udcff": 1, r"\x1b[31mx": 1}


def test_facts_about_samples_go_when_there_are_fewer_samples(tmp_path: Path) -> None:
    from ssl_retina import shard_index

    index = factory.make_shards(tmp_path, samples=20, shards=2)
    facts = {**factory.index_facts(), "totals": {"written": 20}, "made_from": "x"}
    index = shard_index.write(tmp_path, facts)
    (tmp_path / shards.POSITIONS_NAME).unlink()
    assert _run(tmp_path, "--write-index").exit_code == 0
    assert shards.read_index(tmp_path).facts["totals"] == {"written": 20}
    (tmp_path / index.shards[1].url).unlink()
    assert _run(tmp_path, "--write-index").exit_code == 0
    left = shards.read_index(tmp_path).facts
    assert not {"totals", "made_from"} & set(left)
    assert left["key_fingerprint"] == index.facts["key_fingerprint"]


@pytest.mark.parametrize("number", ["EROFS", "ENOSPC", "EACCES", "EIO"])
def test_an_index_that_cannot_be_written_is_no_traceback(
    number: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno
    import os

    from ssl_retina import files
    from ssl_retina.data import inspection

    def refuse(*arguments: object) -> None:
        code = getattr(errno, number)
        raise OSError(code, os.strerror(code))

    factory.write_tar(tmp_path / "a.tar", factory.sample_parts(0))
    monkeypatch.setattr(files, "write_bytes", refuse)
    with pytest.raises(InputError, match="no index was written to"):
        inspection.write_index(tmp_path, advance=lambda samples: None)
