"""The code of a job: a snapshot as a code version of the workspace, uploaded only where the workspace has none with
this content.

A snapshot is known by Azure ML's own hash of code, so that files that anybody sent before are not sent again. The same
bytes go through SHA-256 as in azure-ai-ml (`get_content_hash`, its version 202208): the number of files; then of each
`#name#` and its size in decimal; then the content of each. Files are in the order of their names in lower case.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import urlsplit

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, ServiceFailed
from himl_cli.core.events import Finished, Moved, Notify, Planned
from himl_cli.core.jobs import Snapshot
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import pages, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

KIND = "codes"
HASH_VERSION = "202208"
WORKERS = 32
_NUMBER = "1"  # the version of code that nobody named; its name is new each time
_CHUNK = 1 << 20
_PARAMS = {"api-version": ApiVersion.CODES}
FileState = tuple[int, int, int]


@dataclass(frozen=True)
class JobAsset:
    """Code or an environment as the workspace has it: `id` is its resource id; `is_cached` where it is of an earlier
    submit, and may be gone since."""

    id: str
    is_cached: bool


@dataclass(frozen=True)
class Fingerprint:
    """`sha256` in hex; `states` are size, time and inode of each file as they were when it was read."""

    sha256: str
    states: Mapping[str, FileState]

    def check(self, root: Path) -> None:
        """Raises HimlError where a file is no longer what was digested."""
        for name, state in self.states.items():
            if _state(root / name, name) != state:
                raise _changed(name)


class JobCode:
    """A snapshot as a code version of the workspace. Its files are read once.

    Everything raises BadUsage for an empty snapshot, DiskFailed for a file that cannot be read, HimlError for one that
    changes, and as `Rest` does.
    """

    unchanged = "Code unchanged since an earlier submit: not uploaded again."

    def __init__(self, connection: Connection, snapshot: Snapshot) -> None:
        self._connection = connection
        self._snapshot = snapshot

    def find(self) -> JobAsset | None:
        """The code version with this content: the one that is cached (no request), else one that the workspace knows
        (one request)."""
        cached = self.cached()
        if cached is not None:
            return cached
        sha256 = self._fingerprint.sha256
        url = self._url(uuid.uuid4(), "")  # the name in the address does not matter to the service
        query = {**_PARAMS, "hash": sha256, "hashVersion": HASH_VERSION}
        first = next(pages(lambda _: self._connection.rest.get(url, params=query), url, "code versions"))
        with understood(url, "the list of code versions"):
            for item in first.items:
                properties = item["properties"]
                found = (properties.get("properties") or {}).get("hash_sha256")  # who ignores the question lists others
                if found in (None, sha256) and properties.get("provisioningState") in (None, "Succeeded"):
                    return self._remember(str(item["id"]), is_cached=True)
        return None

    def cached(self) -> JobAsset | None:
        """The code version with this content that is cached; no request."""
        id = self._connection.kept.get(KIND, self._key)
        return JobAsset(id, is_cached=True) if isinstance(id, str) and id else None

    def register(self, notify: Notify) -> JobAsset:
        """Upload the snapshot, telling *notify* of each file, and register it, whatever is known. However it ends
        early, nothing is registered. Raises BadUsage for a name that Azure Storage cannot hold."""
        fingerprint, folder, root = self._fingerprint, folder_for(self._snapshot), self._snapshot.root
        url = self._url(uuid.uuid4(), _NUMBER)
        uri, signed = self._container(url)
        try:
            _upload(signed, folder, self._snapshot, notify)
        except HimlError:
            fingerprint.check(root)  # says more than that some upload failed
            raise
        fingerprint.check(root)
        return self._remember(self._create(url, f"{uri}/{folder}"), is_cached=False)

    def forget(self) -> None:
        """Drop the code version from the cache: the workspace has it no more."""
        self._connection.kept.forget(KIND, self._key)

    def _url(self, name: uuid.UUID, version: str) -> str:
        return self._connection.arm(f"/codes/{name}/versions{f'/{version}' if version else ''}")

    def _container(self, url: str) -> tuple[str, str]:
        """A container of its own for the upload: its address, which goes on record, and a URL that may be written to.

        Asking twice, after an answer that was lost, leaves an empty container behind and nothing else.
        """
        body = {"pendingUploadType": "TemporaryBlobReference"}
        answer = self._connection.rest.post_object(
            f"{url}/startPendingUpload", "place for code", params=_PARAMS, json=body
        )
        with understood(url, "the place for code"):
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

    def _create(self, url: str, code_uri: str) -> str:
        """Make the uploaded files a code version, and give its id. The service refuses a repetition of the request,
        whose first answer was lost."""
        details = {"hash_sha256": self._fingerprint.sha256, "hash_version": HASH_VERSION}
        body = {"properties": {"codeUri": code_uri, "isAnonymous": True, "properties": details}}
        try:
            answer = self._connection.rest.send("PUT", url, params=_PARAMS, json=body).body
        except ServiceRefused as err:
            if err.status >= 500:
                raise
            try:
                answer = self._connection.rest.get(url, params=_PARAMS)
            except ServiceNotFound:
                raise err from None
        with understood(url, "the code version"):
            return str(answer["id"])

    def _remember(self, id: str, *, is_cached: bool) -> JobAsset:
        log.debug("code %s is %s", self._fingerprint.sha256, id)
        self._connection.kept.put(KIND, self._key, id, seconds=LONGEST_SECONDS)
        return JobAsset(id, is_cached)

    @property
    def _key(self) -> str:
        return self._connection.key(f"code {HASH_VERSION} {self._fingerprint.sha256}")

    @cached_property
    def _fingerprint(self) -> Fingerprint:
        if not self._snapshot.files:
            raise BadUsage(
                f"There is nothing to send in '{self._snapshot.root}'.",
                hint="Look in its ignore file, or give another --snapshot_root.",
            )
        return fingerprint(self._snapshot)


def fingerprint(snapshot: Snapshot) -> Fingerprint:
    """Read every file of *snapshot* once.

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
    return Fingerprint(digest.hexdigest(), states)


def folder_for(snapshot: Snapshot) -> str:
    """The folder in the container: the snapshot's own name where that needs no quoting in an address.

    Raises BadUsage for a file that Azure Storage would give another name, or none.
    """
    from himl_cli.workspaces.azure.storage.properties import reason_not_to_store

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
    """Store the files of *snapshot* below *folder* of the container that *signed_url* may write to.

    Raises the first error that a file met; what was stored by then stays, in a container that nothing refers to.
    """
    from himl_cli.workspaces.azure.storage.container import AzureBlobs
    from himl_cli.workspaces.azure.storage.curl import CurlPool
    from himl_cli.workspaces.azure.storage.signing import SasSigner

    parts, pool, sink = urlsplit(signed_url), CurlPool(), UploadSink(notify)
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    store = AzureBlobs(url, SasSigner(parts.query), root=f"{folder}/", label="the storage of code", pool=pool)
    notify(Planned(len(snapshot.files), snapshot.size))
    try:
        store.store(_requests(snapshot, sink), sink, workers=WORKERS)
    finally:
        pool.close()
    if sink.error is not None:
        raise sink.error


def _requests(snapshot: Snapshot, sink: UploadSink) -> Iterator[StoreRequest]:
    """One for each file, the large ones first; none after a failure."""
    sizes: dict[str, int] = {}
    for name in snapshot.files:
        try:
            sizes[name] = (snapshot.root / name).stat().st_size
        except FileNotFoundError:
            raise _changed(name) from None
    for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
        if sink.error is not None:
            return
        yield StoreRequest(snapshot.root / name, name, size, replaces=None)


class UploadSink:
    """Hears how an upload goes: tells *notify* of the files, and holds the first error."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self.error: HimlError | None = None

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.error = self.error or error


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
            while piece := source.read(_CHUNK):
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
    """The error for a file that cannot be read, or is gone: then it changed while it was sent."""
    if isinstance(err, FileNotFoundError):
        return _changed(name)
    return DiskFailed(
        f"Cannot read '{name}' for the snapshot: {err.strerror or err}.",
        hint="Check its permissions, or exclude it in an ignore file.",
    )
