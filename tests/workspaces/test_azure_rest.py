"""Requests to the services: what is tried again, what is said of each refusal, and where no token goes."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from himl_cli.core.errors import NotAllowed, ServiceFailed, WorkspaceNotFound
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from tests.servers.azureml.faults import Page, Reset, Status, Truncate, WrongDate
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected

API = {"api-version": "2024-10-01"}
RUN = r"/runs/run_1"


@pytest.fixture
def connection(azure_environment: StagedWorkspace, project: Path) -> Iterator[Connection]:
    azure_environment.add_run("run_1", "exp")
    with connected(azure_environment, project) as connection:
        connection.record()
        yield connection


def get_run(connection: Connection, run: str = "run_1") -> str:
    return str(connection.rest.get(connection.service("history", f"/runs/{run}"))["runId"])


def asked(stage: Stage) -> int:
    return len(stage.log.find(RUN))


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(connection: Connection, stage: Stage, status: int) -> None:
    stage.faults.add(Status(status, retry_after=0), RUN)
    stage.faults.add(Status(status), RUN, skip=1)
    assert get_run(connection) == "run_1"
    assert asked(stage) == 3


@pytest.mark.parametrize("fault", [Reset(), Reset(after=20), Truncate(after=20)], ids=["reset", "reset within", "truncated"])
def test_a_broken_answer_is_asked_for_again(connection: Connection, stage: Stage, fault: Reset | Truncate) -> None:
    stage.faults.add(fault, RUN)
    assert get_run(connection) == "run_1"
    assert asked(stage) == 2


def test_a_failure_that_stays_ends_after_five_tries(connection: Connection, stage: Stage) -> None:
    stage.faults.add(Status(503, retry_after=0, code="ServerBusy", message="The server is busy.", headers=(("x-ms-request-id", "abc-1"),)), RUN, times=None)
    with pytest.raises(
        ServiceRefused, match=r"eastus\.api\.azureml\.ms failed at GET /history/v1\.0/…/runs/run_1: 503 \(ServerBusy: The server is busy\)"
    ) as caught:
        get_run(connection)
    assert (asked(stage), caught.value.status, caught.value.exit_code) == (5, 503, 5)
    assert "abc-1" in caught.value.hint


def test_the_id_for_the_support_is_read_from_the_body_too(connection: Connection, stage: Stage) -> None:
    """The Azure ML services tell it nowhere else."""
    stage.faults.add(Status(500, code="ServiceError"), RUN, times=None)
    with pytest.raises(ServiceRefused) as caught:
        get_run(connection)
    assert re.search(r"give the request id [0-9a-f]{16} to the service's support", caught.value.hint)


def test_retry_after_is_waited_for_and_said(connection: Connection, stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    stage.faults.add(Status(429, retry_after=2), RUN)
    began = time.monotonic()
    get_run(connection)
    assert time.monotonic() - began >= 2
    (said,) = [record for record in caplog.records if "trying again" in record.getMessage()]
    assert (said.getMessage(), said.levelname) == ("eastus.api.azureml.ms is busy (429); trying again in 2 s", "WARNING")
    assert said.name.startswith("himl_cli.")


@pytest.mark.parametrize("asked_for", [3600, "Fri, 31 Dec 2099 23:59:59 GMT"])
def test_a_wait_that_is_too_long_is_told_and_not_cut_short(connection: Connection, stage: Stage, asked_for: float | str) -> None:
    stage.faults.add(Status(429, retry_after=asked_for), RUN, times=None)
    with pytest.raises(ServiceRefused, match="takes no more requests for now and asks to wait") as caught:
        get_run(connection)
    assert str(asked_for).partition(".")[0] in str(caught.value)
    assert asked(stage) == 1


def test_what_is_missing_is_not_found_with_the_services_code(connection: Connection) -> None:
    with pytest.raises(ServiceNotFound, match=r"has no /history/v1\.0/…/runs/nothing_here \(NotFoundError") as caught:
        get_run(connection, "nothing_here")
    assert caught.value.exit_code == 3


def test_a_refusal_keeps_its_status_and_code(connection: Connection, stage: Stage) -> None:
    stage.faults.add(Status(400, code="BadArgument", message="The filter is wrong.\nSee the manual."), RUN)
    with pytest.raises(ServiceRefused, match=r"refused GET .*: 400 \(BadArgument: The filter is wrong\)\.") as caught:
        get_run(connection)
    assert (caught.value.status, asked(stage)) == (400, 1)


@pytest.mark.parametrize(
    ("other", "complaint", "hint"),
    [
        (
            {"subscription_id": "99999999-1111-2222-3333-444444444444"},
            r"sees no subscription '99999999-1111-2222-3333-444444444444' \(a test\)",
            "az account list",
        ),
        ({"resource_group": "nobodys"}, r"no resource group 'nobodys' in subscription '[\w-]+' \(a test\)", "az group list"),
        ({"name": "nothing"}, r"no workspace 'nothing' in resource group '[\w-]+' \(a test\)", "az ml workspace list"),
    ],
    ids=["subscription", "group", "workspace"],
)
def test_each_wrong_part_of_the_address_has_its_own_sentence(
    azure_environment: StagedWorkspace, project: Path, other: dict[str, str], complaint: str, hint: str
) -> None:
    with connected(azure_environment, project, **other) as connection, pytest.raises(WorkspaceNotFound, match=complaint) as caught:
        connection.record()
    assert hint in caught.value.hint
    assert caught.value.exit_code == 3


def test_missing_role_error_names_the_required_action(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azure_environment.environment(azure_environment.add_principal({Right.STORAGE_READ})).items():
        monkeypatch.setenv(name, value)
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert str(caught.value).startswith("Service principal ")
    assert str(caught.value).endswith(" lacks a role that allows 'Microsoft.MachineLearningServices/workspaces/read'.")
    assert "AzureML Data Scientist" in caught.value.hint


@pytest.mark.parametrize(
    "fault",
    [
        Status(403, code="PublicNetworkAccessDisabled", message="x"),
        Status(403, code="UserError", message="Public access is not enabled for workspace lab. Use a private endpoint."),
        Status(403, code="AccessDeniedByNetwork", message="x"),
    ],
    ids=lambda fault: fault.code,
)
def test_a_firewall_is_told_as_one(connection: Connection, stage: Stage, fault: Status) -> None:
    stage.faults.add(fault, RUN)
    with pytest.raises(NotAllowed, match=r"The firewall of workspace .* lets nobody in from this network") as caught:
        get_run(connection)
    assert "VPN" in caught.value.hint


def test_refused_sign_in_with_clock_skew_reports_the_skew(connection: Connection, azure: StagedWorkspace, stage: Stage) -> None:
    azure.state.principal.revoked_before = time.time() + 1e6
    stage.faults.add(WrongDate(7200), RUN, times=None)
    with pytest.raises(NotAllowed, match=r"This machine's clock is 2 hours behind the service's\.") as caught:
        get_run(connection)
    assert "clock" in caught.value.hint
    assert asked(stage) == 2


def test_the_clock_is_compared_with_the_services(connection: Connection, stage: Stage) -> None:
    near = connection.clock_skew()
    assert near is not None
    assert abs(near) < 60
    stage.faults.add(WrongDate(-600), "metadata")
    far = connection.clock_skew()
    assert far is not None
    assert 540 < far < 660


@pytest.mark.parametrize("text", ["[]", '""', "null", "3"])
def test_an_answer_of_another_form_is_a_failure(connection: Connection, stage: Stage, text: str) -> None:
    stage.faults.add(Page(text, content_type="application/json"), RUN)
    with pytest.raises(ServiceFailed, match=r"eastus\.api\.azureml\.ms answered with something unexpected: it holds no run\."):
        connection.rest.get_object(connection.service("history", "/runs/run_1"), "run")


def test_no_answer_shows_its_body(connection: Connection) -> None:
    assert "runId" not in repr(connection.rest.send("GET", connection.service("history", "/runs/run_1")))


def test_a_page_in_place_of_json_is_a_failure(connection: Connection, stage: Stage) -> None:
    stage.faults.add(Page("<html>Please sign in to this network.</html>"), RUN)
    with pytest.raises(ServiceFailed, match=r"eastus\.api\.azureml\.ms answered with text/html that is no JSON") as caught:
        get_run(connection)
    assert "proxy" in caught.value.hint


def test_a_redirect_is_not_followed(connection: Connection, stage: Stage) -> None:
    stage.faults.add(Status(302, headers=(("Location", "https://login.example.org/page?a=b"),)), RUN)
    with pytest.raises(ServiceFailed, match=r"sends us to login\.example\.org"):
        get_run(connection)
    assert {seen.host for seen in stage.log.find("GET")} <= {"eastus.api.azureml.ms", "management.azure.com", "login.microsoftonline.com"}


@pytest.mark.parametrize(
    "url", ["https://example.org/x", "https://evil-management.azure.com.example.org/", "http://management.azure.com/x", "https://xapi.azureml.ms/"]
)
def test_a_token_goes_to_the_services_only(connection: Connection, stage: Stage, url: str) -> None:
    stage.log.clear()
    with pytest.raises(ServiceFailed, match="himl sends"):
        connection.rest.get(url)
    assert not stage.log.all()


def test_a_netrc_entry_does_not_replace_the_token(connection: Connection, tmp_path: Path) -> None:
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine eastus.api.azureml.ms login ada password x\n")
    netrc.chmod(0o600)
    assert get_run(connection) == "run_1"


def test_requests_say_who_asks(connection: Connection, stage: Stage) -> None:
    get_run(connection)
    [seen] = stage.log.find(RUN)
    assert seen.headers["user-agent"].startswith("himl/")
    assert seen.headers["x-ms-client-request-id"]
    assert "gzip" in seen.headers["accept-encoding"]


def test_parameters_are_quoted(connection: Connection, stage: Stage) -> None:
    connection.rest.get(connection.service("history", "/runs/run_1"), params={"$filter": "a eq 'b&c=d'", "x": "ü /"})
    [seen] = stage.log.find(RUN)
    assert seen.query == "%24filter=a%20eq%20%27b%26c%3Dd%27&x=%C3%BC%20%2F"


AT_ONCE = """
import sys, threading
from himl_cli.workspaces.azure.http import load_azure_core
sys.setswitchinterval(1e-6)
failures, barrier = [], threading.Barrier(3)
def run(name):
    barrier.wait()
    try:
        load_azure_core()
        __import__(name)
    except (ImportError, RuntimeError) as err:
        failures.append(repr(err))
names = ("azure.core.rest", "azure.identity", "azure.core.pipeline.transport._requests_basic")
threads = [threading.Thread(target=run, args=(name,)) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
sys.exit("; ".join(failures) or 0)
"""


@pytest.mark.parametrize("turn", range(4))  # without the lock, about half fail
def test_threads_import_azure_core_at_once(turn: int) -> None:
    ended = subprocess.run([sys.executable, "-c", AT_ONCE], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
