"""iBOT: crops learn what a slow teacher says of the large ones, hidden patches what it says of them.

Zhou, Wei, Wang, Shen, Xie, Yuille, Kong: iBOT: Image BERT Pre-Training with Online Tokenizer, ICLR 2022.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from ssl_retina import losses
from ssl_retina.config import MaskRatio, Natural, Positive
from ssl_retina.contract import Batch, Clock, Hidden, MakeEncoder, Output, ViewSpec, Weights
from ssl_retina.models import cropping, masking
from ssl_retina.models.distilling import Distilling
from ssl_retina.models.targets import Centring
from ssl_retina.models.teacher import Teacher


class Config(Distilling):
    """The paper's values for ViTs (section 4.1, appendices B and C, and the authors' main_ibot.py).

    mask_ratio: least and largest share of hidden patches, in one of a sample's two large views.
    fixed_length: the prototypes are directions; with false their lengths are learned, which is safe for
        ViT-S alone. The other keys: `models.distilling.Distilling`; views and patches share the head.
    """

    name: Literal["ibot"] = "ibot"
    mask_ratio: MaskRatio = (0.1, 0.5)
    prototypes: Positive = 8192
    fixed_length: bool = True
    local_views: Natural = 10


def views(config: Config, image_size: int) -> ViewSpec:
    """Two large views a sample and many small ones."""
    return config.spec(image_size)


class Method(nn.Module):
    """`contract.Method`: encoder, head and mask token learn; the teacher, a copy, is the product."""

    def __init__(self, config: Config, make_encoder: MakeEncoder) -> None:
        super().__init__()
        self.config = config
        self.encoder = make_encoder(pool=config.pool)
        if config.local_views:
            cropping.check(self.encoder, config.local_size)
        self.head = config.head(self.encoder.width, fixed_length=config.fixed_length)
        self.teacher = Teacher(cast(nn.Module, self.encoder), self.head)
        self.mask_token = nn.Parameter(torch.zeros(self.encoder.width))
        self.centring = Centring(config.prototypes)
        self.patch_centring = Centring(config.prototypes)

    def forward(self, batch: Batch, clock: Clock) -> Output:
        """Algorithm 1 with multi-crop: the teacher sees the large views whole, the student all of them."""
        config, size = self.config, len(batch.position)
        draws = clock.uniform("block_mask", batch.position, masking.BLOCK_DRAWS)
        mask = masking.block_mask(draws, self.encoder.grid, config.mask_ratio)
        pooled, patches = cropping.encoded(
            self.encoder, batch, clock, hidden=Hidden(mask.where, self.mask_token)
        )  # (views * batch, width), (2 * batch, patches, width)
        student, patches = self._logits(self.head, pooled, mask.take(patches))
        pace = config.pace(clock)
        sharp = pace.teacher_temperature
        with torch.no_grad():
            tokens = self.teacher.tokens(batch.global_views.flatten(0, 1), clock, batch.position)
            seen = mask.take(tokens[:, self.encoder.prefix_tokens :])
            taught, whole = self._logits(self.teacher.head, self.encoder.pool(tokens), seen)
            targets = self.centring(taught, sharp)  # (2, batch, prototypes)
            patch_targets = self.patch_centring(whole, sharp, mask.real)  # (batch, most, prototypes)
        cool = config.student_temperature
        found = losses.view_distillation(student, targets, temperature=cool)
        # each view counts half, and one of them hides nothing
        masked = losses.patch_distillation(patches, patch_targets, mask.real, temperature=cool) / 2
        logs = {
            **pace.logs(pooled.device),
            **found.logs(),
            **self.centring.logs(),
            "patch_loss": masked.detach(),
        }
        return Output(found.loss + masked, logs, pooled[:size].detach().float())

    @staticmethod
    def _logits(head: nn.Module, pooled: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """(views, batch, prototypes) and (batch, most, prototypes), in one pass through the head."""
        size, most = hidden.shape[:2]
        logits = head(torch.cat((pooled, hidden.flatten(0, 1))))
        views, patches = logits.split((len(pooled), size * most))
        return views.view(-1 if size else 2, size, views.shape[1]), patches.unflatten(0, (size, most))

    def after_step(self, clock: Clock, weights: Weights) -> None:
        """Teacher and centres follow."""
        student = cast(nn.Module, self.encoder)
        self.teacher.follow(student, self.head, momentum=self.config.pace(clock).momentum, weights=weights)
        self.centring.step()
        self.patch_centring.step()

    def exported(self) -> nn.Module:
        """The teacher's encoder, as in the paper's results."""
        return self.teacher.encoder
