"""The drill: real DeepSpeed over two nodes of a real SLURM, submitted, preempted, killed, and continued.

Whatever happens to a run on the way, it ends with the weights and moments of an undisturbed one, bit for
bit (law 4).
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
from cluster import Cluster, wait_for

from ssl_retina import files
from ssl_retina.train import starts, tracking

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(1500)]
CONFIG = Path(__file__).parents[2] / "configs" / "pretrain" / "debug_mae.yaml"
STEPS = 80
PROFILE = """
nodes: 2
time: "15"
processes_per_node: 1
cpus_per_task: 1
memory: 1800M
partition: drill
signal_seconds: 60
setup:
  - export DRILL="it's set"
"""


class Drill:
    """Runs that share shards and the undisturbed run that they are held against."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        tiny.make_shards(folder / "shards")
        (folder / "drill.yaml").write_text(PROFILE)

    def launch(self, name: str) -> str:
        """Submit a run as it is typed; the number of its job."""
        words = [*tiny.overrides(self.folder / "shards", self.folder / name), f"train.steps={STEPS}"]
        verb = ("launch", str(CONFIG), "--cluster", str(self.folder / "drill.yaml"), "--json")
        done = self.cluster.call(
            sys.executable, "-m", "ssl_retina", *verb, "data.where=split != test", *words, cwd=self.folder
        )
        assert done.returncode == 0, done.stderr
        return str(json.loads(done.stdout)["job"])

    def log(self, name: str) -> str:
        """The whole output of a run's jobs."""
        paths = sorted((self.folder / name / "slurm").glob("*/job-*.log"))
        return "".join(path.read_text(errors="replace") for path in paths)

    def until_step(self, name: str, step: int) -> None:
        wait_for(lambda: tracking.last_step(self.folder / name) >= step, 500, f"{name} at step {step}")

    def until(self, job: str, *states: str) -> None:
        wait_for(lambda: self.cluster.state(job) in states, 500, f"job {job} {' or '.join(states)}")

    def state(self, name: str) -> str:
        """What `ssl-retina runs` says."""
        done = self.cluster.call(
            sys.executable, "-m", "ssl_retina", "runs", str(self.folder / name), "--json"
        )
        return str(json.loads(done.stdout)["runs"][0]["state"])

    def accounting(self, job: str) -> list[tuple[str, str]]:
        """sacct's lines of a job and its earlier starts: state and exit code; printed for the reader."""
        shown = self.cluster.ask(
            "sacct", "-D", "-X", "-j", job, "-o", "JobID,JobName,State,ExitCode,NNodes,NodeList,Elapsed"
        )
        print(shown)
        return [(line.split()[2], line.split()[3]) for line in shown.splitlines()[2:]]

    def product(self, name: str) -> tuple[str, str, list[object]]:
        """What a run ended with: hashes of weights and moments, and its lines without their clock."""
        folder = self.folder / name
        last = folder / "checkpoints" / f"step-{STEPS:08d}"
        lines = [{**line, "clock": None} for line in tracking.read_lines(folder)]
        hashes = (files.sha256(last / f"{file}.safetensors") for file in ("weights", "moments"))
        return (*hashes, lines)  # type: ignore[return-value]


@pytest.fixture(scope="module")
def drill(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Drill:
    return Drill(cluster, tmp_path_factory.mktemp("drill"))


@pytest.fixture(scope="module")
def whole(drill: Drill) -> str:
    """The job of the undisturbed run, which it waits for."""
    job = drill.launch("whole")
    drill.until(job, "COMPLETED", "FAILED")
    return job


def test_two_nodes_train_to_the_end(drill: Drill, whole: str) -> None:
    log = drill.log("whole")
    print(log)
    assert drill.cluster.state(whole) == "COMPLETED", log
    assert set(re.findall(r"SLURM_NODEID=(\d) of 2", log)) == {"0", "1"}
    assert f"{STEPS} steps, loss" in log
    assert "Traceback" not in log
    wait_for(lambda: drill.accounting(whole) == [("COMPLETED", "0:0")], 60, "sacct knows of the end")
    (start,) = starts.read(drill.folder / "whole")
    assert (start.world_size, start.hosts, start.job, start.end) == (2, 2, whole, "done")
    assert drill.state("whole") == "finished"


def test_f73_the_warning_before_the_time_limit_saves_and_requeues(drill: Drill, whole: str) -> None:
    """SIGUSR1 to the ranks' agents alone, as SLURM with cgroups sends it: they pass it on."""
    job = drill.launch("warned")
    drill.until_step("warned", STEPS // 3)
    for pid in agents(drill.folder / "warned"):
        os.kill(pid, signal.SIGUSR1)
    drill.until(job, "PENDING", "COMPLETING")
    assert (drill.folder / "warned" / "slurm" / "1" / f"ended-{job}-0").read_text() == "75\n"
    assert drill.state("warned") == "requeued"
    drill.until(job, "COMPLETED", "FAILED")
    log = drill.log("warned")
    assert "stopped by SIGUSR1 and saved at step" in log
    assert f"job {job} goes back to the queue" in log
    assert drill.product("warned") == drill.product("whole"), log
    first, second = starts.read(drill.folder / "warned")
    assert (first.restart, first.end, second.restart, second.end) == (0, "signal", 1, "done")
    assert STEPS // 3 <= second.step < STEPS
    wait_for(lambda: drill.accounting(job) == [("REQUEUED", "0:0"), ("COMPLETED", "0:0")], 60, "sacct knows")


def test_a_job_that_is_preempted_and_then_requeued_by_hand(drill: Drill, whole: str) -> None:
    """Preempted with a time of grace, its own script requeues it; by hand, the script must not do it too."""
    job = drill.launch("urgent")
    drill.until_step("urgent", STEPS // 4)
    drill.cluster.ask("sbatch", "-p", "urgent", "-N2", "-o", "/dev/null", "--wrap", "srun sleep 1")
    wait_for(lambda: len(starts.read(drill.folder / "urgent")) == 2, 500, "the preempted job's second start")
    drill.until_step("urgent", STEPS // 2)
    drill.cluster.ask("scontrol", "requeue", job)
    wait_for(lambda: drill.cluster.state(job) in ("PENDING", "COMPLETING"), 120, "requeued")
    drill.until(job, "COMPLETED", "FAILED")
    log = drill.log("urgent")
    assert drill.product("urgent") == drill.product("whole"), log
    assert log.count("goes back to the queue") == 1
    found = starts.read(drill.folder / "urgent")
    assert [(start.restart, start.end) for start in found] == [(0, "signal"), (1, "signal"), (2, "done")]
    wait_for(lambda: len(drill.accounting(job)) == 3, 60, "sacct knows")


def test_f74_a_killed_rank_ends_the_job_and_the_next_one_goes_on(drill: Drill, whole: str) -> None:
    job = drill.launch("killed")
    drill.until_step("killed", STEPS // 3)
    os.kill(ranks(drill.folder / "killed")[-1], signal.SIGKILL)
    wait_for(lambda: drill.cluster.state(job) == "FAILED", 120, "the job failed")
    wait_for(lambda: not named(drill.folder / "killed"), 60, "no process is left")
    assert drill.state("killed") in ("interrupted", "failed")
    again = drill.launch("killed")
    assert again != job
    drill.until(again, "COMPLETED", "FAILED")
    log = drill.log("killed")
    assert drill.product("killed") == drill.product("whole"), log
    assert len(starts.read(drill.folder / "killed")) == 2
    wait_for(lambda: [state for state, _ in drill.accounting(job)] == ["FAILED"], 60, "sacct knows")
    # srun's exit code is that of whichever node's end it heard of first: the killed rank's, or SIGTERM's
    assert drill.accounting(job)[0][1] not in ("0:0", "75:0")
    drill.accounting(again)


def named(run: Path) -> dict[int, list[str]]:
    """Processes on this machine whose words name the run, and their words."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if f"out={run}" in words:
                found[int(entry.name)] = words
    return found


def agents(run: Path) -> list[int]:
    """torchrun's processes, one on each node."""
    found = [
        pid
        for pid, words in named(run).items()
        if words[1:3] == ["-m", "torch.distributed.run"] and "srun" not in words[0]
    ]
    assert len(found) == 2
    return found


def ranks(run: Path) -> list[int]:
    """The training processes, one on each node."""
    found = [pid for pid, words in named(run).items() if "ssl_retina" in words and "pretrain" in words]
    children = [pid for pid in found if parent(pid) in agents(run)]
    assert len(children) == 2
    return sorted(children)


def parent(pid: int) -> int:
    return int(subprocess.check_output(["ps", "-o", "ppid=", "-p", str(pid)]))
