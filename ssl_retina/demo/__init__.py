"""The whole path on a synthetic archive, offline: begin at `path.py`."""
