"""`finetune`: it learns, twice the same, goes on after a kill, keeps patients apart, gives a timm model."""

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import factory
import finetuning
import numpy as np
import pytest
import torch
from finetuning import SAMPLES, command, run
from torch import nn

from ssl_retina import cli, config, shards
from ssl_retina.errors import ConfigError, InputError, NumericalError
from ssl_retina.models import classifier, encoder, lineage, pretrained
from ssl_retina.models.classifier import Classifier
from ssl_retina.probe import finetune, fits, prepared, recipe, tuning
from ssl_retina.probe.material import Settings
from ssl_retina.probe.recipe import Recipe
from ssl_retina.probe.tuning import Bench, Labelled
from ssl_retina.release import export

QUICK = Recipe(epochs=2, warmup_epochs=0.0, batch_size=8, learning_rate=0.02, layer_decay=0.9, drop_path=0.0)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetuning.make_site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave plain timm's own process out where it is not what a test is about."""
    monkeypatch.setattr(export, "_prove", lambda *_: None)


def ready(site: Path, folder: Path, **changes: Any) -> prepared.Prepared:
    """Everything before the first step; `split`, `task`, `names` and fields of the recipe may be changed."""
    split, task = changes.pop("split", None), changes.pop("task", "sick=disease")
    names, options = changes.pop("names", [str(site / "model")]), changes.pop("options", prepared.Options())
    settings = Settings(site / "shards", site / "labels.csv", None, split, None, site / "key")
    chosen = QUICK.model_copy(update=changes)
    return prepared.prepare(names, task, settings, recipe=chosen, options=options, folder=folder)


def shares(out: Path) -> list[list[str]]:
    """What is said of whom, without what is true."""
    with (out / "predictions.csv").open() as stream:
        return [[cell for name, cell in row.items() if name != "true"] for row in csv.DictReader(stream)]


def silent(photographs: int) -> None:
    """Show no progress."""


@pytest.fixture(scope="module")
def learned(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a fine-tuning that is long enough to learn, on the declared split."""
    out = tmp_path_factory.mktemp("learned") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(out.parent))
        assert run(command(site, out, "--split", "split", "--epochs", 20), patch) == 0
    return out


def test_it_learns_an_easy_task(learned: Path) -> None:
    content = finetuning.result(learned)
    (entry,) = content["tasks"][0]["results"]
    assert entry["metrics"]["auroc"]["low"] > 0.5
    assert entry["epochs"] == [[20]]
    assert content["model"]["judged"] is True
    report = (learned / "report.md").read_text()
    assert "# Fine-tuning" in report
    assert f"{entry['metrics']['auroc']['value']:.3f} (" in report
    assert "the intervals are too narrow" in report
    assert (learned / "finetune.png").read_bytes().startswith(b"\x89PNG")
    tested = [n for n in range(SAMPLES) if factory.split(n, finetuning.PATIENTS) == "test"]
    assert {row[3] for row in shares(learned)} == {factory.key(number) for number in tested}


def test_no_word_of_a_patient_and_no_path_goes_out(learned: Path, site: Path) -> None:
    for name in ("finetune.json", "report.md", "predictions.csv", "model/README.md", "model/config.json"):
        text = (learned / name).read_text()
        assert "img_0" not in text, name
        assert "P00" not in text, name
    card = (learned / "model" / "README.md").read_text()
    assert str(site) not in card
    for fact in ("not a medical device", shards.read_index(site / "shards").digest, "disease = 1", "AUROC: "):
        assert fact in card
    assert f"{lineage.INHERITED}{lineage.NONE}: ask whoever" in card
    inherited = f"By way of the weights that it started from: shard set, {lineage.SUM} `"
    assert inherited + shards.read_index(site / "shards").digest in card


PLAIN = """
import csv, io, json, sys, tarfile
import numpy as np, timm, torch
from PIL import Image
folder, shards, table = sys.argv[1:]
model = timm.create_model("local-dir:" + folder, pretrained=True).eval()
data = timm.data.resolve_model_data_config(model)
said = {row["key"]: row for row in csv.DictReader(open(table))}
worst = 0.0
for number in (0, 1):
    for member in (tar := tarfile.open(f"{shards}/factory-00000{number}.tar")):
        key, _, suffix = member.name.partition(".")
        if suffix == "json" or key not in said:
            continue
        size = data["input_size"][-1]
        image = Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC)) / 255
        ready = torch.tensor((pixels - data["mean"]) / data["std"], dtype=torch.float32).permute(2, 0, 1)
        with torch.inference_mode():
            shares = model(ready[None]).softmax(1)[0].tolist()
        given = [float(said[key]["share of 0"]), float(said[key]["share of disease = 1"])]
        worst = max(worst, *(abs(a - b) for a, b in zip(shares, given)))
assert not any(name.startswith("ssl_retina") for name in sys.modules)
print(json.dumps({"worst": worst, "classes": model.num_classes, "photographs": len(said)}))
"""


def test_plain_timm_says_the_same_of_the_photographs(learned: Path, site: Path) -> None:
    """Law 6 for the head, the mean and the std: a process without ssl_retina gives predictions.csv."""
    paths = map(str, (learned / "model", site / "shards", learned / "predictions.csv"))
    done = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN, *paths], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["worst"] < 2e-6, found
    assert (found["classes"], found["photographs"]) == (2, SAMPLES // 4)


def test_a_fine_tuned_model_is_no_start(
    learned: Path,
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = command(site, tmp_path / "out", weights=str(learned / "model"))
    assert run(words, monkeypatch) == 2
    assert "fine-tuned with labels" in capsys.readouterr().err


@pytest.mark.usefixtures("quick")
def test_labels_of_test_photographs_change_nothing_that_is_learned(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permuted among the test patients: the same shares and weights, bit for bit, other figures."""
    with (site / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for row in rows:
        if row["split"] == "test":
            row["disease"] = str(1 - int(row["disease"]))
    with (tmp_path / "l.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for name, labels in (("a", site / "labels.csv"), ("b", tmp_path / "l.csv")):
        words = command(site, tmp_path / name, "--split", "split", "--epoch-choice", "inner", labels=labels)
        assert run(words, monkeypatch) == 0
    assert shares(tmp_path / "a") == shares(tmp_path / "b")
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    first, second = (finetuning.result(tmp_path / name)["tasks"][0]["results"][0] for name in "ab")
    assert first["metrics"]["auroc"]["value"] == pytest.approx(1 - second["metrics"]["auroc"]["value"])


@pytest.fixture(scope="module")
def crossed(site: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five folds, two WEIGHTS, a pair of halves: never interrupted."""
    out = tmp_path_factory.mktemp("crossed") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(out.parent))
        assert run(folds(site, out), patch) == 0
    return out


def folds(site: Path, out: Path, *options: object) -> list[str]:
    weights = f"{site / 'model'} random"
    return command(site, out, "--epochs", 1, "--halves", 1, *options, weights=weights)


def same(first: Path, second: Path) -> None:
    """Every file that goes out is equal."""
    for name in ("finetune.json", "predictions.csv", "report.md", "model/SHA256SUMS"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_folds_ask_every_photograph_once(crossed: Path, site: Path) -> None:
    content = finetuning.result(crossed)
    task = content["tasks"][0]
    assert task["tested_images"] == SAMPLES
    assert sorted(row[3] for row in shares(crossed)) == sorted(2 * [factory.key(n) for n in range(SAMPLES)])
    assert content["halves"] == 2
    assert content["model"]["photographs"] == SAMPLES
    assert content["model"]["judged"] is False
    assert "Sisters of this model" in (crossed / "model" / "README.md").read_text()
    (difference,) = task["differences"]
    values = [one["metrics"]["auroc"]["value"] for one in task["results"]]
    assert difference["metrics"]["auroc"]["value"] == pytest.approx(values[0] - values[1])
    assert difference["against"] == "random"


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_the_same_seed_is_the_same_with_other_workers(
    crossed: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(folds(site, tmp_path / "out", "--workers", 2), monkeypatch) == 0
    same(crossed, tmp_path / "out")


@pytest.mark.usefixtures("quick")
def test_a_declared_split_is_the_same_twice_and_with_workers(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, workers in (("a", 0), ("b", 0), ("c", 1)):
        words = command(site, tmp_path / name, "--split", "split", "--workers", workers)
        assert run(words, monkeypatch) == 0
    same(tmp_path / "a", tmp_path / "b")
    same(tmp_path / "a", tmp_path / "c")
    other = command(site, tmp_path / "d", "--split", "split", "--seed", 1)
    assert run(other, monkeypatch) == 0
    assert shares(tmp_path / "a") != shares(tmp_path / "d")


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_killed_between_folds_it_goes_on_and_ends_the_same(
    crossed: Path, site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 after some answers: the rest is done, those are not done again, all files are equal."""
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "ssl_retina", *folds(site, out)], stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while len(list(out.glob("fits/*.npz"))) < 3:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert {path.name for path in out.iterdir()} <= {"fits", ".lock"}
    kept = {path: path.stat().st_mtime_ns for path in out.glob("fits/*.npz")}
    assert run(folds(site, out), monkeypatch) == 0
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    same(crossed, out)


def test_ctrl_c_is_exit_130_and_leaves_no_result(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fits.Shelf, "do", interrupted)
    assert run(command(site, tmp_path / "out", "--split", "split"), monkeypatch) == 130
    assert "the same command goes on after the last finished fit" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["fits"]


def test_patients_never_straddle_in_any_fit(site: Path, tmp_path: Path) -> None:
    """Of folds, halves and the inner part that chooses the epoch."""
    for split in (None, "split"):
        found = ready(site, tmp_path / str(split), split=split, options=prepared.Options(pairs=2))
        group_of = dict(zip(found.plan.rows.tolist(), found.plan.question.groups.tolist(), strict=True))
        every = list(found.fits())
        assert len(every) == 1 + (5 + 4 * 5 if split is None else 1 + 4)
        for fit in every:
            asked = {group_of[row] for row in fit.asked.tolist()}
            assert not asked & set(fit.labelled.groups.tolist())
            part, inner = tuning._inner(fit.labelled, Recipe(epoch_choice="inner"), seed=0)
            assert inner is not None
            assert not set(inner.groups.tolist()) & set(part.groups.tolist())
            assert len(part.rows) + len(inner.rows) == len(fit.labelled.rows)


def bench(site: Path, chosen: Recipe, classes: int = 2) -> Bench:
    return Bench(shards.read_index(site / "shards"), chosen, classes, workers=0)


def labelled(count: int) -> Labelled:
    """The first photographs with their diseases."""
    classes = np.array([int(factory.grade(number, finetuning.PATIENTS) > 0) for number in range(count)])
    keys = tuple(factory.key(number) for number in range(count))
    return Labelled(np.arange(count), keys, classes, np.arange(count) % finetuning.PATIENTS)


def moved(site: Path, layer_decay: float, *, pretrained_start: bool = True) -> list[float]:
    """How far the embedding, each block and the head went, per element."""
    start = pretrained.load_timm(str(site / "model"))
    chosen = QUICK.model_copy(update={"layer_decay": layer_decay, "weight_decay": 0.0})
    tuned = tuning.tune(
        start, labelled(48), bench(site, chosen), seed=0, pretrained=pretrained_start, advance=silent
    )
    before, after = start.module.state_dict(), tuned.model.vit.state_dict()
    names = ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc1.weight")
    distances = [float((after[name] - before[name]).abs().mean()) for name in names]
    return [*distances, float(after["head.weight"].abs().mean())]


def test_layer_decay_scales_how_far_each_layer_goes(site: Path) -> None:
    """AdamW's steps are as long as the learning rate: factors 0.1 a layer are seen in the weights."""
    even, decayed = moved(site, 1.0), moved(site, 0.1)
    ratios = [slow / fast for slow, fast in zip(decayed, even, strict=True)]
    np.testing.assert_allclose(ratios, [1e-3, 1e-2, 1e-1, 1.0], rtol=0.5)


def test_fresh_weights_are_not_held_back(site: Path) -> None:
    assert moved(site, 0.1, pretrained_start=False) == moved(site, 1.0)


def test_random_is_what_pretraining_starts_from(site: Path, tmp_path: Path) -> None:
    """Sine-cosine positions and Xavier weights, others for each seed, torch's generator as it was."""
    found = ready(site, tmp_path, names=["random", str(site / "model")])
    state = torch.random.get_rng_state()
    fresh = found.shelf.start("random", 5).model.module.state_dict()
    assert torch.equal(torch.random.get_rng_state(), state)
    model = config.Model(name="vit_tiny_patch16_224", image_size=32, patch_size=8, depth=2)
    built = encoder.build(model, checkpointing=False).vit.state_dict()
    assert torch.equal(fresh["pos_embed"], built["pos_embed"])
    for name, tensor in built.items():
        if tensor.ndim > 1 and "token" not in name:
            assert float(fresh[name].std()) == pytest.approx(float(tensor.std()), rel=0.03), name
    other = found.shelf.start("random", 6).model.module.state_dict()
    assert not torch.equal(fresh["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])


def test_inner_choice_keeps_the_epoch_with_the_least_loss(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Losses 3, 1, 2: the weights after the second of three epochs, bit for bit."""
    start = pretrained.load_timm(str(site / "model"))
    chosen = QUICK.model_copy(update={"epochs": 3, "epoch_choice": "inner"})
    losses, seen = iter([3.0, 1.0, 2.0]), []

    def judged(model: Classifier, *_: object) -> float:
        seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(losses)

    monkeypatch.setattr(tuning, "_log_loss", judged)
    tuned = tuning.tune(start, labelled(48), bench(site, chosen), seed=0, pretrained=True, advance=silent)
    assert tuned.epoch == 2
    final = tuned.model.state_dict()
    assert all(torch.equal(final[name], tensor) for name, tensor in seen[1].items())
    assert not all(torch.equal(final[name], tensor) for name, tensor in seen[2].items())


def test_inner_choice_is_refused_where_patients_are_too_few(site: Path, tmp_path: Path) -> None:
    """Five patients carry a class: enough to be judged, too few for an inner fold of every half."""
    with (site / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    rare = sorted({row["patient"] for row in rows})[:5]
    with (tmp_path / "rare.csv").open("w") as stream:
        table = csv.DictWriter(stream, [*rows[0], "rare"])
        table.writeheader()
        table.writerows({**row, "rare": int(row["patient"] in rare)} for row in rows)

    def prepare(choice: str) -> prepared.Prepared:
        settings = Settings(site / "shards", tmp_path / "rare.csv", None, None, None, site / "key")
        chosen = QUICK.model_copy(update={"epoch_choice": choice})
        options, out = prepared.Options(), tmp_path / "out"
        names = [str(site / "model")]
        return prepared.prepare(names, "few=rare", settings, recipe=chosen, options=options, folder=out)

    assert sum(map(prepare("last").photographs, prepare("last").fits())) > 0
    with pytest.raises(InputError, match="task few: too few patients .* --epoch-choice last"):
        prepare("inner")


def test_the_start_is_never_changed(site: Path) -> None:
    start = pretrained.load_timm(str(site / "model"))
    before = {name: tensor.clone() for name, tensor in start.module.state_dict().items()}
    tuning.tune(start, labelled(16), bench(site, QUICK), seed=0, pretrained=True, advance=silent)
    after = start.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_balanced_weights_give_each_class_the_same_share(site: Path) -> None:
    chosen = bench(site, QUICK.model_copy(update={"class_weights": "balanced"}), classes=3)
    weights = tuning._class_weights(np.array([0, 0, 0, 1]), chosen)
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / 6, 2.0, 0.0])


@pytest.mark.parametrize(
    ("task", "metric"), [("g=grade:ordinal", "quadratic_kappa"), ("c=grade", "balanced_accuracy")]
)
def test_grades_and_classes(site: Path, tmp_path: Path, task: str, metric: str) -> None:
    found = ready(site, tmp_path, split="split", task=task, epochs=1, class_weights="balanced")
    outcome = finetune.run(found, silent)
    entry = outcome.result["tasks"][0]["results"][0]["metrics"][metric]
    assert entry["low"] <= entry["value"] <= entry["high"]
    assert outcome.vit.num_classes == 4
    assert len(outcome.predictions[0]) == 5 + 4


def test_seeds_are_averaged_and_drawn_together(site: Path, tmp_path: Path) -> None:
    single = [
        finetune.judge(done(site, tmp_path, prepared.Options(seed=seed, pairs=0)), str(site / "model"))
        for seed in (0, 1)
    ]
    both = finetune.judge(done(site, tmp_path, prepared.Options(seeds=2, pairs=0)), str(site / "model"))
    means = np.mean([one.estimates["finetune"]["auroc"].value for one in single])
    assert both.estimates["finetune"]["auroc"].value == pytest.approx(means)


def done(site: Path, folder: Path, options: prepared.Options) -> prepared.Prepared:
    found = ready(site, folder, split="split", options=options)
    for fit in found.left():
        found.shelf.do(fit, silent)
    return found


def test_few_halves_stretch_as_students_t() -> None:
    values = np.array([0.6, 0.7, 0.8, 0.9])
    spread = finetune.widened(values)
    assert spread.mean() == pytest.approx(values.mean())
    assert spread.std() / values.std() == pytest.approx(3.182 / 1.960, rel=1e-3)
    assert finetune.widened(np.array([0.5])).tolist() == [0.5]
    holed = finetune.widened(np.insert(values, 2, np.nan))
    assert holed.tolist() == spread.tolist()
    assert finetune.widened(np.array([0.5, np.nan])).tolist() == [0.5]


def test_a_loss_that_is_not_finite_is_exit_5(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = command(site, tmp_path / "out", "--split", "split", "--learning-rate", 1e30)
    assert run(words, monkeypatch) == NumericalError.exit_code
    assert not list((tmp_path / "out").glob("fits/*"))


def test_other_settings_meet_no_stale_answer(site: Path, tmp_path: Path) -> None:
    """Everything that an answer hangs on is in its name; the number of workers is not."""
    first = ready(site, tmp_path, split="split")
    names = {first.shelf.name(next(first.fits()))}
    for changes in ({"epochs": 4}, {"label_smoothing": 0.2}, {"task": "x=grade>=2"}, {"split": None}):
        other = ready(site, tmp_path, **{"split": "split", **changes})
        names.add(other.shelf.name(next(other.fits())))
    assert len(names) == 5
    workers = ready(site, tmp_path, split="split", options=prepared.Options(workers=3))
    assert workers.shelf.name(next(workers.fits())) in names
    fit = next(first.fits())
    fewer = dataclasses.replace(fit, labelled=fit.labelled.part(np.arange(9)))
    assert first.shelf.name(fewer) not in names


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("mean-colour", "has nothing to fine-tune"),
        ("random random", "two WEIGHTS are the same"),
        ("out/missing", "does not exist"),
    ],
)
def test_weights_that_cannot_be_fine_tuned(
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    weights: str,
    message: str,
) -> None:
    assert run(command(site, tmp_path / "out", weights=weights), monkeypatch) == 2
    assert message in capsys.readouterr().err


def test_only_plain_vits() -> None:
    with pytest.raises(InputError, match="resnet is a Linear; only plain ViTs"):
        classifier.checked(nn.Linear(2, 2), "resnet")


def test_a_foreign_folder_is_not_written_into(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "thesis.doc").write_text("mine")
    assert run(command(site, tmp_path), monkeypatch) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


def test_the_recipe_says_all_mistakes_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("epoch: 3\nlearning_rate: fast\n")
    with pytest.raises(ConfigError) as caught:
        recipe.load(path, {"layer_decay": 2.0})
    assert "epoch: unknown key; did you mean 'epochs'?" in str(caught.value)
    assert "learning_rate: " in str(caught.value)
    assert "layer_decay: " in str(caught.value)
    assert "r.yaml:2" in str(caught.value)


def test_the_command_line_wins_and_warms_up_a_fifth(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("epochs: 40\ndrop_path: 0.1\n")
    found = recipe.load(path, {"epochs": 10, "drop_path": None})
    assert (found.epochs, found.warmup_epochs, found.drop_path) == (10, 2.0, 0.1)
    assert recipe.load(None, {}) == Recipe()
    with pytest.raises(
        InputError, match="nope.yaml does not exist; the shipped one is configs/probe/finetune.yaml"
    ):
        recipe.load(tmp_path / "nope.yaml", {})
    with pytest.raises(
        ConfigError, match=r"in the recipe\n  learning_rate: .*got -1.0   \[--learning-rate\]"
    ):
        recipe.load(None, {"learning_rate": -1.0})
    with pytest.raises(ConfigError, match=r"warmup_epochs \(10\) must be below epochs"):
        recipe.load(tmp_path / "r.yaml", {"epochs": 10, "warmup_epochs": 10.0})


def test_the_shipped_recipe_is_the_default() -> None:
    from ssl_retina import shipped

    assert recipe.load(shipped.folder("configs") / "probe" / "finetune.yaml", {}) == Recipe()


def test_help_has_an_example(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["ssl-retina", "finetune", "--help"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Example:" in capsys.readouterr().out
