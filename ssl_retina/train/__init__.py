"""The trainer: loop, engine, checkpoints, tracking."""
