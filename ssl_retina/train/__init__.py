"""The trainer: a config comes in, a run folder with metrics and checkpoints comes out. Begin at `loop.py`."""
