"""Groups: every trainable parameter in one, no decay where none belongs, rates that fall downwards."""

import torch
from torch import nn

from ssl_retina.config import Model, Optim
from ssl_retina.models import encoder
from ssl_retina.models.heads import DINOHead
from ssl_retina.train import optim


class Toy(nn.Module):
    """A ViT, a decoder that has blocks too, and a mask token that enters the ViT."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder.build(
            Model(
                name="vit_tiny_patch16_224",
                image_size=32,
                patch_size=8,
                depth=3,
                position_embedding="learned",
            ),
            checkpointing=False,
        )
        self.decoder = nn.ModuleDict({"blocks": nn.ModuleList([nn.Linear(4, 4) for _ in range(5)])})
        self.mask_token = nn.Parameter(torch.zeros(1, 1, 4))
        self.frozen = nn.Parameter(torch.zeros(4, 4), requires_grad=False)


def test_every_trainable_parameter_stands_in_one_group() -> None:
    toy = Toy()
    groups = optim.groups(toy, toy.encoder, Optim(layer_decay=0.75))
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    trainable = [id(p) for p in toy.parameters() if p.requires_grad]
    assert sorted(listed) == sorted(trainable)
    assert len(set(listed)) == len(listed)
    assert id(toy.frozen) not in listed


def test_no_decay_for_vectors_position_embeddings_and_tokens() -> None:
    toy = Toy()
    decayed = {one.name: one.decayed for one in optim.named(toy, toy.encoder, layer_decay=1.0)}
    assert not decayed["encoder.vit.pos_embed"]
    assert not decayed["encoder.vit.cls_token"]
    assert not decayed["mask_token"]
    assert not decayed["encoder.vit.blocks.0.norm1.weight"]
    assert not decayed["encoder.vit.blocks.0.attn.qkv.bias"]
    assert decayed["encoder.vit.blocks.0.attn.qkv.weight"]
    assert decayed["encoder.vit.patch_embed.proj.weight"]
    assert decayed["decoder.blocks.0.weight"]
    weights = {group["weight_decay"] for group in optim.groups(toy, toy.encoder, Optim(weight_decay=0.3))}
    assert weights == {0.0, 0.3}


def test_layer_decay_is_for_the_encoder_alone() -> None:
    toy = Toy()
    scale = {one.name: one.scale for one in optim.named(toy, toy.encoder, layer_decay=0.5)}
    assert scale["encoder.vit.pos_embed"] == scale["encoder.vit.patch_embed.proj.weight"] == 0.5**4
    assert scale["encoder.vit.cls_token"] == 0.5**4
    assert scale["encoder.vit.blocks.0.attn.qkv.weight"] == 0.5**3
    assert scale["encoder.vit.blocks.2.mlp.fc1.bias"] == 0.5
    assert scale["encoder.vit.norm.weight"] == 1.0
    assert {scale[f"decoder.blocks.{block}.weight"] for block in range(5)} == {1.0}
    assert scale["mask_token"] == 0.5**4


def test_groups_have_one_order() -> None:
    toy = Toy()
    groups = optim.groups(toy, toy.encoder, Optim(layer_decay=0.5))
    keys = [(group["scale"], group["weight_decay"]) for group in groups]
    assert keys == sorted(keys)
    assert all(group["lr"] == Optim().learning_rate * group["scale"] for group in groups)


def test_prototypes_have_a_group_that_begins_later() -> None:
    toy = Toy()
    toy.head = DINOHead(8, hidden=8, bottleneck=4, prototypes=5, begins=0.25)  # type: ignore[assignment]
    groups = optim.groups(toy, toy.encoder, Optim())
    late = [group for group in groups if group["begins"] == 0.25]
    assert [parameter.shape for group in late for parameter in group["params"]] == [(5, 4)]
