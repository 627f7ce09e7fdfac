"""The proof: one chain from the source files to the index, and each broken link is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import factory
import pytest
from photographs import contents, save, shard, write_table

from ssl_retina import files, pseudonyms, shard_index, shards
from ssl_retina.archive import fingerprint, provenance
from ssl_retina.data import inspection


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for number in range(6):
        save(folder / "archive" / f"{number}.png", number, size=40)
    (folder / "archive" / "page.jpg").write_text("<html>")
    table = write_table(folder / "t.csv", ["file", "patient"], [[f"{n}.png", n] for n in range(6)])
    shard(folder, folder / "archive", table=table, samples_per_shard=4)
    return folder


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


def _inspect(out: Path) -> inspection.Report:
    return inspection.inspect(out, advance=lambda _: None)


def test_the_manifest_names_sources_settings_key_versions_and_every_file(made: Path) -> None:
    out = made / "out"
    content = json.loads((out / shards.MANIFEST_NAME).read_bytes())
    assert content["key_fingerprint"] == pseudonyms.fingerprint(factory.KEY)
    assert content["ids"] == pseudonyms.NORMALISATION  # F102: the rule by which ids are one
    known = {"ssl-retina", "numpy", "pillow", "pydicom", "python", "libjpeg"}
    assert known == set(content["made_with"]) - set(provenance.DECODERS)
    assert content["made_from"]["size"] == 512
    assert content["sources"]["lines"] == 7
    assert set(content["files"]) == set(contents(out)) - {shards.INDEX_NAME, shards.MANIFEST_NAME}
    assert all(files.sha256(out / name) == digest for name, digest in content["files"].items())
    assert shards.read_index(out).facts["manifest_sha256"] == files.sha256(out / shards.MANIFEST_NAME)
    assert (_inspect(out).proof, _inspect(out).damage) == ("manifest", ())


def test_every_source_file_has_its_keyed_digest_in_the_ledger(made: Path) -> None:
    texts = (made / "out" / shards.LEDGER_NAME).read_text().splitlines()
    lines = {line["key"]: line for line in map(json.loads, texts)}
    for path in (made / "archive").iterdir():
        line = lines[pseudonyms.image(factory.KEY, path.name)]
        assert line["source"] == fingerprint.of_bytes(factory.KEY, path.read_bytes())
        assert line["source"] != fingerprint.of_bytes(bytes(32), path.read_bytes())


def _edit(name: str, old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(out: Path) -> None:
        content = (out / name).read_bytes()
        assert old in content, (name, old)
        (out / name).write_bytes(content.replace(old, new, 1))

    return change


def _swap_ledger(out: Path) -> None:
    """Another ledger, and a manifest that names it: the index still tells."""
    (out / "ledger.jsonl").write_text("")
    content = json.loads((out / shards.MANIFEST_NAME).read_bytes())
    content["files"]["ledger.jsonl"] = files.sha256(out / "ledger.jsonl")
    files.write_json(out / shards.MANIFEST_NAME, content)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            _edit("ledger.jsonl", b'"written"', b'"writtem"'),
            "ledger.jsonl has other bytes than manifest.json",
        ),
        (_edit("manifest.json", b'"size": 512', b'"size": 256'), "manifest.json has other bytes than index"),
        (
            _edit("index.json", b'"patients": 6', b'"patients": 5'),
            "index.json was changed after manifest.json",
        ),
        (lambda out: (out / "manifest.json").unlink(), "manifest.json is missing"),
        (lambda out: (out / "ledger.jsonl").unlink(), "ledger.jsonl is missing"),
        (_swap_ledger, "manifest.json has other bytes than index.json"),
        (_edit("index.json", b'"manifest_sha256"', b'"manifest_sha255"'), "manifest.json belongs to another"),
    ],
)
def test_each_broken_link_is_named(out: Path, change: Callable[[Path], None], sentence: str) -> None:
    change(out)
    found = _inspect(out).damage
    assert len(found) == 1, found
    assert found[0].startswith(sentence)
    assert _inspect(out).proof in ("broken", "none")


def test_a_shard_of_another_set_is_named_by_the_manifest(out: Path, made: Path) -> None:
    """Someone replaces a tar and writes an index that fits it."""
    factory.write_tar(out / "retina-000001.tar", factory.sample_parts(9))
    facts = {**shards.read_index(out).facts}
    facts = {name: facts[name] for name in facts if name not in ("format", "columns", "positions_sha256")}
    shard_index.write(out, facts)
    found = _inspect(out).damage
    assert "retina-000001.tar is another one in manifest.json than in index.json" in found
    assert "positions.npy is another one in manifest.json than in index.json" in found


def test_a_ledger_that_does_not_add_up_is_named(out: Path) -> None:
    """Ledger, manifest and index written to fit each other, against law 1."""
    lines = (out / "ledger.jsonl").read_text().splitlines(keepends=True)
    (out / "ledger.jsonl").write_text("".join(line for line in lines if '"rejected"' not in line))
    facts = shards.read_index(out).facts
    facts = {name: facts[name] for name in facts if name not in shard_index.OWN_FACTS}
    shard_index.write(out, facts, manifest=facts)
    assert _inspect(out).damage == ("ledger.jsonl has 0 lines 'rejected', the totals say 1",)


def test_a_set_without_manifest_still_reads(tmp_path: Path) -> None:
    factory.make_shards(tmp_path / "old", samples=4)
    report = _inspect(tmp_path / "old")
    assert (report.proof, report.damage) == ("none", ())


def test_another_index_leaves_no_proof_behind(out: Path) -> None:
    (out / shards.INDEX_NAME).unlink()
    inspection.write_index(out, advance=lambda _: None)
    assert not (out / shards.MANIFEST_NAME).exists()
    assert (_inspect(out).proof, _inspect(out).damage) == ("none", ())
