"""One step of the demo or of `real`: a verb of ours, or plain Python, in a process of its own.

In: arguments as a user would type them. Out: the JSON the step printed, the command to repeat it, and its
seconds. What a step says on stderr goes straight to the person at the terminal.
"""

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ssl_retina import launch, pseudonyms
from ssl_retina.errors import UserError

SAVING_SECONDS = 60.0
"""So long an interrupted step may take to save."""


class Listener(Protocol):
    """Who is told how the demo goes."""

    def note(self, text: str) -> None:
        """Something to know before the first step."""
        ...

    def begin(self, number: int, name: str, what: str, command: str) -> None:
        """Note the beginning of a step; `command` is empty where the demo does something of its own."""
        ...

    def end(self, number: int, summary: str, seconds: float) -> None:
        """Note the end of a step."""
        ...


class StepError(UserError):
    """A step that failed: it has said why itself; its exit code is the demo's."""

    def __init__(self, name: str, exit_code: int) -> None:
        super().__init__(
            f"the step {name} ended with exit code {exit_code}; what it says stands above. Mend that, then "
            "the same command goes on from here; a folder that is removed is made anew"
        )
        self.exit_code = exit_code


@dataclass(frozen=True)
class Command:
    """What is run, and what a user would type for it."""

    run: tuple[str, ...]
    typed: str


def verb(*arguments: str) -> Command:
    """A verb of ours; it is run with --json, which a user leaves out."""
    found = shutil.which("ssl-retina")
    own = Path(sys.executable).with_name("ssl-retina")
    program = "ssl-retina" if found or not own.exists() else near(own)
    run = (sys.executable, "-m", "ssl_retina", arguments[0], "--json", *arguments[1:])
    return Command(run, shlex.join((program, *arguments)))


def python(script: str, *, typed: str) -> Command:
    """Python that knows nothing of us and prints one JSON object; `typed` is the core of it, on one line."""
    assert '"' not in typed
    return Command((sys.executable, "-I", "-c", script), f'{near(Path(sys.executable))} -c "{typed}"')


def near(path: Path) -> str:
    """A path as short as a person would type it: from here, or from the home folder."""
    with contextlib.suppress(ValueError):
        return str(path.absolute().relative_to(Path.cwd()))
    with contextlib.suppress(ValueError):
        return f"~/{path.absolute().relative_to(Path.home())}"
    return str(path)


def environment(key_file: Path) -> dict[str, str]:
    """What the steps run in: the demo's own key, no GPU, and no rank of a launcher around us.

    One thread for numpy's own products: on matrices as small as a probe's, more only wait for each other.
    """
    kept = {name: value for name, value in os.environ.items() if name not in launch.NEEDED}
    own = {pseudonyms.KEY_VARIABLE: str(key_file.absolute()), "CUDA_VISIBLE_DEVICES": ""}
    return {"OPENBLAS_NUM_THREADS": "1", **kept, **own}


def run(name: str, command: Command, surroundings: Mapping[str, str]) -> dict[str, Any]:
    """Run a step to its end and give what it printed. Raises StepError; an interrupted step may save."""
    with _started(command, surroundings) as process:
        output, _ = process.communicate()
    if process.returncode:
        code = process.returncode
        raise StepError(name, 128 - code if code < 0 else code)
    answer = json.loads(output)
    assert isinstance(answer, dict)
    return answer


@contextlib.contextmanager
def _started(command: Command, surroundings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command.run, env=dict(surroundings), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.poll() is None:  # we are interrupted: the step saves what it can
            process.terminate()
            try:
                process.wait(SAVING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return time.monotonic() - self._began
