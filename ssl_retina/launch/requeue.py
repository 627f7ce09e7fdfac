"""How a rank's exit code gets through torchrun, which ends with 1 whatever its ranks say.

In: the exit code of a rank that ends with an error of the user's kind. Out: a file, named by the batch
script for this start of its job, that holds the code; the first rank that ends so writes it.
"""

import contextlib
import os
import re
import signal
from collections.abc import Mapping
from pathlib import Path

from ssl_retina import files, scheduler
from ssl_retina.errors import RequeueError, UserError
from ssl_retina.train import starts

ENDED = "SSL_RETINA_ENDED"
IDLE_LIMIT = 5
"""So many restarts in a row that brought the run no step further, and the job is not requeued again."""
ASKED_FOR = (signal.SIGUSR1, signal.SIGUSR2)
_STEP = re.compile(r"step-(\d{8,})")


def leave(error: UserError, environment: Mapping[str, str] = os.environ) -> str | None:
    """Leave the error's code for the batch script, where there is one to read it.

    75 asks for a requeue, so it is left only for the signals that a script asks SLURM for. After a SIGTERM
    SLURM itself decides; torchrun sends it too, to the peers of a rank that failed. Gives a sentence for the
    person where a requeue would lead nowhere, which then is not asked for.
    """
    name = environment.get(ENDED)
    if not name or (isinstance(error, RequeueError) and error.signal not in ASKED_FOR):
        return None
    path = Path(name)  # RUN/slurm/NUMBER/ended-JOB-RESTART
    refusal = _idle(path.parents[2]) if isinstance(error, RequeueError) else None
    _write_first(path, 1 if refusal else error.exit_code)
    return refusal


def _idle(run_dir: Path) -> str | None:
    job = scheduler.current()
    if job is None:
        return None
    found = (run_dir / "checkpoints").glob("step-*")
    step = max((int(match[1]) for path in found if (match := _STEP.fullmatch(path.name))), default=0)
    idle = starts.idle_restarts(starts.read(run_dir), job, step)
    if idle < IDLE_LIMIT:
        return None
    return (
        f"{idle} restarts of job {job.id} in a row have not brought the run beyond step {step}: it is not "
        "requeued again. Give it more time (--time), or save more often (checkpoint.every_steps)"
    )


def _write_first(path: Path, exit_code: int) -> None:
    """Whole, and only where no other rank was first. A disk that refuses changes nothing else."""
    with contextlib.suppress(OSError):
        files.write_first(path, f"{exit_code}\n".encode())
