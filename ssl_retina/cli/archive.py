"""Verbs of the group 'archive'."""

import typer


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
