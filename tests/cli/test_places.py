"""A verb that works on folders says so when it is given an address, and shows none of its secrets."""

import subprocess
import sys

import pytest

from ssl_retina.cli import places
from ssl_retina.errors import InputError


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "https://ann:sesame@host/set"),
        ("withdraw", "s3://bucket/set", "--patient", "x"),
        ("shard", "archive", "--append", "--out", "gs://bucket/set"),
        ("probe", "models/base", "--data=HTTP://host/set"),
        ("embed", "models/base", "--data", "http://host/set?sig=sesame"),
    ],
)
def test_verbs_of_folders_refuse_addresses(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        places.refuse_addresses(arguments)
    message = str(caught.value)
    assert message.startswith(f"{arguments[0]} reads folders of this machine")
    assert "is an address: copy the set first" in message
    assert "sesame" not in message


@pytest.mark.parametrize(
    "arguments",
    [
        ("pull", "https://host/model", "models"),
        ("pretrain", "a.yaml", "data.shards=https://host/set"),
        ("inspect", "out/shards"),
        (),
    ],
)
def test_other_verbs_and_folders_are_not_refused(arguments: tuple[str, ...]) -> None:
    refused = []
    try:
        places.refuse_addresses(arguments)
    except InputError as error:
        refused.append(str(error))
    assert refused == []


def test_the_sentence_is_all_that_is_shown() -> None:
    command = [sys.executable, "-m", "ssl_retina", "inspect", "https://host/set"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "ssl-retina: inspect reads folders of this machine, and https://host/set is"
    )
    assert done.stdout == ""
