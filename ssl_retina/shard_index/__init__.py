"""Tars -> index: walk shards by their headers, check their structure, write and verify the index.

`members` reads one tar, `write` indexes a folder, `verify` names every difference between a set and its
index, its manifest included (`shards/FORMAT.md`). numpy only; nothing is extracted or decoded.
"""

from ssl_retina.shard_index.verification import verify
from ssl_retina.shard_index.walk import Member, members, tars
from ssl_retina.shard_index.writing import OWN_FACTS, Kept, group_of, write

__all__ = ["OWN_FACTS", "Kept", "Member", "group_of", "members", "tars", "verify", "write"]
