"""The verb `check`: what a config would run, draw and take, before anything starts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina.cli.pretrain import AsJson, ConfigFile, Overrides, Processes, choose_accelerator
from ssl_retina.errors import InputError

Views = Annotated[
    Path | None,
    typer.Option(
        "--views",
        metavar="FILE.png",
        help="Draw what the method will be fed: photographs of these shards beside their views. "
        "The picture shows patients' eyes: keep it where the shards are kept.",
    ),
]
EveryRecipe = Annotated[
    bool,
    typer.Option("--every-recipe", help="With --views: draw every recipe there is, not the config's alone."),
]
DeviceName = Annotated[
    str | None,
    typer.Option("--device", metavar="NAME", help="Foretell memory, hours, energy on such GPUs, h200 say."),
]
Devices = Annotated[int, typer.Option(min=1, help="With --device: how many of them.")]
Price = Annotated[
    float | None, typer.Option(min=0, help="With --device: what one costs an hour, in any currency.")
]

NUMBER = 8
STAND_INS = ("out=OUT", "data.shards=SHARDS")


def register(app: typer.Typer) -> None:
    """Add the verb."""
    example = "ssl-retina check configs/pretrain/mae_vit_large.yaml --device h200 --devices 8"
    app.command(epilog=f"Example: {example}")(check)


def check(
    config: ConfigFile,
    overrides: Overrides = None,
    processes: Processes = None,
    views: Views = None,
    every_recipe: EveryRecipe = False,
    device: DeviceName = None,
    devices: Devices = NUMBER,
    price: Price = None,
    as_json: AsJson = False,
) -> None:
    """Say what a config would run, without training: resolved values, parameters, batches, epochs.

    With --device also what it would take there; shards may then be left out. The same arithmetic is tried on
    this machine, and how far off it was is told.
    """
    from ssl_retina import launch
    from ssl_retina.cli import console

    if views is not None:
        _check_picture(views)
    elif every_recipe:
        raise InputError("--every-recipe draws a picture: say where, with --views FILE.png")
    _check_forecast(device, {"--devices": devices != NUMBER, "--price": price is not None}, processes)
    choose_accelerator()
    asked = _with_stand_ins(config, overrides or [], shards=device is not None and views is None)
    if device is None:
        plan = _plan(config, asked, launch.processes(processes), views, every_recipe=every_recipe)
    else:
        looked = (
            _plan(config, asked, devices, views, every_recipe=every_recipe)
            if STAND_INS[1] not in asked
            else {}
        )
        plan = {**looked, **_forecast(config, asked, device, devices, price=price)}
    if as_json:
        console.result(plan)
    else:
        import yaml

        print(yaml.safe_dump(plan, sort_keys=False, allow_unicode=True).rstrip())
    if views is not None:
        console.note(f"{views} shows the views; look whether lesions can still be seen in them")


def _check_forecast(device: str | None, given: dict[str, bool], processes: int | None) -> None:
    """Refuse words that would be overlooked: of a forecast without its device, of ranks here beside one."""
    alone = [word for word, said in given.items() if said]
    if device is None and alone:
        raise InputError(f"{alone[0]} is about a forecast: say for which GPUs, with --device NAME")
    if device is not None and processes is not None:
        raise InputError(
            f"--processes {processes} counts ranks here; with --device {device} give --devices {processes}"
        )


def _with_stand_ins(path: Path, overrides: list[str], *, shards: bool) -> list[str]:
    """Stand-ins for the run's folder and, if need be, its shards: looking at a config writes to no run."""
    from ssl_retina import config_text

    values = config_text.read(path, overrides).values
    data = values.get("data")
    out, sets = STAND_INS
    missing = [] if "out" in values else [out]
    missing += [sets] if shards and not (isinstance(data, dict) and "shards" in data) else []
    return [*overrides, *missing]


def _forecast(
    path: Path, overrides: list[str], name: str, count: int, *, price: float | None
) -> dict[str, Any]:
    """What the config would take on `count` devices of a name, and how good that arithmetic is here."""
    from ssl_retina import config, methods
    from ssl_retina.cli import console
    from ssl_retina.plan import counting, devices, forecast
    from ssl_retina.train import setup

    device = devices.device(name)
    run = config.load(path, overrides, methods.config_type, methods.available())
    setup.micro_batch_of(run, count)
    with console.progress("counting, then trying", 2) as advance:
        work = counting.count(run)
        advance(1)
        tried = forecast.here(run)
        advance(1)
    told = forecast.tell(run, work, device, world=count, price=price)
    return {"config": run.dump(), "forecast": told, "this_machine": tried}


def _check_picture(path: Path) -> None:
    """Refuse a place that no picture can be written to before anything is read."""
    from ssl_retina import files

    if path.suffix.lower() != ".png":
        raise InputError(f"--views {path}: the picture is a PNG, so give a name that ends in .png")
    files.check_file(path, f"--views {path}")


def _plan(
    path: Path, overrides: list[str], world: int, picture: Path | None, *, every_recipe: bool
) -> dict[str, Any]:
    from ssl_retina import config, dist, methods
    from ssl_retina.data.loader import open_source
    from ssl_retina.report import view_sheet
    from ssl_retina.train import beginning, setup

    run = config.load(path, overrides, methods.config_type, methods.available())
    micro_batch = setup.micro_batch_of(run, world)
    initial = beginning.weights(run)
    method, views = setup.build_method(run, initial)
    source = open_source(run.data.model_copy(update={"workers": 0}), views, seed=run.seed)
    refused = _refusal(run, source, looking=picture is not None)
    source.verify(hashes=False)
    if picture is not None and dist.is_first():
        draw = view_sheet.write_every if every_recipe else view_sheet.write
        draw(source, picture, f"{path.name}, method {run.method_name}")
    exported: Any = method.exported()  # type: ignore[operator]
    seen = run.train.steps * run.data.batch_size
    return {
        "config": run.dump(),
        "parameters": {
            "trained": sum(one.numel() for one in method.parameters() if one.requires_grad),
            "exported": sum(one.numel() for one in exported.parameters()),  # a teacher's do not learn
        },
        "batch": {
            "samples": run.data.batch_size,
            "processes": world,
            "accumulate": run.train.accumulate,
            "samples_per_forward": micro_batch,
        },
        "peak_learning_rate": run.peak_learning_rate,
        "steps": run.train.steps,
        "samples": source.samples,
        "held_out_samples": source.held_out_samples,
        "samples_seen": seen,
        "epochs": round(seen / source.samples, 2),
        "epoch": source.epoch.as_json(),
        "remarks": [*refused, *source.epoch.sentences(), *setup.remarks(run, source, micro_batch)],
        **({} if picture is None else {"views": str(picture)}),
        **({} if initial is None or initial.receipt is None else {"init": initial.receipt.as_json()}),
    }


def _refusal(run: Any, source: Any, *, looking: bool) -> list[str]:
    """That training would not begin with so few photographs; only whoever looks at views goes on then."""
    from ssl_retina.train import setup

    try:
        setup.refuse_repeats(run, source)
        setup.refuse_devices(run, source)
    except InputError as error:
        if not looking:
            raise
        return [f"pretrain would refuse this: {error}"]
    return []
