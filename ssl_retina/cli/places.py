"""Which verbs read shards at addresses, and a clear no from the others.

In: what was typed. Out: nothing, or InputError. A Path would silently lose a slash of `https://`.
"""

import re
from collections.abc import Sequence

from ssl_retina.addresses import masked
from ssl_retina.errors import InputError

READING = ("shard", "inspect", "withdraw", "balance", "dedup", "probe", "finetune", "embed", "bench")
"""Verbs that read or change every file of a set, in folders of this machine only."""
_ADDRESS = re.compile(r"(--?[\w-]+=)?(?:https?|s3|gs)://", re.IGNORECASE)


def refuse_addresses(arguments: Sequence[str]) -> None:
    """Raise InputError where one of these verbs is given an address."""
    verb = next((one for one in arguments if not one.startswith("-")), "")
    for argument in arguments if verb in READING else ():
        if found := _ADDRESS.match(argument):
            shown = masked(argument.removeprefix(found[1] or ""))
            raise InputError(
                f"{verb} reads folders of this machine, and {shown} is an address: copy the set first (aws "
                "s3 sync, gcloud storage rsync, wget). pretrain and check read addresses in data.shards"
            )
