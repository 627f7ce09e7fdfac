"""A config and a cluster profile -> a job in SLURM's queue.

In: what was typed. Out: a plan, checked as far as this machine can see, whose text is what would be
submitted; and, submitted, the job's number. Nothing is written before everything is good.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from ssl_retina import architecture, config, config_text, files, locks, methods, shard_index, shards
from ssl_retina.addresses import Address
from ssl_retina.config import Run
from ssl_retina.data import sampling, selection
from ssl_retina.errors import InputError, ShardError, StateError
from ssl_retina.launch import profile as profiles
from ssl_retina.launch import script
from ssl_retina.launch.profile import Profile
from ssl_retina.launch.script import Submission
from ssl_retina.train import checkpoint, resume, skips, starts

JOB = "job.json"
UNREACHED = ("configuration source", "DNS SRV", "Unable to contact slurm controller")
"""What sbatch says where it does not find its cluster, as on a machine that is no login node."""
KNOWN = ("checkpoints", "config.json", "metrics.jsonl", skips.SKIPPED, starts.STARTS, starts.SUBMISSIONS)
"""What a run's folder holds, at least one of them."""


@dataclass(frozen=True)
class Plan:
    """A checked submission: `text` is the script; `notes` say what could not be checked here.

    unseen: files and folders of the config that this machine does not see: enough to look, not to submit.
    """

    run: Run
    config: Path
    profile: Profile
    submission: Submission
    text: str
    notes: tuple[str, ...]
    unseen: tuple[Path, ...]

    @property
    def ranks(self) -> int:
        """Processes that will train together."""
        return self.profile.nodes * self.profile.ranks_per_node


def plan(
    path: Path, overrides: Sequence[str], profile: Profile, *, extend: bool = False, change: bool = False
) -> Plan:
    """Check config, batch, data and the run that would be continued, and render the script. Writes nothing.

    Raises ConfigError, InputError (batch, paths), ShardError (shards that are visible here and damaged),
    CheckpointError and StateError (a run of other settings, a complete one).
    """
    run = config.load(path, overrides, methods.config_type, methods.available())
    _check_batch(run, profile)
    addresses = [one for one in run.data.shards if isinstance(one, Address)]
    _refuse_secrets(addresses)
    files.check_folder(run.out, KNOWN, "a run")
    resume.look(run, extend=extend, change=change)
    unseen = _check_data(run)
    notes = tuple(f"{one} is not visible on this machine, so it was not checked" for one in unseen)
    notes += tuple(f"{one} is looked at when the job begins, not here" for one in addresses)
    here = Path(os.path.abspath("."))
    out = here / run.out
    if locks.is_held(out):
        notes = (*notes, f"{run.out} is being written now: the job can only begin when that has ended")
    folder = out / starts.SUBMISSIONS
    flags = (*(["--extend"] if extend else []), *(["--change"] if change else []))
    submission = Submission(
        folder / str(_free_number(folder)), here, sys.executable, overrides=tuple(overrides), flags=flags
    )
    return Plan(run, path, profile, submission, script.render(profile, submission), notes, unseen)


def placeholders(path: Path, overrides: Sequence[str]) -> list[str]:
    """Overrides for what only the person can say and has not said, so that a script can be looked at."""
    values = config_text.read(path, overrides).values
    data = values.get("data")
    given = isinstance(data, dict) and "shards" in data
    return [*([] if given else ["data.shards=SHARDS"]), *([] if "out" in values else ["out=OUT"])]


def _check_batch(run: Run, profile: Profile) -> None:
    batch, accumulate = run.data.batch_size, run.train.accumulate
    parts = profile.nodes * profile.ranks_per_node * accumulate
    if batch % parts:
        near = sorted({max(batch // parts, 1) * parts, -(-batch // parts) * parts})
        raise InputError(
            f"data.batch_size ({batch}) must be a multiple of nodes x processes x train.accumulate "
            f"({profile.nodes} x {profile.ranks_per_node} x {accumulate}), so that every rank gets equally "
            f"many samples: {' or '.join(map(str, near))}, or other --nodes"
        )


def _refuse_secrets(addresses: Sequence[Address]) -> None:
    for address in addresses:
        if address.secret:
            raise InputError(
                f"data.shards: what is hidden in {address} would stand in the job's script and config, which "
                "others may read: give it in the job's environment, in ~/.netrc or fsspec's configuration"
            )


def _check_data(run: Run) -> tuple[Path, ...]:
    """Hold shards that this machine sees against their index; give what it does not see."""
    indexes = []
    folders = [place for place in run.data.shards if isinstance(place, Path)]
    for folder in folders:
        if not folder.exists():
            continue
        index = shards.read_index(folder)
        wrong = shard_index.verify(index, hashes=False)
        if wrong:
            raise ShardError(f"{folder}: " + "; ".join(wrong[:5]))
        indexes.append(index)
    if len(indexes) == len(run.data.shards):
        sampling.check(run.data, indexes)
        if run.data.where:
            selection.parse(run.data.where, indexes)
    named = [*folders, run.data.exclude, run.tracking.labels, *_start(run)]
    return tuple(path for path in named if path is not None and not path.exists())


def _start(run: Run) -> tuple[Path | None, ...]:
    """Where the weights lie that a run begins with; one that began already reads them no more."""
    if run.model.init is None or checkpoint.folders(run.out):
        return ()
    return architecture.local(run.model.init), run.model.init_reference


def _free_number(folder: Path) -> int:
    taken = [int(path.name) for path in folder.glob("*") if path.name.isdigit()]
    return max(taken, default=0) + 1


class Submitted(NamedTuple):
    """What was submitted, under the number that it got, and its job."""

    plan: Plan
    job: str


def submit(planned: Plan) -> Submitted:
    """Write script and config into the run's folder, hand the script to sbatch, and give the job's number.

    The submission gets the first number that is free now, which need not be the plan's. Raises InputError
    without sbatch, with sbatch's own words where it refuses, and where the folder cannot be written; then
    nothing is left. Raises StateError with the job's number where a job was accepted and cannot be noted.
    """
    if shutil.which("sbatch") is None:
        raise InputError(
            "there is no sbatch on the PATH: run this on a login node of the cluster; "
            "--dry-run prints the script anywhere"
        )
    _check_seen(planned)
    files.claim_folder(planned.submission.run_dir, KNOWN, "a run")
    planned = _numbered(planned)
    submission = planned.submission
    try:
        files.write_bytes(submission.folder / script.CONFIG, planned.config.read_bytes())
        files.write_bytes(submission.script, planned.text.encode(), 0o755)
    except OSError as error:
        _withdraw(submission)
        raise InputError(
            f"{error.filename or submission.folder}: {error.strerror}; nothing was submitted"
        ) from None
    return Submitted(planned, _accepted(planned))


def _numbered(planned: Plan) -> Plan:
    """The plan under a number whose folder it has: of all that plan at once, mkdir gives it to one."""
    folder = planned.submission.folder.parent
    while True:
        own = folder / str(_free_number(folder))
        with contextlib.suppress(FileExistsError):
            own.mkdir(parents=True)
            break
    submission = replace(planned.submission, folder=own)
    return replace(planned, submission=submission, text=script.render(planned.profile, submission))


def _accepted(planned: Plan) -> str:
    """Hand the script to sbatch and note the job's number beside it."""
    submission = planned.submission
    answered = subprocess.run(
        ["sbatch", "--parsable", str(submission.script)], check=False, capture_output=True, text=True
    )
    if answered.returncode:
        _withdraw(submission)
        raise InputError(_refusal(answered.stderr.strip() or f"exit code {answered.returncode}"))
    job = answered.stdout.strip().split(";")[0]
    try:
        files.write_json(submission.folder / JOB, {"job": job, "nodes": planned.profile.nodes})
    except OSError as error:
        raise StateError(
            f"SLURM has taken the job: {job}. Do not submit it again. Its note {submission.folder / JOB} "
            f"cannot be written ({error.strerror}), so that `runs` does not know the job before it begins: "
            f"squeue -j {job} shows it, scancel {job} takes it back"
        ) from None
    return job


def _refusal(words: str) -> str:
    """Why there is no job, in sbatch's own words, and what to do."""
    if any(sign in words for sign in UNREACHED):
        return (
            f"no SLURM controller was reached: run this on a login node of the cluster. sbatch says: {words}"
        )
    return f"sbatch refused the job: {words}\nThe profile says what is asked for; see launch/README.md"


def _check_seen(planned: Plan) -> None:
    if planned.unseen:
        unseen = ", ".join(map(str, planned.unseen))
        raise InputError(
            f"{unseen} cannot be seen from here: nothing was submitted. In the job "
            f"too relative paths begin in {planned.submission.chdir}; --dry-run prints the script as it is"
        )


def _withdraw(submission: Submission) -> None:
    shutil.rmtree(submission.folder)
    for folder in (submission.folder.parent, submission.run_dir):
        with contextlib.suppress(OSError):  # it holds something else
            folder.rmdir()


def cluster(name: str, *, nodes: int | None, time: str | None) -> Profile:
    """The profile of that name or path, with the command line's nodes and time."""
    return profiles.load(name, nodes=nodes, time=time)
