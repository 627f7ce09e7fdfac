"""Photographs of one patient in a contrast: kinds of relation and both losses against slow loops."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from test_losses import _cosine, _pair
from torch import Tensor

from ssl_retina import losses, relations
from ssl_retina.contract import ORIGIN, UNKNOWN, Batch
from ssl_retina.relations import KINDS, Related

GRADED = Related(
    same_visit=1.0,
    adjacent_slice=0.9,
    repeat_visit=0.5,
    other_modality=0.3,
    fellow_eye=0.2,
    same_volume="negative",
)
PAPER = Related(**dict.fromkeys(KINDS[1:], "negative"))


def slow_kind(one: dict[str, Any], other: dict[str, Any], within: int) -> str:
    """The words of `Related`, read from the top; None is unknown."""
    both = {name: (one[name], other[name]) for name in one}
    known = {name: None not in pair for name, pair in both.items()}
    same = {name: known[name] and pair[0] == pair[1] for name, pair in both.items()}
    if not same["group"]:
        return "stranger"
    if same["volume"]:
        if not known["slice"]:
            return "same_volume"
        apart = abs(one["slice"] - other["slice"])
        return "same_visit" if apart == 0 else "adjacent_slice" if apart <= within else "same_volume"
    if not same["patient"] or not known["eye"]:
        return "unknown"
    if not same["eye"]:
        return "fellow_eye"
    if not known["scan"]:
        return "unknown"
    if not same["scan"]:
        return "other_modality"
    if not known["visit"]:
        return "unknown"
    return "same_visit" if same["visit"] else "repeat_visit"


def _people(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Few patients, so that every kind comes; two of them are one group."""
    drawn = torch.Generator().manual_seed(seed)

    def pick(*choices: Any) -> Any:
        return choices[int(torch.randint(len(choices), (), generator=drawn))]

    people = []
    for _ in range(count):
        patient = pick(10, 11, 12)
        volume = pick(None, None, 70 + patient)
        people.append(
            {
                "group": 10 if patient == 11 else patient,
                "patient": patient,
                "eye": pick(None, 0, 1),
                "visit": pick(None, 0, 1),
                "volume": volume,
                "slice": None if volume is None else pick(None, 0, 1, 2, 3, 7),
                "scan": pick(0, 1, 1),
            }
        )
    return people


def _kin(people: Sequence[dict[str, Any]]) -> Tensor:
    rows = [[UNKNOWN if one[name] is None else one[name] for name in ("group", *ORIGIN)] for one in people]
    return torch.tensor(rows)


@pytest.mark.parametrize("within", [1, 2])
def test_kinds_equal_the_slow_loop(within: int) -> None:
    people, others = _people(60), _people(45, seed=1)
    found = relations.kinds(_kin(people), _kin(others), adjacent_within=within)
    expected = [[slow_kind(one, other, within) for other in others] for one in people]
    assert [[KINDS[code] for code in row] for row in found.tolist()] == expected
    assert {kind for row in expected for kind in row} == set(KINDS)


def test_kinds_are_mutual() -> None:
    kin = _kin(_people(60))
    found = relations.kinds(kin, kin)
    assert torch.equal(found, found.T)


def test_a_batch_that_knows_groups_only_has_unknown_relatives() -> None:
    group = torch.tensor([4, 5, 4])
    batch = Batch(torch.zeros(1, 3, 3, 8, 8), None, ("a", "b", "c"), group, group, torch.zeros(1, 3, 4))
    found = relations.kinds(batch.kin, batch.kin)
    assert [KINDS[code] for code in found[0].tolist()] == ["unknown", "stranger", "unknown"]


@pytest.mark.parametrize("value", [0, 0.0, 1.5, -0.5, "positive", True, None, float("nan")])
def test_a_treatment_is_a_word_or_a_weight(value: object) -> None:
    with pytest.raises(ValidationError, match="fellow_eye"):
        Related.model_validate({"fellow_eye": value})
    assert Related.model_validate({"fellow_eye": 1}).fellow_eye == 1.0


def test_the_unknown_are_never_positives() -> None:
    with pytest.raises(ValidationError, match="unknown"):
        Related.model_validate({"unknown": 0.5})
    assert not any(Related().weights())
    assert [KINDS[code] for code, out in enumerate(Related().ignored()) if out] == list(KINDS[1:])


@pytest.mark.parametrize("name", ["nt_xent", "moco_contrast"])
def test_samples_are_compared_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each pair of samples, not of views, and one time for both of MoCo's losses."""
    compared: list[tuple[int, int]] = []
    right = relations.kinds

    def counted(rows: Tensor, columns: Tensor, **options: int) -> Tensor:
        compared.append((len(rows), len(columns)))
        return right(rows, columns, **options)

    monkeypatch.setattr(relations, "kinds", counted)
    kinship = losses.Kinship(_kin(_people(9)), GRADED)
    for _ in range(2):
        getattr(losses, name)(*_pair(9), temperature=0.3, kinship=kinship)
    assert compared == [(9, 9)]


Candidates = list[tuple[int, Tensor]]


def slow_row(
    anchor: Tensor,
    own: Tensor,
    others: Candidates,
    *,
    person: int,
    told: tuple[list[dict[str, Any]], Related],
) -> dict[str, float]:
    """One row's loss and logs by the formula of `losses._contrast`, at temperature 0.3."""
    people, related = told
    positives, negatives, false = [(1.0, own)], [], 0
    for number, vector in others:
        kind = slow_kind(people[person], people[number], related.adjacent_within)
        treatment = "negative" if kind == "stranger" else getattr(related, kind)
        false += kind != "stranger"
        if treatment == "negative":
            negatives.append(vector)
        elif treatment != "ignore":
            positives.append((treatment, vector))
    rivals = [_cosine(anchor, vector) for vector in negatives]
    everyone = [*rivals, *(_cosine(anchor, vector) for _, vector in positives)]
    below = sum(math.exp(one / 0.3) for one in everyone)
    total = sum(weight for weight, _ in positives)
    loss = -sum(w / total * math.log(math.exp(_cosine(anchor, v) / 0.3) / below) for w, v in positives)
    near = _cosine(anchor, own)
    return {
        "loss": loss,
        "similarity": near,
        "top1": float(all(near >= one for one in rivals)),
        "false": false / max(len(others), 1),
    }


def slow_losses(first: Tensor, second: Tensor, people: list[dict[str, Any]], related: Related) -> Any:
    """Mean over rows of NT-Xent and of MoCo's `ctr`: loss, similarity, top-1, false negatives."""
    told, simclr, moco = (people, related), [], []
    for i in range(len(first)):
        for anchor, own in ((first[i], second[i]), (second[i], first[i])):
            others = [(k, view[k]) for k in range(len(first)) if k != i for view in (first, second)]
            simclr.append(slow_row(anchor, own, others, person=i, told=told))
        others = [(k, second[k]) for k in range(len(first)) if k != i]
        moco.append(slow_row(first[i], second[i], others, person=i, told=told))
    means = [
        [sum(row[name] for row in rows) / len(rows) for name in ("loss", "similarity", "top1", "false")]
        for rows in (simclr, moco)
    ]
    means[1][0] *= 2 * 0.3
    return means


@pytest.mark.parametrize("related", [Related(), GRADED, PAPER], ids=["default", "graded", "paper"])
@pytest.mark.parametrize("count", [1, 2, 12])
def test_contrasts_with_relatives_equal_the_slow_loops(related: Related, count: int) -> None:
    people, (first, second) = _people(count, seed=4), _pair(count)
    kinship = losses.Kinship(_kin(people), related)
    for fast, slow in zip(
        (losses.nt_xent, losses.moco_contrast), slow_losses(first, second, people, related), strict=True
    ):
        found = fast(first, second, temperature=0.3, kinship=kinship)
        assert [float(value) for value in found] == pytest.approx(slow, rel=1e-5, abs=1e-6), fast


BOTH = pytest.mark.parametrize("loss", [losses.nt_xent, losses.moco_contrast])


@BOTH
def test_the_papers_treatment_is_the_papers_loss(loss: Callable[..., losses.Contrast]) -> None:
    """And strangers are contrasted as ever."""
    told = loss(*_pair(9), temperature=0.2, kinship=losses.Kinship(_kin(_people(9)), PAPER))
    assert all(torch.equal(a, b) for a, b in zip(told[:3], loss(*_pair(9), temperature=0.2)[:3], strict=True))
    assert told.false_negative_rate is not None
    assert 0.3 < float(told.false_negative_rate) < 0.8


@BOTH
@pytest.mark.parametrize("stranger", [False, True])
def test_images_of_one_eye_and_visit_never_push_each_other(
    loss: Callable[..., losses.Contrast], stranger: bool
) -> None:
    """With a retake alone in the batch there is nobody to be told from; with a stranger there is."""
    eye = {"group": 1, "patient": 1, "eye": 0, "visit": 2, "volume": None, "slice": None, "scan": 0}
    other = {**eye, "group": 2, "patient": 2} if stranger else eye
    first, second = _pair(2)
    first.requires_grad_()
    loss(
        first, second, temperature=0.3, kinship=losses.Kinship(_kin([eye, other]), Related())
    ).loss.backward()
    pushed = float(first.grad.abs().max())
    assert (pushed > 1e-3) if stranger else (pushed < 1e-7)


@pytest.mark.parametrize(("treatment", "found"), [(0.5, 1.0), ("ignore", 1.0), ("negative", 0.0)])
def test_top1_asks_of_negatives_only(treatment: float | str, found: float) -> None:
    """Each query lies on its fellow eye's key, nearer than on its own."""
    eyes = _kin(
        [
            {"group": 1, "patient": 1, "eye": eye, "visit": 0, "volume": None, "slice": None, "scan": 0}
            for eye in (0, 1)
        ]
    )
    query = torch.eye(2)
    key = query.flip(0) + 0.5 * query
    kinship = losses.Kinship(eyes, Related(fellow_eye=treatment))
    assert float(losses.moco_contrast(query, key, temperature=0.2, kinship=kinship).contrast_top1) == found


def test_a_batch_of_one_patient_has_a_loss() -> None:
    """No negative is left: nothing to learn, and no NaN."""
    first, second = (one.requires_grad_() for one in _pair(4))
    kin = torch.tensor([[3] + [UNKNOWN] * len(ORIGIN)] * 4)
    for loss in (losses.nt_xent, losses.moco_contrast):
        found = loss(first, second, temperature=0.1, kinship=losses.Kinship(kin, Related()))
        found.loss.backward()
        assert found.loss.item() == pytest.approx(0, abs=1e-6)
        assert found.logs()["false_negative_rate"].item() == 1
        assert bool(first.grad.isfinite().all())
