"""Fixtures: the double of Azure ML and an HTTPS server of files, one for each test process, clean for each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.azureml_double.seeding import StagedWorkspace
    from tests.azureml_double.stage import Stage
    from tests.support.web import FileServer


@pytest.fixture(scope="session")
def shared_stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The double of this test process; tests ask for `stage`."""
    from tests.azureml_double.stage import running_stage  # only here: it costs every test process half a second

    with running_stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(shared_stage: Stage) -> Iterator[Stage]:
    """The double, without faults, requests and workspaces of other tests. A request that nobody plays fails the test."""
    shared_stage.clear()
    with shared_stage.own_workspaces():
        yield shared_stage
    unknown = shared_stage.log.unknown()
    shared_stage.clear()
    assert not unknown, f"requests that the double does not play: {unknown}"


@pytest.fixture
def azure(stage: Stage) -> StagedWorkspace:
    """A workspace of its own, nothing in it; nothing points to it yet."""
    return stage.workspace()


@pytest.fixture
def azure_environment(azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """The workspace `azure`, with the variables set that let clients in this process and its children reach it."""
    for name, value in azure.environment().items():
        monkeypatch.setenv(name, value)
    return azure


@pytest.fixture(scope="session")
def shared_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FileServer, Path]]:
    """The server of this test process, and the file with its authority; tests ask for `web`."""
    from tests.support.web import serving_files

    bundle = tmp_path_factory.mktemp("web") / "authority.pem"
    with serving_files(bundle) as server:
        yield server, bundle


@pytest.fixture
def web(shared_web: tuple[FileServer, Path], monkeypatch: pytest.MonkeyPatch) -> FileServer:
    """Nothing is served yet."""
    server, bundle = shared_web
    server.clear()
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
    return server
