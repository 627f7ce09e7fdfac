"""The verb `real`: sentences, stages that are done once, and the whole path on drawn eyes (slow)."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import eyes
import pytest
from test_real_table import Silent
from typer.testing import CliRunner

from ssl_retina import shards
from ssl_retina.cli import app
from ssl_retina.demo import steps
from ssl_retina.errors import ConfigError, InputError, StateError
from ssl_retina.real import beginning, judging, path, recipes
from ssl_retina.real.recipes import Budget, Recipe
from ssl_retina.real.stages import Stages
from ssl_retina.train import checkpoint


def test_without_data_a_sentence_and_exit_2(tmp_path: Path) -> None:
    for arguments, words in (
        ([], "say in which folder"),
        ([str(tmp_path / "absent")], "not in .*absent: idrid.* missing there"),
        ([str(tmp_path), "train.steps=1"], "another one with --dev NAME"),
        (
            [str(tmp_path), "--methods", "mae,ssimclr"],
            "no method 'ssimclr'; did you mean 'simclr'.*: dinov2, mae",
        ),
        (
            [str(tmp_path), "--methods", "ijepa"],
            "ijepa has no small config .*real_cpu_ijepa.yaml.*: dinov2, mae",
        ),
        ([str(tmp_path), "--methods", "mae,mae"], "mae is given twice"),
        ([str(tmp_path), "--methods", "mae,"], "name one or several"),
        ([str(tmp_path), "--vary", "method.flip"], "give a key and its other value"),
        ([str(tmp_path), "--vary", "method.flip=false", "--methods", "mae,simclr"], "name one method"),
        ([str(tmp_path), "--vary", "method.flip=false", "--dev", "a"], "give one of them"),
        ([str(tmp_path), "method.flip=false", "--vary", "method.flip=false"], "has that value already"),
        ([str(tmp_path), "seed=1", "--vary", "method.flip=false"], "say how many by --seeds"),
    ):
        done = CliRunner().invoke(app, ["real", *arguments, "--out", str(tmp_path / "out")])
        assert isinstance(done.exception, InputError)
        assert done.exception.exit_code == 2
        with pytest.raises(InputError, match=words):
            raise done.exception
    assert not (tmp_path / "out").exists()


def test_the_makefile_passes_an_absent_folder_on() -> None:
    """`make real` and `make real DATA=nowhere` are a sentence and make's exit code 2."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    for given, words in (
        ([], "say in which folder"),
        (["DATA=/nowhere"], "the real photographs are not in /nowhere"),
    ):
        command = ["make", "real", *given, "--assume-old=setup", f"BIN={Path(sys.executable).parent}"]
        done = subprocess.run(command, cwd=root, env=environment, check=False, capture_output=True, text=True)
        assert done.returncode == 2
        assert words in done.stderr
        assert "Traceback" not in done.stderr


def counting(folder: Path, answer: int) -> steps.Command:
    """Python that leaves a mark each time it runs."""
    script = (
        f"import json, pathlib; p = pathlib.Path({str(folder / 'runs')!r}); "
        f"p.write_text(p.read_text() + 'x' if p.exists() else 'x'); print(json.dumps({{'answer': {answer}}}))"
    )
    return steps.python(script, typed="count")


def test_a_stage_is_done_once_and_never_taken_for_another(tmp_path: Path) -> None:
    def go(answer: int, config: str) -> dict[str, int]:
        stages = Stages(tmp_path / "out", Silent(), dict(os.environ))
        return stages.command(
            "s", "what", counting(tmp_path, answer), told=lambda found: str(found["answer"]), config=config
        )

    assert go(1, "a") == go(1, "a") == {"answer": 1}
    assert (tmp_path / "runs").read_text() == "x"
    with pytest.raises(StateError, match="is of another config: name another --out"):
        go(1, "b")
    with pytest.raises(StateError, match="is of another arguments"):
        go(2, "a")
    assert (tmp_path / "runs").read_text() == "x"


def test_a_stage_that_failed_is_done_again(tmp_path: Path) -> None:
    stages = Stages(tmp_path, Silent(), dict(os.environ))
    failing = steps.python("import sys; sys.exit(3)", typed="fail")
    with pytest.raises(steps.StepError, match="exit code 3"):
        stages.command("s", "what", failing, told=str)
    assert not (tmp_path / "stages" / "s.json").exists()


def test_methods_share_encoder_batch_steps_and_pooling() -> None:
    """What "the same budget" means; and that one `random` is the untrained twin of every row."""
    runs = [path._run(recipe) for recipe in recipes.of_methods(tuple(recipes.shipped_configs()))]
    assert [run.method_name for run in runs] == ["dinov2", "mae", "simclr"]
    assert recipes.DEFAULT == ("simclr",)
    for run in runs:
        assert run.model == runs[0].model
        assert run.train == runs[0].train
        assert run.data.batch_size == runs[0].data.batch_size
        assert getattr(run.method, "pool", "avg") == "avg", "MAE's export is pooled by the mean"


def test_another_recipe_has_another_folder_and_one_of_the_same_values_is_refused() -> None:
    (mae,) = recipes.of_methods(["mae"])
    arms = recipes.varied(
        mae.with_values(["model.patch_size=16"]), ["method.field=retina", "method.flip=false"]
    )
    arms = tuple(recipes.budgeted(arm, Budget(steps=30)) for arm in arms)
    assert [arm.name for arm in arms] == ["mae", "method.field=retina", "method.flip=false"]
    assert len({arm.folder for arm in arms} | {mae.folder}) == 4
    path._check(arms)
    with pytest.raises(InputError, match="method.field=ignore is the same as mae"):
        path._check(recipes.varied(mae, ["method.field=ignore"]))
    with pytest.raises(ConfigError, match="fild"):
        path._check(recipes.varied(mae, ["method.fild=retina"]))


TINY = """\
data: {batch_size: 8, workers: 0, held_out: 0.0}
model: {name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, depth: 1}
method: %s
train: {steps: 2, precision: fp32}
tracking: {wandb: "off"}
"""
METHODS = {
    "mae": "{name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 4}",
    "simclr": "{name: simclr, projector_hidden: 32, projector_out: 16}",
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """Recipes of two steps, and small photographs."""
    found = {}
    for name, section in METHODS.items():
        config = tmp_path / f"{name}.yaml"
        config.write_text(TINY % section)
        found[name] = Recipe(name, name, config)
    monkeypatch.setattr(beginning, "SIZE", 64)
    monkeypatch.setattr(judging, "RESAMPLES", 100)
    return found


def stamps(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}


def tables(result: dict[str, Any], row: str) -> list[Any]:
    return [one for task in result["tasks"] for one in task["results"] if one["weights"] == row]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_path_twice_then_with_another_method_and_one_value_changed(
    drawn: eyes.Eyes, tmp_path: Path, tiny: dict[str, Recipe]
) -> None:
    """Shards to table; the trainer's own record says what it left out; what is done is not done again."""
    out, budget = tmp_path / "out", Budget(seeds=2, processes=1)
    given = {"listener": Silent(), "budget": budget}
    first = path.walk(drawn.data, out, asked=[tiny["mae"]], **given)
    made = stamps(out)
    second = path.walk(drawn.data, out, asked=[tiny["mae"]], **given)
    again = {file.name for file, when in stamps(out).items() if made.get(file) != when}
    assert again == {"real.json", "report.md", "held_out.txt"}
    assert first == second == json.loads((out / "real.json").read_text())
    assert [len(one["probes"]["logistic"]["auroc"]["seeds"]) for one in tables(first, "mae")] == [2, 2]

    sets = [shards.read_index(out / "shards" / name) for name in ("idrid", "hygd")]
    known = checkpoint.load_facts(checkpoint.newest(out / "mae" / "seed-0" / "run"))
    held_out = sum(one["held_out"] for one in first["sets"])
    assert known["data"]["samples"] == sum(index.samples for index in sets) - held_out

    both = path.walk(drawn.data, out, asked=[tiny["simclr"], tiny["mae"]], **given)
    changed = {file.relative_to(out).parts[0] for file, when in stamps(out).items() if made.get(file) != when}
    assert changed == {"real.json", "report.md", "held_out.txt", "simclr", "stages"}
    records = {file.name for file in (out / "stages").iterdir() if file not in made}
    assert all("simclr" in name for name in records), "neither the other method nor opponents"
    for row in ("mae", "random", "mean-colour", "pixel-pca"):
        assert tables(both, row) == tables(first, row)

    arms = recipes.varied(tiny["mae"], ["method.mask_ratio=0.5"])
    compared = path.vary(drawn.data, out, arms=arms, **given)
    assert [task["split"].startswith("5 folds") for task in compared["tasks"]] == [True, True]
    text = (out / "vary.md").read_text()
    assert text.count("| method.mask_ratio=0.5 less mae |") == 2
    assert "image-level, optimistic" in text
    assert (out / "report.md").read_text().count("| simclr less mae |") == 2

    trial = path.develop(
        drawn.data,
        out,
        listener=Silent(),
        recipe=tiny["mae"].with_values((), name="a"),
        budget=Budget(seeds=1, processes=1),
    )
    assert len(tables(trial, "a")) == 2
    assert tables(trial, "a")[0]["probes"]["logistic"]["auroc"]["seeds"] == [
        tables(compared, "mae")[0]["probes"]["logistic"]["auroc"]["seeds"][0]
    ]
