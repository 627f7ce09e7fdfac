"""I-JEPA: from one block of a photograph predict what a slowly following teacher makes of others.

Assran, Duval, Misra, Bojanowski, Vincent, Rabbat, LeCun, Ballas: Self-Supervised Learning from Images with a
Joint-Embedding Predictive Architecture, CVPR 2023. No pixels are predicted, and views differ by a crop only.
"""

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import nn

from ssl_retina import losses
from ssl_retina.config import CropScale, Positive, Section, Share
from ssl_retina.contract import Batch, Clock, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.errors import ConfigError
from ssl_retina.models import rows
from ssl_retina.models.jepa import BlockPlan, Predictor
from ssl_retina.models.teacher import Teacher


class Config(Section):
    """The paper's values (section 3 and appendix A); see `models.jepa.BlockPlan` for the blocks.

    blocks, target_scale, aspect: target blocks, their shares of the area and their height to width.
    context_scale: share of the area of the context block, from which targets are taken out.
    context_share: share of all patches that the encoder sees. The paper has what is left of the block, cut to
        the least of a rank's batch: 0.29 of the patches with 128 samples and a grid of 14, by simulation. A
        layout in twenty leaves less than 0.3 there.
    predictor_*: 384 wide; 6 blocks for ViT-B, 12 for ViT-L; as many heads as the encoder has.
    momentum: of the teacher at the start; a line takes it to 1 at the end.
    recipe, crop_scale: how the view is drawn; crops of 30 to 100 %, no flip, no colour.
    """

    steady_shapes: ClassVar[bool] = False  # targets have another size in each step

    name: Literal["ijepa"] = "ijepa"
    blocks: Positive = 4
    target_scale: CropScale = (0.15, 0.2)
    aspect: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] = (0.75, 1.5)
    context_scale: CropScale = (0.85, 1.0)
    context_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    predictor_width: Positive = 384
    predictor_depth: Positive = 6
    predictor_heads: Positive = 12
    momentum: Share = 0.996
    recipe: str = "ijepa"
    crop_scale: CropScale | None = None

    def scheduled(self, fraction: float) -> dict[str, float]:
        """`Section.scheduled`: a line from the config's momentum to 1."""
        return {"momentum": self.momentum + (1 - self.momentum) * fraction}

    @model_validator(mode="after")
    def _whole_heads(self) -> "Config":
        if self.predictor_width % self.predictor_heads or self.predictor_width % 4:
            raise ValueError(
                f"predictor_width ({self.predictor_width}) must be a multiple of predictor_heads "
                f"({self.predictor_heads}) and of 4"
            )
        return self


def views(config: Config, image_size: int) -> ViewSpec:
    """One view a sample."""
    return ViewSpec(
        recipe=config.recipe, global_views=1, global_size=image_size, crop_scale=config.crop_scale
    )


class Method(nn.Module):
    """`contract.Method`: encoder and predictor learn; the teacher copies the encoder, and is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder()
        patches = self.encoder.grid**2
        self.plan = BlockPlan(
            grid=self.encoder.grid,
            kept=round(config.context_share * patches),
            count=config.blocks,
            target_scale=config.target_scale,
            aspect=config.aspect,
            context_scale=config.context_scale,
        )
        if not 0 < self.plan.kept <= self.plan.room:
            problem = f"{config.context_share} of {patches} patches are not 1 to {self.plan.room} of them"
            raise ConfigError("config", [f"method.context_share: {problem}, which blocks leave for sure"])
        self.predictor = Predictor(
            self.encoder,
            width=config.predictor_width,
            depth=config.predictor_depth,
            heads=config.predictor_heads,
        )
        assert isinstance(self.encoder, nn.Module)
        self.teacher = Teacher(self.encoder, nn.Identity())

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Draw blocks, encode the context, predict the teacher's tokens of every target block."""
        (images,) = batch.global_views  # (batch, 3, height, width)
        drawn = self.plan.draw(clock, batch.position, fixed=not self.training)
        tokens = self.encoder(images, clock, batch.position, drawn.context)  # (batch, prefix + kept, width)
        predicted = self.predictor(tokens, drawn)  # (batch, blocks, area, width)
        whole = self.teacher.tokens(images, clock, batch.position)[:, self.encoder.prefix_tokens :]
        target = rows.take(whole, drawn.targets.flatten(1)).view_as(predicted)
        loss = losses.latent_regression(predicted, target)
        logs = {
            "target_std": losses.deviation(whole.mean(dim=1)),
            "momentum": torch.full((), self.momentum(clock), device=images.device),
        }
        pooled = tokens[:, self.encoder.prefix_tokens :].detach().float().mean(dim=1)
        return Output(loss, logs, pooled)

    def momentum(self, clock: Clock) -> float:
        """What the teacher keeps of itself after the clock's step."""
        return self.config.scheduled(clock.fraction)["momentum"]

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """The teacher follows the encoder."""
        assert isinstance(self.encoder, nn.Module)
        momentum = self.momentum(clock)
        self.teacher.follow(self.encoder, self.teacher.head, momentum=momentum, weights=weights)

    def exported(self) -> nn.Module:
        """The teacher's encoder, which the paper evaluates; encoder and predictor are thrown away."""
        return self.teacher.encoder
