"""What services answer, as broken as it can be: each piece is understood, or told in one error of the service."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import product
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult

import pycurl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces import web
from himl_cli.workspaces.azure.config import PUBLIC, WorkspaceAddress
from himl_cli.workspaces.azure.connection import DiskCache
from himl_cli.workspaces.azure.credentials import Token
from himl_cli.workspaces.azure.responses import Response, as_time, http_time, md5_from, object_of, pages, retry_after, size_from, understood
from himl_cli.workspaces.azure.run_history import _facts_of
from himl_cli.workspaces.azure.run_metrics import _as_run, _columns, _row, _series, as_number
from himl_cli.workspaces.azure.run_records import as_run, created_of, is_sweep, number_of, own_names, status_of, sweep_tags
from himl_cli.workspaces.azure.service_errors import claims_of, refusal
from himl_cli.workspaces.azure.storage.blob_responses import error_code, properties_of
from himl_cli.workspaces.azure.storage.container import listed_level, listed_page
from himl_cli.workspaces.azure.storage.curl import CurlResponse
from himl_cli.workspaces.azure.storage.datastores import parse_data_uri
from himl_cli.workspaces.azure.storage.signing import Signature, sas_expiry
from tests.support.hostile_texts import NASTY, framed, garbage, naming, stands

URL = "https://eastus.api.azureml.ms/history/runs"
HERE = WorkspaceAddress("00000000-0000-0000-0000-000000000000", "group", "lab", PUBLIC, "test")
LISTING = "<EnumerationResults><Blobs>{}</Blobs><NextMarker/></EnumerationResults>"
BLOB = "<Blob><Name>{}</Name><Properties><Content-Length>{}</Content-Length><Last-Modified>{}</Last-Modified><Content-MD5>{}</Content-MD5></Properties></Blob>"
HEADERS = ("Content-Length", "Content-Range", "ETag", "Last-Modified", "Content-Disposition", "Content-Type", "Content-Encoding")
GOOD = ("a", "3", "Fri, 06 Nov 2026 08:49:37 GMT", "")


def blob_with(place: int) -> str:
    return LISTING.format(BLOB.format(*(("@" if number == place else value) for number, value in enumerate(GOOD))))


@dataclass(frozen=True)
class Target:
    """A parser of what arrives as text; `frames` have `@` where the nasty text goes, `signs` are those that mean something to it."""

    parse: Callable[[str], object]
    frames: tuple[str, ...] = ("@",)
    signs: str = "0123456789a.,:-+=/ TZ%"


class Head(CurlResponse):
    """The head of an answer that came with *status*."""

    def __init__(self, status: int, name: str, value: str) -> None:
        super().__init__(pycurl.Curl(), "GET", pycurl)
        self.head += [f"HTTP/1.1 {status} OK\r\n".encode(), f"{name}: ".encode() + value.encode("utf-8", "surrogatepass") + b"\r\n", b"\r\n"]
        self._told = status

    @property
    def status(self) -> int:
        return self._told


def listed(text: str) -> None:
    xml = text.encode("utf-8", "surrogatepass")
    for blob in listed_page(xml, "").blobs:
        assert 0 <= blob.size < 2**63


def names(text: str) -> None:
    listed_level(text.encode("utf-8", "surrogatepass"), "")


def time_in_utc(text: str) -> None:
    for moment in (as_time(text), http_time(text)):
        if moment is not None:
            assert moment.utcoffset() == timedelta(0)
            moment.astimezone()


def wait(text: str) -> None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "retry-after"):
        seconds = retry_after({name: text}.get)
        assert seconds is None or seconds >= 0


def signed(text: str) -> None:
    assert 0 <= sas_expiry(text) < 1e12
    assert Signature.of_sas(text).is_due in (True, False)


def web_head(text: str) -> None:
    for name, status in product(HEADERS, (200, 206, 416)):
        file = web.WebFile("https://host/a")
        with suppress(HimlError):
            found = file.parse(Head(status, name, text))
            assert not isinstance(found, SplitResult)
            assert found[0].size >= 0
            assert found[0].name


def properties(text: str) -> None:
    for name in ("Content-Length", "Last-Modified", "ETag", "Content-MD5", "x-ms-creation-time"):
        with suppress(ServiceFailed):
            assert properties_of(Head(200, name, text), "a").blob.size >= 0


def failed(text: str) -> None:
    """An error of any of the services' forms, told as himl tells it."""
    try:
        body = read_json(text)
    except NotJson:
        body = text
    for status, headers in ((400, {}), (401, {"www-authenticate": text}), (403, {"retry-after": text, "x-ms-request-id": text})):
        failure = Response("GET", URL, status, headers, body)
        assert str(refusal(failure, HERE, "az login"))
        assert (claims_of(failure.headers), failure.in_brackets, failure.request_id) is not None


def claims(text: str) -> None:
    claims_of({"WWW-Authenticate": f'Bearer error="insufficient_claims", claims="{text}"'})
    claims_of({"WWW-Authenticate": f'Bearer error="insufficient_claims", claims="{encoded(text)}"'})
    for part in (text, encoded(text)):
        Token(f"a.{part}.c", 0.0, "az login").claims()


def encoded(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode("utf-8", "surrogatepass")).decode()


def placed(uri: str) -> None:
    try:
        parse_data_uri(uri, HERE)
    except BadUsage:
        return


TEXTS: dict[str, Target] = {
    "lists of blobs": Target(
        listed, ("@", *map(blob_with, range(4)), LISTING.format("@"), "<?xml version='1.0' encoding='@'?>" + LISTING.format("")), "<>/&;NameBlob'\"=!?[]0"
    ),
    "levels of blobs": Target(
        names, ("@", LISTING.format("<BlobPrefix><Name>@</Name></BlobPrefix>"), LISTING.format("<Blob><Name Encoded='true'>@</Name></Blob>"))
    ),
    "times": Target(time_in_utc, ("@", "2026-01-01T00:00:00@", "@-01-01T00:00:00+10:00", "Fri, 06 Nov 2026 08:49:37 @", "Fri, 06 Nov @ 08:49:37 GMT")),
    "waits": Target(wait, ("@", "Fri, 06 Nov 2026 08:49:37 @")),
    "signatures": Target(signed, ("@", "sv=1&se=@&sig=x", "se=9999-12-31T23:59:59-99:99&@", "se=0001-01-01T00:00:00+99:99&@", "se=2026-01-01T00:00:0@Z")),
    "digests": Target(md5_from),
    "sizes": Target(size_from),
    "codes of errors": Target(lambda text: error_code(text.encode("utf-8", "surrogatepass")), ("@", "<Code>@")),
    "heads of files on the web": Target(
        web_head, ("@", "bytes 0-0/@", "bytes @-1/5", 'attachment; filename="@"', "attachment; filename*=@''a", "a; filename*@*=b")
    ),
    "heads of blobs": Target(properties),
    "errors": Target(
        failed, ("@", '{"error": @}', '{"error": {"code": "@", "message": "@"}}', '{"error": {"innerError": @}}', '{"correlation": {"request": "@"}}')
    ),
    "challenges": Target(claims),
    "states": Target(status_of),
    "places of data": Target(
        placed, ("@", "azureml://datastores/@/paths/a", "azureml://subscriptions/@/a", "wasbs://a@@/b", "https://a.blob.core.windows.net/@", "https://@")
    ),
}

WHOLE: Mapping[str, Any] = {"runId": "sweep_1", "experimentId": "e", "status": "Failed", "parentRunId": "sweep"}
FIELDS = [
    *("runId", "experimentId", "status", "createdUtc", "startTimeUtc", "endTimeUtc", "displayName", "description", "tags", "properties", "error", "runType"),
    *("runTypeV2", "parentRunId", "dataContainerId", "target", "cancelationReason", "scriptName"),
]
DEEP: Any = []
for _ in range(900):
    DEEP = [DEEP]
VALUES: list[Any] = [
    None,
    True,
    -1,
    0,
    10**400,
    1e300,
    float("nan"),
    float("inf"),
    "",
    "x",
    "9" * 5000,
    "\ud800",
    "a\0",
    "0001-01-01T00:00:00+10:00",
    [],
    {},
    [3],
    {"x": 3},
    DEEP,
]
VALUES += [
    {"message": "{" * 3000},
    {"error": {"message": '{"a":' * 3000}},
    {"hyperparameters": "9" * 5000},
    {"primary_metric_config": "[" * 3000},
    {"traits": [1]},
]


def record(raw: Mapping[str, Any]) -> None:
    with understood(URL, "a run"):
        _facts_of(raw)
        as_run(raw, experiment="exp", address=HERE)
        assert (own_names(raw), sweep_tags(raw), is_sweep(raw), number_of(raw)) is not None


def points(value: Any) -> None:
    with understood(URL, "points"):
        assert isinstance(as_number(value), float)
        rows = [_row({"step": value, "value": value, "timestamp": 1}), _row({"step": 1, "value": 2.0, "timestamp": value})]
    _series(rows)


def values_of(value: Any) -> None:
    from himl_cli.workspaces.azure.responses import Page

    row = {"step": value, "data": {"loss": value}, "createdUtc": value}
    with understood(URL, "a metric"):
        assert isinstance(created_of(row), datetime)
        list(_columns([Page([row], {"columns": {"loss": "Double"}, "value": [row]}, False)], "run", "loss"))


def mlflow_run(value: Any) -> None:
    with understood(URL, "a run"):
        _as_run({"info": {"run_id": value}, "data": {"metrics": [{"key": value, "value": value}], "params": value, "tags": [{"key": value, "value": value}]}})


def listing_of(value: Any) -> None:
    asked = iter([{"value": [{}], "continuationToken": value, "nextLink": value}, value, {"value": value}])
    list(pages(lambda token: next(asked, {"value": []}), URL, "runs", follow=lambda link: next(asked, {"value": []})))
    object_of(value, URL, "run")


@pytest.mark.parametrize("name", list(TEXTS))
def test_a_nasty_text_is_understood_or_told(name: str) -> None:
    for where, text in framed(*TEXTS[name].frames).items():
        with naming(where):
            told = stands(TEXTS[name].parse, text)
            assert told is None or isinstance(told, ServiceFailed)


@pytest.mark.parametrize("name", list(TEXTS))
@given(data=st.data())
@settings(max_examples=10, deadline=None)
def test_garbage_is_understood_or_told(name: str, data: st.DataObject) -> None:
    target = TEXTS[name]
    text = data.draw(st.sampled_from(target.frames)).replace("@", data.draw(garbage(target.signs)))
    assert isinstance(stands(target.parse, text), (ServiceFailed, type(None)))


@pytest.mark.parametrize("field", FIELDS)
def test_a_run_with_a_nasty_field_is_understood_or_told(field: str) -> None:
    for value in VALUES:
        with naming(repr(value)[:40] if value is not DEEP else "deep"):
            assert isinstance(stands(record, {**WHOLE, field: value}), (ServiceFailed, type(None)))


@pytest.mark.parametrize("parse", [points, values_of, mlflow_run, listing_of])
def test_a_nasty_value_is_understood_or_told(parse: Callable[[Any], object]) -> None:
    for value in VALUES:
        with naming(repr(value)[:40] if value is not DEEP else "deep"):
            assert isinstance(stands(parse, value), (ServiceFailed, type(None)))


@pytest.mark.parametrize("length", ["abc", "9" * 5000, "-5", "1e3", "", "٣", "9" * 19])
def test_listing_with_invalid_blob_size_names_the_blob(length: str) -> None:
    with pytest.raises(ServiceFailed, match=r"^The list of blobs that storage sent has .{1,30} for the size of 'models/a\.pt'\.$") as caught:
        listed_page(LISTING.format(BLOB.format("models/a.pt", length, "", "")).encode(), "")
    assert caught.value.hint


def test_malformed_cache_file_does_not_crash_cache_read(tmp_path: Path) -> None:
    kept = DiskCache(tmp_path)
    kept.put("tokens", "a", "x", seconds=60)
    (path,) = (tmp_path / "v1" / "tokens").iterdir()
    forms = ('{"value": @, "expires": 9e9, "key": "a"}', '{"value": "x", "expires": @, "key": "a"}', '{"value": "x", "expires": 9e9, "key": @}')
    for name, text in framed("@", *forms).items():
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        with naming(name):
            stands(lambda key: kept.get("tokens", key), "a")


def test_what_is_no_json_says_why() -> None:
    complaints = {name: told.args[0] for name, text in NASTY.items() if (told := _complaint(text)) is not None}
    assert complaints["lists in lists"] == complaints["objects in objects"] == "it is nested too deeply"
    assert complaints["5,000 digits"] == "it holds a number that is too long"
    assert complaints["nothing"] == "Expecting value"
    assert read_json("[" * 100 + "]" * 100)
    with pytest.raises(NotJson, match="nested too deeply"):
        read_json("[" * 101 + "[]" + "]" * 101)
    with pytest.raises(NotJson, match="is no UTF-8") as caught:
        read_json(b'"\xff"')
    assert (caught.value.line, caught.value.column) == (0, 0)


def _complaint(text: str) -> NotJson | None:
    try:
        read_json(text)
    except NotJson as err:
        return err
    return None
