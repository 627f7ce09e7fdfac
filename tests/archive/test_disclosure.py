"""F103: ages in bins, sex in two words, and no combination of them that few patients share."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import factory
import pytest
from photographs import contents, samples_of, save, shard, write_table

from ssl_retina import pseudonyms, shards
from ssl_retina.archive import attributes
from ssl_retina.archive.disclosure import ORDER, Collector, Release, Rule
from ssl_retina.errors import InputError


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
    return {"key": f"k{patient}", "patient": f"p{patient}", "age": None, "sex": None, "device": None, **known}


def _released(records: list[dict[str, Any]], rule: Rule, visits: Mapping[str, tuple[int, ...]]) -> Release:
    collector = Collector(rule)
    for number, record in enumerate(records):
        collector.add(number, record)
    return collector.release(visits)


def _written(records: list[dict[str, Any]], release: Release) -> list[dict[str, Any]]:
    return [
        release.apply(number, record, {"visit": 0, "device": record["device"]})
        for number, record in enumerate(records)
    ]


def _smallest(records: list[dict[str, Any]], written: list[dict[str, Any]], visits: Mapping[str, Any]) -> int:
    """By the definition: patients of each combination as anyone who has the shards can count them."""
    classes: dict[tuple[Any, ...], set[str]] = {}
    for record, sample in zip(records, written, strict=True):
        number = None if sample["visit"] is None else len(visits[record["patient"]])
        row = (sample.get("age"), sample.get("sex"), number, sample["device"])
        classes.setdefault(row, set()).add(record["patient"])
    return min(map(len, classes.values()))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("k", [1, 2, 5, 9])
def test_f103_every_combination_that_is_written_is_shared_by_k_patients(seed: int, k: int) -> None:
    draw = random.Random(seed)
    ages = ["40-44", "60-64", "60-64", "60-64", "90+", None]
    people = [(draw.choice(ages), draw.choice(["female", "male"])) for _ in range(60)]
    visits = {f"p{patient}": tuple(range(draw.choice([1, 1, 1, 2, 7]))) for patient in range(60)}
    records = [
        _record(patient, age=people[patient][0], sex=people[patient][1], device=draw.choice(["A", "A", "B"]))
        for patient in draw.choices(range(60), k=150)
    ]
    release = _released(records, Rule(k), visits)
    smallest = _smallest(records, _written(records, release), visits)
    assert release.smallest == smallest
    rest = [number for number, level in release.levels.items() if level == len(ORDER)]
    everyone_of_the_rest = {records[number]["patient"] for number in rest}
    assert smallest >= k or smallest == len(everyone_of_the_rest)


def test_as_little_as_needed_is_made_unknown_and_counted() -> None:
    """Ten patients alike; of two more, one's age is rare and the other's sex too."""
    records = [_record(number, age="60-64", sex="female", device="A") for number in range(10)]
    records += [_record(number, age="90+", sex="female", device="A") for number in (10, 11, 12, 13, 14)]
    records += [_record(15, age="20-24", sex="male", device="A")]
    visits = {f"p{number}": (0,) for number in range(16)}
    release = _released(records, Rule(), visits)
    assert release.k == 5
    assert dict(release.counts) == {
        f"suppressed_{name}": 1 for name in ORDER
    }  # one of a kind: there is nobody to hide among
    written = _written(records, release)
    assert [sample["age"] for sample in written[9:12]] == ["60-64", "90+", "90+"]
    assert written[15] == {"age": None, "sex": None, "visit": None, "device": None}


def test_without_age_and_sex_nothing_changes_unless_asked() -> None:
    records = [_record(number, device="rare" if number == 0 else "A") for number in range(9)]
    assert _released(records, Rule(), {}).facts() == {"k": None, "smallest": 1}
    assert _written(records, _released(records, Rule(), {}))[0]["device"] == "rare"
    assert _written(records, _released(records, Rule(5), {}))[0]["device"] is None


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
    assert facts["totals"]["remarks"]["suppressed_age"] == 2
    assert facts["made_from"]["dates"] == "shift"
    assert b'"95"' not in b"".join(contents(made / "out").values())


def test_age_and_sex_are_taken_only_where_they_are_mapped(made: Path, tmp_path: Path) -> None:
    assert not any({"age", "sex", "day"} & set(sample) for sample in samples_of(made / "plain").values())
    assert json.loads((made / "plain" / "index.json").read_bytes())["ssl_retina"]["anonymity"]["k"] is None
    for wrong in ({"k": 0}, {"dates": "absolute"}):
        with pytest.raises(InputError):
            shard(tmp_path, made / "archive", **wrong)
