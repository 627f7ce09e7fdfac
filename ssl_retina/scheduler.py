"""Which scheduler's job this process belongs to: SLURM's environment, read in this one place."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """A SLURM job and how often it was started again: of one id, only the highest restart lives."""

    id: str
    restart: int


def current(environment: Mapping[str, str] = os.environ) -> Job | None:
    """The job that this process runs in, or None outside of one."""
    number = environment.get("SLURM_JOB_ID")
    if not number:
        return None
    restart = environment.get("SLURM_RESTART_COUNT", "")
    return Job(number, int(restart) if restart.isdigit() else 0)
