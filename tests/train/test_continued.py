"""Runs that start from weights: bit for bit in every method, told once, never read again."""

import json
import shutil
from pathlib import Path
from typing import Any

import continued_ranks
import pytest
import timm
import tiny
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from ssl_retina import cli, config, methods, shipped
from ssl_retina.config import Run
from ssl_retina.errors import CheckpointError, InputError
from ssl_retina.models import lineage, weights
from ssl_retina.release import export
from ssl_retina.train import beginning, checkpoint, loop, setup
from ssl_retina.train.engine import process_group
from ssl_retina.train.signals import Stop

SCALED = "vit_small_patch14_reg4_dinov2"
CONTINUE = shipped.folder("configs") / "pretrain" / "continue_mae.yaml"


def _vit(name: str = "vit_tiny_patch16_224") -> Any:
    torch.manual_seed(5)
    made = timm.create_model(name, num_classes=0, img_size=32, patch_size=8, depth=2)
    with torch.no_grad():
        for tensor in made.state_dict().values():
            tensor.add_(torch.randn(tensor.shape) * 0.02)
    return made


def _start(folder: Path, name: str = "vit_tiny_patch16_224") -> Path:
    path = folder / "start.safetensors"
    save_file(_vit(name).state_dict(), path)
    return path


@pytest.mark.parametrize("method", sorted(tiny.METHODS))
def test_no_method_and_no_library_starts_the_encoder_anew(method: str, tmp_path: Path) -> None:
    """lightly's wrapper of ViTs does so unless it is told not to; a teacher is a copy of the same weights."""
    made = dict(tiny.METHODS[method])
    run = tiny.run(tmp_path, tmp_path / "run", model__init=str(_start(tmp_path)), method=made)
    module, _ = setup.build_method(run, beginning.weights(run))
    wanted = _vit().state_dict()
    assert weights.digest(module.exported().vit) == weights.digest(_vit())  # type: ignore[operator]
    for name, value in module.state_dict().items():
        at, found, own = name.partition(".vit.")
        assert not found or torch.equal(value, wanted[own]), f"{at}: {own}"
    fresh, _ = setup.build_method(
        run.model_copy(update={"model": run.model.model_copy(update={"init": None})})
    )
    heads = {name: value for name, value in fresh.state_dict().items() if ".vit." not in name}
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in heads.items())


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_shards(tmp_path_factory.mktemp("continued") / "shards")


@pytest.fixture(scope="module")
def begun(shards: Path) -> Run:
    """Four steps of a ViT with layer scales and registers; afterwards the file is gone."""
    start = _start(shards.parent, SCALED)
    changes = {"model__name": SCALED, "model__init": str(start), "model__drop_path": 0.0}
    run = tiny.run(shards, shards.parent / "scaled", train__steps=4, **changes)
    with process_group():
        loop.pretrain(run, Stop())
    start.unlink()
    return run


def _encoder(folder: Path) -> dict[str, torch.Tensor]:
    tensors = checkpoint.load_weights(folder)
    return {
        key.partition(".vit.")[2]: value for key, value in tensors.items() if key.startswith("encoder.vit.")
    }


def test_the_first_checkpoint_holds_the_files_weights_and_the_receipt(begun: Run) -> None:
    first = run_folder(begun, 0)
    wanted = _vit(SCALED).state_dict()
    found = _encoder(first)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    told = json.loads((begun.out / "receipt.json").read_text())
    assert told["source"] == "the file start.safetensors"
    assert told["share_of_backbone"] == 1
    for step in (0, 4):
        assert checkpoint.load_facts(run_folder(begun, step))["init"] == told
    moved = _encoder(run_folder(begun, 4))
    assert not torch.equal(moved["blocks.0.ls1.gamma"], wanted["blocks.0.ls1.gamma"])
    assert torch.equal(moved["pos_embed"], wanted["pos_embed"]), "fixed"


def run_folder(run: Run, step: int) -> Path:
    return run.out / checkpoint.FOLDER / checkpoint.name(step)


def test_an_export_of_layer_scales_and_registers_is_plain_timm_and_tells_its_start(begun: Run) -> None:
    """`export` itself asks plain timm, in a process without this package, for the same features (law 6)."""
    folder = export.export(begun.out, begun.out.parent / "exported")
    card = (folder / "README.md").read_text()
    assert "- Started from the file start.safetensors, SHA-256 of its file `" in card
    assert "- Licence of the weights that it started from: unknown, ask whoever made them" in card
    assert str(begun.out.parent) not in card
    again = tiny.run(begun.out.parent / "shards", begun.out, model__name=SCALED, model__init=str(folder))
    initial = beginning.weights(again.model_copy(update={"out": begun.out.parent / "new"}))
    assert initial is not None
    setup.build_method(again, initial)
    assert initial.receipt is not None
    handed_on = "none granted by its card; started from: unknown, ask whoever made them"
    assert initial.receipt.licence.startswith(handed_on)
    digests = tuple(checkpoint.load_facts(run_folder(begun, 4))["data"]["digests"])
    assert initial.receipt.digests == digests
    assert not initial.receipt.all_data_known, "its own start is a file"
    assert lineage.UNKNOWN in card.splitlines()


def test_a_resume_reads_no_start_again_and_another_start_is_refused(
    begun: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    shutil.copytree(begun.out, out)
    assert begun.model.init is not None
    assert not Path(begun.model.init).exists()
    longer = begun.model_copy(update={"out": out, "train": begun.train.model_copy(update={"steps": 5})})
    with process_group():
        summary = loop.pretrain(longer, Stop(), extend=True)
    assert (summary.started_at, summary.steps) == (4, 5)
    facts = checkpoint.load_facts(checkpoint.newest(out))
    assert facts["init"] == json.loads((out / "receipt.json").read_text())
    assert "the run starts from the file start.safetensors" in capsys.readouterr().err
    other = longer.model_copy(update={"model": longer.model.model_copy(update={"init": "elsewhere"})})
    with process_group(), pytest.raises(CheckpointError, match=r"model\.init: '.*' -> 'elsewhere'"):
        loop.pretrain(other, Stop())


def test_nothing_is_written_where_the_start_is_refused(shards: Path, tmp_path: Path) -> None:
    run = tiny.run(shards, tmp_path / "run", model__init=str(tmp_path / "none"))
    with process_group(), pytest.raises(InputError, match="no folder, no file and no model"):
        loop.pretrain(run, Stop())
    assert not run.out.exists()


@pytest.fixture(scope="module")
def exported(shards: Path) -> Path:
    """Once, since plain timm is asked in a process of its own."""
    folder = shards.parent / "plain"
    run = tiny.run(shards, folder / "a", train__steps=4)
    method, _ = setup.build_method(run)
    facts = {"step": 4, "data": {"digests": ["0"], "samples": 1, "held_out_samples": 1}, "world_size": 1}
    trained = export.Trained(run, method.state_dict(), {**facts, "versions": {"ssl_retina": "0"}}, {})
    return export.write(trained, folder / "out")


def test_the_recipe_takes_the_encoder_of_the_export_and_tells_the_receipt(
    shards: Path, exported: Path, tmp_path: Path
) -> None:
    """No model.name is typed; `check` and `pretrain` say the same; a run resumes without its export."""
    start = Path(shutil.copytree(exported, tmp_path / "export"))
    small = ["method.decoder_width=32", "method.decoder_depth=1", "data.batch_size=8", "data.workers=0"]
    length = ["train.steps=2", "schedule.warmup_steps=1", "tracking.wandb='off'"]
    words = [str(CONTINUE), f"model.init={start}", f"data.shards={shards}", f"out={tmp_path / 'c'}"]
    checked = CliRunner().invoke(
        cli.app, ["check", *words, *small, *length, "--json"], catch_exceptions=False
    )
    plan = json.loads(checked.stdout)
    assert plan["config"]["model"]["name"] == "vit_tiny_patch16_224"
    assert [plan["config"]["model"][key] for key in ("image_size", "patch_size", "depth")] == [32, 8, 2]
    assert plan["init"]["share_of_backbone"] == 1
    done = CliRunner().invoke(cli.app, ["pretrain", *words, *small, *length], catch_exceptions=False)
    assert "starts from an export of ssl-retina (vit_tiny_patch16_224)" in done.output
    assert "100.00% of the encoder's parameters" in done.output
    assert "licence: none granted by its card" in done.output
    found = _encoder(tmp_path / "c" / checkpoint.FOLDER / checkpoint.name(0))
    wanted = timm.create_model(f"local-dir:{start}", pretrained=True).state_dict()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    shutil.rmtree(start)
    more = ["train.steps=3", "--extend"]
    ended = CliRunner().invoke(cli.app, ["pretrain", *words, *small, *length, *more], catch_exceptions=False)
    assert "the run starts from an export" in ended.output


def test_what_is_typed_beats_the_export_and_what_does_not_fit_is_told(
    shards: Path, exported: Path, tmp_path: Path
) -> None:
    start = exported
    words = [f"model.init={start}", f"data.shards={shards}", f"out={tmp_path / 'c'}"]

    def load(*more: str) -> Run:
        return config.load(CONTINUE, [*words, *more], methods.config_type)

    described = json.loads((exported / "config.json").read_text())
    described["model_args"]["reg_tokens"] = 4
    (tmp_path / "like").mkdir()
    (tmp_path / "like" / "config.json").write_text(json.dumps(described))
    assert load(f"model.init={tmp_path / 'like'}").model.registers == 4
    larger = load("model.image_size=48")
    assert (larger.model.image_size, larger.model.patch_size, larger.model.depth) == (48, 8, 2)
    initial = beginning.weights(larger)
    assert initial is not None
    setup.build_method(larger, initial)
    assert initial.receipt is not None
    assert initial.receipt.resized == (("pos_embed", "4x4", "6x6"),)
    other = load("model.name=vit_small_patch16_224")
    assert (other.model.image_size, other.model.depth) == (224, None)
    with pytest.raises(CheckpointError, match=r"heads 3 instead of 6"):
        setup.build_method(other, beginning.weights(other))
    named = config.load(
        CONTINUE, ["model.init=vit_base_patch16_224.mae", "data.shards=s", "out=o"], methods.config_type
    )
    assert (named.model.name, named.model.patch) == ("vit_base_patch16_224", 16)


def test_a_run_and_its_checkpoint_are_no_weights_to_start_from(begun: Run, tmp_path: Path) -> None:
    for start, says in (
        (begun.out, "is a run, not an export: ssl-retina export"),
        (run_folder(begun, 4) / "weights.safetensors", "is a run's checkpoint: export the run"),
    ):
        run = tiny.run(begun.out.parent / "shards", tmp_path / "run", model__init=str(start))
        with pytest.raises((CheckpointError, InputError), match=says):
            beginning.weights(run)


@pytest.mark.slow
def test_law_3_two_ranks_start_from_a_file_as_one_does(shards: Path, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        shutil.copytree(shards, folder / "shards")
        _start(folder)
    with process_group():
        continued_ranks.train(folders[0])
    tiny.on_ranks("continued_ranks.py", folders[1])
    one, two = (_encoder(checkpoint.newest(folder / "run")) for folder in folders)
    for key, tensor in one.items():
        torch.testing.assert_close(tensor, two[key], rtol=2e-4, atol=2e-5)
    told = [json.loads((folder / "run" / "receipt.json").read_text()) for folder in folders]
    assert told[0] == told[1]
