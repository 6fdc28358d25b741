"""What went wrong with a request to storage, in himl's own sentences."""

from __future__ import annotations

import logging

from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.redaction import redact
from himl_cli.workspaces.azure.requests.times import asked_wait
from himl_cli.workspaces.azure.storage.blobs.broken import broken_fault
from himl_cli.workspaces.azure.storage.blobs.lines import Broken, Line
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.refusals import refusal, refused_again
from himl_cli.workspaces.azure.storage.blobs.wire import error_code
from himl_cli.workspaces.retry import Failure

log = logging.getLogger(__name__)

PASSING = {408, 429, 500, 502, 503, 504, 509}


class BlocksNotTaken(ServiceFailed):
    """This blob is not made of blocks; it can be replaced whole only."""


class BlobNotFound(NotFound):
    """The container is there, the blob is not."""


def fault_of(line: Line, broken: Broken | None, place: Place, name: str) -> Failure:
    """The fault of an exchange that did not end with what was asked for."""
    if broken is not None:
        return broken_fault(broken, place)
    body = line.take() if len(line.chunks) < 64 else b""
    code = line.header(b"x-ms-error-code") or error_code(body)
    status = line.status
    log.debug(
        "storage answered %d %s to a request for '%s' (request id %s)",
        status,
        code,
        redact(name),
        line.header(b"x-ms-request-id"),
    )
    if status in (401, 403):
        return Failure(refusal(line, body, place, code), code, is_refusal=True, again=refused_again(line, place, code))
    if status in PASSING:
        wait = asked_wait(lambda field: line.header(field.encode()))
        said = f"{place.storage.capitalize()} answered {status}"
        return Failure(_overloaded(status, code, place, wait), code, may_pass=True, retry_after=wait, message=said)
    return Failure(_plain(status, code, place, name), code)


_SAID: dict[str, tuple[type[HimlError], str, str]] = {
    "BlobArchived": (
        ServiceFailed,
        "{blob} lies in the archive tier.",
        "Set its access tier to Hot or Cool first; that takes hours.",
    ),
    "BlobImmutableDueToPolicy": (
        NotAllowed,
        "{blob} is protected by an immutability policy.",
        "Store it under another name.",
    ),
    "BlobImmutableDueToLegalHold": (NotAllowed, "{blob} is under a legal hold.", "Store it under another name."),
    "BlobOperationNotSupported": (
        BlocksNotTaken,
        "{blob} was made by a program that uses the lake's own interface (dfs): it cannot be replaced in blocks.",
        "Delete it there first.",
    ),
    "InvalidBlobOrBlock": (
        ServiceFailed,
        "{blob} was left unfinished there by another program.",
        "Delete it there, or use another name.",
    ),
    "InvalidBlobType": (
        ServiceFailed,
        "{blob} is of another kind (an append or page blob).",
        "Delete it there, or use another name.",
    ),
    "InvalidBlockList": (
        ServiceFailed,
        "The parts of {blob} are not all there: another program is writing it too.",
        "Run the command again when nothing else writes it.",
    ),
    "LeaseIdMissing": (ServiceFailed, "{blob} is locked by a lease.", "Whoever holds the lease has to release it."),
}
_NO_CONTAINER = ("ContainerNotFound", "ContainerBeingDeleted", "FilesystemNotFound", "ResourceNotFound")


def _plain(status: int, code: str, place: Place, name: str) -> HimlError:
    blob = f"'{name}' in {place.label}"
    if code in _SAID:
        kind, sentence, hint = _SAID[code]
        return kind(sentence.format(blob=blob), hint=hint)
    if status == 404 and code in _NO_CONTAINER:
        return NotFound(
            f"{place.storage.capitalize()} has no container '{place.container}' ({place.label}).",
            hint="Was it deleted, or the datastore registered with a wrong name?",
        )
    if status == 404:
        return BlobNotFound(f"No file {blob}.")
    if status == 412:
        return BlobChanged(
            f"'{name}' changed while it was read.", hint="Run the command again when nothing writes to it."
        )
    if status == 416:
        return BlobChanged(f"'{name}' is shorter than it was listed.")
    if 300 <= status < 400:
        return ServiceFailed(
            f"{place.host} sends requests elsewhere (HTTP {status}); that is not Azure Storage.",
            hint="Is a proxy or a log-in page in between?",
        )
    return ServiceFailed(
        f"{place.storage.capitalize()} refused the request for '{name}' ({status} {code or 'without a reason'})."
    )


def _overloaded(status: int, code: str, place: Place, wait: float | None) -> ServiceFailed:
    if status in (429, 503) or code == "ServerBusy":
        what = f"asks to wait {wait:.0f} s" if wait is not None and wait >= 1 else "is too busy, also after waiting"
        return ServiceFailed(
            f"{place.storage.capitalize()} {what} ({status} {code or 'throttled'}).",
            hint="Try again later, or with fewer --workers.",
        )
    return ServiceFailed(
        f"{place.storage.capitalize()} keeps failing ({status} {code or 'without a reason'}).", hint="Try again later."
    )
