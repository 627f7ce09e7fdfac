"""What the ranks of a world got of one global batch, put together again."""

from collections.abc import Sequence

import torch

from ssl_retina.contract import Batch


def put_together(parts: Sequence[Batch]) -> Batch:
    """The global batch of what all ranks got."""
    return Batch(
        torch.cat([part.global_views for part in parts], 1),
        None,
        tuple(key for part in parts for key in part.keys),
        torch.cat([part.position for part in parts]),
        torch.cat([part.group for part in parts]),
        torch.cat([part.field_of_view for part in parts], 1),
        origin=torch.cat([part.origin for part in parts if part.origin is not None]),
    )
