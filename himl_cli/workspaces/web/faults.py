"""Why an address gave no file, in himl's own sentences; none of them holds the address's query."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime, timezone

from himl_cli.core.errors import BlobChanged, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.workspaces.azure.requests.times import asked_wait
from himl_cli.workspaces.azure.storage.blobs.broken import FEW, NO_HOST, broken_fault
from himl_cli.workspaces.azure.storage.blobs.faults import PASSING
from himl_cli.workspaces.azure.storage.blobs.lines import Broken, Line
from himl_cli.workspaces.azure.storage.blobs.place import Place
from himl_cli.workspaces.azure.storage.blobs.wire import error_code
from himl_cli.workspaces.retry import Failure

log = logging.getLogger(__name__)

MOVED = (301, 302, 303, 307, 308)
GONE = (404, 410)
REFUSED = (401, 403)
NEW_LINK = "Get a new link; of a run's checkpoint, 'himl checkpoint url' makes one."


class FileGone(NotFound):
    """The host is there, the file is not."""


@dataclass(frozen=True, slots=True)
class WebPlace(Place):
    """Who answers for an address; `label` is the address as it may be shown, `is_signed` whether it has a signature,
    good until `expires`."""

    is_signed: bool = False


def compressed(place: WebPlace, how: str) -> ServiceFailed:
    """The error for a file that comes in another form than it has: neither its size nor its MD5 could be told then."""
    return ServiceFailed(
        f"{place.host} sends {place.label} compressed ({how}) only.",
        hint="Download it by other means, and name the file.",
    )


def fault_on(line: Line, broken: Broken | None, place: WebPlace) -> Failure:
    """The fault of a request to *place* that did not end with what was asked for."""
    if broken is not None:
        if broken.number == NO_HOST:
            unknown = ServiceFailed(
                f"The host {place.host} is not known here (DNS).", hint="Check the address and the network."
            )
            return Failure(unknown, may_pass=True, max_attempts=FEW)
        return broken_fault(broken, place)
    status = line.status
    code = line.header(b"x-ms-error-code") or error_code(line.take() if len(line.chunks) < 64 else b"")
    log.debug("%s answered %d %s", place.host, status, code)
    if status in REFUSED or code == "PublicAccessNotPermitted":
        return Failure(_refusal(status, code, place), code, is_refusal=True)
    if status in MOVED:
        return Failure(ServiceFailed(f"{place.host} sends requests elsewhere, again and again."), is_refusal=True)
    if status in PASSING:
        return _passing(line, status, place)
    return Failure(_plain(status, place), code)


def _refusal(status: int, code: str, place: WebPlace) -> NotAllowed:
    if 0 < place.expires < time.time():
        ends = datetime.fromtimestamp(place.expires, timezone.utc)
        return NotAllowed(f"The link to {place.label} has expired ({ends:%Y-%m-%d %H:%M} UTC).", hint=NEW_LINK)
    why = f"{status} {code}".rstrip()
    if place.is_signed:
        return NotAllowed(f"The link to {place.label} has expired, or does not allow reading ({why}).", hint=NEW_LINK)
    return NotAllowed(
        f"{place.host} does not let {place.label} be read without signing in ({why}).",
        hint="Use a link that holds a signature.",
    )


def _passing(line: Line, status: int, place: WebPlace) -> Failure:
    wait = asked_wait(lambda field: line.header(field.encode()))
    what = "is too busy, also after waiting" if status in (429, 503) else "keeps failing"
    error = ServiceFailed(f"{place.host} {what} ({status}).", hint="Try again later.")
    return Failure(error, may_pass=True, retry_after=wait, message=f"{place.host} answered {status}")


def _plain(status: int, place: WebPlace) -> HimlError:
    if status in GONE:
        return FileGone(f"There is no file at {place.label} ({status}).", hint="Check the address.")
    if status == 416:
        return BlobChanged(f"The file at {place.label} changed while it was read.")
    return ServiceFailed(f"{place.host} refused the request for {place.label} ({status}).")
