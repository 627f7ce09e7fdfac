"""Ranks on this machine (`ranks`), and runs on a SLURM cluster: profile + run -> script -> job -> table.

Here stand the names that a rank and its launcher need; what clusters need is imported where it is used.
"""

from ssl_retina.launch.ranks import (
    FAILURE,
    NEEDED,
    PARENT,
    RanksError,
    cores,
    end_with_parent,
    is_rank,
    processes,
    report_failure,
    run_ranks,
)

__all__ = [
    "FAILURE",
    "NEEDED",
    "PARENT",
    "RanksError",
    "cores",
    "end_with_parent",
    "is_rank",
    "processes",
    "report_failure",
    "run_ranks",
]
