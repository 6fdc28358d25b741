"""A file at an https address as a `BlobStore` of one blob, so that the transfer code for other files serves it.

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
from himl_cli.workspaces.azure.storage.signing import VERSION_HEADER, sas_expiry
from himl_cli.workspaces.base import FetchSink, StoreSink
from himl_cli.workspaces.retry import Failure, RetryPolicy, RetryState
from himl_cli.workspaces.transfer_engine.curl import CurlPool, CurlResponse
from himl_cli.workspaces.transfer_engine.failures import BlobNotFound, connection_failure, error_code, transient_failure
from himl_cli.workspaces.transfer_engine.headers import http_time, size_from, whole_md5
from himl_cli.workspaces.transfer_engine.scheduler import (
    Attempt,
    AttemptFailed,
    Endpoint,
    Query,
    Signed,
    Task,
    ask,
    run_tasks,
)

REDIRECTS = (301, 302, 303, 307, 308)
CHANGED = "The file at {} changed while it was read."
OTHERWISE = "Download the file with another program, and use its path."
_COMPRESSIONS = {"gzip", "x-gzip", "deflate", "br", "zstd", "compress", "x-compress"}
_RANGE = re.compile(r"bytes\s+(?:(?P<start>\d+)-[-\d]+|\*)/(?P<total>\d+)", re.IGNORECASE)


class WebFile(Endpoint):
    """The file at *address*, read-only, requested from its last known location. Its facts are requested once, and
    again by `stat`. Raises BadUsage for an invalid address.

    User and password of the address go only to its own host, and its query to no other host. A strong ETag, else the
    time of change, shows whether the file changed between two requests or since an earlier transfer. Servers that send
    neither, or do not support ranges, send the file in one stream.
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
        """The file. Raises NotFound if there is none, NotAllowed, ServiceFailed."""
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
        """The server's MD5, which for parts of a file may take another request."""
        if blob.md5 is not None:
            return blob.md5

        def parse(response: CurlResponse) -> bytes | None:
            return whole_md5(response) if validator_of(response) == blob.etag else None

        # The MD5 is an extra, and some servers answer no HEAD
        with suppress(HimlError):
            return ask(Query(blob.name, self, RetryPolicy(attempts=1), parse, method="HEAD"), self._pool)
        return None

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        """As `BlobStore.read`, in one piece, since larger files are fetched. Raises NotFound, NotAllowed,
        ServiceFailed."""
        if name != self._file()[0].name:
            raise NotFound(f"No file '{name}' at {self.label}.")
        return iter([ask(Query(name, self, self._policy, lambda response: response.take()[offset:]), self._pool)])

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        """As `BlobStore.fetch`, with at most 8 connections."""
        (blob, takes_ranges), retries = self._file(), RetryState(self._policy, self.pauses)
        # Without a validator, parts might come from different versions of the file
        by_parts = takes_ranges and bool(blob.etag)
        found = iter(requests)
        rest: Iterator[FetchRequest] = iter(()) if by_parts else found
        tasks: Iterator[Task] = (_Download(first, rest, sink, self, retries, by_parts=by_parts) for first in found)
        # The server's limits are unknown
        run_tasks(self._pool, tasks, min(workers, 8) if by_parts else 1)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        """Fail every request."""
        for request in requests:
            sink.fail(request, HimlError(f"{self.label} is read-only."))

    def signed(self, name: str, query: str = "") -> Signed:
        parts, own = parts_of(self._url), self._own
        # Request the bytes of the file, without compression in transit
        headers = ["Accept-Encoding: identity"]
        if ".blob." in self.host:  # Azure Storage defaults to its oldest API version
            headers.append(VERSION_HEADER)
        if own.username and (parts.scheme, parts.hostname, parts.port) == (own.scheme, own.hostname, own.port):
            user = f"{unquote(own.username)}:{unquote(own.password or '')}"
            headers.append(f"Authorization: Basic {base64.b64encode(user.encode()).decode()}")
        return Signed(self._url, tuple(headers))

    def renewed(self, name: str, refused: Signed, code: str) -> bool:
        """Look up the location again, since the target of a redirection may be valid for a few minutes only."""
        if self._is_looking:
            return False
        if refused.url == self._url:
            self._look()
        return True

    def _file(self) -> tuple[BlobInfo, bool]:
        """The file, and whether its parts can be requested. `etag` is empty if nothing distinguishes versions of the
        file."""
        self._found = self._found or self._look()
        return self._found

    def _look(self) -> tuple[BlobInfo, bool]:
        """Return the file's facts and its location after all redirections. Raises BlobNotFound, NotAllowed,
        ServiceFailed.

        Requests the first byte. Unlike HEAD, this works for every readable file, including links that are signed only
        for GET. A server without ranges begins to send the file, and himl closes the connection.
        """
        headers, statuses = ("Range: bytes=0-0",), (200, 206, 416, *REDIRECTS)
        self._use(self._own)
        self._is_looking = True
        try:
            for _ in range(11):
                found = ask(
                    Query("", self, self._policy, self.parse, *headers, statuses=statuses, is_streamed=True),
                    self._pool,
                )
                if not isinstance(found, SplitResult):
                    return found
                self._use(found)
        finally:
            self._is_looking = False
        raise self._redirected()

    def _use(self, parts: SplitResult) -> None:
        """Set the location, percent-encoded and without user, password and fragment."""
        host = parts.hostname or ""
        with suppress(UnicodeError):  # not a valid host name
            host = host if host.isascii() else host.encode("idna").decode()
        netloc = f"[{host}]" if ":" in host else host
        if parts.port is not None:
            netloc = f"{netloc}:{parts.port}"
        path, query = quote(parts.path or "/", safe=SAFE_IN_PATHS), quote(parts.query, safe=f"{SAFE_IN_PATHS}?")
        self._url = urlunsplit((parts.scheme.lower(), netloc, path, query, ""))
        self.host, self.expires = parts.hostname or "", sas_expiry(parts.query)

    def parse(self, response: CurlResponse) -> tuple[BlobInfo, bool] | SplitResult:
        """The file, or the target of a redirection. Raises BlobNotFound, ServiceFailed."""
        if response.status in REDIRECTS:
            location = response.header(b"location").strip()
            parts = parts_of(urljoin(self._url, location))
            if not location or parts.scheme not in ("http", "https") or not parts.hostname:
                hint = "Check that this is the address of a file."
                raise ServiceFailed(f"{self.host} redirects to an invalid address.", hint=hint)
            if parts.scheme == "http" and (self._url.startswith("https:") or parts.hostname not in LOCAL_HOSTS):
                how = "by plain http, which others could change in transit"
                raise ServiceFailed(f"{self.host} redirects to {parts.hostname} {how}.")
            return parts
        kind = response.header(b"content-type").partition(";")[0].strip().lower()
        is_page = last_name(self._address).lower().endswith((".html", ".htm", ".xhtml"))
        if kind in ("text/html", "application/xhtml+xml") and not is_page:  # such as a sign-in page
            hint = "Use the address from which a browser downloads the file."
            raise BlobNotFound(f"{self.label} is a web page, not a file.", hint=hint)
        self.check_compression(response)
        # Status 416: even the first byte does not exist
        size = 0 if response.status == 416 else total_size(response)
        if size is None:
            raise ServiceFailed(
                f"{self.host} does not send the size of {self.label}, so himl cannot check that it is complete.",
                hint=OTHERWISE,
            )
        name, modified = file_name(response, self._address), http_time(response.header(b"last-modified"))
        return BlobInfo(name, size, validator_of(response), whole_md5(response), modified), response.status == 206

    def check_compression(self, response: CurlResponse) -> None:
        """Raise ServiceFailed for compressed bytes, except those of archives, since the size and MD5 of the file would
        be unknown."""
        named = {one.strip().lower() for one in response.header(b"content-encoding").split(",")} & _COMPRESSIONS
        if named and not last_name(self._address).lower().endswith((".gz", ".tgz", ".zst", ".br")):
            how = ", ".join(sorted(named))
            raise ServiceFailed(f"{self.host} sends {self.label} only compressed ({how}).", hint=OTHERWISE)

    def _redirected(self) -> ServiceFailed:
        return ServiceFailed(f"{self.host} redirects too many times.")

    def failure(self, response: CurlResponse, name: str) -> Failure:
        status = response.status
        if response.failure is not None:
            return connection_failure(response.failure, self.host)
        code = response.header(b"x-ms-error-code") or error_code(response.take() if len(response.chunks) < 64 else b"")
        if status in (401, 403) or code == "PublicAccessNotPermitted":
            return Failure(self._refusal(f"{status} {code}".rstrip()), code, is_refusal=True)
        if status in REDIRECTS:
            return Failure(self._redirected(), is_refusal=True)
        if (transient := transient_failure(response, self.host)) is not None:
            return transient
        error: HimlError = ServiceFailed(f"{self.host} refused the request for {self.label} ({status}).")
        if status in (404, 410):
            error = BlobNotFound(f"No file at {self.label} ({status}).", hint="Check the address.")
        elif status == 416:
            error = BlobChanged(CHANGED.format(self.label))
        return Failure(error, code)

    def _refusal(self, why: str) -> NotAllowed:
        hint = "Get a new link. For a checkpoint of a run: himl checkpoint url RUN"
        if 0 < self.expires < time.time():
            ends = datetime.fromtimestamp(self.expires, timezone.utc)
            message = f"The link to {self.label} has expired ({ends:%Y-%m-%d %H:%M} UTC)."
        elif "?" in self._url:
            message = f"The link to {self.label} has expired or does not allow reading ({why})."
        else:
            message = f"{self.host} requires credentials for {self.label} ({why})."
            hint = "Use a link that contains a signature."
        return NotAllowed(message, hint=hint)


class _Download(Task):
    """Fetch the bytes of *first* and *rest*, one request after the other, of the listed version of the file only.

    With *by_parts* a broken transfer resumes where it stopped. Otherwise, all bytes come in one stream from the first
    byte of the file, which cannot be resumed. A failure after its first bytes is final.
    """

    endpoint: WebFile

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
        # The offset of the next byte, and the offset at which failures were last reset
        self._position = self._proven = first.offset

    def attempt(self) -> Attempt:
        response: CurlResponse | None = None
        start, data = 0, b""  # the last piece, and its offset in the file
        while (request := self._request) is not None:
            stop = request.offset + request.length
            if response is None or self._position < start:  # the latter: the request begins earlier
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
                if self._position - self._proven >= 1 << 20:  # enough to reset earlier failures
                    self._proven = self._position
                    self.progressed()
            # A connection can be used again once its response has ended
            is_last = self._by_parts or stop == request.blob.size
            while is_last and not (response.is_complete or response.failure or response.take()):
                yield None
            self._sink.finish(request, whole_md5(response))
            self.progressed()
            self._request = next(self._rest, None)
            self._position = self._proven = self._request.offset if self._request is not None else stop

    def _accept(self, response: CurlResponse, blob: BlobInfo, start: int) -> None:
        """Check the headers before any bytes count. Raises AttemptFailed unless the response contains the bytes from
        *start* on of the listed version."""
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
            other = ServiceFailed(f"{file.host} sent the wrong range of bytes.")
            raise AttemptFailed(Failure(other, may_pass=True))

    def _check_unended(self, response: CurlResponse, start: int) -> None:
        """Raise AttemptFailed if *response* ended after the bytes up to *start*."""
        label = self.endpoint.label
        if response.is_complete:
            raise AttemptFailed(Failure(IntegrityFailed(f"The file at {label} is incomplete.")))
        if response.failure is not None and start and not self._by_parts:
            what = f"The connection broke, and the server cannot resume {label}."
            raise AttemptFailed(Failure(ServiceFailed(what)))
        if response.failure is not None:
            raise AttemptFailed(self.failure(response))

    def fail(self, error: HimlError) -> None:
        if self._request is not None:
            self._sink.fail(self._request, error)


def total_size(response: CurlResponse) -> int | None:
    """Size of the whole file in bytes, from the response to a GET."""
    if response.status == 200:
        return size_from(response.header(b"content-length"))
    found = _RANGE.fullmatch(response.header(b"content-range"))
    return size_from(found["total"]) if found else None


def validator_of(response: CurlResponse) -> str:
    """A value that changes whenever the content does: a strong ETag, else the time of change if it is reliable, else
    empty.

    A time is reliable one second later, since the file may change again within that second (RFC 9110, 8.8.2.2).
    """
    etag = response.header(b"etag")
    if etag and not etag.startswith("W/"):
        return etag
    changed, now = http_time(response.header(b"last-modified")), http_time(response.header(b"date"))
    if changed is None or now is None or (now - changed).total_seconds() < 1:
        return ""
    return "Last-Modified " + response.header(b"last-modified")


def file_name(response: CurlResponse, address: str) -> str:
    """The last part of the address if it has an extension, else the server's name for the file, else that part."""
    name, disposition = last_name(address), response.header(b"content-disposition")
    if "." not in name.strip(".") and len(disposition) <= 2000:
        message = Message()
        message["Content-Disposition"] = re.sub(r"[^\t -~\xa0-\xff]", "", disposition)
        name = re.split(r"[/\\]", message.get_filename("") or "")[-1] or name
    return safe_name(name)


def _checked(address: str) -> str:
    """Return *address* if it is valid. Raises BadUsage."""
    parts = parts_of(address)
    # Show nothing of this address, since its password cannot be located
    if not parts.netloc and is_address(address):
        raise BadUsage(
            "The address has an invalid host or port.",
            hint="Use the form https://HOST:PORT/PATH, with a port up to 65535.",
        )
    is_text = not re.search("[\ud800-\udfff]", address)  # surrogates cannot be percent-encoded
    if not is_address(address) or not is_text or not re.fullmatch(r"[^\s%\\<>^`{|}]{1,253}", parts.hostname or ""):
        hint = "Use the form https://HOST/PATH, and put it in quotes."
        raise BadUsage(f"'{shown(address)}' is not a valid address.", hint=hint)
    if parts.scheme.lower() == "http" and parts.hostname not in LOCAL_HOSTS:
        raise BadUsage(
            f"{shown(address)} is a plain http address, and others could change the file in transit.",
            hint="Use https, or download the file with another program.",
        )
    return address.strip()
