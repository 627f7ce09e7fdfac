"""Tars -> index: the same bytes for the same tars, and no damaged or hostile tar gets an index."""

import io
import json
import tarfile
from pathlib import Path

import factory
import numpy as np
import pytest

from ssl_retina import files, positions, shard_index, shards
from ssl_retina.data import selection
from ssl_retina.errors import ShardError

JPEG = factory.encoded(factory.pixels(0))


def _pairs(*keys: str) -> list[tuple[str, bytes]]:
    return [part for key in keys for part in ((f"{key}.jpg", JPEG), (f"{key}.json", b'{"eye": "left"}'))]


def _set(folder: Path, **tars: list[tuple[str, bytes]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, parts in tars.items():
        factory.write_tar(folder / f"{name}.tar", parts)
    return folder


def _member_ends(path: Path) -> list[int]:
    with tarfile.open(path) as archive:
        return [info.offset_data + -(-info.size // 512) * 512 for info in archive]


def _cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def _flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


def test_same_tars_and_facts_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        factory.make_shards(tmp_path / name, samples=21, shards=3)
    for name in (shards.INDEX_NAME, shards.POSITIONS_NAME):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_index_is_what_wids_reads(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=21, shards=3)
    written = json.loads((tmp_path / shards.INDEX_NAME).read_text())
    assert (written["__kind__"], written["wids_version"]) == ("wids-shard-index-v1", 1)
    assert [one["nsamples"] for one in written["shardlist"]] == [7, 7, 7]
    assert written["name"] == "factory"
    assert index.facts["size"] == 64
    assert set(index.columns) == set(shards.COLUMNS)


def test_table_leads_to_every_sample(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=21, shards=2)
    reader = shards.Reader(index)
    for number in range(21):
        sample = reader.sample(number)
        assert sample.key == factory.key(number) == sample.facts["key"]
        assert sample.image == factory.sample_parts(number)[0][1]
        row = reader.positions[number]
        assert index.columns["eye"][row["eye"]] == sample.facts["eye"]
        assert int(row["group"]) == shards.group_number(sample.facts["group"])


def test_no_differences_in_a_sound_set(tmp_path: Path) -> None:
    assert shard_index.verify(factory.make_shards(tmp_path), hashes=True) == []


def test_f40_shard_cut_at_member_boundary(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    path = tmp_path / index.shards[0].url
    ends = _member_ends(path)
    for end in (ends[9], ends[10], ends[-1], ends[-1] + 512):
        _cut(path, end)
        with pytest.raises(ShardError, match=r"factory-000000.tar is cut"):
            shard_index.members(path)
        (wrong,) = shard_index.verify(index, hashes=False)
        assert wrong.startswith(f"{path.name} has {end} bytes")
        factory.make_shards(tmp_path)


def test_f41_cut_or_flipped_header(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    path = tmp_path / index.shards[0].url
    header = _member_ends(path)[9]
    _flip(path, header + 150)  # the checksum of a header in the middle: tarfile and webdataset end silently
    with tarfile.open(path) as archive:
        assert len(archive.getmembers()) == 10
    with pytest.raises(ShardError, match="damaged"):
        shard_index.members(path)
    assert shard_index.verify(index, hashes=False) == []  # same size: this is what the hashes are for
    assert "SHA-256" in shard_index.verify(index, hashes=True)[0]
    _cut(path, header + 100)
    with pytest.raises(ShardError, match=r"factory-000000.tar"):
        shard_index.members(path)


def test_f42_shard_cut_in_a_payload(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    path = tmp_path / index.shards[1].url
    for end in (_member_ends(path)[10] - 700, _member_ends(path)[-1] - 700):
        _cut(path, end)
        with pytest.raises(ShardError, match=r"factory-000001.tar"):
            shard_index.members(path)
        assert len(shard_index.verify(index, hashes=False)) == 1


def test_f43_flipped_payload_bit(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path)
    path = tmp_path / index.shards[0].url
    _flip(path, shard_index.members(path)[3].image_offset + 900)
    assert shard_index.verify(index, hashes=False) == []
    (wrong,) = shard_index.verify(index, hashes=True)
    assert wrong.startswith(f"{path.name} has other bytes")
    reader = shards.Reader(index)
    with pytest.raises(ShardError, match=rf"{path.name}.*{factory.key(3)}.*CRC"):
        reader.image(3)
    assert reader.image(4)


def test_f44_missing_empty_extra_and_foreign_shards_are_all_named_at_once(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path, samples=40, shards=4)
    (tmp_path / index.shards[0].url).unlink()
    (tmp_path / index.shards[1].url).write_bytes(b"")
    factory.make_shards(tmp_path / "other", samples=40, shards=4, size=80)
    (tmp_path / index.shards[2].url).write_bytes((tmp_path / "other" / index.shards[2].url).read_bytes())
    _set(tmp_path, extra=_pairs("a"))
    (tmp_path / shards.POSITIONS_NAME).write_bytes((tmp_path / "other" / shards.POSITIONS_NAME).read_bytes())
    wrong = shard_index.verify(index, hashes=False)
    names = [
        index.shards[0].url,
        index.shards[1].url,
        index.shards[2].url,
        "extra.tar",
        shards.POSITIONS_NAME,
    ]
    assert [sentence.split()[0] for sentence in wrong] == names
    assert "missing" in wrong[0]
    assert "0 bytes" in wrong[1]


def test_f48_f49_duplicate_keys(tmp_path: Path) -> None:
    _set(tmp_path / "one", a=_pairs("x", "y", "x"))
    with pytest.raises(ShardError, match=r"a.tar: x comes twice"):
        shard_index.write(tmp_path / "one", {})
    _set(tmp_path / "two", a=_pairs("x", "y"), b=_pairs("z", "x"))
    with pytest.raises(ShardError, match=r"b.tar: sample x is in a.tar already"):
        shard_index.write(tmp_path / "two", {})
    _set(tmp_path / "dots", a=[("1.2.840.1.jpg", JPEG), ("1.2.840.2.jpg", JPEG)])
    with pytest.raises(ShardError, match="0 images"):
        shard_index.write(tmp_path / "dots", {})
    for folder in ("one", "two", "dots"):
        left = {path.name for path in (tmp_path / folder).iterdir()}
        assert not left & {shards.INDEX_NAME, shards.POSITIONS_NAME}
        assert not any(name.startswith(".") for name in left)


def test_f50_interleaved_members(tmp_path: Path) -> None:
    parts = _pairs("a", "b")
    _set(tmp_path, a=[parts[0], parts[2], parts[1], parts[3]])
    with pytest.raises(ShardError, match="not adjacent"):
        shard_index.members(tmp_path / "a.tar")


@pytest.mark.parametrize("name", ["../../x.jpg", "/etc/x.jpg", "a/../../x.jpg", "a\\..\\x.jpg"])
def test_f51_names_that_lead_out(tmp_path: Path, name: str) -> None:
    _set(tmp_path, a=[*_pairs("k"), (name, JPEG)])
    with pytest.raises(ShardError, match=r"a.tar: member 2 has a name that leads out"):
        shard_index.members(tmp_path / "a.tar")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_f51_links_and_devices(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in _pairs("k"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        info = tarfile.TarInfo("l.jpg")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(ShardError, match="no regular file"):
        shard_index.members(tmp_path / "a.tar")


def test_f51_a_shard_that_is_a_link_out_of_the_folder(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path / "set")
    path = tmp_path / "set" / index.shards[0].url
    path.rename(tmp_path / "elsewhere.tar")
    path.symlink_to(tmp_path / "elsewhere.tar")
    (wrong,) = shard_index.verify(index, hashes=True)
    assert "link out of its folder" in wrong


def test_f52_nothing_but_images_and_small_json_is_read(tmp_path: Path) -> None:
    bomb = [
        ("k.jpg", JPEG),
        ("k.pkl", b"cos\nsystem\n"),
        ("k.pth", b"x"),
        ("k.json.gz", b"x"),
        ("k.pyd", b"x"),
    ]
    index = shard_index.write(_set(tmp_path / "a", a=bomb), {})
    (member,) = shard_index.members(tmp_path / "a" / "a.tar")
    assert sorted(member.others) == ["json.gz", "pkl", "pth", "pyd"]
    assert shards.Reader(index).sample(0).facts == {}
    big = [("k.jpg", JPEG), ("k.json", b" " * (shards.JSON_LIMIT + 1))]
    with pytest.raises(ShardError, match=r"a.tar: sample k has a JSON of 65537 bytes"):
        shard_index.write(_set(tmp_path / "b", a=big), {})
    for content in (b"[" * 60_000, b"{nan", b"[1]", b"\xff\xfe"):
        with pytest.raises(ShardError, match="JSON"):
            shard_index.write(_set(tmp_path / "c", a=[("k.jpg", JPEG), ("k.json", content)]), {})


def test_a_sample_has_one_image(tmp_path: Path) -> None:
    for parts in ([("k.json", b"{}")], [("k.jpg", JPEG), ("k.png", JPEG)], [("k.jpg", b"")]):
        with pytest.raises(ShardError, match="sample k has"):
            shard_index.members(_set(tmp_path, a=parts) / "a.tar")


def test_foreign_sets_are_readable(tmp_path: Path) -> None:
    """Folders, capitals, jpeg, no JSON or other people's, webdataset's own members."""
    parts = [
        ("__header__.txt", b"x"),
        ("./train/IMG 01.JPEG", JPEG),
        ("./train/IMG 01.cls", b"3"),
        ("train/IMG 02.jpeg", JPEG),
        ("train/IMG 02.json", b'{"patient_id": 17, "device": {"a": 1}, "eye": "OD", "split": null}'),
        ("0003.png", factory.encoded(factory.pixels(1), "png")),
        ("0003.json", b'{"patient_id": 17, "label": 3}'),
    ]
    index = shard_index.write(_set(tmp_path, train=parts), {})
    reader = shards.Reader(index)
    assert [reader.key(number) for number in (0, 1)] == [
        shards.key_of("train/IMG 01"),
        shards.key_of("train/IMG 02"),
    ]
    assert all(shards.KEY_PATTERN.fullmatch(reader.key(number)) for number in range(3))
    assert reader.key(2) == "0003"
    assert [reader.suffix(number) for number in range(3)] == ["jpg", "jpg", "png"]
    assert index.columns["eye"] == ("unknown", "OD")
    assert index.columns["device"] == ("unknown",)
    groups = reader.positions["group"]
    assert groups[1] == groups[2] != groups[0]
    assert (groups >= 0).all()
    assert shard_index.verify(index, hashes=True) == []


def test_table_header_has_one_length(tmp_path: Path) -> None:
    """The header is written before and after the rows: it must not grow with their number."""
    index = factory.make_shards(tmp_path, samples=3, shards=1)
    raw = (tmp_path / shards.POSITIONS_NAME).read_bytes()
    assert len(raw) % shards.POSITION.itemsize == (len(raw) - 3 * shards.POSITION.itemsize) % (
        shards.POSITION.itemsize
    )
    table = np.load(tmp_path / shards.POSITIONS_NAME, allow_pickle=False)
    assert table.dtype == shards.POSITION
    assert len(table) == index.samples == 3


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="holds no"):
        shard_index.write(tmp_path, {})


def _records(folder: Path, *records: str) -> shards.Index:
    parts = [
        part
        for at, record in enumerate(records)
        for part in ((f"k{at}.jpg", JPEG), (f"k{at}.json", record.encode()))
    ]
    return shard_index.write(_set(folder, a=parts), {})


def test_whole_numbers_are_one_patient_however_they_are_written(tmp_path: Path) -> None:
    """pandas writes 12.0 where another row has no patient, and NaN there."""
    spellings = ('{"patient": 12.0}', '{"patient_id": 12}', '{"patient": "12"}', '{"patient": 1.2e1}')
    none = ('{"patient": NaN}', '{"patient": null}')
    groups = shards.read_positions(_records(tmp_path, *spellings, *none))["group"]
    assert len(set(groups[:4].tolist())) == 1
    assert len(set(groups.tolist())) == 3


@pytest.mark.parametrize("value", ["12.5", "[12]", '{"id": 12}', "true", "Infinity"])
def test_a_patient_that_is_no_id_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ShardError, match=r"a.tar: sample k1 has a patient of type"):
        _records(tmp_path, "{}", f'{{"patient": {value}}}')


@pytest.mark.parametrize("text", [r"\ud800", r"\u001b[31m", r"\u202e", r"\udc80"])
def test_text_that_cannot_be_printed_is_unknown(tmp_path: Path, text: str) -> None:
    record = f'{{"patient": "{text}", "device": "{text}", "split": "{text}"}}'
    index = _records(tmp_path, record, record, '{"patient": "x"}')
    assert index.columns["device"] == ("unknown",)
    assert index.columns["split"] == ("",)
    groups = shards.read_positions(index)["group"]
    assert groups[0] == groups[1] != groups[2]


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.zst"])
def test_compressed_tars_are_named(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")
    for read in (shards.read_index, lambda folder: shard_index.write(folder, {})):
        with pytest.raises(ShardError, match="compressed tars .*gunzip"):
            read(tmp_path)


def test_a_set_of_format_1_is_still_read_and_chosen_from(tmp_path: Path) -> None:
    """Sets that were written before the columns quality, cluster and weight."""
    factory.make_shards(tmp_path, samples=12, shards=1)
    table = np.load(tmp_path / shards.POSITIONS_NAME)
    old = np.zeros(len(table), positions.POSITIONS[1])
    for name in old.dtype.names or ():
        old[name] = table[name]
    np.save(tmp_path / shards.POSITIONS_NAME, old)
    content = json.loads((tmp_path / shards.INDEX_NAME).read_text())
    ours = content["ssl_retina"]
    ours["format"] = 1
    ours["positions_sha256"] = files.sha256(tmp_path / shards.POSITIONS_NAME)
    ours["columns"] = {name: ours["columns"][name] for name in ("modality", "eye", "device", "split")}
    files.write_json(tmp_path / shards.INDEX_NAME, content)
    read = shards.read_index(tmp_path)
    assert shard_index.verify(read, hashes=True) == []
    assert read.columns["quality"] == ("unknown",)
    assert selection.select([read], where="quality != reject").train.size == 12
    assert selection.select([read], where="split == test").train.size == 3
    assert shards.Reader(read).sample(3).key == factory.key(3)


def test_weights_make_every_word_of_the_balanced_column_sum_alike(tmp_path: Path) -> None:
    factory.make_shards(tmp_path, samples=24, shards=2)
    plain = shards.read_positions(shards.read_index(tmp_path))
    assert set(plain["weight"].tolist()) == {1.0}
    index = shard_index.write(tmp_path, {**factory.index_facts(), "balance": "modality"})
    table = shards.read_positions(index)
    sums = np.bincount(table["modality"], weights=table["weight"])
    assert np.bincount(table["modality"]).tolist() == [21, 3]
    assert np.allclose(sums, 12)
    again = shard_index.write(tmp_path, index.facts)
    assert again.digest == index.digest
