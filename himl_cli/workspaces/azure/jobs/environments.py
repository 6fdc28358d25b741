"""The environment of a job: a registered one that is looked for, or one made from files, registered where it is new."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.jobs import DOCKERFILE, USUAL_DATASTORE, EnvironmentSpec, JobSpec, Snapshot
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import AT_ONCE
from himl_cli.workspaces.azure.jobs.body import PutRequest, build_request, image_request
from himl_cli.workspaces.azure.jobs.code import JobAsset, UploadSink, folder_for
from himl_cli.workspaces.azure.jobs.data_assets import LATEST
from himl_cli.workspaces.azure.responses import as_time, http_time, resources, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound
from himl_cli.workspaces.azure.storage.datastore_records import BLOB
from himl_cli.workspaces.azure.storage.datastores import Datastores

KIND = "environments"
ELSEWHERE = ("azureml://", "/subscriptions/")
"""How the names of environments begin that lie in a registry or are ids already: the service looks for those itself."""
CURATED = "AzureML-"
"""How the names of Azure ML's own environments begin: no workspace has them registered, azure-ai-ml does not look for
them either."""
CONTEXTS = "himl-environments"
"""The folder of USUAL_DATASTORE that build contexts lie in, each under the digest of its contents. That is in the
workspace's own storage account, whatever its default datastore is: from others Azure ML may not be let read."""
_WITH_WHEELS, _BUILT = "himl-private-wheels", "himl-build-context"
"""The names under which environments are registered that have private wheels, or are built from a folder; their
versions are digests of their contents."""
_CLOCK_SECONDS = 2.0  # two clocks of the service may differ by that
_SHOWN_VERSIONS = 10
_PARAMS = {"api-version": ApiVersion.ENVIRONMENTS}
_CONDA_FILE, _CONTEXT, _PREFIX = "conda.yml", "/himl-environment", "/azureml-envs/himl"
_WITH_CONDA = f"""\
RUN conda env create --prefix {_PREFIX} --file {_CONTEXT}/{_CONDA_FILE} && conda clean --all --yes
ENV CONDA_DEFAULT_ENV={_PREFIX}
ENV AZUREML_CONDA_ENVIRONMENT_PATH={_PREFIX}
ENV PATH={_PREFIX}/bin:$PATH
ENV LD_LIBRARY_PATH={_PREFIX}/lib:$LD_LIBRARY_PATH
"""


class JobEnvironment:
    """The environment of one job, as a workspace has it."""

    unchanged = "Environment unchanged since an earlier submit: not registered again."

    def __init__(self, connection: Connection, datastores: Datastores, spec: EnvironmentSpec) -> None:
        self._connection = connection
        self._datastores = datastores
        self._spec = spec

    def find(self) -> JobAsset | None:
        """The environment if it is there: a named one is asked for, one made from files is known here or has to be
        registered.

        Raises NotFound for a name that is not there, BadUsage for files that cannot be used.
        """
        if self._spec.name:
            return JobAsset(environment_id(self._connection, self._spec.name, self._spec.version), is_cached=False)
        conda_contents(self._spec)
        return self.cached()

    def cached(self) -> JobAsset | None:
        """The environment made from these files that is cached; no request."""
        id = self._connection.kept.get(KIND, self._key)
        return JobAsset(id, is_cached=True) if isinstance(id, str) and id else None

    def register(self, notify: Notify) -> JobAsset:
        """Register an environment made from files, as azure-ai-ml does it: the same files give the same version, which
        may be there already; *notify* hears so."""
        request = self._request()
        url = self._connection.arm(quote(request.path))
        begun = time.monotonic()
        reply = self._connection.rest.send("PUT", url, params={"api-version": request.api_version}, json=request.body)
        seconds = time.monotonic() - begun
        with understood(url, "the environment"):
            id = str(reply.body["id"])
            created = as_time((reply.body.get("systemData") or {}).get("createdAt"))
        now = http_time(reply.headers.get("date"))
        # the status does not tell whether it was there; the service's own clock does
        if created is not None and now is not None and created < now - timedelta(seconds=seconds + _CLOCK_SECONDS):
            notify(Notice(self.unchanged))
        self._connection.kept.put(KIND, self._key, id, seconds=LONGEST_SECONDS)
        return JobAsset(id, is_cached=False)

    def forget(self) -> None:
        """Drop what is known of an environment made from files: the workspace has it no more."""
        self._connection.kept.forget(KIND, self._key)

    def _request(self) -> PutRequest:
        spec = self._spec
        if isinstance(spec.context, str):
            return build_request(_BUILT, self._digest, spec.context, spec.dockerfile)
        if not self._digest:
            return image_request(spec.image, conda_contents(spec))
        context = upload_context(self._connection, self._datastores, self._context, self._digest)
        name = _BUILT if spec.context else _WITH_WHEELS
        return build_request(name, self._digest, context, spec.dockerfile or DOCKERFILE)

    @cached_property
    def _context(self) -> Mapping[str, bytes | Path]:
        return context_files(self._spec)

    @cached_property
    def _digest(self) -> str:
        """Of what the image is built from; empty where that is an image and a conda file alone."""
        spec = self._spec
        if isinstance(spec.context, str):
            return context_digest({spec.dockerfile: spec.context.encode()})
        if not (spec.wheels or spec.context):
            return ""
        which = {} if spec.dockerfile in ("", DOCKERFILE) else {"": spec.dockerfile.encode()}
        return context_digest({**which, **self._context})

    @cached_property
    def _key(self) -> str:
        contents = json.dumps([self._spec.image, self._spec.conda, self._digest])
        return self._connection.key(f"environment {hashlib.sha256(contents.encode()).hexdigest()}")


def environment_of(spec: JobSpec) -> EnvironmentSpec:
    """The environment of a job for a cluster. Raises BadUsage where it has none."""
    if spec.environment is None or not (spec.environment.name or spec.environment.image or spec.environment.context):
        raise BadUsage(
            "A job on a cluster needs an environment.",
            hint="Name a conda file with --conda_env, or a registered environment with --environment.",
        )
    return spec.environment


def conda_contents(spec: EnvironmentSpec) -> Mapping[str, Any] | None:
    """The conda file's contents. Raises BadUsage for a text that is none."""
    if not spec.conda:
        return None
    import yaml

    try:
        found = yaml.safe_load(spec.conda)
    except yaml.YAMLError as err:
        raise BadUsage(f"The conda file is no YAML: {' '.join(str(err).split())}") from err
    if not isinstance(found, dict):
        raise BadUsage("The conda file holds no 'dependencies'.")
    return found


def environment_id(connection: Connection, name: str, version: str | None) -> str:
    """The resource id of version *version* (None: the latest) of environment *name*; one request.

    Raises NotFound naming those that are near, or the versions that exist.
    """
    is_latest = version in (None, LATEST)
    id = f"{connection.address.path}/environments/{name}/versions/"
    if name.startswith(ELSEWHERE):
        return name
    if name.startswith(CURATED):
        return f"azureml:{name}@latest" if is_latest else f"{id}{version}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):  # it would mean something else in a URL
        raise _unknown(connection, name)
    url = connection.arm(f"/environments/{quote(name, safe='')}")
    below = "" if is_latest else f"/versions/{quote(str(version), safe='')}"
    try:
        answer = connection.rest.get_object(url + below, "environment", params=_PARAMS)
    except ServiceNotFound as err:
        versions = [] if is_latest else _names(connection, f"{url}/versions", "versions of environments")
        if not versions:
            raise _unknown(connection, name) from err
        listed = ", ".join(versions[:_SHOWN_VERSIONS]) + (", …" if len(versions) > _SHOWN_VERSIONS else "")
        label = connection.address.label
        raise NotFound(f"The environment '{name}' has no version '{version}' in {label}; there are: {listed}.") from err
    with understood(url, "the environment"):
        if not is_latest:
            return str(answer["id"])
        latest = answer["properties"].get("latestVersion")
    if not latest:
        raise NotFound(
            f"The environment '{name}' has no version in {connection.address.label}.",
            hint=f"Name one: --environment {name}:VERSION",
        )
    return f"{id}{latest}"


def context_files(spec: EnvironmentSpec) -> Mapping[str, bytes | Path]:
    """The files of the folder from which the image is built, by name: those of the user's folder, or a Dockerfile with
    a conda file and private wheels, which pip finds beside it.

    Contents, those of wheels read once, or where they lie. Raises BadUsage for a wheel that cannot be read.
    """
    if isinstance(spec.context, Snapshot):
        folder_for(spec.context)
        return {name: spec.context.root / name for name in sorted(spec.context.files)}
    install = _WITH_CONDA if spec.conda else f"RUN python -m pip install --no-cache-dir {_CONTEXT}/*.whl\n"
    dockerfile = f"FROM {spec.image}\nCOPY . {_CONTEXT}/\nWORKDIR {_CONTEXT}\n{install}WORKDIR /\n"
    texts = {DOCKERFILE: dockerfile} | ({_CONDA_FILE: spec.conda} if spec.conda else {})
    files = {name: text.encode() for name, text in texts.items()}
    return files | {wheel.name: _content(wheel) for wheel in spec.wheels}


def context_digest(files: Mapping[str, bytes | Path]) -> str:
    """What tells this context from every other one: 64 hexadecimal digits. Raises BadUsage for a file that cannot be
    read."""
    digest = hashlib.sha256()
    for name, given in files.items():
        content = _content(given)
        digest.update(f"{len(name)} {name} {len(content)} ".encode())
        digest.update(content)
    return digest.hexdigest()


def upload_context(
    connection: Connection, datastores: Datastores, files: Mapping[str, bytes | Path], digest: str
) -> str:
    """Store the context in USUAL_DATASTORE below *digest*, and give its URL.

    Raises BadUsage where the workspace has no such blob datastore, and as uploads do.
    """
    reason, cause = "which holds no blobs in this workspace", None
    try:
        record = datastores.find(USUAL_DATASTORE)
    except NotFound as err:
        record, reason, cause = None, "which this workspace does not have", err
    if record is None or record.kind != BLOB:
        raise BadUsage(
            f"Files for an image go into the datastore '{USUAL_DATASTORE}', {reason}.",
            hint="Register an environment that has what the job needs, and name it with --environment.",
        ) from cause
    folder, sink = f"{CONTEXTS}/{digest}", UploadSink(ignore)
    with tempfile.TemporaryDirectory(prefix="himl-") as staged:
        requests = []
        for name, given in files.items():
            content, path = _content(given), Path(staged, name) if isinstance(given, bytes) else given
            if isinstance(given, bytes):
                path.write_bytes(content)
            md5 = hashlib.md5(content, usedforsecurity=False).digest()
            requests.append(StoreRequest(path, f"{folder}/{name}", len(content), md5))
        datastores.of_record(record).store(requests, sink, workers=AT_ONCE)
    if sink.error is not None:
        raise sink.error
    return f"{record.url(connection.address.cloud)}/{quote(folder)}/"


def _content(given: bytes | Path) -> bytes:
    try:
        return given if isinstance(given, bytes) else given.read_bytes()
    except OSError as err:
        raise BadUsage(f"Cannot read '{given!s}' for the image: {err.strerror}.") from err


def _unknown(connection: Connection, name: str) -> NotFound:
    names = sorted(_names(connection, connection.arm("/environments"), "environments"))
    otherwise = "Make it from files instead (--conda_env FILE), or see Studio for those there are."
    return NotFound(
        f"No environment '{name}' in {connection.address.label}.", hint=did_you_mean(name, names) or otherwise
    )


def _names(connection: Connection, url: str, what: str) -> list[str]:
    try:
        found = list(resources(connection.rest.get, url, what, _PARAMS))
    except ServiceNotFound:
        return []
    with understood(url, what):
        return [str(item["name"]) for item in found]
