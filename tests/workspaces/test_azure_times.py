"""Times in headers: HTTP dates in all their forms, and waits that a service asks for."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from email.utils import formatdate

import pytest

from himl_cli.workspaces.azure.responses import as_time, http_time, retry_after

MOMENT = datetime(2026, 11, 6, 8, 49, 37, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    "text",
    [
        "Fri, 06 Nov 2026 08:49:37 GMT",
        "Friday, 06-Nov-26 08:49:37 GMT",
        "Fri Nov  6 08:49:37 2026",
        "Fri, 06 Nov 2026 10:49:37 +0200",
        "6 Nov 2026 08:49:37 GMT",
    ],
)
def test_an_http_date_is_one_moment_in_whichever_form_it_comes(text: str) -> None:
    assert http_time(text) == MOMENT


@pytest.mark.parametrize("text", [None, "", "soon", "Fri, 06 Nov 2026", "Fri, 36 Nov 2026 08:49:37 GMT", "Fri, 06 Nix 2026 08:49:37 GMT"])
def test_what_is_no_date_is_no_moment(text: str | None) -> None:
    assert http_time(text) is None


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "7", "retry-after-ms": "250"}, 0.25),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "9" * 5000}, float("inf")),
        ({"retry-after": "9" * 5000}, float("inf")),
        ({"retry-after": "-5"}, None),
        ({"retry-after": formatdate(time.time() - 30, usegmt=True)}, 0.0),
    ],
)
def test_a_wait_is_read_from_whichever_header_asks_for_it(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after(headers.get) == seconds


@pytest.mark.parametrize(
    "text",
    ["0001-01-01T00:00:00", "0001-01-01T00:00:00+10:00", "9999-12-31T23:59:59-10:00", "Mon, 01 Jan 0001 00:00:00 GMT"],
)
def test_the_first_and_the_last_year_are_no_moments(text: str) -> None:
    assert (as_time(text), http_time(text)) == (None, None)
