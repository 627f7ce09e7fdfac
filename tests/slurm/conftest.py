"""The cluster of the drill: started once, for all its tests."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import cluster as slurm
import pytest

sys.path.append(str(Path(__file__).parents[1] / "train"))  # `tiny`, the run that takes a second
REQUIRED = "SSL_RETINA_REQUIRE_SLURM"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    """Two nodes that run jobs; the drill is skipped where SLURM is not installed, unless CI forbids it."""
    lacking = slurm.missing()
    reason = f"not installed: {', '.join(lacking)}" if lacking else "only root can" if os.geteuid() else ""
    if reason:
        sentence = (
            f"the SLURM drill cannot run, {reason} (apt-get install slurm-wlm slurmdbd munge mariadb-server)"
        )
        if os.environ.get(REQUIRED):
            pytest.fail(f"{sentence}, and {REQUIRED} is set")
        pytest.skip(sentence)
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    with slurm.running(folder) as started:
        yield started
