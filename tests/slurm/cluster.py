"""A real SLURM of two nodes on this machine: munge, MariaDB, slurmdbd, slurmctld and two slurmd.

Everything lies in one folder, on free ports, and only processes that were started here are ended. The
installed daemons' own configuration is neither read nor changed.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

NODES = ("n1", "n2")
PROGRAMS = (
    *("munged", "slurmctld", "slurmd", "slurmdbd", "sacctmgr", "sbatch"),
    *("mariadbd", "mariadb-install-db"),
)
PATHS = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/sbin"))

SLURM_CONF = """
ClusterName=drill
# a job's rendezvous port follows its number: two drills on one machine must not share theirs
FirstJobId={first_job}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# a requeued job waits for the lifetime of credentials, two minutes if it is not said
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1
MpiDefault=none
ReturnToService=2
JobRequeue=1
KillWait=20
MailProg=/bin/true
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={dbd}
AccountingStoragePass={folder}/munge.socket
AccountingStoreFlags=job_comment
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={n1} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={n2} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=drill Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n[1-2] MaxTime=INFINITE State=UP PriorityTier=2
"""

SLURMDBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={dbd}
SlurmUser=root
LogFile={folder}/slurmdbd.log
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={maria}
StorageUser=slurm
StoragePass={password}
StorageLoc=slurm_acct
"""

USERS = """\
CREATE DATABASE slurm_acct;
CREATE USER slurm@'127.0.0.1' IDENTIFIED BY '{password}';
CREATE USER slurm@localhost IDENTIFIED BY '{password}';
GRANT ALL ON slurm_acct.* TO slurm@'127.0.0.1';
GRANT ALL ON slurm_acct.* TO slurm@localhost;
"""


def missing() -> list[str]:
    """Programs of the drill that are not installed."""
    search = os.pathsep.join((os.environ.get("PATH", ""), PATHS))
    return [name for name in PROGRAMS if shutil.which(name, path=search) is None]


def free_ports(count: int) -> list[int]:
    """Ports that are free now, all different."""
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def wait_for(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll until a condition holds; the bound only ends a drill that has failed."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} s in vain: {what}"
        time.sleep(0.1)


@dataclass(frozen=True)
class Cluster:
    """A running cluster; its commands are called with `environment`."""

    folder: Path
    environment: dict[str, str]

    def call(self, *words: str, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
        """Run one command; its output and exit code."""
        return subprocess.run(
            words, env=self.environment, cwd=cwd, capture_output=True, text=True, check=False, timeout=120
        )

    def ask(self, *words: str) -> str:
        """What a command that must succeed prints."""
        done = self.call(*words)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """A job's state, as `scontrol show job` has it."""
        shown = self.ask("scontrol", "show", "job", job)
        return next(word.split("=")[1] for word in shown.split() if word.startswith("JobState="))

    def logs(self) -> str:
        """The ends of all daemons' logs, for a drill that failed."""
        return "\n".join(
            f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-30:])
            for path in sorted(self.folder.glob("*.log"))
        )


@contextmanager
def running(folder: Path) -> Iterator[Cluster]:
    """Start everything, give the cluster with both nodes idle, and end everything again."""
    ctld, dbd, maria, n1, n2 = free_ports(5)
    values = {"folder": folder, "host": socket.gethostname(), "password": secrets.token_hex(8)}
    values |= {"first_job": 1 + secrets.randbelow(9000)}
    values |= {"ctld": ctld, "dbd": dbd, "maria": maria, "n1": n1, "n2": n2}
    for name in ("state", "database", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir()
    write(folder / "slurm.conf", SLURM_CONF.format(**values), 0o644)
    write(folder / "slurmdbd.conf", SLURMDBD_CONF.format(**values), 0o600)
    write(folder / "users.sql", USERS.format(**values), 0o600)
    write(folder / "munge.key", secrets.token_hex(64), 0o400)
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))},
        "PATH": os.pathsep.join((os.environ.get("PATH", ""), PATHS)),
        "SLURM_CONF": str(folder / "slurm.conf"),
    }
    cluster = Cluster(folder, environment)
    daemons: list[subprocess.Popen[bytes]] = []

    def start(*words: str, **more: str) -> None:
        with (folder / f"{Path(words[0]).name}-{len(daemons)}.out.log").open("wb") as log:
            daemons.append(
                subprocess.Popen(
                    words, env={**environment, **more}, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    try:
        munge_and_database(cluster, start, maria)
        start("slurmdbd", "-D", SLURM_CONF=str(folder / "slurmdbd.conf"))
        wait_for(lambda: listens(dbd), 60, "slurmdbd listens")
        cluster.ask("sacctmgr", "-i", "add", "cluster", "drill")
        start("slurmctld", "-D", "-f", str(folder / "slurm.conf"))
        wait_for(lambda: listens(ctld), 30, "slurmctld listens")
        for node in NODES:
            start("slurmd", "-D", "-f", str(folder / "slurm.conf"), "-N", node)
        wait_for(lambda: idle(cluster), 60, "both nodes are idle")
        yield cluster
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        end(daemons)


def munge_and_database(cluster: Cluster, start: Callable[..., None], port: int) -> None:
    """The two services under SLURM's own: credentials, and the database of the accounting."""
    folder = cluster.folder
    names = {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid"}
    names |= {"log-file": "munge.log", "seed-file": "munge.seed"}
    start("munged", "--foreground", "--force", *(f"--{key}={folder / name}" for key, name in names.items()))
    data = f"--datadir={folder / 'database'}"
    plain = ("--no-defaults", data, "--user=root")
    cluster.ask("mariadb-install-db", *plain, "--auth-root-authentication-method=normal", "--skip-test-db")
    start(
        "mariadbd",
        *plain,
        "--bind-address=127.0.0.1",
        f"--port={port}",
        f"--socket={folder / 'maria.socket'}",
        f"--pid-file={folder / 'maria.pid'}",
        f"--init-file={folder / 'users.sql'}",
        "--innodb-buffer-pool-size=32M",
        "--innodb-log-file-size=16M",
        "--innodb-flush-log-at-trx-commit=0",
    )
    wait_for(lambda: listens(port), 60, "MariaDB listens")


def write(path: Path, text: str, mode: int) -> None:
    """A file with its permissions from the start."""
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)


def listens(port: int) -> bool:
    """Whether somebody listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def idle(cluster: Cluster) -> bool:
    """Whether both nodes wait for jobs."""
    return cluster.call("sinfo", "--noheader", "-N", "-p", "drill", "-o", "%t").stdout.split() == ["idle"] * 2


def end(daemons: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End the daemons, the last started first, by their own process numbers."""
    for process in reversed(daemons):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
