"""Parsers of what services say: headers, XML, JSON, tokens, signatures, times."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import pycurl
from hypothesis import strategies as st

from himl_cli.core.errors import HimlError, ServiceFailed
from himl_cli.core.jobs import HYPERPARAMETERS, hyperparameters_of
from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces import web
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.connection import WorkspaceRecord
from himl_cli.workspaces.azure.credentials import Token
from himl_cli.workspaces.azure.responses import Response, as_time, http_time, md5_from, retry_after, size_from
from himl_cli.workspaces.azure.run_metrics import as_number
from himl_cli.workspaces.azure.run_records import own_names, status_of, sweep_tags
from himl_cli.workspaces.azure.service_errors import claims_of, refusal
from himl_cli.workspaces.azure.storage.blob_responses import error_code, properties_of, whole_md5
from himl_cli.workspaces.azure.storage.container import listed_level, listed_page
from himl_cli.workspaces.azure.storage.curl import CurlResponse
from himl_cli.workspaces.azure.storage.signing import Signature
from stress.fuzz.strategies import contents, damaged, documents, json_files, texts, values
from stress.fuzz.target import Target
from stress.fuzz.workspace import ADDRESS

LISTING = (
    '<?xml version="1.0" encoding="utf-8"?><EnumerationResults ServiceEndpoint="https://a.blob.core.windows.net/" ContainerName="c"><Prefix>r/</Prefix><Blobs>'
    "<Blob><Name>r/a.txt</Name><Properties><Last-Modified>Fri, 20 Nov 2026 10:40:57 GMT</Last-Modified><Etag>0x8D</Etag><Content-Length>3</Content-Length>"
    "<Content-MD5>rL0Y20zC+Fzt72VPzMSk2A==</Content-MD5><BlobType>BlockBlob</BlobType></Properties><Metad"
    "ata><hdi_isfolder>true</hdi_isfolder></Metadata></Blob>"
    "<BlobPrefix><Name>r/b/</Name></BlobPrefix><Blob><Name "
    'Encoded="true">r/%FFx</Name><Properties><Content-Length>0</Content-Length><ResourceType>file</ResourceType>'
    "</Properties></Blob></Blobs><NextMarker>2!96!m</NextMarker></EnumerationResults>"
)
BOMB = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b '
    '"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]><EnumerationResults><Blobs><Blob><Name>&b;</Name></Blob></Blobs><'
    "/EnumerationResults>"
)
XML_WORDS: tuple[str, ...] = (
    "<Blob>",
    "</Blob>",
    "<Name>",
    "</Name>",
    "<Blobs>",
    "<Blobs/>",
    "<Properties>",
    "<Content-Length>",
    "<NextMarker>",
    ' Encoded="true"',
    "&#0;",
    "&#xD800;",
    "&x;",
)
XML_WORDS += (
    "<![CDATA[",
    "]]>",
    "<!--",
    "-->",
    "<?",
    "?>",
    'encoding="utf-7"',
    'encoding="utf-16"',
    'encoding="x"',
    "<!DOCTYPE l [",
    '<!ENTITY a "&a;">',
    "&b;",
)
TIMES = (
    "Fri, 20 Nov 2026 10:40:57 GMT",
    "2026-11-20T10:40:57.1234567Z",
    "2026-11-20T10:40:57+01:00",
    "Friday, 20-Nov-26 10:40:57 GMT",
    "Fri Nov 20 10:40:57 2026",
    "0001-01-01T00:00:00",
)
WAITS = ("3", "0.5", "1500", *TIMES)
SAS = ("?sv=2021-08-06&se=2026-11-20T10%3A40%3A57Z&sr=b&sp=r&sig=a%2Fb%3D", "se=2026-11-20&sig=x", "se=2026-11-20T10:40:57.123+01:00&sig=x")
ARM_ERROR = {
    "error": {
        "code": "AuthorizationFailed",
        "message": "no",
        "additionalInfo": [{"type": "InnerError", "info": {"value": {"code": "a", "innerError": {"code": "b"}}}}],
    }
}
SERVICE_ERROR = {
    "error": {"code": "UserError", "message": "must match the tenant 'https://sts/T/'", "innerError": {"code": "NotFound", "innerError": None}},
    "correlation": {"request": "r"},
}
ERRORS = (ARM_ERROR, SERVICE_ERROR, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"})
STORAGE_ERROR = (
    '<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code><Message>m</Message><AuthenticationErrorDetail>d</AuthenticationErrorDetail></Error>'
)
CLAIMS = {"tid": "t", "upn": "u@h", "exp": 1800000000, "appid": "a", "oid": "o"}
ENCODED = base64.urlsafe_b64encode(b'{"access_token": {"nbf": {"essential": true}}}').decode()
CHALLENGE = (
    f'Bearer realm="", authorization_uri="https://login.microsoftonline.com/T/oauth2", error="insufficient_claims", claims="{ENCODED}"',
    "Basic",
    "Bearer",
)
HEADERS = (
    "content-length",
    "content-range",
    "etag",
    "last-modified",
    "content-disposition",
    "content-type",
    "content-encoding",
    "content-md5",
    "date",
    "x-ms-blob-type",
)
VALUES = (
    "3",
    "bytes 0-0/12",
    '"0x8D"',
    "W/x",
    TIMES[0],
    "attachment; filename=\"a.ckpt\"; filename*=UTF-8''%e2%82%ac.pt",
    "text/html; charset=x",
    "gzip, br",
    "rL0Y20zC+Fzt72VPzMSk2A==",
)
TAGS = {"runId": "HD_1_3", "parentRunId": "HD_1", "runType": "hyperdrive", "tags": {HYPERPARAMETERS: '{"--lr": 0.1}', "_aml_system_x": "y", "HD_1_3": "z"}} | {
    "properties": {"primary_metric_config": '{"name": "loss", "goal": "minimize"}', "best_child_run_id": "HD_1_0"}
}
WORKSPACE = {
    "id": ADDRESS.path,
    "location": "eastus",
    "properties": {"workspaceId": "w", "mlFlowTrackingUri": "azureml://eastus.api.azureml.ms/x", "tenantId": "t"},
} | {"sku": {"name": "Basic"}}


class Head(CurlResponse):
    """The head of an answer of this *status*, as libcurl hands it over."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(pycurl.Curl(), "GET", pycurl)
        said = [f"{name}: ".encode() + value.encode("utf-8", "surrogatepass") + b"\r\n" for name, value in headers.items()]
        self.head += [f"HTTP/1.1 {status} OK\r\n".encode(), *said, b"\r\n"]
        self._told = status

    @property
    def status(self) -> int:
        return self._told


def _head(given: tuple[int, dict[str, str], str]) -> None:
    status, headers, address = given
    line = Head(status, headers)
    with suppress(HimlError):
        web.WebFile(address).parse(line)
    assert "/" not in web.file_name(line, address), "a name that leads elsewhere"
    for read in (web.total_size, web.validator_of, whole_md5):
        read(line)
    properties_of(line, "a")


def _heads() -> st.SearchStrategy[Any]:
    addresses = texts(("https://host/a.ckpt", "https://host/", "https://h/a%2Fb"))
    return st.tuples(st.sampled_from([200, 206, 416, 304]), st.dictionaries(st.sampled_from(HEADERS), texts(VALUES), min_size=1, max_size=4), addresses)


def _page(xml: bytes) -> None:
    for blob in listed_page(xml, "r/").blobs:
        assert 0 <= blob.size < 2**63, blob


def _time(text: str) -> None:
    for moment in (as_time(text), http_time(text)):
        assert moment is None or moment.utcoffset() == timedelta(0), moment


def _wait(text: str) -> None:
    for name in ("retry-after-ms", "x-ms-retry-after-ms", "retry-after"):
        seconds = retry_after({name: text}.get)
        assert seconds is None or seconds >= 0, seconds
    responses.clock_skew({"date": text})


def _sas(text: str) -> None:
    signature = Signature.of_sas(text)
    assert 0 <= signature.expires < 1e12, signature.expires
    assert signature.is_due in (True, False)


def _failure(given: tuple[int, Any, str]) -> None:
    status, body, challenge = given
    headers = {"www-authenticate": challenge, "retry-after": challenge[:9], "x-ms-request-id": "r"}
    failure = Response("GET", f"https://management.azure.com{ADDRESS.path}/jobs/x", status, headers, body)
    for told in (failure.codes, failure.in_brackets, failure.request_id, claims_of(failure.headers), failure.path):
        repr(told)
    raise refusal(failure, ADDRESS, "your sign-in")


def _failures() -> st.SearchStrategy[Any]:
    return st.tuples(st.sampled_from([400, 401, 403, 404, 409, 429, 500, 503]), documents(ERRORS), texts(CHALLENGE))


def _token(text: str) -> None:
    Token(text, 1.0, "c").claims()


def _tokens() -> st.SearchStrategy[str]:
    coded = json_files([CLAIMS]).map(lambda content: f"h.{base64.urlsafe_b64encode(content).decode()}.s")
    return st.one_of(coded, coded, texts(("eyJ.eyJ0aWQiOiJ0In0.s",)))


def _json(content: bytes) -> None:
    read_json(content)


def _swept(document: Any) -> None:
    if isinstance(document, dict):
        form = {name: document.get(name) for name in ("runId", "parentRunId", "runType")} | {
            name: value for name in ("tags", "properties") if isinstance(value := document.get(name), dict)
        }
        own_names(form)
        for tag in sweep_tags(form).values():
            assert isinstance(tag, str), tag


def _record(document: Any) -> None:
    WorkspaceRecord.from_json(document)
    WorkspaceRecord.from_arm(document, ADDRESS)


Row = tuple[str, Callable[[str], object], Sequence[str]]
TEXTS: Sequence[Row] = (
    ("time", _time, TIMES),
    ("wait", _wait, WAITS),
    ("sas", _sas, SAS),
    ("md5", md5_from, ("rL0Y20zC+Fzt72VPzMSk2A==", "AAAA")),
    ("size", size_from, ("3", "00", "123456789012345678")),
    ("status", status_of, ("Completed", "Running", "NotStarted")),
    ("challenge", lambda text: claims_of({"www-authenticate": text}), CHALLENGE),
    ("hyperparameters", lambda text: hyperparameters_of({HYPERPARAMETERS: text}), ('{"lr": 0.1, "--depth": 3}', "[1]", "{}")),
)


def targets() -> list[Target]:
    xml = contents((LISTING, BOMB), XML_WORDS)
    return [
        *(Target(f"wire/{name}", _texts_of(samples), run, ()) for name, run, samples in TEXTS),
        Target("wire/head", _heads, _head, (ServiceFailed,)),
        Target("wire/listing", lambda: xml, _page, (ServiceFailed,)),
        Target("wire/level", lambda: xml, lambda content: listed_level(content, "r/"), (ServiceFailed,)),
        Target("wire/storage_error", lambda: damaged([STORAGE_ERROR.encode()]), error_code, ()),
        Target("wire/failure", _failures, _failure, (HimlError,), takes_some=False),
        Target("wire/token", _tokens, _token, ()),
        Target("wire/json", lambda: json_files([*ERRORS, WORKSPACE, TAGS]), _json, (NotJson,)),
        Target("wire/number", values, as_number, ()),
        Target("wire/sweep_tags", lambda: documents([TAGS]), _swept, ()),
        Target("wire/workspace", lambda: documents([WORKSPACE, {"workspace_id": "w", "location": "l"}]), _record, (ServiceFailed,)),
    ]


def _texts_of(samples: Sequence[str]) -> Callable[[], st.SearchStrategy[str]]:
    return lambda: texts(samples)
