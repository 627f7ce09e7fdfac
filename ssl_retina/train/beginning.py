"""What a fresh run starts from, where its config names weights: read once, filled in, and written down.

In: a config. Out: the weights, or None where the run is resumed or draws its own; `receipt.json` beside the
metrics, and the same receipt for every checkpoint.
"""

from collections.abc import Mapping
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
    if found.sha256 != dist.broadcast(found.sha256):
        problem = CheckpointError(f"rank {dist.rank()} read other weights at model.init than the first rank")
    dist.raise_first(problem)
    return found


def keep_receipt(run: Run, initial: Initial) -> dict[str, Any]:
    """Write the receipt into the run's folder; the same values are for the checkpoints."""
    assert initial.receipt is not None
    content = initial.receipt.as_json()
    if dist.is_first():
        files.write_json(run.out / RECEIPT, content)
    return content


def told(content: Mapping[str, Any] | None, *, resumed: bool) -> list[str]:
    """The receipt for a person: whole at the start, its first line after a resume."""
    if content is None:
        return []
    said = receipt.sentences(content)
    return [f"the run {said[0]}; these are not read again"] if resumed else said
