"""What a cluster's administrators and machines ask for, as one small YAML file -> a frozen `Profile`.

In: the name of a shipped profile, or a path. Out: the profile, or every mistake in it at once.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from ssl_retina import config_text, shipped
from ssl_retina.config import Natural, Positive, Section
from ssl_retina.errors import ConfigError, InputError

TIMES = "minutes, H:MM:SS, D-H or D-HH:MM:SS"
_TIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<numbers>\d+(?::\d+){0,2})")

_OWN = {
    "nodes": "nodes",
    "ntasks": "processes_per_node",
    "ntasks-per-node": "processes_per_node",
    "cpus-per-task": "cpus_per_task",
    "gpus": "gpus_per_node",
    "gpus-per-node": "gpus_per_node",
    "time": "time",
    "mem": "memory",
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "signal": "signal and signal_seconds",
    "requeue": "requeue_limit",
    "no-requeue": "requeue_limit",
    **dict.fromkeys(("chdir", "output", "open-mode", "job-name", "array"), ""),
}
"""sbatch's options that the script sets, and the key that is meant; none where the script alone knows."""


def _word(text: str) -> str:
    if not re.fullmatch(r"[\w.,:@/+=*&|!()\[\]-]+", text):
        raise ValueError(f"{text!r} cannot stand in a #SBATCH line: letters, digits and punctuation only")
    return text


def _interface(text: str) -> str:
    if not re.fullmatch(r"(\^?=?)[\w.:@-]+(,[\w.:@-]+)*", text):
        raise ValueError(
            f"{text!r} is no list of network interfaces such as ib0, eth0,eth1, or ^docker0,lo (all others)"
        )
    return text


def _as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _time(text: str) -> str:
    seconds(text)
    return text


def _quoted(value: object) -> object:
    if type(value) is int:  # YAML reads 24:00:00 as a number to the base 60, so minutes are in quotes too
        raise ValueError('write it in quotes, such as "24:00:00" or "90"')
    return value


def _option(text: str) -> str:
    if not re.fullmatch(r"--[a-z][\w-]*(=[^\s'\"\\]+)?", text):
        raise ValueError(f"{text!r} is no sbatch option such as --reservation=retina: long names only")
    name = text[2:].partition("=")[0]
    meant = next((own for own in _OWN if own.startswith(name)), None)  # sbatch takes abbreviations
    if meant is not None:
        key = f": write the key {_OWN[meant]}" if _OWN[meant] else ""
        raise ValueError(f"{text!r} would contradict --{meant}, which the script sets itself{key}")
    return text


def _line(text: str) -> str:
    if "\n" in text or "\r" in text:
        raise ValueError("one line of shell each, without line breaks")
    return text


Word = Annotated[str, BeforeValidator(_as_text), AfterValidator(_word)]
Interface = Annotated[str, AfterValidator(_interface)]
Time = Annotated[str, BeforeValidator(_quoted), AfterValidator(_time)]


def seconds(time: str) -> int:
    """Seconds of a SLURM time: `90`, `1:30:00`, `2-00`, `2-12:00:00`. Raises ValueError for other texts."""
    match = _TIME.fullmatch(time)
    if match is None:
        raise ValueError(f"{time!r} is no SLURM time: {TIMES}")
    numbers = [int(number) for number in match["numbers"].split(":")]
    if match["days"] is not None:
        hours, minutes, rest = (*numbers, 0, 0)[:3]
    elif len(numbers) == 3:
        hours, minutes, rest = numbers
    else:
        hours, (minutes, rest) = 0, (*numbers, 0)[:2]
    if (
        rest > 59
        or (minutes > 59 and len(numbers) + bool(match["days"]) > 2)
        or (hours > 23 and match["days"])
    ):
        raise ValueError(
            f"{time!r} is no SLURM time: at most 59 minutes or seconds beside hours, 23 hours beside days"
        )
    return ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + rest


class Profile(Section):
    """One kind of node of one cluster; `launch/clusters/template.yaml` explains each key to its writer.

    nodes, time: defaults of `--nodes` and `--time`.
    processes_per_node: ranks of a node; not given: SLURM's number of GPUs on it.
    interface: as NCCL's NCCL_SOCKET_IFNAME has it; gloo is told too where it names interfaces.
    signal, signal_seconds: what SLURM sends before the time limit, and how long before.
    requeue_limit: restarts of one job after which it is not requeued again.
    python: the interpreter on the nodes; not given: the one that `launch` runs in.
    """

    nodes: Positive = 1
    time: Time = "24:00:00"
    cpus_per_task: Positive
    gpus_per_node: Natural = 0
    gpu_type: Word | None = None
    processes_per_node: Positive | None = None
    memory: Word | None = None
    partition: Word | None = None
    account: Word | None = None
    qos: Word | None = None
    constraint: Word | None = None
    interface: Interface | None = None
    signal: Literal["USR1", "USR2"] = "USR1"
    signal_seconds: Annotated[int, Field(ge=10)] = 300
    requeue_limit: Natural = 200
    python: Word | None = None
    setup: tuple[Annotated[str, AfterValidator(_line)], ...] = ()
    sbatch: tuple[Annotated[str, AfterValidator(_option)], ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Profile":
        if self.processes_per_node is None and not self.gpus_per_node:
            raise ValueError("processes_per_node: required where gpus_per_node is not given")
        if self.gpus_per_node and self.ranks_per_node > self.gpus_per_node:
            raise ValueError(
                f"processes_per_node ({self.processes_per_node}) is more than gpus_per_node "
                f"({self.gpus_per_node}), and each process needs a GPU of its own"
            )
        if self.signal_seconds >= seconds(self.time):
            raise ValueError(
                f"time: {self.time!r} is {seconds(self.time)} seconds, and must be longer than "
                f"signal_seconds ({self.signal_seconds}): {TIMES}"
            )
        return self

    @property
    def ranks_per_node(self) -> int:
        """Ranks that train on one node."""
        return self.processes_per_node or self.gpus_per_node


def shipped_names() -> list[str]:
    """The profiles that come with the program."""
    return sorted(path.stem for path in (shipped.folder("launch") / "clusters").glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a shipped name or of a path. Raises InputError that lists the shipped ones."""
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped_names():
        return shipped.folder("launch") / "clusters" / f"{name}.yaml"
    hint = config_text.did_you_mean(path.stem, shipped_names())
    raise InputError(
        f"--cluster {name}: no such file and no shipped profile{hint or '.'} "
        f"Shipped: {', '.join(shipped_names())}. Your own is a copy of template.yaml (launch/README.md)"
    )


def load(name: str, *, nodes: int | None = None, time: str | None = None) -> Profile:
    """Read a profile; `nodes` and `time` replace its own. Raises ConfigError with every problem."""
    source = config_text.read(find(name), [f"nodes={nodes}"] if nodes is not None else [])
    if time is not None:
        places = {**source.places, ("time",): "--time"}
        source = replace(source, values={**source.values, "time": time}, places=places)
    profile, problems = config_text.check(Profile, source)
    if profile is None or source.problems:
        raise ConfigError(source.name, [*source.problems, *problems])
    return profile
