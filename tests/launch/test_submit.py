"""`launch` as it is typed, with a stand-in for sbatch: what is checked, what is written, what is said."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml
from click.testing import Result
from factory import make_shards
from typer.testing import CliRunner

from ssl_retina import config, locks, methods
from ssl_retina.cli import app
from ssl_retina.errors import CheckpointError, ConfigError, InputError, ShardError, StateError
from ssl_retina.launch import submit
from ssl_retina.train import checkpoint, resume, starts, tracking
from ssl_retina.train.setup import VERIFIED

CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "debug_mae.yaml"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with shards; no sbatch on the PATH."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.chdir(tmp_path)
    make_shards(tmp_path / "shards", samples=8)
    return tmp_path


def sbatch(here: Path, body: str) -> None:
    path = here / "bin" / "sbatch"
    path.parent.mkdir()
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def typed(*words: str, cluster: str = "cpu_2core") -> Result:
    """`launch` with these words; its errors are raised."""
    verb = ["launch", str(CONFIG), "--cluster", cluster, "data.shards=shards", "out=runs/a"]
    done = CliRunner().invoke(app, [*verb, *words], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done


def ask(*words: str, cluster: str = "cpu_2core") -> str:
    """What it prints on stdout."""
    return typed(*words, cluster=cluster).stdout


def test_a_dry_run_prints_what_would_be_submitted_and_writes_nothing(here: Path) -> None:
    before = sorted(here.rglob("*"))
    text = ask("--dry-run", "--nodes", "4", "--time", "2:00:00")
    assert sorted(here.rglob("*")) == before
    assert text.startswith("#!/bin/bash\n")
    assert "#SBATCH --nodes=4" in text
    assert "#SBATCH --time=2:00:00" in text
    sbatch(here, "echo 41")
    ask("--nodes", "4", "--time", "2:00:00")
    assert (here / "runs/a/slurm/1/job.sh").read_text() == text


def test_the_job_its_log_and_what_to_type_next_are_told(here: Path) -> None:
    sbatch(here, f'echo "$@" > {here}/asked; echo "4711;cluster"')
    said = typed().stderr
    folder = here / "runs/a/slurm/1"
    assert (here / "asked").read_text().split() == ["--parsable", str(folder / "job.sh")]
    for part in (
        "job 4711: 2 processes on 2 nodes, out=runs/a",
        "squeue -j 4711",
        f"tail -F {folder}/job-4711.log",
        "ssl-retina runs runs/a",
        "scancel 4711",
        "scancel --signal=USR1 4711",
    ):
        assert part in said
    assert json.loads((folder / submit.JOB).read_text()) == {"job": "4711", "nodes": 2}
    assert (folder / "config.yaml").read_bytes() == CONFIG.read_bytes()
    assert os.access(folder / "job.sh", os.X_OK)
    second = json.loads(ask("--json"))
    assert second["job"] == "4711"
    assert second["processes"] == 2
    assert second["script"] == str(here / "runs/a/slurm/2/job.sh")
    assert second["log"] == str(here / "runs/a/slurm/2/job-4711.log")


def test_without_sbatch_the_person_is_sent_to_a_login_node(here: Path) -> None:
    with pytest.raises(InputError, match="there is no sbatch on the PATH: run this on a login node"):
        ask()
    assert not (here / "runs").exists()


def test_sbatchs_refusal_is_told_in_its_own_words(here: Path) -> None:
    sbatch(here, "echo 'sbatch: error: invalid partition specified: gpu' >&2; exit 1")
    with pytest.raises(InputError, match="refused the job: sbatch: error: invalid partition specified: gpu"):
        ask()
    assert not (here / "runs/a").exists()


def test_an_sbatch_without_a_cluster_sends_to_a_login_node(here: Path) -> None:
    sbatch(here, "echo 'sbatch: fatal: Could not establish a configuration source' >&2; exit 1")
    with pytest.raises(InputError, match="no SLURM controller was reached: run this on a login node"):
        ask()
    assert not (here / "runs/a").exists()


def test_a_config_without_anything_blames_no_override_that_nobody_typed(here: Path) -> None:
    (here / "empty.yaml").write_text("# nothing\n")
    verb = ["launch", "empty.yaml", "--cluster", "cpu_2core", "--dry-run"]
    with pytest.raises(ConfigError) as caught:
        CliRunner().invoke(app, verb, catch_exceptions=False)
    assert "data.batch_size: required, not given   [empty.yaml]" in str(caught.value)
    assert "SHARDS" not in str(caught.value)


def test_plans_made_at_once_get_a_number_each(here: Path) -> None:
    """Each is told where its own script and log are."""
    sbatch(here, "echo $$")
    words = ["data.shards=shards", "out=runs/a"]
    plans = [submit.plan(CONFIG, words, submit.cluster("cpu_2core", nodes=1, time=None)) for _ in range(6)]
    with ThreadPoolExecutor(len(plans)) as pool:
        done = list(pool.map(submit.submit, plans))
    folders = [one.plan.submission.folder for one in done]
    assert sorted(folder.name for folder in folders) == ["1", "2", "3", "4", "5", "6"]
    for folder, one in zip(folders, done, strict=True):
        assert json.loads((folder / submit.JOB).read_text())["job"] == one.job
        assert (folder / "job.sh").read_text() == one.plan.text
        assert f"--output={folder}/job-%j.log" in one.plan.text


def test_a_job_that_was_taken_is_told_whatever_happens_then(here: Path) -> None:
    """The disk refuses the note of the job's number: here a folder stands in its place."""
    sbatch(here, f'/bin/mkdir "{here}/runs/a/slurm/1/job.json"; echo 4711')
    with pytest.raises(StateError, match=r"SLURM has taken the job: 4711\. Do not submit it again"):
        ask()
    assert (here / "runs/a/slurm/1/job.sh").exists(), "the job will read it"


def test_a_script_that_cannot_be_written_is_no_job(here: Path) -> None:
    sbatch(here, f"touch {here}/asked; echo 1")
    (here / "gone.yaml").write_bytes(CONFIG.read_bytes())
    words = ["data.shards=shards", "out=runs/a"]
    cluster = submit.cluster("cpu_2core", nodes=1, time=None)
    planned = submit.plan(here / "gone.yaml", words, cluster)
    (here / "gone.yaml").unlink()
    with pytest.raises(InputError, match=r"gone\.yaml: No such file or directory; nothing was submitted"):
        submit.submit(planned)
    assert not (here / "runs/a").exists()
    assert not (here / "asked").exists()


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--nodes", "3"], InputError, r"\(3 x 1 x 1\), .*: 30 or 33, or other --nodes"),
        (["train.accumulate=32"], InputError, r"\(2 x 1 x 32\), .*: 64, or other --nodes"),
        (["train.stepz=3"], ConfigError, "did you mean 'steps'"),
        (["data.where=splitt != test"], ConfigError, "splitt: no such column"),
        (["data.sampling=balanced"], ConfigError, "has no weights: ssl-retina balance shards"),
    ],
)
def test_what_cannot_run_is_refused_before_it_is_queued(
    here: Path, words: list[str], error: type[Exception], message: str
) -> None:
    sbatch(here, "echo 1")
    with pytest.raises(error, match=message):
        ask(*words)
    assert not (here / "runs").exists()


def test_damaged_shards_are_refused_and_invisible_ones_are_said(here: Path) -> None:
    said = json.loads(ask("data.shards=[shards, /elsewhere]", "--dry-run", "--json"))
    assert said["notes"] == ["/elsewhere is not visible on this machine, so it was not checked"]
    shard = next((here / "shards").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(ShardError, match=f"{shard.name} has .* bytes"):
        ask("--dry-run")


def test_an_address_is_left_to_the_job_and_may_hide_nothing(here: Path) -> None:
    sbatch(here, "echo 41")
    said = typed("data.shards=https://host/set").stderr
    assert "https://host/set is looked at when the job begins, not here" in said
    for secret in ("https://ann:sesame@host/set", "https://host/set?sig=sesame"):
        with pytest.raises(InputError, match="would stand in the job's script and config") as caught:
            ask(f"data.shards={secret}", "out=runs/b", "--dry-run")
        assert "sesame" not in str(caught.value)
    assert not (here / "runs/b").exists()


def test_data_that_cannot_be_seen_is_a_note_to_look_at_and_an_error_to_submit(here: Path) -> None:
    sbatch(here, "echo 1")
    with pytest.raises(InputError, match=f"nothere cannot be seen from here: nothing .* begin in {here}"):
        ask("data.shards=nothere")
    assert not (here / "runs").exists()
    assert "nothere is not visible" in typed("data.shards=nothere", "--dry-run").stderr


def test_weights_to_start_from_are_looked_for_as_data_is(here: Path) -> None:
    sbatch(here, "echo 1")
    for start in ("nothere.pth", "local-dir:nothere", "gone/out"):
        with pytest.raises(InputError, match=r"(nothere|gone).* cannot be seen from here"):
            ask(f"model.init={start}")
    said = json.loads(ask("model.init=vit_tiny_patch16_224.augreg_in21k", "--dry-run", "--json"))
    assert said["notes"] == []


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("out", "problem"),
    [
        ("thesis", r"thesis holds other things than a run \(1 entry\)"),
        ("thesis/main.tex", "main.tex is a file, not a folder"),
        ("thesis/main.tex/a", "main.tex is a file, not a folder"),
        ("/proc/version/a", "/proc/version is a file, not a folder"),
    ],
)
def test_a_folder_that_cannot_be_a_runs_is_refused_looking_and_submitting(
    here: Path, out: str, problem: str, words: list[str]
) -> None:
    sbatch(here, "echo 1")
    (here / "thesis").mkdir()
    (here / "thesis/main.tex").touch()
    with pytest.raises(InputError, match=problem):
        ask(f"out={out}", *words)
    assert [path.name for path in (here / "thesis").iterdir()] == ["main.tex"]


@pytest.fixture
def trained(here: Path) -> Path:
    """A run of 8 steps that stands at step 4: what `launch` reads of it, without the weights."""
    run = config.load(
        CONFIG,
        ["data.shards=shards", "out=runs/a", "train.steps=8", "schedule.warmup_steps=1"],
        methods.config_type,
        methods.available(),
    )
    folder = here / "runs/a/checkpoints/step-00000004"
    folder.mkdir(parents=True)
    (folder / checkpoint.CONFIG).write_text(json.dumps(run.dump()))
    (folder / checkpoint.FACTS).write_text(json.dumps({"step": 4}))
    return folder


SAME = ("train.steps=8", "schedule.warmup_steps=1")


@pytest.mark.parametrize("words", [[], ["--dry-run"]])
def test_a_run_of_other_settings_is_told_before_a_job_waits_for_it(
    here: Path, trained: Path, words: list[str]
) -> None:
    sbatch(here, "echo 1")
    ask(*SAME, "checkpoint.keep=9", *words)  # harmless
    with pytest.raises(CheckpointError, match="seed: 0 -> 5") as caught:
        ask(*SAME, "seed=5", *words)
    assert caught.value.exit_code == 4
    with pytest.raises(CheckpointError, match="--change continues with the new optim.weight_decay"):
        ask(*SAME, "optim.weight_decay=0.5", *words)
    with pytest.raises(CheckpointError, match="train.steps: 8 -> 9. With --extend"):
        ask(*SAME, "train.steps=9", *words)


def test_change_and_extend_reach_the_job(here: Path, trained: Path) -> None:
    text = ask(*SAME, "train.steps=9", "optim.weight_decay=0.5", "--dry-run", "--change", "--extend")
    config_file = here / "runs/a/slurm/1/config.yaml"
    assert f"--module ssl_retina pretrain --extend --change {config_file} data.shards=shards" in text
    assert "--extend" not in ask(*SAME, "--dry-run")


def test_a_complete_run_is_told_and_one_that_cannot_be_read_is_left_to_the_job(
    here: Path, trained: Path
) -> None:
    done = trained.rename(trained.with_name("step-00000008"))
    (done / checkpoint.FACTS).write_text(json.dumps({"step": 8}))
    with pytest.raises(StateError, match="runs/a is complete at step 8; more train.steps need --extend"):
        ask(*SAME, "--dry-run")
    ask(*SAME, "train.steps=9", "--extend", "--dry-run")
    (done / checkpoint.FACTS).write_text("[")
    ask(*SAME, "--dry-run")


def test_a_run_that_is_being_written_is_said(here: Path) -> None:
    (here / "runs/a").mkdir(parents=True)
    with locks.lock(here / "runs/a"):
        assert "is being written now" in ask("--dry-run", "--json")


def test_the_script_lies_where_the_run_accepts_it(here: Path) -> None:
    """`pretrain` takes a folder that holds a submission for a run of its own."""
    assert set(submit.KNOWN) >= {tracking.METRICS, starts.STARTS, starts.SUBMISSIONS, "config.json"}
    assert VERIFIED == "verified.json"
    assert resume.checkpoint.FOLDER in submit.KNOWN


def test_overrides_with_blanks_and_quotes_stay_what_they_are(here: Path) -> None:
    text = ask("--dry-run", "tracking.project=it's $HOME")
    assert """'tracking.project=it'"'"'s $HOME'""" in text


def test_your_own_profile(here: Path) -> None:
    (here / "mine.yaml").write_text(yaml.safe_dump({"cpus_per_task": 3, "processes_per_node": 2}))
    said = json.loads(ask("--dry-run", "--json", cluster="mine.yaml"))
    assert (said["nodes"], said["processes"]) == (1, 2)
    assert "#SBATCH --cpus-per-task=3" in said["text"]


def test_a_script_can_be_looked_at_before_there_are_shards(here: Path) -> None:
    """What the issue types: no shards, no out. A submission is refused."""
    sbatch(here, "echo 1")
    verb = ["launch", str(CONFIG), "--cluster", "a100_8gpu", "--nodes", "4"]
    done = CliRunner().invoke(app, [*verb, "--dry-run"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "pretrain" in done.stdout
    assert f"{here}/OUT/slurm/1/config.yaml data.shards=SHARDS out=OUT\n" in done.stdout
    assert "not given, so the script shows data.shards=SHARDS and out=OUT" in done.stderr
    with pytest.raises(ConfigError, match=r"data\.shards: required, not given"):
        CliRunner().invoke(app, verb, catch_exceptions=False)
