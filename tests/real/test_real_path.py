"""The verb `real`: sentences, stages that are done once, and the whole path on drawn eyes (slow)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import eyes
import pytest
from test_real_table import Silent
from typer.testing import CliRunner

from ssl_retina import shards
from ssl_retina.cli import app
from ssl_retina.demo import steps
from ssl_retina.errors import InputError, StateError
from ssl_retina.real import path
from ssl_retina.real.stages import Stages
from ssl_retina.train import checkpoint

TINY = """\
data: {batch_size: 8, workers: 0, held_out: 0.0}
model: {name: vit_tiny_patch16_224, image_size: 32, patch_size: 8, depth: 1}
method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 4}
train: {steps: 2, precision: fp32}
tracking: {wandb: "off"}
"""


def test_without_data_a_sentence_and_exit_2(tmp_path: Path) -> None:
    for arguments, words in (
        ([], "say in which folder"),
        ([str(tmp_path / "absent")], "not in .*absent: idrid.* missing there"),
        ([str(tmp_path), "train.steps=1"], "another one with --dev NAME"),
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


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_path_twice_and_a_trial_beside_it(
    drawn: eyes.Eyes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards to table; the trainer's own record says what it left out; a second run does nothing again."""
    tiny = tmp_path / "tiny.yaml"
    tiny.write_text(TINY)
    monkeypatch.setattr(path, "config", lambda: tiny)
    monkeypatch.setattr(path, "SIZE", 64)
    monkeypatch.setattr(path, "SEEDS", (0, 1))
    out = tmp_path / "out"
    first = path.walk(drawn.data, out, Silent())
    made = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.is_file()}
    second = path.walk(drawn.data, out, Silent())
    again = {file.name for file in made if file.stat().st_mtime_ns != made[file]}
    assert again == {"real.json", "report.md", "held_out.txt"}
    assert first == second == json.loads((out / "real.json").read_text())
    assert [len(task["results"][0]["probes"]["logistic"]["auroc"]["seeds"]) for task in first["tasks"]] == [
        2,
        2,
    ]

    sets = [shards.read_index(out / "shards" / name) for name in ("idrid", "hygd")]
    known = checkpoint.load_facts(checkpoint.newest(out / "seed-0" / "run"))
    held_out = sum(one["held_out"] for one in first["sets"])
    assert known["data"]["samples"] == sum(index.samples for index in sets) - held_out

    trial = path.develop(drawn.data, out, Silent(), name="a", recipe=("method.mask_ratio=0.5",))
    assert [task["split"].startswith("5 folds") for task in trial["tasks"]] == [True, True]
    assert (out / "report.md").read_text().count("| pretrained |") == 2
