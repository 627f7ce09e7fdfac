"""DINOv3's Gram teacher: which patches of a view an earlier teacher found alike, kept while training goes on.

In: a frozen copy of an encoder, large views. Out: its patch features on the student's grid. Simeoni, Vo,
Seitzer et al.: DINOv3, arXiv 2508.10104, 2025, section 4, and the authors' dinov3_vit7b16_gram_anchor.yaml.
"""

import copy
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina.config import Natural, Positive, Section
from ssl_retina.contract import Clock, Encoder, Weights


class Gram(Section):
    """How patches are anchored; the authors' values.

    weight: of the loss (`losses.gram`).
    scale: how many times as large as the student's views the Gram teacher's are, whose features are then
        resampled to the student's grid: 2 is the paper's L_HRef, 1 its L_Gram.
    begin_step: 0 anchors from the first step on to the weights that the run starts from (`model.init`);
        otherwise the teacher is copied after so many steps, and nothing is anchored before.
    every_steps, refreshes: after how many steps each the teacher is copied again, and how often at most.
    """

    weight: Annotated[float, Field(gt=0)] = 2.0
    scale: Annotated[int, Field(ge=1, le=4)] = 2
    begin_step: Natural = 0
    every_steps: Positive = 10_000
    refreshes: Natural = 3

    def conflict(self, *, init: str | None, steps: int) -> str | None:
        """`Section.conflict`: what is anchored must have learned something, and the end must come later."""
        if self.begin_step == 0 and init is None:
            return (
                "method.gram anchors to the weights that the run starts from, which would be random ones: "
                "give model.init, or method.gram.begin_step, after which the run's own teacher is copied"
            )
        if self.begin_step >= steps:
            return f"method.gram.begin_step ({self.begin_step}) must be below train.steps ({steps})"
        return None

    def copies(self, done: int) -> int:
        """How often the teacher should have been copied once `done` steps are done."""
        if done < self.begin_step:
            return 0
        first = 1 if self.begin_step else 0
        return first + min((done - self.begin_step) // self.every_steps, self.refreshes)


class GramTeacher(nn.Module):
    """An encoder that neither learns nor follows, but now and then becomes the teacher; fp32, no drop path.

    Its weights, and how often it was copied, are in the method's state dict, so a checkpoint holds them. A
    copy that falls on a skipped step is made after the next one that is applied.
    """

    made: Tensor

    def __init__(self, config: Gram, encoder: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("made", torch.tensor(0))
        self.encoder.eval()

    def train(self, mode: bool = True) -> "GramTeacher":
        """Never in training mode inside: the encoder drops no path."""
        super().train(mode)
        self.encoder.eval()
        return self

    def begun(self, clock: Clock) -> bool:
        """Whether the clock's step anchors."""
        return clock.step >= self.config.begin_step

    def weight(self) -> Tensor:
        """Of the loss: none while the copy of the first step is still to be made."""
        there = self.made >= min(self.config.begin_step, 1)
        return self.config.weight * there.float()

    @torch.no_grad()
    def forward(self, images: Tensor, clock: Clock, position: Tensor, *, grid: int) -> Tensor:
        """(batch, grid * grid, width) of images (batch, 3, H, W), of any number of patches.

        Resampled by torch's bicubic filter without antialiasing, as the authors have it.
        """
        encoder: Encoder = self.encoder  # type: ignore[assignment]
        patches = encoder(images, clock, position)[:, encoder.prefix_tokens :].float()
        own = images.shape[-1] // encoder.patch_size
        if own == grid:
            return patches
        shape = (len(patches), encoder.width, own, own)
        with torch.autocast(images.device.type, enabled=False):
            maps = patches.transpose(1, 2).reshape(shape)
            resized = functional.interpolate(maps, size=(grid, grid), mode="bicubic", align_corners=False)
            return resized.flatten(2).transpose(1, 2)

    def follow(self, teacher: nn.Module, clock: Clock, weights: Weights) -> None:
        """Become the teacher's encoder where a copy is due after the clock's step; all ranks must call."""
        due = self.config.copies(clock.step + 1)
        if due > int(self.made):  # waits for the device, as the loop does after each step
            weights.follow(self.encoder, teacher, 0.0)
            self.made.fill_(due)
