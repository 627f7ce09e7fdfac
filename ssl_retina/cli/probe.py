"""Verbs of the group 'probe'."""

import typer


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
