"""F103: ages in bins, sex in two words, and no combination of them that few patients share."""

import json
import random
from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import contents, damage_of, samples_of, save, shard, write_table

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import dedup
from ssl_retina.archive.filters import Filters
from ssl_retina.archive.identity.disclosure import ORDER, Collector, Release, Rule
from ssl_retina.archive.statements import attributes
from ssl_retina.cli import archive_words
from ssl_retina.errors import InputError
from ssl_retina.report import pages


@pytest.mark.parametrize(
    ("text", "bin"),
    [
        *(
            ("63", "60-64"),
            ("64.9", "60-64"),
            ("65", "65-69"),
            ("0", "0-4"),
            ("063Y", "60-64"),
            ("7 years", "5-9"),
        ),
        *(("89", "85-89"), ("90", "90+"), ("95", "90+"), ("130", "90+"), ("131", None), ("old", None)),
        *(("19470513", None), ("-3", None), ("", None), ("1947-05-13", None), ("060M", None)),
    ],
)
def test_f103_ages_are_bins_of_five_years_and_90_is_the_last(text: str, bin: str | None) -> None:
    assert attributes.age(text) == bin


def test_sex_is_one_of_two_words() -> None:
    assert [attributes.sex(text) for text in ("F", " Male ", "w", "O", "Zywickovna", "")] == [
        *("female", "male", "female", None, None, None)
    ]


def _record(patient: int, **known: Any) -> dict[str, Any]:
    nothing = {"age": None, "sex": None, "device": None, "visit_order": None}
    return {"key": f"k{patient}", "patient": f"p{patient}", **nothing, **known}


def _released(records: list[dict[str, Any]], rule: Rule) -> Release:
    collector = Collector(rule)
    for number, record in enumerate(records):
        collector.add(number, record)
    return collector.release(_visits(records))


def _visits(records: list[dict[str, Any]]) -> dict[str, list[int]]:
    found: dict[str, set[int]] = {}
    for record in records:
        if record["visit_order"] is not None:
            found.setdefault(record["patient"], set()).add(record["visit_order"])
    return {patient: sorted(orders) for patient, orders in found.items()}


def _written(records: list[dict[str, Any]], release: Release) -> list[dict[str, Any]]:
    visits = _visits(records)
    samples = []
    for number, record in enumerate(records):
        order = record["visit_order"]
        visit = None if order is None else visits[record["patient"]].index(order)
        sample = {"visit": visit, "device": record["device"], "source_width": 4288, "source_height": 2848}
        samples.append(release.apply(number, record, sample))
    return samples


def _smallest(records: list[dict[str, Any]], written: list[dict[str, Any]]) -> int:
    """By the definition: who shares everything that is written of them, as anyone with the shards counts."""
    rows: dict[str, set[tuple[Any, ...]]] = {}
    for record, sample in zip(records, written, strict=True):
        row = tuple(sample.get(name) for name in ORDER)
        rows.setdefault(record["patient"], set()).add(row)
    return min(sum(other == own for other in rows.values()) for own in rows.values())


def _people(draw: random.Random, patients: int, photographs: int) -> list[dict[str, Any]]:
    """Patients whose age, device and visit differ between their photographs."""
    ages = ["40-44", "60-64", "60-64", "60-64", "65-69", "90+", None]
    sexes = [draw.choice(["female", "male"]) for _ in range(patients)]
    own = [draw.choice(ages) for _ in range(patients)]
    return [
        _record(
            patient,
            age=draw.choice([own[patient]] * 9 + ages),
            sex=sexes[patient],
            device=draw.choice("AAAAAAB"),
            visit_order=draw.choice([7, 7, 7, 8, None]),
        )
        for patient in (draw.randrange(patients) for _ in range(photographs))
    ]


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_f103_everything_that_is_written_of_a_patient_is_shared_by_k(seed: int, k: int) -> None:
    draw = random.Random(seed)
    records = _people(draw, draw.choice([3, 20, 60, 200]), 150)
    release = _released(records, Rule(k))
    written = _written(records, release)
    everybody = len({record["patient"] for record in records})
    smallest = _smallest(records, written)
    assert release.smallest == smallest
    assert smallest >= min(k, everybody)
    assert release.counts.get("below_k") == (everybody if everybody < k else None)


@pytest.mark.parametrize("seed", range(5))
def test_f103_no_other_photograph_of_the_patient_tells_what_is_unknown_in_one(seed: int) -> None:
    records = _people(random.Random(seed), 400, 700)
    written = _written(records, _released(records, Rule(5)))
    for name in ("age", "sex", "device"):
        hidden = {
            record["patient"]
            for record, sample in zip(records, written, strict=True)
            if record[name] is not None and sample[name] is None
        }
        told = {one["patient"] for one, sample in zip(records, written, strict=True) if sample[name]}
        assert told
        assert hidden or name != "age"
        assert not hidden & told


def test_as_little_as_needed_is_made_unknown_and_counted() -> None:
    """Of sixteen patients one is like nobody else: four of the ten who are alike hide that one."""
    records = [_record(number, age="60-64", sex="female", device="A") for number in range(10)]
    records += [_record(number, age="90+", sex="female", device="A") for number in (10, 11, 12, 13, 14)]
    records += [_record(15, age="20-24", sex="male", device="A", visit_order=7)]
    release = _released(records, Rule())
    assert (release.k, release.smallest) == (5, 5)
    lost = {f"suppressed_{name}": 5 for name in ("age", "sex", "device")}
    assert dict(release.counts) == lost | {"suppressed_visit": 1}
    assert release.devices == {"A": 11}
    written = _written(records, release)
    assert written[15] == dict.fromkeys([*ORDER, "source_width", "source_height"])
    assert all(sample["age"] == "90+" for sample in written[10:15])


def test_f103_who_hides_a_rare_patient_is_a_secret_of_the_key() -> None:
    records = [_record(number, device="A" if number else "B") for number in range(60)]
    levels = [_released(records, Rule(5, secret=secret)).levels for secret in (b"1", b"2", b"1")]
    assert levels[0] == levels[2] != levels[1]
    assert [len(one) for one in levels] == [5, 5, 5]
    assert all(one[0] == len(ORDER) for one in levels)


def test_f103_a_class_that_cannot_spare_enough_goes_whole() -> None:
    records = [_record(number, device="B" if number == 0 else "A") for number in range(7)]
    records += [_record(7 + number, device="C") for number in range(8)]
    release = _released(records, Rule(5))
    assert release.levels == dict.fromkeys(range(7), len(ORDER))
    assert (release.smallest, release.devices) == (7, {"C": 8})


def test_f103_slices_of_a_file_without_a_patient_are_one() -> None:
    records = [
        _record(number, device="B") | {"patient": None, "file": "f", "place": f"slice {number}"}
        for number in range(9)
    ]
    records += [_record(9 + number, device="A") for number in range(12)]
    release = _released(records, Rule(5))
    assert set(range(9)) <= set(release.levels)
    assert release.smallest == 5


def _row(number: int, **known: Any) -> dict[str, Any]:
    nothing = {"visit_order": None, "volume": None, "slice": None, "slices": None, "remarks": [], "notes": []}
    own = {"device": "Topcon", "pixels_xxh128": f"{number:032x}"}
    return {**factory.facts(number, patients=1000), **nothing, **own, **known}


def test_f103_patients_who_share_a_photograph_have_one_level() -> None:
    """Patient 1 has a device of their own, and a photograph together with patient 39."""
    rows = [_row(number) for number in range(40)]
    rows[1]["device"] = "Canon"
    rows.append({**rows[39], "patient": rows[1]["patient"], "key": rows[1]["key"][::-1]})
    found = dedup.resolve(lambda: rows, rule=Rule(5, secret=b"1"))
    written = [found.sample(number, rows[number]) for number in range(40)]
    assert (written[1]["device"], written[39]["device"]) == (None, None)
    assert [alias["patient"] for alias in written[39]["aliases"]] == [rows[1]["patient"]]
    assert not any("Canon" in name for name in found.counts)


@pytest.mark.parametrize("seed", range(20))
def test_f103_shared_photographs_are_all_their_patients(seed: int) -> None:
    """As anyone with the shards counts, aliases included."""
    draw = random.Random(seed)
    rows = [
        _row(
            number,
            patient=f"p{draw.randrange(120):03d}",
            pixels_xxh128=f"{draw.choice([number, number, number, draw.randrange(number + 1)]):032x}",
            device=draw.choice(["Topcon"] * 30 + ["Canon"]),
            sex=draw.choice(["female"] * 20 + ["male"]),
        )
        for number in range(150)
    ]
    found = dedup.resolve(lambda: rows, rule=Rule(5))
    shown: dict[str, set[tuple[Any, ...]]] = {}
    for number, row in enumerate(rows):
        if number not in found.groups.original:
            sample = found.sample(number, row)
            for patient in {one["patient"] for one in (sample, *sample["aliases"])}:
                shown.setdefault(patient, set()).add((sample["device"], sample["sex"]))
    smallest = min(sum(other == own for other in shown.values()) for own in shown.values())
    assert found.release.smallest == smallest >= 5


def test_f103_the_day_goes_with_the_visit() -> None:
    records = [_record(number, visit_order=7, day_order=7, device="A") for number in range(12)]
    records += [_record(0, visit_order=9, day_order=40, device="A")]
    written = _written(records, _released(records, Rule(5, dates="shift")))
    assert (
        (written[0]["visit"], written[0]["day"]) == (None, None) == (written[12]["visit"], written[12]["day"])
    )
    kept = [sample["day"] for sample in written if sample["visit"] is not None]
    assert kept == [0] * 7


def test_f103_what_is_unknown_beside_the_values_does_not_tell_who_had_some() -> None:
    """Ten without a device, six of one and one of another: the one has no size, so nobody without has."""
    cameras = [None] * 10 + ["A"] * 6 + ["R"]
    records = [_record(number, device=camera) for number, camera in enumerate(cameras)]
    written = _written(records, _released(records, Rule(5)))
    assert {(one["device"], one["source_width"]) for one in written} == {(None, None), ("A", 4288)}
    plain = [_record(number, device="A" if number < 6 else None) for number in range(12)]
    assert all(one["source_width"] for one in _written(plain, _released(plain, Rule(5))))


def test_f103_the_rare_stratum_goes_with_the_device(devices: Path) -> None:
    shard(
        devices,
        devices / "archive",
        table=devices / "t.csv",
        k=5,
        filters=Filters(rare="device=Canon CX-1"),
    )
    rare = {(one["device"], one["rare"]) for one in samples_of(devices / "out").values()}
    assert rare == {("Topcon A", False), (None, None)}


def test_without_age_and_sex_nothing_changes_unless_asked() -> None:
    records = [_record(number, device="rare" if number == 0 else "A") for number in range(12)]
    assert _released(records, Rule()).facts() == {"k": None, "smallest": 1}
    first = _written(records, _released(records, Rule()))[0]
    assert (first["device"], first["source_width"], first["source_height"]) == ("rare", 4288, 2848)
    first = _written(records, _released(records, Rule(5)))[0]
    assert (first["device"], first["source_width"], first["source_height"]) == (None, None, None)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve patients, two visits each; ages are mapped, and days asked for."""
    folder = tmp_path_factory.mktemp("made")
    rows = []
    for number in range(24):
        save(folder / "archive" / f"{number}.png", number, size=40)
        patient, day = number % 12, 3 + number
        age = 95 if patient == 0 else 61
        rows.append([f"{number}.png", f"P{patient}", f"20{10 + number // 12}-03-{day:02d}", age, "F"])
    table = write_table(folder / "t.csv", ["file", "patient", "visit", "years", "gender"], rows)
    columns = {"age": "years", "sex": "gender"}
    shard(folder, folder / "archive", table=table, columns=columns, dates="shift")
    shard(folder, folder / "archive", "plain", table=table)
    return folder


def test_days_count_from_the_patients_first_visit_and_no_date_is_anywhere(made: Path) -> None:
    samples = samples_of(made / "out")
    first, second = (samples[pseudonyms.image(factory.KEY, f"{number}.png")] for number in (1, 13))
    assert (first["visit"], first["day"]) == (0, 0)
    assert (second["visit"], second["day"]) == (1, 365 + 12)
    for content in contents(made / "out").values():
        assert not any(word in content for word in (b"2010", b"20110316", b"P13"))


def test_rare_ages_are_unknown_and_the_index_says_k(made: Path) -> None:
    samples = samples_of(made / "out")
    rare = samples[pseudonyms.image(factory.KEY, "0.png")]
    assert (rare["age"], rare["sex"]) == (None, None)
    assert samples[pseudonyms.image(factory.KEY, "1.png")]["age"] == "60-64"
    facts = shards.read_index(made / "out").facts
    assert facts["anonymity"]["k"] == 5
    lost = facts["totals"]["remarks"]["suppressed_age"]
    assert lost == 2 * (1 + 4)  # two visits of 0, who is like nobody, and of four who keep company
    assert facts["made_from"]["dates"] == "shift"
    assert b'"95"' not in b"".join(contents(made / "out").values())


def test_age_and_sex_are_taken_only_where_they_are_mapped(made: Path, tmp_path: Path) -> None:
    assert not any({"age", "sex", "day"} & set(sample) for sample in samples_of(made / "plain").values())
    assert json.loads((made / "plain" / "index.json").read_bytes())["ssl_retina"]["anonymity"]["k"] is None
    for wrong in ({"k": 0}, {"dates": "absolute"}):
        with pytest.raises(InputError):
            shard(tmp_path, made / "archive", **wrong)


@pytest.fixture
def devices(tmp_path: Path) -> Path:
    """Twelve patients of one device and one of another, whose sensor is larger."""
    rows = []
    for number in range(13):
        save(tmp_path / "archive" / f"{number}.png", number, size=96 if number == 12 else 64)
        rows.append([f"{number}.png", f"P{number}", "Canon CX-1" if number == 12 else "Topcon A"])
    write_table(tmp_path / "t.csv", ["file", "patient", "device"], rows)
    return tmp_path


def test_f103_no_file_of_the_set_tells_a_device_that_was_made_unknown(devices: Path) -> None:
    totals = shard(devices, devices / "archive", table=devices / "t.csv", k=5)
    assert dict(totals.remarks) == {
        "eye_unknown": 13,
        "suppressed_device": 5,
        "of device 'Topcon A', a name that is written in clear": 8,
    }
    samples = samples_of(devices / "out")
    sizes = {(one["device"], one["source_width"], one["source_height"]) for one in samples.values()}
    assert sizes == {("Topcon A", 64, 64), (None, None, None)}
    for content in contents(devices / "out").values():
        assert b"Canon" not in content
    assert damage_of(devices / "out") == ()
    pages.complete(devices / "out")
    assert b"shared by at least 5 patients" in (devices / "out" / "datasheet.html").read_bytes()


def test_f103_an_archive_of_fewer_than_k_patients_is_told(
    devices: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    totals = shard(devices, devices / "archive", table=devices / "t.csv", k=14)
    assert totals.remarks["below_k"] == 13
    archive_words.summary(totals, devices / "out", ())
    assert "WARNING: so few patients cannot be k" in capsys.readouterr().err
    assert shards.read_index(devices / "out").facts["anonymity"] == {"k": 14, "smallest": 13}
    pages.complete(devices / "out")
    assert b"WARNING: these are fewer than 14" in (devices / "out" / "datasheet.html").read_bytes()
