"""What a checkpoint is worth on a small labelled set, with honest statistics."""
