"""ZIP and tar read in place: the same samples as from folders, nothing extracted, every fault a line."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from pathlib import Path

import factory
import pytest
from photographs import contents, save, shard

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import containers, stage
from ssl_retina.archive.containers import tars, zips
from ssl_retina.archive.found import Found
from ssl_retina.archive.rejection import Rejected
from ssl_retina.archive.scan import scan
from ssl_retina.errors import InputError

KINDS = ("zip", "tar", "tar.gz", "tgz")


def photographs(count: int = 3) -> dict[str, bytes]:
    return {f"in/ä{number}.png": factory.encoded(factory.pixels(number), "png") for number in range(count)}


def write(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w" if path.suffix == ".tar" else "w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


def read_all(source: Path) -> dict[str, bytes | str]:
    """Path -> bytes, or the reason why there are none."""
    reader = containers.Reader(source)
    found: dict[str, bytes | str] = {}
    for one in scan(source):
        try:
            found[one.path] = one.reason or reader.content(one, one.member)
        except Rejected as refusal:
            found[one.path] = refusal.reason
    reader.close()
    return found


def names(path: Path) -> dict[str, str]:
    return {one.path.replace("\0", "!"): one.reason for one in scan(path)}


def _keys(out: Path) -> dict[str, str]:
    lines = map(json.loads, (out / shards.LEDGER_NAME).read_text().splitlines())
    return {line["key"]: line["reason"] for line in lines}


@pytest.mark.parametrize("kind", KINDS)
def test_a_container_as_the_source_gives_what_its_folder_gives(tmp_path: Path, kind: str) -> None:
    members = photographs(4)
    for name, content in members.items():
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(content)
    shard(tmp_path, tmp_path / "folder", "a")
    shard(tmp_path, write(tmp_path / f"archive.{kind}", members), "b", processes=2)
    made, same = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert made["retina-000000.tar"] == same["retina-000000.tar"]
    assert made["ledger.jsonl"] == same["ledger.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["a", "b", "folder"]


def test_containers_in_a_folder_stand_in_their_place(tmp_path: Path) -> None:
    source = tmp_path / "archive"
    members = photographs(6)
    for number, kind in enumerate(KINDS):
        write(source / f"{number}.{kind}", dict(list(members.items())[number : number + 2]))
    save(source / "0.png", 7)
    save(source / "z.png", 8)
    paths = [one.path for one in scan(source)]
    assert paths[:3] == ["0.png", "0.zip/in/ä0.png", "0.zip/in/ä1.png"]
    assert paths[-1] == "z.png"
    totals = shard(tmp_path, source, pattern="ä{patient}", processes=2)
    assert (totals.scanned, totals.written, totals.duplicates, totals.rejected) == (10, 7, 3, 0)
    assert pseudonyms.image(factory.KEY, "3.tgz/in/ä4.png") in _keys(tmp_path / "out")
    assert totals.remarks["names_unlike_pattern"] == 2
    assert sorted(path.name for path in source.iterdir()) == [
        *("0.png", "0.zip", "1.tar", "2.tar.gz", "3.tgz", "z.png")
    ]


def test_a_stream_is_unpacked_once_by_one_worker(tmp_path: Path) -> None:
    source = write(tmp_path / "archive.tgz", {f"{n}.txt": b"x" for n in range(40)})
    found = [*scan(source), Found("z.png", 1)]
    planned = stage.chunks(found, {})
    assert [len(chunk.rows) for chunk in planned] == [8, 8, 8, 8, 8, 1]
    assert [len(task) for task in stage._tasks(planned)] == [5, 1]
    assert [len(task) for task in stage._tasks(planned[3:])] == [2, 1]


def test_members_of_a_stream_are_read_in_any_order(tmp_path: Path) -> None:
    members = photographs(3)
    source = write(tmp_path / "archive.tgz", members)
    reader = containers.Reader(source)
    rows = list(scan(source))
    for row in (rows[2], rows[0], rows[1]):
        assert reader.content(row, row.member) == members[row.path]
    reader.close()


def _add(archive: tarfile.TarFile, name: str, **changes: object) -> None:
    member = tarfile.TarInfo(name)
    for field, value in changes.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(bytes(member.size)))


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_f51_tar_members_that_are_no_plain_files(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"archive.{kind}"
    with tarfile.open(path, "w" if kind == "tar" else "w:gz") as archive:
        for name, kind_of in {
            "folder": b"5",
            "link": b"2",
            "hard": b"1",
            "device": b"3",
            "pipe": b"6",
        }.items():
            _add(archive, name, type=kind_of, linkname="/etc/passwd")
        for name in ("../../up.png", "/etc/abs.png", "a/../b.png", "twice.png", "twice.png", "inner.ZIP"):
            _add(archive, name, size=3)
        for name in ("n" * 300 + ".png", "last.7z"):
            _add(archive, name, size=3)
    reasons = names(path)
    assert reasons == {
        **{"link": "not_regular", "hard": "not_regular", "device": "not_regular", "pipe": "not_regular"},
        **dict.fromkeys(("../../up.png", "/etc/abs.png", "a/../b.png"), "unsafe_name"),
        **{"twice.png": "", "twice.png!8": "same_name", "inner.ZIP": "nested_container"},
        **{"n" * 300 + ".png": "", "last.7z": "nested_container"},
    }


def test_zip_members_that_are_no_plain_files(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link.png")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("folder/", "")
        for name in ("../up.png", "/abs.png", "C:/x.png", "ok.png", "inner.tar.gz", "back\\slash.png"):
            archive.writestr(name, name)
        archive.writestr("packed.png", b"x" * 100, zipfile.ZIP_BZIP2)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("ok.png", "again")
    content = bytearray(path.read_bytes())
    assert names(path) == {
        **{"link.png": "not_regular", "../up.png": "unsafe_name", "/abs.png": "unsafe_name"},
        **{"C:/x.png": "unsafe_name", "ok.png": "", "inner.tar.gz": "nested_container"},
        **{"back/slash.png": "", "packed.png": "no_decoder:zip-12", "ok.png!8": "same_name"},
    }
    central = content.index(b"PK\x01\x02")
    content[central + 8] |= 1  # the first member
    path.write_bytes(content)
    assert names(path)["link.png"] == "encrypted"


def test_names_in_any_code_page_are_rows(tmp_path: Path) -> None:
    """F17: UTF-8 without its flag, no UTF-8 with the flag, the code page of old."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("a_u.png", "b_u.png", "c_u.png"):
            archive.writestr(name, name)
    content = path.read_bytes()
    content = content.replace(b"a_u", b"\xc3\xa4u").replace(b"b_u", b"b\xffu").replace(b"c_u", b"c\x81u")
    at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    flagged = bytearray(content)
    flagged[at + 9] |= 8
    path.write_bytes(flagged)
    assert list(read_all(path)) == ["äu.png", "b\udcffu.png", "cüu.png"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.8, 0.97])
def test_a_cut_container_keeps_its_whole_members(tmp_path: Path, kind: str, share: float) -> None:
    members = photographs(5)
    path = write(tmp_path / f"archive.{kind}", members)
    content = path.read_bytes().rstrip(b"\0")  # without the padding of a tar
    path.write_bytes(content[: int(len(content) * share)])
    found = read_all(path)
    own = found.pop(f"{path.name}\0")
    assert own == ("container_damaged" if kind == "zip" else "truncated")
    whole = {name: content for name, content in found.items() if content == members[name]}
    assert len(whole) >= len(found) - 1
    assert set(found.values()) - set(whole.values()) <= {"truncated"}


def test_a_tar_cut_between_two_members_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    path = write(tmp_path / "archive.tar", {"a.png": b"x" * 100, "b.png": b"y" * 100})
    path.write_bytes(path.read_bytes()[:1024])
    assert names(path) == {"a.png": "", "archive.tar!": "truncated"}


@pytest.mark.parametrize("kind", KINDS)
def test_empty_and_wrong_containers_are_one_line(tmp_path: Path, kind: str) -> None:
    empty = write(tmp_path / f"a.{kind}", {})
    assert set(names(empty).values()) == {"empty_container"}
    (tmp_path / f"b.{kind}").write_text("<html>" * 200)
    assert set(names(tmp_path / f"b.{kind}").values()) == {"container_damaged"}
    (tmp_path / "c.rar").write_bytes(b"Rar!")
    assert names(tmp_path)["c.rar!"] == "no_reader:container"


@pytest.mark.parametrize("lie", ["size", "crc", "packed", "method"])
def test_a_zip_member_that_lies_is_damaged_and_the_others_are_read(tmp_path: Path, lie: str) -> None:
    members = photographs(3)
    path = write(tmp_path / "archive.zip", members)
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    at, form = {"size": (24, "<I"), "crc": (16, "<I"), "packed": (20, "<I"), "method": (10, "<H")}[lie]
    (value,) = struct.unpack_from(form, content, second + at)
    struct.pack_into(form, content, second + at, 0 if lie == "method" else value - 7)
    path.write_bytes(content)
    found = list(read_all(path).values())
    assert found[::2] == list(members.values())[::2]
    assert found[1] in ("member_damaged", "truncated")


def test_a_zip_bomb_is_stopped_at_the_size_it_claims(tmp_path: Path) -> None:
    """300 MB of zeros that call themselves 1 kB, 2 GiB from the header, and members that overlap."""
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.png", bytes(300_000_000))
        archive.writestr("large.png", b"x")
        archive.writestr("over.png", b"x")
    content = bytearray(path.read_bytes())
    places = [at for at in range(len(content)) if content[at : at + 4] == b"PK\x01\x02"]
    struct.pack_into("<I", content, places[0] + 24, 1000)
    struct.pack_into("<I", content, places[1] + 24, 2**31)
    struct.pack_into("<I", content, places[2] + 20, 5000)
    path.write_bytes(content)
    code = (
        "import resource, sys; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2]); from test_containers import read_all\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "found = read_all(Path(sys.argv[1]))\n"
        "print(*found.values(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(path), str(Path(__file__).parent)]
    paths = os.pathsep.join([*sys.path])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": paths})
    *reasons, kibibytes = done.stdout.split()
    assert reasons == ["member_damaged", "too_large", "member_damaged"]
    assert int(kibibytes) < 50_000


def _padded(path: Path, padding: int) -> Path:
    """A ZIP whose one member states 10 bytes and has `padding` bytes (a hole) behind their packing."""
    content = zlib.compress(b"x" * 10, wbits=-zlib.MAX_WBITS)
    packed, crc, large = len(content) + padding, zlib.crc32(b"x" * 10), 2**32 - 1
    local = zips.LOCAL.pack(b"PK\x03\x04", 45, 0, 8, 0, 0, crc, large, 10, 5, 0) + b"a.png"
    extra = struct.pack("<2HQ", 1, 8, packed)
    central = zips.CENTRAL.pack(
        *(b"PK\x01\x02", 45, 45, 0, 8, 0, 0, crc, large, 10, 5, len(extra)), *(0, 0, 0, 0, 0)
    )
    central += b"a.png" + extra
    with path.open("wb") as stream:
        stream.write(local + content)
        stream.truncate(begin := stream.tell() + padding)
        stream.seek(begin)
        stream.write(central + zips.END64.pack(*(b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1), len(central), begin))
        stream.write(zips.END64_LOCATOR.pack(b"PK\x06\x07", 0, begin + len(central), 1))
        stream.write(zips.END.pack(*(b"PK\x05\x06", 0, 0, 1, 1, large, large, 0)))
    return path


def test_a_zip_member_that_packs_more_than_a_member_may_have_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six gibibytes of a hole behind ten bytes: they were read whole before, into memory."""
    path = _padded(tmp_path / "t.zip", 6 << 30)
    assert [row.reason for row in scan(path)] == ["too_large"]
    monkeypatch.setattr(containers, "MEMBER_LIMIT", 2**40)
    (row,) = scan(path)
    monkeypatch.setattr(containers, "MEMBER_LIMIT", 2**30)
    assert row.member is not None
    with pytest.raises(Rejected, match="too_large"):
        containers.Reader(path).content(row, row.member)


def test_no_more_of_a_zip_member_is_read_than_it_needs(tmp_path: Path) -> None:
    path = _padded(tmp_path / "t.zip", 1 << 29)
    (row,) = scan(path)
    assert row.member is not None
    read: list[int] = []

    class Counting(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            assert content is not None
            read.append(len(content))
            return content

    with Counting(path) as stream:
        assert zips.read(stream, row.member, row.size) == b"x" * 10  # type: ignore[arg-type]
    assert sum(read) < 2 * zips.BLOCK


def test_a_tar_bomb_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of zeros, and a name of 4 GiB."""
    monkeypatch.setattr(tars, "FREE_BYTES", 1 << 20)
    path = write(tmp_path / "archive.tgz", {"a.png": b"x", "bomb.png": bytes(40_000_000), "b.png": b"x"})
    assert names(path) == {"a.png": "", "bomb.png": "", "archive.tgz!": "too_large"}
    long = tarfile.TarInfo("x")
    long.type, long.size = b"L", 2**32
    plain = tmp_path / "long.tar"
    plain.write_bytes(long.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert names(plain) == {"long.tar!": "container_damaged"}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_gives_rows_and_rejections_and_nothing_else(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / f"archive.{kind}", {f"{n}.txt": bytes([n]) * 700 for n in range(4)})
    whole = path.read_bytes()
    chance = factory.np.random.default_rng(5)
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(int(chance.choice([1, 3, 20]))):
            damaged[int(chance.integers(len(damaged)))] = int(chance.integers(256))
        path.write_bytes(damaged)
        for name, content in read_all(path).items():
            assert isinstance(content, str) or len(content) < 10_000, name


def test_a_container_that_is_changed_meanwhile_is_io(tmp_path: Path) -> None:
    """F16: its rows would point at other bytes."""
    path = write(tmp_path / "archive.tar", photographs(2))
    rows = list(scan(path))
    os.utime(path, ns=(1, 1))
    with pytest.raises(Rejected, match="io: the container was changed"):
        containers.Reader(path).content(rows[0], rows[0].member)


def test_zip64_and_a_zip_behind_other_bytes(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.png", "w", force_zip64=True) as stream:
        stream.write(b"abc")
    path.write_bytes(b"#!/bin/sh\n" * 10 + path.read_bytes())
    assert read_all(path) == {"a.png": b"abc"}
    fields = zips.CENTRAL.pack(
        *(b"PK\x01\x02", 45, 45, 0, 0, 0, 0, zlib.crc32(b"abc"), 2**32 - 1, 2**32 - 1),
        *(5, 28, 0, 0, 0, 0, 2**32 - 1),
    )
    extra = struct.pack("<2H3Q", 1, 24, 3, 3, 7)
    entry, length = zips._entry(fields + b"a.png" + extra, 0)
    assert (entry.size, entry.packed, entry.offset, length) == (3, 3, 7, 46 + 5 + 28)


def test_the_acceptance_zip_of_originals(tmp_path: Path, real_data: Path) -> None:
    with zipfile.ZipFile(tmp_path / "originals.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((real_data / "originals").iterdir())[:2]:
            archive.write(path, path.name)
    totals = shard(tmp_path, tmp_path / "originals.zip", size=64)
    assert totals.written >= 1
    assert totals.scanned == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_inside_a_container(tmp_path: Path, kind: str) -> None:
    members = photographs(2) | {"labels.csv": "file,patient\nin/ä0.png,p0\nin/ä1.png,p1\n".encode()}
    source = write(tmp_path / f"archive.{kind}", members)
    totals = shard(tmp_path, source, table=source / "labels.csv")
    assert (totals.written, totals.patients, dict(totals.reasons)) == (2, 2, {"not_an_image": 1})
    with pytest.raises(InputError, match="holds no table other.csv"):
        shard(tmp_path, source, table=source / "other.csv")
