"""`--recipe NAME|FILE` -> a checked `Recipe`; the shipped ones lie in `shards/recipes/`."""

import dataclasses
from pathlib import Path

from ssl_retina import config_text, shipped
from ssl_retina.archive.recipe.model import Recipe, crossed
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import ConfigError, InputError

SUFFIXES = (".yaml", ".yml")


def load(named: str) -> Recipe:
    """A shipped recipe by its name, or one's own by its path (with a folder, or ending in .yaml).

    Raises InputError where there is none, ConfigError with all mistakes of the file.
    """
    path = Path(named)
    if path.suffix not in SUFFIXES and path.name == named:
        names = shipped_names()
        if named not in names:
            raise InputError(
                f"there is no recipe {named!r}{did_you_mean(named, names)}; --recipe list shows those that "
                "are shipped, and one's own is given as a file that ends in .yaml"
            )
        path = _folder() / f"{named}.yaml"
    if not path.is_file():
        raise InputError(f"the recipe {path} is not a file; --recipe list shows those that are shipped")
    return read(path)


def shipped_names() -> list[str]:
    """The names of all shipped recipes, sorted."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


def read(path: Path) -> Recipe:
    """One recipe's file; its name is the file's."""
    source = config_text.read(path, [])
    problems = list(source.problems)
    if "name" in source.values:
        problems.append(f"name: a recipe is named by its file, leave it out   {source.place(('name',))}")
    source = dataclasses.replace(source, values={**source.values, "name": path.stem})
    recipe, wrong = config_text.check(Recipe, source)
    problems += wrong
    if recipe is not None:
        problems += [f"{'.'.join(key)}: {said}   {source.place(key)}" for key, said in crossed(recipe)]
    if recipe is None or problems:
        raise ConfigError(path.name, problems)
    return recipe


def _folder() -> Path:
    return shipped.folder("shards") / "recipes"
