"""What was kept of every device, cluster and of the rare stratum, in the report, the datasheet and slices."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import contents, damage_of, samples_of, write_table
from test_near import COPIES, eye
from typer.testing import CliRunner

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import longtail
from ssl_retina.archive.dedup import device_remark
from ssl_retina.archive.revision.withdraw import withdraw
from ssl_retina.cli import app
from ssl_retina.report import census, strata

FILES = {
    **{f"a{number}": ("A", eye(number)) for number in range(4)},
    "b_copy": ("A", eye(0)),
    "c_near": ("A", COPIES["smaller"](eye(1))),
    "d_near": ("B", COPIES["smaller"](eye(2))),
    "e_near": ("A", COPIES["smaller"](eye(3))),
    "f_same": ("B", COPIES["smaller"](eye(3))),
    "g_dark": ("A", eye(8).point(lambda level: level * 0.15)),
    "h_dark": ("B", eye(9).point(lambda level: level * 0.15)),
}
"""File -> device and picture. What B made is rare, and so is e_near: the same photograph lies under B too."""

OPTIONS = ["--balance", "device", "--rare", "device=Camera B", "--min-quality", "usable"]
OPTIONS += ["--near-duplicates", "merge", "--processes", "1", "--json"]


def _run(folder: Path, out: str, *options: str) -> dict[str, Any]:
    arguments = ["shard", folder / "archive", "--out", folder / out, "--table", folder / "t.csv"]
    arguments += ["--key-file", folder / "key", *OPTIONS, *options]
    done = CliRunner().invoke(app, [str(word) for word in arguments])
    assert done.exit_code == 0, done.output
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive, and `whole`: its set; `whole.json`: what the verb told."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "archive").mkdir()
    for name, (_, picture) in FILES.items():
        picture.save(folder / "archive" / f"{name}.png")
    rows = [[name, f"P{name}", f"Camera {device}"] for name, (device, _) in FILES.items()]
    write_table(folder / "t.csv", ["file", "patient", "device"], rows)
    factory.write_key(folder / "key")
    (folder / "whole.json").write_text(json.dumps(_run(folder, "whole")))
    return folder


def test_the_report_tells_what_was_kept_of_each(place: Path) -> None:
    told = json.loads((place / "whole.json").read_text())
    assert (told["scanned"], told["written"], told["rejected"], told["duplicates"]) == (11, 7, 1, 3)
    lines = {(one["kind"], one["word"]): one for one in told["strata"]}
    assert set(lines) == {("device", "Camera A"), ("device", "Camera B"), ("rare", "rare")}
    common, other, rare = (lines[key] for key in sorted(lines))
    assert (common["kept"], common["copies"], common["taken"]) == (5, 3, {"quality": 1})
    assert (other["kept"], other["copies"], other["taken"]) == (2, 0, {})
    assert (common["weight"], other["weight"], rare["weight"]) == (7 / 10, 7 / 4, None)
    assert (rare["kept"], rare["copies"], rare["taken"]) == (3, 1, {})
    assert rare["spared"] == {"quality": 1, "near_merged": 2}
    weights = shards.read_positions(shards.read_index(place / "whole"))["weight"]
    assert sorted({round(float(weight), 4) for weight in weights}) == [0.7, 1.75]


def test_a_photograph_that_is_rare_under_another_name_is_spared(place: Path) -> None:
    """Its copy of the rare device became an alias: the photograph itself is what must stay."""
    samples = samples_of(place / "whole")
    rare = {name for name in FILES if samples.get(_key(name), {}).get("rare")}
    assert rare == {"d_near", "e_near", "h_dark"}
    assert not any("rare" not in facts for facts in samples.values())
    assert [one["key"] for one in samples[_key("e_near")]["aliases"]] == [_key("f_same")]


def _key(name: str) -> str:
    return pseudonyms.image(factory.KEY, f"{name}.png")


def test_the_datasheet_shows_the_same_numbers(place: Path) -> None:
    html = (place / "whole" / "datasheet.html").read_text()
    section = html[html.index('id="strata"') : html.index('id="sheet"')]
    text = " ".join(re.sub(r"<[^>]+>", " ", section).split())
    assert "stratum kept copies of these taken out: quality weight" in text
    assert "device Camera A 5 3 1 0.70" in text
    assert "device Camera B 2 0 0 1.75" in text
    assert "rare stratum 3 1 0" in text
    assert "spared: 1 (quality), 2 (near merged)." in text


def test_a_withdrawal_is_counted(place: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(place / "whole", tmp_path / "set"))
    withdraw(out, "Ph_dark", key_file=place / "key")
    index = shards.read_index(out)
    lines = {one.word: one for one in strata.read(index)}
    assert (lines["Camera B"].kept, lines["rare"].kept, lines["rare"].spared) == (1, 2, {"near_merged": 2})
    assert lines["Camera A"].sentence() == (
        "device Camera A: 5 kept, 3 copies of them, 1 taken out (quality), weight 0.60"
    )


@pytest.mark.parametrize("balance", ["cluster", pytest.param("device", marks=pytest.mark.slow)])
def test_slices_spare_weigh_and_report_as_one_run_does(place: Path, tmp_path: Path, balance: str) -> None:
    """What is rare is decided in the merge, from the records of all slices."""
    for name in ("t.csv", "key"):
        shutil.copy(place / name, tmp_path)
    shutil.copytree(place / "archive", tmp_path / "archive")
    for number in range(20, 34):
        eye(number).save(tmp_path / "archive" / f"y{number}.png")  # 25 files: four chunks for three slices
    rare = ["--rare", "clusters=0.3" if balance == "cluster" else "device=Camera B"]
    options = ["--balance", balance, *rare, "--samples-per-shard", "3"]
    wanted = _run(tmp_path, "once", *options)
    for part in ("3/3", "1/3", "2/3"):
        _run(tmp_path, "parts", *options, "--slice", part)
    assert _run(tmp_path, "parts", *options, "--merge") == wanted
    assert contents(tmp_path / "parts") == contents(tmp_path / "once")
    index = shards.read_index(tmp_path / "parts")
    samples = samples_of(tmp_path / "parts").values()
    assert 0 < sum(facts["rare"] for facts in samples) < len(samples)
    assert len(set(shards.read_positions(index)["weight"].tolist())) > 1
    assert {one["kind"] for one in wanted["strata"]} >= {"rare", balance}
    assert damage_of(tmp_path / "parts") == ()


def test_a_set_without_filters_has_nothing_to_tell(tmp_path: Path) -> None:
    index = factory.make_shards(tmp_path / "set", samples=8)
    assert strata.read(index) == strata.take(index, census.take(index)) == []


def test_what_was_taken_out_adds_up() -> None:
    one = {"device": {"A": {"quality": 2}}, "rare": {"rare": {"repeated": 1}}}
    other = {"device": {"A": {"quality": 1, "repeated": 3}, "B": {"quality": 1}}}
    assert longtail.together(one, other) == {
        "device": {"A": {"quality": 3, "repeated": 3}, "B": {"quality": 1}},
        "rare": {"rare": {"repeated": 1}},
    }


def test_what_was_taken_out_names_no_device_that_is_gone() -> None:
    taken = {"device": {"A": {"quality": 1}, "B": {"quality": 2}}, "rare": {"rare": {"quality": 2}}}
    remarks = {device_remark("A"): 3}
    assert longtail.without_devices(taken, remarks) == {
        "device": {"A": {"quality": 1}, "unknown": {"quality": 2}},
        "rare": {"rare": {"quality": 2}},
    }
