"""The verb `probe` from shards to report: recorded numbers, bad input, what is said and what is not."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import factory
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ssl_retina import cli, config, files, pseudonyms, shard_index
from ssl_retina.models import encoder, pretrained
from ssl_retina.probe import evaluate, features
from ssl_retina.shards import Index, read_index, shard_name

SAMPLES, PATIENTS = 96, 48
Probe = Callable[..., tuple[int, Any, str]]

GOLDEN = {"pixel-pca": 0.971, "mean-colour": 0.337}
"""AUROC of the logistic probe as first recorded."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, labels and key of 48 patients with two photographs each."""
    folder = tmp_path_factory.mktemp("site")
    factory.make_shards(folder / "shards", samples=SAMPLES, size=48, patients=PATIENTS)
    factory.make_labels(folder / "labels.csv", samples=SAMPLES, patients=PATIENTS)
    factory.write_key(folder / "key")
    return folder


@pytest.fixture
def probe(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Probe:
    """Run the verb in this process on `site`; later options win: exit code, JSON on stdout, stderr."""

    def run(weights: str, *options: object, task: str = "sick=disease", **replaced: Path) -> Any:
        paths = {"data": site / "shards", "labels": site / "labels.csv", "key_file": site / "key", **replaced}
        arguments = [
            *weights.split(),
            "--task",
            task,
            "--out",
            tmp_path / "out",
            "--resamples",
            1000,
            "--json",
        ]
        for name, path in paths.items():
            arguments += [f"--{name.replace('_', '-')}", path]
        monkeypatch.setattr(sys, "argv", ["ssl-retina", "probe", *map(str, [*arguments, *options])])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capfd.readouterr()
        return int(ended.value.code or 0), json.loads(printed.out) if printed.out else None, printed.err

    return run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer refits, where the intervals are not what is tested."""
    monkeypatch.setattr(evaluate, "PAIRS_OF_HALVES", 1)


def labels_with(path: Path, change: Callable[[list[dict[str, str]]], None], site: Path) -> Path:
    """The site's labels file with other cells."""
    with (site / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    change(rows)
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def value(result: Any, weights: str, probe_name: str = "logistic") -> dict[str, float]:
    entry = next(
        one
        for one in result["tasks"][0]["results"]
        if (one["weights"], one["probe"]) == (weights, probe_name)
    )
    return entry["metrics"]["auroc"]


def test_golden_numbers_and_f98_the_same_twice(probe: Probe, tmp_path: Path) -> None:
    code, result, noise = probe("pixel-pca mean-colour", "--seed", 3)
    assert code == 0
    assert value(result, "pixel-pca")["value"] == pytest.approx(GOLDEN["pixel-pca"], abs=0.02)
    assert value(result, "mean-colour")["value"] == pytest.approx(GOLDEN["mean-colour"], abs=0.02)
    for one in (*result["tasks"][0]["results"], *result["tasks"][0]["differences"]):
        for number in one["metrics"].values():
            assert number["low"] <= number["value"] <= number["high"]
    task = result["tasks"][0]
    grades = [factory.grade(number, PATIENTS) for number in range(SAMPLES)]
    assert (task["images"], task["patients"]) == (SAMPLES, PATIENTS)
    assert task["positives"] == sum(grade > 0 for grade in grades)
    assert task["base_rate"] == task["positives"] / SAMPLES
    assert (result["level"], task["positive"]) == ("patient", "disease = 1")
    assert probe("pixel-pca mean-colour", "--seed", 3)[1] == result
    assert json.loads((tmp_path / "out" / "probe.json").read_text()) == result
    report = (tmp_path / "out" / "report.md").read_text()
    assert f"{value(result, 'pixel-pca')['value']:.3f}" in report
    assert "base rate" in report
    assert (tmp_path / "out" / "probe.png").read_bytes().startswith(b"\x89PNG")
    assert not any("img_" in text or "P00" in text for text in (report, noise, json.dumps(result)))


def test_the_table_on_a_terminal(
    probe: Probe, site: Path, quick: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = f"ssl-retina probe mean-colour --data {site}/shards --labels {site}/labels.csv --out {site}/out"
    command += f" --task g=grade:ordinal --task three=grade --task sick=disease --key-file {site}/key"
    monkeypatch.setattr(sys, "argv", command.split())
    monkeypatch.setenv("COLUMNS", "120")
    with pytest.raises(SystemExit):
        cli.main()
    shown = capfd.readouterr().out
    for text in ("quadratic kappa", "AUROC, mean of classes", "AUPRC (base 0.", "bootstrap over patients"):
        assert text in shown


def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ssl-retina", "probe", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Example:" in capfd.readouterr().out


def test_a_declared_split_scores_its_test_part(probe: Probe, quick: None) -> None:
    code, result, _ = probe("mean-colour", "--split", "split")
    task = result["tasks"][0]
    tested = [number for number in range(SAMPLES) if factory.split(number, PATIENTS) == "test"]
    assert (code, task["tested_images"], task["images"]) == (0, len(tested), SAMPLES)
    assert task["positives"] == sum(factory.grade(number, PATIENTS) > 0 for number in tested)
    assert "column 'split'" in task["split"]


def test_f96_patients_in_both_parts_of_a_split_are_exit_4(
    probe: Probe, quick: None, site: Path, tmp_path: Path
) -> None:
    def straddle(rows: list[dict[str, str]]) -> None:
        rows[0]["split"], rows[PATIENTS]["split"] = "train", "test"

    path = labels_with(tmp_path / "l.csv", straddle, site)
    code, result, error = probe("mean-colour", "--split", "split", labels=path)
    assert (code, result) == (4, None)
    assert "1 patient lies in training and in test" in error
    assert factory.key(0) in error
    listed = tmp_path / "out" / "straddling.txt"
    assert f"{listed} lists all 1: --exclude {listed}" in error
    assert listed.read_text() == factory.key(0) + "\n"
    code, result, _ = probe("mean-colour", "--split", "split", "--exclude", listed, labels=path)
    assert (code, result["tasks"][0]["left_out"]) == (0, {"excluded": 1})
    assert not (tmp_path / "out" / ".lock").exists()


def test_f96_one_class_and_three_patients_are_refused(probe: Probe, site: Path, tmp_path: Path) -> None:
    def healthy(rows: list[dict[str, str]]) -> None:
        for row in rows:
            row["disease"] = str(int(row["patient"] in ("P001", "P002")))

    code, _, error = probe("mean-colour", labels=labels_with(tmp_path / "a.csv", healthy, site))
    assert (code, "too few patients of the labelled photographs: 2 with 'disease = 1'" in error) == (2, True)

    factory.make_shards(tmp_path / "few", samples=6, size=16, patients=3, shards=1)
    path = factory.make_labels(tmp_path / "b.csv", samples=6, patients=3)
    code, _, error = probe("mean-colour", task="one=patient:P001", data=tmp_path / "few", labels=path)
    assert (code, "1 with 'patient = P001'" in error, "at least 5 of each class" in error) == (2, True, True)
    assert "Traceback" not in error


def test_f96_labels_of_unknown_photographs_are_counted(
    probe: Probe, quick: None, site: Path, tmp_path: Path
) -> None:
    def strange(rows: list[dict[str, str]]) -> None:
        for row in rows[:7]:
            row["file"] = "of_another_archive_" + row["file"]
        rows.append(dict(rows[9]))

    code, result, noise = probe("mean-colour", labels=labels_with(tmp_path / "l.csv", strange, site))
    assert (code, result["data"]["rows_unknown"], result["data"]["with_labels"]) == (0, 7, SAMPLES - 7)
    assert any("7 rows of the labels file speak of no photograph" in note for note in result["notes"])
    assert result["data"]["rows_of_duplicates"] == 1
    assert (
        f"1 of {SAMPLES + 1} rows of the labels file are second rows of a photograph (merged duplicates)"
        in (result["notes"])
    )
    assert "another_archive" not in json.dumps(result) + noise


def test_f96_features_that_are_not_finite_are_refused(
    probe: Probe, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = features._tiny(0)

    def broken(images: torch.Tensor) -> torch.Tensor:
        answer = loaded.module(images)
        answer[3] = float("nan")
        return answer

    class Broken(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return broken(images)

    monkeypatch.setattr(features, "_tiny", lambda seed: loaded._replace(module=Broken()))
    code, _, error = probe("random")
    assert (code, "not finite for 2 of 96 photographs" in error) == (4, True)


def test_no_patients_said_and_unsaid(probe: Probe, quick: None, site: Path, tmp_path: Path) -> None:
    shards = _without_patients(tmp_path / "shards")

    def nameless(rows: list[dict[str, str]]) -> None:
        for row in rows:
            del row["patient"]

    path = labels_with(tmp_path / "l.csv", nameless, site)
    code, _, error = probe("mean-colour", data=shards, labels=path)
    assert (code, "--patient none" in error) == (2, True)
    code, result, _ = probe("mean-colour", "--patient", "none", data=shards, labels=path)
    assert (code, result["level"]) == (0, "image-level, optimistic")
    assert any(note.startswith("image-level, optimistic") for note in result["notes"])
    assert "image-level, optimistic" in (tmp_path / "out" / "report.md").read_text()
    code, _, error = probe("mean-colour", "--patient", "none", labels=path)
    assert (code, "the shards know the patients" in error) == (2, True)


def _without_patients(folder: Path) -> Path:
    folder.mkdir()
    parts = []
    for number in range(SAMPLES):
        image, (name, content) = factory.sample_parts(number, size=16, patients=PATIENTS)
        record = json.loads(content)
        record.update(patient=None, group=record["key"])
        parts += [image, (name, json.dumps(record).encode())]
    factory.write_tar(folder / shard_name("bare", 0), parts)
    shard_index.write(folder, factory.index_facts())
    return folder


def test_aliases_that_contradict_or_lie_in_both_parts_are_left_out(
    probe: Probe, quick: None, site: Path, tmp_path: Path
) -> None:
    """One photograph with a second name whose row has another label; one whose alias is in the other part."""
    shards = tmp_path / "shards"
    shards.mkdir()
    parts = []
    for number in range(SAMPLES):
        image, (name, content) = factory.sample_parts(number, size=16, patients=PATIENTS)
        record = json.loads(content)
        if number in (0, 1):
            copy = f"copy_{number}.png"
            alias = {"key": pseudonyms.image(factory.KEY, copy), "name": pseudonyms.name(factory.KEY, copy)}
            record["aliases"] = [{**alias, "patient": record["patient"], "split": record["split"]}]
        parts += [image, (name, json.dumps(record).encode())]
    factory.write_tar(shards / shard_name("twins", 0), parts)
    shard_index.write(shards, factory.index_facts())

    def copies(rows: list[dict[str, str]]) -> None:
        other = str(1 - int(rows[0]["disease"]))
        rows.append({**rows[0], "file": "copy_0.png", "disease": other})
        rows.append({**rows[1], "file": "copy_1.png", "split": "test"})

    path = labels_with(tmp_path / "l.csv", copies, site)
    code, result, _ = probe("mean-colour", "--split", "split", data=shards, labels=path)
    assert code == 0
    assert result["tasks"][0]["conflicts"] == {
        "aliases in training and test": [factory.key(1)],
        "aliases with contradicting labels": [factory.key(0)],
    }
    assert result["tasks"][0]["images"] == SAMPLES - 2
    assert factory.key(0) in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("no_such_model", "neither a folder nor a model that timm knows"),
        ("mean-colour mean-colour", "given twice"),
        ("out/missing", "does not exist"),
    ],
)
def test_weights_that_cannot_be_used(probe: Probe, weights: str, message: str) -> None:
    code, _, error = probe(weights)
    assert (code, message in error) == (2, True), error


def test_f90_a_pickle_is_no_weights(probe: Probe, tmp_path: Path) -> None:
    (tmp_path / "model.pth").write_bytes(b"\x80\x04cos\nsystem\n(S'touch /tmp/owned'\ntR.")
    code, _, error = probe(str(tmp_path / "model.pth"))
    assert (code, "give the folder that ssl-retina export wrote" in error) == (2, True)


@pytest.fixture
def export(tmp_path: Path, site: Path) -> Path:
    """A tiny export whose card names the site's shards."""

    folder = tmp_path / "export"
    folder.mkdir()
    model = config.Model(name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2)
    torch.manual_seed(1)
    save_file(encoder.build(model, checkpointing=False).vit.state_dict(), folder / "model.safetensors")
    shape = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.2] * 3}
    content = {
        "architecture": model.name,
        "model_args": encoder.model_args(model),
        "pretrained_cfg": {**shape, "interpolation": "bicubic", "crop_pct": 1.0},
    }
    (folder / "config.json").write_text(json.dumps(content))
    card = (f"index `{read_index(site / 'shards').digest}`", pretrained.chosen_by(None, "none"), "")
    (folder / "README.md").write_text("\n".join(card))
    names = ("config.json", "model.safetensors", "README.md")
    sums = "".join(f"{files.sha256(folder / name)}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text(sums)
    return folder


@pytest.mark.parametrize(
    ("where", "exclude", "listed", "seen"),
    [
        (None, "none", True, True),
        ("split != test", "none", True, None),  # the test images may well have been held out
        (None, "yes", True, None),
        (None, "none", False, False),
    ],
)
def test_what_a_card_tells_about_the_test_images(
    tmp_path: Path, site: Path, where: str | None, exclude: str, listed: bool, seen: bool | None
) -> None:
    index = read_index(site / "shards")
    line = pretrained.chosen_by(where, exclude)
    (tmp_path / "README.md").write_text(f"index `{index.digest if listed else 'f' * 64}`\n{line}\n")
    assert features.seen_in_pretraining(str(tmp_path), index) is seen


def test_an_export_beside_random_of_its_architecture(probe: Probe, quick: None, export: Path) -> None:
    """F97: the card names the probe's own shards, so the images were seen in pretraining."""
    code, result, _ = probe(f"{export} random mean-colour")
    assert code == 0
    first, second, third = result["weights"]
    assert (first["dimensions"], second["dimensions"], third["dimensions"]) == (192, 192, 3)
    assert second["about"].startswith(f"random weights, architecture of {export}")
    assert "32 px" in second["about"]
    assert first["test_images_seen_in_pretraining"] is True
    assert any("seen (without labels) in pretraining" in note for note in result["notes"])
    assert [one["test_images_seen_in_pretraining"] for one in (second, third)] == [None, None]
    pairs = [(one["weights"], one["against"]) for one in result["tasks"][0]["differences"]]
    assert pairs == [(str(export), "random")] * 2 + [(str(export), "mean-colour")] * 2
    difference = result["tasks"][0]["differences"][0]["metrics"]["auroc"]["value"]
    expected = value(result, str(export))["value"] - value(result, "random")["value"]
    assert difference == pytest.approx(expected)


def index(site: Path) -> Index:

    return read_index(site / "shards")


def silent(name: str, done: int) -> None:
    """Show no progress."""


def test_mean_colour_and_pixels_against_pillow(site: Path) -> None:
    rows = np.array([5, 2, 40])
    colour, pca = features.represent(["mean-colour", "pixel-pca"], index(site), rows, seed=0, advance=silent)
    small = np.concatenate(
        [features.flat(one) for one in features.Photographs(index(site), rows, silent).batches("x", 32)]
    )
    for place, number in enumerate(rows):
        whole = factory.pixels(number, size=48, patients=PATIENTS).astype(float).mean(axis=(0, 1)) / 255
        np.testing.assert_allclose(colour.values[place], whole, atol=0.02)
    for i in range(3):
        for j in range(3):
            before = np.linalg.norm(small[i] - small[j])
            assert np.linalg.norm(pca.values[i] - pca.values[j]) == pytest.approx(before, abs=1e-4)


def test_random_follows_the_seed_and_leaves_the_generator(site: Path) -> None:
    rows = np.arange(4)

    def random(seed: int) -> np.ndarray:
        return next(features.represent(["random"], index(site), rows, seed=seed, advance=silent)).values

    state = torch.random.get_rng_state()
    first = random(0)
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(first, random(0))
    assert not np.allclose(first, random(1))


def test_leave_out_judges_each_device_by_itself(probe: Probe, quick: None, tmp_path: Path) -> None:
    code, result, _ = probe("pixel-pca mean-colour", "--leave-out", "device")
    assert code == 0
    task = result["tasks"][0]
    assert task["split"] == "2 devices, each scored by a model that saw neither it nor its patients"
    assert [one["name"] for one in task["devices"]] == list(factory.DEVICES)
    for one in task["devices"]:
        assert one["tested_images"] + one["trained_images"] == SAMPLES
        assert one["tested_patients"] + one["trained_patients"] == PATIENTS
    names = [one["device"] for one in task["by_device"] if one["weights"] == "pixel-pca"]
    assert names == [name for name in (*factory.DEVICES, evaluate.MEAN) for _ in range(2)]
    mean = {
        (one["weights"], one["probe"], one["device"]): one["metrics"]["auroc"] for one in task["by_device"]
    }
    for one in task["differences"]:  # of the means
        pair = [mean[name, one["probe"], evaluate.MEAN]["value"] for name in ("pixel-pca", "mean-colour")]
        assert one["metrics"]["auroc"]["value"] == pytest.approx(pair[0] - pair[1])
    report = (tmp_path / "out" / "report.md").read_text()
    assert report.count("| camera-a | 48 (24) |") == 4
    assert report.count(f"| {evaluate.MEAN} |") == 4


def test_leave_out_refuses_what_it_cannot_answer(probe: Probe, tmp_path: Path) -> None:
    code, _, noise = probe("mean-colour", "--leave-out", "device", "--split", "split")
    assert (code, "give one of them" in noise) == (2, True)
    folder = tmp_path / "odd"  # every patient went to both cameras: nobody is left to train on
    factory.make_shards(folder / "shards", samples=94, size=32, patients=47)
    factory.make_labels(folder / "labels.csv", samples=94, patients=47)
    paths = {"data": folder / "shards", "labels": folder / "labels.csv"}
    code, _, noise = probe("mean-colour", "--leave-out", "device", **paths)
    assert (code, "patients without device camera-a: 0 with" in noise) == (2, True)
