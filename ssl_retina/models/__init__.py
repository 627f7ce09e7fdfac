"""Pieces of models without an objective."""
