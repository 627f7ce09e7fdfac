"""The verb `bench`: what a step costs beside the bare library calls, and how well copies are found.

In: folders of photographs, or shards. Out: sentences, and one JSON object where it was asked for.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from ssl_retina.cli import console

EPILOG = "Example: ssl-retina bench shard photos --files 24"
STREAM = "Example: ssl-retina bench stream --shards out/hygd --json"
COPIES = "Example: ssl-retina bench duplicates photos more-photos --every 8"


def register(app: typer.Typer) -> None:
    """Add the group."""
    about = "Measure this program on your own files."
    group = typer.Typer(help=about, epilog=EPILOG, no_args_is_help=True)
    group.command("shard", epilog=EPILOG)(shard)
    group.command("stream", epilog=STREAM)(stream)
    group.command("duplicates", epilog=COPIES)(duplicates)
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
        list[Path], typer.Option("--shards", metavar="FOLDER", help="A shard set; may repeat.")
    ],
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
    with console.progress("rounds", rounds * len(plan.recipes)) as advance:
        found = bench.measure(shards, plan, advance)
    for name, one in found["recipes"].items():
        _tell_stream(name, one)
    if as_json:
        console.result(found)


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
