"""Taking and putting back tokens: as lightly's and torch's own, value and gradient, bit for bit."""

import torch
from lightly.models import utils

from ssl_retina.models import rows


def _drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn((3, 11, 5), generator=generator, requires_grad=True)
    index = torch.rand((3, 11), generator=generator).argsort(dim=1)[:, :4]
    return tokens, index


def test_take_is_gather() -> None:
    tokens, index = _drawn()
    weights = torch.randn((3, 4, 5), generator=torch.Generator().manual_seed(1))
    found, wanted = rows.take(tokens, index), utils.get_at_index(tokens, index)
    assert torch.equal(found, wanted)
    ours = torch.autograd.grad((found * weights).sum(), tokens)[0]
    theirs = torch.autograd.grad((wanted * weights).sum(), tokens)[0]
    assert torch.equal(ours, theirs)


def test_gradients_by_differences() -> None:
    tokens, index = (part.double() if part.is_floating_point() else part for part in _drawn())
    tokens = tokens.detach().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda given: rows.take(given, index), (tokens,))


def test_patches_side_by_side_are_embedded_as_where_they_were() -> None:
    """Also of images that are no square."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((2, 3, 8, 12), generator=generator)
    index = torch.rand((2, 6), generator=generator).argsort(dim=1)[:, :4]
    embed = torch.nn.Conv2d(3, 5, 4, stride=4)
    whole = embed(images).flatten(2).transpose(1, 2)  # (2, 6, 5)
    few = embed(rows.side_by_side(images, index, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(few, utils.get_at_index(whole, index))
