"""azure-ai-ml, for users' job YAML and for scripts that continue with it. It is loaded on demand, silenced, and signed
in with himl's credentials. It reads a job's file and prepares the file's resources. himl submits the job itself."""

from __future__ import annotations

import ast
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stderr, suppress
from functools import partial
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.errors import BadUsage, HimlError, RunNotFound
from himl_cli.core.events import Notice, Notify
from himl_cli.core.installation import ca_bundle
from himl_cli.core.jobs import (
    USUAL_DATASTORE,
    DataSpec,
    DocumentSpec,
    EnvironmentSpec,
    ListFiles,
    Snapshot,
    secrets_text,
)
from himl_cli.core.json_text import is_too_deep
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.config import CLOUD_VARIABLE
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import load_azure_core
from himl_cli.workspaces.azure.jobs.assets import JobCode, JobEnvironment, fingerprint, store_snapshot
from himl_cli.workspaces.azure.jobs.body import PutRequest
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.data_assets import FILE, FOLDER, resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.jobs.job_submission import (
    USER_TOKEN,
    azure_run_id,
    before_creation,
    submit_request,
)
from himl_cli.workspaces.azure.network_errors import causes_of, is_network_error, network_error
from himl_cli.workspaces.azure.responses import Response, one_line
from himl_cli.workspaces.azure.service_errors import ServiceRefused, refusal

if TYPE_CHECKING:
    from azure.ai.ml import MLClient
    from azure.core.credentials import AccessToken

    from himl_cli.workspaces.azure.storage.datastores import Datastores

_HINT = (
    "Azure ML's schema of jobs: https://aka.ms/ml-cli-v2-job-command-yaml-reference (with links to sweeps "
    "and pipelines)."
)
_MISSING_FILE = re.compile(
    r"(?:No such file or directory: |Can't find directory or file in resolved absolute path: "
    r")([^'\"\]\n]+?)\.?(?=['\"\]\n]|$)"
)


@contextmanager
def silenced(*names: str) -> Iterator[None]:
    """A context in which a vendor's SDK with loggers of *names* (default: azure-ai-ml's) and its dependencies do not
    warn of their own experimental or deprecated parts. One thread at a time.

    Afterwards the loggers are restored, so that a script that continues with the SDK gets its messages.
    """
    load_azure_core()
    names = names or ("azure.ai.ml", "azure.ai.ml._utils._experimental")
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.CRITICAL)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def load_sdk() -> None:
    """Import azure-ai-ml unless it is loaded. At its import, it makes its own logger print to stderr, which `silenced`
    undoes."""
    with silenced():
        import azure.ai.ml
        import azure.ai.ml.entities  # noqa: F401


def client_for(connection: Connection, **options: Any) -> MLClient:
    """A client with the account of *connection*, for scripts that continue with azure-ai-ml itself. Call it after
    `load_sdk`.

    The cloud's environment variable stays set, because azure-ai-ml reads it for later requests.
    """
    from azure.ai.ml import MLClient

    address = connection.address
    return MLClient(
        SdkCredential(connection),
        address.subscription_id,
        address.resource_group,
        address.name,
        cloud=address.cloud.name,
        enable_telemetry=False,
        show_progress=False,
        connection_verify=ca_bundle(),
        **options,
    )


class SdkCredential:
    def __init__(self, connection: Connection) -> None:
        self._tokens = connection.tokens

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        """A token for the first of *scopes*, with the claims that a service requested. azure-ai-ml may keep it for ten
        minutes. himl itself checks its expiry."""
        from azure.core.credentials import AccessToken

        text = self._tokens.get(scopes[0])
        if options.get("claims"):
            text = self._tokens.renew(scopes[0], text, options["claims"])
        return AccessToken(text, int(time.time()) + 600)


@contextmanager
def restored_variables(*names: str) -> Iterator[None]:
    """A context that restores the environment variables *names*. azure-ai-ml sets the cloud's for the whole process,
    although another workspace may be in another cloud."""
    before = {name: os.environ.get(name) for name in names}
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def sdk_view(connection: Connection, run_id: str) -> tuple[Any, Any]:
    """azure-ai-ml's `Job` and `MLClient`. Raises RunNotFound, ServiceFailed."""
    load_sdk()
    from azure.core.exceptions import AzureError, HttpResponseError, ResourceNotFoundError

    try:
        with silenced():
            client = client_for(connection)
            return client.jobs.get(run_id), client
    except ResourceNotFoundError as err:
        raise RunNotFound(run_id, connection.address.label) from err
    except HttpResponseError as err:
        raise ServiceRefused(
            f"azure-ai-ml cannot read job '{run_id}': {err.reason} ({err.status_code}).", status=err.status_code or 0
        ) from err
    except AzureError as err:
        raise network_error(err, connection.arm("/jobs")) from err


def register_environment(
    connection: Connection, datastores: Datastores, environment: Any, list_files: ListFiles, notify: Notify
) -> Any:
    """azure-ai-ml's `Environment` of the same name and version (1 if it has none), registered if missing. Raises
    TypeError for another object, and azure-ai-ml's errors."""
    load_sdk()
    from azure.ai.ml.entities import Environment
    from azure.core.exceptions import ResourceNotFoundError

    if not isinstance(environment, Environment):
        kind = type(environment).__qualname__
        raise TypeError(f"The environment must be an azure.ai.ml.entities.Environment, not {kind}.")
    with silenced():
        client = client_for(connection)
        environment.version = environment.version or "1"
        try:
            return client.environments.get(environment.name, environment.version)
        except ResourceNotFoundError:
            with _Uploads(connection, datastores, list_files, notify).of_client(client):
                return client.environments.create_or_update(environment)


def sdk_data(connection: Connection, datastores: Datastores, item: DataSpec, is_output: bool, notify: Notify) -> Any:
    """*item* as azure-ai-ml's `Input` or `Output`, for jobs that a script creates itself. Raises as `resolve_inputs`
    and `resolve_outputs`."""
    load_sdk()
    from azure.ai.ml import Input, Output

    resolve = resolve_outputs if is_output else resolve_inputs
    data = resolve(connection, datastores, [item], None, notify)[item.key]
    path = f"azureml:{data.path}" if data.path.startswith("/") else data.path
    with silenced():
        if is_output:
            return Output(type=data.type, path=path, mode=data.mode, name=data.asset_name)
        return Input(type=data.type, path=path, mode=data.mode)


def submit_document(connection: Connection, datastores: Datastores, document: DocumentSpec, notify: Notify) -> Run:
    """Start the job, after an upload of the code, environments and data that it names by paths.

    An interruption before the job's creation leaves nothing running, and raises Interrupted. Raises BadUsage for a
    wrong file, and NotFound for a missing compute target, before any upload. Also raises NotAllowed and ServiceFailed.
    """
    with before_creation():
        load_sdk()
        run_id = azure_run_id(document.experiment)
        job = _read_job(connection, document, run_id)
        for name in _computes_of(job):
            check_compute(connection, name, notify=notify)
        tenant_id = connection.record().tenant_id
        # It prints blank lines to stderr, even with its progress disabled.
        told = _complaints(connection, document.path)
        with told, silenced(), restored_variables(CLOUD_VARIABLE), redirect_stderr(StringIO()):
            sent = _compose(connection, job, _Uploads(connection, datastores, document.list_files, notify))
    parts = urlsplit(sent.url)
    request = PutRequest(parts.path, parse_qs(parts.query)["api-version"][0], json.loads(sent.body))
    token = {USER_TOKEN: sent.headers[USER_TOKEN]} if sent.headers.get(USER_TOKEN) else {}
    return submit_request(
        connection, run_id, lambda: (request, token), tenant_id, job.experiment_name, redact(document.command), notify
    )


@contextmanager
def _complaints(connection: Connection, path: Path) -> Iterator[None]:
    """A context that translates every exception of azure-ai-ml, for the job in the file *path*, into a HimlError."""
    try:
        yield
    except HimlError:
        raise
    except Exception as err:
        raise _error_of(err, connection, path) from err


def _error_of(err: Exception, connection: Connection, path: Path) -> HimlError:
    """A refusal by a service, a missing network, a fault of the file, or else azure-ai-ml's own failure."""
    from azure.ai.ml.exceptions import MlException
    from marshmallow.exceptions import ValidationError
    from yaml import YAMLError

    chain = causes_of(err)
    inner = next((one for one in chain if isinstance(one, HimlError)), None)
    if inner is not None:  # himl's failed sign-in, which azure-ai-ml requested and wrapped
        return inner
    response = next((found for one in chain if (found := response_of(one)) and found.status >= 400), None)
    if response is not None:
        return refusal(response, connection.address, "azure-ai-ml's sign-in")
    if is_network_error(err):
        return network_error(err, connection.arm())
    if isinstance(err, FileNotFoundError):
        return BadUsage(f"{path.name}: '{err.filename}' does not exist.")
    if isinstance(err, (MlException, ValidationError, YAMLError)):  # also of its category for faults of the system
        return BadUsage(f"{path.name}: {complaint_of(str(err))}", hint=_HINT)
    return HimlError(
        f"azure-ai-ml cannot prepare {path.name}: {type(err).__name__}: {complaint_of(str(err))}",
        hint=f"azure-ai-ml may not support a part of the file. {_HINT}",
    )


def _read_job(connection: Connection, document: DocumentSpec, run_id: str) -> Any:
    from azure.ai.ml import Input, load_job
    from azure.ai.ml.entities import PipelineJob

    with _complaints(connection, document.path), silenced():
        job: Any = load_job(StringIO(document.text), relative_origin=str(document.path))
        job.name = run_id.lower()  # of the request that himl replaces by its own. Some jobs refuse capital letters.
    for key, value in (job.inputs if isinstance(job, PipelineJob) else {}).items():
        data = getattr(value, "_data", None)
        if isinstance(data, Input) and not data.path:  # azure-ai-ml's own error does not name it
            hint = f"Write it into the file, or add --set inputs.{key}.path=PATH"
            raise BadUsage(f"{document.path.name}: inputs.{key}: Missing 'path' of the data.", hint=hint)
    job.experiment_name, job.display_name = document.experiment, job.display_name or run_id
    job.tags = {**(job.tags or {}), "run_recovery_id": f"{job.experiment_name}:{run_id}"}
    return job


def _computes_of(job: Any) -> list[str]:
    from azure.ai.ml.entities import PipelineJob

    named = [getattr(job, "compute", None)]
    if isinstance(job, PipelineJob):
        named.append(job.settings.default_compute if job.settings else None)
        named += [getattr(node, "compute", None) for node in job.jobs.values()]
    return [*dict.fromkeys(text.removeprefix("azureml:") for text in named if isinstance(text, str) and text)]


def _compose(connection: Connection, job: Any, uploads: _Uploads) -> Any:
    """The request for *job* that azure-ai-ml composes. himl holds it back, while azure-ai-ml's earlier requests and
    registrations are sent, and *uploads* has the files. Raises azure-ai-ml's errors."""
    from azure.core.pipeline.transport import RequestsTransport

    class Composed(Exception):
        """The request for the job, which himl sends itself."""

    class Transport(RequestsTransport):  # type: ignore[misc]
        def send(self, request: Any, **options: Any) -> Any:
            path = urlsplit(request.url).path
            if request.method == "PUT" and re.search(r"/workspaces/[^/]+/jobs/[^/]+$", path, re.I):
                raise Composed(request)
            return super().send(request, **options)

    try:
        client = client_for(connection, transport=Transport(connection_verify=ca_bundle()))
        virtual_clusters: Any = client._virtual_clusters
        virtual_clusters.get = lambda name: {"id": name}  # for steps, azure-ai-ml would request the id by the id
        with uploads.of_client(client):
            client.jobs.create_or_update(job)
    except Composed as found:
        return found.args[0]
    raise RuntimeError("azure-ai-ml sent no request for a job")


class _Uploads:
    """The uploads of all files of this machine that azure-ai-ml's objects refer to, in place of its own, which know no
    secrets. Files that *list_files* leaves out are collected.

    azure-ai-ml has no public interface for this. It uploads through the three functions below, and reads each folder of
    code, with its ignored files, through the two of its modules.
    """

    def __init__(self, connection: Connection, datastores: Datastores, list_files: ListFiles, notify: Notify) -> None:
        self._connection, self._datastores, self._list_files = connection, datastores, list_files
        self._notify = notify
        self._secrets: dict[str, None] = {}

    @contextmanager
    def of_client(self, client: MLClient) -> Iterator[None]:
        """A context in which *client* uploads by this object. At its end, one notice names the secrets."""
        from azure.ai.ml._utils import _cache_utils as cache_of_components
        from azure.ai.ml.entities._assets._artifacts import code as code_assets

        codes: Any = client._code
        environments: Any = client.environments
        jobs: Any = client.jobs
        codes.create_or_update = partial(self._code, codes.create_or_update)
        environments.create_or_update = partial(self._environment, environments.create_or_update)
        jobs._resolve_job_input = partial(self._input, jobs._resolve_job_input)
        by_content = (
            (code_assets, "get_content_hash", lambda *_: ""),
            (cache_of_components, "get_object_hash", self._hash),
        )
        try:
            with ExitStack() as stack:
                for module, name, function in by_content:
                    stack.callback(setattr, module, name, getattr(module, name))
                    setattr(module, name, function)
                yield
        finally:
            if self._secrets:
                self._notify(Notice(secrets_text(sorted(self._secrets))))

    def _listed(self, path: Path, *, is_data: bool = False) -> Snapshot:
        report = self._list_files(path, is_data)
        self._secrets.update(dict.fromkeys(report.secrets))
        if not report.snapshot.files:
            raise BadUsage(
                f"himl sends no file of '{path}', which the job needs.",
                hint=secrets_text(report.secrets) if report.secrets else f"Check its {report.ignore_file}.",
            )
        return report.snapshot

    def _hash(self, path: str) -> str:
        return fingerprint(self._listed(Path(path)))[0]

    def _code(self, otherwise: Callable[[Any], Any], code: Any) -> Any:
        path = Path(code.base_path, code.path)
        if not path.exists():  # an address
            return otherwise(code)
        asset = JobCode(self._connection, self._listed(path))
        asset.find()
        asset.drop_lost()
        asset.make(self._notify)
        return SimpleNamespace(id=asset.id)

    def _environment(self, otherwise: Callable[[Any], Any], environment: Any) -> Any:
        if environment.path:
            build = environment.build
            spec = EnvironmentSpec(context=self._listed(Path(environment.path)), dockerfile=build.dockerfile_path or "")
            made = JobEnvironment(self._connection, self._datastores, spec)
            build.path, environment.path = made.upload(self._notify), None
            if environment._is_anonymous:  # its name is a hash of the folder
                environment._upload_hash = made.digest
                environment._generate_anonymous_name_version(source="build")
        return otherwise(environment)

    def _input(self, otherwise: Callable[[Any, Any], None], entry: Any, base_path: Any) -> None:
        """Replace the path of *entry*, azure-ai-ml's input of a job, with that of an upload, if it is on this
        machine."""
        given = str(getattr(entry, "path", None) or "")
        path = Path(base_path or Path.cwd(), given)
        is_right = {FOLDER: path.is_dir, FILE: path.is_file}.get(getattr(entry, "type", ""), path.exists)
        is_path = os.path.isabs(given) or (given and not re.search("[:@]", given))  # others are assets and addresses
        if not is_path or not is_right():
            return otherwise(entry, base_path)
        snapshot = self._listed(path, is_data=True)
        record = self._datastores.find(getattr(entry, "datastore", None) or USUAL_DATASTORE)
        folder = f"azureml://datastores/{record.name}/paths/himl-data/{fingerprint(snapshot)[0]}/"
        store_snapshot(self._datastores.at_uri(folder, record.label), snapshot, self._notify)
        entry.path = folder if path.is_dir() else folder + path.name


def response_of(err: BaseException) -> Response | None:
    """The service's response in an error of a vendor's client: as JSON in the message, or as the error's response.

    The response is that of requests, or of azure-core, whose text is a function and whose address is the request's.
    """
    message = str(getattr(err, "message", "") or "")
    document = _json(message[message.find("{") :]) if "{" in message else None
    if isinstance(document, Mapping) and isinstance(document.get("status_code"), int):
        url = str(document.get("url") or "").partition("?")[0]
        return Response("POST", url, document["status_code"], {}, document.get("error_details"))
    response: Any = getattr(err, "response", None)
    if not isinstance(getattr(response, "status_code", None), int):
        return None
    request = getattr(response, "request", None)
    url = str(getattr(response, "url", "") or getattr(request, "url", "")).partition("?")[0]
    text = response.text() if callable(response.text) else response.text
    headers = {str(name).lower(): str(value) for name, value in dict(response.headers).items()}
    return Response(str(getattr(request, "method", "")), url, response.status_code, headers, _json(text))


def _json(text: str) -> Any:
    """The document that *text* begins with, also as Python writes it, or *text*."""
    with suppress(RecursionError, ValueError):
        return json.JSONDecoder().raw_decode(text.strip())[0]
    with suppress(RecursionError, ValueError, SyntaxError, MemoryError):
        return ast.literal_eval(text.partition("; {")[0]) if text.startswith("{") else text
    return text


def complaint_of(text: str) -> str:
    """The key and its fault, as far as azure-ai-ml's *text* has them: `resources.instance_count: Not a valid integer.`

    azure-ai-ml reports a tree: JSON within text, a page of advice after it, and every possible form of a value. Users
    need only the first leaf.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    path, words = next(_leaves(text, ()), ((), text))
    missing = _MISSING_FILE.search(text if not path else words)
    reason = f"'{missing[1]}' does not exist" if missing else _first_line(words)
    keys = ".".join(path)
    return one_line(f"{keys}: {reason}" if keys.strip() else reason)


def _leaves(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    below: list[tuple[Any, tuple[str, ...]]] = []
    if isinstance(value, str):
        start = value.find("{")
        inner = _json(value[start:]) if value.startswith(("Validation for ", "{")) and start >= 0 else ""
        if isinstance(inner, str) or is_too_deep(inner):
            yield path, value
        else:
            below = [(inner, path)]
    elif isinstance(value, list):
        below = [(one, path) for one in value]
    elif isinstance(value, dict) and isinstance(value.get("errors"), list):
        below = [(value["errors"], path)]
    elif isinstance(value, dict) and "message" in value and "path" in value:
        key = str(value["path"] or "")
        below = [(value["message"], path if key in ("", "*") else (*path, key))]
    elif isinstance(value, dict):
        below = [(one, path if name == "_schema" else (*path, str(name))) for name, one in value.items()]
    for one, key_path in below:
        yield from _leaves(one, key_path)


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    wrong = next((number for number, line in enumerate(lines) if line.startswith("(x)")), None)
    if wrong is not None:  # a field with its fault on the next line, or both on one line
        field, after = lines[wrong].removeprefix("(x)").strip(), lines[wrong + 1 : wrong + 2]
        return f"{field} {after[0].removeprefix('-').strip()}" if field.endswith(":") and after else field
    if lines and lines[0].startswith(("Error while parsing", "while ")):  # of the YAML library, with file and line
        return " ".join(lines[: 4 if lines[0].startswith("Error") else 3])
    return lines[0] if lines else "no reason given"
