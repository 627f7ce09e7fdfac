"""An encoder with a linear head for classes: what fine-tuning trains and plain timm loads afterwards.

In: a finished or fresh timm ViT, the number of classes. Out: images -> logits, and the description from
which timm builds the same model again. The head is timm's own `head`, so an export is a copy of `vit`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ssl_retina.contract import Clock
from ssl_retina.errors import InputError
from ssl_retina.models.encoder import Encoder
from ssl_retina.models.pretrained import DataConfig


class Classifier(nn.Module):
    """A trainable ViT with a head of zeros: every class is equally likely before the first step.

    The trunk is used as it was pretrained: its own norm and pooling stand before the head. Zeros (MAE
    starts at a deviation of 2e-5) need no draw, so only order, crops and drop path hang on a seed.
    """

    def __init__(self, vit: Any, *, classes: int, drop_path: float) -> None:
        super().__init__()
        vit.reset_classifier(classes)
        nn.init.zeros_(vit.head.weight)
        nn.init.zeros_(vit.head.bias)
        vit.requires_grad_(True)
        self.encoder = Encoder(vit, drop_path=drop_path)

    @property
    def vit(self) -> Any:
        """The timm model with its head."""
        return self.encoder.vit

    def forward(self, images: Tensor, clock: Clock, position: Tensor) -> Tensor:
        """Logits (batch, classes) float32 of (batch, 3, H, W); the head runs in fp32 also under autocast."""
        pooled = self.vit.fc_norm(self.encoder.pool(self.encoder(images, clock, position)))
        with torch.autocast(images.device.type, enabled=False):
            logits: Tensor = self.vit.head(pooled.float())
        return logits


def checked(vit: nn.Module, name: str) -> VisionTransformer:
    """`vit`, which the user named; InputError where it is no plain ViT with a vector to put a head on."""
    if type(vit) is not VisionTransformer or vit.global_pool not in ("avg", "token"):
        raise InputError(
            f"{name} is a {type(vit).__name__}; only plain ViTs that pool by mean or class token are "
            "fine-tuned, such as the exports of ssl-retina or vit_small_patch16_224.augreg_in21k"
        )
    return vit


def describe(vit: Any, data: DataConfig, names: Sequence[str]) -> dict[str, Any]:
    """What `timm.create_model("local-dir:...")` reads of a fine-tuned ViT; `names`: its classes in order.

    Read off the model itself, so that it holds for exports of ours and for timm's own models.
    """
    arguments = {
        "img_size": vit.patch_embed.img_size[0],
        "patch_size": vit.patch_embed.patch_size[0],
        "depth": len(vit.blocks),
        "global_pool": vit.global_pool,
        "fc_norm": not isinstance(vit.fc_norm, nn.Identity),
    }
    return {
        "architecture": vit.pretrained_cfg["architecture"],
        "num_classes": len(names),
        "num_features": vit.num_features,
        "global_pool": vit.global_pool,
        "label_names": list(names),
        "model_args": arguments,
        "pretrained_cfg": {
            "input_size": [3, data.image_size, data.image_size],
            "fixed_input_size": True,
            "interpolation": data.interpolation,
            "crop_pct": data.crop_fraction,
            "mean": list(data.mean),
            "std": list(data.std),
            "num_classes": len(names),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
