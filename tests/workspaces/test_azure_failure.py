"""Error bodies, waits, times and sign-in codes in all the forms that the services have for them."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import Any

import pytest

from himl_cli.core.errors import HimlError, NotAllowed, NotAllowedNow, ServiceFailed, WorkspaceNotFound
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.responses import Response, as_time, retry_after
from himl_cli.workspaces.azure.service_errors import AADSTS, ServiceNotFound, ServiceRefused, reason_of, refusal

ADDRESS = WorkspaceAddress("s", "team", "lab", PUBLIC, "a test")
DATA_PLANE = {"error": {"code": "UserError", "message": "Gone.", "innerError": {"code": "NotFound", "innerError": {"code": "RunNotFound"}}}}
ARM = {
    "error": {
        "code": "UserError",
        "message": "Gone.",
        "additionalInfo": [{"type": "ComponentName", "info": {"value": "x"}}, {"type": "InnerError", "info": {"value": {"code": "NotFoundError"}}}],
    }
}


def failed(body: Any, status: int = 404, headers: dict[str, str] | None = None, path: str = "/runs/r") -> Response:
    return Response("GET", f"https://management.azure.com{ADDRESS.path}{path}", status, headers or {}, body)


def told(body: Any, status: int, headers: dict[str, str] | None = None, path: str = "/runs/r") -> HimlError:
    return refusal(failed(body, status, headers, path), ADDRESS, "Azure CLI")


@pytest.mark.parametrize(
    ("body", "codes", "message"),
    [
        (DATA_PLANE, ("RunNotFound", "NotFound", "UserError"), "Gone."),
        (ARM, ("NotFoundError", "UserError"), "Gone."),
        ({"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "Gone."}, ("RESOURCE_DOES_NOT_EXIST",), "Gone."),
        ({"error": "invalid_client", "message": "Gone."}, (), "Gone."),
        ("Gone.", (), "Gone."),
        ("<!DOCTYPE html><html>", (), ""),
        ({"error": {"code": "A", "message": "no", "additionalInfo": True}}, ("A",), "no"),
        ({"error": {"code": None, "message": None, "additionalInfo": None, "innerError": "x"}}, (), ""),
        (None, (), ""),
        ([1], (), ""),
    ],
)
def test_codes_and_message_are_read_from_every_form(body: Any, codes: tuple[str, ...], message: str) -> None:
    failure = failed(body)
    assert (failure.codes, failure.message) == (codes, message)


def test_a_long_message_is_cut_and_secrets_in_it_are_masked() -> None:
    error = told({"error": {"code": "Bad", "message": f"token=abc {'x' * 5000}"}}, 400)
    assert len(str(error)) < 400
    assert "abc" not in str(error)


@pytest.mark.parametrize(
    ("body", "status", "kind", "words"),
    [
        ({"error": {"code": "InvalidSubscriptionId", "message": "x"}}, 400, WorkspaceNotFound, "sees no subscription 's'"),
        ({"error": {"code": "SubscriptionNotFound", "message": "x"}}, 404, WorkspaceNotFound, "sees no subscription 's'"),
        ({"error": {"code": "ResourceNotFound", "message": "The Resource '…/workspaces/lab' under …"}}, 404, WorkspaceNotFound, "no workspace 'lab'"),
        ({"error": {"code": "ResourceNotFound", "message": "The Resource '…/workspaces/lab/jobs/j' under …"}}, 404, ServiceNotFound, "has no /…/runs/r"),
        ({"error": {"code": "MissingSubscriptionRegistration", "message": "x"}}, 409, NotAllowed, "subscription 's' is not registered"),
        ({"error": {"code": "ReadOnlyDisabledSubscription", "message": "x"}}, 409, NotAllowed, "subscription 's' is disabled"),
        (DATA_PLANE, 404, ServiceNotFound, r"RunNotFound: Gone"),
        ("<html>", 407, ServiceFailed, "proxy wants a user"),
        ("", 502, ServiceRefused, "failed at GET /…/runs/r: 502"),
        ("", 418, ServiceRefused, "refused GET /…/runs/r: 418"),
        ("", 401, NotAllowedNow, "does not accept the sign-in by Azure CLI"),
        ("", 403, NotAllowed, "Azure CLI is not allowed to do this"),
    ],
)
def test_each_refusal_becomes_its_own_kind_of_error(body: Any, status: int, kind: type[HimlError], words: str) -> None:
    error = told(body, status)
    assert type(error) is kind
    assert words in str(error)
    assert error.hint or kind is ServiceNotFound or status == 418


def test_a_404_to_a_put_is_a_refusal_with_its_reason() -> None:
    body = {"error": {"code": "UserError", "message": "Code version c:1 not found."}}
    error = refusal(Response("PUT", f"https://management.azure.com{ADDRESS.path}/jobs/j", 404, {}, body), ADDRESS, "Azure CLI")
    assert str(error) == "management.azure.com refused PUT /…/jobs/j: 404 (UserError: Code version c:1 not found)."
    assert error.exit_code == 3


def test_a_missing_workspace_is_known_by_its_path_too() -> None:
    assert type(told("", 404, path="")) is WorkspaceNotFound


def test_the_tenant_is_read_from_the_challenge() -> None:
    headers = {"www-authenticate": 'Bearer authorization_uri="https://login.windows.net/1111-22", error="invalid_token"'}
    error = told({"error": {"code": "InvalidAuthenticationTokenTenant", "message": "x"}}, 401, headers)
    assert "az login --tenant 1111-22" in error.hint


@pytest.mark.parametrize(
    ("headers", "body", "request_id"),
    [
        ({"x-ms-request-id": "h"}, {"correlation": {"request": "b"}}, "h"),
        ({"x-ms-correlation-request-id": "c"}, {}, "c"),
        ({}, {"error": {"code": "x"}, "correlation": {"operation": "o", "request": "b"}}, "b"),
        ({}, {"correlation": {"request": None}}, ""),
        ({}, {"correlation": "x"}, ""),
        ({}, "text", ""),
    ],
)
def test_the_requests_id_is_read_from_wherever_it_is(headers: dict[str, str], body: Any, request_id: str) -> None:
    assert failed(body, 500, headers).request_id == request_id
    assert ("support" in told(body, 500, headers).hint) == bool(request_id)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after-ms": "250"}, 0.25), ({"x-ms-retry-after-ms": "1500"}, 1.5), ({"retry-after": "soon"}, None)],
)
def test_a_wait_is_read_from_whichever_header_tells_it(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers.get) == seconds


def test_a_wait_until_a_date_is_one_from_now() -> None:
    wait = retry_after({"retry-after": formatdate(time.time() + 3000, usegmt=True)}.get)
    assert wait is not None
    assert 2000 < wait <= 3000
    assert retry_after({"retry-after": formatdate(time.time() - 30, usegmt=True)}.get) == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "1 second ahead of"), (-90, "2 minutes behind"), (3600, "1 hour ahead of"), (-200_000, "2 days behind"), (0.2, "0 seconds ahead of")],
)
def test_how_far_a_clock_is_off_is_said_in_one_unit(seconds: float, words: str) -> None:
    assert responses.describe_skew(seconds) == words


def test_a_clock_that_is_right_or_unknown_is_no_complaint() -> None:
    now = time.time()
    for headers in ({}, {"Date": "yesterday"}, {"Date": formatdate(now, usegmt=True)}, {"date": formatdate(now + 200, usegmt=True)}):
        assert responses.clock_complaint(headers) == ""


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05+00:00",
        "2026-01-02T03:04:05.0000000+00:00",
        "2026-01-02T03:04:05.0Z",
        "2026-01-02T04:04:05+01:00",
        "2026-01-02T03:04:05",
    ],
)
def test_times_are_read_in_the_services_spellings(text: str) -> None:
    time_read = as_time(text)
    assert time_read is not None
    assert time_read.timestamp() == 1767323045


@pytest.mark.parametrize("number", AADSTS)
def test_every_known_sign_in_code_has_words_and_a_next_move(number: str) -> None:
    reason = reason_of(Exception(f"Authentication failed: AADSTS{number}: Something long. Trace ID: 1 Correlation ID: 2"))
    assert reason == AADSTS[number]
    assert reason.hint


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ("Authentication failed: AADSTS99: The moon is wrong. More.\nTrace ID: 1", "AADSTS99: The moon is wrong. More"),
        ("AADSTS99: The moon is wrong. Trace ID: 1-2 Correlation ID: 3-4", "AADSTS99: The moon is wrong"),
        ("Failed to invoke the Azure CLI", "no answer in time"),
        ("", "Exception"),
        ("x" * 500, f"{'x' * 160}…"),
        ("boom client_secret=abc", "boom client_secret=***"),
    ],
)
def test_an_unknown_reason_is_told_shortly_and_without_secrets(message: str, text: str) -> None:
    assert reason_of(Exception(message)).text == text
