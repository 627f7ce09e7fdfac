"""Fixtures of all tests: the real photographs where they are, a key of the test's own, one thread."""

import os
import signal
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background: no child would hear Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)

REAL_DATA = Path(os.environ.get("SSL_RETINA_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))

LONGEST = (
    "test_zero.py",
    "test_kill.py",
    "test_path.py",
    "test_offload.py",
    "test_real_path.py",
    "test_adversary_runs.py",
    "test_coupled_laws.py",
    "test_spike_runs.py",
    "test_probe_fits.py",
)
"""Of `make slow`, begun first: processes share files, and a long one that comes last runs alone."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they were collected."""
    places = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONGEST)))


@pytest.fixture
def real_data() -> Path:
    """The folder of real photographs; the test is skipped where it is absent."""
    if not (REAL_DATA / "idrid" / "labels.csv").is_file():
        pytest.skip(f"the real photographs are not in {REAL_DATA} (set SSL_RETINA_REAL_DATA)")
    return REAL_DATA


@pytest.fixture(autouse=True)
def own_key(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the user's own key out of the tests: every test has its own config folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))
    monkeypatch.delenv("SSL_RETINA_KEY_FILE", raising=False)
