"""What a teacher's logits become before a student learns them: sharp distributions that cannot collapse.

In: logits over prototypes, (..., prototypes), of one rank. Out: distributions of the same shape, without
gradient, in fp32, that hang on the batches of all ranks (law 3).
"""

import torch
from torch import Tensor, nn

from ssl_retina import dist

SINKHORN_ITERATIONS = 3
CENTRE_MOMENTUM = 0.9


class Centring(nn.Module):
    """Softmax of what lies above a centre, which follows the mean logits (Caron et al. 2021, eq. 4).

    A batch meets the centre of the batches before it, so its samples do not hang on each other. What it adds
    is kept beside the centre until `step`, after an applied step: a forward pass changes no later one, a
    skipped step leaves nothing, and micro-batches add up to their batch.
    """

    centre: Tensor
    summed: Tensor
    rows: Tensor

    def __init__(self, prototypes: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(prototypes))
        self.register_buffer("summed", torch.zeros(prototypes), persistent=False)
        self.register_buffer("rows", torch.zeros(()), persistent=False)

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float, real: Tensor | None = None) -> Tensor:
        """Distributions (..., prototypes); `real` (...) bool names the rows that count for the centre."""
        with torch.autocast(logits.device.type, enabled=False):
            values = logits.float()
            if self.training:
                flat = values.flatten(0, -2)
                weight = flat.new_ones(len(flat)) if real is None else real.flatten().float()
                self.summed += weight @ flat
                self.rows += weight.sum()
            return ((values - self.centre) / temperature).softmax(dim=-1)

    @torch.no_grad()
    def step(self) -> None:
        """Follow the mean of what was seen since the last step, over all ranks; all must call."""
        seen = dist.total(torch.cat((self.summed, self.rows[None])))
        mean, rows = seen[:-1] / seen[-1].clamp(min=1), seen[-1]
        share = torch.where(rows > 0, 1 - CENTRE_MOMENTUM, 0.0)
        self.centre.lerp_(mean, share)
        self.summed.zero_()
        self.rows.zero_()

    def logs(self) -> dict[str, Tensor]:
        """How far the centre is from the origin."""
        return {"centre_norm": self.centre.norm()}


class Sinkhorn(nn.Module):
    """Sinkhorn-Knopp (Caron et al. 2020, SwAV, section 3.1): the batch uses all prototypes equally.

    Stands where `Centring` stands, and keeps nothing. Uniform factors cancel, so the counts of the usual
    algorithm are left out: in turn each prototype's column, over all ranks, and each row is brought to 1.
    That is done to logarithms, which no temperature takes out of fp32: exp(1 / 0.011) is beyond its end.
    """

    @torch.no_grad()
    def forward(self, logits: Tensor, temperature: float, real: Tensor | None = None) -> Tensor:
        """Distributions (..., prototypes); rows that are not `real` (...) weigh nothing and become zero."""
        with torch.autocast(logits.device.type, enabled=False):
            shares = (logits.float() / temperature).flatten(0, -2)  # logarithms, (rows, prototypes)
            if real is not None:
                shares.masked_fill_(~real.flatten()[:, None], -torch.inf)
            least = torch.finfo(shares.dtype).min  # in place of -inf, whose difference with itself is NaN
            for _ in range(SINKHORN_ITERATIONS):
                shares.sub_(self._column(shares, least))
                shares.sub_(shares.logsumexp(dim=1, keepdim=True).clamp(min=least))
            return shares.exp_().view(logits.shape)

    @staticmethod
    def _column(shares: Tensor, least: float) -> Tensor:
        """The logarithm of each column's sum over all ranks (prototypes,), of which some bring no rows."""
        own = shares.amax(dim=0) if len(shares) else shares.new_full(shares.shape[1:], least)
        largest = dist.largest(own.clamp(min=least))
        return (largest + dist.total((shares - largest).exp_().sum(dim=0)).log()).clamp(min=least)

    def step(self) -> None:
        """Nothing follows."""

    def logs(self) -> dict[str, Tensor]:
        """Nothing to tell."""
        return {}
