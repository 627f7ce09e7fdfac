"""Cluster profiles: all mistakes at once, nothing that a #SBATCH line could not carry, help with names."""

from pathlib import Path

import pytest

from ssl_retina.errors import ConfigError, InputError
from ssl_retina.launch import profile
from ssl_retina.launch.profile import Profile


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("1:30:00", 5400),
        ("2-00", 172800),
        ("2-12:30", 217800),
        ("1-00:00:01", 86401),
    ],
)
def test_slurms_times(text: str, seconds: int) -> None:
    assert profile.seconds(text) == seconds


@pytest.mark.parametrize(
    "text",
    [
        "1:99:99",
        "1:60:00",
        "1:00:60",
        "90:60",
        "1-24",
        "1-00:60",
        "2-1:1:60",
        "",
        "1h",
        "1:2:3:4",
        "1-",
        "-1",
        "1:",
        "1\n",
    ],
)
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no SLURM time"):
        profile.seconds(text)


@pytest.mark.parametrize("name", profile.shipped_names())
def test_every_shipped_profile_loads_by_name_and_by_path(name: str) -> None:
    found = profile.load(name)
    assert found.ranks_per_node >= 1
    assert profile.load(str(profile.find(name))) == found


def test_the_issues_profiles_are_shipped() -> None:
    assert {"a100_8gpu", "h100_8gpu", "cpu_2core", "template"} <= set(profile.shipped_names())
    assert profile.load("a100_8gpu").ranks_per_node == 8


def test_the_template_names_every_key(tmp_path: Path) -> None:
    assert profile.load("template").model_fields_set == set(Profile.model_fields)


def test_the_command_lines_nodes_and_time_replace_the_profiles() -> None:
    found = profile.load("a100_8gpu", nodes=4, time="90")
    assert (found.nodes, found.time) == (4, "90")
    with pytest.raises(ConfigError, match=r"time: .*'1h' is no SLURM time.*\[--time\]"):
        profile.load("a100_8gpu", time="1h")
    with pytest.raises(
        ConfigError, match=r"  time: '1' is 60 seconds, .*longer than signal_seconds.*\[--time\]"
    ):
        profile.load("cpu_2core", time="1")


def test_an_unknown_profile_is_answered_with_the_known() -> None:
    with pytest.raises(InputError) as caught:
        profile.load("a100_8gpus")
    said = str(caught.value)
    assert (
        "no shipped profile; did you mean 'a100_8gpu'? Shipped: a100_8gpu, cpu_2core, h100_8gpu, template"
        in said
    )
    assert caught.value.exit_code == 2


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return str(path)


def test_all_mistakes_are_told_at_once_with_their_lines(tmp_path: Path) -> None:
    text = "cpus_per_task: 0\nprocesses_per_node: 2\npartiton: gpu\ntime: 24:00:00\naccount: a b\n"
    with pytest.raises(ConfigError) as caught:
        profile.load(written(tmp_path, text + 'setup: ["a\\nb"]\nsbatch: [-p gpu]\nsignal: KILL\n'))
    said = str(caught.value)
    assert len(caught.value.problems) == 7, said
    for part in (
        "cpus_per_task: should be greater than 0, got 0   [mine.yaml:1]",
        "partiton: unknown key; did you mean 'partition'?   [mine.yaml:3]",
        "time: write it in quotes",
        "account: 'a b' cannot stand in a #SBATCH line",
        "setup.0: one line of shell each",
        "sbatch.0: '-p gpu' is no sbatch option",
        "signal: should be 'USR1' or 'USR2'",
    ):
        assert part in said, said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpus_per_task: 1", "processes_per_node: required where gpus_per_node is not given"),
        ("cpus_per_task: 1\ngpus_per_node: 2\nprocesses_per_node: 3", "each process needs a GPU of its own"),
        (
            "cpus_per_task: 1\nprocesses_per_node: 1\ntime: '5'\nsignal_seconds: 300",
            r"  time: '5' is 300 seconds, and must be longer than signal_seconds \(300\).*\[mine.yaml:3\]",
        ),
    ],
)
def test_values_that_contradict_each_other(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        profile.load(written(tmp_path, text))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--time=1:00", "would contradict --time, which the script sets itself: write the key time"),
        ("--nodes=7", "write the key nodes"),
        ("--ntasks-per-node=2", "write the key processes_per_node"),
        ("--no-requeue", "would contradict --no-requeue, .* write the key requeue_limit"),
        ("--tim=1", "would contradict --time"),
        ("--output=x", "would contradict --output, which the script sets itself$"),
        ("--array=1-3", "would contradict --array"),
        ("-N7", "long names only"),
        ("-t", "long names only"),
    ],
)
def test_an_option_that_the_script_sets_itself_is_refused(option: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        profile._option(option)


@pytest.mark.parametrize("option", ["--exclusive", "--mail-type=FAIL", "--gres=tmp:10", "--time-min=1:00:00"])
def test_any_other_option_goes_to_sbatch(option: str) -> None:
    assert profile._option(option) == option


@pytest.mark.parametrize("word", ["a b", "a\n#SBATCH --wrap=x", "a'b", 'a"b', "a$b", "a`b`", "a;b"])
def test_no_word_ends_its_sbatch_line(word: str) -> None:
    with pytest.raises(ValueError, match="cannot stand in a #SBATCH line"):
        Profile(cpus_per_task=1, processes_per_node=1, partition=word)


@pytest.mark.parametrize("name", ["ib0", "eth0,eth1", "=eth0", "^docker0,lo", "^=lo", "eth0.100", "eth0:1"])
def test_interfaces_as_nccl_names_them(tmp_path: Path, name: str) -> None:
    found = profile.load(written(tmp_path, f"cpus_per_task: 1\nprocesses_per_node: 1\ninterface: '{name}'"))
    assert found.interface == name


@pytest.mark.parametrize(
    "name", ["ib0&reboot", "a|b", "$(id)", "!x", "(a)", "*", "a b", "^", "a,,b", "ib0\n"]
)
def test_what_names_no_interface_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="is no list of network interfaces such as ib0"):
        Profile(cpus_per_task=1, processes_per_node=1, interface=name)


def test_numbers_may_stand_where_words_are_meant(tmp_path: Path) -> None:
    found = profile.load(written(tmp_path, "cpus_per_task: 1\nprocesses_per_node: 1\nmemory: 0\naccount: 77"))
    assert (found.memory, found.account) == ("0", "77")
