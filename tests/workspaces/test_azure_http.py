"""Tests of requests to the services: retries, messages of refusals and malformed answers, and where himl sends no
token.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from email.utils import formatdate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pycurl
import pytest

from himl_cli.core.errors import HimlError, NotAllowed, NotAllowedNow, ServiceFailed, WorkspaceNotFound
from himl_cli.core.events import Event, Notice
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.runs import RunQuery
from himl_cli.services.runs.follow import OutageTolerance
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.credentials import Token
from himl_cli.workspaces.azure.responses import Response, as_time
from himl_cli.workspaces.azure.run_metrics import as_number, as_step
from himl_cli.workspaces.azure.service_errors import AADSTS, ServiceNotFound, ServiceRefused, reason_of, refusal
from himl_cli.workspaces.azure.storage.blob_responses import properties_of
from himl_cli.workspaces.azure.storage.container import listed_level, listed_page
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.transfer_engine.curl import CurlResponse
from himl_cli.workspaces.transfer_engine.headers import http_time, md5_from, retry_after, size_from
from tests.azureml_double.faults import Action, Page, Reset, Stall, Status, Truncate, WrongDate
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right
from tests.support.azure import HASTY, connected, opened, set_all
from tests.support.hostile_texts import NASTY, naming
from tests.support.running import until

RUN = r"/runs/run_1"


@pytest.fixture
def connection(azure_environment: StagedWorkspace, project: Path) -> Iterator[Connection]:
    azure_environment.add_run("run_1", "exp")
    with connected(azure_environment, project) as connection:
        connection.record()
        yield connection


def get_run(connection: Connection, run: str = "run_1") -> str:
    return str(connection.get(connection.service("history", f"/runs/{run}")).body["runId"])


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_passing_failure_is_tried_again(connection: Connection, stage: Stage) -> None:
    statuses = [Status(status, retry_after=0) for status in (408, 429, 500, 502, 504)]
    faults: list[Action] = [*statuses, Status(503), Reset(), Reset(after=20), Truncate(after=20)]
    for fault in faults:
        stage.log.clear()
        stage.faults.add(fault, RUN)
        assert get_run(connection) == "run_1"
        assert len(stage.log.find(RUN)) == 2


def test_a_failure_that_stays_ends_after_five_tries(connection: Connection, stage: Stage) -> None:
    stage.faults.add(
        Status(
            503,
            retry_after=0,
            code="ServerBusy",
            message="The server is busy.",
            headers=(("x-ms-request-id", "abc-1"),),
        ),
        RUN,
        times=None,
    )
    with pytest.raises(
        ServiceRefused,
        match=r"eastus\.api\.azureml\.ms failed at GET /history/v1\.0/…/runs/run_1: 503 \(ServerBusy: The server "
        r"is busy\)",
    ) as caught:
        get_run(connection)
    assert (len(stage.log.find(RUN)), caught.value.status, caught.value.exit_code) == (5, 503, 5)
    assert "abc-1" in caught.value.hint
    stage.faults.clear()
    with pytest.raises(ServiceNotFound, match=r"has no /history/v1\.0/…/runs/nothing_here \(NotFoundError") as missing:
        get_run(connection, "nothing_here")
    assert missing.value.exit_code == 3


def answers(connection: Connection) -> bool:
    with suppress(ServiceFailed):
        return get_run(connection) == "run_1"
    return False


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_host_that_hangs_is_soon_given_up(azure_environment: StagedWorkspace, project: Path) -> None:
    stage, policy = azure_environment.stage, replace(HASTY, read_timeout=0.5)
    azure_environment.add_run("run_1", "exp")
    with opened(azure_environment, project, policy) as workspace:
        for _ in range(2):
            stage.faults.add(Stall(60.0), RUN, times=None)
            requests = []
            for _ in range(2):
                stage.log.clear()
                with pytest.raises(ServiceFailed):
                    get_run(workspace.connection)
                requests.append(len(stage.log.find(RUN)))
            assert requests[0] > 1 == requests[1]
            stage.faults.clear()
            until(lambda: answers(workspace.connection))  # on a slow machine not at once


@pytest.mark.large("takes long, and other tests run its branches")
def test_retry_after_is_waited_for_and_said(
    connection: Connection, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.faults.add(Status(429, retry_after=2), RUN)
    began = time.monotonic()
    get_run(connection)
    assert time.monotonic() - began >= 2
    (said,) = [record for record in caplog.records if "retrying" in record.getMessage()]
    assert (said.getMessage(), said.levelname) == ("eastus.api.azureml.ms is busy (429); retrying in 2 s", "WARNING")
    assert said.name.startswith("himl_cli.")


def test_a_wait_that_is_too_long_is_told_and_not_cut_short(connection: Connection, stage: Stage) -> None:
    for asked_for in (3600, "Fri, 31 Dec 2099 23:59:59 GMT"):
        stage.log.clear()
        stage.faults.only(Status(429, retry_after=asked_for), RUN, times=None)
        with pytest.raises(ServiceRefused, match=f"accepts no more requests (for {asked_for} s|until {asked_for})"):
            get_run(connection)
        assert len(stage.log.find(RUN)) == 1


def test_missing_role_error_names_the_required_action(
    azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, azure_environment.environment(azure_environment.add_principal({Right.STORAGE_READ})))
    with connected(azure_environment, project) as connection, pytest.raises(NotAllowed) as caught:
        connection.record()
    assert str(caught.value).startswith("Service principal ")
    assert str(caught.value).endswith(" lacks a role that allows 'Microsoft.MachineLearningServices/workspaces/read'.")
    assert "AzureML Data Scientist" in caught.value.hint


def test_refused_sign_in_with_clock_skew_reports_the_skew(
    connection: Connection, azure: StagedWorkspace, stage: Stage
) -> None:
    azure.state.principal.revoked_before = time.time() + 1e6
    stage.faults.add(WrongDate(7200), RUN, times=None)
    with pytest.raises(NotAllowed, match=r"This machine's clock is 2 hours behind the service's\.") as caught:
        get_run(connection)
    assert "clock" in caught.value.hint
    assert len(stage.log.find(RUN)) == 2


def test_a_redirect_or_page_in_place_of_json_is_a_failure(connection: Connection, stage: Stage) -> None:
    stage.faults.add(Page("<html>Please sign in to this network.</html>"), RUN)
    with pytest.raises(
        ServiceFailed, match=r"eastus\.api\.azureml\.ms answered with text/html that is not JSON"
    ) as caught:
        get_run(connection)
    assert "proxy" in caught.value.hint
    stage.faults.add(Status(302, headers=(("Location", "https://login.example.org/page?a=b"),)), RUN)
    with pytest.raises(ServiceFailed, match=r"redirects to login\.example\.org"):
        get_run(connection)
    assert {seen.host for seen in stage.log.find("GET")} <= {
        "eastus.api.azureml.ms",
        "management.azure.com",
        "login.microsoftonline.com",
    }


def test_a_token_goes_to_the_services_only(connection: Connection, stage: Stage) -> None:
    stage.log.clear()
    for url in (
        "https://example.org/x",
        "https://evil-management.azure.com.example.org/",
        "http://management.azure.com/x",
        "https://xapi.azureml.ms/",
    ):
        with pytest.raises(ServiceFailed, match="himl sends"):
            connection.get(url)
    for url in ("https://[::1", "http://eastus.api.azureml.ms/x", "eastus.api.azureml.ms"):
        with pytest.raises(ServiceFailed, match=r"sends no credentials to '.*' without TLS"):
            connection.get(url)
    assert not stage.log.all()


def test_requests_are_quoted_and_say_who_asks(connection: Connection, stage: Stage, tmp_path: Path) -> None:
    url = connection.service("history", "/runs/run_1")
    assert "runId" not in repr(connection.request("GET", url, params={"$filter": "a eq 'b&c=d'", "x": "ü /"}))
    [seen] = stage.log.find(RUN)
    assert seen.headers["user-agent"].startswith("himl/")
    assert seen.headers["x-ms-client-request-id"]
    assert "gzip" in seen.headers["accept-encoding"]
    assert seen.query == "%24filter=a%20eq%20%27b%26c%3Dd%27&x=%C3%BC%20%2F"
    netrc = tmp_path / "home" / ".netrc"
    netrc.write_text("machine eastus.api.azureml.ms login ada password x\n")
    netrc.chmod(0o600)
    assert get_run(connection) == "run_1"


AT_ONCE = """
import sys, threading
from concurrent.futures import ThreadPoolExecutor
from himl_cli.workspaces.azure.http import load_azure_core
sys.setswitchinterval(1e-6)
barrier = threading.Barrier(3)
def run(name):
    barrier.wait()
    load_azure_core()
    __import__(name)
with ThreadPoolExecutor(3) as pool:
    list(pool.map(run, ("azure.core.rest", "azure.identity", "azure.core.pipeline.transport._requests_basic")))
"""


# Importing parts of azure.core in several threads fails unless load_azure_core comes first.
@pytest.mark.large("takes long, and other tests run its branches")
def test_threads_import_azure_core_at_once() -> None:
    subprocess.run([sys.executable, "-c", AT_ONCE], check=True)


def test_outage_is_told_once_and_fails_after_its_time() -> None:
    told: list[Event] = []
    clock = SimpleNamespace(now=0.0)
    outage = OutageTolerance(told.append, seconds=600, clock=lambda: clock.now)
    outage.succeeded()
    for clock.now in (0, 600):
        outage.failed(ServiceFailed("Away."))
    outage.succeeded()
    for clock.now in (900, 1500):
        outage.failed(ServiceFailed("Away again."))
    assert told == [
        Notice("Away. himl keeps trying. The run continues."),
        Notice("The service responds again."),
        Notice("Away again. himl keeps trying. The run continues."),
    ]
    clock.now = 1501
    with pytest.raises(ServiceFailed, match=r"Away again\."):
        outage.failed(ServiceFailed("Away again."))


ADDRESS = WorkspaceAddress("s", "team", "lab", PUBLIC, "a test")
DATA_PLANE = {
    "error": {
        "code": "UserError",
        "message": "Gone.",
        "innerError": {"code": "NotFound", "innerError": {"code": "RunNotFound"}},
    }
}
ARM = {
    "error": {
        "code": "UserError",
        "message": "Gone.",
        "additionalInfo": [
            {"type": "ComponentName", "info": {"value": "x"}},
            {"type": "InnerError", "info": {"value": {"code": "NotFoundError"}}},
        ],
    }
}
MEMBER = "Could not find member 'assetVersion' on object of type 'UriFolderJobOutput'."
LIMIT = "A field of the entity is over the size limit. FieldName=Parameters, Limit=200, Size=210."


def failed(body: Any, status: int = 404, headers: dict[str, str] | None = None, path: str = "/runs/r") -> Response:
    return Response("GET", f"https://management.azure.com{ADDRESS.path}{path}", status, headers or {}, body)


def error_of(body: Any, status: int, headers: dict[str, str] | None = None, path: str = "/runs/r") -> HimlError:
    return refusal(failed(body, status, headers, path), ADDRESS, "Azure CLI")


def test_codes_and_message_are_read_from_every_form() -> None:
    forms: list[tuple[Any, tuple[str, ...], str]] = [
        (DATA_PLANE, ("RunNotFound", "NotFound", "UserError"), "Gone."),
        (ARM, ("NotFoundError", "UserError"), "Gone."),
        ({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Gone."}, ("RESOURCE_DOES_NOT_EXIST",), "Gone."),
        (
            {"error": {"code": "RequestInvalid", "message": "", "details": [{"message": MEMBER}]}},
            ("RequestInvalid",),
            MEMBER,
        ),
        (
            {
                "error": {
                    "code": "A",
                    "message": "no",
                    "details": [{"details": [{"message": MEMBER}]}, {"message": "no"}, 1],
                }
            },
            ("A",),
            f"no\n{MEMBER}",
        ),
        (
            {"Error": {"Code": "ValidationError", "Message": LIMIT, "Details": [], "InnerError": None}},
            ("ValidationError",),
            LIMIT,
        ),
        (
            {"Error": {"Code": "UserError", "Message": "Gone.", "InnerError": {"Code": "NotFoundError"}}},
            ("NotFoundError", "UserError"),
            "Gone.",
        ),
        ("Gone.", (), "Gone."),
        ("<!DOCTYPE html><html>", (), ""),
        ({"error": {"code": "A", "message": "no", "additionalInfo": True}}, ("A",), "no"),
        ({"error": {"code": None, "message": None, "additionalInfo": None, "innerError": "x"}}, (), ""),
    ]
    for body, codes, message in forms:
        assert (failed(body).codes, failed(body).message) == (codes, message)
    error = error_of({"error": {"code": "Bad", "message": f"token=abc {'x' * 5000}"}}, 400)
    assert (len(str(error)) < 400, "abc" in str(error)) == (True, False)


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        (
            {"error": {"code": "InvalidSubscriptionId", "message": "x"}},
            400,
            WorkspaceNotFound,
            "cannot access the subscription 's'",
        ),
        (
            {"error": {"code": "ResourceNotFound", "message": "The Resource '…/workspaces/lab' under …"}},
            404,
            WorkspaceNotFound,
            "'lab' does not exist",
        ),
        (
            {"error": {"code": "ResourceNotFound", "message": "The Resource '…/workspaces/lab/jobs/j' under …"}},
            404,
            ServiceNotFound,
            "has no /…/runs/r",
        ),
        (
            {"error": {"code": "ResourceGroupNotFound", "message": "x"}},
            404,
            WorkspaceNotFound,
            "Resource group 'team' does not exist in subscription 's'",
        ),
        (
            {"error": {"code": "MissingSubscriptionRegistration", "message": "x"}},
            409,
            NotAllowed,
            "subscription 's' is not registered",
        ),
        (
            {"error": {"code": "ReadOnlyDisabledSubscription", "message": "x"}},
            409,
            NotAllowed,
            "subscription 's' is disabled",
        ),
        (DATA_PLANE, 404, ServiceNotFound, r"RunNotFound: Gone"),
        ("<html>", 407, ServiceFailed, "proxy requires a user name"),
        ("", 502, ServiceRefused, "failed at GET /…/runs/r: 502"),
        ("", 418, ServiceRefused, "refused GET /…/runs/r: 418"),
        (
            {"error": {"code": "RequestInvalid", "message": "No.", "details": [{"message": MEMBER}]}},
            400,
            ServiceRefused,
            f"(RequestInvalid: No: {MEMBER[:-1]})",
        ),
        (
            {"Error": {"Code": "ValidationError", "Message": LIMIT}, "error_code": "BAD_REQUEST"},
            400,
            ServiceRefused,
            f"(ValidationError: {LIMIT[:-1]})",
        ),
        ("", 401, NotAllowedNow, "rejected the sign-in by Azure CLI"),
        ("", 403, NotAllowed, "Azure CLI is not allowed to do this"),
    ],
)
def test_each_refusal_becomes_its_own_kind_of_error(body: Any, status: int, kind: type[HimlError], words: str) -> None:
    error = error_of(body, status)
    assert type(error) is kind
    assert words in str(error)
    assert error.hint or kind is ServiceNotFound or status in (400, 418)


def test_a_tenant_and_the_reason_of_a_404_to_a_put_are_told() -> None:
    headers = {
        "www-authenticate": 'Bearer authorization_uri="https://login.windows.net/1111-22", error="invalid_token"'
    }
    error = error_of({"error": {"code": "InvalidAuthenticationTokenTenant", "message": "x"}}, 401, headers)
    assert "az login --tenant 1111-22" in error.hint
    body = {"error": {"code": "UserError", "message": "Code version c:1 not found."}}
    error = refusal(
        Response("PUT", f"https://management.azure.com{ADDRESS.path}/jobs/j", 404, {}, body), ADDRESS, "Azure CLI"
    )
    assert (str(error), error.exit_code) == (
        "management.azure.com refused PUT /…/jobs/j: 404 (UserError: Code version c:1 not found).",
        3,
    )
    assert type(error_of("", 404, path="")) is WorkspaceNotFound


def test_the_requests_id_is_read_from_wherever_it_is() -> None:
    answers: list[tuple[dict[str, str], Any, str]] = [
        ({"x-ms-request-id": "h"}, {"correlation": {"request": "b"}}, "h"),
        ({"x-ms-correlation-request-id": "c"}, {}, "c"),
        ({}, {"error": {"code": "x"}, "correlation": {"operation": "o", "request": "b"}}, "b"),
        ({}, {"correlation": {"request": None}}, ""),
        ({}, {"Error": {"Code": "x"}, "Correlation": {"operation": "o", "request": "b"}}, "b"),
    ]
    for headers, body, request_id in answers:
        assert failed(body, 500, headers).request_id == request_id
        assert ("support" in error_of(body, 500, headers).hint) == bool(request_id)


def test_how_far_a_clock_is_off_is_said_in_one_unit() -> None:
    words = ["1 second ahead of", "2 minutes behind", "1 hour ahead of", "2 days behind", "0 seconds ahead of"]
    assert [responses.describe_skew(seconds) for seconds in (1, -90, 3600, -200_000, 0.2)] == words
    now = time.time()
    for headers in (
        {},
        {"Date": "yesterday"},
        {"Date": formatdate(now, usegmt=True)},
        {"date": formatdate(now + 200, usegmt=True)},
    ):
        assert responses.clock_complaint(headers) == ""


def test_reasons_of_sign_in_are_told_shortly_and_without_secrets() -> None:
    texts = {
        "Authentication failed: AADSTS99: The moon is wrong. More.\nTrace ID: 1": "AADSTS99: The moon is wrong. More",
        "Failed to invoke the Azure CLI": "timed out",
        "": "Exception",
        "x" * 500: f"{'x' * 160}…",
        "boom client_secret=abc": "boom client_secret=***",
    }
    assert {message: reason_of(Exception(message)).text for message in texts} == texts
    for number, reason in AADSTS.items():
        assert (
            reason_of(
                Exception(f"Authentication failed: AADSTS{number}: Something long. Trace ID: 1 Correlation ID: 2")
            )
            == reason
        )
        assert reason.hint


def test_times_and_http_dates_are_read_in_every_form() -> None:
    moment = datetime(2026, 11, 6, 8, 49, 37, tzinfo=timezone.utc)
    dates = [
        "Fri, 06 Nov 2026 08:49:37 GMT",
        "Friday, 06-Nov-26 08:49:37 GMT",
        "Fri Nov  6 08:49:37 2026",
        "Fri, 06 Nov 2026 10:49:37 +0200",
    ]
    assert {text: http_time(text) for text in dates} == dict.fromkeys(dates, moment)
    for text in (None, "soon", "Fri, 06 Nov 2026", "Fri, 36 Nov 2026 08:49:37 GMT", "Fri, 06 Nix 2026 08:49:37 GMT"):
        assert http_time(text) is None
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)
    assert as_time("2026-03-01T12:00:00.1234567+00:00") == noon.replace(microsecond=123456)
    assert as_time("2026-03-01T12:00:00.5Z") == noon.replace(microsecond=500000)
    assert as_time("2026-03-01T12:00:00") == as_time("2026-03-01T14:00:00+02:00") == noon
    years = [
        "0001-01-01T00:00:00",
        "0001-01-01T00:00:00+10:00",
        "9999-12-31T23:59:59-10:00",
        "Mon, 01 Jan 0001 00:00:00 GMT",
    ]
    assert [as_time(text) for text in (None, "", "soon", *years)] == [None] * 7
    assert [http_time(text) for text in years] == [None] * 4


def test_a_wait_is_read_from_whichever_header_asks_for_it() -> None:
    waits: list[tuple[dict[str, str], float | None]] = [
        ({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
            ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, None), ({"retry-after": "9" * 5000}, float("inf")), ({"retry-after": "-5"}, None),
        ({"retry-after": formatdate(time.time() - 30, usegmt=True)}, 0.0),
        ({"retry-after": "Fri, 20 Nov 2026 10:41:27 GMT", "date": "Fri, 20 Nov 2026 10:40:57 GMT"}, 30.0),
        ({"retry-after": formatdate(time.time() + 600, usegmt=True),
            "date": formatdate(time.time() + 597, usegmt=True)}, 3.0),
    ]  # fmt: skip
    for headers, seconds in waits:
        assert retry_after(headers.get) == seconds
    assert 2000 < (retry_after({"retry-after": formatdate(time.time() + 3000, usegmt=True)}.get) or 0) <= 3000


QUESTIONS: dict[str, tuple[str, Callable[[AzureWorkspace], object]]] = {
    "an experiment's runs": ("runs:query", lambda workspace: list(workspace.runs(RunQuery("exp")))),
    "the workspace's runs": ("/index/", lambda workspace: list(workspace.runs(RunQuery()))),
    "records of runs": ("/batchrundata", lambda workspace: list(workspace.runs(RunQuery()))),
    "children": ("/children", lambda workspace: list(workspace.runs(RunQuery(parent="run_1")))),
    "a run": ("GET .*/runs/run_1$", lambda workspace: workspace.run("run_1")),
    "a run's place": ("GET .*/runs/run_1$", lambda workspace: workspace.run_files("run_1")),
    "an experiment": ("/experimentids/", lambda workspace: workspace.run("run_1")),
    "a tagged run": ("PATCH .*/runs/run_1", lambda workspace: workspace.tag("run_1", {"a": "b"})),
    "nested runs": ("/children", lambda workspace: workspace.metrics("run_1")),
    "names of metrics": ("/metric/.*/list", lambda workspace: workspace.metrics("run_1")),
    "points of a metric": ("/metric/.*/full", lambda workspace: workspace.metrics("run_1")),
    "parameters": ("/mlflow/.*/runs/get", lambda workspace: workspace.parameters("run_1")),
    "outputs": ("/rundata", lambda workspace: workspace.output_files("run_1", "data")),
    "an asset's place": ("batchGetResolvedUris", lambda workspace: workspace.output_files("run_1", "data")),
}
UNEXPECTED = r"^The response of {} is invalid: "
NO_JSON = r"^eastus\.api\.azureml\.ms answered with application/json that is not JSON: {}\.$"
HOST = r"eastus\.api\.azureml\.ms"
UNMEANT = ["{}", "[]", "null", '{"value": [{}]}', '{"value": {}}', '{"value": [3]}', '{"run": null}']
UNMEANT += ['{"value": [], "nextLink": {"x": 1}, "continuationToken": {"x": 1}}']
FORMS = dict.fromkeys(UNMEANT, UNEXPECTED) | {
    "[" * 3000 + "]" * 3000: NO_JSON.format("it is nested too deeply"),
    r'{"value": ["\ud800"]}': NO_JSON.format("it contains half a character"),
}


@pytest.fixture
def azure(azure: StagedWorkspace) -> StagedWorkspace:
    run = azure.add_run("run_1", "exp")
    azure.add_metric(run, "loss", [1.0])
    azure.add_output(run, "data", {"file": b"1"})
    return azure


def page(form: object) -> Page:
    return Page(form if isinstance(form, str) else json.dumps(form), content_type="application/json")


def test_answer_of_another_form_is_a_failure_of_the_service(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for question, (match, ask) in QUESTIONS.items():
        for form, complaint in FORMS.items() if question == "a run" else [(form, UNEXPECTED) for form in UNMEANT]:
            azure.stage.faults.only(page(form), match, times=None)
            with (
                naming(f"{question}: {form[:40]}"),
                pytest.raises(ServiceFailed, match=complaint.format(HOST)) as caught,
            ):
                ask(workspace)
            assert caught.value.exit_code == 5
            assert caught.value.hint


@pytest.mark.large("takes long, and other tests run its branches")
def test_odd_fields_of_answers_are_failures_of_the_service(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    whole: dict[str, object] = {
        "runId": "run_1",
        "experimentId": azure.state.experiment("exp").experiment_id,
        "status": "Completed",
    }
    odd: list[dict[str, object]] = [
        {"runId": 3},
        {"experimentId": None},
        {"properties": ["x"]},
        {"dataContainerId": ["x"]},
        {"status": 7},
        {"tags": "none"},
    ]
    odd += [
        {"createdUtc": 3},
        {"createdUtc": [3]},
        {"parentRunId": ["x"]},
        {"runType": 7},
        {"runTypeV2": 3},
        {"properties": {"runTemplate": 1}},
    ]
    odd += [
        {"status": "Failed", "error": "x"},
        {"tags": 3},
        {"runId": None},
        {"endTimeUtc": 3},
        {"status": "Failed", "cancelationReason": {"x": 3}},
    ]
    for fields in odd:
        azure.stage.faults.only(page(whole | fields), "GET .*/runs/run_1$", times=None)
        azure.stage.faults.add(page({"value": [whole | fields]}), "runs:query", times=None)
        for ask in (QUESTIONS["a run"][1], QUESTIONS["an experiment's runs"][1]):
            with naming(str(fields)), pytest.raises(ServiceFailed, match=UNEXPECTED.format(HOST)):
                ask(workspace)
    point: dict[str, object] = {
        "metricId": "loss",
        "step": 0,
        "createdUtc": "2026-01-02T03:04:05Z",
        "data": {"loss": 1.0},
    }
    for values in ({"step": "x"}, {"step": 2**63}, {"step": [3]}, {"data": "x"}, {"createdUtc": 3}):
        azure.stage.faults.only(
            page({"value": [point | values], "columns": {"loss": "Double"}}), "/metric/.*/full", times=None
        )
        with naming(str(values)), pytest.raises(ServiceFailed, match=UNEXPECTED.format(HOST)):
            workspace.metrics("run_1")
    for form in (
        "{}",
        "null",
        '{"value": [{}]}',
        '{"value": {}}',
        '{"value": [3]}',
        '{"value": [], "nextLink": {"x": 1}}',
    ):
        azure.stage.faults.only(Status(404), "/index/", times=None)
        azure.stage.faults.add(page(form), r"/jobs\?", times=None)
        with naming(form), pytest.raises(ServiceFailed, match=UNEXPECTED.format(r"management\.azure\.com")):
            list(workspace.runs(RunQuery()))


def test_list_that_names_the_same_page_again_is_a_failure(workspace: AzureWorkspace, azure: StagedWorkspace) -> None:
    for question in (
        "an experiment's runs",
        "the workspace's runs",
        "children",
        "names of metrics",
        "points of a metric",
    ):
        match, ask = QUESTIONS[question]
        columns = {"columns": {"loss": "Double"}} if question == "points of a metric" else {}
        azure.stage.log.clear()
        azure.stage.faults.only(page({"value": [], "continuationToken": "x", **columns}), match, times=None)
        with pytest.raises(ServiceFailed, match=r"invalid: its list of (runs|metrics) does not end"):
            ask(workspace)
        assert len(azure.stage.log.find(match)) == 2
    azure.stage.faults.only(Status(404), "/index/", times=None)
    azure.stage.faults.add(
        page('{"value": [], "nextLink": "https://management.azure.com/more"}'), r"/jobs\?|/more", times=None
    )
    with pytest.raises(ServiceFailed, match="its list of jobs does not end"):
        list(workspace.runs(RunQuery()))
    assert len(azure.stage.log.find("/more")) == 1


# One sample of each kind of text and value that breaks parsers. stress/fuzz tries many more.

LISTING = "<EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>"
BLOB = (
    "<Blob><Name>{}</Name><Properties><Content-Length>{}</Content-Length><Last-Modified>{}</Last-Modified>"
    "<Content-MD5>{}</Content-MD5></Properties></Blob>"
)


class Head(CurlResponse):
    """The head of a response with one header."""

    def __init__(self, name: str, value: str) -> None:
        super().__init__(pycurl.Curl(), "GET", pycurl)
        self.head += [b"HTTP/1.1 200 OK\r\n", f"{name}: {value}\r\n".encode(), b"\r\n"]


def test_digests_sizes_numbers_and_claims_are_read_or_none() -> None:
    assert [md5_from(text) for text in ("", "no base64", "AAAA", "AAAAAAAAAAAAAAAAAAAAAA==")] == [
        None,
        None,
        None,
        bytes(16),
    ]
    assert [size_from(text) for text in ("12", "-5", "٣", "9" * 19, "")] == [12, None, None, None, None]
    assert repr([as_number(value) for value in (10**400, "x", [3], None, "0.5")]) == "[nan, nan, nan, nan, 0.5]"
    with pytest.raises(ValueError, match="no step"):
        as_step(2**63)
    payload = base64.urlsafe_b64encode(b"[1]").decode()
    assert [Token(text, 0.0, "az login").claims() for text in ("no token", "a.%%%.c", f"a.{payload}.c")] == [{}, {}, {}]


def test_listing_that_cannot_be_read_is_a_failure_of_the_service() -> None:
    blob = LISTING.format(BLOB.format("a", "3", "some day", "no digest"))
    [found] = listed_page(blob.encode(), "").blobs
    assert (found.name, found.size, found.md5, found.modified) == ("a", 3, None, None)
    assert listed_level(
        LISTING.format("<BlobPrefix><Name Encoded='true'>a%2F</Name></BlobPrefix><Blob/><Other/>").encode(), ""
    ) == ["a/", ""]
    expands = "<!DOCTYPE a [<!ENTITY x 'y'>]>" + LISTING.format(BLOB.format("&x;", "3", "", ""))
    named = b"<?xml version='1.0' encoding='cp037'?>" + expands.encode("cp037")
    for content in (
        b"<",
        named,
        *(expands.encode(encoding) for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")),
    ):
        with pytest.raises(ServiceFailed, match=r"^Storage returned an invalid list of blobs \("):
            listed_level(content, "")
    with pytest.raises(ServiceFailed, match="Storage returned no size of 'a'"):
        properties_of(Head("Content-Length", "-5"), "a")
    for length in ("abc", "9" * 5000, "-5", "", "٣"):
        listing = LISTING.format(BLOB.format("models/a.pt", length, "", "")).encode()
        with pytest.raises(
            ServiceFailed, match=r"^Storage's list of blobs has .{1,30} as the size of 'models/a\.pt'\.$"
        ) as caught:
            listed_page(listing, "")
        assert caught.value.hint


def test_text_that_is_no_json_says_why() -> None:
    def complaint(text: str | bytes) -> str:
        with pytest.raises(NotJson) as caught:
            read_json(text)
        return str(caught.value.args[0])

    assert complaint(NASTY["lists in lists"]) == complaint(NASTY["objects in objects"]) == "it is nested too deeply"
    assert complaint(NASTY["5,000 digits"]) == "it contains a number that is too long"
    assert complaint(NASTY["nothing"]) == "Expecting value"
    assert read_json("[" * 100 + "]" * 100)
    assert "nested too deeply" in complaint("[" * 101 + "[]" + "]" * 101)
    with pytest.raises(NotJson, match="is not UTF-8") as caught:
        read_json(b'"\xff"')
    assert (caught.value.line, caught.value.column) == (0, 0)
