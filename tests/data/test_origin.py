"""Which patient, eye, visit and volume a batch says its samples are of, from an archive to the loss."""

import csv
from itertools import islice

import factory
import numpy as np
import pytest
import torch

from ssl_retina import config, pseudonyms, relations, shards
from ssl_retina.archive.build import Settings, build
from ssl_retina.contract import ORIGIN, UNKNOWN, Batch, ViewSpec
from ssl_retina.data import origin, views
from ssl_retina.data.loader import open_source
from ssl_retina.relations import KINDS
from ssl_retina.synthetic import ATTRIBUTES
from ssl_retina.synthetic.bscan import draw_bscan
from ssl_retina.synthetic.cohort import Shot, draw_cohort
from ssl_retina.synthetic.photograph import draw_photograph

PATIENTS = 3
SECRET = 2
"""Of this patient the archive does not say which eye it is."""


@pytest.fixture(scope="module")
def shots() -> dict[str, Shot]:
    """All images of three patients with several visits, one of them scanned, by their file's new name."""
    cohort = [shot for shot in draw_cohort(0) if len(shot.patient.visits) > 1]
    scanned = next(shot.patient.number for shot in cohort if shot.modality == "oct")
    numbers = [scanned, *sorted({shot.patient.number for shot in cohort} - {scanned})][:PATIENTS]
    chosen = [shot for number in numbers for shot in cohort if shot.patient.number == number]
    return {f"f{place:02d}.png": shot for place, shot in enumerate(chosen)}


@pytest.fixture(scope="module")
def batch(shots: dict[str, Shot], tmp_path_factory: pytest.TempPathFactory) -> Batch:
    """One epoch of the set that `shard` made of them, as the trainer gets it."""
    folder = tmp_path_factory.mktemp("known")
    (folder / "archive").mkdir()
    hidden = list(dict.fromkeys(shot.patient.record for shot in shots.values()))[SECRET]
    with (folder / "table.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(ATTRIBUTES)
        for name, shot in shots.items():
            pixels = draw_bscan(shot, 0) if shot.modality == "oct" else draw_photograph(shot, 0)
            (folder / "archive" / name).write_bytes(factory.encoded(np.asarray(pixels)[::2, ::2], "png"))
            eye = "" if shot.patient.record == hidden else shot.eye
            day = shot.patient.visits[shot.visit].isoformat()
            rows.writerow((name, shot.patient.record, eye, day, f"camera-{shot.camera}", shot.modality))
    settings = Settings(
        table=folder / "table.csv",
        columns={name: name for name in ATTRIBUTES},
        key_file=factory.write_key(folder / "key"),
        size=64,
        processes=1,
    )
    assert build(folder / "archive", folder / "set", settings).written == len(shots)
    data = config.Data(shards=(folder / "set",), batch_size=2, workers=0, held_out=0.0)
    source = open_source(data, ViewSpec("mae", 1, 16), seed=0)
    (loaded,) = islice(source.batches(0, rank=0, world=1, micro_batch=len(shots)), 1)
    return views.finish(loaded, device=torch.device("cpu"))


def _kind(one: Shot, other: Shot, secret: int) -> str:
    """By what the cohort knows."""
    if one.patient.number != other.patient.number:
        return "stranger"
    if one.patient.number == secret:
        return "unknown"
    if one.eye != other.eye:
        return "fellow_eye"
    if one.modality != other.modality:
        return "other_modality"
    return "same_visit" if one.visit == other.visit else "repeat_visit"


def test_relations_are_those_of_the_archive(shots: dict[str, Shot], batch: Batch) -> None:
    known = {pseudonyms.image(factory.KEY, name): shot for name, shot in shots.items()}
    secret = list(dict.fromkeys(shot.patient.number for shot in shots.values()))[SECRET]
    drawn = [known[key] for key in batch.keys]
    expected = [[_kind(one, other, secret) for other in drawn] for one in drawn]
    found = relations.kinds(batch.kin, batch.kin).tolist()
    assert [[KINDS[code] for code in row] for row in found] == expected
    met = {kind for row in expected for kind in row}
    assert met == set(KINDS) - {"adjacent_slice", "same_volume"}
    assert set(batch.kin[:, 1:][:, ORIGIN.index("visit")].tolist()) >= {0, 1}


def test_slices_of_a_volume_keep_their_places() -> None:
    facts = {"patient": "a" * 26, "visit": 3, "volume": "b" * 26, "slice": 5, "slices": 19}
    found = origin.read(facts, group=4, eye="left", scan=True)
    numbers = [shards.group_number(text) for text in ("a" * 26, "b" * 26)]
    assert found == (numbers[0], 1, 3, numbers[1], 5, 1)


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"patient": None, "visit": None, "volume": None, "slice": None},
        {"patient": 5, "visit": True, "volume": ["v"], "slice": 1.0},
        {"patient": "", "visit": -1, "volume": "", "slice": 2**40},
        {"patient": {}, "visit": "2", "volume": 3, "slice": "0"},
    ],
)
def test_what_a_foreign_sample_does_not_plainly_say_is_unknown(facts: dict[str, object]) -> None:
    """No patient of its own: the group stands for it."""
    found = origin.read(facts, group=4, eye="OD?", scan=False)
    assert found == (4, *[UNKNOWN] * 4, 0)
