"""The verb `bench`: what the program costs beside the bare library calls, and how well copies are found.

In: folders of photographs, shards or configs. Out: sentences, and one JSON object where it was asked for.
"""

import secrets
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina import files
from ssl_retina.cli import console
from ssl_retina.errors import InputError

EPILOG = "Example: ssl-retina bench shard photos --files 24"
STREAM = "Example: ssl-retina bench stream --shards out/hygd --json"
COPIES = "Example: ssl-retina bench duplicates photos more-photos --every 8"
STEP = "Example: ssl-retina bench step configs/pretrain/mae_vit_base.yaml --batch 256 train.precision=bf16"
LARGER = ("model.image_size=224", "model.patch_size=16", "model.depth=12", "data.batch_size=8")
SHIPPED: dict[str, tuple[tuple[str, ...], ...]] = {
    "cuda": (("mae_vit_base",), ("mae_vit_large",), ("simclr_vit_base",), ("mocov3_vit_base",)),
    "cpu": (
        ("debug_mae",),
        ("debug_simclr",),
        ("debug_mocov3",),
        ("mae_vit_small", "train.precision=fp32", "data.batch_size=8"),
        ("debug_simclr", *LARGER),
        ("debug_mocov3", *LARGER),
    ),
}
"""Configs that are measured where none is named, with their values: on a CPU small ones, where a step's fixed
costs show, and ones that are as large as a paper's ViT-Small, or ViT-Tiny."""
BATCH = {"cuda": 256, "cpu": 16}
TURNS = {"cuda": (10, 3), "cpu": (1, 8)}
"""Steps of a turn, and rounds: others disturb a CPU, and what lies close together is disturbed alike."""
DRAWN = 64


def register(app: typer.Typer) -> None:
    """Add the group."""
    about = "Measure this program on your own files."
    group = typer.Typer(help=about, epilog=EPILOG, no_args_is_help=True)
    group.command("shard", epilog=EPILOG)(shard)
    group.command("stream", epilog=STREAM)(stream)
    group.command("duplicates", epilog=COPIES)(duplicates)
    group.command("step", epilog=STEP)(step)
    app.add_typer(group, name="bench")


def shard(
    folders: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Folders of photographs.")],
    files: Annotated[int, typer.Option(help="At most so many files of each folder, evenly spread.")] = 48,
    rounds: Annotated[int, typer.Option(help="Times that everything is measured; medians are told.")] = 3,
    size: Annotated[int, typer.Option(help="Longest side of a stored image in pixels.")] = 512,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure `shard` on one core: images/s, MB/s, where the time goes, and the ratio to bare Pillow.

    Seconds are of the processor, and ratios of one run: what others do to the machine slows both sides.
    """
    from ssl_retina.archive.settings import Settings
    from ssl_retina.bench import shard as bench

    plan = bench.Plan(files, rounds, Settings(size=size))
    found = []
    for folder in folders:
        with console.progress(f"measured of {folder.name}", None) as advance:
            found.append(bench.measure(folder, plan, advance))
        _tell(found[-1])
    if as_json:
        console.result({"size": size, "rounds": rounds, "folders": found})


def _tell(one: dict[str, Any]) -> None:
    ratios = one["ratios"]
    console.note(
        f"{one['folder']}: {one['files']} files, {one['images_per_second_and_core']:.1f} images/s and "
        f"{one['megabytes_per_second_and_core']:.1f} MB/s on one core; {one['ratio_to_bare']:.2f} times bare "
        f"decode, resize and encode ({min(ratios):.2f} to {max(ratios):.2f} over the rounds), "
        f"{one['ratio_to_bare_in_full']:.2f} times where the bare calls decode every pixel"
    )
    parts = {**one["parts"], "rest": one["rest"]}
    console.note("  ms an image: " + ", ".join(f"{name} {1000 * value:.1f}" for name, value in parts.items()))


def stream(
    shards: Annotated[
        list[Path] | None, typer.Option("--shards", metavar="FOLDER", help="A shard set; may repeat.")
    ] = None,
    drawn: Annotated[
        int | None,
        typer.Option(metavar="PX", help=f"In place of shards: {DRAWN} drawn photographs of so many pixels."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Times that everything is measured; medians are told.")] = 5,
    images: Annotated[int, typer.Option(help="Images of each round, four times as many of ours.")] = 128,
    workers: Annotated[int, typer.Option(help="Loader processes of each pipeline.")] = 1,
    recipe: Annotated[
        list[str] | None, typer.Option(help="Only this recipe: mae, two_views, multi_crop; may repeat.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure what gives batches to a trainer: ours, webdataset with PIL, and torchvision's tensors.

    Seconds are of the processor, over all processes, and ratios of one run: waiting is not counted. Ours
    hands over uint8 and leaves colours to the device; what that costs there is told beside it.
    """
    from ssl_retina.bench import stream as bench

    plan = bench.Plan(rounds, images, workers=workers, recipes=tuple(recipe or bench.RECIPES))
    if (drawn is None) == (shards is None):
        raise InputError("bench stream measures on --shards FOLDER or on --drawn PX, one of the two")
    with tempfile.TemporaryDirectory(prefix="ssl-retina-") as work:
        folders = shards or [_drawn_shards(Path(work), drawn or 0)]
        with console.progress("rounds", rounds * len(plan.recipes)) as advance:
            found = bench.measure(folders, plan, advance)
    way = "the compiled code" if found["native"] else "the wheels alone: the compiled code is not there"
    console.note(f"Ours decodes and crops by {way}")
    for name, one in found["recipes"].items():
        _tell_stream(name, one)
    if as_json:
        console.result(found)


def _drawn_shards(work: Path, side: int) -> Path:
    """A set of drawn photographs, stored with `side` pixels."""
    from ssl_retina.archive.build import build
    from ssl_retina.archive.settings import Settings
    from ssl_retina.synthetic.large import draw_large

    key = work / "key"
    files.write_bytes(key, secrets.token_hex(32).encode(), 0o600)
    settings = Settings(size=side, key_file=key)
    console.note(f"{DRAWN} photographs of {side} pixels are drawn, which takes a minute or two")
    draw_large(work / "photographs", photographs=DRAWN, side=side)
    build(work / "photographs", work / "shards", settings)
    return work / "shards"


def _tell_stream(name: str, one: dict[str, Any]) -> None:
    low, high = min(one["ratios"]), max(one["ratios"])
    console.note(
        f"{name}: {one['ratio']:.1f} times plain ({low:.1f} to {high:.1f} over the rounds), "
        f"{one['ratio_to_tensors']:.1f} times tensors; {one['ratio_with_device']:.1f} times plain with the "
        "processor's time for the device's part"
    )
    rates = one["images_per_second_and_core"]
    console.note("  images/s and core: " + ", ".join(f"{way} {rate:.0f}" for way, rate in rates.items()))
    for way, stages in one["stages"].items():
        console.note(f"  {way}: " + ", ".join(f"{stage} {share:.0%}" for stage, share in stages.items()))
    memory = one["resident_bytes_of_a_worker"]
    console.note("  MB a worker: " + ", ".join(f"{way} {size / 1e6:.0f}" for way, size in memory.items()))


def duplicates(
    folders: Annotated[list[Path], typer.Argument(metavar="SRC...", help="Folders of photographs.")],
    every: Annotated[int, typer.Option(help="Copy every so-manieth photograph, in thirteen ways.")] = 8,
    offset: Annotated[int, typer.Option(help="The first that is copied; from 0 to --every less one.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure how many copies `shard` finds as near duplicates, and how many other eyes it takes for copies.

    The copies stand among all photographs of the folders. Intervals are 95 %, by Wilson.
    """
    from ssl_retina.bench import duplicates as bench

    plan = bench.Plan(every, offset)
    with console.progress("photographs", None) as advance:
        found = bench.measure(folders, plan, advance)
    console.note(
        f"{found['copied']} of {found['photographs']} photographs, copied in {len(bench.WAYS)} ways:"
    )
    for way, one in (*found["ways"].items(), ("all", found["copies"])):
        low, high = one["interval"]
        console.note(f"  {way}: {one['found']} of {one['of']} found ({low:.1%} to {high:.1%})")
    console.note(f"  matches with other photographs: {found['matches_with_others']}")
    if as_json:
        console.result(found)


def step(
    configs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[CONFIG...] [a.b=c...]", help="Configs, and values for all of them."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples of a step [16, on a GPU 256].")] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of a turn [1, on a GPU 10].")] = None,
    rounds: Annotated[int | None, typer.Option(help="Turns of each way [8, on a GPU 3].")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a training step of one process beside the loops that others would write, in turns.

    "plain" is PyTorch's own loop around the same method on timm's ViT, "ddp" the same with
    DistributedDataParallel, "lightly" lightly's documented example (MAE, SimCLR, MoCo) with the same sizes.
    Pixels are drawn on the device beforehand. Ratios are of one run; above 1 this trainer is faster.
    """
    from ssl_retina.cli.pretrain import choose_accelerator

    choose_accelerator()
    from ssl_retina import dist
    from ssl_retina.bench import step as bench
    from ssl_retina.train.engine import process_group

    device = dist.device().type
    usual = TURNS[device]
    plan = bench.Plan(usual[0] if steps is None else steps, usual[1] if rounds is None else rounds)
    runs = _runs(configs or [], device, batch)
    found = []
    with process_group():
        for run in runs:
            with console.progress(f"turns of {run.method_name}", plan.rounds) as advance:
                found.append(bench.measure(run, plan, advance))
            _tell_step(found[-1])
    if as_json:
        console.result({"device": device, "steps": plan.steps, "rounds": plan.rounds, "configs": found})


def _runs(words: list[str], device: str, batch: int | None) -> list[Any]:
    """The configs among the words, each with the values among them; nothing of a run's folder is touched."""
    from ssl_retina import config, methods, shipped

    values = [word for word in words if "=" in word]
    named: list[tuple[Path, list[str]]] = [(Path(word), []) for word in words if "=" not in word]
    folder = shipped.folder("configs") / "pretrain"
    usual = [(folder / f"{name}.yaml", own) for name, *own in SHIPPED[device]]
    size = [] if batch is None else [f"data.batch_size={batch}"]
    assumed = ["out=OUT", "data.shards=SHARDS", f"data.batch_size={BATCH[device]}"]
    return [
        config.load(
            path,
            [*_last([*assumed, *own, *values, *size]), "train.accumulate=1"],
            methods.config_type,
            methods.available(),
        )
        for path, own in named or usual
    ]


def _last(values: list[str]) -> list[str]:
    """Each value once, as it was said last."""
    return list({value.partition("=")[0]: value for value in values}.values())


def _tell_step(one: dict[str, Any]) -> None:
    stage = f"ZeRO {one['zero_stage']}{', compiled' if one['compile'] else ''}"
    ceiling = f"the {one['matrix_tflop_per_second']:.2f} TFLOP/s of a matrix product"
    memory = "" if one["memory_gib"] is None else f"; {one['memory_gib']:.1f} GiB"
    console.note(
        f"{one['method']} {one['model']} at {one['image_size']}, {one['precision']}, {stage}, "
        f"batch {one['batch']}: {one['images_per_second']:.1f} images/s; {one['gflop_an_image']:.1f} GFLOP "
        f"an image, {one['share_of_matrix_rate']:.0%} of {ceiling}{memory}"
    )
    for name, other in one["beside"].items():
        console.note(
            f"  {other['ratio']:.2f} times {name} ({other['lowest']:.2f} to {other['highest']:.2f} over the "
            f"rounds), which has {other['images_per_second']:.1f} images/s"
        )
