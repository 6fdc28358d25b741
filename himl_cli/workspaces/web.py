"""One file at an https address as a `BlobStore` of one blob, so that the transfers of other files serve it too.

Messages name the address without user, password and query.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.message import Message
from urllib.parse import SplitResult, quote, unquote, urljoin, urlunsplit

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest
from himl_cli.core.errors import BadUsage, BlobChanged, HimlError, IntegrityFailed, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.redaction import (
    LOCAL_HOSTS,
    SAFE_IN_PATHS,
    identity,
    is_address,
    last_name,
    parts_of,
    safe_name,
    shown,
)
from himl_cli.workspaces.azure.responses import http_time
from himl_cli.workspaces.azure.storage.blob_download import SMALL, Receiver
from himl_cli.workspaces.azure.storage.blob_responses import (
    TRANSIENT,
    BlobNotFound,
    connection_failure,
    error_code,
    size_from,
    transient_failure,
    whole_md5,
)
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.scheduler import Answer, Attempt, AttemptFailed, Query, Task, ask, run_tasks
from himl_cli.workspaces.azure.storage.signing import VERSION_HEADER, Endpoint, Signature, Signed, sas_expiry
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

AT_ONCE = 8  # requests to a server that himl knows nothing of
READ_AT_ONCE = 4 << 20
MOST_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)
LONGEST_DISPOSITION = 2000
BY_TIME = "Last-Modified "
NEW_LINK = "Get a new link; of a run's checkpoint, 'himl checkpoint url' makes one."
OTHERWISE = "Download it by other means, and name the file."
_COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
_HOST = re.compile(r"[^\s%\\<>^`{|}]{1,253}")
_RANGE = re.compile(r"bytes\s+(?:(?P<start>\d+)-[-\d]+|\*)/(?P<total>\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """The file, and whether parts of it can be asked for: `blob.etag` is what tells one state of it from the next,
    empty where nothing does."""

    blob: BlobInfo
    takes_ranges: bool


def total_size(response: CurlResponse) -> int | None:
    """Bytes of the whole file, as the response to a GET tells them."""
    if response.status == 200:
        return size_from(response.header(b"content-length"))
    found = _RANGE.fullmatch(response.header(b"content-range"))
    return size_from(found["total"]) if found else None


def validator_of(response: CurlResponse) -> str:
    """What changes whenever the content does: a strong ETag as it is, else the time of change where that is sure to
    differ; else empty.

    A time counts from one second on after it: within that second the file may change once more (RFC 9110, 8.8.2.2).
    """
    etag = response.header(b"etag")
    if etag and not etag.startswith("W/"):
        return etag
    changed, now = http_time(response.header(b"last-modified")), http_time(response.header(b"date"))
    if changed is None or now is None or (now - changed).total_seconds() < 1:
        return ""
    return BY_TIME + response.header(b"last-modified")


def file_name(response: CurlResponse, address: str) -> str:
    """The end of the address where that has an ending, else what the server calls it, else the end of the address."""
    last, disposition = last_name(address), response.header(b"content-disposition")
    called = ""
    if "." not in last.strip(".") and len(disposition) <= LONGEST_DISPOSITION:
        message = Message()
        message["Content-Disposition"] = re.sub(r"[^\t -~\xa0-\xff]", "", disposition)
        called = re.split(r"[/\\]", message.get_filename("") or "")[-1]
    return safe_name(called or last)


def _checked(address: str) -> str:
    """*address* where it can be read. Raises BadUsage."""
    parts = parts_of(address)
    if not parts.netloc and is_address(address):  # nothing of it can be shown: what is a password is not known either
        raise BadUsage(
            "This address cannot be read: its host or its port is none.",
            hint="It reads https://HOST:PORT/PATH; ports go up to 65535.",
        )
    if not is_address(address) or not _HOST.fullmatch(parts.hostname or ""):
        hint = "It reads https://HOST/PATH, all of it in quotes."
        raise BadUsage(f"'{shown(address)}' is not an address that can be read.", hint=hint)
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL_HOSTS:
        raise BadUsage(
            f"{shown(address)} is a plain http address: anybody on the way could change the file.",
            hint="Use https, or download it yourself.",
        )
    return address.strip()


class WebEndpoint(Endpoint):
    """The file at *address*, asked for where it was found last.

    User and password of the address go to its own host only, and nothing of its query to another one.
    """

    def __init__(self, address: str, pool: CurlPool, policy: RetryPolicy) -> None:
        super().__init__()
        self.address = _checked(address)
        self.label, self.origin = shown(self.address), identity(self.address)
        self._pool = pool
        self._policy = policy
        self._own = parts_of(self.address)
        self._is_looking = False
        self._use(self._own)

    def _use(self, parts: SplitResult) -> None:
        """Ask there: without user, password and fragment, what no URL can hold percent-encoded."""
        host = parts.hostname or ""
        if not host.isascii():
            with suppress(UnicodeError):  # it is no name that anybody could have
                host = host.encode("idna").decode()
        netloc = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            netloc = f"{netloc}:{parts.port}"
        self._query = quote(parts.query, safe=f"{SAFE_IN_PATHS}?")
        path = quote(parts.path or "/", safe=SAFE_IN_PATHS)
        self._url = urlunsplit((parts.scheme.lower(), netloc, path, self._query, ""))
        self.host, self.expires = parts.hostname or "", sas_expiry(parts.query)

    def signed(self, name: str, query: str = "") -> Signed:
        parts, own = parts_of(self._url), self._own
        headers = ["Accept-Encoding: identity"]  # the bytes that the file has, not compressed for the way
        if ".blob." in self.host:  # Azure Storage answers otherwise by the rules of its first years
            headers.append(VERSION_HEADER)
        if own.username and (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port):
            user = f"{unquote(own.username)}:{unquote(own.password or '')}"
            headers.append(f"Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        return Signed(self._url, tuple(headers), Signature())

    def refusal(self, why: str) -> NotAllowed:
        if 0 < self.expires < time.time():
            ends = datetime.fromtimestamp(self.expires, timezone.utc)
            return NotAllowed(f"The link to {self.label} has expired ({ends:%Y-%m-%d %H:%M} UTC).", hint=NEW_LINK)
        if self._query:
            return NotAllowed(
                f"The link to {self.label} has expired, or does not allow reading ({why}).", hint=NEW_LINK
            )
        return NotAllowed(
            f"{self.host} does not let {self.label} be read without signing in ({why}).",
            hint="Use a link that holds a signature.",
        )

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Where the address sends to may be good for some minutes only: it is asked again."""
        if self._is_looking:
            return False
        if refused.url == self._url:
            self.look()
        return True

    def look(self) -> RemoteFile:
        """What the file is, and where it lies after all redirections. Raises BlobNotFound, NotAllowed, ServiceFailed.

        The first byte is asked for: unlike HEAD that is answered wherever the file can be read, also by links that are
        signed for GET alone. Who knows nothing of ranges begins to send the file, and is left at that.
        """
        statuses = (200, 206, 416, *REDIRECTS)
        self._use(self._own)
        self._is_looking = True
        try:
            for _ in range(MOST_REDIRECTS + 1):
                query = _WebQuery(
                    "", self, self._policy, self.parse, "Range: bytes=0-0", statuses=statuses, is_streamed=True
                )
                found = ask(query, self._pool)
                if isinstance(found, RemoteFile):
                    return found
                self._use(found)
        finally:
            self._is_looking = False
        raise self.redirected()

    def redirected(self) -> ServiceFailed:
        return ServiceFailed(f"{self.host} sends requests elsewhere, again and again.")

    def parse(self, response: CurlResponse) -> RemoteFile | SplitResult:
        """The file, or where the response sends to. Raises BlobNotFound, ServiceFailed."""
        if response.status in REDIRECTS:
            return self._location(response.header(b"location"))
        kind = response.header(b"content-type").partition(";")[0].strip().lower()
        is_page = last_name(self.address).lower().endswith((".html", ".htm", ".xhtml"))
        if kind in ("text/html", "application/xhtml+xml") and not is_page:  # such as a log-in
            hint = "Give the address that a browser downloads the file from."
            raise BlobNotFound(f"{self.label} shows a web page, and no file.", hint=hint)
        self.check_compression(response)
        size = 0 if response.status == 416 else total_size(response)  # 416: even the first byte does not exist
        if size is None:
            raise ServiceFailed(
                f"{self.host} does not say how large {self.label} is, so nobody could tell whether all of it came.",
                hint=OTHERWISE,
            )
        modified, name = http_time(response.header(b"last-modified")), file_name(response, self.address)
        blob = BlobInfo(name, size, validator_of(response), whole_md5(response), modified)
        return RemoteFile(blob, takes_ranges=response.status == 206)

    def check_compression(self, response: CurlResponse) -> None:
        """Raises ServiceFailed for bytes in another form than the file's, archives aside: its size and MD5 could not
        be told."""
        named = {one.strip().lower() for one in response.header(b"content-encoding").split(",")} & _COMPRESSIONS
        if named and not last_name(self.address).lower().endswith((".gz", ".tgz", ".zst", ".br")):
            how = ", ".join(sorted(named))
            raise ServiceFailed(f"{self.host} sends {self.label} compressed ({how}) only.", hint=OTHERWISE)

    def _location(self, location: str) -> SplitResult:
        """Raises ServiceFailed where that is nothing to go to."""
        parts = parts_of(urljoin(self._url, location.strip()))
        if not location or parts.scheme not in ("http", "https") or not parts.hostname:
            raise ServiceFailed(
                f"{self.host} sends to an address that cannot be read.", hint="Is this the address of a file?"
            )
        if parts.scheme == "http" and (self._url.startswith("https:") or parts.hostname not in LOCAL_HOSTS):
            raise ServiceFailed(
                f"{self.host} sends to {parts.hostname} by plain http, which anybody on the way could change."
            )
        return parts


class _WebTask(Task):
    """Requests for the file, and what their failures come to."""

    endpoint: WebEndpoint

    def failure(self, response: CurlResponse) -> Failure:
        endpoint, status = self.endpoint, response.status
        if response.failure is not None:
            return connection_failure(response.failure, endpoint)
        code = response.header(b"x-ms-error-code") or error_code(response.take() if len(response.chunks) < 64 else b"")
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return Failure(endpoint.refusal(f"{status} {code}".rstrip()), code, is_refusal=True)
        if status in REDIRECTS:
            return Failure(endpoint.redirected(), is_refusal=True)
        if status in TRANSIENT:
            return transient_failure(response, endpoint.host)
        if status in (404, 410):
            return Failure(BlobNotFound(f"There is no file at {endpoint.label} ({status}).", hint="Check the address."))
        if status == 416:
            return Failure(self.changed())
        return Failure(ServiceFailed(f"{endpoint.host} refused the request for {endpoint.label} ({status})."), code)

    def changed(self) -> BlobChanged:
        return BlobChanged(f"The file at {self.endpoint.label} changed while it was read.")

    def accept(self, response: CurlResponse, blob: BlobInfo, start: int) -> None:
        """Look at the head before any of the bytes count. Raises AttemptFailed unless the response has the bytes from
        *start* on of the file that was listed."""
        if response.status not in (200, 206) or (response.failure is not None and not response.chunks):
            raise AttemptFailed(self.failure(response))
        try:
            self.endpoint.check_compression(response)
        except ServiceFailed as error:
            raise AttemptFailed(Failure(error)) from error
        total, validator = total_size(response), validator_of(response)
        if (validator and blob.etag and validator != blob.etag) or (total is not None and total != blob.size):
            raise AttemptFailed(Failure(self.changed()))
        found = _RANGE.fullmatch(response.header(b"content-range"))
        if (size_from(found["start"] or "") if found else None) != start if response.status == 206 else start:
            raise self.other_bytes()

    def other_bytes(self) -> AttemptFailed:
        error = ServiceFailed(f"{self.endpoint.host} sent other bytes than were asked for.")
        return AttemptFailed(Failure(error, may_pass=True))

    def cut_short(self) -> AttemptFailed:
        return AttemptFailed(Failure(IntegrityFailed(f"The file at {self.endpoint.label} came without its end.")))


class _WebQuery(_WebTask, Query[Answer]):
    """A single request for the file."""


class _Part(_WebTask):
    """The bytes of one request, resumed from where they got to; only of the state of the file that was listed."""

    def __init__(self, request: FetchRequest, sink: FetchSink, endpoint: WebEndpoint, retries: RetryState) -> None:
        super().__init__(request.blob.name, endpoint, retries)
        self._request = request
        self._sink = sink
        self._receiver = Receiver(request, sink)

    def attempt(self) -> Attempt:
        receiver, blob = self._receiver, self._request.blob
        headers = receiver.headers()
        if headers:
            headers.append(f"If-Range: {blob.etag.removeprefix(BY_TIME)}")
        response = yield self.request(*headers, is_streamed=receiver.end - receiver.position > SMALL)
        self.accept(response, blob, receiver.position)
        while True:
            data = response.take()
            if not receiver.is_room_for(data):
                raise self.other_bytes()
            if receiver.take(data):
                self.progressed()
            if response.is_complete:
                break
            if response.failure is not None:
                raise AttemptFailed(self.failure(response))
            yield None
        if not receiver.is_complete:
            raise self.cut_short()
        self.progressed()
        self._sink.finish(self._request, whole_md5(response))

    def fail(self, error: HimlError) -> None:
        self._sink.fail(self._request, error)


class _Stream(_WebTask):
    """The whole file, from its first byte on, dealt out to *first* and the rest of *requests*. It cannot be resumed:
    once bytes of it are dealt out, a failure is final."""

    def __init__(
        self,
        first: FetchRequest,
        requests: Iterator[FetchRequest],
        sink: FetchSink,
        endpoint: WebEndpoint,
        retries: RetryState,
    ) -> None:
        super().__init__(first.blob.name, endpoint, retries)
        self._request: FetchRequest | None = first
        self._requests = requests
        self._sink = sink

    def attempt(self) -> Attempt:
        while self._request is not None:  # again for a request that is not ahead of the one before
            blob, position, end = self._request.blob, 0, 0
            response = yield self.request(is_streamed=True)
            self.accept(response, blob, 0)
            while True:
                data = response.take()
                start, position = position, position + len(data)
                if position > blob.size:
                    raise AttemptFailed(Failure(self.changed()))
                while (request := self._request) is not None and request.offset >= end:
                    stop = request.offset + request.length
                    if piece := data[max(0, request.offset - start) : max(0, stop - start)]:
                        self._sink.write(request, max(start, request.offset), piece)
                    if stop > position:
                        break
                    self._sink.finish(request, whole_md5(response))
                    self.progressed()
                    end, self._request = stop, next(self._requests, None)
                if self._request is None or self._request.offset < end:
                    break
                if response.is_complete:
                    raise self.cut_short()
                if response.failure is not None:
                    if not position:
                        raise AttemptFailed(self.failure(response))
                    what = f"The connection broke off, and {self.endpoint.label} cannot be had from its middle on."
                    raise AttemptFailed(Failure(ServiceFailed(what)))
                yield None

    def fail(self, error: HimlError) -> None:
        if self._request is not None:
            self._sink.fail(self._request, error)


class WebFile:
    """The file at *address*, read-only. It is looked at once; `stat` looks anew. Raises BadUsage for an address that is
    not read.

    What changed between two requests, or since an earlier transfer, is told by a strong ETag, else by the time of
    change; from servers that say neither, or know nothing of ranges, the file comes in one stream.
    """

    def __init__(self, address: str, *, pool: CurlPool | None = None, policy: RetryPolicy | None = None) -> None:
        self._pool = pool or CurlPool()
        self._policy = policy or RetryPolicy()
        self._endpoint = WebEndpoint(address, self._pool, self._policy)
        self._found: RemoteFile | None = None
        self.label, self.origin = self._endpoint.label, self._endpoint.origin

    def _file(self) -> RemoteFile:
        self._found = self._found or self._endpoint.look()
        return self._found

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """The file. Raises NotFound where there is none, NotAllowed, ServiceFailed."""
        blob = self._file().blob
        if blob.name.startswith(prefix):
            yield [blob]

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`: one request."""
        self._found = None
        try:
            blob = self._file().blob
        except BlobNotFound:
            return None
        return blob if blob.name == name else None

    def md5(self, blob: BlobInfo) -> bytes | None:
        """What the server tells, which for parts of a file may take a request of its own."""
        if blob.md5 is not None:
            return blob.md5

        def parse(response: CurlResponse) -> bytes | None:
            return whole_md5(response) if validator_of(response) == blob.etag else None

        try:
            once = RetryPolicy(attempts=1)
            return ask(_WebQuery(blob.name, self._endpoint, once, parse, method="HEAD"), self._pool)
        except HimlError:  # it is told on top; some servers answer no HEAD
            return None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`. Raises NotFound at once; what else goes wrong while iterating."""
        blob = self._file().blob
        if name != blob.name:
            raise NotFound(f"No file '{name}' at {self.label}.")

        def pieces() -> Iterator[bytes]:
            for start in range(offset, blob.size, READ_AT_ONCE):
                buffer = _Buffer()
                request = FetchRequest(blob, start, min(READ_AT_ONCE, blob.size - start))
                self.fetch([request], buffer, workers=1)
                if buffer.error is not None:
                    raise buffer.error
                yield b"".join(buffer.pieces)

        return pieces()

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`, by 8 connections at most."""
        file, endpoint, retries = self._file(), self._endpoint, RetryState(self._policy, self._endpoint.pauses)
        tasks: Iterator[Task]
        # Only then do parts that were asked for one by one make one file for certain
        if file.takes_ranges and file.blob.etag:
            tasks = (_Part(request, sink, endpoint, retries) for request in requests)
        else:
            rest, workers = iter(requests), 1
            tasks = (_Stream(first, rest, sink, endpoint, retries) for first in rest)
        run_tasks(self._pool, tasks, min(workers, AT_ONCE))

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Every request fails."""
        for request in requests:
            sink.fail(request, HimlError(f"{self.label} can be read only."))


@dataclass
class _Buffer:
    """Keeps the bytes of one request."""

    pieces: list[bytes] = field(default_factory=list)
    error: HimlError | None = None

    def write(self, request: FetchRequest, offset: int, data: bytes) -> None:
        self.pieces.append(data)

    def finish(self, request: FetchRequest, md5: bytes | None) -> None:
        """All is there."""

    def fail(self, request: FetchRequest, error: HimlError) -> None:
        self.error = error
