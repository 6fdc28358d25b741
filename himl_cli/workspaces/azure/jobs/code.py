"""The code of a job: a snapshot as a code version of the workspace, uploaded only where the workspace has none with
this content."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from himl_cli.core.errors import BadUsage, HimlError, ServiceFailed
from himl_cli.core.events import Notify
from himl_cli.core.jobs import Snapshot
from himl_cli.core.redaction import parts_of
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.code_upload import folder_for, upload_code
from himl_cli.workspaces.azure.jobs.content_hash import VERSION, Fingerprint, fingerprint
from himl_cli.workspaces.azure.jobs.forms import CodeAsset
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import pages, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.requests.kept import LONGEST_SECONDS

log = logging.getLogger(__name__)

KIND = "codes"
NUMBER = "1"  # the version of code that nobody named; its name is new each time


@dataclass(frozen=True)
class _Room:
    """Where code may be uploaded to: a container's address, which goes on record, and a URL that may be written to."""

    uri: str
    signed: str = field(repr=False)


class CodeAssets:
    """The code versions of one workspace. Reads a snapshot once, however often it is asked for."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._read: dict[int, tuple[Snapshot, Fingerprint]] = {}

    def find(self, snapshot: Snapshot) -> CodeAsset | None:
        """The code version with this content: the one that is known here (no request), else one that the workspace
        knows (one request).

        Raises BadUsage for an empty snapshot, DiskFailed for a file that cannot be read, HimlError for one that
        changes, and as `Rest` does.
        """
        known = self.known(snapshot)
        if known is not None:
            return known
        found = self._registered(self._fingerprint(snapshot).sha256)
        return None if found is None else self._keep(snapshot, found, is_new=False)

    def known(self, snapshot: Snapshot) -> CodeAsset | None:
        """The code version with this content that is known here; no request. Raises as `find` does for files."""
        kept = self._connection.kept.get(KIND, self._key(snapshot))
        return CodeAsset(kept, is_new=False) if isinstance(kept, str) and kept else None

    def upload(self, snapshot: Snapshot, notify: Notify) -> CodeAsset:
        """Upload the snapshot, telling *notify* of each file, and register it, whatever is known. However it ends
        early, nothing is registered.

        Raises BadUsage for a name that Azure Storage cannot hold, and as `find` does.
        """
        digested, folder = self._fingerprint(snapshot), folder_for(snapshot)
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions/{NUMBER}")
        room = self._room(url)
        try:
            upload_code(room.signed, folder, snapshot, notify)
        except HimlError:
            digested.check(snapshot.root)  # says more than that some upload failed
            raise
        digested.check(snapshot.root)
        return self._keep(snapshot, self._register(url, f"{room.uri}/{folder}", digested.sha256), is_new=True)

    def forget(self, snapshot: Snapshot) -> None:
        """Drop what is known of the snapshot: the workspace has it no more."""
        self._connection.kept.forget(KIND, self._key(snapshot))

    def _registered(self, sha256: str) -> str | None:
        """The id of a code version with this hash; the name in the address does not matter to the service."""
        url = self._connection.arm(f"/codes/{uuid.uuid4()}/versions")
        query = {"api-version": api_versions.CODES, "hash": sha256, "hashVersion": VERSION}
        first = next(pages(lambda _: self._connection.rest.get(url, params=query), url, "code versions"))
        with understood(url, "the list of code versions"):
            return next((str(item["id"]) for item in first.items if _is_usable(item, sha256)), None)

    def _room(self, url: str) -> _Room:
        """A container of its own for the upload. Asking twice, after an answer that was lost, leaves an empty container
        behind and nothing else."""
        body = {"pendingUploadType": "TemporaryBlobReference"}
        answer = self._connection.rest.post_object(
            f"{url}/startPendingUpload", "place for code", params={"api-version": api_versions.CODES}, json=body
        )
        with understood(url, "the place for code"):
            reference = answer["blobReferenceForConsumption"]
            uri, signed = str(reference["blobUri"]).rstrip("/"), str(reference["credential"].get("sasUri") or "")
        if not signed:
            raise ServiceFailed(
                "The workspace gives no signature (SAS) to upload code with.",
                hint="Its storage account may forbid SAS tokens; ask the workspace's owner.",
            )
        place = parts_of(signed)
        if place.scheme != "https" or not place.hostname:
            raise ServiceFailed(f"The workspace wants code at '{place.hostname or ''}', which is no place behind TLS.")
        return _Room(uri, signed)

    def _register(self, url: str, code_uri: str, sha256: str) -> str:
        """Make the uploaded files a code version, and give its id."""
        properties = {
            "codeUri": code_uri,
            "isAnonymous": True,
            "properties": {"hash_sha256": sha256, "hash_version": VERSION},
        }
        try:
            answer = self._connection.rest.send(
                "PUT", url, params={"api-version": api_versions.CODES}, json={"properties": properties}
            ).body
        except ServiceRefused as err:
            answer = self._carried_out(url) if err.status < 500 else None
            if answer is None:
                raise
        with understood(url, "the code version"):
            return str(answer["id"])

    def _carried_out(self, url: str) -> Any | None:
        """What an earlier try registered whose answer was lost (the service refuses a second one); None where it did
        not."""
        try:
            return self._connection.rest.get(url, params={"api-version": api_versions.CODES})
        except ServiceNotFound:
            return None

    def _keep(self, snapshot: Snapshot, id: str, *, is_new: bool) -> CodeAsset:
        log.debug("code %s is %s", self._fingerprint(snapshot).sha256, id)
        self._connection.kept.put(KIND, self._key(snapshot), id, seconds=LONGEST_SECONDS)
        return CodeAsset(id, is_new)

    def _key(self, snapshot: Snapshot) -> str:
        return self._connection.key(f"code {VERSION} {self._fingerprint(snapshot).sha256}")

    def _fingerprint(self, snapshot: Snapshot) -> Fingerprint:
        if not snapshot.files:
            raise BadUsage(
                f"There is nothing to send in '{snapshot.root}'.",
                hint="Look in its ignore file, or give another --snapshot_root.",
            )
        known = self._read.get(id(snapshot))
        if known is None:
            known = self._read[id(snapshot)] = (snapshot, fingerprint(snapshot))
        return known[1]


def _is_usable(item: Mapping[str, Any], sha256: str) -> bool:
    """Whether the code version has this hash (a service that passes over the question would list others) and is
    complete."""
    properties = item["properties"]
    told = (properties.get("properties") or {}).get("hash_sha256")
    return told in (None, sha256) and properties.get("provisioningState") in (None, "Succeeded")
