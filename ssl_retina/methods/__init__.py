"""One file per objective; the folder is the list: a file `NAME.py` here is the method NAME.

A method file gives `Config` (its typed section), `views(config, image_size) -> ViewSpec` and
`Method(config, make_encoder)`.
"""

import importlib
import pkgutil
from types import ModuleType

from ssl_retina.config import Section


def available() -> tuple[str, ...]:
    """The methods' names, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> ModuleType:
    """The method file of that name."""
    assert name in available(), name
    return importlib.import_module(f"{__name__}.{name}")


def config_type(name: str) -> type[Section] | None:
    """The method's typed section, or None where there is no such method."""
    if name not in available():
        return None
    found: type[Section] = load(name).Config
    assert issubclass(found, Section)
    return found
