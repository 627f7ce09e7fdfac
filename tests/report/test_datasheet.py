"""The datasheet and its Croissant twin: the numbers of the set, no pseudonym; mlcroissant reads it."""

import dataclasses
import json
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import factory
import pytest

from ssl_retina import shard_index, shards
from ssl_retina.report import census, croissant, datasheet, pages
from ssl_retina.shards import Index

RECIPE = {
    "name": "plain",
    "title": "A clinic <b>& its archive</b>",
    "licence": "https://creativecommons.org/licenses/by/4.0/",
    "citation": "Somebody 2020",
    "page": "https://example.org/set",
    "consent": "broad consent",
}


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """40 photographs of 7 patients, two of which share one."""
    folder = tmp_path / "set"
    folder.mkdir()
    factory.make_shards(folder, samples=40, patients=7)
    totals = {"scanned": 45, "written": 40, "rejected": 3, "duplicates": 2, "reasons": {"truncated": 3}}
    facts = {**factory.index_facts(), "totals": totals, "recipe": RECIPE, "made_with": {"numpy": "1"}}
    return shard_index.write(folder, facts)


def _text(html: str) -> str:
    return " ".join(re.sub(r"<[^>]+>", " ", re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.S)).split())


def test_the_page_tells_the_sets_own_numbers(index: Index) -> None:
    counts = census.take(index)
    html = datasheet.render(index, counts)
    text = _text(html)
    assert "40 photographs of 7 known patients" in text
    assert "45 scanned = 40 written + 2 duplicates + 3 rejected" in text
    assert re.search(r"truncated 3\b", text)
    assert counts.columns["device"] == {"camera-a": 20, "camera-b": 20}
    assert counts.visits == {5: 2, 6: 5} == counts.photographs
    assert sum(counts.columns["eye"].values()) == 40
    assert "broad consent" in text
    assert index.digest in text
    assert "A clinic &lt;b&gt;&amp; its archive" in html  # what a recipe says is text, never markup
    assert datasheet.render(index, counts) == html


def test_nothing_that_a_set_was_made_from_is_told_twice(index: Index) -> None:
    twice = {"ids": "2: a rule", "key_fingerprint": "k"}
    told = replace(index, facts={**index.facts, **twice, "made_from": {**twice, "size": 64, "ocr": True}})
    names = [name for name, _ in datasheet._made(told)]
    assert len(names) == len(set(names))
    assert {"ids", "key fingerprint", "size", "ocr"} <= set(names)


def test_quality_is_counted_by_its_class_and_near_duplicates_as_such() -> None:
    counts = census._Counts()
    quality = {"class": "usable", "score": 0.4, "sharpness": 0.5}
    counts.add(0, factory.facts(1) | {"quality": quality, "near": None, "id_conflict": False})
    counts.add(1, factory.facts(2) | {"quality": quality, "near": factory.key(1), "id_conflict": True})
    counts.add(2, factory.facts(7) | {"quality": None, "near": None, "id_conflict": False})
    assert counts.columns["quality"] == {"usable": 2, "unknown": 1}
    assert (counts.near, counts.shared, counts.aliases) == (1, 1, 0)


def test_k_anonymity_is_counted_by_its_definition(index: Index) -> None:
    """Patients are alike where the sets of rows that their photographs show are."""
    rows: dict[str, set[tuple[Any, ...]]] = {}
    for number in range(40):
        facts = factory.facts(number, patients=7)
        rows.setdefault(facts["patient"], set()).add((facts["device"], facts["visit"]))
    counts = census.take(index)
    assert counts.smallest == min(sum(other == own for other in rows.values()) for own in rows.values())
    assert "the only one with their device" in _text(datasheet.render(index, counts))
    three = dataclasses.replace(counts, smallest=3)
    assert "shared by at least 3 patients" in _text(datasheet.render(index, three))


def test_k_anonymity_counts_patients_by_all_their_photographs_and_slices_as_one() -> None:
    """Two with A and B, two with A alone; who shares a photograph of B has B too."""
    shown = [(0, "A"), (0, "B"), (1, "A"), (1, "B"), (2, "A"), (3, "A")]
    counts = census._Counts()
    for row, (patient, device) in enumerate(shown):
        counts.add(row, factory.facts(patient) | {"patient": f"p{patient}", "device": device, "visit": None})
    assert counts.smallest() == 2
    shared = {"aliases": [{"patient": "p2"}], "patient": "p1", "device": "B", "visit": None}
    counts.add(6, factory.facts(6) | shared)
    assert counts.smallest() == 1
    for row in (7, 8):
        sliced = {"patient": None, "group": "file", "aliases": [], "device": "C", "visit": None}
        counts.add(row, factory.facts(row) | sliced)
    assert len(counts.rows) == 5


def test_no_pseudonym_and_no_address_is_asked_for(index: Index) -> None:
    pages.complete(index.folder)
    for name in (datasheet.NAME, croissant.NAME):
        text = (index.folder / name).read_text()
        for number in range(40):
            facts = factory.facts(number, patients=7)
            assert not any(facts[word] in text for word in ("key", "name", "patient", "group")), name
        assert str(index.folder) not in text
    html = (index.folder / datasheet.NAME).read_text()
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "<script" not in html
    assert "default-src 'none'" in html


def test_a_set_that_tells_nothing_of_itself_has_a_page(tmp_path: Path) -> None:
    (tmp_path / "bare").mkdir()
    factory.write_tar(tmp_path / "bare" / "a-000000.tar", [("x.jpg", factory.encoded(factory.pixels(1)))])
    index = shard_index.write(tmp_path / "bare", {})
    text = _text(datasheet.render(index, census.take(index)))
    assert "1 photographs of patients who are not named" in text
    assert text.count("not stated") >= 5
    assert "the only one with their device" in text


def test_pages_are_made_once_and_again_where_they_are_gone(index: Index) -> None:
    assert [path.name for path in pages.complete(index.folder)] == [datasheet.NAME, croissant.NAME]
    assert pages.complete(index.folder) == []
    (index.folder / croissant.NAME).unlink()
    assert [path.name for path in pages.complete(index.folder)] == [croissant.NAME]
    assert shard_index.verify(shards.read_index(index.folder), hashes=True) == []


def test_mlcroissant_accepts_it_and_reads_every_photograph(index: Index) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlcroissant = pytest.importorskip("mlcroissant", reason="pip install ssl-retina[dev]")
        pages.complete(index.folder)
        read = mlcroissant.Dataset(jsonld=str(index.folder / croissant.NAME))
        assert not list(read.metadata.ctx.issues.errors)
        records = list(read.records("photographs"))
    assert len(records) == 40
    said = [json.loads(_as_text(record["photographs/json"])) for record in records]
    assert {one["key"] for one in said} == {factory.key(number) for number in range(40)}
    content = json.loads((index.folder / croissant.NAME).read_bytes())
    tars = {one["@id"]: one["sha256"] for one in content["distribution"] if one["@type"] == "cr:FileObject"}
    assert tars == {shard.url: shard.sha256 for shard in index.shards}
    assert content["license"] == RECIPE["licence"]
    assert any(name.startswith("rai:") for name in content)


def _as_text(value: Any) -> str:
    text = value.decode() if isinstance(value, bytes) else str(value)
    return text.removeprefix("b'").removesuffix("'")
