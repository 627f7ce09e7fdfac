"""A head that guesses a photograph's camera, and an encoder that learns to leave it nothing to guess by.

In: any method, and the devices of a batch (`Batch.device`). Out: the same method, whose gradient also holds
that of the head and, turned round, what the head asks of the encoder (Ganin et al., Domain-Adversarial
Training of Neural Networks, JMLR 17, 2016). The head hangs on the method by torch's hooks: none knows of it.
"""

import dataclasses
import math
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from ssl_retina.contract import UNKNOWN, Batch, Clock, Encoder, Output
from ssl_retina.sections import Adversary

STEEPNESS = 10.0
"""Gamma of the paper's ramp."""


def ramp(fraction: float) -> float:
    """2 / (1 + exp(-10 p)) - 1 (section 5.2.2): from 0 to nearly 1, since the head guesses badly at first."""
    return 2 / (1 + math.exp(-STEEPNESS * fraction)) - 1


class _Reversed(torch.autograd.Function):
    """The same rows; their gradient times -factor (equations 17 and 18)."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, factor: float) -> Tensor:
        """Any shape."""
        ctx.factor = factor
        return rows.view_as(rows)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The same shape."""
        return -ctx.factor * gradient, None


class DeviceHead(nn.Module):
    """Two layers from a pooled view to the devices, and what they make of a method's gradient.

    The encoder's pooled output of every view, of crops and of what is left of a masked view too, is noted
    while the method runs. A sample whose device is unknown has no part in the loss; the mean is over all
    samples, so that it is a sum of theirs, and neither ranks nor accumulation change it.
    """

    def __init__(self, width: int, settings: Adversary) -> None:
        super().__init__()
        self.weight = settings.weight
        self.layers = nn.Sequential(
            nn.Linear(width, settings.hidden), nn.ReLU(), nn.Linear(settings.hidden, settings.devices)
        )
        self._pooled: list[Tensor] | None = None

    def forward(self, rows: Tensor, factor: float) -> Tensor:
        """Logits (rows, devices) of pooled views (rows, width), in fp32."""
        logits: Tensor = self.layers(_Reversed.apply(rows, factor))
        return logits.float()

    def begin(self, method: nn.Module, given: tuple[Any, ...]) -> None:
        """Note what the encoder says from now on, in training."""
        del given
        self._pooled = [] if method.training else None

    def note(self, encoder: nn.Module, given: tuple[Any, ...], tokens: Tensor) -> None:
        """One call of the encoder: tokens (views * samples, ...)."""
        del given
        if self._pooled is not None:
            self._pooled.append(cast(Encoder, encoder).pool(tokens))

    def answer(self, method: nn.Module, given: tuple[Batch, Clock], output: Output) -> Output | None:
        """The method's output: its loss has the same value, and the gradient of the guess as well."""
        del method
        batch, clock = given
        pooled, self._pooled = self._pooled, None
        if not pooled:
            return None
        rows = torch.cat(pooled)  # (views * samples, width), the samples of each view side by side
        device = _devices(batch).repeat(len(rows) // len(batch.keys))
        logits = self(rows, self.weight * ramp(clock.fraction))
        losses = functional.cross_entropy(logits, device, reduction="none", ignore_index=UNKNOWN)
        loss = losses.sum() / len(rows)
        known = device != UNKNOWN
        count = known.sum().clamp(min=1)
        right = ((logits.detach().argmax(dim=1) == device) & known).sum() / count
        logs = {**output.logs, "device_accuracy": right, "device_loss": losses.detach().sum() / count}
        # what is compared between runs, with and without a head, stays the method's own loss
        return dataclasses.replace(output, loss=output.loss + (loss - loss.detach()), logs=logs)


def _devices(batch: Batch) -> Tensor:
    if batch.device is None:
        return torch.full_like(batch.position, UNKNOWN)
    return batch.device


def attach(method: nn.Module, settings: Adversary) -> None:
    """Hang a head with fresh weights on a method, as `adversary`, where the config asks for one."""
    if not settings.weight:
        return
    encoder = cast(nn.Module, method.encoder)
    head = DeviceHead(cast(Encoder, encoder).width, settings)
    method.add_module("adversary", head)
    method.register_forward_pre_hook(head.begin)
    encoder.register_forward_hook(head.note)
    method.register_forward_hook(head.answer)
