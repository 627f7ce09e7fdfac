"""One rank of a group that trains from a file: `python continued_ranks.py FOLDER`, into FOLDER/run."""

import sys
from pathlib import Path

import ranks
import torch

from ssl_retina import launch
from ssl_retina.train.engine import process_group


def train(folder: Path) -> None:
    """Four steps of MAE from FOLDER/start.safetensors."""
    ranks.train(
        folder,
        "run",
        train__steps=4,
        optim__learning_rate=0.01,
        model__init=str(folder / "start.safetensors"),
        model__position_embedding="learned",
    )


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        train(Path(sys.argv[1]))
