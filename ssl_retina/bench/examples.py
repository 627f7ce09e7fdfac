"""lightly's documented PyTorch examples of MAE, SimCLR and MoCo, with the sizes of a config of ours.

In: a config, a batch on the device. Out: a trainer, or None for a method that has no example here. Their
modules, order of calls and loop (github.com/lightly-ai/lightly, examples/pytorch), with what makes the work
equal: timm's ViT as the encoder, the config's decoder or heads, AdamW, and for MoCo both directions and the
predictor of MoCo v3, which the example, MoCo v2's, has not.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from lightly.loss import NTXentLoss
from lightly.models import utils
from lightly.models.modules import (
    MaskedVisionTransformerDecoderTIMM,
    MaskedVisionTransformerTIMM,
    MoCoProjectionHead,
    SimCLRProjectionHead,
)
from torch import Tensor, nn

from ssl_retina import dist
from ssl_retina.bench.loops import lowered
from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock
from ssl_retina.models import encoder


class Example:
    """The examples' loop: loss, backward, AdamW as torch builds it, gradients to None."""

    def __init__(self, run: Run, batch: Batch, build: Callable[[Run], nn.Module]) -> None:
        torch.manual_seed(run.seed)
        self._model = build(run).to(dist.device())
        self._views, self._precision = batch.global_views, run.train.precision
        trained = [one for one in self._model.parameters() if one.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, lr=run.optim.learning_rate)
        self.total_loss = torch.zeros((), device=dist.device())

    def step(self, clock: Clock) -> None:
        """Without this program's deterministic kernels: a user of the examples has none."""
        before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        try:
            with lowered(self._precision):
                loss = self._model(self._views)
            self.total_loss += loss.detach()
            loss.backward()
            self._optimizer.step()
            self._optimizer.zero_grad()
        finally:
            torch.use_deterministic_algorithms(before)


def example(run: Run, batch: Batch) -> Example | None:
    """The example of the config's method."""
    build = {"mae": MAE, "simclr": SimCLR, "mocov3": MoCo}.get(run.method_name)
    return Example(run, batch, build) if build else None


def _vit(run: Run, pool: str) -> Any:
    return encoder.create(run.model.name, **encoder.model_args(run.model, pool))  # type: ignore[arg-type]


class MAE(nn.Module):
    """examples/pytorch/mae.py: the decoder is given as many tokens as there are patches."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        config: Any = run.method
        vit = _vit(run, "token")
        patches, self._patch_size = vit.patch_embed.num_patches, vit.patch_embed.patch_size[0]
        self._ratio = config.mask_ratio
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.embed = nn.Linear(vit.embed_dim, config.decoder_width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=patches,
            embed_dim=config.decoder_width,
            depth=config.decoder_depth,
            num_heads=config.decoder_heads,
            num_prefix_tokens=vit.num_prefix_tokens,
        )
        self.predict = nn.Linear(config.decoder_width, 3 * self._patch_size**2)
        self.criterion = nn.MSELoss()

    def forward(self, views: Tensor) -> Tensor:
        """The mean squared error of the masked patches of (1, batch, 3, height, width)."""
        images = views[0]
        length = self.backbone.sequence_length
        keep, masked = utils.random_token_mask((len(images), length), self._ratio, device=images.device)
        encoded = self.embed(self.backbone.encode(images, idx_keep=keep))
        tokens = utils.repeat_token(self.decoder.mask_token, (len(images), length))
        tokens = utils.set_at_index(tokens, keep, encoded.type_as(tokens))
        predicted = self.predict(utils.get_at_index(self.decoder(tokens), masked))
        target = utils.get_at_index(utils.patchify(images, self._patch_size), masked - 1)
        loss: Tensor = self.criterion(predicted, target)
        return loss


class SimCLR(nn.Module):
    """examples/pytorch/simclr.py."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        config: Any = run.method
        self.backbone = _vit(run, config.pool)
        width = self.backbone.embed_dim
        hidden, layers = config.projector_hidden, config.projector_layers
        self.projection_head = SimCLRProjectionHead(width, hidden, config.projector_out, layers)
        self.criterion = NTXentLoss(temperature=config.temperature)

    def forward(self, views: Tensor) -> Tensor:
        """The contrast of two views (2, batch, 3, height, width), one after the other through the model."""
        first, second = (self.projection_head(self.backbone(view).flatten(start_dim=1)) for view in views)
        loss: Tensor = self.criterion(first, second)
        return loss


class MoCo(nn.Module):
    """examples/pytorch/moco.py, both ways and with a predictor; negatives are the batch's, as in MoCo v3."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        config: Any = run.method
        self.backbone = _vit(run, config.pool)
        if config.freeze_patch_embedding:
            utils.deactivate_requires_grad(self.backbone.patch_embed)
        width, hidden, out = self.backbone.embed_dim, config.hidden, config.out
        self.projection_head = MoCoProjectionHead(width, hidden, out, num_layers=3, batch_norm=True)
        self.prediction_head = MoCoProjectionHead(out, hidden, out, num_layers=2, batch_norm=True)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        utils.deactivate_requires_grad(self.backbone_momentum)
        utils.deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NTXentLoss(temperature=config.temperature)
        self._momentum = config.momentum

    def forward(self, views: Tensor) -> Tensor:
        """The mean of both directions' contrast of (2, batch, 3, height, width)."""
        utils.update_momentum(self.backbone, self.backbone_momentum, m=self._momentum)
        utils.update_momentum(self.projection_head, self.projection_head_momentum, m=self._momentum)
        queries = [self.prediction_head(self.projection_head(self.backbone(view))) for view in views]
        with torch.no_grad():
            keys = [self.projection_head_momentum(self.backbone_momentum(view)) for view in views]
        there, back = (self.criterion(query, key) for query, key in zip(queries, reversed(keys), strict=True))
        loss: Tensor = (there + back) / 2
        return loss
