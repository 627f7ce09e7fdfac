"""What an answer means: RFC 9110's ranges and validators, and what is refused, waited for, begun anew."""

import pytest

from ssl_retina import http_rules
from ssl_retina.errors import InputError, ShardError
from ssl_retina.http_rules import Asked, BusyError, Content


@pytest.mark.parametrize(
    ("status", "headers", "asked", "found"),
    [
        (200, {"Content-Length": "9"}, 0, Content(0, 9)),
        (200, {"Content-Length": "9"}, 4, Content(0, 9)),  # a server that knows no ranges begins anew
        (200, {}, 0, Content(0, None)),
        (206, {"Content-Range": "bytes 4-8/9"}, 4, Content(4, 9)),
        (206, {"Content-Range": "bytes 4-8/*"}, 4, Content(4, None)),
        (206, {"Content-Range": "bytes 3-8/9"}, 4, None),
        (206, {}, 4, None),
        (416, {"Content-Range": "bytes */9"}, 9, Content(9, 9, ends=True)),
        (416, {"Content-Range": "bytes */9"}, 12, None),
        (416, {}, 4, None),
    ],
)
def test_where_content_belongs(
    status: int, headers: dict[str, str], asked: int, found: Content | None
) -> None:
    assert http_rules.content(status, headers, asked) == found


def test_the_rest_is_asked_for_of_the_same_file_only() -> None:
    assert http_rules.resuming(0, "'a'") == {}
    assert http_rules.resuming(7, "") == {"Range": "bytes=7-"}
    assert http_rules.resuming(7, '"a"') == {"Range": "bytes=7-", "If-Range": '"a"'}
    assert http_rules.mark({"ETag": '"a"', "Last-Modified": "b"}) == '"a"'
    assert http_rules.mark({"ETag": 'W/"a"', "Last-Modified": "b"}) == "b"  # a weak one tells no bytes
    assert http_rules.mark({}) == ""


def test_answers_without_content() -> None:
    asked = Asked("https://h/a", "x.tar", ShardError, "say who you are")
    for status in (200, 206, 416):
        asked.check(status, {"Content-Encoding": "identity"})
    for status, after, seconds in ((429, "2", 2.0), (503, "10000", 60.0), (500, "soon", 0.0)):
        with pytest.raises(BusyError, match=f"status {status}") as caught:
            asked.check(status, {"Retry-After": after})
        assert caught.value.after == seconds
    with pytest.raises(ShardError, match=r"does not let you read x.tar \(status 403\): say who you are"):
        asked.check(403, {})
    with pytest.raises(ShardError, match="answers x.tar with status 418"):
        asked.check(418, {})
    with pytest.raises(ShardError, match="in another encoding"):
        asked.check(200, {"Content-Encoding": "gzip"})


@pytest.mark.parametrize(
    ("before", "after", "goes"),
    [("http", "http", True), ("http", "https", True), ("https", "http", False), ("http", "file", False)],
)
def test_law_11_redirects_stay_on_http_and_on_https(before: str, after: str, goes: bool) -> None:  # noqa: FBT001
    asked = Asked("a place", "x", InputError)
    refused = ""
    try:
        asked.follow(before, after)
    except InputError as error:
        refused = str(error)
    assert refused == ("" if goes else f"a place redirects from {before} to {after}, which is not followed")
