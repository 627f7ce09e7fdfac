"""Verbs of the group 'pretrain'."""

import typer


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
