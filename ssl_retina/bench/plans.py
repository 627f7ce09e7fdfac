"""What all plans of a bench have in common.

In: a plan, names of its counts. Out: nothing, or InputError.
"""

from ssl_retina.errors import InputError


def require_positive(plan: object, *names: str) -> None:
    """Raise InputError for a count below 1; the option has the field's name."""
    for name in names:
        if getattr(plan, name) < 1:
            raise InputError(f"--{name} {getattr(plan, name)}: at least 1")
