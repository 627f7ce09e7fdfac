"""timm's block where the last tokens alone come out: the same tokens and gradients, fewer operations."""

import torch
from timm.models.vision_transformer import Block
from torch.utils.flop_counter import FlopCounterMode

from ssl_retina.models import blocks


def test_the_last_tokens_are_those_of_timms_block() -> None:
    torch.manual_seed(0)
    plain = Block(24, 3, qkv_bias=True, init_values=0.7, qk_norm=True)
    last = Block(24, 3, qkv_bias=True, init_values=0.7, qk_norm=True)
    last.load_state_dict(plain.state_dict())
    blocks.want_last(last)
    assert isinstance(last, blocks.LastBlock)
    assert list(last.state_dict()) == list(plain.state_dict())
    last.wanted = 5
    tokens = torch.randn(2, 9, 24, requires_grad=True)
    weights = torch.randn(2, 5, 24)
    found, wanted = blocks.run(last, tokens), blocks.run(plain, tokens)[:, -5:]
    torch.testing.assert_close(found, wanted)
    ours = torch.autograd.grad((found * weights).sum(), [tokens, *last.parameters()])
    theirs = torch.autograd.grad((wanted * weights).sum(), [tokens, *plain.parameters()])
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_what_nobody_wants_is_not_computed() -> None:
    block = Block(24, 3)
    counts = []
    for change in (False, True):
        if change:
            blocks.want_last(block)
            block.wanted = 5
        with FlopCounterMode(display=False) as counter:
            block(torch.randn(2, 9, 24))
        counts.append(counter.get_total_flops())
    assert counts[0] - counts[1] >= 2 * 2 * 4 * 9 * 24 * 24  # projection and perceptron of 4 tokens of 9
