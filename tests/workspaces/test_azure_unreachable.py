"""Networks that are in the way: each has its own sentence, and none lasts longer than it must."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.workspaces.azure.config import azure_settings
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.retry import CONTROL_PLANE
from tests.servers.azureml.faults import Stall
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import address_of, connected

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")


@pytest.fixture
def set_proxy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Call it with a proxy's URL."""

    def put(url: str) -> None:
        for name in ("HTTPS_PROXY", "https_proxy"):
            monkeypatch.setenv(name, url)

    return put


def failure(staged: StagedWorkspace, project: Path) -> HimlError:
    """What the first request of a connection says."""
    with connected(staged, project) as connection, pytest.raises(HimlError) as caught:
        connection.record()
    assert "\n" not in str(caught.value)
    return caught.value


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A port that answers each connection with the same bytes."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    client, _ = server.accept()
                except OSError:
                    return
                with client:
                    client.recv(65536)
                    client.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        thread.join(60)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_a_proxy_that_is_not_there_is_named_without_its_password(azure_environment: StagedWorkspace, project: Path, set_proxy: Callable[[str], None]) -> None:
    port = closed_port()
    set_proxy(f"http://ada:s3cr3t@127.0.0.1:{port}")
    error = failure(azure_environment, project)
    assert str(error) == f"The proxy 127.0.0.1:{port} did not connect to login.microsoftonline.com."
    assert isinstance(error, ServiceFailed)
    assert "HTTPS_PROXY" in error.hint
    assert "s3cr3t" not in f"{error} {error.hint}"


def test_a_proxy_that_wants_a_password_is_told_so(azure_environment: StagedWorkspace, project: Path, set_proxy: Callable[[str], None]) -> None:
    with answering(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n") as port:
        set_proxy(f"http://127.0.0.1:{port}")
        error = failure(azure_environment, project)
    assert str(error) == f"The proxy 127.0.0.1:{port} wants a user and a password."


def test_a_proxy_that_does_not_find_the_host_tells_its_answer(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.nowhere.example")
    stage.log.expect_unknown("login.nowhere.example")
    error = failure(azure_environment, project)
    assert str(error) == f"The proxy 127.0.0.1:{stage.port} did not connect to login.nowhere.example (it answered 502)."


def test_a_name_that_is_not_known_is_told_so(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_AUTHORITY_HOST", "login.himl.invalid")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "himl.invalid")
    error = failure(azure_environment, project)
    assert str(error) == "The name login.himl.invalid is not known here (DNS)."
    assert (error.exit_code, "VPN" in error.hint) == (5, True)


def test_untrusted_login_certificate_fails_with_ca_bundle_hint(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    error = failure(azure_environment, project)
    assert str(error).startswith("The certificate of login.microsoftonline.com is not trusted (")
    assert "authorities from certifi" in str(error)
    assert "REQUESTS_CA_BUNDLE" in error.hint


@pytest.mark.parametrize("name", CA_VARIABLES[:3])
def test_each_usual_variable_for_certificates_counts(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in CA_VARIABLES:
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, str(stage.ca_file))
    with connected(azure_environment, project) as connection:
        assert connection.record().location == "eastus"


def test_missing_ca_bundle_error_names_its_variable(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    error = failure(azure_environment, project)
    assert isinstance(error, BadUsage)
    assert str(error) == "REQUESTS_CA_BUNDLE names '/nowhere/ca.pem', which does not exist."


def test_ca_bundle_without_certificates_error_names_variable(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "ca.pem"
    path.write_text("nothing")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(path))
    error = failure(azure_environment, project)
    assert str(error) == "REQUESTS_CA_BUNDLE names a file that holds no certificates."


def test_a_service_that_does_not_answer_is_given_up(azure_environment: StagedWorkspace, stage: Stage, project: Path) -> None:
    stage.faults.add(Stall(120), "metadata")
    policy = replace(CONTROL_PLANE, attempts=1, read_timeout=0.2)
    with (
        Connection.open(address_of(azure_environment), settings=azure_settings(project), policy=policy) as connection,
        pytest.raises(ServiceFailed, match=r"^management\.azure\.com took too long to answer\.$"),
    ):
        connection.clock_skew()
