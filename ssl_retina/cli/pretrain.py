"""The verb `pretrain`: train or resume, one command does both."""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina.errors import InputError, UserError

ConfigFile = Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as those in configs/.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[A.B=C ...]", help="Values that replace those of the file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="Ranks on this machine; the number of GPUs, or 1, if not given.")
]
Change = Annotated[
    bool,
    typer.Option("--change", help="Go on with other optim.*, schedule.* or such values; it is recorded."),
]
Extend = Annotated[bool, typer.Option("--extend", help="Allow a larger train.steps than the run began with.")]


_SHARDS = "data.shards=out/hygd out=runs/a"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    trained = f"ssl-retina pretrain configs/pretrain/debug_mae.yaml {_SHARDS} --processes 2"
    app.command(epilog=f"Example: {trained}")(pretrain)


def pretrain(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Processes = None,
    extend: Extend = False,
    change: Change = False,
    as_json: AsJson = False,
) -> None:
    """Train, or go on where the newest checkpoint of OUT stands: the same command does both.

    Starts its ranks itself; under torchrun or srun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
    MASTER_PORT set) it is one of theirs. SIGTERM, SIGUSR1 and SIGUSR2 save and exit with 75, Ctrl-C with 130.
    """
    from ssl_retina import launch

    if launch.is_rank():
        if processes is not None:
            raise InputError("--processes has no meaning where a launcher started this process as one rank")
        launch.end_with_parent()
        _as_rank(config, overrides or [], extend=extend, change=change, as_json=as_json)
        return
    count = launch.processes(processes)
    _check_division(config, overrides or [], count)
    if count == 1:
        _train(config, overrides or [], extend=extend, change=change, as_json=as_json)
        return
    flags = [
        *(["--extend"] if extend else []),
        *(["--change"] if change else []),
        *(["--json"] if as_json else []),
    ]
    verb = [sys.executable, "-m", "ssl_retina", "pretrain", *flags, "--", str(config), *(overrides or [])]
    launch.run_ranks(verb, count)


def _check_division(path: Path, overrides: list[str], count: int) -> None:
    """Refuse what no number of ranks mends before they start, which takes them seconds."""
    from ssl_retina import config_text

    values = config_text.read(path, overrides).values
    batch = _at(values, "data", "batch_size")
    accumulate = _at(values, "train", "accumulate") or 1
    if isinstance(batch, int) and isinstance(accumulate, int) and batch % (count * accumulate):
        raise InputError(
            f"data.batch_size ({batch}) must be a multiple of processes x train.accumulate "
            f"({count} x {accumulate}), so that every rank gets equally many samples"
        )


def _at(values: dict[str, Any], section: str, key: str) -> Any:
    found = values.get(section)
    return found.get(key) if isinstance(found, dict) else None


def _as_rank(config: Path, overrides: list[str], *, extend: bool, change: bool, as_json: bool) -> None:
    """Train; what goes wrong is left for our launcher to tell once, where it started this rank."""
    from ssl_retina import launch

    try:
        _train(config, overrides, extend=extend, change=change, as_json=as_json)
    except BaseException as error:
        known = isinstance(error, UserError)
        code = error.exit_code if isinstance(error, UserError) else 1
        if launch.report_failure(str(error) if known else traceback.format_exc(), code):
            sys.exit(code)
        raise


def _train(path: Path, overrides: list[str], *, extend: bool, change: bool, as_json: bool) -> None:
    from ssl_retina.train import signals

    # before torch is loaded: a signal in these seconds counts too
    with signals.noted() as stop, _code_left():
        choose_accelerator()
        from ssl_retina import config, methods
        from ssl_retina.train import loop

        run = config.load(path, overrides, methods.config_type, methods.available())
        summary = loop.pretrain(run, stop, extend=extend, change=change)
    _tell(summary, as_json=as_json)


@contextlib.contextmanager
def _code_left() -> Iterator[None]:
    """Leave the exit code of an error to the batch script, while later signals still change nothing."""
    from ssl_retina.cli import console
    from ssl_retina.launch import requeue

    try:
        yield
    except UserError as error:
        refusal = requeue.leave(error)
        if refusal and os.environ.get("RANK") == "0":
            console.note(f"ssl-retina: {refusal}")
        raise


def choose_accelerator() -> None:
    """Said before libraries start: that there is no GPU (DeepSpeed warns on stdout), or equal bits on it."""
    import torch

    if torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def _tell(summary: Any, *, as_json: bool) -> None:
    from dataclasses import asdict

    from ssl_retina import dist
    from ssl_retina.cli import console

    if not dist.is_first():
        return
    if as_json:
        console.result(asdict(summary))
        return
    if summary.started_at == summary.steps:
        console.note(f"{summary.out} is complete at step {summary.steps}; more train.steps need --extend")
        return
    numbers = [f"{summary.rollbacks} roll-backs"] if summary.rollbacks else []
    numbers += [f"loss {summary.loss:.4f}"] if summary.loss is not None else []
    numbers += [f"held-out {summary.held_out_loss:.4f}"] if summary.held_out_loss is not None else []
    console.note(f"{summary.out}: {summary.steps} steps, {', '.join(numbers)}; ssl-retina export takes it on")
