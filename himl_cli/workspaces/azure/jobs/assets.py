"""The code and the environment of a job, each uploaded and registered only where the workspace has none with this
content: what was made of it is cached, and made anew where the workspace has lost it.

A snapshot is known by Azure ML's own hash of code, so that files that anybody sent before are not sent again. The same
bytes go through SHA-256 as in azure-ai-ml (`get_content_hash`, its version 202208): the number of files; then of each
`#name#` and its size in decimal; then the content of each. Files are in the order of their names in lower case.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from himl_cli.core.blobs import StoreRequest
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, Planned
from himl_cli.core.jobs import DOCKERFILE, USUAL_DATASTORE, EnvironmentSpec, Snapshot
from himl_cli.core.redaction import parts_of
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import PutRequest
from himl_cli.workspaces.azure.jobs.data_assets import LATEST
from himl_cli.workspaces.azure.responses import as_time, http_time, pages, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import BLOB
from himl_cli.workspaces.azure.storage.datastores import Datastores
from himl_cli.workspaces.base import StoreOutcome

log = logging.getLogger(__name__)

HASH_VERSION = "202208"
_CODES = {"api-version": ApiVersion.CODES}
FileState = tuple[int, int, int]  # size, time and inode
# How the names of environments begin that lie in a registry or are ids already: the service looks for those itself.
ELSEWHERE = ("azureml://", "/subscriptions/")
# The names under which environments are registered that have private wheels, or are built from a folder; their
# versions are digests of their contents.
_WITH_WHEELS, _BUILT = "himl-private-wheels", "himl-build-context"
_ENVIRONMENTS = {"api-version": ApiVersion.ENVIRONMENTS}
ENVIRONMENT_VERSION = "2023-04-01-preview"  # of requests that register one
ANONYMOUS_ENVIRONMENT = "CliV2AnonymousEnvironment"
_CONDA_FILE, _CONTEXT, _PREFIX = "conda.yml", "/himl-environment", "/azureml-envs/himl"
_WITH_CONDA = f"""\
RUN conda env create --prefix {_PREFIX} --file {_CONTEXT}/{_CONDA_FILE} && conda clean --all --yes
ENV CONDA_DEFAULT_ENV={_PREFIX}
ENV AZUREML_CONDA_ENVIRONMENT_PATH={_PREFIX}
ENV PATH={_PREFIX}/bin:$PATH
ENV LD_LIBRARY_PATH={_PREFIX}/lib:$LD_LIBRARY_PATH
"""


class JobAsset(ABC):
    """Code, an environment or a component: `id` is its resource id, empty before it is found or made; `is_cached` where
    it is of an earlier submit, and may be gone since. `step` is the first step of a pipeline that refers to it."""

    kind = ""  # in the cache
    unchanged = ""  # what people hear where it is of an earlier submit

    def __init__(self, connection: Connection, step: str = "") -> None:
        self.step = step
        self.id, self.is_cached = "", False
        self._connection = connection

    @property
    @abstractmethod
    def _key(self) -> str: ...

    @abstractmethod
    def _register(self, notify: Notify) -> str:
        """Upload and register it, whatever is known, and give its id."""

    def make(self, notify: Notify) -> None:
        """Upload and register it, unless it was found, or another asset with the same contents was made."""
        if not self.id and not self._is_in_cache():
            self._remember(self._register(notify), is_cached=False)

    def forget(self) -> None:
        self.id, self.is_cached = "", False
        self._connection.kept.forget(self.kind, self._key)

    def drop_lost(self) -> bool:
        """Forget what was cached and the service has lost since; whether that was so."""
        url = f"{self._connection.address.cloud.resource_manager}{quote(self.id)}"
        is_lost = self.is_cached and self._connection.rest.find_object(url, "resource", params=_ENVIRONMENTS) is None
        if is_lost:
            self.forget()
        return is_lost

    def _is_in_cache(self) -> bool:
        id = self._connection.kept.get(self.kind, self._key)
        if isinstance(id, str) and id:
            self.id, self.is_cached = id, True
        return self.is_cached

    def _remember(self, id: str, *, is_cached: bool) -> None:
        log.debug("%s: %s", self.kind, id)
        self.id, self.is_cached = id, is_cached
        self._connection.kept.put(self.kind, self._key, id)


class JobCode(JobAsset):
    """A snapshot as a code version of the workspace. Its files are read once.

    Everything raises BadUsage for an empty snapshot and for a name that Azure Storage cannot hold, DiskFailed for a
    file that cannot be read, HimlError for one that changes, and as `HttpClient` does.
    """

    kind = "codes"
    unchanged = "Code unchanged since an earlier submit: not uploaded again."

    def __init__(self, connection: Connection, snapshot: Snapshot, step: str = "") -> None:
        super().__init__(connection, step)
        self._snapshot = snapshot

    @cached_property
    def _fingerprint(self) -> tuple[str, Mapping[str, FileState]]:
        if not self._snapshot.files:
            raise BadUsage(
                f"There is nothing to send in '{self._snapshot.root}'.",
                hint="Look in its ignore file, or give another --snapshot_root.",
            )
        return fingerprint(self._snapshot)

    @property
    def _key(self) -> str:
        return self._connection.key(f"code {HASH_VERSION} {self._fingerprint[0]}")

    def find(self) -> None:
        """Look for it in the cache (no request), else in the workspace (one). Uploads and registers nothing."""
        if self._is_in_cache():
            return
        sha256, _ = self._fingerprint
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions")  # the name does not matter to the service
        query = {**_CODES, "hash": sha256, "hashVersion": HASH_VERSION}
        first = next(pages(lambda _: self._connection.rest.get(url, params=query), url, "code versions"))
        with understood(url, "the list of code versions"):
            for item in first.items:
                properties = item["properties"]
                found = (properties.get("properties") or {}).get("hash_sha256")  # who ignores the question lists others
                if found in (None, sha256) and properties.get("provisioningState") in (None, "Succeeded"):
                    self._remember(str(item["id"]), is_cached=True)
                    return

    def _register(self, notify: Notify) -> str:
        """However it ends early, nothing is registered; *notify* hears of each file."""
        sha256, folder = self._fingerprint[0], folder_for(self._snapshot)
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions/1")  # code that nobody names has a new name
        uri, signed = self._container(url)
        try:
            _upload(signed, folder, self._snapshot, notify)
        except HimlError:
            self._check_unchanged()  # says more than that some upload failed
            raise
        self._check_unchanged()
        details = {"hash_sha256": sha256, "hash_version": HASH_VERSION}
        body = {"properties": {"codeUri": f"{uri}/{folder}", "isAnonymous": True, "properties": details}}
        try:
            answer = self._connection.rest.send("PUT", url, params=_CODES, json=body).body
        except ServiceRefused as err:  # also a repetition of the request, whose first answer was lost
            if err.status >= 500:
                raise
            try:
                answer = self._connection.rest.get(url, params=_CODES)
            except ServiceNotFound:
                raise err from None
        with understood(url, "the code version"):
            return str(answer["id"])

    def _container(self, url: str) -> tuple[str, str]:
        """A container of its own for the upload: its address, which goes on record, and a URL that may be written to.

        Asking twice, after an answer that was lost, leaves an empty container behind and nothing else.
        """
        what, body = "place for code", {"pendingUploadType": "TemporaryBlobReference"}
        answer = self._connection.rest.post_object(f"{url}/startPendingUpload", what, params=_CODES, json=body)
        with understood(url, f"the {what}"):
            reference = answer["blobReferenceForConsumption"]
            uri, signed = str(reference["blobUri"]).rstrip("/"), str(reference["credential"].get("sasUri") or "")
        if not signed:
            raise ServiceFailed(
                "The workspace gives no signature (SAS) to upload code with.",
                hint="Its storage account may forbid SAS tokens; ask the workspace's owner.",
            )
        parts = parts_of(signed)
        if parts.scheme != "https" or not parts.hostname:
            raise ServiceFailed(f"The workspace wants code at '{parts.hostname or ''}', which is no place behind TLS.")
        return uri, signed

    def _check_unchanged(self) -> None:
        for name, state in self._fingerprint[1].items():
            if _state(self._snapshot.root / name, name) != state:
                raise _changed(name)


def fingerprint(snapshot: Snapshot) -> tuple[str, Mapping[str, FileState]]:
    """Read every file of *snapshot* once: SHA-256 in hex, and each file's state as it was then.

    Raises BadUsage for a name that is no Unicode text, DiskFailed for a file that cannot be read, HimlError for one
    that changes meanwhile.
    """
    wrong = next((name for name in snapshot.files if re.search("[\ud800-\udfff]", name)), None)
    if wrong is not None:
        shown = wrong.encode("utf-8", "backslashreplace").decode()
        raise BadUsage(
            f"The name of '{shown}' is no Unicode text, which Azure ML does not take.",
            hint="Rename it, or exclude it.",
        )
    # by lower case; names that differ in nothing else, which azure-ai-ml takes as the file system gives them, in order
    names = sorted(snapshot.files, key=lambda name: (name.lower(), name))
    states = {name: _state(snapshot.root / name, name) for name in names}
    digest = hashlib.sha256(str(len(names)).encode())
    for name in names:
        digest.update(f"#{name}#{states[name][0]}".encode())
    for name in names:
        if _digest(snapshot.root / name, name, digest) != states[name]:
            raise _changed(name)
    return digest.hexdigest(), states


def folder_for(snapshot: Snapshot) -> str:
    """The folder in the container: the snapshot's own name where that needs no quoting in an address.

    Raises BadUsage for a file that Azure Storage would give another name, or none.
    """
    from himl_cli.workspaces.azure.storage.signing import reason_not_to_store

    is_plain = re.fullmatch(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?", snapshot.root.name)
    folder = snapshot.root.name if is_plain else "code"
    for name in snapshot.files:
        reason = reason_not_to_store(f"{folder}/{name}")
        if reason:
            shown = f"'{name}'" if name.isprintable() else repr(name)
            raise BadUsage(
                f"{shown} cannot be sent with the code: {reason}.",
                hint="Rename it, or exclude it in an ignore file.",
            )
    return folder


def _upload(signed_url: str, folder: str, snapshot: Snapshot, notify: Notify) -> None:
    """Store the files of *snapshot* below *folder* of the container that *signed_url* may write to, the large ones
    first.

    Raises the first error that a file met; what was stored by then stays, in a container that nothing refers to.
    """
    from himl_cli.workspaces.azure.storage.container import AzureBlobs
    from himl_cli.workspaces.azure.storage.curl import CurlPool
    from himl_cli.workspaces.azure.storage.signing import SasSigner

    parts, pool, sink = urlsplit(signed_url), CurlPool(), StoreOutcome(notify)
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    store = AzureBlobs(url, SasSigner(parts.query), root=f"{folder}/", label="the storage of code", pool=pool)

    def requests() -> Iterator[StoreRequest]:
        sizes = {name: _state(snapshot.root / name, name)[0] for name in snapshot.files}
        for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
            if sink.errors:
                return
            yield StoreRequest(snapshot.root / name, name, size, replaces=None)

    notify(Planned(len(snapshot.files), snapshot.size))
    try:
        store.store(requests(), sink, workers=32)
    finally:
        pool.close()
    if sink.errors:
        raise sink.errors[0]


def _state(path: Path, name: str) -> FileState:
    try:
        found = os.stat(path)
    except OSError as err:
        raise _file_error(name, err) from err
    return found.st_size, found.st_mtime_ns, found.st_ino


def _digest(path: Path, name: str, digest: hashlib._Hash) -> FileState:
    """Feed the file to *digest* and give its state, with the number of bytes that were read for its size."""
    length = 0
    try:
        with open(path, "rb", buffering=0) as source:
            while piece := source.read(1 << 20):
                digest.update(piece)
                length += len(piece)
            now = os.fstat(source.fileno())
    except OSError as err:
        raise _file_error(name, err) from err
    return length, now.st_mtime_ns, now.st_ino


def _changed(name: str) -> HimlError:
    return HimlError(
        f"'{name}' changed while the code was being sent; no job was started.",
        hint="Submit again when nothing writes to it, or exclude it in an ignore file.",
    )


def _file_error(name: str, err: OSError) -> HimlError:
    if isinstance(err, FileNotFoundError):
        return _changed(name)
    return DiskFailed(
        f"Cannot read '{name}' for the snapshot: {err.strerror or err}.",
        hint="Check its permissions, or exclude it in an ignore file.",
    )


class JobEnvironment(JobAsset):
    """The environment of one job: one that is registered by a name, or one that is made from files."""

    kind = "environments"
    unchanged = "Environment unchanged since an earlier submit: not registered again."

    def __init__(
        self, connection: Connection, datastores: Datastores, spec: EnvironmentSpec | None, step: str = ""
    ) -> None:
        super().__init__(connection, step)
        if spec is None or not (spec.name or spec.image or spec.context):
            raise BadUsage(
                "A job on a cluster needs an environment.",
                hint="Name a conda file with --conda_env, or a registered environment with --environment.",
            )
        self._datastores, self._spec = datastores, spec

    def find(self) -> None:
        """A named environment is asked for, one made from files is in the cache or has to be registered.

        Raises NotFound for a name that is not there, BadUsage for files that cannot be used.
        """
        if self._spec.name:
            self.id = environment_id(self._connection, self._spec.name, self._spec.version)
        else:
            conda_contents(self._spec)
            self._is_in_cache()

    def _register(self, notify: Notify) -> str:
        """As azure-ai-ml does it: the same files give the same version, which may be there already; *notify* hears
        so."""
        request = self._request()
        begun = time.monotonic()
        reply = request.send(self._connection)
        seconds = time.monotonic() - begun
        with understood(reply.url, "the environment"):
            id = str(reply.body["id"])
            created = as_time((reply.body.get("systemData") or {}).get("createdAt"))
        now = http_time(reply.headers.get("date"))
        # the status does not tell whether it was there; the service's clocks do, which may differ by two seconds
        if created is not None and now is not None and created < now - timedelta(seconds=seconds + 2.0):
            notify(Notice(self.unchanged))
        return id

    def _request(self) -> PutRequest:
        spec, digest = self._spec, self._digest
        if isinstance(spec.context, str):
            return build_request(_BUILT, digest, spec.context, spec.dockerfile)
        if not digest:
            return image_request(spec.image, conda_contents(spec))
        return build_request(
            _BUILT if spec.context else _WITH_WHEELS, digest, self.upload(), spec.dockerfile or DOCKERFILE
        )

    def upload(self) -> str:
        """Store the folder that the image is built from in USUAL_DATASTORE, and give its URL. That datastore is in the
        workspace's own storage account, whatever the default one is: from others Azure ML may not be let read.

        Raises BadUsage where the workspace has no such blob datastore, and for a file that cannot be read, and as
        uploads do.
        """
        reason, cause = "which holds no blobs in this workspace", None
        try:
            record = self._datastores.find(USUAL_DATASTORE)
        except NotFound as err:
            record, reason, cause = None, "which this workspace does not have", err
        if record is None or record.type != BLOB:
            raise BadUsage(
                f"Files for an image go into the datastore '{USUAL_DATASTORE}', {reason}.",
                hint="Register an environment that has what the job needs, and name it with --environment.",
            ) from cause
        folder, sink, requests = f"himl-environments/{self._digest}", StoreOutcome(), []
        with tempfile.TemporaryDirectory(prefix="himl-") as staged:
            for name, given in self._files.items():
                content, path = _content(given), Path(staged, name) if isinstance(given, bytes) else given
                if isinstance(given, bytes):
                    path.write_bytes(content)
                md5 = hashlib.md5(content, usedforsecurity=False).digest()
                requests.append(StoreRequest(path, f"{folder}/{name}", len(content), md5))
            self._datastores.of_record(record).store(requests, sink, workers=8)
        if sink.errors:
            raise sink.errors[0]
        return f"{record.url(self._connection.address.cloud)}/{quote(folder)}/"

    @cached_property
    def _files(self) -> Mapping[str, bytes | Path]:
        """The files of the folder from which the image is built, by name: those of the user's folder, or a Dockerfile
        with a conda file and private wheels, which pip finds beside it. Contents, those of wheels read once, or where
        they lie."""
        spec = self._spec
        if isinstance(spec.context, Snapshot):
            folder_for(spec.context)
            return {name: spec.context.root / name for name in sorted(spec.context.files)}
        install = _WITH_CONDA if spec.conda else f"RUN python -m pip install --no-cache-dir {_CONTEXT}/*.whl\n"
        dockerfile = f"FROM {spec.image}\nCOPY . {_CONTEXT}/\nWORKDIR {_CONTEXT}\n{install}WORKDIR /\n"
        texts = {DOCKERFILE: dockerfile} | ({_CONDA_FILE: spec.conda} if spec.conda else {})
        files = {name: text.encode() for name, text in texts.items()}
        return files | {wheel.name: _content(wheel) for wheel in spec.wheels}

    @cached_property
    def _digest(self) -> str:
        """Of what the image is built from, 64 hexadecimal digits; empty where that is an image and a conda file
        alone."""
        spec, digest = self._spec, hashlib.sha256()
        if not (spec.wheels or spec.context):
            return ""
        files: Mapping[str, bytes | Path]
        if isinstance(spec.context, str):
            files = {spec.dockerfile: spec.context.encode()}
        else:
            which = {} if spec.dockerfile in ("", DOCKERFILE) else {"": spec.dockerfile.encode()}
            files = {**which, **self._files}
        for name, given in files.items():
            content = _content(given)
            digest.update(f"{len(name)} {name} {len(content)} ".encode())
            digest.update(content)
        return digest.hexdigest()

    @property
    def _key(self) -> str:
        contents = json.dumps([self._spec.image, self._spec.conda, self._digest])
        return self._connection.key(f"environment {hashlib.sha256(contents.encode()).hexdigest()}")


def image_request(image: str, conda: Mapping[str, Any] | None) -> PutRequest:
    """The request that registers an environment without a name, under the one that azure-ai-ml gives it: the same for
    the same contents."""
    contents, digest = {"image": image}, hashlib.sha256(image.encode()).hexdigest()
    if conda:
        import yaml

        contents["condaFile"] = text = yaml.dump(dict(conda), sort_keys=True)
        digest = digest.join(hashlib.sha256(text.encode()).hexdigest())
    return _environment_request(
        ANONYMOUS_ENVIRONMENT, hashlib.sha256(digest.encode()).hexdigest(), contents, is_anonymous=True
    )


def build_request(name: str, version: str, context_url: str, dockerfile: str) -> PutRequest:
    """The request that registers the environment which the file *dockerfile* at *context_url* makes."""
    contents = {"build": {"contextUri": context_url, "dockerfilePath": dockerfile}}
    return _environment_request(name, version, contents, is_anonymous=False)


def _environment_request(name: str, version: str, contents: Mapping[str, Any], *, is_anonymous: bool) -> PutRequest:
    body = {"properties": {**contents, "isAnonymous": is_anonymous, "isArchived": False}}
    return PutRequest(f"/environments/{name}/versions/{version}", ENVIRONMENT_VERSION, body)


def conda_contents(spec: EnvironmentSpec) -> Mapping[str, Any] | None:
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
    if name.startswith("AzureML-"):  # Azure ML's own: no workspace has them, azure-ai-ml does not look for them either
        return f"azureml:{name}@latest" if is_latest else f"{id}{version}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):  # it would mean something else in a URL
        raise _unknown(connection, name)
    url, label = connection.arm(f"/environments/{quote(name, safe='')}"), connection.address.label
    below = "" if is_latest else f"/versions/{quote(str(version), safe='')}"
    try:
        answer = connection.rest.get_object(url + below, "environment", params=_ENVIRONMENTS)
    except ServiceNotFound as err:
        versions = [] if is_latest else _names(connection, f"{url}/versions", "versions of environments")
        if not versions:
            raise _unknown(connection, name) from err
        listed = ", ".join(versions[:10]) + (", …" if len(versions) > 10 else "")
        raise NotFound(f"The environment '{name}' has no version '{version}' in {label}; there are: {listed}.") from err
    with understood(url, "the environment"):
        if not is_latest:
            return str(answer["id"])
        latest = answer["properties"].get("latestVersion")
    if not latest:
        raise NotFound(
            f"The environment '{name}' has no version in {label}.", hint=f"Name one: --environment {name}:VERSION"
        )
    return f"{id}{latest}"


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
        found = list(connection.rest.resources(url, what, _ENVIRONMENTS))
    except ServiceNotFound:
        return []
    with understood(url, what):
        return [str(item["name"]) for item in found]
