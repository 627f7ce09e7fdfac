"""A config: strict, all mistakes at once with file, line and suggestion; every shipped YAML loads (F77)."""

from pathlib import Path
from typing import Literal

import pytest

from ssl_retina import config, methods, shares, shipped
from ssl_retina.errors import ConfigError, InputError


class Toy(config.Section):
    name: Literal["toy"]
    mask_ratio: float = 0.75


GOOD = """\
out: runs/x
data: {shards: out/h, batch_size: 8}
method: {name: toy}
train: {steps: 10}
optim:
  learning_rate: 1e-4
"""


def _resolve(name: str) -> type[config.Section] | None:
    return Toy if name == "toy" else None


def _load(tmp_path: Path, text: str, *overrides: str) -> config.Run:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return config.load(path, overrides, _resolve, ["toy"])


def _problems(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text, *overrides)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_values_overrides_and_round_trip(tmp_path: Path) -> None:
    run = _load(tmp_path, GOOD, "data.shards=[a, b]", "train.steps=20", "seed=3")
    assert run.optim.learning_rate == 1e-4
    assert run.data.shards == (Path("a"), Path("b"))
    assert (run.train.steps, run.seed, run.method_name) == (20, 3, "toy")
    assert config.parse(run.dump(), _resolve).dump() == run.dump()
    assert run.peak_learning_rate == pytest.approx(1e-4 * 8 / 256)


def test_f77_all_mistakes_at_once_with_line_and_suggestion(tmp_path: Path) -> None:
    text = GOOD.replace("steps: 10", 'steps: "10"').replace("learning_rate", "learning_rat")
    text += "model: {image_size: 30}\nsede: 1\n"
    said = _problems(tmp_path, text, "data.batch_size=0", "method.mask_ration=0.5")
    assert said.startswith("6 problems in c.yaml")
    assert "optim.learning_rat: unknown key; did you mean 'learning_rate'?   [c.yaml:6]" in said
    assert "train.steps: should be a valid integer, got '10'   [c.yaml:4]" in said
    assert "image_size (30) must be a multiple of patch_size (16)   [c.yaml:7]" in said
    assert "sede: unknown key; did you mean 'seed'?   [c.yaml:8]" in said
    assert "data.batch_size: should be greater than 0, got 0   [override data.batch_size=0]" in said
    assert (
        "method.mask_ration: unknown key; did you mean 'mask_ratio'?   [override method.mask_ration=0.5]"
        in said
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("optim.learning_rate=-1", "optim.learning_rate: should be greater than 0, got -1"),
        ("data.batch_size=1e3", "data.batch_size: should be a valid integer, got 1000.0"),
        ("data.batch_size=true", "data.batch_size: should be a valid integer, got True"),
        ("train.precision=fp16", "train.precision: should be 'bf16' or 'fp32', got 'fp16'"),
        ("train.zero_stage=0", "train.zero_stage: should be 1, 2 or 3, got 0"),
        ("schedule.warmup_steps=10", "schedule.warmup_steps (10) must be below train.steps (10)"),
        ("train.accumulate=3", "data.batch_size (8) must be a multiple of train.accumulate (3)"),
        ("tracking.labels=x.csv", "labels and task belong together"),
        ("checkpoint.keep=1", "checkpoint.keep: should be greater than or equal to 2, got 1"),
        ("method.name=tyo", "method.name: no method 'tyo'; did you mean 'toy'?"),
        ("stpes", "'stpes': an override is written section.key=value"),
        ("data.sampling=balance", "data.sampling: should be 'uniform' or 'balanced', got 'balance'"),
        ("data.shuffle_shards=0", "data.shuffle_shards: should be greater than 0, got 0"),
        ("data.proportions=[1, 2]", "data.proportions: 2 numbers for 1 sets of data.shards"),
        ("data.proportions=[0]", "data.proportions: 1: 0 is no number above 0"),
        ("data.proportions=half", "data.proportions: 'half' is neither a list of numbers, one for each"),
        ("train.steps=auto", "train.steps: should be a valid integer, got 'auto'"),
    ],
)
def test_f77_each_mistake_has_its_sentence(tmp_path: Path, change: str, sentence: str) -> None:
    assert sentence in _problems(tmp_path, GOOD, change)


def test_proportions_name_every_set_once(tmp_path: Path) -> None:
    sets = "data.shards=[disk/site-a, other/site-b, x/same, y/same]"
    run = _load(tmp_path, GOOD, sets, "data.proportions={site-a: 1, other/site-b: 2.5, x/same: 1, y/same: 3}")
    assert run.data.proportions == {"site-a": 1, "other/site-b": 2.5, "x/same": 1, "y/same": 3}
    assert config.parse(run.dump(), _resolve).data == run.data
    said = _problems(
        tmp_path, GOOD, sets, "data.proportions={sitea: 1, site-b: -1, other/site-b: 1, same: 1}"
    )
    assert "no set of data.shards is called 'sitea'; did you mean 'site-a'?" in said
    assert "no set of data.shards is called 'same'; did you mean" in said
    assert "disk/site-a has no number" in said
    assert "other/site-b has two numbers" in said
    assert "x/same has no number; y/same has no number" in said
    assert "site-b: -1 is no number above 0" in said
    assert said.count("data.proportions: ") == 1
    run = _load(tmp_path, GOOD, sets, "data.proportions=[1, 2, 3, 4]")
    assert config.parse(run.dump(), _resolve).data == run.data
    assert shares.of(run.data.proportions, run.data.shards) == (0.1, 0.2, 0.3, 0.4)


def test_duplicate_keys_and_broken_yaml_are_refused_with_their_line(tmp_path: Path) -> None:
    assert "seed: given twice, first in line 7   [c.yaml:8]" in _problems(
        tmp_path, GOOD + "seed: 1\nseed: 2\n"
    )
    assert "[c.yaml:8]" in _problems(tmp_path, GOOD + "seed: [1\n")
    assert "a config is a mapping of sections" in _problems(tmp_path, "- 1\n")
    assert "required, not given" in _problems(tmp_path, "")


def test_off_is_a_word_and_only_true_and_false_are_booleans(tmp_path: Path) -> None:
    text = GOOD + "tracking: {wandb: off, tensorboard: true}\n"
    assert _load(tmp_path, text).tracking.wandb == "off"
    assert _load(tmp_path, text, "tracking.wandb=off").tracking.wandb == "off"
    assert "tracking.tensorboard: should be a valid boolean, got 'yes'" in _problems(
        tmp_path, text, "tracking.tensorboard=yes"
    )


def test_nothing_but_plain_data_is_built(tmp_path: Path) -> None:
    assert (
        "seed: only plain values, not tag:yaml.org,2002:python/object/apply:os.getpid   [c.yaml:7]"
        in _problems(tmp_path, GOOD + "seed: !!python/object/apply:os.getpid []\n")
    )


def test_missing_file_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"does not exist; the shipped ones are in configs/pretrain"):
        config.load(tmp_path / "none.yaml", [], _resolve)


def test_a_config_is_frozen(tmp_path: Path) -> None:
    run = _load(tmp_path, GOOD)
    with pytest.raises(ValueError, match="frozen"):
        run.train.steps = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    "path", sorted(shipped.folder("configs").glob("pretrain/*.yaml")), ids=lambda p: p.name
)
def test_every_shipped_config_loads(path: Path) -> None:
    overrides = ["data.shards=out/x", "out=runs/x"]
    run = config.load(path, overrides, methods.config_type, methods.available())
    assert run.method_name in methods.available()


@pytest.mark.parametrize(("key", "value"), [("zero_stage", "0"), ("precision", "fp16")])
def test_f76_stage_0_and_fp16_are_no_choices(tmp_path: Path, key: str, value: str) -> None:
    """ZeRO 0 applies a NaN on every rank, and fp16 fails late on a CPU: neither is begun."""
    assert f"train.{key}" in _problems(tmp_path, GOOD, f"train.{key}={value}")


@pytest.mark.parametrize("name", ["simclr", "mocov3", "dinov2"])
@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.accumulate=2", r"train\.accumulate \(2\) must be 1 for {}: its loss compares the samples"),
        ("data.batch_size=1", r"data\.batch_size \(1\) must be at least 2 for {}: its loss compares"),
    ],
)
def test_what_compares_samples_needs_whole_batches(
    tmp_path: Path, name: str, override: str, said: str
) -> None:
    path = shipped.folder("configs") / "pretrain" / f"debug_{name}.yaml"
    overrides = ["data.shards=s", "out=o", override]
    with pytest.raises(ConfigError, match=said.format(name)) as caught:
        config.load(path, overrides, methods.config_type)
    assert len(caught.value.problems) == 1
    other = path.with_name("debug_mae.yaml")
    config.load(other, overrides, methods.config_type)
