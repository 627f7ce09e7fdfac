"""The command line: `ssl-retina VERB ...`. Each group of verbs is one file; heavy imports happen inside.

User errors end with one message and their exit code; everything else keeps its traceback.
"""

import os
import sys

import typer

from ssl_retina import files
from ssl_retina.cli import (
    archive,
    balance,
    bench,
    check,
    dedup,
    demo,
    embed,
    finetune,
    hub,
    launch,
    places,
    pretrain,
    probe,
    real,
    release,
)
from ssl_retina.errors import UserError

app = typer.Typer(
    name="ssl-retina",
    help="Unlabeled retinal archive -> de-identified shards -> pretraining -> checkpoint for timm -> probe.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

VERBS = (
    demo,
    archive,
    balance,
    dedup,
    pretrain,
    check,
    launch,
    release,
    hub,
    probe,
    finetune,
    embed,
    real,
    bench,
)

for _group in VERBS:
    _group.register(app)


def main() -> None:
    """Run one verb; turn a user's error, or a disk without room, into its message and exit code.

    huggingface_hub, of which timm asks weights too, is told to say nothing of this machine (law 10), unless
    the user has decided that.
    """
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        places.refuse_addresses(sys.argv[1:])
        app()
    except UserError as error:
        print(f"ssl-retina: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in files.NO_ROOM:
            raise
        where, why = error.filename or "the output", os.strerror(error.errno)
        print(f"ssl-retina: {where} cannot be written ({why}): make room, and try again", file=sys.stderr)
        sys.exit(UserError.exit_code)
