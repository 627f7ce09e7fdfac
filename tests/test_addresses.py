"""No text about an address holds its user, password or query, however it is written; `launch` refuses it."""

import json
from pathlib import Path

import pytest

from ssl_retina import config, methods
from ssl_retina.addresses import Address, masked, place
from ssl_retina.errors import ConfigError, InputError
from ssl_retina.launch import submit

MAE = Path(__file__).parents[1] / "configs" / "pretrain" / "debug_mae.yaml"

HIDING = {
    "https://h.org/a,b?token=SECRET": "https://h.org/a,b?***",
    "https://[::1]:8000/x?token=SECRET": "https://[::1]:8000/x?***",
    "https://h.org/my set?token=SECRET": "https://h.org/my set?***",
    "https://h.org/it's]?token=SECRET": "https://h.org/it's]?***",
    "https://h.org/x?sig=AA,SECRET": "https://h.org/x?***",
    "https://h.org/x?sig=AA'SECRET ]SECRET": "https://h.org/x?***",
    "https://h.org/x?to=https://SECRET/&sig=SECRET@SECRET": "https://h.org/x?***",
    "https://ann:SEC,RET@h.org/x": "https://***@h.org/x",
    "https://ann:SEC@RET@h.org/x": "https://***@h.org/x",
    "https://ann:SEC RET@h.org:80/x?SECRET": "https://***@h.org:80/x?***",
    "HTTPS://SECRET@h.org/x": "https://***@h.org/x",
}
REFUSED = (
    "https://ann:SEC/RET@h.org/x",
    "https://ann:SEC#RET@h.org/x",
    "https://ann:SEC?RET@h.org/x",
    "https://ann:12/RET@h.org/x",
    "https://ann:12?RET@h.org/x",
    "https://ann/x:SECRET@h.org/x",
    "https://h.org:SECRET",
    "https://h.org/x?token=SEC#RET",
    "https//ann:SECRET@h.org/x",
    "https:/ann:SECRET@h.org/x",
    "s3://KEY:12/SECRET@bucket/x",
    "s3://KEY:SEC/RET@bucket/x",
    "s3://bucket/x?token=SECRET",
    "ftp://ann:SECRET@h.org/x?SECRET",
    "https://?token=SECRET",
    "https://h org/x?SECRET",
)
WORDS = ("SEC", "RET", "ann", "KEY", "12")


@pytest.mark.parametrize("text", HIDING)
def test_an_address_shows_its_place_and_says_that_it_hides_something(text: str) -> None:
    address = place(text)
    assert isinstance(address, Address)
    assert str(address) == HIDING[text]
    assert repr(address) == f"Address({HIDING[text]!r})"
    assert address.secret
    assert "SEC" in address.of("index.json")
    assert str(place(str(address))) == str(address)  # what a run wrote down is read again


@pytest.mark.parametrize("text", ["https://h.org/a,b", "http://[::1]:8000/x", "s3://bucket/a b@c", "gs://b"])
def test_an_address_without_a_secret_is_shown_whole(text: str) -> None:
    address = place(text)
    assert str(address) == masked(text) == text or "@" in text
    assert isinstance(address, Address)
    assert not address.secret


@pytest.mark.parametrize("text", [*HIDING, *REFUSED])
def test_a_text_with_an_address_holds_no_secret_of_it(text: str) -> None:
    for around in (text, f"data.shards=['{text}', \"{text}\"]", repr([text]), f"{text} and {text}"):
        assert [word for word in WORDS if word in masked(around)] == []


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_no_address_is_refused_without_a_word_of_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|should be|is not read") as caught:
        place(text)
    assert [word for word in WORDS if word in str(caught.value)] == []


def test_a_text_shows_where_an_address_leads_where_that_is_plain() -> None:
    assert masked("[https://h.org:80/a, s3://b/c]") == "[https://h.org:80/a, s3://b/c]"
    assert masked("x=https://ann:SECRET@h.org/a?SECRET") == "x=https://***@h.org/a?***"
    assert masked("a?b#c@d") == "a?b#c@d"


def _run(*overrides: str) -> config.Run:
    return config.load(MAE, ["out=out", *overrides], methods.config_type, methods.available())


@pytest.mark.parametrize("text", HIDING)
def test_a_config_tells_no_secret_and_launch_refuses_it(text: str) -> None:
    quoted = json.dumps(text)
    run = _run(f"data.shards=[{quoted}]")
    texts = [json.dumps(run.dump()), str(run), repr(run)]
    for wrong in ("data.batch_size=x", f"data.batch_size={quoted}", f"data.proportions={{{quoted}: x}}"):
        with pytest.raises(ConfigError) as caught:
            _run(f"data.shards=[{quoted}]", wrong)
        texts.append(str(caught.value))
    with pytest.raises(ConfigError, match="section.key=value") as caught:
        _run(f"{text}&a=b")
    texts.append(str(caught.value))
    with pytest.raises(InputError, match="would stand in the job's script") as refused:
        submit._refuse_secrets([one for one in run.data.shards if isinstance(one, Address)])
    texts.append(str(refused.value))
    assert [(word, one) for one in texts for word in ("SEC", "ann:") if word in one] == []
