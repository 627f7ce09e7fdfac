"""What one training step of a config does, counted without doing it: no weights, no pixels, no GPU.

In: a config. Out: FLOPs of an image, bytes that its forward pass keeps for the backward pass, parameters. The
method itself runs, on torch's fake tensors, which have shapes and no content.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from ssl_retina.config import Run
from ssl_retina.contract import Batch, Clock, ViewSpec
from ssl_retina.models import blocks
from ssl_retina.train import setup

FEW, MORE = 2, 4
"""Batches of two sizes: what grows between them belongs to the images."""


@dataclass(frozen=True)
class Work:
    """flops: of an image, forward and backward, 2 a multiplication and an addition. kept: bytes an image.

    again: FLOPs of an image that recomputation adds, which are no work of the model's.
    within: bytes an image, no part of `kept`, that are there only while its part of the batch is computed
        again (`train.encoder_batch`), over all its views; parts hold one view each.
    fixed: bytes that a forward pass keeps whatever the batch, the weights' bf16 copies among them.
    trained, all: parameters; a teacher's are in `all` alone.
    """

    flops: float
    kept: float
    fixed: float
    trained: int
    all: int
    again: float = 0.0
    within: float = 0.0
    views: int = 1


def count(run: Run) -> Work:
    """Count the work of a config. With activation checkpointing, blocks run twice and keep their input.

    What is computed in parts runs twice too, and what else is kept is what hooks see around the parts.
    """
    few, more = (_step(run, images) for images in (FEW, MORE))
    flops, whole = ((more[part] - few[part]) / (MORE - FEW) for part in (0, 1))
    with torch.device("meta"):
        method, spec = setup.build_method(run)
    kept, again = whole, int(run.train.activation_checkpointing)
    if run.train.encoder_batch is not None:
        around = [_step(run, images, encoder_batch=1)[1] for images in (FEW, MORE)]
        pixels = spec.global_views * 3 * spec.global_size**2 * 4  # of the whole batch, for the second pass
        kept, again = (around[1] - around[0]) / (MORE - FEW) + pixels, again + 1
    counts = [(one.numel(), one.requires_grad) for one in method.parameters()]
    return Work(
        flops=flops,
        kept=kept,
        fixed=max(few[1] - FEW * whole, 0.0),
        trained=sum(number for number, learns in counts if learns),
        all=sum(number for number, _ in counts),
        again=again * flops / 3,
        within=whole - kept,
        views=spec.global_views,
    )


def _step(run: Run, images: int, *, encoder_batch: int | None = None) -> tuple[float, float]:
    """FLOPs and kept bytes of one step on so many images; with parts, of the latter those around them."""
    plain = {"compile": False, "activation_checkpointing": False, "encoder_batch": encoder_batch}
    counted = run.model_copy(update={"train": run.train.model_copy(update=plain)})
    with torch.device("meta"):
        method, spec = setup.build_method(counted)
    with FakeTensorMode(allow_non_fake_inputs=True):
        method = method.to_empty(device="cpu").train()
        kept = _Kept(method)
        lowered = torch.autocast("cpu", dtype=torch.bfloat16, enabled=run.train.precision == "bf16")
        with FlopCounterMode(display=False, custom_mapping=_attention()) as counter:
            with kept.watched(), lowered:
                output = method(_batch(spec, images), Clock(run.method.settled, run.train.steps, run.seed))
            output.loss.backward()
    flops = float(counter.get_total_flops())
    if run.train.activation_checkpointing and encoder_batch is None:
        return flops, kept.outside + kept.inputs + kept.largest
    return flops, kept.outside + kept.inside


def _batch(spec: ViewSpec, images: int) -> Batch:
    def pixels(views: int, size: int) -> Tensor:
        return torch.zeros((views, images, 3, size, size))

    position = torch.arange(images)
    return Batch(
        global_views=pixels(spec.global_views, spec.global_size),
        local_views=pixels(spec.local_views, spec.local_size) if spec.local_views else None,
        keys=("drawn",) * images,
        position=position,
        group=position,
        field_of_view=torch.full((spec.global_views, images, 4), float("nan")),
    )


class _Kept:
    """Bytes that autograd keeps, each storage once: outside of blocks, inside, and what a block is given."""

    def __init__(self, method: nn.Module) -> None:
        self.outside = self.inside = self.inputs = self.largest = 0.0
        self._own = {one.untyped_storage()._cdata for one in method.parameters()}
        self._seen: dict[int, Any] = {}
        self._entered = 0.0
        self._within = False
        for block in blocks.of(method):
            block.register_forward_pre_hook(self._enter)
            block.register_forward_hook(self._leave)

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """While it is open, what is kept is counted."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._own and storage._cdata not in self._seen:
            self._seen[storage._cdata] = storage  # held, so that no other storage gets its address
            if self._within:
                self.inside += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return tensor

    def _enter(self, _: nn.Module, given: tuple[Any, ...]) -> None:
        self._within, self._entered = True, self.inside
        if torch.is_grad_enabled():
            self.inputs += given[0].numel() * given[0].element_size()

    def _leave(self, *_: Any) -> None:
        self._within = False
        self.largest = max(self.largest, self.inside - self._entered)


def _attention() -> dict[Any, Any]:
    """FLOPs of the processor's attention kernels, which torch's counter knows on GPUs alone."""

    def forward(query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]

    def backward(
        gradient: Any, query: Any, key: Any, value: Any, *_: Any, out_shape: Any = None, **__: Any
    ) -> int:
        flops = sdpa_backward_flop_count(gradient, query, key, value)  # type: ignore[no-untyped-call]
        return int(flops)

    ops = torch.ops.aten
    return {
        ops._scaled_dot_product_flash_attention_for_cpu: forward,
        ops._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
