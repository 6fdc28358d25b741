"""Uploading the files of a snapshot to the container that a workspace gave for them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import urlsplit

from himl_cli.core.blobs import BlobInfo, StoreRequest
from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Finished, Moved, Notify, Planned
from himl_cli.core.jobs import Snapshot
from himl_cli.workspaces.azure.jobs.content_hash import changed

WORKERS = 32
OTHER_FOLDER = "code"
_PLAIN = re.compile(r"[A-Za-z0-9_-](?:[A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")


def folder_for(snapshot: Snapshot) -> str:
    """The folder in the container: the snapshot's own name where that needs no quoting in an address.

    Raises BadUsage for a file that Azure Storage would give another name, or none.
    """
    from himl_cli.workspaces.azure.storage.properties import reason_not_to_store

    folder = snapshot.root.name if _PLAIN.fullmatch(snapshot.root.name) else OTHER_FOLDER
    for name in snapshot.files:
        reason = reason_not_to_store(f"{folder}/{name}")
        if reason:
            raise BadUsage(
                f"{_shown(name)} cannot be sent with the code: {reason}.",
                hint="Rename it, or exclude it in an ignore file.",
            )
    return folder


def _shown(name: str) -> str:
    """*name* in quotes, characters that cannot be seen as escapes."""
    return f"'{name}'" if name.isprintable() else repr(name)


def upload_code(signed_url: str, folder: str, snapshot: Snapshot, notify: Notify) -> None:
    """Store the files of *snapshot* below *folder* of the container that *signed_url* may write to.

    Raises the first error that a file met; what was stored by then stays, in a container that nothing refers to.
    """
    from himl_cli.workspaces.azure.storage.container import AzureBlobs
    from himl_cli.workspaces.azure.storage.curl import CurlPool
    from himl_cli.workspaces.azure.storage.signing import SasSigner

    parts, pool, sink = urlsplit(signed_url), CurlPool(), _Progress(notify)
    url = f"{parts.scheme}://{parts.netloc}{parts.path}"
    store = AzureBlobs(url, SasSigner.fixed(parts.query), root=f"{folder}/", label="the storage of code", pool=pool)
    notify(Planned(len(snapshot.files), snapshot.size))
    try:
        store.store(_requests(snapshot, sink), sink, workers=WORKERS)
    finally:
        pool.close()
    if sink.error is not None:
        raise sink.error


def _requests(snapshot: Snapshot, sink: _Progress) -> Iterator[StoreRequest]:
    """One for each file, the large ones first; none after a failure."""
    sized = []
    for name in snapshot.files:
        path = snapshot.root / name
        try:
            sized.append((path.stat().st_size, name, path))
        except FileNotFoundError:
            raise changed(name) from None
    for size, name, path in sorted(sized, key=lambda one: -one[0]):
        if sink.error is not None:
            return
        yield StoreRequest(path, name, size, replaces=None)


class _Progress:
    """The sink that hears of the files: tells *notify*, and keeps the first error."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self.error: HimlError | None = None

    def advance(self, request: StoreRequest, amount: int) -> None:
        self._notify(Moved(request.name, amount))

    def finish(self, request: StoreRequest, stored: BlobInfo) -> None:
        self._notify(Finished(request.name))

    def fail(self, request: StoreRequest, error: HimlError) -> None:
        self.error = self.error or error
