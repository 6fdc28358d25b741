"""Parsers of typed input (options, ids, addresses, patterns), and of services' replies (headers, XML, JSON, tokens,
times).
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pycurl
from hypothesis import strategies as st

from himl_cli.commands import options
from himl_cli.core import redaction
from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.json_text import NotJson, read_json
from himl_cli.core.sweeps import HYPERPARAMETERS, hyperparameters_of
from himl_cli.core.text import parse_duration
from himl_cli.core.workspaces import parse_workspace_id
from himl_cli.services.checkpoints import names as checkpoint_names
from himl_cli.services.checkpoints.names import parse_name
from himl_cli.services.runs.lookup import is_run_address, parse_reference, split_recovery_id, workspace_in_url
from himl_cli.services.submission import data, request, requirements, snapshot
from himl_cli.services.submission.sweeps import (
    parse_call,
    parse_early_stop,
    parse_sampling,
    parse_space,
    requested_sweep,
    sweep_remarks,
    sweep_text,
)
from himl_cli.services.transfer.local_files import UnsafeName, folded, part_name, safe_relative
from himl_cli.services.transfer.plan import Filters
from himl_cli.slides.query import Pattern
from himl_cli.workspaces import web
from himl_cli.workspaces.azure import connection, credentials, responses, run_metrics, run_records, service_errors
from himl_cli.workspaces.azure.responses import Response, as_time
from himl_cli.workspaces.azure.storage import blob_responses, container, datastores, signing
from himl_cli.workspaces.transfer_engine import curl
from himl_cli.workspaces.transfer_engine import failures as engine_failures
from himl_cli.workspaces.transfer_engine import headers as engine_headers
from himl_cli.workspaces.transfer_engine.headers import http_time, md5_from, retry_after, size_from
from stress.fuzz.strategies import ADDRESS, Target, contents, damaged, documents, json_files, text_target, texts, values

SUB = (
    "/subscriptions/0f0f0f0f-0000-4000-8000-000000000000/resourceGroups/group/providers/"
    "Microsoft.MachineLearningServices/workspaces/ws"
)
STUDIO = f"https://ml.azure.com/runs/train_1700000000_0badcafe?wsid={SUB}&tid=0f0f0f0f-0000-4000-8000-000000000001"
RUNS = (
    "train_1700000000_0badcafe",
    "exp:train_1700000000_0badcafe",
    "HD_0f0f0f0f-0000-4000-8000-000000000000_3",
    "latest",
    STUDIO,
)
SIGNED = (
    "https://host.blob.core.windows.net/c/folder/epoch%3D3.ckpt?sv=2021&sr=b&sig=abc%2F%3D&"
    "se=2026-11-20T10%3A40%3A57Z#part"
)
CHOICE = '--depth=choice(1, 2, "a,b")'
SPACES = (
    "lr=0.1,0.01",
    CHOICE,
    "x=uniform(0,1)",
    "y=loguniform(-6, -1)",
    "n=randint(10)",
    "q=quniform(0, 10, 2)",
    "m=qlognormal(0,1,1)",
)
BANDIT = "bandit(slack_factor=0.1, evaluation_interval=1, delay_evaluation=5)"
STOPS = (BANDIT, "median(delay_evaluation=2)", "truncation(truncation_percentage=20)", "bandit(slack_amount=1)")
CHECKPOINTS: tuple[str, ...] = (
    *(
        "outputs/checkpoints/last.ckpt",
        "outputs/checkpoints/recovery_epoch=9-step=90-v1.ckpt",
        "epoch=3-val/loss=0.12-v1.ckpt",
    ),
    *(
        "best_val_loss.ckpt",
        "outputs/retry_001/checkpoints/autosave.ckpt",
        "best-val_loss=-1.5e-3,step=17.pt",
        "model-epoch-00012",
    ),
)
GLOBS = ("*.ckpt", "checkpoints/**", "/a/[a-c]?/**/x", "**/*.tfevents*", "[!x]y[]z]", "{a,b}", "a**b**c*d")
IGNORED = (
    "*.pyc\n__pycache__/\n!keep.pyc\n/build\n# comment\nfoo/**/bar\n\\#x\ntrailing\\ \n[a-c]*.txt\n**/x\n",
    "*\n!*.py\n!a/\n",
)
NAMES = (
    "a/b.txt",
    "outputs/checkpoints/last.ckpt",
    "C:\\x",
    "../x",
    "a//b",
    "aux.txt",
    ".himl-transfer.db",
    "naïve/é.txt",
    "a/./b",
    "x.himl-part",
)
PIP = (
    *(
        "numpy==1.26.0",
        "torch[extra] >=2,<3 ; python_version < '3.11'",
        "--extra-index-url https://user:pw@host/simple",
    ),
    *("-e git+https://h/r.git#egg=x", "a @ https://h/a.whl"),
)
DATA_URIS = ("azureml://datastores/d/paths/a/b", f"azureml:/{SUB}/datastores/d/paths/x", SIGNED)
MASKED = (
    "--env_var TOKEN=abc",
    "curl -H 'Authorization: Bearer xyz' https://u:p@h/x?sig=abc",
    "-e A_KEY='se cret'",
    'python x.py --password "a b" --n 3',
)
TYPED: Sequence[tuple[str, Callable[[str], object], Sequence[str], tuple[type[Exception], ...]]] = (
    ("reference", parse_reference, RUNS, (BadUsage,)),
    ("recovery_id", split_recovery_id, RUNS, (BadUsage,)),
    ("studio_url", lambda text: (workspace_in_url(text), is_run_address(text)), (STUDIO, SUB), ()),
    ("workspace_id", parse_workspace_id, (SUB, STUDIO), ()),
    ("call", parse_call, (*STOPS, "uniform(0, 1)", 'choice("a,b", c)'), ()),
    ("space", lambda text: parse_space([text]), SPACES, (BadUsage,)),
    ("early_stop", parse_early_stop, STOPS, (BadUsage,)),
    ("sampling", parse_sampling, ("random(seed=5)", "grid", "bayesian", "random"), (BadUsage,)),
    (
        "input",
        lambda text: data.parse_data("input", [text]),
        ("INPUT=data:3,mode=mount,local=/x", "data:latest", "K=azureml:a:1,target=t,datastore=d"),
        (BadUsage,),
    ),
    (
        "output",
        lambda text: data.parse_data("output", [text]),
        ("OUT=data,mode=upload,overwrite=false", "data,local=/x"),
        (BadUsage,),
    ),
    ("duration", parse_duration, ("30s", "1.5d", "2h", "10m"), (BadUsage,)),
    ("size", lambda text: request.check_size("--shm_size", text), ("512m", "100g", "007k"), (BadUsage,)),
    ("pip_line", lambda text: requirements.parse_pip_line(text, "'requirements.txt', line 3"), PIP, (BadUsage,)),
    (
        "pattern",
        lambda text: Pattern(text).matches("a/b/slide_1.tiff"),
        ("**/*.tiff", "a/**/b*[0-9]?.svs", "./x/**"),
        (BadUsage,),
    ),
    ("checkpoint_rank", checkpoint_names.rank_of, CHECKPOINTS, ()),
    ("checkpoint_name", parse_name, CHECKPOINTS, ()),
    ("storage_uri", lambda text: datastores.parse_data_uri(text, ADDRESS), DATA_URIS, (BadUsage,)),
    ("redaction", lambda text: redaction.mask_line(redaction.redact(text)), MASKED, ()),
)


def _address(text: str) -> None:
    for read in (
        redaction.is_address,
        redaction.is_botched_address,
        redaction.shown,
        redaction.identity,
        redaction.last_name,
    ):
        read(text)
    redaction.safe_name(redaction.last_name(text)).encode()


def _sweep(given: tuple[list[str], str, str, str, int, bool]) -> None:
    space, sampling, stop, metric, trials, on_azure = given
    cluster = "gpu" if on_azure else None
    options: dict[str, Any] = {
        "sampling": sampling or None,
        "max_trials": trials,
        "primary_metric": metric,
        "early_stop": stop or None,
    }
    spec = requested_sweep(request.SubmitRequest(cwd=Path(), cluster=cluster, sweep=space, **options))
    if spec is not None:
        sweep_text(spec)
        sweep_remarks(spec, ["--lr", "3"])


def _sweeps() -> st.SearchStrategy[Any]:
    spaces, sampling, stops = (
        st.lists(texts(SPACES), min_size=1, max_size=3),
        texts(("random", "grid", "bayesian", "")),
        st.just("") | texts(STOPS),
    )
    return st.tuples(
        spaces,
        sampling,
        stops,
        st.sampled_from(["val/loss", "", " ", "\ud800"]),
        st.sampled_from([1, 0, 5, -1, 2**70]),
        st.booleans(),
    )


def _filter(given: tuple[str, str, str]) -> None:
    Filters(include=(given[0],), exclude=(given[1],)).admit(given[2])


def _ignore(given: tuple[bytes, str]) -> None:
    rules = snapshot.parse_rules(given[0])
    for is_folder in (False, True):
        snapshot.verdict(rules, given[1], is_folder=is_folder)


def _safe_name(name: str) -> None:
    for windows in (False, True):
        parts = safe_relative(name, windows=windows)
        assert not any(part in ("", ".", "..") for part in parts), parts
        part_name(parts[-1], "0a1b2c3d").encode("utf-8", "surrogateescape")
        folded(name)


def _can_be_path(name: str) -> bool:
    try:
        return "\0" not in name and bool(Path(name).parts) and len(name.encode("utf-8", "surrogateescape")) < 4096
    except UnicodeEncodeError:
        return False


LISTING = (
    '<?xml version="1.0" encoding="utf-8"?><EnumerationResults '
    'ServiceEndpoint="https://a.blob.core.windows.net/" ContainerName="c"><Prefix>r/</Prefix><Blobs>'
    "<Blob><Name>r/a.txt</Name><Properties><Last-Modified>Fri, 20 Nov 2026 10:40:57 "
    "GMT</Last-Modified><Etag>0x8D</Etag><Content-Length>3</Content-Length>"
    "<Content-MD5>rL0Y20zC+Fzt72VPzMSk2A==</Content-MD5><BlobType>BlockBlob</BlobType></Properties>"
    "<Metadata><hdi_isfolder>true</hdi_isfolder></Metadata>"
    "</Blob><BlobPrefix><Name>r/b/</Name></BlobPrefix><Blob><Name "
    'Encoded="true">r/%FFx</Name><Properties><Content-Length>0</Content-Length>'
    "<ResourceType>file</ResourceType></Properties></Blob></Blobs><NextMarker>2!96!m</NextMarker></EnumerationResults>"
)
BOMB = (
    '<!DOCTYPE l [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<EnumerationResults><Blobs><Blob><Name>&b;</Name></Blob></Blobs></EnumerationResults>"
)
XML_WORDS: tuple[str, ...] = (
    *(
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
    ),
    *(
        "&#0;",
        "&#xD800;",
        "&x;",
        "<![CDATA[",
        "]]>",
        "<!--",
        "-->",
        "<?",
        "?>",
        'encoding="utf-7"',
        'encoding="utf-16"',
        'encoding="x"',
    ),
    *("<!DOCTYPE l [", '<!ENTITY a "&a;">', "&b;"),
)
TIMES = (
    *(
        "Fri, 20 Nov 2026 10:40:57 GMT",
        "2026-11-20T10:40:57.1234567Z",
        "2026-11-20T10:40:57+01:00",
        "Friday, 20-Nov-26 10:40:57 GMT",
    ),
    *("Fri Nov 20 10:40:57 2026", "0001-01-01T00:00:00"),
)
WAITS = ("3", "0.5", "1500", *TIMES)
SAS = (
    "?sv=2021-08-06&se=2026-11-20T10%3A40%3A57Z&sr=b&sp=r&sig=a%2Fb%3D",
    "se=2026-11-20&sig=x",
    "se=2026-11-20T10:40:57.123+01:00&sig=x",
)
MORE = [{"type": "InnerError", "info": {"value": {"code": "a", "innerError": {"code": "b"}}}}]
REFUSED = {
    "code": "UserError",
    "message": "must match the tenant 'https://sts/T/'",
    "innerError": {"code": "NotFound", "innerError": None},
}
ERRORS = (
    {"error": {"code": "AuthorizationFailed", "message": "no", "additionalInfo": MORE}},
    {"error": REFUSED, "correlation": {"request": "r"}},
    {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no run"},
)
STORAGE_ERROR = (
    '<?xml version="1.0"?><Error><Code>AuthenticationFailed</Code><Message>m</Message>'
    "<AuthenticationErrorDetail>d</AuthenticationErrorDetail></Error>"
)
CLAIMS = {"tid": "t", "upn": "u@h", "exp": 1800000000, "appid": "a", "oid": "o"}
ENCODED = base64.urlsafe_b64encode(b'{"access_token": {"nbf": {"essential": true}}}').decode()
INSUFFICIENT = (
    'Bearer realm="", authorization_uri="https://login.microsoftonline.com/T/oauth2", '
    f'error="insufficient_claims", claims="{ENCODED}"'
)
CHALLENGE = (INSUFFICIENT, "Basic", "Bearer")
HEADERS = (
    *(
        "content-length",
        "content-range",
        "etag",
        "last-modified",
        "content-disposition",
        "content-type",
        "content-encoding",
        "content-md5",
        "date",
    ),
    *("x-ms-blob-type",),
)
VALUES = (
    *(
        "3",
        "bytes 0-0/12",
        '"0x8D"',
        "W/x",
        TIMES[0],
        "attachment; filename=\"a.ckpt\"; filename*=UTF-8''%e2%82%ac.pt",
        "text/html; charset=x",
    ),
    *("gzip, br", "rL0Y20zC+Fzt72VPzMSk2A=="),
)
TAGS = {
    "runId": "HD_1_3",
    "parentRunId": "HD_1",
    "runType": "hyperdrive",
    "tags": {HYPERPARAMETERS: '{"--lr": 0.1}', "_aml_system_x": "y", "HD_1_3": "z"},
} | {"properties": {"primary_metric_config": '{"name": "loss", "goal": "minimize"}', "best_child_run_id": "HD_1_0"}}
PROPERTIES = {"workspaceId": "w", "mlFlowTrackingUri": "azureml://eastus.api.azureml.ms/x", "tenantId": "t"}
WORKSPACE = {"id": ADDRESS.path, "location": "eastus", "properties": PROPERTIES, "sku": {"name": "Basic"}}


class Head(curl.CurlResponse):
    """The head of a reply with *status*, in the form of libcurl."""

    def __init__(self, status: int, headers: dict[str, str]) -> None:
        super().__init__(pycurl.Curl(), "GET", pycurl)
        said = [
            f"{name}: ".encode() + value.encode("utf-8", "surrogatepass") + b"\r\n" for name, value in headers.items()
        ]
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
    for read in (web.total_size, web.validator_of, engine_headers.whole_md5):
        read(line)
    blob_responses.properties_of(line, "a")


def _heads() -> st.SearchStrategy[Any]:
    addresses = texts(("https://host/a.ckpt", "https://host/", "https://h/a%2Fb"))
    return st.tuples(
        st.sampled_from([200, 206, 416, 304]),
        st.dictionaries(st.sampled_from(HEADERS), texts(VALUES), min_size=1, max_size=4),
        addresses,
    )


def _page(xml: bytes) -> None:
    for blob in container.listed_page(xml, "r/").blobs:
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
    signature = signing.Signature.of_sas(text)
    assert 0 <= signature.expires < 1e12, signature.expires
    assert signature.is_due in (True, False)


def _failure(given: tuple[int, Any, str]) -> None:
    status, body, challenge = given
    headers = {"www-authenticate": challenge, "retry-after": challenge[:9], "x-ms-request-id": "r"}
    failure = Response("GET", f"https://management.azure.com{ADDRESS.path}/jobs/x", status, headers, body)
    for told in (
        failure.codes,
        failure.in_brackets,
        failure.request_id,
        service_errors.claims_of(failure.headers),
        failure.path,
    ):
        repr(told)
    raise service_errors.refusal(failure, ADDRESS, "your sign-in")


def _tokens() -> st.SearchStrategy[str]:
    coded = json_files([CLAIMS]).map(lambda content: f"h.{base64.urlsafe_b64encode(content).decode()}.s")
    return st.one_of(coded, coded, texts(("eyJ.eyJ0aWQiOiJ0In0.s",)))


def _swept(document: Any) -> None:
    if isinstance(document, dict):
        form = {name: document.get(name) for name in ("runId", "parentRunId", "runType")}
        form |= {name: value for name in ("tags", "properties") if isinstance(value := document.get(name), dict)}
        run_records.own_names(form)
        for tag in run_records.sweep_tags(form).values():
            assert isinstance(tag, str), tag


def _record(document: Any) -> None:
    connection.WorkspaceRecord.from_json(document)
    connection.WorkspaceRecord.from_arm(document, ADDRESS)


TOLD: Sequence[tuple[str, Callable[[str], object], Sequence[str]]] = (
    ("time", _time, TIMES),
    ("wait", _wait, WAITS),
    ("sas", _sas, SAS),
    ("md5", md5_from, ("rL0Y20zC+Fzt72VPzMSk2A==", "AAAA")),
    ("size", size_from, ("3", "00", "123456789012345678")),
    ("status", run_records.status_of, ("Completed", "Running", "NotStarted")),
    ("challenge", lambda text: service_errors.claims_of({"www-authenticate": text}), CHALLENGE),
    (
        "hyperparameters",
        lambda text: hyperparameters_of({HYPERPARAMETERS: text}),
        ('{"lr": 0.1, "--depth": 3}', "[1]", "{}"),
    ),
)


def targets() -> list[Target]:
    xml, name = contents((LISTING, BOMB), XML_WORDS), texts(NAMES)
    failures = st.tuples(st.sampled_from([400, 401, 403, 404, 409, 429, 500, 503]), documents(ERRORS), texts(CHALLENGE))
    return [
        *(text_target(f"typed/{name}", samples, call, refusals) for name, call, samples, refusals in TYPED),
        *(text_target(f"wire/{name}", samples, call, ()) for name, call, samples in TOLD),
        text_target(
            "typed/address", (SIGNED, "http://127.0.0.1:8080/a", "https:/host", "s3://b/k", STUDIO), _address, ()
        ),
        Target("typed/sweep", _sweeps, _sweep),
        Target("typed/filters", lambda: st.tuples(texts(GLOBS), texts(GLOBS), name), _filter),
        Target("typed/ignore_rules", lambda: st.tuples(contents(IGNORED), name.filter(_can_be_path)), _ignore, ()),
        Target("typed/file_name", lambda: name, _safe_name, (UnsafeName,)),
        text_target("typed/pairs", ("A=b", "x", "=y", "a=b=c"), lambda text: options.parse_pairs("--tag", [text])),
        text_target("typed/count", ("all", "3", "0"), lambda text: options.parse_count("--num_runs", text)),
        text_target(
            "typed/status", ("Completed", "failed", "Running"), lambda text: options.parse_statuses("--status", [text])
        ),
        Target("wire/head", _heads, _head, (ServiceFailed,)),
        Target("wire/listing", lambda: xml, _page, (ServiceFailed,)),
        Target("wire/level", lambda: xml, lambda content: container.listed_level(content, "r/"), (ServiceFailed,)),
        Target("wire/storage_error", lambda: damaged([STORAGE_ERROR.encode()]), engine_failures.error_code, ()),
        Target("wire/failure", lambda: failures, _failure, (HimlError,), takes_some=False),
        Target("wire/token", _tokens, lambda text: credentials.Token(text, 1.0, "c").claims(), ()),
        Target("wire/json", lambda: json_files([*ERRORS, WORKSPACE, TAGS]), read_json, (NotJson,)),
        Target("wire/number", values, run_metrics.as_number, ()),
        Target("wire/sweep_tags", lambda: documents([TAGS]), _swept, ()),
        Target(
            "wire/workspace",
            lambda: documents([WORKSPACE, {"workspace_id": "w", "location": "l"}]),
            _record,
            (ServiceFailed,),
        ),
    ]
