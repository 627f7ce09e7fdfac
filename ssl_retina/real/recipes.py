"""What is pretrained: a method's shipped small config, with overrides or without, and what each gets alike.

In: names and overrides as the user typed them. Out: `Recipe`s, or one sentence that says what is known. The
shipped configs share encoder, batch and steps (tests hold that), so that every method sees as many
photographs: equal data and steps, not equal time.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssl_retina import config_text, methods, shipped
from ssl_retina.config_text import did_you_mean
from ssl_retina.errors import InputError

SEEDS = 3
PROCESSES = 2
DEFAULT = ("simclr",)
"""What `make real` trains unless it is told: the recipe that was chosen inside the training patients."""

_SHIPPED = "real_cpu*.yaml"


@dataclass(frozen=True)
class Budget:
    """What every recipe gets: pretrainings (seeds 0, 1, ...), steps (None: the config's), ranks."""

    seeds: int = SEEDS
    steps: int | None = None
    processes: int = PROCESSES


@dataclass(frozen=True)
class Recipe:
    """name: its row in the table. config: the method's shipped file; overrides: in place of its values."""

    name: str
    method: str
    config: Path
    overrides: tuple[str, ...] = ()

    def with_values(self, overrides: Sequence[str], *, name: str | None = None) -> "Recipe":
        """The same with more overrides, which prevail."""
        return Recipe(name or self.name, self.method, self.config, (*self.overrides, *overrides))

    @property
    def folder(self) -> str:
        """A name for its folder that says what is trained: another recipe has another one."""
        return re.sub(r"[^\w.=+-]+", "_", "+".join((self.method, *self.overrides)))


def shipped_configs() -> dict[str, Path]:
    """Method -> its small config, sorted by name."""
    found = {}
    for path in sorted((shipped.folder("configs") / "pretrain").glob(_SHIPPED)):
        found[str(config_text.read(path, ()).values["method"]["name"])] = path
    return dict(sorted(found.items()))


def of_methods(names: Sequence[str]) -> tuple[Recipe, ...]:
    """The shipped recipe of each method, in the order given.

    Raises InputError for no name, one given twice, no such method, and a method without a small config.
    """
    if not names or not all(names):
        raise InputError("--methods: name one or several, with commas between them: --methods mae,simclr")
    configs = shipped_configs()
    listed = ", ".join(configs)
    for place, name in enumerate(names):
        if name in names[:place]:
            raise InputError(f"--methods: {name} is given twice")
        if name not in methods.available():
            hint = did_you_mean(name, methods.available())
            raise InputError(
                f"--methods: no method {name!r}{hint or ';'} those with a small config: {listed}"
            )
        if name not in configs:
            raise InputError(
                f"--methods: {name} has no small config for two cores "
                f"(configs/pretrain/real_cpu_{name}.yaml); those that have one: {listed}"
            )
    return tuple(Recipe(name, name, configs[name]) for name in names)


def budgeted(recipe: Recipe, budget: Budget) -> Recipe:
    """The recipe with the budget's steps."""
    return recipe if budget.steps is None else recipe.with_values((f"train.steps={budget.steps}",))


def varied(recipe: Recipe, changes: Sequence[str]) -> tuple[Recipe, ...]:
    """The recipe as it stands, then one recipe for each change of one value.

    Raises InputError for a change that is none, or is given twice.
    """
    for place, change in enumerate(changes):
        if "=" not in change:
            raise InputError(f"--vary {change}: give a key and its other value, such as method.flip=false")
        if change in changes[:place]:
            raise InputError(f"--vary {change} is given twice")
        if change in recipe.overrides:
            raise InputError(f"--vary {change}: the recipe it is compared with has that value already")
    return (recipe, *(recipe.with_values((change,), name=change) for change in changes))
