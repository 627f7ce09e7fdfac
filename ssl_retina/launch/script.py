"""Profile + run -> the text of one batch script: a pure function, so that it is tested without a cluster.

The template is `launch/job.sh.j2`. Whatever came from the user stands in it quoted for the shell.
"""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from ssl_retina import shipped
from ssl_retina.errors import InputError
from ssl_retina.launch.profile import Profile

TEMPLATE = "job.sh.j2"
SCRIPT = "job.sh"
CONFIG = "config.yaml"


@dataclass(frozen=True)
class Submission:
    """What one submission is about; all paths are absolute.

    folder: its own folder, `RUN/slurm/NUMBER`. chdir: where relative paths of the config start.
    flags: options of `pretrain`.
    """

    folder: Path
    chdir: Path
    python: str
    overrides: Sequence[str]
    flags: Sequence[str] = ()

    @property
    def run_dir(self) -> Path:
        """The run's folder."""
        return self.folder.parents[1]

    @property
    def script(self) -> Path:
        """The batch script."""
        return self.folder / SCRIPT

    def log(self, job: str) -> Path:
        """Where the output of a job goes, over all its restarts."""
        return self.folder / f"job-{job}.log"


def render(profile: Profile, submission: Submission) -> str:
    """The script. Raises InputError for a path that cannot stand in a #SBATCH line."""
    arguments = [*submission.flags, str(submission.folder / CONFIG), *submission.overrides]
    template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(  # noqa: S701
        (shipped.folder("launch") / TEMPLATE).read_text(encoding="utf-8")
    )
    text = template.render(
        profile=dict(profile),
        script=shlex.quote(str(submission.script)),
        job_name=re.sub(r"[^\w.-]", "_", submission.run_dir.name),
        chdir=_in_comment(submission.chdir),
        log=_in_comment(submission.folder).replace("%", "%%") + "/job-%j.log",
        folder=shlex.quote(str(submission.folder)),
        network=_network(profile),
        python=shlex.quote(profile.python or submission.python),
        arguments=shlex.join(arguments),
    )
    return text.rstrip() + "\n"


def _network(profile: Profile) -> str:
    """The variables that name the network between nodes.

    gloo takes whole names only: `=` is left out, and of all but some (`^`) it is told nothing.
    """
    if profile.interface is None:
        return ""
    told = [f"NCCL_SOCKET_IFNAME={shlex.quote(profile.interface)}"]
    if not profile.interface.startswith("^"):
        told.append(f"GLOO_SOCKET_IFNAME={shlex.quote(profile.interface.removeprefix('='))}")
    return " ".join(told)


def _in_comment(path: Path) -> str:
    """A path for a #SBATCH line, whose quoting is sbatch's own: no path that would need it is let in."""
    if re.search(r"[\s'\"\\#]", str(path)):
        raise InputError(f"{path}: blanks, quotes, # and backslashes in this path cannot be told to sbatch")
    return str(path)
