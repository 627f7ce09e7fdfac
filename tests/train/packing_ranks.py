"""One rank of a group that steps DINOv2 with crops packed and apart: `python packing_ranks.py FOLDER`."""

import sys
from pathlib import Path

import torch
from stages import biting, run, stepped

from ssl_retina import launch
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group


def everything(folder: Path) -> None:
    stepped(folder, "dinov2-1-fp32", run("dinov2", 1))
    for stage in (1, 3):
        stepped(folder, f"dinov2-{stage}-packed", run("dinov2", stage, train__pack_crops=True))
    recomputed = run("dinov2", 3, train__pack_crops=True, train__activation_checkpointing=True)
    stepped(folder, "dinov2-3-recomputed", recomputed)


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group(), biting(), setup.deterministic():
        everything(Path(sys.argv[1]))
