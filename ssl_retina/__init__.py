"""Self-supervised pretraining for unlabeled retinal archives."""

__version__ = "0.1.0"
