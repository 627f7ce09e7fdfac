"""Does plain timm give what was trained? Asked of a process that never imported ssl_retina (law 6).

In: an export's folder and images. Out: the features that process computed.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssl_retina.errors import CheckpointError

SCRIPT = """
import sys, torch, timm
from safetensors.torch import load_file, save_file
model = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
torch.set_num_threads(int(sys.argv[4]))
with torch.inference_mode():
    features = model(load_file(sys.argv[2])["images"])
assert not any(name.startswith("ssl_retina") for name in sys.modules)
save_file({"features": features.contiguous()}, sys.argv[3])
"""


def plain_timm_features(folder: Path, images: Tensor) -> Tensor:
    """(batch, features) of (batch, 3, H, W), from timm alone in a process of its own.

    Raises CheckpointError with the end of that process's words where it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        given, answer = Path(scratch) / "images.safetensors", Path(scratch) / "features.safetensors"
        save_file({"images": images.contiguous()}, given)
        command = [sys.executable, "-I", "-c", SCRIPT, str(folder), str(given), str(answer)]
        threads = str(torch.get_num_threads())
        done = subprocess.run([*command, threads], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise CheckpointError(f"plain timm cannot load the export:\n{done.stderr[-2000:]}")
        features: Tensor = load_file(answer)["features"]
        return features
