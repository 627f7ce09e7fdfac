"""Sets at addresses, from a real server that cuts, corrupts, stalls and stumbles: every byte checked."""

import os
import resource
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import factory
import fsspec
import pytest
import torch
from servers import Fault, Server, served
from yarl import URL

from ssl_retina import config, shards
from ssl_retina.addresses import Address
from ssl_retina.contract import Batch, ViewSpec
from ssl_retina.data import remote
from ssl_retina.data.loader import Source, open_source
from ssl_retina.data.remote import fetch_ahead, sets, web
from ssl_retina.data.remote.cache import GIB, Cache
from ssl_retina.data.remote.fetching import Patience
from ssl_retina.errors import InputError, ShardError
from ssl_retina.http_rules import Asked

SAMPLES = 60
SPEC = ViewSpec("mae", global_views=1, global_size=24)
QUICK = Patience(stall_seconds=0.4, attempts=4, pause_seconds=0.01, longest_pause=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    factory.make_shards(path, samples=SAMPLES, shards=5, size=48)
    return path


@pytest.fixture
def site(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """The set behind an address."""
    monkeypatch.setattr(sets, "PATIENCE", QUICK)
    with served({path.name: path.read_bytes() for path in folder.iterdir()}) as server:
        yield server


def _opened(site: Server, cache: Path, **options: Any) -> shards.Index:
    gib = options.get("gib", 1.0)
    return remote.opened(Address(site.address), cache, gib)


def _source(places: list[Any], cache: Path, *, workers: int = 0, **data: Any) -> Source:
    values = {"held_out": 0.0, "cache": cache, **data}
    given = config.Data(shards=tuple(places), batch_size=8, workers=workers, **values)
    return open_source(given, SPEC, seed=3)


def _batches(source: Source, count: int, **where: int) -> list[Batch]:
    place = {"rank": 0, "world": 1, "micro_batch": 8, **where}
    return list(islice(source.batches(0, **place), count))


def _assert_equal(found: list[Batch], expected: list[Batch]) -> None:
    assert [batch.keys for batch in found] == [batch.keys for batch in expected]
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.global_views, other.global_views)


def _fetched(site: Server) -> dict[str, int]:
    """How often each shard's bytes were asked for; the question for its size is another one."""
    names = [one.path.rsplit("/", 1)[-1] for one in site.asked if one.headers.get("range") != "bytes=0-0"]
    return {name: names.count(name) for name in names if name.endswith(".tar")}


def _read(index: shards.Index, number: int) -> bytes:
    assert index.opener is not None
    descriptor = index.opener(index.shards[number])
    with open(descriptor, "rb") as stream:
        return stream.read()


def _tars(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.glob("*/*.tar"))


def _left(cache: Path) -> list[Path]:
    return [*cache.glob("*/.*.part"), *cache.glob("*/.*.failed")]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_batches_of_an_address_are_those_of_the_folder_and_every_shard_comes_once(
    site: Server, folder: Path, tmp_path: Path, workers: int
) -> None:
    expected = _batches(_source([folder], tmp_path), 16)
    source = _source([site.address], tmp_path / "cache", workers=workers)
    _assert_equal(_batches(source, 16), expected)
    second = _source([site.address], tmp_path / "cache", workers=workers)  # another rank, with its workers
    _assert_equal(_batches(second, 16, rank=1, world=2, micro_batch=4), [_half(batch) for batch in expected])
    assert _fetched(site) == {f"factory-{number:06d}.tar": 1 for number in range(5)}
    assert len(_tars(tmp_path / "cache")) == 5
    assert _left(tmp_path / "cache") == []


def _half(batch: Batch) -> Batch:
    """What the second of two ranks gets of a batch."""
    kept = slice(4, 8)
    return Batch(
        batch.global_views[:, kept],
        None,
        batch.keys[kept],
        batch.position[kept],
        batch.group[kept],
        batch.field_of_view[:, kept],
    )


def test_folders_and_addresses_together(site: Server, folder: Path, tmp_path: Path) -> None:
    factory.make_shards(tmp_path / "own", samples=20, shards=2, size=48, seed=5)
    beside = _batches(_source([folder, tmp_path / "own"], tmp_path), 10)
    found = _batches(_source([site.address, tmp_path / "own"], tmp_path / "cache"), 10)
    _assert_equal(found, beside)


def test_a_cut_answer_is_continued_where_it_ended(
    site: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    site.script[f"/a/{name}"] = [Fault(cut=9000), Fault(cut=9000)]
    assert _read(index, 1) == site.files[f"/a/{name}"]
    asked = [one for one in site.of(name) if one.status]
    assert [one.headers.get("range") for one in asked] == [None, "bytes=9000-", "bytes=18000-"]
    assert f"{name}: the answer was cut; again in" in capfd.readouterr().err


def test_a_server_that_answers_in_pieces(
    site: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    site.most = 4000
    site.script[f"/a/{name}"] = [Fault(cut=4000)]
    assert _read(index, 1) == site.files[f"/a/{name}"]
    assert len(site.of(name)) == -(-index.shards[1].filesize // 4000)
    assert capfd.readouterr().err.count("again in") == 1


def test_a_server_without_ranges_is_asked_from_the_start(site: Server, tmp_path: Path) -> None:
    site.ranges = False
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    site.script[f"/a/{name}"] = [Fault(cut=9000), Fault(cut=3000)]
    assert _read(index, 1) == site.files[f"/a/{name}"]
    assert [one.status for one in site.of(name)] == [200, 200, 200]


@pytest.mark.parametrize("fault", [{"stall": 5000}, {"status": 503, "headers": {"Retry-After": "0"}}])
def test_a_server_that_stalls_or_stumbles_is_asked_again(
    site: Server, tmp_path: Path, fault: dict[str, Any]
) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[2].url
    site.script[f"/a/{name}"] = [Fault(**fault)]
    begin = time.monotonic()
    assert _read(index, 2) == site.files[f"/a/{name}"]
    assert time.monotonic() - begin < 5
    assert len(site.of(name)) == 2


def test_f43_flipped_bytes_on_the_way_are_fetched_anew(
    site: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[0].url
    site.script[f"/a/{name}"] = [Fault(corrupt=700)]
    assert _read(index, 0) == site.files[f"/a/{name}"]
    assert "its bytes are not those that the index promises (SHA-256)" in capfd.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_f43_a_shard_of_other_bytes_is_named_and_never_gets_its_name(
    site: Server, tmp_path: Path, workers: int
) -> None:
    source = _source([site.address], tmp_path, workers=workers)
    name = "factory-000003.tar"
    site.always[f"/a/{name}"] = Fault(corrupt=700)
    if workers == 0:
        site.script[f"/a/{name}"] = [Fault(corrupt=700, cut=9000)] * 50  # there is always something new
        site.script[f"/a/{name}"][1::2] = [Fault(corrupt=9000)] * 25
    with pytest.raises(ShardError, match=rf"{name} did not come from {site.address} .*SHA-256.*4 attempts"):
        _batches(source, 16)
    assert name not in _tars(tmp_path)
    assert source.indexes[0].opener is not None


def test_f42_a_shard_that_is_cut_at_the_server_stops_after_few_attempts(site: Server, tmp_path: Path) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    site.files[f"/a/{name}"] = site.files[f"/a/{name}"][:9000]
    with pytest.raises(ShardError, match=f"{name} did not come .*9000 bytes, the index promises"):
        _read(index, 1)
    assert sum(one.sent for one in site.of(name)) < 9001 * QUICK.attempts
    assert _tars(tmp_path) == []


def test_more_bytes_than_promised_are_not_taken(site: Server, tmp_path: Path) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    site.files[f"/a/{name}"] += b"x" * (1 << 22)
    site.always[f"/a/{name}"] = Fault(chunked=True)  # says no length
    with pytest.raises(ShardError, match="it has more than"):
        _read(index, 1)
    assert _left(tmp_path) == [tmp_path / index.opener.folder.name / f".{name}.failed"]  # type: ignore[union-attr]


def test_f44_a_missing_shard_is_said_at_once(site: Server, tmp_path: Path) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[1].url
    del site.files[f"/a/{name}"]
    with pytest.raises(ShardError, match=f"{name} is missing at {site.address}"):
        _read(index, 1)
    assert len(site.of(name)) == 1


def test_f44_verify_names_every_difference_at_once(site: Server, tmp_path: Path) -> None:
    source = _source([site.address], tmp_path)
    source.verify(hashes=True)
    site.files["/a/factory-000000.tar"] = b""
    site.files["/a/factory-000001.tar"] += b"x"
    del site.files["/a/factory-000002.tar"]
    site.files["/a/"] = b'<a href="factory-000001.tar">1</a> <a href="other-000000.tar">2</a>'
    site.script["/a/factory-000004.tar"] = [Fault(status=503)]
    with pytest.raises(ShardError) as caught:
        source.verify(hashes=False)
    message = str(caught.value)
    assert message.startswith("4 differences")
    assert f"{site.address}: factory-000000.tar has 0 bytes" in message
    assert "factory-000001.tar has" in message
    assert "factory-000002.tar: factory-000002.tar is missing" in message
    assert "other-000000.tar is not in index.json" in message
    assert _tars(tmp_path) == []


def test_verify_asks_all_sizes_concurrently(site: Server, tmp_path: Path) -> None:
    source = _source([site.address], tmp_path)
    for number in range(5):
        site.always[f"/a/factory-{number:06d}.tar"] = Fault(before=lambda: time.sleep(0.2))
    source.verify(hashes=False)
    assert site.busiest == 5


def test_a_set_that_is_indexed_anew_at_its_address_stops_the_stream(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = _source([site.address], tmp_path / "cache")
    factory.make_shards(tmp_path / "new", samples=SAMPLES, shards=5, size=48, seed=1)
    site.files = {f"/a/{path.name}": path.read_bytes() for path in (tmp_path / "new").iterdir()}
    with pytest.raises(ShardError, match=f"{site.address} was indexed anew since the run started"):
        _batches(source, 8)


def test_a_set_whose_shards_all_lie_in_the_cache_is_looked_at_now_and_then(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch_ahead, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(fetch_ahead, "IDLE_SECONDS", 0.05)
    source = _source([site.address], tmp_path)
    stream = source.batches(0, rank=0, world=1, micro_batch=8)
    for _ in range(8):
        next(stream)
    site.files["/a/index.json"] += b"\n"
    with pytest.raises(ShardError, match="indexed anew"):
        for _ in range(200):
            time.sleep(0.05)
            next(stream)


def test_older_versions_of_a_set_leave_the_cache_unless_they_are_in_use(site: Server, tmp_path: Path) -> None:
    first = _opened(site, tmp_path)
    _read(first, 0)
    site.files["/a/index.json"] += b"\n"
    second = _opened(site, tmp_path)
    assert first.folder.is_dir()
    assert second.folder != first.folder
    assert isinstance(first.opener, remote.RemoteSet)
    assert first.opener._in_use is not None
    os.close(first.opener._in_use)
    _opened(site, tmp_path)
    assert not first.folder.exists()
    assert second.folder.is_dir()


def test_the_least_recently_used_shard_is_evicted_and_stays_readable(site: Server, tmp_path: Path) -> None:
    size = max(len(content) for name, content in site.files.items() if name.endswith(".tar"))
    index = _opened(site, tmp_path, gib=2.5 * size / GIB)
    assert index.opener is not None
    held = index.opener(index.shards[0])
    for number in (1, 0, 2):
        _read(index, number)
        time.sleep(0.02)
    assert _tars(tmp_path) == [index.shards[0].url, index.shards[2].url]  # 0 was used after 1
    for number in (3, 4):
        _read(index, number)
    assert _tars(tmp_path) == [index.shards[3].url, index.shards[4].url]
    with open(held, "rb") as stream:
        assert stream.read() == site.files[f"/a/{index.shards[0].url}"]


def test_a_reader_gives_back_the_room_of_evicted_shards(site: Server, tmp_path: Path) -> None:
    size = max(len(content) for name, content in site.files.items() if name.endswith(".tar"))
    index = _opened(site, tmp_path, gib=1.5 * size / GIB)
    reader = shards.Reader(index)
    for number in range(SAMPLES):
        assert reader.sample(number).key == factory.key(number)
        assert len(reader._files) <= 2
    reader.close()
    assert len(_fetched(site)) == 5


def test_a_cache_that_cannot_hold_what_is_read_at_once_is_refused(site: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        _source([site.address], tmp_path, cache_gib=1e-4)
    assert "data.cache_gib (0.0001) is smaller than" in str(caught.value)
    assert "MiB" in str(caught.value)
    index = _opened(site, tmp_path, gib=1e-6)
    with pytest.raises(ShardError, match="too small for factory-000000.tar"):
        _read(index, 0)
    chosen = torch.arange(SAMPLES).numpy().astype("uint32")
    larger = _opened(site, tmp_path, gib=1e-4)
    with pytest.raises(InputError, match="1 shards are read at a time"):
        remote.require_room([larger], [chosen], window=1)


def test_a_disk_without_room_is_a_sentence(site: Server, tmp_path: Path) -> None:
    index = _opened(site, tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(ShardError, match="no room for factory-000000.tar .*lower data.cache_gib"):
            _read(index, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert _tars(tmp_path) == []
    assert _read(index, 0) == site.files["/a/factory-000000.tar"]


FETCHER = textwrap.dedent("""
    import sys
    from pathlib import Path
    from ssl_retina.addresses import Address
    from ssl_retina.data import remote
    index = remote.opened(Address(sys.argv[1]), Path(sys.argv[2]), 1.0)
    print("open", flush=True)
    for shard in index.shards:
        index.opener(shard)
    print("done", flush=True)
""")


def _process(site: Server, cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", FETCHER, site.address, str(cache)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_fetch_every_shard_once(site: Server, tmp_path: Path) -> None:
    for number in range(5):
        site.always[f"/a/factory-{number:06d}.tar"] = Fault(before=lambda: time.sleep(0.1))
    both = [_process(site, tmp_path) for _ in range(2)]
    assert [process.communicate(timeout=60)[0] for process in both] == ["open\ndone\n"] * 2
    assert set(_fetched(site).values()) == {1}
    assert len(site.of("positions.npy")) == 1
    assert len(_tars(tmp_path)) == 5


def test_killed_in_the_middle_of_a_fetch(site: Server, tmp_path: Path) -> None:
    """The part is nobody's at once, whoever waits goes on, and the next start leaves no rest."""
    name = "factory-000000.tar"
    site.script[f"/a/{name}"] = [Fault(stall=9000)]
    process = _process(site, tmp_path)
    deadline = time.monotonic() + 60
    while not (site.of(name) and site.of(name)[-1].sent) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert [path.name for path in _left(tmp_path)] == [f".{name}.part"]
    Cache(tmp_path, GIB).claim()
    assert _left(tmp_path) == []
    assert _tars(tmp_path) == []
    assert _read(_opened(site, tmp_path), 0) == site.files[f"/a/{name}"]


def test_who_waited_for_a_fetch_in_vain_does_not_try_as_long_again(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _opened(site, tmp_path)
    name = index.shards[0].url
    site.always[f"/a/{name}"] = Fault(before=lambda: time.sleep(0.1), status=503)
    problems: list[str] = []

    def read() -> None:
        with pytest.raises(ShardError) as caught:
            _read(index, 0)
        problems.append(str(caught.value))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(site.of(name)) == QUICK.attempts
    assert len(set(problems)) == 1


def test_ahead_fetches_what_comes_within_the_bound(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch is read, and all shards come; where the cache holds two, the two that are needed first."""
    monkeypatch.setattr(fetch_ahead, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(fetch_ahead, "IDLE_SECONDS", 0.02)
    site.always["/a/factory-000001.tar"] = Fault(status=503)
    source = _source([site.address], tmp_path / "all")
    needs = source.stream.order.shards
    with remote.ahead(needs, source.indexes, start=0, epoch=SAMPLES) as moved:
        _until(lambda: len(_tars(tmp_path / "all")) == 4)
        del site.always["/a/factory-000001.tar"]
        _until(lambda: len(_tars(tmp_path / "all")) == 5)
        moved(8)
    size = max(len(content) for name, content in site.files.items() if name.endswith(".tar"))
    index = _opened(site, tmp_path / "two", gib=2.2 * size / GIB)
    first = [shard for _, shard in needs(16, 16 + SAMPLES)]
    assert sorted(first) == [0, 1, 2, 3, 4]
    assert needs(16, 17) == ((0, first[0]),)
    with remote.ahead(needs, [index], start=16, epoch=SAMPLES):
        _until(lambda: len(_tars(tmp_path / "two")) == 2)
        time.sleep(0.3)
    assert _tars(tmp_path / "two") == sorted(index.shards[shard].url for shard in first[:2])
    assert max(count for name, count in _fetched(site).items() if name != "factory-000001.tar") == 2


def test_ahead_goes_on_as_the_run_does(site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred positions a shard, and a cache of two: always the one that is read and the next."""
    monkeypatch.setattr(fetch_ahead, "IDLE_SECONDS", 0.02)
    size = max(len(content) for name, content in site.files.items() if name.endswith(".tar"))
    index = _opened(site, tmp_path, gib=2.2 * size / GIB)

    def needs(start: int, stop: int) -> list[tuple[int, int]]:
        return [(0, number % 5) for number in range(start // 100, (stop - 1) // 100 + 1)]

    with remote.ahead(needs, [index], start=0, epoch=500) as moved:
        for position in (0, 100, 200, 300, 400, 500):
            moved(position)
            both = sorted(index.shards[number % 5].url for number in (position // 100, position // 100 + 1))
            _until(lambda both=both: _tars(tmp_path) == both)
    assert set(_fetched(site).values()) <= {1, 2}


def _until(holds: Any) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_redirects_stay_on_http_and_take_no_password_to_another_host(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = {"headers": {"X-Token": "sesame"}, "client_kwargs": {"headers": {"X-Key": "sesame"}}}
    monkeypatch.setitem(fsspec.config.conf, "http", mine)
    index = _opened(site, tmp_path)
    name = index.shards[0].url
    for scheme in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        site.script[f"/a/{name}"] = [Fault(status=302, headers={"Location": scheme})]
        with pytest.raises(ShardError, match="which is not followed"):
            _read(index, 0)
    with served({"other.tar": site.files[f"/a/{name}"]}) as other:
        address = Address(site.address.replace("://", "://ann:opensesame@"))
        known = remote.opened(address, tmp_path / "second", 1.0)
        away = other.address.replace("127.0.0.1", "localhost") + "/other.tar"
        site.script[f"/a/{name}"] = [Fault(status=302, headers={"Location": away})]
        assert _read(known, 0) == site.files[f"/a/{name}"]
        personal = {"authorization", "x-token", "x-key"}
        assert personal & set(other.asked[0].headers) == set()
        assert personal & set(site.of(name)[-1].headers) >= {"authorization", "x-token"}
    asked = Asked("https://host/a", "x.tar", ShardError)
    with pytest.raises(ShardError, match="from https to http"):
        web._onward(asked, URL("https://host/a/x.tar"), "http://host/a/x.tar")


def test_a_whole_redirect_to_the_same_host_keeps_user_and_password(site: Server, tmp_path: Path) -> None:
    address = Address(site.address.replace("://", "://ann:open%40sesame@"))
    known = remote.opened(address, tmp_path, 1.0)
    name = known.shards[0].url
    site.files["/b/moved.tar"] = site.files[f"/a/{name}"]
    moved = site.address.removesuffix("/a") + "/b/moved.tar"
    site.script[f"/a/{name}"] = [Fault(status=302, headers={"Location": moved})]
    assert _read(known, 0) == site.files["/b/moved.tar"]
    (asked,) = site.of("moved.tar")
    assert asked.headers["authorization"] == site.of(name)[-1].headers["authorization"]


def test_secrets_of_an_address_are_in_no_text(
    site: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    address = site.address.replace("://", "://ann:opensesame@") + "?token=hushhush"
    source = _source([address], tmp_path / "cache")
    texts = ["\n".join(source.notes)]
    site.always["/a/factory-000001.tar"] = Fault(status=403)
    site.always["/a/factory-000002.tar"] = Fault(cut=10)
    for act in (lambda: source.verify(hashes=False), lambda: _batches(source, 20)):
        with pytest.raises(ShardError) as caught:
            act()
        texts.append(str(caught.value) + repr(caught.value))
    given = config.Data(shards=(address,), batch_size=8)  # type: ignore[arg-type]
    texts += [str(given), repr(given), given.model_dump_json(), capfd.readouterr().err]
    texts += [path.name for path in (tmp_path / "cache").rglob("*")]
    assert [text for text in texts for word in ("ann:", "sesame", "hush") if word in text] == []
    assert all("token=hushhush" in one.path for one in site.asked)


def test_the_cache_is_private(site: Server, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        _read(_opened(site, tmp_path / "cache"), 0)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "url",
    ["pipe:touch x.tar", "http://127.0.0.1/x.tar", "file:///etc/passwd.tar", "../x.tar", "s3://b/x.tar"],
)
def test_f53_an_index_at_an_address_may_name_plain_files_only(site: Server, tmp_path: Path, url: str) -> None:
    content = site.files["/a/index.json"].replace(b"factory-000002.tar", url.encode())
    site.files["/a/index.json"] = content
    with pytest.raises(ShardError, match="only plain names of tar files beside it are read") as caught:
        _opened(site, tmp_path)
    assert f"{site.address}/index.json names a shard" in str(caught.value)
    assert [one.path for one in site.asked] == ["/a/index.json"]


def test_f44_a_table_of_another_set_is_not_taken(site: Server, tmp_path: Path) -> None:
    site.files["/a/positions.npy"] = site.files["/a/positions.npy"][:-1] + b"!"
    with pytest.raises(ShardError, match=r"positions\.npy did not come .*SHA-256"):
        _opened(site, tmp_path)


def test_no_set_at_an_address(site: Server, tmp_path: Path) -> None:
    site.files["/a/index.json"] = b"<html>not found</html>"
    with pytest.raises(ShardError, match=f"{site.address}/index.json is not an index of ours"):
        _opened(site, tmp_path)
    del site.files["/a/index.json"]
    with pytest.raises(ShardError, match=f"index.json is missing at {site.address}"):
        _opened(site, tmp_path)
    with pytest.raises(ShardError, match="no connection"):
        remote.opened(Address("http://127.0.0.1:9/a"), tmp_path, 1.0)
