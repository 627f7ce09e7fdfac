"""Verbs of the group 'release'."""

import typer


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
