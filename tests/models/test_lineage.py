"""Weights that were continued carry the shard sets of what they started from, over any number of exports."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ssl_retina.models import lineage, receipt
from ssl_retina.models.lineage import Lineage
from ssl_retina.probe import features
from ssl_retina.release import exposure

FIRST, SECOND, THIRD, OTHER = (letter * 64 for letter in "abcd")


def _card(digest: str, start: Lineage | None, chosen: str = lineage.WHOLLY) -> str:
    """The lines of a card that count here, around others."""
    began = [lineage.DRAWN]
    if start is not None:
        began = ["- Started from an export of ssl-retina (x), SHA-256 of its file `" + "e" * 64 + "`: all"]
        began += lineage.lines(start)
    return "\n".join(["# x", f"- Shard set 1: {lineage.SUM} `{digest}`", "  - 5 photographs", chosen, *began])


def _export(folder: Path, card: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "README.md").write_text(card)
    return folder


def _seen(folder: Path, digest: str) -> bool | None:
    index: Any = SimpleNamespace(digest=digest)
    return features.seen_in_pretraining(str(folder), index)


def test_sets_are_handed_on_from_export_to_export(tmp_path: Path) -> None:
    first = lineage.of_card(_card(FIRST, None))
    assert first == Lineage((FIRST,), (), complete=True)
    chosen = "- Chosen by: split != test; list of exclusions: none"
    second = lineage.of_card(_card(SECOND, first, chosen))
    assert second == Lineage((SECOND, FIRST), (SECOND,), complete=True)
    third = _card(THIRD, second)
    assert lineage.of_card(third) == Lineage((THIRD, SECOND, FIRST), (SECOND,), complete=True)
    folder = _export(tmp_path / "third", third)
    wanted = {FIRST: True, SECOND: None, THIRD: True, OTHER: False}
    assert {digest: _seen(folder, digest) for digest in wanted} == wanted


def test_where_the_start_is_of_unknown_data_nothing_is_ruled_out(tmp_path: Path) -> None:
    begun = _card(FIRST, Lineage())
    assert lineage.UNKNOWN in begun
    again = _card(SECOND, lineage.of_card(begun))
    for name, card in (("begun", begun), ("again", again)):
        folder = _export(tmp_path / name, card)
        assert (_seen(folder, FIRST), _seen(folder, OTHER)) == (True, None)
    older = f"- Started from the file a.pth, SHA-256 of its file `{'e' * 64}`"  # says nothing of its data
    assert _seen(_export(tmp_path / "older", older), OTHER) is None


def test_withdraw_finds_runs_and_exports_that_inherited_a_set(tmp_path: Path) -> None:
    _export(tmp_path / "export", _card(SECOND, lineage.of_card(_card(FIRST, None))))
    for name, init in (("run", {"digests": [FIRST]}), ("drawn", None), ("odd", {"digests": 3})):
        state = tmp_path / name / "checkpoints" / "step-00000001" / "state.json"
        state.parent.mkdir(parents=True)
        state.write_text(json.dumps({"data": {"digests": [SECOND]}, "init": init}))
    found = [(one.kind, one.path) for one in exposure.find(tmp_path, [FIRST])]
    assert found == [("export", "export"), ("run", "odd"), ("run", "run")]


@pytest.mark.parametrize("given", [Lineage((FIRST,), (FIRST,), complete=True), Lineage()])
def test_a_receipt_keeps_a_lineage(given: Lineage) -> None:
    content = {"digests": list(given.digests), "partly": list(given.partly), "all_data_known": given.complete}
    assert receipt.inherited(content) == given
    assert receipt.inherited({}) == Lineage()


def _licensed(own: str | None, given: str | None) -> str:
    head = "" if own is None else f"license: {own}\n"
    said = "" if given is None else f"\n\n{lineage.INHERITED}{given}"
    return lineage.licence_of_card(f"---\nlibrary_name: timm\n{head}---\n\n# x\n\nlicense: words{said}\n")


def test_an_inherited_licence_is_handed_on_and_is_never_the_exports_own() -> None:
    assert _licensed(None, None) == "none granted by its card: ask whoever answers for its photographs"
    begun = _licensed(None, "cc-by-nc-4.0")
    assert begun == "none granted by its card; started from: cc-by-nc-4.0"
    assert _licensed(None, begun) == begun
    assert _licensed("mit", begun) == "mit; started from: cc-by-nc-4.0"
    assert _licensed("mit", None) == "mit"


def test_a_licence_stays_one_line_of_bounded_length_that_is_read_back_whole() -> None:
    odd = "CC BY\n- Licence: all\u2028rights\x1b[1m " + "x" * 400 + " of its maker"
    said = receipt.licence("MAE", odd)
    assert said.startswith("CC BY - Licence: all rights [1m x")
    assert said.endswith("x of its maker")
    assert len(said) <= lineage.LIMIT
    assert len(said.splitlines()) == 1
    begun = _licensed("y" * 400, said)
    assert (len(begun) <= lineage.LIMIT, begun[:3], begun[-13:]) == (True, "yyy", " of its maker")
    assert _licensed(None, begun).endswith(" of its maker")
    assert receipt.licence("MAE", " \n").startswith("unknown, ask")
