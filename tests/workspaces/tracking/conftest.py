"""Jobs with a tracking server, and the clients that log to them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import clients
from tests.workspaces.tracking.tracked_job import TrackedJob, tracked_job


@pytest.fixture
def job(tmp_path: Path) -> Iterator[TrackedJob]:
    """A running job; its folder's name has what has to be encoded in an artifact URI."""
    with tracked_job(tmp_path / "runs with space #1") as running:
        yield running


@pytest.fixture(scope="session", params=clients.ALL)
def client(request: pytest.FixtureRequest) -> Path:
    """The interpreter of each MLflow client in turn."""
    return clients.client_python(request.param)


@pytest.fixture(scope="session", params=clients.FULL)
def full_client(request: pytest.FixtureRequest) -> Path:
    """The interpreter of each full MLflow, with scikit-learn."""
    return clients.client_python(request.param)


@pytest.fixture(scope="session")
def skinny_client() -> Path:
    return clients.client_python(clients.SKINNY)
