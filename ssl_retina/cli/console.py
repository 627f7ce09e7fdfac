"""What every verb prints with: results on stdout, everything else on stderr."""

import json
import sys
from typing import Any

from rich.console import Console

NOTES = Console(stderr=True, highlight=False)


def result(content: dict[str, Any]) -> None:
    """Print one JSON object on stdout: what `--json` promises."""
    json.dump(content, sys.stdout, indent=1, ensure_ascii=False, allow_nan=False)
    sys.stdout.write("\n")


def note(text: str) -> None:
    """Print a line for the person at the terminal, on stderr."""
    NOTES.print(text, markup=False, soft_wrap=True)
