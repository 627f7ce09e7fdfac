"""An export's folder in a second: a tiny ViT with the four files that `ssl-retina export` writes."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ssl_retina.models import encoder

SIZE = 64
ARGUMENTS = {"img_size": SIZE, "patch_size": 8, "depth": 1, "global_pool": "avg", "fc_norm": False}
CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "num_classes": 0,
    "num_features": 192,
    "global_pool": "avg",
    "model_args": ARGUMENTS,
    "pretrained_cfg": {
        "input_size": [3, SIZE, SIZE],
        "fixed_input_size": True,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "num_classes": 0,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
    },
}
CARD = (
    "---\nlibrary_name: timm\ntags: [retina]\n---\n\n# An encoder\n\nSee https://example.org/a/b for more.\n"
)
NAMES = ["README.md", "SHA256SUMS", "config.json", "model.safetensors"]


def make(folder: Path, *, seed: int = 0) -> Path:
    """Write an export; another seed gives other weights."""
    folder.mkdir(parents=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = encoder.create("vit_tiny_patch16_224", **ARGUMENTS)
    tensors = {name: tensor.contiguous() for name, tensor in vit.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1, sort_keys=True) + "\n")
    (folder / "README.md").write_text(CARD)
    seal(folder)
    return folder


def seal(folder: Path) -> None:
    """Write SHA256SUMS anew: what a person does who changes a file and knows how."""
    names = [name for name in NAMES if name != "SHA256SUMS" and (folder / name).exists()]
    sums = {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}
    (folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for name, digest in sums.items()))


def files(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of everything in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
