"""The batch script without a cluster: its text, and bash that runs it with stand-ins for SLURM's tools."""

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from ssl_retina.errors import InputError
from ssl_retina.launch import profile, script
from ssl_retina.launch.profile import Profile
from ssl_retina.launch.script import Submission

NASTY = ["out=a b", "data.where=split != 'test'", 'x.y=$(touch hacked) `touch hacked` "q" ; exit 9', "z=ü\\n"]


def submission(
    folder: Path, overrides: list[str] | None = None, python: str = "/venv/bin/python"
) -> Submission:
    return Submission(folder / "run" / "slurm" / "1", folder, python, overrides or [])


def rendered(folder: Path, name: str = "cpu_2core", **more: object) -> str:
    found = profile.load(name)
    return script.render(found.model_copy(update=more), submission(folder))


def sbatch_lines(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH ")]


@pytest.mark.parametrize("name", profile.shipped_names())
def test_every_shipped_profile_gives_a_short_script_that_bash_reads(tmp_path: Path, name: str) -> None:
    text = rendered(tmp_path, name)
    assert len(text.splitlines()) < 60
    assert "{{" not in text
    assert "{%" not in text
    read = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")
    assert f"--time={profile.load(name).time}" in sbatch_lines(text)


def test_what_is_asked_of_sbatch(tmp_path: Path) -> None:
    found = profile.load("template", nodes=3, time="2-00:00:00")
    assert sbatch_lines(script.render(found, submission(tmp_path))) == [
        "--job-name=run",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--cpus-per-task=64",
        "--gpus-per-node=a100:4",
        "--time=2-00:00:00",
        "--mem=480G",
        "--partition=gpu",
        "--account=retina",
        "--qos=normal",
        "--constraint=a100&nvlink",
        "--exclusive",
        "--mail-type=FAIL",
        f"--chdir={tmp_path}",
        f"--output={tmp_path}/run/slurm/1/job-%j.log",
        "--open-mode=append",
        "--requeue",
        "--signal=USR1@300",
    ]


def test_sizes_come_from_slurm_when_it_runs(tmp_path: Path) -> None:
    body = rendered(tmp_path, "a100_8gpu", nodes=4).split("--signal=", 1)[1]
    assert '--nnodes="$SLURM_JOB_NUM_NODES"' in body
    assert "processes=$SLURM_GPUS_ON_NODE" in body
    assert not [word for word in body.split() if word in ("4", "8", "96")]


def test_a_path_that_sbatch_could_not_read_is_refused(tmp_path: Path) -> None:
    for name in ("a b", "it's", 'a"b', "a#b", "a\\b"):
        with pytest.raises(InputError, match="cannot be told to sbatch"):
            script.render(profile.load("cpu_2core"), submission(tmp_path / name))
    percent = script.render(profile.load("cpu_2core"), submission(tmp_path / "100%j"))
    assert f"--output={tmp_path}/100%%j/run/slurm/1/job-%j.log" in sbatch_lines(percent)


TOOLS = {
    "scontrol": 'echo "scontrol $*" >> {calls}; [ $2 != hostnames ] || echo localhost\n'
    "echo PreemptTime=${{PREEMPTED:-None}}\n"
    "[ $1 != requeue ] || exit ${{REFUSES:-0}}",
    "srun": 'for word; do printf "%s\\0" "$word"; done > {words}\n'
    '[ -z "$LEAVES" ] || echo "$LEAVES" > "$SSL_RETINA_ENDED"\n'
    '[ -z "$KILLED_BY" ] || kill -"$KILLED_BY" $PPID\nexit "${{CODE:-0}}"',
}


def ran(
    folder: Path, *, overrides: list[str] | None = None, **environment: str
) -> tuple[int, list[str], list[str]]:
    """Run a script with stand-ins for SLURM's tools: its exit code, srun's words, calls of scontrol."""
    tools = folder / "tools"
    tools.mkdir(exist_ok=True)
    calls, words = folder / "calls", folder / "words"
    calls.write_text("")
    for name, body in TOOLS.items():
        (tools / name).write_text(f"#!/bin/bash\n{body.format(calls=calls, words=words)}\n")
        (tools / name).chmod(0o755)
    asked = submission(folder, overrides)
    asked.folder.mkdir(parents=True, exist_ok=True)
    text = script.render(profile.load("cpu_2core").model_copy(update={"requeue_limit": 3}), asked)
    inner = {"SLURM_JOB_ID": "1234", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "localhost"}
    inner |= {"SLURM_CPUS_PER_TASK": "2", "PATH": f"{tools}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash"], input=text, text=True, env={**inner, **environment}, cwd=folder, check=False, timeout=60
    )
    said = [line for line in calls.read_text().splitlines() if not line.startswith("scontrol show")]
    return done.returncode, words.read_text().split("\0")[:-1], said


def test_overrides_reach_the_ranks_as_they_were_typed(tmp_path: Path) -> None:
    code, words, calls = ran(tmp_path, overrides=NASTY)
    assert (code, calls) == (0, [])
    assert not (tmp_path / "hacked").exists()
    assert words[words.index("pretrain") :] == ["pretrain", f"{tmp_path}/run/slurm/1/config.yaml", *NASTY]
    assert "--nnodes=2" in words
    assert "--rdzv-endpoint=localhost:21234" in words
    assert "--rdzv-id=1234-0" in words
    assert ran(tmp_path, SLURM_RESTART_COUNT="2")[1].count("--rdzv-id=1234-2") == 1


REQUEUE = ["scontrol requeue 1234"]


@pytest.mark.parametrize(
    ("environment", "code", "calls"),
    [
        ({"CODE": "1", "LEAVES": "75"}, 0, REQUEUE),
        ({"CODE": "143", "LEAVES": "75"}, 0, REQUEUE),
        ({"CODE": "138"}, 0, REQUEUE),  # the agents died of SIGUSR1 while they started
        ({"CODE": "1", "LEAVES": "75", "REFUSES": "1"}, 75, REQUEUE),
        ({"CODE": "1", "LEAVES": "75", "SLURM_RESTART_COUNT": "2"}, 0, REQUEUE),
        ({"CODE": "1", "LEAVES": "75", "SLURM_RESTART_COUNT": "3"}, 75, []),
        ({"CODE": "1", "LEAVES": "75", "KILLED_BY": "TERM"}, 75, []),  # scancel, or SLURM's own requeue
        ({"CODE": "1", "PREEMPTED": "2026-11-24"}, 0, REQUEUE),
        ({"CODE": "143", "PREEMPTED": "2026-11-24", "KILLED_BY": "TERM"}, 0, REQUEUE),
        ({"CODE": "1", "PREEMPTED": "2026-11-24", "LEAVES": "4"}, 4, []),
        ({"CODE": "0", "PREEMPTED": "2026-11-24"}, 0, []),
        ({"CODE": "1"}, 1, []),
        ({"CODE": "137"}, 137, []),
        ({"CODE": "143"}, 143, []),
        ({"CODE": "1", "LEAVES": "4"}, 4, []),
        ({"CODE": "138", "LEAVES": "4"}, 4, []),
        ({"CODE": "0"}, 0, []),
    ],
)
def test_only_75_goes_back_to_the_queue(
    tmp_path: Path, environment: dict[str, str], code: int, calls: list[str]
) -> None:
    assert ran(tmp_path, **environment)[::2] == (code, calls)


def test_what_an_earlier_start_left_is_not_read(tmp_path: Path) -> None:
    assert ran(tmp_path, CODE="1", LEAVES="75")[0] == 0
    assert ran(tmp_path, CODE="1", SLURM_RESTART_COUNT="1")[::2] == (1, [])
    assert ran(tmp_path, CODE="1", SLURM_JOB_ID="1235")[::2] == (1, [])


def test_setup_lines_and_the_interface_come_before_srun(tmp_path: Path) -> None:
    text = rendered(tmp_path, setup=("module load a", "source b"), interface="ib0", python="/x/python")
    lines = text.splitlines()
    assert lines.index("module load a") < lines.index("source b") < text[: text.index("srun")].count("\n")
    assert "export NCCL_SOCKET_IFNAME=ib0 GLOO_SOCKET_IFNAME=ib0" in lines
    assert "  /x/python -m torch.distributed.run" in text
    assert shlex.quote("/venv/bin/python") not in text


@pytest.mark.parametrize(
    ("interface", "nccl", "gloo"),
    [
        ("^docker0,lo", "^docker0,lo", ""),
        ("=eth0", "=eth0", "eth0"),
        ("eth0,eth1", "eth0,eth1", "eth0,eth1"),
        ("ib0 & touch hacked; (exit 9)", "ib0 & touch hacked; (exit 9)", "ib0 & touch hacked; (exit 9)"),
    ],
)
def test_the_interface_is_one_word_for_the_shell(
    tmp_path: Path, interface: str, nccl: str, gloo: str
) -> None:
    """Whatever it is: a profile that was never checked, too. gloo knows no ^ and no =."""
    lines = rendered(tmp_path, interface=interface).splitlines()
    (export,) = [line for line in lines if line.startswith("export NCCL")]
    told = f'{export}; printf "%s|%s" "$NCCL_SOCKET_IFNAME" "$GLOO_SOCKET_IFNAME"'
    done = subprocess.run(
        ["bash", "-c", told], cwd=tmp_path, env={}, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{nccl}|{gloo}"
    assert list(tmp_path.iterdir()) == []


def test_a_profile_is_rendered_without_what_it_does_not_ask_for(tmp_path: Path) -> None:
    bare = Profile(cpus_per_task=1, processes_per_node=1)
    text = script.render(bare, submission(tmp_path))
    assert not [
        line for line in sbatch_lines(text) if line.startswith(("--mem", "--gpus", "--partition", "--qos"))
    ]
    assert "SOCKET_IFNAME" not in text
