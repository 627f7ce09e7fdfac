"""`embed`: one row a photograph in the index's order, equal to the probe's features and to plain timm's."""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import factory
import finetuning
import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from finetuning import SAMPLES, run
from PIL import Image

from ssl_retina import cli, files, shard_index, shards
from ssl_retina.probe import embedding, features
from ssl_retina.shards import Reader, shard_name


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning.make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def embed(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run the verb; give its exit code and the table, if there is one."""

    def call(weights: object = "", *options: object, out: str = "x.parquet", data: Path | None = None) -> Any:
        words = ["embed", weights or site / "model", "--data", data or site / "shards"]
        code = run([*map(str, [*words, "--out", tmp_path / out, *options])], monkeypatch)
        return code, pq.read_table(tmp_path / out) if code == 0 else None

    return call


def vectors(table: Any) -> np.ndarray:
    """As the help says."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return flat.reshape(len(table), -1)


def silent(name: str, done: int) -> None:
    """Show no progress."""


def test_every_photograph_in_the_order_of_the_index(embed: Any, site: Path) -> None:
    code, table = embed()
    reader = Reader(shards.read_index(site / "shards"))
    assert (code, len(table)) == (0, SAMPLES)
    assert table["key"].to_pylist() == [reader.key(number) for number in range(SAMPLES)]
    for column in ("patient", "group", "eye", "modality"):
        assert table[column].to_pylist() == [reader.facts(number)[column] for number in range(SAMPLES)]
    assert table["split"].to_pylist() == [reader.facts(number)["split"] or None for number in range(SAMPLES)]
    assert str(table.schema.field("embedding").type) == "fixed_size_list<element: float>[192]"


def test_equal_to_the_probe_and_to_plain_timm(embed: Any, site: Path) -> None:
    """The probe's to the bit in batches of the same size, timm's on images decoded by hand to rounding."""
    _, table = embed()
    index = shards.read_index(site / "shards")
    rows = np.arange(SAMPLES)
    names = [str(site / "model")]
    (found,) = features.represent(names, index, rows, seed=0, advance=silent)
    np.testing.assert_array_equal(vectors(table), found.values)

    model = timm.create_model(f"local-dir:{site / 'model'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(model)
    reader = Reader(index)
    for number in (0, 9, 95):  # the second is a PNG
        image = Image.open(io.BytesIO(reader.image(number))).convert("RGB")
        small = image.resize((32, 32), Image.Resampling.BICUBIC)
        pixels = (np.asarray(small) / 255 - data["mean"]) / data["std"]
        with torch.inference_mode():
            given = model(torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None])[0]
        np.testing.assert_allclose(vectors(table)[number], given, atol=2e-5)


def test_workers_and_row_groups_change_nothing(
    embed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed("", "--workers", 0, out="a.parquet")
    embed("", "--workers", 2, out="b.parquet")
    assert files.sha256(tmp_path / "a.parquet") == files.sha256(tmp_path / "b.parquet")
    monkeypatch.setattr(embedding, "ROW_GROUP", 20)
    _, table = embed("", "--batch", 7, out="c.parquet")
    whole = pq.ParquetFile(tmp_path / "a.parquet").read()
    assert pq.ParquetFile(tmp_path / "c.parquet").num_row_groups > 4
    assert table["key"].to_pylist() == whole["key"].to_pylist()
    np.testing.assert_allclose(vectors(table), vectors(whole), atol=2e-5)


def test_metadata_says_what_made_it_and_how_to_keep_it(embed: Any, site: Path) -> None:
    _, table = embed()
    about = json.loads(table.schema.metadata[b"ssl_retina"])
    assert about["sha256_of_file"] == files.sha256(site / "model" / "model.safetensors")
    assert about["index"] == shards.read_index(site / "shards").digest
    assert (about["mean"], about["std"]) == ([0.5, 0.4, 0.3], [0.2, 0.3, 0.4])
    assert (about["rows"], about["dimensions"], about["image_size"]) == (SAMPLES, 192, 32)
    assert about["weights"] == "model"
    assert "biometric" in about["privacy"]
    assert str(site) not in json.dumps(about)


def test_where_and_exclude(embed: Any, tmp_path: Path) -> None:
    code, table = embed("mean-colour", "--where", "split != test and modality == fundus")
    assert code == 0
    assert set(table["modality"].to_pylist()) == {"fundus"}
    assert set(table["split"].to_pylist()) == {"train"}
    (tmp_path / "leave").write_text(factory.key(3) + "\n")
    _, fewer = embed("mean-colour", "--exclude", tmp_path / "leave", out="y.parquet")
    assert len(fewer) == SAMPLES - 1
    assert factory.key(3) not in fewer["key"].to_pylist()
    assert embed("mean-colour", "--where", "split == nowhere", out="z.parquet") == (2, None)


def test_opponents(embed: Any, site: Path) -> None:
    _, colour = embed("mean-colour", out="a.parquet")
    (found,) = features.represent(
        ["mean-colour"], shards.read_index(site / "shards"), np.arange(SAMPLES), seed=0, advance=silent
    )
    np.testing.assert_array_equal(vectors(colour), found.values)
    _, pca = embed("pixel-pca", out="b.parquet")
    values = vectors(pca)
    assert values.shape == (SAMPLES, SAMPLES - 1)
    assert (np.diff(values.std(axis=0)) < 1e-4).all()
    np.testing.assert_allclose(values.mean(axis=0), 0, atol=1e-4)
    _, random = embed("random", "--seed", 3, out="c.parquet")
    (like,) = features.represent(
        ["random"], shards.read_index(site / "shards"), np.arange(SAMPLES), seed=3, advance=silent
    )
    np.testing.assert_array_equal(vectors(random), like.values)


def test_an_earlier_file_is_replaced_only_when_asked(
    embed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.parquet").write_text("mine")
    words = ["mean-colour", "--workers", 0]
    assert embed(*words) == (2, None)
    assert "say --replace" in capsys.readouterr().err
    assert (tmp_path / "x.parquet").read_text() == "mine"
    code, table = embed(*words, "--replace")
    assert (code, len(table)) == (0, SAMPLES)


def test_one_photograph_that_does_not_decode_stops_it(
    embed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, and no file is left; with --exclude the others are written."""
    folder = tmp_path / "bad"
    folder.mkdir()
    parts = [part for number in range(9) for part in factory.sample_parts(number, size=16)]
    parts[8] = (parts[8][0], b"\xff\xd8\xff not an image")
    factory.write_tar(folder / shard_name("bad", 0), parts)
    shard_index.write(folder, factory.index_facts())
    assert embed("mean-colour", data=folder) == (4, None)
    assert factory.key(4) in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad"]
    (tmp_path / "leave").write_text(factory.key(4) + "\n")
    code, table = embed("mean-colour", "--exclude", tmp_path / "leave", data=folder)
    assert (code, len(table)) == (0, 8)


def test_shards_are_closed_when_it_stops_in_the_middle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Reader] = []

    class Noted(Reader):
        def __init__(self, index: shards.Index) -> None:
            super().__init__(index)
            opened.append(self)

    def broken(name: str, done: int) -> None:
        if done > 16:
            raise OSError("the terminal is gone")

    monkeypatch.setattr(embedding, "Reader", Noted)
    monkeypatch.setattr(embedding, "ROW_GROUP", 1)
    chosen = embedding.choose(site / "shards", where=None, exclude=None, batch=8, workers=0)
    with pytest.raises(OSError, match="the terminal is gone"):
        embedding.write("mean-colour", chosen, tmp_path / "x.parquet", seed=0, advance=broken)
    (reader,) = opened
    assert reader._files == {}
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from ssl_retina.probe import embedding
def advance(name, done):
    if done > 16:
        os.kill(os.getpid(), 9)
embedding.ROW_GROUP = 1
chosen = embedding.choose(Path(sys.argv[1]), where=None, exclude=None, batch=8, workers=0)
embedding.write("mean-colour", chosen, Path(sys.argv[2]), seed=0, advance=advance)
"""


def test_what_kill_9_left_is_gone_after_the_next_call(embed: Any, site: Path, tmp_path: Path) -> None:
    script = [sys.executable, "-c", KILLED, str(site / "shards"), str(tmp_path / "x.parquet")]
    assert subprocess.run(script, check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 1, "it was killed while it wrote"
    assert not (tmp_path / "x.parquet").exists()
    code, table = embed("mean-colour", "--workers", 0)
    assert (code, len(table)) == (0, SAMPLES)
    assert [path.name for path in tmp_path.iterdir()] == ["x.parquet"]


def test_features_that_are_not_finite_are_refused(
    embed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "mean_colour", lambda pixels: np.full((len(pixels), 3), np.nan, np.float32))
    assert embed("mean-colour") == (4, None)
    assert list(tmp_path.iterdir()) == []


def test_help_has_an_example_and_the_privacy_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["ssl-retina", "embed", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    shown = capsys.readouterr().out
    assert "Example:" in shown
    assert "biometric" in shown
    assert "json.loads(table.schema.metadata[b'ssl_retina'])" in "".join(shown.split())


@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("/sys/x.parquet", "/sys/x.parquet cannot be written ("),
        (f"{'long' * 70}.parquet", "File name too long"),
        ("absent/x.parquet", "absent does not exist; make it first"),
        ("folder", "folder is a folder"),
        ("link", "link is a link"),
    ],
)
def test_a_place_that_no_file_can_be_put_at_is_refused_before_the_work(
    embed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str, problem: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("elsewhere")
    assert embed("mean-colour", out=out, data=tmp_path / "no shards are looked for") == (2, None)
    assert f"--out {tmp_path / out}" in (said := capsys.readouterr().err)
    assert problem in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "link"]


def test_a_full_disk_is_told_in_a_sentence_and_leaves_nothing(
    embed: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, before[1]))
    try:
        assert embed("mean-colour", "--workers", 0) == (2, None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "x.parquet cannot be written (File too large): make room" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
