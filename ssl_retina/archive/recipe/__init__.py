"""Recipes: where everything is in one kind of archive, so that one command shards it.

recipe = load("hygd")                             # or a path of one's own
applied = apply(recipe, source, list(scan(source)))
"""

from ssl_retina.archive.recipe.advice import commands
from ssl_retina.archive.recipe.load import load, read, shipped_names
from ssl_retina.archive.recipe.model import ATTRIBUTES, Recipe
from ssl_retina.archive.recipe.sorting import SKIPPED
from ssl_retina.archive.recipe.stating import Applied, apply

__all__ = [
    "ATTRIBUTES",
    "SKIPPED",
    "Applied",
    "Recipe",
    "apply",
    "commands",
    "load",
    "read",
    "shipped_names",
]
