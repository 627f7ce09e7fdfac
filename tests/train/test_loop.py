"""One process, whole runs of a second: what resumes, what is refused, and what a run folder holds."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from ssl_retina import config, dist, files, methods
from ssl_retina.contract import Batch, Clock, Output
from ssl_retina.errors import (
    CheckpointError,
    ConfigError,
    InputError,
    InterruptedRunError,
    ShardError,
    StateError,
)
from ssl_retina.methods import mocov3
from ssl_retina.train import checkpoint, loop, saving, setup
from ssl_retina.train.engine import process_group
from ssl_retina.train.progress import Progress
from ssl_retina.train.signals import Stop


@pytest.fixture(scope="module", autouse=True)
def group() -> Iterator[None]:
    """One group for the module; joining takes a moment."""
    with process_group():
        yield


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run of 4 steps, a checkpoint every 2."""
    out = tmp_path_factory.mktemp("trained") / "run"
    loop.pretrain(short(shards, out), Stop())
    return out


@pytest.fixture
def run_dir(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def short(shards: Path, out: Path, **changes: Any) -> config.Run:
    defaults = {"train__steps": 4, "checkpoint__every_steps": 2, "tracking__evaluate_every_steps": 4}
    return tiny.run(shards, out, **{**defaults, **changes})


def steps_logged(run_dir: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def test_the_run_folder(trained: Path, shards: Path) -> None:
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders(trained)] == [4, 2, 0]
    written = config.parse(json.loads((trained / "config.json").read_text()), methods.config_type)
    assert written.dump() == short(shards, trained).dump()
    facts = checkpoint.load_facts(checkpoint.newest(trained))
    assert facts["data"]["digests"] == [files.sha256(shards / "index.json")]
    assert facts["data"]["samples"] + facts["data"]["held_out_samples"] == tiny.SAMPLES
    assert facts["samples"] == 32
    assert facts["versions"]["torch"] == torch.__version__.split("+")[0]
    assert not (trained / ".lock").exists()
    line = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(line) == {
        "step", "samples", "loss", "learning_rate", "gradient_norm", "skipped", "spikes", "rollbacks", "lost",
        "held_out_loss", "feature_rank", "clock",
    }  # fmt: skip
    assert set(line["clock"]) == {"time", "images_per_second", "data_wait", "memory_gib", "replaced"}


def test_the_same_command_on_a_complete_run_changes_nothing(run_dir: Path, shards: Path) -> None:
    def held() -> dict[str, bytes]:
        paths = (path for path in run_dir.rglob("*") if path.is_file() and path.parent != run_dir)
        lines = (run_dir / "metrics.jsonl").read_bytes()
        return {"metrics": lines, **{str(path): path.read_bytes() for path in paths}}

    before = held()
    summary = loop.pretrain(short(shards, run_dir), Stop())
    assert (summary.started_at, summary.steps) == (4, 4)
    assert held() == before


def test_two_runs_of_one_seed_are_equal_and_another_seed_is_not(
    trained: Path, shards: Path, tmp_path: Path
) -> None:
    loop.pretrain(short(shards, tmp_path / "same", data__workers=1), Stop())
    loop.pretrain(short(shards, tmp_path / "other", seed=4), Stop())
    weights = [
        checkpoint.load_weights(checkpoint.newest(folder))
        for folder in (trained, tmp_path / "same", tmp_path / "other")
    ]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert not all(torch.equal(weights[0][name], weights[2][name]) for name in weights[0])


def test_no_step_draws_from_the_global_generator(shards: Path, tmp_path: Path) -> None:
    """Law 2's other half: a draw from a shared generator would depend on how often others drew."""
    with setup.opened(short(shards, tmp_path), extend=False) as session:
        before = torch.get_rng_state()
        loop._steps(session, Stop())
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("factor", [float("nan"), 1e4], ids=["nan", "spike"])
def test_a_skipped_step_changes_nothing_and_the_teacher_follows_an_applied_one(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    """F61, F63: a teacher that followed in a skipped step too would come nearer to a student that stood
    still; batch norm's statistics and the step count of AdamW stay as well."""
    forward = mocov3.Method.forward

    def broken(self: mocov3.Method, batch: Batch, clock: Clock) -> Output:
        output = forward(self, batch, clock)
        wrong = factor if self.training and clock.step == 2 else 1.0
        return Output(output.loss * wrong, output.logs, output.features)

    monkeypatch.setattr(mocov3.Method, "forward", broken)
    saved = {"checkpoint__every_steps": 1, "checkpoint__keep": 9, "method": tiny.METHODS["mocov3"]}
    saved["train__spikes"] = {"window": 2, "deviations": 100.0, "times_median": 1e9}
    assert loop.pretrain(short(shards, tmp_path, **saved), Stop()).skipped == 1
    states = [
        checkpoint.load_weights(folder) | checkpoint.load_moments(folder)
        for folder in reversed(checkpoint.folders(tmp_path))
    ]
    moved = [
        {name for name in before if not torch.equal(before[name], after[name])}
        for before, after in itertools.pairwise(states)
    ]
    assert moved[2] == set()
    for applied in (moved[1], moved[3]):
        assert "teacher.encoder.vit.blocks.0.attn.qkv.weight" in applied
        assert "teacher.head.layers.0.weight" in applied
    steps = [checkpoint.load_facts(folder)["optimizer_steps"] for folder in checkpoint.folders(tmp_path)]
    assert steps == [3, 2, 2, 1, 0]
    (noted,) = [json.loads(line) for line in (tmp_path / "skipped.jsonl").read_text().splitlines()]
    assert noted["step"] == 3
    assert ("spike" in noted) == (factor == 1e4)


def test_f62_one_step_in_a_hundred_is_too_many_over_a_thousand() -> None:
    """Nine scattered skips are borne, the tenth within a thousand steps is not; older ones are forgotten."""
    progress = Progress()
    for step in range(1, 3000):
        progress = progress.after(applied=step % 112 != 0)  # 9 times in a thousand at most
        assert not progress.is_hopeless(10)
    assert Progress.of({"step": 2999, **progress.facts()}) == progress
    hopeless = [progress := progress.after(applied=step % 99 != 0) for step in range(1000)]
    assert any(one.is_hopeless(10) and one.in_a_row == 1 for one in hopeless)
    assert not any(one.is_hopeless(50) for one in hopeless)


def _bit_flip(folder: Path) -> None:
    path = folder / checkpoint.MOMENTS
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 16
    path.write_bytes(bytes(damaged))


def test_f83_a_damaged_newest_checkpoint_is_set_aside_and_the_run_ends_as_if_it_were_whole(
    run_dir: Path, trained: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bit_flip(run_dir / "checkpoints" / "step-00000004")
    (run_dir / "checkpoints" / "latest").write_text("")
    summary = loop.pretrain(short(shards, run_dir), Stop())
    assert summary.started_at == 2
    said = capsys.readouterr().err
    assert "it is now step-00000004.bad-hash-moments" in said
    assert "the hint latest is missing or empty" in said
    assert (run_dir / "checkpoints" / "step-00000004.bad-hash-moments").is_dir()
    assert steps_logged(run_dir) == [1, 2, 3, 4]
    ours, theirs = (checkpoint.load_weights(checkpoint.newest(one)) for one in (run_dir, trained))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def _break_all(run_dir: Path) -> None:
    for folder in checkpoint.folders(run_dir):
        _bit_flip(folder)


def _remove_all(run_dir: Path) -> None:
    shutil.rmtree(run_dir / "checkpoints")


def _set_aside_earlier(run_dir: Path) -> None:
    (run_dir / "metrics.jsonl").unlink()
    for folder in checkpoint.folders(run_dir):
        folder.rename(folder.with_name(f"{folder.name}.bad-hash-weights"))


@pytest.mark.parametrize("harm", [_break_all, _remove_all, _set_aside_earlier])
def test_f84_a_run_with_history_never_starts_over(
    run_dir: Path, shards: Path, harm: Callable[[Path], None]
) -> None:
    harm(run_dir)
    before = sorted(run_dir.rglob("*"))
    with pytest.raises(CheckpointError, match="does not start over by itself") as caught:
        loop.pretrain(short(shards, run_dir), Stop())
    assert caught.value.exit_code == 4
    if harm is not _remove_all:
        assert [f"step-0000000{step}" in str(caught.value) for step in (0, 2, 4)] == [True] * 3
    assert sorted(run_dir.rglob("*")) == before


def test_a_run_that_died_before_its_first_checkpoint_starts_fresh(shards: Path, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / ".tmp-step-00000000-1").mkdir(parents=True)
    (tmp_path / "metrics.jsonl").write_text("")
    assert loop.pretrain(short(shards, tmp_path, train__steps=2, schedule__warmup_steps=1), Stop()).steps == 2
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_f87_another_config_is_refused_field_by_field(run_dir: Path, shards: Path) -> None:
    other = short(
        shards, run_dir, model__patch_size=16, optim__layer_decay=1.0, train__precision="bf16", seed=9
    )
    with pytest.raises(CheckpointError) as caught:
        loop.pretrain(other, Stop())
    assert caught.value.exit_code == 4
    text = str(caught.value)
    assert "\n  model.patch_size: 8 -> 16" in text
    assert "\n  optim.layer_decay: 0.75 -> 1.0" in text
    assert "\n  seed: 3 -> 9" in text
    assert "\n  train.precision: 'fp32' -> 'bf16'" in text
    assert text.count("\n  ") == 4


def test_harmless_fields_may_change(run_dir: Path, shards: Path, tmp_path: Path) -> None:
    """Also where the shards lie: their digest decides."""
    moved = Path(shutil.copytree(shards, tmp_path / "elsewhere"))
    changed = short(
        moved, run_dir, data__workers=1, train__zero_stage=2, checkpoint__keep=2, tracking__every_steps=7
    )
    assert loop.pretrain(changed, Stop()).steps == 4


def test_f59_other_photographs_are_refused(run_dir: Path, tmp_path: Path) -> None:
    import factory

    other = tmp_path / "others"
    other.mkdir()
    factory.make_shards(other, samples=tiny.SAMPLES, size=48, patients=23, shards=2, seed=5)
    with pytest.raises(StateError, match="the data are not those") as caught:
        loop.pretrain(short(other, run_dir), Stop())
    assert caught.value.exit_code == 4
    assert "digests" in str(caught.value)


def test_f59_another_order_of_the_same_photographs_is_refused(run_dir: Path, shards: Path) -> None:
    other = short(shards, run_dir, data__shuffle_shards=1, data__proportions=[1.0])
    with pytest.raises(CheckpointError) as caught:
        loop.pretrain(other, Stop(), change=True)
    assert "\n  data.shuffle_shards: None -> 1" in str(caught.value)
    assert "\n  data.proportions: None -> [1.0]" in str(caught.value)


def test_another_exclusion_is_other_data(shards: Path, run_dir: Path, tmp_path: Path) -> None:
    import factory

    listed = tmp_path / "withdrawn.txt"
    listed.write_text(factory.key(3) + "\n")
    with pytest.raises(StateError, match="exclude"):
        loop.pretrain(short(shards, run_dir, data__exclude=str(listed)), Stop())


def test_extending_is_explicit_and_explained(
    run_dir: Path, shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    longer = short(shards, run_dir, train__steps=6)
    with pytest.raises(CheckpointError, match=r"train.steps: 4 -> 6. With --extend the run becomes 6 steps"):
        loop.pretrain(longer, Stop())
    summary = loop.pretrain(longer, Stop(), extend=True)
    assert (summary.started_at, summary.steps) == (4, 6)
    assert "the learning rate at step 4 is" in capsys.readouterr().err
    assert steps_logged(run_dir) == [1, 2, 3, 4, 5, 6]
    assert loop.pretrain(longer, Stop()).steps == 6  # from now on its length
    with pytest.raises(CheckpointError, match="cannot be shortened"):
        loop.pretrain(short(shards, run_dir, train__steps=5), Stop(), extend=True)


def test_extending_tells_what_else_goes_back_and_freezes_nothing_again(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The teacher's momentum had come to 1; prototypes that learn would have to wait for a second time."""
    method = {**tiny.METHODS["dino"], "freeze_prototypes": 0.6, "momentum": 0.9, "warmup_teacher": 0.8}
    run_dir, changes = tmp_path / "run", {"method": method, "optim__weight_decay_end": 0.4}
    loop.pretrain(short(shards, run_dir, **changes), Stop())
    again = short(shards, run_dir, train__steps=7, **changes)
    for extend in (False, True):
        with pytest.raises(
            CheckpointError, match=r"first 0\.6 of the run, in which a part of dino .* most 6 "
        ):
            loop.pretrain(again, Stop(), extend=extend)
    longer = short(shards, run_dir, train__steps=6, **changes)
    with pytest.raises(
        CheckpointError, match=r"goes back too: weight decay 0\..*, momentum 0\..* instead of 1"
    ):
        loop.pretrain(longer, Stop())
    assert loop.pretrain(longer, Stop(), extend=True).steps == 6
    assert "teacher_temperature 0.065 instead of 0.07" in capsys.readouterr().err


def test_shards_that_do_not_fit_their_index_are_refused_before_the_first_step(
    shards: Path, tmp_path: Path
) -> None:
    damaged = Path(shutil.copytree(shards, tmp_path / "shards"))
    tar = sorted(damaged.glob("*.tar"))[1]
    content = bytearray(tar.read_bytes())
    content[5000] ^= 1
    tar.write_bytes(bytes(content))
    with pytest.raises(ShardError, match=tar.name) as caught:
        loop.pretrain(short(damaged, tmp_path / "run"), Stop())
    assert caught.value.exit_code == 4
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_hashes_are_read_once_and_again_after_a_change(
    run_dir: Path, shards: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[bool] = []
    verify = setup.Source.verify
    monkeypatch.setattr(
        setup.Source, "verify", lambda self, *, hashes: (asked.append(hashes), verify(self, hashes=hashes))[1]
    )
    loop.pretrain(short(shards, run_dir), Stop())
    moved = Path(shutil.copytree(shards, tmp_path / "shards"))
    (moved / sorted(moved.glob("*.tar"))[0].name).touch()
    loop.pretrain(short(moved, run_dir), Stop())
    loop.pretrain(short(moved, run_dir), Stop())
    assert asked == [False, True, False]


def test_one_writer_per_run_folder(run_dir: Path, shards: Path) -> None:
    with files.lock(run_dir), pytest.raises(StateError, match="is being written by process"):
        loop.pretrain(short(shards, run_dir), Stop())


def test_a_batch_that_does_not_divide_is_refused_before_anything_is_written(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dist, "world_size", lambda: 3)
    with pytest.raises(InputError, match=r"data.batch_size \(8\) must be a multiple of .*\(3 x 1\)"):
        loop.pretrain(short(shards, tmp_path / "run"), Stop())
    assert not (tmp_path / "run").exists()


def test_a_method_that_cannot_be_built_is_refused_before_anything_is_written(
    shards: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="hides none or all"):
        loop.pretrain(short(shards, tmp_path / "run", method__mask_ratio=0.001), Stop())
    assert not (tmp_path / "run").exists()


def test_ctrl_c_saves_and_says_how_to_continue(shards: Path, tmp_path: Path) -> None:
    class Pressed(Stop):
        def begin(self) -> None:
            super().begin()
            self.note(2)
            self.note(15)  # a second signal changes nothing

    with pytest.raises(
        InterruptedRunError, match="saved at step 1 of 4; the same command continues"
    ) as caught:
        loop.pretrain(short(shards, tmp_path), Pressed())
    assert caught.value.exit_code == 130
    assert checkpoint.newest(tmp_path).name == "step-00000001"


class Disk:
    """Refuses the commits whose numbers are listed."""

    def __init__(self, refused: set[int]) -> None:
        self.refused, self.commits = refused, 0
        self.commit = checkpoint.commit

    def __call__(self, *arguments: Any) -> Path:
        self.commits += 1
        if self.commits in self.refused:
            raise OSError(28, "No space left on device")
        return self.commit(*arguments)


def test_f85_one_refused_save_is_said_and_survived(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(saving.checkpoint, "commit", Disk({2}))
    loop.pretrain(short(shards, tmp_path), Stop())
    said = capsys.readouterr().err
    assert "step 2 could not be saved (No space left on device); the last checkpoint is step 0" in said
    assert [checkpoint.step_of(folder) for folder in checkpoint.folders(tmp_path)] == [4, 0]


def test_f85_the_second_refused_save_in_a_row_stops_the_run(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving.checkpoint, "commit", Disk({2, 3, 4}))
    with pytest.raises(CheckpointError, match="step 4 could not be saved"):
        loop.pretrain(short(shards, tmp_path, train__steps=8), Stop())
    assert checkpoint.newest(tmp_path).name == "step-00000000"
    assert not (tmp_path / ".lock").exists()


def test_f85_no_room_is_seen_before_writing(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10_000}))
    assert not checkpoint.has_room(run_dir)
    assert checkpoint.has_room(tmp_path / "nothing")
