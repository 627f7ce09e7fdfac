"""Files as other programs write them, of random weights, each beside the timm model of the same ones."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

SIZE, PATCH, DEPTH = 32, 8, 2
Weights = dict[str, Tensor]


def vit(name: str = "vit_tiny_patch16_224", **changes: Any) -> Any:
    """A timm model with every tensor drawn, so that none is where a wrong key map would leave it."""
    arguments = {"img_size": SIZE, "patch_size": PATCH, "depth": DEPTH, "num_classes": 0, **changes}
    torch.manual_seed(7)
    made = timm.create_model(name, **arguments).eval()
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.add_(torch.randn(tensor.shape) * 0.1)
    return made


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def bare(model: Any, folder: Path) -> Path:
    """timm's own names, as RETFound-Green's file has them, with a head."""
    path = folder / "bare.safetensors"
    save_file({**model.state_dict(), "head.weight": torch.zeros(5, model.embed_dim)}, path)
    return path


def mae(model: Any, folder: Path) -> Path:
    """MAE's and RETFound's: `model`, a decoder, and the arguments of the command line."""
    extra = {"mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, 8)}
    content = {"model": {**model.state_dict(), **extra}, "args": argparse.Namespace(lr=1.0), "epoch": 3}
    return _saved(folder / "mae.pth", content)


def mocov3(model: Any, folder: Path) -> Path:
    """MoCo v3's: both encoders under `module.`, projectors as their heads."""
    weights = {f"module.base_encoder.{name}": value for name, value in model.state_dict().items()}
    weights |= {f"module.momentum_encoder.{name}": value * 0 for name, value in model.state_dict().items()}
    weights |= {
        "module.base_encoder.head.0.weight": torch.zeros(4, 4),
        "module.predictor.0.weight": torch.ones(2),
    }
    return _saved(folder / "moco.pth", {"epoch": 1, "arch": "vit_base", "state_dict": weights})


def dino(model: Any, folder: Path) -> Path:
    """DINO's: teacher and student, each with a backbone and a head."""
    own = {f"backbone.{name}": value for name, value in model.state_dict().items()}
    teacher = {**own, "head.mlp.0.weight": torch.zeros(4, 4)}
    student = {f"module.{name}": value * 0 for name, value in teacher.items()}
    return _saved(
        folder / "dino.pth", {"student": student, "teacher": teacher, "args": argparse.Namespace(a=1)}
    )


def dinov2(model: Any, folder: Path) -> Path:
    """DINOv2's file of a backbone: registers by their other name, the class token with a place of its own."""
    return _saved(folder / "dinov2.pth", _authors(model))


def dinov2_training(model: Any, folder: Path) -> Path:
    """DINOv2's teacher while it trains (RETFound's too): chunks of blocks, `teacher`, `backbone.`."""
    chunked = {
        f"backbone.{name.replace('blocks.', f'blocks.{number}.', 1)}": value
        for name, value in _authors(model).items()
        for number in [int(name.split(".")[1]) if name.startswith("blocks.") else 0]
    }
    head = {"dino_head.last_layer.weight_v": torch.zeros(3, 3)}
    return _saved(folder / "teacher.pth", {"teacher": {**chunked, **head}})


def _authors(model: Any) -> Weights:
    weights = dict(model.state_dict())
    weights["mask_token"] = torch.zeros(1, model.embed_dim)
    if "reg_token" in weights:
        weights["register_tokens"] = weights.pop("reg_token")
        place = torch.full((1, 1, model.embed_dim), 0.25)
        weights["cls_token"] = weights["cls_token"] - place
        weights["pos_embed"] = torch.cat((place, weights["pos_embed"]), dim=1)
    return weights


def split(model: Any, folder: Path) -> Path:
    """Queries, keys and values apart, half precision."""
    weights: Weights = {}
    for name, value in model.state_dict().items():
        if ".attn.qkv." in name:
            for part, third in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("qkv", f"{part}_proj")] = third.contiguous()
        else:
            weights[name] = value
    path = folder / "split.safetensors"
    save_file({f"encoder.{name}": value for name, value in weights.items()}, path)
    return path


def hugging_face(model: Any, folder: Path) -> Path:
    """transformers' ViT, or its DINOv2 where the model has layer scales."""
    scaled = "blocks.0.ls1.gamma" in model.state_dict()
    weights: Weights = {}
    for name, value in model.state_dict().items():
        if ".attn.qkv." in name:
            for part, third in zip(("query", "key", "value"), value.chunk(3), strict=True):
                weights[_hf(name, scaled).replace("attn.qkv", f"attention.attention.{part}")] = (
                    third.contiguous()
                )
        else:
            weights[_hf(name, scaled)] = value
    path = folder / ("hf2.safetensors" if scaled else "hf.safetensors")
    prefix = "dinov2." if scaled else "vit."
    save_file({f"{prefix}{name}": value for name, value in weights.items()}, path)
    return path


def _hf(name: str, scaled: bool) -> str:
    pairs = [
        ("patch_embed.proj", "embeddings.patch_embeddings.projection"),
        ("pos_embed", "embeddings.position_embeddings"),
        ("cls_token", "embeddings.cls_token"),
        ("blocks.", "encoder.layer."),
        ("attn.proj", "attention.output.dense"),
    ]
    if scaled:
        pairs += [("ls1.gamma", "layer_scale1.lambda1"), ("ls2.gamma", "layer_scale2.lambda1")]
    else:
        pairs += [("mlp.fc1", "intermediate.dense"), ("mlp.fc2", "output.dense")]
        pairs += [("norm1", "layernorm_before"), ("norm2", "layernorm_after")]
    for own, theirs in pairs:
        name = name.replace(own, theirs)
    return f"layernorm.{name.removeprefix('norm.')}" if name.startswith("norm.") else name


PLAIN, SCALED, REGISTERS = "vit_tiny_patch16_224", "vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2"
CASES: dict[str, tuple[Callable[[Any, Path], Path], str, str]] = {
    "timm": (bare, PLAIN, "timm"),
    "retfound-green": (bare, REGISTERS, "timm"),
    "mae": (mae, PLAIN, "MAE"),
    "mocov3": (mocov3, PLAIN, "MoCo v3"),
    "dino": (dino, PLAIN, "DINO"),
    "dinov2": (dinov2, SCALED, "DINOv2"),
    "dinov2-registers": (dinov2, REGISTERS, "DINOv2"),
    "dinov2-training": (dinov2_training, REGISTERS, "DINOv2"),
    "split": (split, PLAIN, "timm"),
    "hugging-face": (hugging_face, PLAIN, "Hugging Face ViT"),
    "hugging-face-dinov2": (hugging_face, SCALED, "Hugging Face DINOv2"),
}
