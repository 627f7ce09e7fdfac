"""What `finish` asks of a GPU, where there is none: few operations, and nothing to wait for.

Tensors that go to "cuda" become torch's fake ones there, which have shapes and no values: who asks for a
value fails, and the operations can be counted.
"""

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import placing, views

GPU = torch.device("cuda", 0)
WAITS = ("item", "_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique_dim")
"""Operations whose answer the host waits for."""
WAITS_IF_DETERMINISTIC = ("index_copy_", "index_copy", "index_put_", "index_put", "_index_put_impl_")
"""On CUDA, with deterministic kernels, these read the least and the greatest index back."""
SLOW_IF_DETERMINISTIC = ("_unsafe_index", "_unsafe_index_put")
"""What torch's `pad` and `interpolate` are made of then."""
FREE = ("device", "view", "select", "slice", "expand", "unsqueeze", "transpose", "permute", "unbind", "split")


class Asked(TorchDispatchMode):
    """Counts the operations on the fake GPU."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()
        self.fakes, self.counts = fakes, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        wanted = kwargs.get("device")
        made = wanted is not None and torch.device(wanted).type == "cuda" and not _tensors(args)
        with self.fakes if made else contextlib.nullcontext():
            out = func(*args, **kwargs)
        name = func.overloadpacket._qualified_op_name.split("::")[1]
        if name not in FREE and any(one.device.type == "cuda" for one in _tensors((args, kwargs, out))):
            self.counts[name] += 1
        return out


class Sending(TorchFunctionMode):
    """Makes what is sent to the GPU a fake; counts copies, and those out of pageable memory."""

    def __init__(self, fakes: FakeTensorMode) -> None:
        super().__init__()
        self.fakes, self.sent, self.pageable = fakes, 0, 0
        self._locked: set[int] = set()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.pin_memory:
            self._locked.add(args[0].data_ptr())
            return args[0]
        wanted = kwargs.get("device", next((one for one in args if isinstance(one, torch.device)), None))
        host = not any(isinstance(one, FakeTensor) for one in _tensors(args))
        if wanted is None or torch.device(wanted).type != "cuda" or not host:
            return func(*args, **kwargs)
        if func is not Tensor.to:
            with self.fakes:
                return func(*args, **kwargs)
        given = args[0]
        self.sent += 1
        self.pageable += given.data_ptr() not in self._locked
        empty = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device="meta")
        return FakeTensor(self.fakes, empty, GPU)


def _tensors(tree: Any) -> list[Tensor]:
    return [one for one in tree_leaves(tree) if isinstance(one, Tensor)]


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As the trainer has it (`train.setup.deterministic`); torch asks for no driver."""
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def batch(recipe: str, count: int, side: int = 32) -> Batch:
    """A page-locked batch as the loader gives it, of black pixels."""
    spec, places = ViewSpec(recipe, 2, side), torch.arange(count)
    return Batch(
        global_views=torch.zeros((2, count, side, side, 3), dtype=torch.uint8).permute(0, 1, 4, 2, 3),
        local_views=None,
        keys=("",) * count,
        position=places,
        group=places.clone(),
        field_of_view=torch.full((2, count, 4), side / 2),
        colours=views.colours(spec, 3, places, scans=[False] * count),
        cameras=views.cheap_cameras(spec, 3, places, scans=[False] * count),
    )


def asked(given: Batch) -> tuple[Counter[str], Sending]:
    """The operations that `finish` asks a GPU for, and the copies to it."""
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    counting, sending = Asked(fakes), Sending(fakes)
    with sending, counting:
        for part in dataclasses.fields(given):
            value = getattr(given, part.name)
            if isinstance(value, Tensor):
                value.pin_memory()
        done = views.finish(given, device=GPU)
    assert done.global_views.device == GPU
    assert done.global_views.dtype == torch.float32
    return counting.counts, sending


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(("recipe", "most"), [("contrast", 300), ("primary_care", 600)])
def test_a_gpu_is_never_waited_for_and_asked_for_little(recipe: str, most: int) -> None:
    """The counts are those of 256 samples; in parts of 32 it were six times as many."""
    counts, sending = asked(batch(recipe, 256))
    assert not {name: counts[name] for name in (*WAITS, *WAITS_IF_DETERMINISTIC) if counts[name]}
    assert not {name: counts[name] for name in SLOW_IF_DETERMINISTIC if counts[name]}
    assert counts["_foreach_copy_"] > 5  # it was counted, and samples were put back
    assert counts.total() < most
    assert sending.pageable == 0
    assert sending.sent < 80


@pytest.mark.usefixtures("deterministic")
def test_what_waits_would_be_seen() -> None:
    fakes = FakeTensorMode(allow_non_fake_inputs=True)
    counting, sending = Asked(fakes), Sending(fakes)
    with sending, counting:
        there = torch.zeros(4, 3, 8, 8).to(GPU)
        there.index_copy_(0, torch.tensor([1, 3]).to(GPU), torch.ones(2, 3, 8, 8).to(GPU))
        torch.nn.functional.interpolate(there, size=(5, 5), mode="bilinear")
        with pytest.raises(Exception, match="item|data-dependent|_local_scalar_dense"):
            there.sum().item()
    assert sending.pageable == sending.sent == 3
    assert counts_of(counting, WAITS_IF_DETERMINISTIC) == 1
    assert counts_of(counting, SLOW_IF_DETERMINISTIC) > 0


def counts_of(counting: Asked, names: tuple[str, ...]) -> int:
    return sum(counting.counts[name] for name in names)


def test_put_is_an_assignment_in_place() -> None:
    images = torch.arange(40.0).view(5, 2, 4)
    expected, changed = images.clone(), -torch.ones(2, 2, 4)
    expected[[3, 1]] = changed
    before = images.data_ptr()
    placing.put(images, [3, 1], changed)
    assert torch.equal(images, expected)
    assert images.data_ptr() == before
