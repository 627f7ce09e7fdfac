"""One rank of a group that steps real engines whose methods have a head for the camera.

`python adversary_ranks.py FOLDER METHOD ...`: what each ended with goes to FOLDER/METHOD-STAGE.pt.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import stages
import torch

from ssl_retina import launch
from ssl_retina.contract import UNKNOWN, Batch
from ssl_retina.train import setup
from ssl_retina.train.engine import process_group

SECTION = {"weight": 1.5, "hidden": 9, "devices": 5}


def main(folder: Path, names: list[str]) -> None:
    """Every method at every stage."""
    sound = stages.batch

    def with_devices(*given: Any, **named: Any) -> Batch:
        batch = sound(*given, **named)
        device = batch.position % 4
        return dataclasses.replace(batch, device=torch.where(device == 3, UNKNOWN, device))

    stages.batch = with_devices
    with setup.deterministic(), stages.biting():
        for name in names:
            for stage in (1, 2, 3):
                stages.stepped(folder, f"{name}-{stage}", stages.run(name, stage, adversary=SECTION))


if __name__ == "__main__":
    launch.end_with_parent()
    torch.set_num_threads(1)
    with process_group():
        main(Path(sys.argv[1]), sys.argv[2:])
