"""Starting from other people's weights: equal features in every layout, a receipt, or a refusal."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import foreign
import httpx2
import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from test_weights import _Evil
from timm.layers import resample_abs_pos_embed, resample_patch_embed

from ssl_retina import architecture, config
from ssl_retina.data import views
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import receipt, weights
from ssl_retina.models.encoder import Encoder
from ssl_retina.models.initial import Initial
from ssl_retina.models.receipt import Receipt


def _model(start: Path | str, **changes: Any) -> config.Model:
    plain = {
        "name": foreign.PLAIN,
        "image_size": foreign.SIZE,
        "patch_size": foreign.PATCH,
        "depth": foreign.DEPTH,
    }
    return config.Model(**{**plain, "init": str(start), **changes})


def _begun(start: Path | str, **changes: Any) -> tuple[Encoder, Receipt]:
    initial = Initial(_model(start, **changes))
    made = initial.build(checkpointing=False).eval()
    assert initial.receipt is not None
    return made, initial.receipt


def _images(size: int = foreign.SIZE) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("case", foreign.CASES)
def test_every_layout_gives_the_features_of_the_model_it_came_from(case: str, tmp_path: Path) -> None:
    write, name, layout = foreign.CASES[case]
    theirs = foreign.vit(name)
    path = write(theirs, tmp_path)
    made, told = _begun(path, name=name)
    with torch.no_grad():
        wanted, found = theirs.forward_features(_images()), made.vit.forward_features(_images())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert told.layout == layout
    assert told.share_of_backbone == 1
    assert not told.missing
    assert not told.resized
    assert len(told.matched) == len(theirs.state_dict())
    said = "\n".join(receipt.sentences(json.loads(json.dumps(told.as_json()))))
    assert str(tmp_path) not in said
    assert "100.00% of the encoder's parameters" in said
    assert "licence: unknown" in said


def test_heads_decoders_and_other_encoders_are_named_as_not_used(tmp_path: Path) -> None:
    theirs = foreign.vit()
    told = _begun(foreign.mae(theirs, tmp_path))[1]
    assert told.unexpected == ("mask_token", "decoder_embed.weight")
    assert 0.99 < told.share_of_file < 1
    assert "CC BY-NC 4.0" in told.licence
    told = _begun(foreign.mocov3(theirs, tmp_path))[1]
    assert {"module.predictor.0.weight", "module.base_encoder.head.0.weight"} <= {*told.unexpected}
    assert "module.momentum_encoder.cls_token" in told.unexpected
    assert 0.49 < told.share_of_file < 0.51
    assert any("taken of 2 encoders" in step for step in told.steps)


@pytest.mark.parametrize("position_embedding", ["fixed", "learned"])
def test_weights_arrive_bit_for_bit_and_no_start_of_ours_overwrites_them(
    position_embedding: str, tmp_path: Path
) -> None:
    theirs = foreign.vit()
    made, told = _begun(foreign.mae(theirs, tmp_path), position_embedding=position_embedding)
    assert weights.digest(made.vit) == weights.digest(theirs)
    assert made.vit.pos_embed.requires_grad == (position_embedding == "learned")
    assert made.vit.cls_token.requires_grad
    assert len(told.sha256) == 64


def test_other_sizes_are_resized_as_timm_does(tmp_path: Path) -> None:
    theirs = foreign.vit(img_size=48, patch_size=12)  # 4 x 4 places
    made, told = _begun(foreign.bare(theirs, tmp_path), image_size=48, patch_size=8)
    kernel = resample_patch_embed(theirs.patch_embed.proj.weight, [8, 8])
    assert torch.equal(made.vit.patch_embed.proj.weight, kernel)
    places = resample_abs_pos_embed(theirs.pos_embed, [6, 6], num_prefix_tokens=1)
    assert torch.equal(made.vit.pos_embed, places)
    assert torch.equal(made.vit.cls_token, theirs.cls_token)
    assert set(told.resized) == {("patch_embed.proj.weight", "12x12", "8x8"), ("pos_embed", "4x4", "6x6")}
    assert "resized pos_embed: 4x4 -> 6x6" in "\n".join(receipt.sentences(told.as_json()))


def test_registers_are_added_and_the_class_tokens_place_goes_with_it(tmp_path: Path) -> None:
    """A ViT without registers in a model with four: they start as drawn, places of patches are the file's."""
    theirs = foreign.vit(foreign.SCALED)
    made, told = _begun(foreign.dinov2(theirs, tmp_path), name=foreign.REGISTERS)
    assert told.missing == ("reg_token",)
    assert told.share_of_backbone > 0.999
    assert torch.equal(made.vit.pos_embed, theirs.pos_embed[:, 1:])
    assert torch.equal(made.vit.cls_token, theirs.cls_token + theirs.pos_embed[:, :1])
    with torch.no_grad():
        made.vit.reg_token = None
        made.vit.num_reg_tokens, made.vit.num_prefix_tokens = 0, 1
        found, wanted = made.vit.forward_features(_images()), theirs.forward_features(_images())
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_registers_of_the_config_have_places_which_arrive_too(tmp_path: Path) -> None:
    """8 registers, 4 x 4 patches: 25 places, which could be 5 x 5 patches and nothing before them."""
    theirs = foreign.vit(reg_tokens=8)
    made, told = _begun(foreign.bare(theirs, tmp_path), registers=8)
    assert weights.digest(made.vit) == weights.digest(theirs)
    assert not told.resized
    with pytest.raises(CheckpointError, match=r"no place in the model: reg_token"):
        _begun(tmp_path / "bare.safetensors")


@pytest.mark.parametrize(
    ("theirs", "name", "says"),
    [
        ({"depth": 3}, foreign.PLAIN, r"no place in the model: blocks\.2.*model\.depth=3"),
        ({"depth": 1}, foreign.PLAIN, r"fills 5\d\.\d%.*missing: blocks\.1\.norm1\.weight.*model\.depth=1"),
        ({"name": foreign.REGISTERS}, foreign.SCALED, r"no place.*reg_token.*vit_small_patch14_reg4_dinov2"),
        ({"name": foreign.SCALED}, "vit_small_patch16_224", r"no place.*ls1\.gamma"),
        ({"name": "vit_small_patch16_224"}, foreign.SCALED, r"missing: blocks\.0\.ls1\.gamma"),
        (
            {"name": "vit_small_patch16_224"},
            foreign.PLAIN,
            r"fills 0\.0%.*other shapes: .*try model\.name=vit_small_patch8_224 model\.patch_size=8",
        ),
    ],
)
def test_what_would_be_another_function_is_refused_with_what_it_looks_like(
    theirs: dict[str, Any], name: str, says: str, tmp_path: Path
) -> None:
    path = foreign.bare(foreign.vit(**theirs), tmp_path)
    with pytest.raises(CheckpointError, match=f"(?s){says}") as caught:
        _begun(path, name=name)
    assert str(tmp_path) not in str(caught.value)


def test_a_file_that_lacks_much_of_the_encoder_is_refused(tmp_path: Path) -> None:
    path = foreign.bare(foreign.vit(), tmp_path)
    kept = {name: value for name, value in load_file(path).items() if ".mlp." not in name}
    save_file(kept, path)
    with pytest.raises(CheckpointError, match=r"at least 95% and every block.*nothing is loaded"):
        _begun(path)


def test_dinov3_is_refused_with_its_reason(tmp_path: Path) -> None:
    tensors = dict(foreign.vit(foreign.SCALED).state_dict())
    del tensors["pos_embed"]
    meta = {**tensors, "storage_tokens": torch.zeros(1, 4, 384), "rope_embed.periods": torch.zeros(16)}
    save_file(meta, tmp_path / "meta.safetensors")
    save_file(tensors, tmp_path / "placeless.safetensors")
    for name, why in (("meta", "it has rope_embed.periods"), ("placeless", "no position embedding")):
        with pytest.raises(CheckpointError, match=f"DINOv3.*{why}.*rotary.*Start from DINOv2"):
            _begun(tmp_path / f"{name}.safetensors", name=foreign.SCALED)
    with pytest.raises(
        CheckpointError, match=r"vit_small_patch16_dinov3.*as Eva.*rotary.*nothing of it is loaded"
    ):
        Initial(_model("vit_small_patch16_dinov3.lvd1689m"))


def test_moco_v3s_small_vit_has_other_heads_though_every_shape_fits(tmp_path: Path) -> None:
    path = foreign.mocov3(foreign.vit("vit_small_patch16_224", num_heads=12), tmp_path)
    with pytest.raises(CheckpointError, match="12 heads in MoCo v3's ViT-S instead of 6"):
        _begun(path, name="vit_small_patch16_224")


def test_law_11_a_namespace_is_read_and_nothing_else_that_runs(tmp_path: Path) -> None:
    """The Namespace is torch's to build only while such a file is read."""
    theirs = foreign.vit()
    assert _begun(foreign.mae(theirs, tmp_path))[1].layout == "MAE"
    mark = tmp_path / "ran"
    for args in (_Evil(mark), argparse.Namespace(inner=_Evil(mark))):
        torch.save({"model": theirs.state_dict(), "args": args}, tmp_path / "evil.pth")
        with pytest.raises(CheckpointError, match="asks to run code"):
            _begun(tmp_path / "evil.pth")
    assert not mark.exists()
    with pytest.raises(CheckpointError, match="Namespace"):
        weights.read_tensors(tmp_path / "mae.pth")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"epoch": 3}, "holds no weights that are known"),
        ({"model": {"conv1.weight": torch.zeros(3)}}, "holds no ViT.*begin with conv1.weight"),
    ],
)
def test_what_holds_no_vit_is_refused(content: dict[str, Any], says: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=says):
        _begun(tmp_path / "a.pth")


WIDE = torch.zeros(1).expand(1 << 20, 1 << 20)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("head.weight", WIDE, "head.weight is no plain tensor"),
        ("norm.weight", torch.zeros(192).to_sparse(), "norm.weight is no plain tensor"),
        ("norm.weight", torch.zeros(192, device="meta"), "norm.weight is no plain tensor"),
        ("norm.weight", torch.zeros(192, dtype=torch.complex64), "norm.weight is no plain tensor"),
        ("patch_embed.proj.weight", torch.zeros(()), r"patch_embed.proj.weight is \(\), no vector"),
        ("patch_embed.proj.weight", torch.zeros(192), r"no ViT of one width: patch_embed.proj.weight"),
        ("patch_embed.proj.weight", torch.zeros(1, 1, 4096, 1), r"no ViT of one width: patch_embed.proj"),
        ("cls_token", torch.zeros(1, 1, 5), r"no ViT of one width: cls_token \(1, 1, 5\)"),
        ("reg_token", torch.zeros(()), r"reg_token is \(\), no vector"),
        ("pos_embed", torch.zeros(17), r"no ViT of one width: pos_embed"),
        ("blocks.0.norm1.weight", torch.zeros(()), r"norm1.weight is \(\), no vector"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_tensors_that_would_break_or_fill_memory_are_refused_before_they_are_copied(
    name: str, value: torch.Tensor, says: str, tmp_path: Path
) -> None:
    torch.save({**foreign.vit().state_dict(), name: value}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=says):
        _begun(tmp_path / "a.pth")


def test_changed_bytes_of_a_file_are_one_sentence(tmp_path: Path) -> None:
    """Wherever a byte of a file's structure differs, the file is read, refused, or told to be damaged."""
    torch.save({"patch_embed.proj.weight": torch.zeros(2, 3, 2, 2)}, tmp_path / "a.pth")
    whole = (tmp_path / "a.pth").read_bytes()
    refused = 0
    for at in range(0, len(whole), 3):
        (tmp_path / "b.pth").write_bytes(whole[:at] + bytes([whole[at] ^ 0x5B]) + whole[at + 1 :])
        try:
            weights.read_content(tmp_path / "b.pth")
        except CheckpointError:
            refused += 1
    assert refused > 20


def test_of_encoders_of_equal_rank_none_is_chosen(tmp_path: Path) -> None:
    """Which of them came first hung on the seed of Python's hashes, and so on the rank."""
    one = foreign.vit().state_dict()
    path = tmp_path / "two.safetensors"
    save_file(
        {f"{at}.{name}": value.clone() for at in ("left", "up.right") for name, value in one.items()}, path
    )
    with pytest.raises(CheckpointError, match=r"2 encoders.*which is meant.*'left\.', 'up\.right\.'"):
        _begun(path)


def test_ranks_compare_the_tensors_that_they_found(tmp_path: Path) -> None:
    path = foreign.mae(foreign.vit(), tmp_path)
    one, two = Initial(_model(path)), Initial(_model(path))
    assert one.digest == two.digest
    two._origin.found.tensors["cls_token"] = two._origin.found.tensors["cls_token"] + 1
    assert one.digest != two.digest


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    theirs = foreign.vit()
    with torch.no_grad():
        theirs.norm.weight[0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite: norm.weight"):
        _begun(foreign.bare(theirs, tmp_path))


def test_names_that_lead_nowhere_are_one_sentence(tmp_path: Path) -> None:
    for start, says in (
        ("vit_smal_patch16_224", "no folder, no file and no model that timm knows; did you mean"),
        (
            "vit_small_patch16_224",
            r"no weights of the name vit_small_patch16_224; it has vit_small_patch16_224\.",
        ),
        ("vit_small_patch16_224.mine", r"timm has no weights of the name .*; it has vit_small_patch16_224\."),
        ("RETFound_mae.pth", r"model\.init: the file RETFound_mae\.pth does not exist"),
        (f"local-dir:{tmp_path}/none", "there is no such folder"),
        (f"local-dir:{tmp_path}", "holds none of model.safetensors"),
    ):
        with pytest.raises(InputError, match=says):
            Initial(_model(start))


def test_what_a_start_names_on_this_machine(tmp_path: Path) -> None:
    assert set(architecture.FILES) == {".safetensors", *weights.PICKLES}
    for start in ("a.pth", "out/a", "out", "local-dir:out", "x.safetensors"):
        assert architecture.local(start) == Path(start.removeprefix("local-dir:"))
    for start in ("hf-hub:some/eye", "vit_base_patch16_224.mae", "vit_small_patch14_dinov2.lvd142m"):
        assert architecture.local(start) is None


def _reference(path: Path, features: torch.Tensor, size: int = foreign.SIZE) -> Path:
    save_file({"image": _images(size), "features": features.contiguous()}, path)
    return path


def test_reference_features_are_held_against_the_loaded_encoder(tmp_path: Path) -> None:
    theirs = foreign.vit()
    path = foreign.mae(theirs, tmp_path)
    with torch.no_grad():
        tokens = theirs.forward_features(_images())
    for features, pooled in ((tokens[:, 0], "class token"), (tokens[:, 1:].mean(dim=1), "mean of the patch")):
        reference = _reference(tmp_path / "r.safetensors", features)
        told = _begun(path, init_reference=reference)[1]
        assert told.reference is not None
        assert pooled in told.reference["pooled"]
        assert told.reference["difference"] < 1e-5
        assert "features are those of the reference" in "\n".join(receipt.sentences(told.as_json()))
    with pytest.raises(CheckpointError, match="does not give the features of r.safetensors"):
        _begun(path, init_reference=_reference(tmp_path / "r.safetensors", tokens[:, 0] * 1.01))
    with pytest.raises(InputError, match=r"must hold `image` \(count, 3, 32, 32\)"):
        _begun(path, init_reference=_reference(tmp_path / "r.safetensors", tokens[:, 0], size=24))


def _hub_like(folder: Path, name: str, **content: Any) -> Path:
    folder.mkdir(parents=True)
    save_file(foreign.vit().state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": name, **content}))
    return folder


def test_local_dir_reads_timms_folders_and_what_their_config_says(tmp_path: Path) -> None:
    stated = {"license": "apache-2.0", "file": "/etc/passwd", "custom_load": True}
    folder = _hub_like(tmp_path / "a", foreign.PLAIN, pretrained_cfg=stated)
    made, told = _begun(f"local-dir:{folder}")
    assert weights.digest(made.vit) == weights.digest(foreign.vit())
    assert told.licence == "apache-2.0"
    assert str(tmp_path) not in "".join(receipt.sentences(told.as_json()))
    other = _hub_like(tmp_path / "b", foreign.PLAIN, model_args={"num_heads": 6})
    with pytest.raises(CheckpointError, match="computes otherwise.*heads 6 instead of 3"):
        _begun(f"local-dir:{other}")
    quick = _hub_like(tmp_path / "c", "vit_base_patch32_clip_quickgelu_224", model_args={"num_heads": 3})
    with pytest.raises(CheckpointError, match="activation QuickGELU instead of GELU"):
        _begun(f"local-dir:{quick}")


def test_another_normalisation_of_images_is_folded_in_exactly(tmp_path: Path) -> None:
    """The features are those of the model with images of its own scaling; a reference is in its scaling."""
    stated = {"mean": [0.5, 0.4, 0.3], "std": [0.5, 0.25, 0.125]}
    folder = _hub_like(tmp_path / "a", foreign.PLAIN, pretrained_cfg=stated)
    photographs = torch.rand(2, 3, foreign.SIZE, foreign.SIZE, generator=torch.Generator().manual_seed(1))

    def scaled(mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
        return (photographs - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    theirs = foreign.vit()
    with torch.no_grad():
        wanted = theirs.forward_features(scaled(stated["mean"], stated["std"]))
        reference = _reference(tmp_path / "r.safetensors", theirs.forward_features(_images())[:, 0])
    made, told = _begun(f"local-dir:{folder}", init_reference=reference)
    with torch.no_grad():
        found = made.vit.forward_features(scaled(views.IMAGENET_MEAN, views.IMAGENET_STD))
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    said = "\n".join(receipt.sentences(told.as_json()))
    assert "normalised by mean (0.5, 0.4, 0.3), std (0.5, 0.25, 0.125)" in said
    assert told.reference is not None
    for wrong in ([0.5, 0.4], [0.5, 0.4, 0.0], "a", None):
        other = _hub_like(tmp_path / f"wrong {wrong}", foreign.PLAIN, pretrained_cfg={**stated, "std": wrong})
        with pytest.raises(CheckpointError, match="mean and std of its config.json"):
            _begun(f"local-dir:{other}")


def _cached(cache: Path, repository: str, files: dict[str, bytes]) -> None:
    """What huggingface_hub leaves in its cache after a download."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    for name, content in files.items():
        path = folder / "snapshots" / ("0" * 40) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Without network, with a cache of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "error", [LocalEntryNotFoundError("connection lost"), OSError("disk"), httpx2.ReadTimeout("late")]
)
@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_file_of_a_hub_that_cannot_be_had_is_not_taken_for_absent(
    error: Exception, file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else other weights, or no check of heads, would follow from a lost connection."""
    folder = _hub_like(tmp_path / "a", foreign.PLAIN)
    torch.save(foreign.vit().state_dict(), folder / "pytorch_model.bin")

    def fetch(_: str, name: str) -> str:
        if name == file:
            raise error
        return str(folder / name)

    monkeypatch.setattr("timm.models._hub.download_from_hf", fetch)
    with pytest.raises(InputError, match=rf"{file} of hf-hub:some/eye cannot be had"):
        Initial(_model("hf-hub:some/eye"))
    error = EntryNotFoundError("none of that name")
    assert _begun("hf-hub:some/eye")[1].share_of_backbone == 1


def test_hub_names_come_from_the_cache_when_there_is_no_network(cache: Path, tmp_path: Path) -> None:
    folder = _hub_like(tmp_path / "a", foreign.PLAIN, pretrained_cfg={"license": "mit"})
    _cached(cache, "some/eye", {path.name: path.read_bytes() for path in folder.iterdir()})
    made, told = _begun("hf-hub:some/eye")
    assert weights.digest(made.vit) == weights.digest(foreign.vit())
    assert (told.source, told.licence) == ("model.safetensors of hf-hub:some/eye", "mit")
    with pytest.raises(InputError, match="hf-hub:some/other gives none of .*HF_HOME"):
        Initial(_model("hf-hub:some/other"))


def test_a_timm_name_gives_timms_weights_and_licence(cache: Path, tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    theirs = foreign.vit(img_size=224, patch_size=16, depth=12, num_classes=21843)
    save_file(theirs.state_dict(), tmp_path / "w")
    _cached(cache, f"timm/{name}", {"model.safetensors": (tmp_path / "w").read_bytes()})
    made, told = _begun(name, image_size=224, patch_size=16, depth=None)
    own, found = theirs.state_dict(), made.vit.state_dict()
    same = {name for name in found if torch.equal(found[name], own[name])}
    assert found.keys() - same == {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert any("(0.5, 0.5, 0.5)" in step and "folded into the patch embedding" in step for step in told.steps)
    assert (told.source, told.hashed, told.licence) == (f"timm's {name}", "tensors", "apache-2.0")
