"""Job YAML that users bring: azure-ai-ml reads it and makes ready what it refers to, himl sends the job itself."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import SERVERLESS, DocumentChanges, secrets_text
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run
from himl_cli.core.text import is_too_deep, read_json
from himl_cli.workspaces.azure.address import CLOUD_VARIABLE
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import PutRequest
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.create import (
    USER_TOKEN,
    azure_run_id,
    before_creation,
    create_job,
    created_job,
    created_run,
)
from himl_cli.workspaces.azure.jobs.sdk import client_for, load_sdk, restored_variables, silenced
from himl_cli.workspaces.azure.service_errors import ErrorResponse, network_error, refusal
from himl_cli.workspaces.azure.tls import ca_bundle

if TYPE_CHECKING:
    from azure.core.exceptions import HttpResponseError

EXPERIMENT = "Default"
"""The service's word for the experiment of jobs that name none."""
LONGEST = 300
_HINT = (
    "Azure ML's schema of jobs: https://aka.ms/ml-cli-v2-job-command-yaml-reference (and its neighbours for sweep "
    "and pipeline)."
)
_MISSING_FILE = re.compile(
    r"(?:No such file or directory: |Can't find directory or file in resolved absolute path: "
    r")([^'\"\]\n]+?)\.?(?=['\"\]\n]|$)"
)


def submit_document(connection: Connection, path: Path, changes: DocumentChanges, notify: Notify) -> Run:
    """Start the job of the file. Code, environments and data that it names by paths are uploaded and registered by
    azure-ai-ml.

    Until the job is created, an interruption leaves nothing that runs; it raises Interrupted. Raises BadUsage for what
    is wrong with the file, NotFound for a compute that is not there, before anything is uploaded; NotAllowed,
    ServiceFailed.
    """
    with before_creation():
        load_sdk()
        run_id = azure_run_id(changes.experiment or path.stem)
        job = _read_job(path, changes, run_id)
        for name in _computes_of(job):
            check_compute(connection, name, notify=notify)
        tenant_id = connection.record().tenant_id
        notify(Notice("azure-ai-ml uploads what the file names."))
        # it prints blank lines on stderr, whatever it is told of progress
        with _complaints(path), silenced(), restored_variables(CLOUD_VARIABLE), redirect_stderr(StringIO()):
            sent = _compose(connection, job, changes.is_secret, notify)
    parts = urlsplit(sent.url)
    request = PutRequest(parts.path, parse_qs(parts.query)["api-version"][0], json.loads(sent.body))
    token = {USER_TOKEN: sent.headers[USER_TOKEN]} if sent.headers.get(USER_TOKEN) else {}
    answer = create_job(connection, run_id, request, token)
    with created_job(run_id):
        command = redact(changes.command)
        return created_run(connection, run_id, answer, tenant_id, experiment=job.experiment_name, command=command)


@contextmanager
def _complaints(path: Path) -> Iterator[None]:
    """Within it, what azure-ai-ml finds wrong with the file becomes BadUsage, which names the file and the key."""
    from azure.ai.ml.exceptions import MlException
    from marshmallow.exceptions import ValidationError

    try:
        yield
    except (MlException, ValidationError) as err:
        raise BadUsage(f"{path.name}: {complaint_of(str(err))}", hint=_HINT) from err
    except FileNotFoundError as err:
        raise BadUsage(f"{path.name}: there is no '{err.filename}'.") from err


def _read_job(path: Path, changes: DocumentChanges, run_id: str) -> Any:
    """azure-ai-ml's job of the file as run *run_id*, with what is to be otherwise. Raises BadUsage."""
    from azure.ai.ml import load_job
    from azure.ai.ml.entities import PipelineJob, PipelineJobSettings

    with _complaints(path), silenced():
        job: Any = load_job(path, params_override=[{key: folder} for key, folder in changes.code.items()])
    is_pipeline = isinstance(job, PipelineJob)
    job.display_name = changes.display_name or job.display_name or job.name or run_id
    job.name = run_id
    job.experiment_name = changes.experiment or job.experiment_name or EXPERIMENT
    job.description = changes.description or job.description
    job.tags = {**(job.tags or {}), **changes.tags, "run_recovery_id": f"{job.experiment_name}:{run_id}"}
    if changes.cluster and is_pipeline:
        job.settings = job.settings or PipelineJobSettings()
        job.settings.default_compute = changes.cluster
    elif changes.cluster:
        job.compute = None if changes.cluster.lower() == SERVERLESS else changes.cluster
    for part in (job, getattr(job, "trial", None), *(job.jobs.values() if is_pipeline else ())):
        if changes.env and hasattr(part, "environment_variables"):
            part.environment_variables = {**(part.environment_variables or {}), **changes.env}
    return job


def _computes_of(job: Any) -> list[str]:
    """The names of all computes that the job names, without those of Azure ML's own choice."""
    from azure.ai.ml.entities import PipelineJob

    named = [getattr(job, "compute", None)]
    if isinstance(job, PipelineJob):
        named.append(job.settings.default_compute if job.settings else None)
        named += [getattr(node, "compute", None) for node in job.jobs.values()]
    names = [text.removeprefix("azureml:") for text in named if isinstance(text, str) and text]
    names = [text.rpartition("/computes/")[2] or text for text in names]
    return [*dict.fromkeys(text for text in names if text.lower() != SERVERLESS)]


def _compose(connection: Connection, job: Any, is_secret: Callable[[str, str], bool], notify: Notify) -> Any:
    """The request for *job* that azure-ai-ml composes; it stays here, while all that it asks, uploads and registers
    before that is sent.

    Of folders of code the files that are secrets, by a folder and a path, are left out, and *notify* hears of them.

    Raises what azure-ai-ml raises for a wrong job, and himl's errors for what the services refuse.
    """
    from azure.ai.ml.exceptions import MlException
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.core.pipeline.transport import RequestsTransport

    class Composed(Exception):
        """The request for the job, which is himl's to send."""

    class Transport(RequestsTransport):  # type: ignore[misc]
        """Sends everything but that."""

        def send(self, request: Any, **options: Any) -> Any:
            if request.method == "PUT" and re.search(
                r"/workspaces/[^/]+/jobs/[^/]+$", urlsplit(request.url).path, re.I
            ):
                raise Composed(request)
            return super().send(request, **options)

    try:
        client = client_for(connection, transport=Transport(connection_verify=ca_bundle()))
        _leave_out_secrets(client._code, is_secret, notify)  # what uploads code, whoever asks for it
        client.jobs.create_or_update(job)
    except Composed as found:
        return found.args[0]
    except HttpResponseError as err:
        raise _refused(err, connection) from err
    except AzureError as err:
        if isinstance(err, MlException):
            raise
        raise network_error(err, connection.arm()) from err
    raise RuntimeError("azure-ai-ml made no request for a job")


def _leave_out_secrets(uploads: Any, is_secret: Callable[[str, str], bool], notify: Notify) -> None:
    """Make azure-ai-ml pass over secrets: in the hash that it knows code by, and in what it uploads. There is no public
    way to tell it."""
    from azure.ai.ml._utils._asset_utils import get_content_hash

    upload = uploads.create_or_update

    def without_secrets(code: Any) -> Any:
        if not hasattr(code, "_ignore_file"):  # nothing of this machine
            return upload(code)
        folder, is_excluded, secrets = str(code.path), code._ignore_file.is_file_excluded, set[str]()

        def excludes(path: Any) -> bool:
            if is_excluded(path):
                return True
            if not is_secret(folder, str(path)):
                return False
            secrets.add(Path(os.path.relpath(path, folder)).as_posix())
            return True

        code._ignore_file.is_file_excluded = excludes
        code._hash_sha256 = get_content_hash(code.path, code._ignore_file)
        if secrets:
            notify(Notice(secrets_text(sorted(secrets))))
        return upload(code)

    uploads.create_or_update = without_secrets


def _refused(err: HttpResponseError, connection: Connection) -> HimlError:
    """The service's refusal of a request that azure-ai-ml sent, as himl tells it."""
    answer: Any = err.response
    if answer is None:
        return ServiceFailed(f"azure-ai-ml could not make the job ready: {redact(str(err.message))}")
    try:
        body = read_json(answer.text())
    except ValueError:
        body = answer.text()
    headers = {name.lower(): value for name, value in answer.headers.items()}
    failure = ErrorResponse(
        str(answer.request.method), answer.request.url.partition("?")[0], answer.status_code, headers, body
    )
    return refusal(failure, connection.address, "azure-ai-ml's sign-in")


def complaint_of(text: str) -> str:
    """The key and what is wrong there, as far as *text*, azure-ai-ml's own, tells: `resources.instance_count: Not a
    valid integer.`

    It reports a tree: JSON within text, a page of advice behind it, and every form that a value could have had. What
    people need is the first leaf.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    path, words = next(_leaves(text, ()), ((), text))
    missing = _MISSING_FILE.search(text if not path else words)
    reason = f"there is no '{missing[1]}'" if missing else _first_line(words)
    keys = " ".join(".".join(path).split())
    line = redact(f"{keys}: {reason}" if keys else reason)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Texts of a report with the keys that they are about."""
    if isinstance(value, str):
        inner = _json_in(value)
        if inner is None:
            yield path, value
        else:
            yield from _leaves(inner, path)
    elif isinstance(value, list):
        for one in value:
            yield from _leaves(one, path)
    elif isinstance(value, dict) and isinstance(value.get("errors"), list):
        yield from _leaves(value["errors"], path)
    elif isinstance(value, dict) and "message" in value and "path" in value:
        key = str(value["path"] or "")
        yield from _leaves(value["message"], path if key in ("", "*") else (*path, key))
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _leaves(one, path if name == "_schema" else (*path, str(name)))


def _json_in(text: str) -> Any | None:
    """The JSON object that *text* is, or carries behind its heading; None where it carries none."""
    start = text.find("{")
    if not text.startswith(("Validation for ", "{")) or start < 0:
        return None
    try:
        found = json.JSONDecoder().raw_decode(text[start:])[0]
    except (RecursionError, ValueError):
        return None
    return None if is_too_deep(found) else found


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = next((number for number, line in enumerate(lines) if line.startswith("(x)")), None)
    if wrong is not None:  # a field, and in the next line what is wrong with it; or all of it in one
        field, after = lines[wrong].removeprefix("(x)").strip(), lines[wrong + 1 : wrong + 2]
        return f"{field} {after[0].removeprefix('-').strip()}" if field.endswith(":") and after else field
    if lines and lines[0].startswith("Error while parsing"):
        return " ".join(lines[:4])
    return lines[0] if lines else "it does not say what"
