"""A timm ViT behind one call: images, and which patches to keep or to hide, come in; tokens go out.

The ViT inside stays timm's own, key for key, so that the export is a copy. What is ours around it: masked
patches never reach the blocks, drop path is drawn by position and not by torch's generator, crops of other
sizes get their own position embedding, and that starts at the sine-cosine values.
"""

from collections.abc import Sequence
from typing import Any

import timm
import torch
from lightly.models import utils
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina import config
from ssl_retina.config_text import did_you_mean
from ssl_retina.contract import Clock, Crops, Hidden, Pack, Pool
from ssl_retina.errors import ConfigError
from ssl_retina.models import blocks, rows
from ssl_retina.models.blocks import DropPath
from ssl_retina.models.parts import in_parts


class Encoder(nn.Module):
    """`contract.Encoder` around a timm ViT; `vit` is the product and knows nothing of us."""

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        at_once: int | None = None,
        packing: bool = False,
    ) -> None:
        super().__init__()
        self.vit = vit
        self.width: int = vit.embed_dim
        self.depth = len(vit.blocks)
        self.patch_size: int = vit.patch_embed.patch_size[0]
        self.grid: int = vit.patch_embed.grid_size[0]
        self.prefix_tokens: int = vit.num_prefix_tokens
        self.checkpointing = checkpointing
        self.at_once = at_once
        self.packing = packing
        vit.patch_embed.strict_img_size = False  # local crops; whole patches are still insisted on
        self._resizing: dict[int, Tensor] = {}
        self.pooling: Pool = vit.global_pool
        self.drop_rates = tuple(torch.linspace(0, drop_path, self.depth, device="cpu").tolist())
        for block, rate in zip(vit.blocks, self.drop_rates, strict=True):
            if rate > 0:
                block.drop_path1, block.drop_path2 = DropPath(), DropPath()
            if packing:
                blocks.allow_groups(block)

    def forward(
        self,
        images: Tensor | Pack,
        clock: Clock,
        position: Tensor,
        keep: Tensor | None = None,
        *,
        view: int | range = 0,
        hidden: Hidden | None = None,
    ) -> Tensor:
        """Encode (batch, 3, H, W) into (batch, prefix + kept, width), after the final norm; or a pack.

        `keep` (batch, kept) names the patches that are encoded, row by row from the top left; without it
        all are. `hidden` patches are encoded as a token that tells their place alone. `position` (samples,)
        and `view` key the drop path of each sample; for a range of views the batch is views * samples.
        """
        if isinstance(images, Pack):  # by a call too, as DeepSpeed's stage 3 gathers by calls
            return self._packed(images.crops, clock, position)
        tokens = self._embedded(images, keep, hidden)
        scales = self._scales(clock, position, view)
        for number, block in enumerate(self.vit.blocks):
            tokens = blocks.run(block, tokens, scales[number], recompute=self.checkpointing)
        normalised: Tensor = self.vit.norm(tokens)
        return normalised

    def together(self, crops: Sequence[Crops], clock: Clock, position: Tensor) -> list[Tensor]:
        """What a call on each of the crops would give, with one pass through the blocks for all of them.

        Their tokens stand one behind the other (sequence packing, as in DINOv2's nested blocks).
        """
        packed = self(Pack(tuple(crops)), clock, position)
        size = self.patch_size
        tokens = [self.prefix_tokens + one.images[0, 0].numel() // size**2 for one in crops]
        parts = packed.split([len(one.images) * count for one, count in zip(crops, tokens, strict=True)])
        return [part.view(-1, count, self.width) for part, count in zip(parts, tokens, strict=True)]

    def _packed(self, crops: Sequence[Crops], clock: Clock, position: Tensor) -> Tensor:
        """Tokens (all, width) of the crops, one behind the other, after the final norm."""
        given = [self._embedded(one.images, None, one.hidden) for one in crops]
        groups = tuple(blocks.Group(*tokens.shape[:2]) for tokens in given)
        packed = torch.cat([tokens.reshape(1, -1, self.width) for tokens in given], dim=1)  # (1, all, width)
        scales = [self._scales(clock, position, one.view) for one in crops]
        for number, block in enumerate(self.vit.blocks):
            own = _of_tokens([one[number] for one in scales], groups)
            packed = blocks.run(block, packed, own, recompute=self.checkpointing, groups=groups)
        normalised: Tensor = self.vit.norm(packed)
        return normalised[0]

    def _embedded(self, images: Tensor, keep: Tensor | None, hidden: Hidden | None) -> Tensor:
        """What goes into the blocks, (batch, prefix + kept, width)."""
        grid = images.shape[-1] // self.patch_size
        if keep is not None:
            assert hidden is None, "patches are left out, or hidden"
            images = rows.side_by_side(images, keep, self.patch_size)
        patches = self.vit.patch_embed(images)  # (batch, patches or kept, width)
        if hidden is not None:
            patches = torch.where(hidden.where[..., None], hidden.token.to(patches.dtype), patches)
        embedded: Tensor = self.vit.norm_pre(self._placed(patches, grid, keep))
        return embedded

    def vectors(self, images: Tensor, clock: Clock, position: Tensor, *, view: int = 0) -> Tensor:
        """Pooled (batch, width) of (batch, 3, H, W), at most `at_once` images in the blocks at a time."""

        def some(part: slice) -> Tensor:
            return self.pool(self(images[part], clock, position[part], view=view))

        return torch.cat(in_parts(some, images, self.at_once))

    def pool(self, tokens: Tensor) -> Tensor:
        """(batch, width) of (batch, prefix + kept, width): the mean over patches, or the class token."""
        if self.pooling == "token":
            return tokens[:, 0]
        return tokens[:, self.prefix_tokens :].mean(dim=1)

    def features(self, images: Tensor) -> Tensor:
        """(batch, width) of (batch, 3, H, W): exactly what the exported model gives in plain timm."""
        pooled: Tensor = self.vit(images)
        return pooled

    def freeze_patch_embedding(self) -> None:
        """Train everything but the patch embedding (Chen, Xie and He 2021, section 4)."""
        self.vit.patch_embed.requires_grad_(False)

    def _placed(self, patches: Tensor, grid: int, keep: Tensor | None) -> Tensor:
        """The prefix before the patches, and every token's place added to it: timm's `_pos_embed`."""
        vit = self.vit
        if grid == self.grid and keep is None:
            placed: Tensor = vit._pos_embed(patches)
            return placed
        embedded = 0 if vit.no_embed_class else self.prefix_tokens
        places = vit.pos_embed[:, embedded:]
        if grid != self.grid:
            with torch.autocast(patches.device.type, enabled=False):
                places = self._resize(grid, patches.device) @ places.float()  # (1, patches, width)
        if keep is not None:
            places = rows.take(places.expand(len(keep), -1, -1), keep)  # (batch, kept, width)
        prefix = [token for token in (vit.cls_token, vit.reg_token) if token is not None]
        if embedded:
            first = torch.cat(prefix, dim=1) + vit.pos_embed[:, :embedded]
        else:
            first = torch.cat(prefix, dim=1) if prefix else patches.new_zeros((1, 0, self.width))
        return torch.cat((first.expand(len(patches), -1, -1), patches + places), dim=1)

    def _resize(self, grid: int, device: torch.device) -> Tensor:
        """(grid * grid, own grid * own grid): what timm's bicubic, antialiased resampling multiplies with.

        Resampling is linear, so one product gives it, and its gradient, which is deterministic on a GPU
        too, where that of torch's `interpolate` is not.
        """
        found = self._resizing.get(grid)
        if found is None or found.device != device:
            count = self.grid**2
            own = torch.eye(count, device="cpu").view(1, count, self.grid, self.grid)
            resized = functional.interpolate(own, size=(grid, grid), mode="bicubic", antialias=True)
            found = self._resizing[grid] = resized[0].flatten(1).T.contiguous().to(device)
        return found

    def _scales(self, clock: Clock, position: Tensor, view: int | range) -> Sequence[Tensor | None]:
        """For every block (2, batch, 1, 1): the factors of its two branches; None where nothing is dropped.

        Stochastic depth (Huang et al. 2016), linear in depth as in timm, and scaled to keep the mean.
        """
        if not self.training or not any(self.drop_rates):
            return (None,) * self.depth
        views = (view,) if isinstance(view, int) else view
        draws = torch.cat([clock.uniform("drop_path", position, 2 * self.depth, one) for one in views])
        draws = draws.T.reshape(self.depth, 2, -1, 1, 1)
        return [
            (draw >= rate).to(torch.float32) / (1 - rate) if rate > 0 else None
            for draw, rate in zip(draws, self.drop_rates, strict=True)
        ]


def _of_tokens(scales: Sequence[Tensor | None], groups: Sequence[blocks.Group]) -> Tensor | None:
    """(2, 1, all, 1) of factors (2, images, 1, 1) for each group: one for every token."""
    spread = [
        one.expand(-1, -1, group.tokens, -1).flatten(1, 2)
        for one, group in zip(scales, groups, strict=True)
        if one is not None
    ]
    return torch.cat(spread, dim=1)[:, None] if spread else None


def build(
    model: config.Model,
    *,
    checkpointing: bool,
    at_once: int | None = None,
    packing: bool = False,
    pool: Pool = "avg",
) -> Encoder:
    """The encoder that a config describes, with fresh weights drawn from torch's generator.

    Linear layers start as in the MAE paper (Xavier uniform, timm's `jax` mode). The position embedding
    starts at the sine-cosine values of the patch grid (0 for the class token) whether it is trained or
    not: no draw, the geometry is right from the first step, and since the values live in timm's own
    `pos_embed`, plain timm reads them and resamples them to other sizes. `fixed` is the paper's choice and
    the default: with 3 of 4 patches hidden, a trained embedding costs as many parameters as a small layer
    and buys nothing there. `learned` is for methods whose papers train it.

    Raises ConfigError for a name that timm does not know as a plain ViT.
    """
    vit = create(model.name, weight_init="jax", **model_args(model, pool))
    if pool == "token" and vit.cls_token is None:
        raise ConfigError("config", [f"model.name: {model.name} has no class token to train; pool by avg"])
    vit.requires_grad_(True)
    if vit.pos_embed is None:
        raise ConfigError("config", [f"model.name: {model.name} has no position embedding to mask by"])
    _start_positions(vit)
    vit.pos_embed.requires_grad_(model.position_embedding == "learned")
    return Encoder(
        vit, drop_path=model.drop_path, checkpointing=checkpointing, at_once=at_once, packing=packing
    )


def _start_positions(vit: VisionTransformer) -> None:
    embedded = 0 if vit.no_embed_class else vit.num_prefix_tokens
    utils.initialize_2d_sine_cosine_positional_embedding(vit.pos_embed, num_prefix_tokens=embedded)


def renew(vit: VisionTransformer, *, seed: int) -> None:
    """Give a ViT of any origin weights drawn as a pretraining of ours draws its first ones (see `build`).

    The same distribution, not the same draw as that of a run with this seed. timm's own start is another
    (random positions, narrow normal weights), and a comparison with it would be one of two starts, not of
    pretraining with none. torch's generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        vit.init_weights("jax")
        if vit.pos_embed is not None:
            _start_positions(vit)


def model_args(model: config.Model, pool: Pool = "avg") -> dict[str, Any]:
    """What timm needs beside the name to build the same ViT again; goes into the export's config.json.

    `pool`: MAE trains no class token, so its value is an accident; the mean over patches is what MAE
    fine-tunes with. `fc_norm` False keeps timm's `norm` before the mean, where it stood while training.
    """
    depth = {} if model.depth is None else {"depth": model.depth}
    registers = {"reg_tokens": model.registers} if model.registers else {}
    return {
        "img_size": model.image_size,
        "patch_size": model.patch,
        **depth,
        **registers,
        "global_pool": pool,
        "fc_norm": False,
    }


def create(name: str, **arguments: Any) -> Any:
    """A ViT without head by its architecture's name: the only place that asks timm for one to train."""
    if "." in name:
        fresh = name.split(".", 1)[0]
        raise ConfigError(
            "config", [f"model.name: {name} names weights, training starts fresh: write {fresh}"]
        )
    if not timm.is_model(name):
        known = timm.list_models("vit_*")
        raise ConfigError("config", [f"model.name: timm has no model {name!r}{did_you_mean(name, known)}"])
    try:
        vit = timm.create_model(name, pretrained=False, num_classes=0, **arguments)
    except TypeError as error:  # an architecture that has no patch size, no image size, ...
        raise ConfigError("config", [f"model.name: {name} is not a plain ViT ({error})"]) from None
    if type(vit) is not VisionTransformer or vit.attn_pool is not None:
        raise ConfigError("config", [f"model.name: {name} is not a plain ViT, such as vit_small_patch16_224"])
    return vit
