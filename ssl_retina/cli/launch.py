"""Verbs of the group 'launch': a run on a SLURM cluster, and every run in a folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina.cli.pretrain import AsJson, Change, ConfigFile, Extend, Overrides

Cluster = Annotated[
    str, typer.Option(metavar="PROFILE|PATH", help="A shipped cluster profile, or your own YAML file.")
]
Nodes = Annotated[int | None, typer.Option(min=1, help="Nodes, in place of the profile's.")]
Time = Annotated[
    str | None,
    typer.Option(help="Time limit, in place of the profile's: minutes, H:MM:SS, D-H or D-HH:MM:SS."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the script; write and submit nothing.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder with runs in it, or a run.")]


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    config = "configs/pretrain/mae_vit_base.yaml data.shards=shards/a out=runs/a"
    app.command(epilog=f"Example: ssl-retina launch {config} --cluster a100_8gpu --nodes 4 --dry-run")(launch)
    app.command(epilog="Example: ssl-retina runs runs")(runs)


def launch(
    config: ConfigFile,
    cluster: Cluster,
    overrides: Overrides = None,
    nodes: Nodes = None,
    time: Time = None,
    extend: Extend = False,
    change: Change = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Submit a run to SLURM. The job saves and requeues itself before its time limit, and goes on."""
    from ssl_retina.cli import console
    from ssl_retina.launch import submit

    given = overrides or []
    absent = submit.placeholders(config, given) if dry_run else []
    if absent:
        console.note(f"note: not given, so the script shows {' and '.join(absent)}; a submission needs them")
    profile = submit.cluster(cluster, nodes=nodes, time=time)
    planned = submit.plan(config, [*given, *absent], profile, extend=extend, change=change)
    for note in planned.notes:
        console.note(f"note: {note}")
    if dry_run and not as_json:
        print(planned.text, end="")
        return
    job = None
    if not dry_run:
        planned, job = submit.submit(planned)
    if as_json:
        console.result(_facts(planned, job))
    else:
        console.note(_where_to_look(planned, str(job)))


def _facts(planned: Any, job: str | None) -> dict[str, Any]:
    submission = planned.submission
    return {
        "job": job,
        "out": str(planned.run.out),
        "nodes": planned.profile.nodes,
        "processes": planned.ranks,
        "script": str(submission.script),
        "log": str(submission.log(job)) if job else None,
        "text": planned.text,
        "notes": list(planned.notes),
    }


def _where_to_look(planned: Any, job: str) -> str:
    nodes, out = planned.profile.nodes, planned.run.out
    return "\n".join(
        (
            f"job {job}: {planned.ranks} processes on {nodes} {'node' if nodes == 1 else 'nodes'}, out={out}",
            f"  queue    squeue -j {job}",
            f"  log      tail -F {planned.submission.log(job)}",
            f"  progress ssl-retina runs {out}",
            f"  cancel   scancel {job}   (ranks save first; submit again to go on)",
            f"  requeue  scancel --signal={planned.profile.signal} {job}   (saves, and goes on in the queue)",
        )
    )


def runs(folder: Folder, as_json: AsJson = False) -> None:
    """List the runs under DIR: state, step, loss, images/s, time left, restarts. Changes nothing."""
    from ssl_retina.cli import console
    from ssl_retina.launch import runs as table
    from ssl_retina.train import starts
    from ssl_retina.train.tracking import METRICS

    found = table.survey(folder)
    if as_json:
        console.result({"runs": [asdict(run) for run in found]})
        return
    if not found:
        signs = f"{METRICS}, {starts.STARTS} or {starts.SUBMISSIONS}/"
        console.note(f"no run in {folder}, down to {table.DEPTH} levels: a run's folder holds {signs}")
        return
    for line in table.lines(found):
        print(line)
