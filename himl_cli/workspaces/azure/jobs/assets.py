"""The code and the environment of a job. himl uploads and registers each only if the workspace has none with the same
contents. It caches their ids, and creates them again if the workspace has lost them.

A snapshot is identified by Azure ML's own hash of code, so that himl does not upload files that the workspace has. The
hash is SHA-256 over the same bytes as in azure-ai-ml (`get_content_hash`, its version 202208): the number of files,
then `#name#` and the size in decimal of each, then the content of each. Files are in the order of their lower-case
names.
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
from himl_cli.core.jobs import DOCKERFILE, LIMITS_FILE, USUAL_DATASTORE, EnvironmentSpec, Snapshot
from himl_cli.core.redaction import parts_of
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.body import PutRequest
from himl_cli.workspaces.azure.jobs.data_assets import LATEST
from himl_cli.workspaces.azure.responses import as_time, pages, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastore_records import BLOB
from himl_cli.workspaces.azure.storage.datastores import Datastores
from himl_cli.workspaces.base import BlobStore, StoreOutcome
from himl_cli.workspaces.retry import is_transient
from himl_cli.workspaces.transfer_engine.headers import http_time

log = logging.getLogger(__name__)

HASH_VERSION = "202208"
_CODES = {"api-version": ApiVersion.CODES}
FileState = tuple[int, int, int]  # size, time and inode
# Prefixes of environments in a registry and of resource ids, which the service resolves itself.
ELSEWHERE = ("azureml://", "/subscriptions/")
# Names of registered environments with private wheels or from a build folder. Their versions are content digests.
_WITH_WHEELS, _BUILT = "himl-private-wheels", "himl-build-context"
_ENVIRONMENTS = {"api-version": ApiVersion.ENVIRONMENTS}
ENVIRONMENT_VERSION = "2023-04-01-preview"  # of requests that register an environment
ANONYMOUS_ENVIRONMENT = "CliV2AnonymousEnvironment"
_CONDA_FILE, _CONTEXT, _PREFIX = "conda.yml", "/himl-environment", "/azureml-envs/himl"
_WITH_CONDA = f"""\
RUN conda env create --prefix {_PREFIX} --file {_CONTEXT}/{_CONDA_FILE} && conda clean --all --yes
ENV CONDA_DEFAULT_ENV={_PREFIX}
ENV AZUREML_CONDA_ENVIRONMENT_PATH={_PREFIX}
ENV PATH={_PREFIX}/bin:$PATH
ENV LD_LIBRARY_PATH={_PREFIX}/lib:$LD_LIBRARY_PATH
"""

# The limits of a Docker context in Azure ML's documentation.
MOST_FILES_OF_IMAGE, LARGEST_IMAGE_FOLDER = 100, 1 << 20


class JobAsset(ABC):
    """Code, an environment or a component. `id` is its resource id, or "" before himl finds or creates it. `is_cached`
    means that the id is from an earlier submission and may be lost. `step` is the first pipeline step that uses it."""

    kind = ""  # in the cache
    unchanged = ""  # the notice for an asset from an earlier submission

    def __init__(self, connection: Connection, step: str = "") -> None:
        self.step = step
        self.id, self.is_cached = "", False
        self._connection = connection

    @property
    @abstractmethod
    def _key(self) -> str: ...

    @abstractmethod
    def _register(self, notify: Notify) -> str:
        """Upload and register it, regardless of the cache, and return its id."""

    def make(self, notify: Notify) -> None:
        """Upload and register it, unless it was found, or another asset with the same contents was created."""
        if not self.id and not self._is_in_cache():
            self._remember(self._register(notify), is_cached=False)

    def forget(self) -> None:
        self.id, self.is_cached = "", False
        self._connection.kept.forget(self.kind, self._key)

    def drop_lost(self) -> bool:
        """Forget a cached asset that the service has lost, and return whether it had."""
        url = f"{self._connection.address.cloud.resource_manager}{quote(self.id)}"
        is_lost = self.is_cached and self._connection.find_object(url, "resource", params=_ENVIRONMENTS) is None
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

    Every method raises BadUsage for an empty snapshot and for a name that Azure Storage cannot store, DiskFailed for an
    unreadable file, HimlError for a file that changes, and as `Connection`.
    """

    kind = "codes"
    unchanged = "The code is unchanged. himl uses the earlier upload."

    def __init__(self, connection: Connection, snapshot: Snapshot, step: str = "") -> None:
        super().__init__(connection, step)
        self._snapshot = snapshot

    @cached_property
    def _fingerprint(self) -> tuple[str, Mapping[str, FileState]]:
        if not self._snapshot.files:
            raise BadUsage(
                f"The snapshot of '{self._snapshot.root}' contains no files.",
                hint="Check the ignore file, or set another --snapshot_root.",
            )
        return fingerprint(self._snapshot)

    @property
    def _key(self) -> str:
        return self._connection.key(f"code {HASH_VERSION} {self._fingerprint[0]}")

    def find(self) -> None:
        """Find it in the cache (no request) or in the workspace (one request). Uploads and registers nothing."""
        if self._is_in_cache():
            return
        sha256, _ = self._fingerprint
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions")  # the service ignores the name
        query = {**_CODES, "hash": sha256, "hashVersion": HASH_VERSION}
        first = next(pages(lambda _: self._connection.get(url, params=query).body, url, "code versions"))
        with understood(url, "the list of code versions"):
            for item in first.items:
                properties = item["properties"]
                # A service that ignores the query lists other versions.
                found = (properties.get("properties") or {}).get("hash_sha256")
                if found in (None, sha256) and properties.get("provisioningState") in (None, "Succeeded"):
                    self._remember(str(item["id"]), is_cached=True)
                    return

    def _register(self, notify: Notify) -> str:
        """Upload and register the code, and report each file to *notify*. After a failure nothing is registered."""
        sha256, folder = self._fingerprint[0], folder_for(self._snapshot)
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions/1")  # anonymous code gets a new name
        uri, signed = self._container(url)
        try:
            _upload(self._connection, signed, folder, self._snapshot, notify)
        except HimlError:
            self._check_unchanged()  # its error is more specific than a failed upload
            raise
        self._check_unchanged()
        details = {"hash_sha256": sha256, "hash_version": HASH_VERSION}
        body = {"properties": {"codeUri": f"{uri}/{folder}", "isAnonymous": True, "properties": details}}
        try:
            answer = self._connection.request("PUT", url, params=_CODES, json=body).body
        except ServiceRefused as err:  # includes a retry of a request whose first response was lost
            if is_transient(err.status):
                raise
            try:
                answer = self._connection.get(url, params=_CODES).body
            except ServiceNotFound:
                raise err from None
        with understood(url, "the code version"):
            return str(answer["id"])

    def _container(self, url: str) -> tuple[str, str]:
        """A new container for the upload: its address for the record, and a URL with write access.

        A retry after a lost response leaves only an empty container behind.
        """
        what, body = "place for code", {"pendingUploadType": "TemporaryBlobReference"}
        answer = self._connection.post(f"{url}/startPendingUpload", params=_CODES, json=body).object(what)
        with understood(url, f"the {what}"):
            reference = answer["blobReferenceForConsumption"]
            uri, signed = str(reference["blobUri"]).rstrip("/"), str(reference["credential"].get("sasUri") or "")
        if not signed:
            raise ServiceFailed(
                "The workspace returned no signature (SAS) for the upload of the code.",
                hint="Ask the workspace's owner whether its storage account allows SAS tokens.",
            )
        parts = parts_of(signed)
        if parts.scheme != "https" or not parts.hostname:
            raise ServiceFailed(f"The workspace's storage '{parts.hostname or ''}' for code does not use TLS.")
        return uri, signed

    def _check_unchanged(self) -> None:
        for name, state in self._fingerprint[1].items():
            if _state(self._snapshot.root / name, name) != state:
                raise _changed(name)


def fingerprint(snapshot: Snapshot) -> tuple[str, Mapping[str, FileState]]:
    """Read every file of *snapshot* once. Returns the SHA-256 in hexadecimal, and each file's state at that time.

    Raises BadUsage for a name that is not Unicode text, DiskFailed for an unreadable file, HimlError for a file that
    changes meanwhile.
    """
    wrong = next((name for name in snapshot.files if re.search("[\ud800-\udfff]", name)), None)
    if wrong is not None:
        shown = wrong.encode("utf-8", "backslashreplace").decode()
        raise BadUsage(
            f"The file name '{shown}' is not Unicode text, as Azure ML requires.",
            hint="Rename it, or exclude it.",
        )
    # By lower case. Names that differ only in case are sorted, where azure-ai-ml uses the file system's order.
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
    """The folder in the container: the snapshot's name, or `code` if an address would have to quote it.

    Raises BadUsage for a file that Azure Storage would rename or reject.
    """
    from himl_cli.workspaces.azure.storage.signing import reason_not_to_store

    is_plain = re.fullmatch(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?", snapshot.root.name)
    folder = snapshot.root.name if is_plain else "code"
    for name in snapshot.files:
        reason = reason_not_to_store(f"{folder}/{name}")
        if reason:
            shown = f"'{name}'" if name.isprintable() else repr(name)
            raise BadUsage(
                f"himl cannot upload {shown} with the code: {reason}.",
                hint="Rename it, or exclude it in an ignore file.",
            )
    return folder


def _upload(connection: Connection, signed_url: str, folder: str, snapshot: Snapshot, notify: Notify) -> None:
    """Store the files of *snapshot* below *folder* of the container of *signed_url*, the large ones first. If storage
    refuses that signature, the user's own sign-in is tried, as for other transfers.

    Raises the first error of a file. Files stored by then stay, in a container that nothing refers to.
    """
    from himl_cli.workspaces.azure.storage.container import AzureBlobs
    from himl_cli.workspaces.azure.storage.datastore_records import OWN_SIGN_IN
    from himl_cli.workspaces.azure.storage.signing import BearerSigner, SasSigner
    from himl_cli.workspaces.transfer_engine.curl import CurlPool

    parts, pool = urlsplit(signed_url), CurlPool()
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    own = BearerSigner(connection.tokens, connection.address.cloud.storage_scope, OWN_SIGN_IN)
    signer = SasSigner(parts.query, otherwise=own)
    try:
        store_snapshot(
            AzureBlobs(url, signer, root=f"{folder}/", label="the storage of code", pool=pool), snapshot, notify
        )
    finally:
        pool.close()


def store_snapshot(store: BlobStore, snapshot: Snapshot, notify: Notify) -> None:
    """Store the files of *snapshot*, the large ones first. Raises the first error of a file."""
    sink = StoreOutcome(notify)

    def requests() -> Iterator[StoreRequest]:
        sizes = {name: _state(snapshot.root / name, name)[0] for name in snapshot.files}
        for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
            if sink.errors:
                return
            yield StoreRequest(snapshot.root / name, name, size, replaces=None)

    notify(Planned(len(snapshot.files), snapshot.size))
    store.store(requests(), sink, workers=32)
    if sink.errors:
        raise sink.errors[0]


def _state(path: Path, name: str) -> FileState:
    try:
        found = os.stat(path)
    except OSError as err:
        raise _file_error(name, err) from err
    return found.st_size, found.st_mtime_ns, found.st_ino


def _digest(path: Path, name: str, digest: hashlib._Hash) -> FileState:
    """Feed the file to *digest* and return its state, with the number of bytes read as its size."""
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
        f"'{name}' changed during the upload of the code, so himl started no job.",
        hint="Submit again when no program writes to it, or exclude it in an ignore file.",
    )


def _file_error(name: str, err: OSError) -> HimlError:
    if isinstance(err, FileNotFoundError):
        return _changed(name)
    return DiskFailed(
        f"Cannot read '{name}' for the snapshot: {err.strerror or err}.",
        hint="Check its permissions, or exclude it in an ignore file.",
    )


class JobEnvironment(JobAsset):
    """The environment of one job, either registered under a name or created from files."""

    kind = "environments"
    unchanged = "The environment is unchanged. himl uses the earlier registration."

    def __init__(
        self, connection: Connection, datastores: Datastores, spec: EnvironmentSpec | None, step: str = ""
    ) -> None:
        super().__init__(connection, step)
        if spec is None or not (spec.name or spec.image or spec.context):
            raise BadUsage(
                "A job on a cluster needs an environment.",
                hint="Use a conda file with --conda_env, or a registered environment with --environment.",
            )
        self._datastores, self._spec = datastores, spec

    def find(self) -> None:
        """Request a named environment. One from files is in the cache or must be registered.

        Raises NotFound for an unknown name, BadUsage for invalid files.
        """
        if self._spec.name:
            self.id = environment_id(self._connection, self._spec.name, self._spec.version)
        else:
            conda_contents(self._spec)
            self._is_in_cache()

    def _register(self, notify: Notify) -> str:
        """Register the environment as azure-ai-ml does: the same files give the same version. If it existed, report
        this to *notify*."""
        request = self._request(notify)
        begun = time.monotonic()
        reply = request.send(self._connection)
        seconds = time.monotonic() - begun
        with understood(reply.url, "the environment"):
            id = str(reply.body["id"])
            created = as_time((reply.body.get("systemData") or {}).get("createdAt"))
        now = http_time(reply.headers.get("date"))
        # The status does not show whether it existed. The service's clocks do, but may differ by two seconds.
        if created is not None and now is not None and created < now - timedelta(seconds=seconds + 2.0):
            notify(Notice(self.unchanged))
        return id

    def _request(self, notify: Notify) -> PutRequest:
        spec, digest = self._spec, self.digest
        if isinstance(spec.context, str):
            return build_request(_BUILT, digest, spec.context, spec.dockerfile)
        if not digest:
            return image_request(spec.image, conda_contents(spec))
        return build_request(
            _BUILT if spec.context else _WITH_WHEELS, digest, self.upload(notify), spec.dockerfile or DOCKERFILE
        )

    def upload(self, notify: Notify) -> str:
        """Store the folder from which the image is built in USUAL_DATASTORE, and return its URL. That datastore is in
        the workspace's own storage account, whereas Azure ML may have no read access to others, even to the default.
        Before that, report a folder beyond the service's limits to *notify*.

        Raises BadUsage if the workspace has no such blob datastore, and for an unreadable file, and as uploads do.
        """
        reason, cause = "which is not a blob datastore in this workspace", None
        try:
            record = self._datastores.find(USUAL_DATASTORE)
        except NotFound as err:
            record, reason, cause = None, "which this workspace lacks", err
        if record is None or record.type != BLOB:
            raise BadUsage(
                f"himl stores the files of an image in the datastore '{USUAL_DATASTORE}', {reason}.",
                hint="Register an environment with the job's packages, and use it with --environment.",
            ) from cause
        folder, sink, requests = f"himl-environments/{self.digest}", StoreOutcome(), []
        with tempfile.TemporaryDirectory(prefix="himl-") as staged:
            for name, given in self._files.items():
                content, path = _content(given), Path(staged, name) if isinstance(given, bytes) else given
                if isinstance(given, bytes):
                    path.write_bytes(content)
                md5 = hashlib.md5(content, usedforsecurity=False).digest()
                requests.append(StoreRequest(path, f"{folder}/{name}", len(content), md5))
            size = sum(request.size for request in requests)
            if len(requests) > MOST_FILES_OF_IMAGE or size > LARGEST_IMAGE_FOLDER:
                notify(
                    Notice(
                        f"The Docker context has {len(requests):,} files with {size / (1 << 20):,.1f} MB. Azure ML may "
                        f"refuse more than {MOST_FILES_OF_IMAGE} files or 1 MB."
                    )
                )
            self._datastores.of_record(record).store(requests, sink, workers=8)
        if sink.errors:
            raise sink.errors[0]
        return f"{record.url(self._connection.address.cloud)}/{quote(folder)}/"

    @cached_property
    def _files(self) -> Mapping[str, bytes | Path]:
        """The files of the build folder by name, as contents or paths: those of the user's folder, or a Dockerfile with
        a conda file, and private wheels and constraints beside it for pip. Wheels are read once."""
        spec = self._spec
        if isinstance(spec.context, Snapshot):
            folder_for(spec.context)
            return {name: spec.context.root / name for name in sorted(spec.context.files)}
        install = _WITH_CONDA if spec.conda else f"RUN python -m pip install --no-cache-dir {_CONTEXT}/*.whl\n"
        dockerfile = f"FROM {spec.image}\nCOPY . {_CONTEXT}/\nWORKDIR {_CONTEXT}\n{install}WORKDIR /\n"
        texts = {DOCKERFILE: dockerfile} | ({_CONDA_FILE: spec.conda} if spec.conda else {})
        files = {name: text.encode() for name, text in texts.items()}
        files |= {LIMITS_FILE: spec.limits.encode()} if spec.limits else {}
        return files | {wheel.name: _content(wheel) for wheel in spec.wheels}

    @cached_property
    def digest(self) -> str:
        """The digest of the image's build folder, 64 hexadecimal digits, or "" for an image with only a conda file."""
        spec, digest = self._spec, hashlib.sha256()
        if not (spec.beside or spec.context):
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
        contents = json.dumps([self._spec.image, self._spec.conda, self.digest])
        return self._connection.key(f"environment {hashlib.sha256(contents.encode()).hexdigest()}")


def image_request(image: str, conda: Mapping[str, Any] | None) -> PutRequest:
    """The request that registers an anonymous environment under azure-ai-ml's name for it, which depends only on the
    contents."""
    contents, digest = {"image": image}, hashlib.sha256(image.encode()).hexdigest()
    if conda:
        import yaml

        contents["condaFile"] = text = yaml.dump(dict(conda), sort_keys=True)
        digest = digest.join(hashlib.sha256(text.encode()).hexdigest())
    return _environment_request(
        ANONYMOUS_ENVIRONMENT, hashlib.sha256(digest.encode()).hexdigest(), contents, is_anonymous=True
    )


def build_request(name: str, version: str, context_url: str, dockerfile: str) -> PutRequest:
    """The request that registers the environment from the file *dockerfile* at *context_url*."""
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
        raise BadUsage(f"The conda file is not valid YAML: {' '.join(str(err).split())}") from err
    if not isinstance(found, dict):
        raise BadUsage("The conda file has no 'dependencies'.")
    return found


def environment_id(connection: Connection, name: str, version: str | None) -> str:
    """The resource id of *version* (None: the latest) of environment *name*, with one request.

    Raises NotFound naming similar names, or the existing versions.
    """
    is_latest = version in (None, LATEST)
    id = f"{connection.address.path}/environments/{name}/versions/"
    if name.startswith(ELSEWHERE):
        return name
    if name.startswith("AzureML-"):  # Azure ML's own. No workspace lists them, and azure-ai-ml does not check them.
        return f"azureml:{name}@latest" if is_latest else f"{id}{version}"
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name, re.ASCII):  # it would change the URL
        raise _unknown(connection, name)
    url, label = connection.arm(f"/environments/{quote(name, safe='')}"), connection.address.label
    below = "" if is_latest else f"/versions/{quote(str(version), safe='')}"
    try:
        answer = connection.get(url + below, params=_ENVIRONMENTS).object("environment")
    except ServiceNotFound as err:
        versions = [] if is_latest else _names(connection, f"{url}/versions", "versions of environments")
        if not versions:
            raise _unknown(connection, name) from err
        listed = ", ".join(versions[:10]) + (", …" if len(versions) > 10 else "")
        raise NotFound(f"The environment '{name}' has no version '{version}' in {label}. It has: {listed}.") from err
    with understood(url, "the environment"):
        if not is_latest:
            return str(answer["id"])
        latest = answer["properties"].get("latestVersion")
    if not latest:
        raise NotFound(
            f"The environment '{name}' has no version in {label}.", hint=f"Add one: --environment {name}:VERSION"
        )
    return f"{id}{latest}"


def _content(given: bytes | Path) -> bytes:
    try:
        return given if isinstance(given, bytes) else given.read_bytes()
    except OSError as err:
        raise BadUsage(f"Cannot read '{given!s}' for the image: {err.strerror}.") from err


def _unknown(connection: Connection, name: str) -> NotFound:
    names = sorted(_names(connection, connection.arm("/environments"), "environments"))
    otherwise = "Create it from a file (--conda_env FILE), or see the list in Studio."
    return NotFound(
        f"Unknown environment '{name}' in {connection.address.label}.", hint=did_you_mean(name, names) or otherwise
    )


def _names(connection: Connection, url: str, what: str) -> list[str]:
    try:
        found = list(connection.resources(url, what, _ENVIRONMENTS))
    except ServiceNotFound:
        return []
    with understood(url, what):
        return [str(item["name"]) for item in found]
