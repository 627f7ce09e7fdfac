"""Sets of shards at http(s), s3 and gs addresses: fetched whole into a bounded cache, checked, read there.

`opened` gives an Index whose shards are fetched when they are first read, `ahead` fetches those that are
needed next, `verify` asks what lies at the address. Nothing here hangs on which rank or worker asks.
"""

from ssl_retina.data.remote.fetch_ahead import ahead
from ssl_retina.data.remote.sets import RemoteSet, kept, notes, opened, require_room, verify

__all__ = ["RemoteSet", "ahead", "kept", "notes", "opened", "require_room", "verify"]
