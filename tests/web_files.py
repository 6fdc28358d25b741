"""The fixture `web`: an HTTPS server of files that himl trusts, here and in programs that are started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.servers.web import FileServer


@pytest.fixture(scope="session")
def shared_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FileServer, Path]]:
    """The server of this test process, and the file with its authority; tests ask for `web`."""
    from tests.servers.web import serving_files

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
