"""What became of the weights that a run starts from, to be printed, stored beside it and told in its card.

In: the tensors that were given and taken. Out: a `Receipt`: plain values, and sentences for a person.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

from ssl_retina.models import lineage
from ssl_retina.models.lineage import Lineage

NAME = "receipt.json"
SHOWN = 6
AUTHORS: Mapping[str, str] = MappingProxyType(
    {
        "MAE": "MAE's and RETFound's authors give theirs under CC BY-NC 4.0",
        "MoCo v3": "its authors give theirs under CC BY-NC 4.0",
        "DINO": "its authors give theirs under Apache-2.0",
        "DINOv2": "Meta gives its own under Apache-2.0, RETFound's are CC BY-NC 4.0, RETFound-Green's "
        "non-commercial",
    }
)
"""What is known of files of a layout; who made a file is not said in it."""


@dataclass(frozen=True)
class Receipt:
    """How an encoder was filled.

    source: the weights without a path. sha256: of `hashed`: their file, or names, shapes and values of the
    tensors where a library read the file. matched: tensors of the encoder that were filled. resized: `(name,
    from, to)`. missing: tensors of the encoder that start as drawn. unexpected: names of the file that are no
    part of the encoder. share_of_backbone: filled parameters of the encoder's. share_of_file: used ones of
    the file's. steps: what was translated. licence: inherited. digests: of shard sets that the weights
    were trained on; partly: those of which only a choice was; all_data_known: whether there are no others.
    reference: how far features are from those given, or None.
    """

    source: str
    sha256: str
    hashed: str
    layout: str
    matched: tuple[str, ...]
    resized: tuple[tuple[str, str, str], ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    share_of_backbone: float
    share_of_file: float
    steps: tuple[str, ...]
    licence: str
    digests: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    all_data_known: bool = False
    reference: Mapping[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values, as they lie in `receipt.json` and in every checkpoint."""
        return asdict(self)


def inherited(content: Mapping[str, Any]) -> Lineage:
    """The lineage in a receipt's plain values."""
    digests, partly = content.get("digests", ()), content.get("partly", ())
    return Lineage(tuple(digests), tuple(partly), bool(content.get("all_data_known", False)))


def licence(layout: str, stated: str | None) -> str:
    """The licence that a source states, or `unknown` with what is known of files of the layout."""
    if stated and lineage.bounded(stated):
        return lineage.bounded(stated)
    return f"unknown, ask whoever made them ({AUTHORS.get(layout, 'nothing in them says it')})"


def sentences(content: Mapping[str, Any]) -> list[str]:
    """What a person is told of a receipt's plain values, a line each."""
    count = len(content["matched"])
    said = [
        f"starts from {content['source']} ({content['layout']} layout), SHA-256 {content['sha256']} of its "
        f"{content['hashed']}",
        f"  {count} of {count + len(content['missing'])} tensors, {content['share_of_backbone']:.2%} of the "
        f"encoder's parameters ({content['share_of_file']:.2%} of those given)",
    ]
    said += [f"  resized {name}: {old} -> {new}" for name, old, new in content["resized"]]
    said += [f"  {step}" for step in content["steps"]]
    said += [f"  missing, start as drawn: {listed(content['missing'])}"] if content["missing"] else []
    said += [f"  not used: {listed(content['unexpected'])}"] if content["unexpected"] else []
    said.append(lineage.told(content.get("digests", ()), complete=content.get("all_data_known", False)))
    said.append(f"  licence: {content['licence']}")
    if content["reference"] is not None:
        told = content["reference"]
        said.append(f"  features are those of the reference ({told['pooled']}), to {told['difference']:.1e}")
    return said


def listed(names: Sequence[str]) -> str:
    """A few names and how many more."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
