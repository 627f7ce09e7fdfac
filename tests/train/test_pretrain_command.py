"""`pretrain` and `check` as they are typed: one process here; several ranks are proved in tests/train."""

import json
from pathlib import Path

import pytest
import tiny
from PIL import Image
from typer.testing import CliRunner

from ssl_retina import launch, shard_index
from ssl_retina.cli import app
from ssl_retina.errors import CheckpointError, ConfigError, InputError, ShardError
from ssl_retina.train import checkpoint

CONFIG = str(Path(__file__).parents[2] / "configs" / "pretrain" / "debug_mae.yaml")


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return tiny.make_shards(tmp_path / "shards")


def typed(shards: Path, *words: str) -> list[str]:
    return [CONFIG, *tiny.overrides(shards, shards.parent / "run"), *words]


def ask(*words: str) -> str:
    """What a verb prints on stdout; its errors are raised."""
    done = CliRunner().invoke(app, list(words), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_pretrain_trains_and_resumes_with_the_same_words(shards: Path) -> None:
    words = typed(shards, "train.steps=4", "--json")
    first = json.loads(ask("pretrain", *words))
    assert first["steps"] == 4
    assert first["started_at"] == 0
    assert first["samples"] == 32
    assert first["loss"] > 0
    again = json.loads(ask("pretrain", *words))
    assert again == {**first, "started_at": 4}
    longer = json.loads(ask("pretrain", *typed(shards, "train.steps=5", "--json", "--extend")))
    assert (longer["started_at"], longer["steps"]) == (4, 5)


def test_check_says_what_would_run_and_writes_nothing(shards: Path) -> None:
    said = json.loads(ask("check", *typed(shards, "train.accumulate=2", "--json")))
    assert said["batch"] == {"samples": 8, "processes": 1, "accumulate": 2, "samples_per_forward": 4}
    assert said["steps"] == tiny.STEPS
    assert said["samples"] + said["held_out_samples"] == tiny.SAMPLES
    assert said["samples_seen"] == tiny.STEPS * 8
    assert said["epochs"] == round(tiny.STEPS * 8 / said["samples"], 2)
    assert 0 < said["parameters"]["exported"] < said["parameters"]["trained"]
    assert said["config"]["model"]["drop_path"] == 0.3
    assert said["peak_learning_rate"] == pytest.approx(0.05 * 8 / 256)
    assert "config:" in CliRunner().invoke(app, ["check", *typed(shards)]).output
    assert not (shards.parent / "run").exists()


def test_check_counts_a_product_that_learns_nothing_itself(shards: Path) -> None:
    """The teacher's encoder; the third one, of Gram anchoring, is in neither number."""
    config = str(Path(CONFIG).with_name("debug_gram.yaml"))
    words = [f"data.shards={shards}", f"out={shards.parent / 'run'}", "model.depth=2", "--json"]
    found = json.loads(ask("check", config, *words))["parameters"]
    without = json.loads(ask("check", config, *words, "method.gram=null"))["parameters"]
    assert 800_000 < found["exported"] < found["trained"]
    assert found == without


def test_check_tells_the_epoch_of_weights_and_windows(shards: Path) -> None:
    even = json.loads(ask("check", *typed(shards, "--json")))
    assert (
        even["epoch"]["draws"] == even["epoch"]["distinct"] == even["epoch"]["effective"] == even["samples"]
    )
    assert even["remarks"] == []
    index = json.loads((shards / "index.json").read_text())
    shard_index.write(shards, {**index["ssl_retina"], "balance": "modality"})
    method = ["method={name: simclr, projector_hidden: 32, projector_out: 16}", "data.batch_size=32"]
    words = [word for word in typed(shards) if not word.startswith("method.")]
    asked = [*method, "data.sampling=balanced", "data.shuffle_shards=1", "--json"]
    said = json.loads(ask("check", *words, *asked))
    assert said["epoch"]["draws"] == said["samples"] == even["samples"]
    assert said["epoch"]["effective"] < said["epoch"]["draws"]
    assert said["epoch"]["distinct"] < said["epoch"]["draws"]
    assert (said["epoch"]["open_shards"], said["epoch"]["all_shards"]) == (1, 2)
    (part,) = said["epoch"]["parts"]
    assert (part["share"], part["balanced"]) == (1.0, "modality")
    text = "\n".join(said["remarks"])
    assert "by modality in" in text
    assert "within 1 of 2 shards at a time" in text
    assert "pairs in a batch of 32 are the same photograph" in text


def test_check_refuses_a_batch_that_would_contrast_a_photograph_with_itself(shards: Path) -> None:
    method = ["data.batch_size=64", "method={name: simclr, projector_hidden: 32, projector_out: 16}"]
    with pytest.raises(InputError, match=r"data.batch_size \(64\) must be at most the 42 photographs"):
        ask("check", *(word for word in typed(shards) if not word.startswith("method.")), *method)
    picture = shards.parent / "few.png"  # of a config that is made for a larger archive
    words = [word for word in typed(shards) if not word.startswith("method.")]
    said = json.loads(ask("check", *words, *method, "--views", str(picture), "--json"))
    assert picture.is_file()
    assert said["remarks"][0].startswith("pretrain would refuse this: data.batch_size (64)")
    picture.unlink()


def test_check_needs_no_run_folder(shards: Path) -> None:
    words = [word for word in typed(shards) if not word.startswith("out=")]
    assert len(words) < len(typed(shards))
    assert json.loads(ask("check", *words, "--json"))["config"]["out"] == "OUT"
    assert not Path("OUT").exists()


def test_check_draws_the_views_where_it_is_asked_to(shards: Path) -> None:
    picture = shards.parent / "views.png"
    said = json.loads(
        ask("check", *typed(shards, "method.recipe=contrast", "--views", str(picture), "--json"))
    )
    assert said["views"] == str(picture)
    with Image.open(picture) as drawn:
        assert drawn.format == "PNG"
        assert drawn.width > 1000
    assert sorted(path.name for path in shards.parent.iterdir()) == ["shards", "views.png"]
    said = CliRunner().invoke(app, ["check", *typed(shards, "--views", str(picture))])
    assert "views.png shows the views" in said.stderr
    assert "config:" in said.stdout


def test_check_draws_every_recipe_where_a_picture_is_asked_for(shards: Path) -> None:
    picture = shards.parent / "views.png"
    ask("check", *typed(shards, "--views", str(picture), "--json"))
    with Image.open(picture) as drawn:
        alone = drawn.height
    ask("check", *typed(shards, "--views", str(picture), "--every-recipe", "--json"))
    with Image.open(picture) as drawn:
        assert drawn.height > alone
    with pytest.raises(InputError, match=r"say where, with --views FILE\.png"):
        ask("check", *typed(shards, "--every-recipe"))


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("views.jpg", "a name that ends in .png"),
        ("absent/views.png", "absent does not exist; make it first"),
        ("folder.png", "is a folder"),
        ("/sys/views.png", r"--views /sys/views\.png cannot be written"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_first(shards: Path, name: str, problem: str) -> None:
    (shards.parent / "folder.png").mkdir()
    absent = typed(shards / "nowhere")  # what is wrong with the picture is said before shards are looked for
    with pytest.raises(InputError, match=problem):
        ask("check", *absent, "--views", str(shards.parent / name))


def test_f77_mistakes_are_told_at_once_and_nothing_is_written(shards: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        ask("pretrain", *typed(shards, "optim.learning_rat=1", "model.image_size=33", "train.precision=fp16"))
    assert caught.value.exit_code == 2
    for part in ("did you mean 'learning_rate'", "must be a multiple of patch_size", "train.precision"):
        assert part in str(caught.value)
    assert not (shards.parent / "run").exists()


def test_damaged_shards_are_refused_by_name(shards: Path) -> None:
    tar = sorted(shards.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:-512])
    for verb in ("check", "pretrain"):
        with pytest.raises(ShardError, match=tar.name):
            ask(verb, *typed(shards))
    assert not (shards.parent / "run" / "checkpoints").exists()


def test_a_partly_set_environment_is_refused(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(InputError, match="only partly set: RANK without WORLD_SIZE"):
        ask("pretrain", *typed(shards))
    for name in launch.NEEDED:
        monkeypatch.setenv(name, "1")
    with pytest.raises(InputError, match="--processes has no meaning"):
        ask("pretrain", *typed(shards, "--processes", "2"))


def test_several_processes_are_started_with_the_same_words(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[tuple[list[str], int]] = []
    monkeypatch.setattr(launch, "run_ranks", lambda command, count: started.append((command, count)))
    ask("pretrain", *typed(shards, "--processes", "2", "--extend"))
    ((command, count),) = started
    assert count == 2
    assert command[1:5] == ["-m", "ssl_retina", "pretrain", "--extend"]
    assert command[command.index("--") + 1 :] == [CONFIG, *tiny.overrides(shards, shards.parent / "run")]


def test_a_batch_that_no_ranks_share_evenly_is_refused_before_they_start(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "run_ranks", lambda *_: pytest.fail("ranks were started"))
    with pytest.raises(InputError, match="must be a multiple of processes x train.accumulate"):
        ask("pretrain", *typed(shards, "--processes", "3"))


def test_another_recipe_needs_change_and_leaves_a_record(shards: Path) -> None:
    ask("pretrain", *typed(shards, "train.steps=4", "--json"))
    with pytest.raises(CheckpointError, match="--change continues with the new optim.weight_decay"):
        ask("pretrain", *typed(shards, "train.steps=4", "optim.weight_decay=0.5"))
    with pytest.raises(CheckpointError, match="seed: 3 -> 1"):
        ask("pretrain", *typed(shards, "train.steps=4", "seed=1", "--change"))
    longer = ("train.steps=6", "optim.weight_decay=0.5", "--change", "--extend", "--json")
    assert json.loads(ask("pretrain", *typed(shards, *longer)))["steps"] == 6
    facts = checkpoint.load_facts(checkpoint.newest(shards.parent / "run"))
    assert facts["changes"] == ["step 4: optim.weight_decay: 0.05 -> 0.5", "step 4: train.steps: 4 -> 6"]


def test_a_folder_of_other_things_never_becomes_a_run(shards: Path) -> None:
    other = shards.parent / "photographs"
    other.mkdir()
    (other / "a.jpg").touch()
    with pytest.raises(InputError, match="holds other things than a run"):
        ask("pretrain", *typed(shards, f"out={other}"))
    assert [path.name for path in other.iterdir()] == ["a.jpg"]
