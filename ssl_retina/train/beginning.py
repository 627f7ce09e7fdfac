"""What a fresh run starts from, where its config names weights: read once, filled in, and written down.

In: a config. Out: the weights, or None where the run is resumed or draws its own; `receipt.json` beside the
metrics, and the same receipt for every checkpoint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ssl_retina import dist, files
from ssl_retina.config import Run
from ssl_retina.errors import CheckpointError, UserError
from ssl_retina.models import receipt
from ssl_retina.models.initial import Initial
from ssl_retina.train import checkpoint

RECEIPT = receipt.NAME


def weights(run: Run) -> Initial | None:
    """What `model.init` names, read on every rank; None where a checkpoint holds the run's weights.

    A published checkpoint, good or bad, means that the run began: `resume.find` continues it or refuses.
    Raises InputError and CheckpointError on every rank.
    """
    if run.model.init is None or dist.first_decides(lambda: bool(checkpoint.folders(run.out))):
        return None
    found, problem = None, None
    try:
        found = Initial(run.model)
    except UserError as error:
        problem = error
    dist.raise_first(problem)
    assert found is not None
    if dist.world_size() > 1 and (own := found.digest) != dist.broadcast(own):
        problem = CheckpointError(f"rank {dist.rank()} read other weights at model.init than the first rank")
    dist.raise_first(problem)
    return found


def record(
    run: Run, initial: Initial | None, kept: Mapping[str, Any] | None
) -> tuple[Mapping[str, Any] | None, Sequence[str]]:
    """The receipt for every checkpoint, and what a person is told of it.

    A fresh start's lies in the run's folder too and is told whole; `kept` is that of a checkpoint, of which
    the first line is said again.
    """
    if initial is None:
        said = receipt.sentences(kept)[:1] if kept else []
        return kept, [f"the run {line}; these are not read again" for line in said]
    assert initial.receipt is not None
    content = initial.receipt.as_json()
    if dist.is_first():
        files.write_json(run.out / RECEIPT, content)
    return content, receipt.sentences(content)
