"""One file at an https address as a `BlobStore` of one blob, so that the transfers of other files serve it too.

Messages name the address without user, password and query.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
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
from himl_cli.workspaces.azure.responses import http_time, size_from
from himl_cli.workspaces.azure.storage.blob_responses import (
    TRANSIENT,
    BlobNotFound,
    connection_failure,
    error_code,
    transient_failure,
    whole_md5,
)
from himl_cli.workspaces.azure.storage.curl import CurlPool, CurlResponse
from himl_cli.workspaces.azure.storage.scheduler import Answer, Attempt, AttemptFailed, Query, Task, ask, run_tasks
from himl_cli.workspaces.azure.storage.signing import VERSION_HEADER, Endpoint, Signature, Signed, sas_expiry
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState

REDIRECTS = (301, 302, 303, 307, 308)
CHANGED = "The file at {} changed while it was read."
OTHERWISE = "Download it by other means, and name the file."
_COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
_RANGE = re.compile(r"bytes\s+(?:(?P<start>\d+)-[-\d]+|\*)/(?P<total>\d+)", re.IGNORECASE)


class WebFile(Endpoint):
    """The file at *address*, read-only; asked for where it was found last. It is looked at once; `stat` looks anew.
    Raises BadUsage for an address that is not read.

    User and password of the address go to its own host only, and nothing of its query to another one. What changed
    between two requests, or since an earlier transfer, is told by a strong ETag, else by the time of change; from
    servers that say neither, or know nothing of ranges, the file comes in one stream.
    """

    def __init__(self, address: str, *, pool: CurlPool | None = None, policy: RetryPolicy | None = None) -> None:
        super().__init__()
        self._address = _checked(address)
        self._own = parts_of(self._address)
        self.label, self.origin = shown(self._address), identity(self._address)
        self._pool = pool or CurlPool()
        self._policy = policy or RetryPolicy()
        self._is_looking = False
        self._found: tuple[BlobInfo, bool] | None = None
        self._use(self._own)

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        """The file. Raises NotFound where there is none, NotAllowed, ServiceFailed."""
        blob, _ = self._file()
        if blob.name.startswith(prefix):
            yield [blob]

    def stat(self, name: str) -> BlobInfo | None:
        """As `BlobStore.stat`: one request."""
        self._found = None
        with suppress(BlobNotFound):
            blob, _ = self._file()
            return blob if blob.name == name else None
        return None

    def md5(self, blob: BlobInfo) -> bytes | None:
        """What the server tells, which for parts of a file may take a request of its own."""
        if blob.md5 is not None:
            return blob.md5

        def parse(response: CurlResponse) -> bytes | None:
            return whole_md5(response) if validator_of(response) == blob.etag else None

        with suppress(HimlError):  # it is told on top; some servers answer no HEAD
            return ask(_WebQuery(blob.name, self, RetryPolicy(attempts=1), parse, method="HEAD"), self._pool)
        return None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`, in one piece: larger files are fetched. Raises NotFound, NotAllowed, ServiceFailed."""
        if name != self._file()[0].name:
            raise NotFound(f"No file '{name}' at {self.label}.")
        return iter([ask(_WebQuery(name, self, self._policy, lambda response: response.take()[offset:]), self._pool)])

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`, by 8 connections at most."""
        (blob, takes_ranges), retries = self._file(), RetryState(self._policy, self.pauses)
        by_parts = takes_ranges and bool(blob.etag)  # only then do parts make one file for certain
        found = iter(requests)
        rest: Iterator[FetchRequest] = iter(()) if by_parts else found
        tasks: Iterator[Task] = (_Download(first, rest, sink, self, retries, by_parts=by_parts) for first in found)
        # To a server that himl knows nothing of
        run_tasks(self._pool, tasks, min(workers, 8) if by_parts else 1)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Every request fails."""
        for request in requests:
            sink.fail(request, HimlError(f"{self.label} can be read only."))

    def signed(self, name: str, query: str = "") -> Signed:
        parts, own = parts_of(self._url), self._own
        headers = ["Accept-Encoding: identity"]  # the bytes that the file has, not compressed for the way
        if ".blob." in self.host:  # Azure Storage answers otherwise by the rules of its first years
            headers.append(VERSION_HEADER)
        if own.username and (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port):
            user = f"{unquote(own.username)}:{unquote(own.password or '')}"
            headers.append(f"Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        return Signed(self._url, tuple(headers), Signature())

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Where the address sends to may be good for some minutes only: it is asked again."""
        if self._is_looking:
            return False
        if refused.url == self._url:
            self._look()
        return True

    def _file(self) -> tuple[BlobInfo, bool]:
        """The file, whose `etag` is empty where nothing tells one state of it from the next, and whether parts of it
        can be asked for."""
        self._found = self._found or self._look()
        return self._found

    def _look(self) -> tuple[BlobInfo, bool]:
        """What the file is, and where it lies after all redirections. Raises BlobNotFound, NotAllowed, ServiceFailed.

        The first byte is asked for: unlike HEAD that is answered wherever the file can be read, also by links that are
        signed for GET alone. Who knows nothing of ranges begins to send the file, and is left at that.
        """
        headers, statuses = ("Range: bytes=0-0",), (200, 206, 416, *REDIRECTS)
        self._use(self._own)
        self._is_looking = True
        try:
            for _ in range(11):
                found = ask(
                    _WebQuery("", self, self._policy, self.parse, *headers, statuses=statuses, is_streamed=True),
                    self._pool,
                )
                if not isinstance(found, SplitResult):
                    return found
                self._use(found)
        finally:
            self._is_looking = False
        raise self.redirected()

    def _use(self, parts: SplitResult) -> None:
        """Ask there: without user, password and fragment, what no URL can hold percent-encoded."""
        host = parts.hostname or ""
        with suppress(UnicodeError):  # it is no name that anybody could have
            host = host if host.isascii() else host.encode("idna").decode()
        netloc = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            netloc = f"{netloc}:{parts.port}"
        path, query = quote(parts.path or "/", safe=SAFE_IN_PATHS), quote(parts.query, safe=f"{SAFE_IN_PATHS}?")
        self._url = urlunsplit((parts.scheme.lower(), netloc, path, query, ""))
        self.host, self.expires = parts.hostname or "", sas_expiry(parts.query)

    def parse(self, response: CurlResponse) -> tuple[BlobInfo, bool] | SplitResult:
        """The file, or where the response sends to. Raises BlobNotFound, ServiceFailed."""
        if response.status in REDIRECTS:
            location = response.header(b"location").strip()
            parts = parts_of(urljoin(self._url, location))
            if not location or parts.scheme not in ("http", "https") or not parts.hostname:
                hint = "Is this the address of a file?"
                raise ServiceFailed(f"{self.host} sends to an address that cannot be read.", hint=hint)
            if parts.scheme == "http" and (self._url.startswith("https:") or parts.hostname not in LOCAL_HOSTS):
                how = "by plain http, which anybody on the way could change"
                raise ServiceFailed(f"{self.host} sends to {parts.hostname} {how}.")
            return parts
        kind = response.header(b"content-type").partition(";")[0].strip().lower()
        is_page = last_name(self._address).lower().endswith((".html", ".htm", ".xhtml"))
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
        name, modified = file_name(response, self._address), http_time(response.header(b"last-modified"))
        return BlobInfo(name, size, validator_of(response), whole_md5(response), modified), response.status == 206

    def check_compression(self, response: CurlResponse) -> None:
        """Raises ServiceFailed for bytes in another form than the file's, archives aside: its size and MD5 could not
        be told."""
        named = {one.strip().lower() for one in response.header(b"content-encoding").split(",")} & _COMPRESSIONS
        if named and not last_name(self._address).lower().endswith((".gz", ".tgz", ".zst", ".br")):
            how = ", ".join(sorted(named))
            raise ServiceFailed(f"{self.host} sends {self.label} compressed ({how}) only.", hint=OTHERWISE)

    def redirected(self) -> ServiceFailed:
        return ServiceFailed(f"{self.host} sends requests elsewhere, again and again.")

    def refusal(self, why: str) -> NotAllowed:
        hint = "Get a new link; of a run's checkpoint, 'himl checkpoint url RUN' makes one."
        if 0 < self.expires < time.time():
            ends = datetime.fromtimestamp(self.expires, timezone.utc)
            message = f"The link to {self.label} has expired ({ends:%Y-%m-%d %H:%M} UTC)."
        elif "?" in self._url:
            message = f"The link to {self.label} has expired, or does not allow reading ({why})."
        else:
            message = f"{self.host} does not let {self.label} be read without signing in ({why})."
            hint = "Use a link that holds a signature."
        return NotAllowed(message, hint=hint)


class _WebTask(Task):
    """Requests for the file, and what their failures come to."""

    endpoint: WebFile

    def failure(self, response: CurlResponse) -> Failure:
        file, status = self.endpoint, response.status
        if response.failure is not None:
            return connection_failure(response.failure, file)
        code = response.header(b"x-ms-error-code") or error_code(response.take() if len(response.chunks) < 64 else b"")
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return Failure(file.refusal(f"{status} {code}".rstrip()), code, is_refusal=True)
        if status in REDIRECTS:
            return Failure(file.redirected(), is_refusal=True)
        if status in TRANSIENT:
            return transient_failure(response, file.host)
        error: HimlError = ServiceFailed(f"{file.host} refused the request for {file.label} ({status}).")
        if status in (404, 410):
            error = BlobNotFound(f"There is no file at {file.label} ({status}).", hint="Check the address.")
        elif status == 416:
            error = BlobChanged(CHANGED.format(file.label))
        return Failure(error, code)


class _WebQuery(_WebTask, Query[Answer]):
    """A single request for the file."""


class _Download(_WebTask):
    """The bytes of *first* and *rest*, one request for bytes after the other; only of the state of the file that was
    listed.

    With *by_parts* what broke off is asked for from there on. Else all come in one stream, from the file's first byte
    on, which cannot be resumed: once bytes of it came, a failure is final.
    """

    def __init__(
        self,
        first: FetchRequest,
        rest: Iterator[FetchRequest],
        sink: FetchSink,
        file: WebFile,
        retries: RetryState,
        *,
        by_parts: bool,
    ) -> None:
        super().__init__(first.blob.name, file, retries)
        self._request: FetchRequest | None = first
        self._rest = rest
        self._sink = sink
        self._by_parts = by_parts
        self._position = self._proven = first.offset  # where the next byte belongs, and where failures were forgotten

    def attempt(self) -> Attempt:
        response: CurlResponse | None = None
        start, data = 0, b""  # what came last, and where in the file it begins
        while (request := self._request) is not None:
            stop = request.offset + request.length
            if response is None or self._position < start:  # the latter: it is not ahead of the one before
                start, data = (self._position if self._by_parts else 0), b""
                is_whole = start == 0 and (stop == request.blob.size or not self._by_parts)
                headers = [] if is_whole else [f"Range: bytes={start}-{stop - 1}"]
                response = yield self.request(*headers, is_streamed=True)
                self._accept(response, request.blob, start)
            while self._position < stop:
                if piece := data[self._position - start : stop - start]:
                    self._sink.write(request, self._position, piece)
                    self._position += len(piece)
                else:
                    start, data = start + len(data), response.take()
                    if not data:
                        self._check_unended(response, start)
                        yield None
                if self._position - self._proven >= 1 << 20:  # enough to forget earlier failures
                    self._proven = self._position
                    self.progressed()
            is_last = self._by_parts or stop == request.blob.size  # a connection whose response ended can be used again
            while is_last and not (response.is_complete or response.failure or response.take()):
                yield None
            self._sink.finish(request, whole_md5(response))
            self.progressed()
            self._request = next(self._rest, None)
            self._position = self._proven = self._request.offset if self._request is not None else stop

    def _accept(self, response: CurlResponse, blob: BlobInfo, start: int) -> None:
        """Look at the head before any of the bytes count. Raises AttemptFailed unless the response has the bytes from
        *start* on of the file that was listed."""
        file = self.endpoint
        if response.status not in (200, 206) or (response.failure is not None and not response.chunks):
            raise AttemptFailed(self.failure(response))
        try:
            file.check_compression(response)
        except ServiceFailed as error:
            raise AttemptFailed(Failure(error)) from error
        total, validator = total_size(response), validator_of(response)
        if (validator and blob.etag and validator != blob.etag) or (total is not None and total != blob.size):
            raise AttemptFailed(Failure(BlobChanged(CHANGED.format(file.label))))
        found = _RANGE.fullmatch(response.header(b"content-range"))
        if (size_from(found["start"] or "") if found else None) != start if response.status == 206 else start:
            other = ServiceFailed(f"{file.host} sent other bytes than were asked for.")
            raise AttemptFailed(Failure(other, may_pass=True))

    def _check_unended(self, response: CurlResponse, start: int) -> None:
        """Raises AttemptFailed where no more comes of *response*, of which the bytes up to *start* came."""
        label = self.endpoint.label
        if response.is_complete:
            raise AttemptFailed(Failure(IntegrityFailed(f"The file at {label} came without its end.")))
        if response.failure is not None and start and not self._by_parts:
            what = f"The connection broke off, and {label} cannot be had from its middle on."
            raise AttemptFailed(Failure(ServiceFailed(what)))
        if response.failure is not None:
            raise AttemptFailed(self.failure(response))

    def fail(self, error: HimlError) -> None:
        if self._request is not None:
            self._sink.fail(self._request, error)


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
    return "Last-Modified " + response.header(b"last-modified")


def file_name(response: CurlResponse, address: str) -> str:
    """The end of the address where that has an ending, else what the server calls it, else the end of the address."""
    name, disposition = last_name(address), response.header(b"content-disposition")
    if "." not in name.strip(".") and len(disposition) <= 2000:
        message = Message()
        message["Content-Disposition"] = re.sub(r"[^\t -~\xa0-\xff]", "", disposition)
        name = re.split(r"[/\\]", message.get_filename("") or "")[-1] or name
    return safe_name(name)


def _checked(address: str) -> str:
    """*address* where it can be read. Raises BadUsage."""
    parts = parts_of(address)
    if not parts.netloc and is_address(address):  # nothing of it can be shown: what is a password is not known either
        raise BadUsage(
            "This address cannot be read: its host or its port is none.",
            hint="It reads https://HOST:PORT/PATH; ports go up to 65535.",
        )
    is_text = not re.search("[\ud800-\udfff]", address)  # what is no text cannot be percent-encoded
    if not is_address(address) or not is_text or not re.fullmatch(r"[^\s%\\<>^`{|}]{1,253}", parts.hostname or ""):
        hint = "It reads https://HOST/PATH, all of it in quotes."
        raise BadUsage(f"'{shown(address)}' is not an address that can be read.", hint=hint)
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL_HOSTS:
        raise BadUsage(
            f"{shown(address)} is a plain http address: anybody on the way could change the file.",
            hint="Use https, or download it yourself.",
        )
    return address.strip()
