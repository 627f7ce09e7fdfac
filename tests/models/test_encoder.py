"""The encoder: plain timm inside, masked patches never computed, drop path by position."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from ssl_retina import config
from ssl_retina.contract import Clock, uniform
from ssl_retina.errors import ConfigError
from ssl_retina.models import encoder
from ssl_retina.models.encoder import Encoder

CLOCK = Clock(3, 10, 5)


def _model(**changes: Any) -> config.Model:
    small = {"name": "vit_tiny_patch16_224", "image_size": 32, "patch_size": 8, "depth": 4, "drop_path": 0.5}
    return config.Model.model_validate({**small, **changes})


def _build(*, checkpointing: bool = False, **changes: Any) -> Encoder:
    torch.manual_seed(0)
    return encoder.build(_model(**changes), checkpointing=checkpointing)


def _images(batch: int, size: int = 32) -> Tensor:
    return uniform(0, "images", torch.arange(batch), 3 * size * size).view(batch, 3, size, size) * 4 - 2


def test_states_its_shape() -> None:
    made = _build()
    assert (made.width, made.depth, made.patch_size, made.grid, made.prefix_tokens) == (192, 4, 8, 4, 1)
    tokens = made(_images(2), CLOCK, torch.arange(2))
    assert tokens.shape == (2, 1 + 16, 192)


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_medium_patch16_gap_240",
        "vit_medium_patch32_clip_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_without_mask_and_drop_path_it_is_plain_timm(name: str) -> None:
    """Class token, none, registers, pre-norm: every token equals timm's own forward pass, bit for bit."""
    made = _build(name=name).eval()
    vit = timm.create_model(name, num_classes=0, **encoder.model_args(_model(name=name)))
    vit.load_state_dict(made.vit.state_dict(), strict=True)
    vit.eval()
    images = _images(2)
    assert torch.equal(made(images, CLOCK, torch.arange(2)), vit.forward_features(images))
    assert torch.equal(made.features(images), vit(images))


def test_features_are_the_mean_of_the_patch_tokens() -> None:
    made = _build().eval()
    tokens = made(_images(2), CLOCK, torch.arange(2))
    torch.testing.assert_close(made.features(_images(2)), tokens[:, 1:].mean(dim=1))


def test_kept_patches_see_only_each_other() -> None:
    """Pixels of dropped patches change nothing; the order of `keep` is the order of the tokens."""
    made = _build().eval()
    keep = torch.tensor([[0, 5, 15], [1, 2, 3]])
    images = _images(2)
    tokens = made(images, CLOCK, torch.arange(2), keep)
    assert tokens.shape == (2, 1 + 3, 192)
    blind = images.clone()
    for sample in range(2):
        for patch in set(range(16)) - set(keep[sample].tolist()):
            row, column = divmod(patch, 4)
            blind[sample, :, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8] = 9.0
    assert torch.equal(tokens, made(blind, CLOCK, torch.arange(2), keep))
    swapped = made(images, CLOCK, torch.arange(2), keep.flip(1))
    torch.testing.assert_close(swapped[:, 1:], tokens[:, 1:].flip(1), rtol=1e-4, atol=1e-5)


def test_keeping_all_is_keeping_none_out() -> None:
    made = _build().eval()
    every = torch.arange(16).expand(2, -1)
    images = _images(2)
    torch.testing.assert_close(
        made(images, CLOCK, torch.arange(2), every), made(images, CLOCK, torch.arange(2))
    )


class _Recorder(nn.Module):
    """Stands in a branch and keeps which factors its samples got."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.seen: list[Tensor | None] = []

    @property
    def scale(self) -> Tensor | None:
        return self.inner.scale

    @scale.setter
    def scale(self, value: Tensor | None) -> None:
        self.inner.scale = value

    def forward(self, branch: Tensor) -> Tensor:
        self.seen.append(self.inner.scale)
        return self.inner(branch)


def _record(made: Encoder) -> list[_Recorder]:
    recorders = []
    for block in made.vit.blocks:
        for name in ("drop_path1", "drop_path2"):
            if not isinstance(getattr(block, name), nn.Identity):
                setattr(block, name, _Recorder(getattr(block, name)))
                recorders.append(getattr(block, name))
    return recorders


def test_drop_path_of_eight_equals_four_and_four() -> None:
    made = _build().train()
    images, position = _images(8), torch.arange(100, 108)
    whole = made(images, CLOCK, position)
    parts = [made(images[half], CLOCK, position[half]) for half in (slice(0, 4), slice(4, 8))]
    torch.testing.assert_close(whole, torch.cat(parts), rtol=1e-5, atol=1e-5)
    other = made(images, CLOCK, position + 8)
    assert not torch.allclose(whole, other, atol=1e-2), "other positions, other paths"


def test_drop_path_reads_no_global_generator() -> None:
    made = _build().train()
    images, position = _images(4), torch.arange(4)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = made(images, CLOCK, position)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, made(images, CLOCK, position))


def test_drop_path_rates_are_timms_and_the_mean_stays() -> None:
    """Linear from 0 to the rate; factors are 0 or 1 / keep; the two branches are drawn apart."""
    made = _build(drop_path=0.6).train()
    assert made.drop_rates == pytest.approx([0.0, 0.2, 0.4, 0.6])
    recorders = _record(made)
    assert len(recorders) == 6, "the first block drops nothing"
    position = torch.arange(4096)
    made.vit.patch_embed = nn.Linear(32, 192)  # one token an image
    made.vit._pos_embed = lambda images: images
    made(torch.zeros(4096, 1, 32), CLOCK, position)
    for recorder, rate in zip(recorders, (0.2, 0.2, 0.4, 0.4, 0.6, 0.6), strict=True):
        (factors,) = recorder.seen
        assert factors is not None
        assert factors.dtype == torch.float32
        assert factors.shape == (4096, 1, 1)
        assert factors.unique().tolist() == pytest.approx([0.0, 1 / (1 - rate)])
        assert float(factors.mean()) == pytest.approx(1.0, abs=0.12)
    assert not torch.equal(recorders[0].seen[0], recorders[1].seen[0])


def test_drop_path_is_off_in_eval_and_in_plain_use() -> None:
    made = _build()
    images, position = _images(3), torch.arange(3)
    trained = made.train()(images, CLOCK, position)
    evaluated = made.eval()(images, CLOCK, position)
    assert not torch.allclose(trained, evaluated, atol=1e-3)
    assert torch.equal(evaluated, made(images, CLOCK, position + 50))
    made.train()
    torch.testing.assert_close(made.vit.forward_features(images), evaluated, rtol=0, atol=0)


def test_checkpointing_reaches_timms_blocks_and_keeps_the_gradient() -> None:
    """Each block runs twice instead of once; with two forwards before the backward pass as well."""
    images, keep = _images(4), torch.arange(0, 16, 2).expand(4, -1)
    gradients, counts = [], []
    for checkpointing in (False, True):
        made = _build(checkpointing=checkpointing).train()
        runs: list[int] = []
        for block in made.vit.blocks:
            block.register_forward_pre_hook(lambda *_, runs=runs: runs.append(1))
        first = made(images, CLOCK, torch.arange(4), keep)
        second = made(images, CLOCK, torch.arange(40, 44), keep)
        (first.square().mean() + second.abs().mean()).backward()
        counts.append(len(runs))
        gradients.append([p.grad for p in made.parameters() if p.grad is not None])
    assert counts == [8, 16]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=0, atol=0)


def test_checkpointing_costs_nothing_without_gradient() -> None:
    made = _build(checkpointing=True).eval()
    runs: list[int] = []
    made.vit.blocks[0].register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        made(_images(1), CLOCK, torch.arange(1))
    assert len(runs) == 1


def test_position_embedding_starts_at_sine_cosine() -> None:
    fixed, learned = _build(), _build(position_embedding="learned")
    assert not fixed.vit.pos_embed.requires_grad
    assert learned.vit.pos_embed.requires_grad
    assert torch.equal(fixed.vit.pos_embed, learned.vit.pos_embed)
    table = fixed.vit.pos_embed[0]
    assert not table[0].any(), "the class token has no place"
    for patch in (0, 1, 6, 15):
        row, column = divmod(patch, 4)
        for index in (0, 3, 47):
            rate = 10000 ** (-index / 48)
            parts = [table[1 + patch, block * 48 + index] for block in range(4)]
            angles = torch.tensor([column * rate, column * rate, row * rate, row * rate])
            expected = torch.stack([angles[0].sin(), angles[1].cos(), angles[2].sin(), angles[3].cos()])
            torch.testing.assert_close(torch.stack(parts), expected, rtol=1e-5, atol=1e-6)


def test_works_under_bf16_autocast() -> None:
    made = _build().train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        tokens = made(_images(2), CLOCK, torch.arange(2), torch.arange(4).expand(2, -1))
    assert bool(torch.isfinite(tokens).all())
    exact = made(_images(2), CLOCK, torch.arange(2), torch.arange(4).expand(2, -1))
    assert (tokens.float() - exact).detach().abs().mean().item() < 0.05


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_smal_patch16_224", "did you mean 'vit_small_patch16_224'?"),
        ("resnet18", "not a plain ViT"),
        ("swin_tiny_patch4_window7_224", "not a plain ViT"),
        ("local-dir:/etc", "timm has no model"),
        ("vit_small_patch16_224.augreg_in21k", "training starts fresh: write vit_small_patch16_224"),
    ],
)
def test_other_models_are_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match="model.name") as caught:
        _build(name=name)
    assert said in str(caught.value)
