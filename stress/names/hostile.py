"""A storage service that lists whatever names it is given, and answers for each of them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, quote, unquote, urlsplit
from xml.sax.saxutils import escape

ACCOUNT, KEY = "hostile", base64.b64encode(b"no secret").decode()
IN_XML = frozenset("\t")
"""Control characters that stand in XML as they are; other ones come percent-encoded."""


@dataclass(frozen=True)
class Blob:
    """`told` is the size that the list gives where that is another one than *content* has."""

    name: str
    content: bytes
    told: int | None = None
    has_md5: bool = True

    @property
    def size(self) -> int:
        return len(self.content) if self.told is None else self.told


@dataclass
class Storage:
    """What is served at `port`, below *root* in each container; *text* is an answer to be given for a list in place of one. `asked` are names."""

    blobs: Sequence[Blob] = ()
    root: str = ""
    text: bytes | None = None
    port: int = 0
    lists: int = 0
    asked: list[str] = field(default_factory=list)

    def listing(self, prefix: str) -> bytes:
        self.lists += 1
        if self.text is not None:
            return self.text
        found = [blob for blob in sorted(self.blobs, key=lambda blob: blob.name) if (self.root + blob.name).startswith(prefix)]
        return f"<EnumerationResults><Blobs>{''.join(map(self._entry, found))}</Blobs><NextMarker /></EnumerationResults>".encode("utf-8", "surrogatepass")

    def _entry(self, blob: Blob) -> str:
        name = self.root + blob.name
        is_encoded = any((sign < " " and sign not in IN_XML) or sign in "\ufffe\uffff" for sign in name)
        shown = f'<Name Encoded="true">{quote(name)}</Name>' if is_encoded else f"<Name>{escape(name)}</Name>"
        md5 = f"<Content-MD5>{_md5(blob.content)}</Content-MD5>" if blob.has_md5 else ""
        return f"<Blob>{shown}<Properties><Content-Length>{blob.size}</Content-Length><Etag>0x1</Etag>{md5}<BlobType>BlockBlob</BlobType></Properties></Blob>"

    def find(self, name: str) -> Blob | None:
        self.asked.append(name)
        return next((blob for blob in self.blobs if self.root + blob.name == name), None)


@contextmanager
def serving(storage: Storage) -> Iterator[Storage]:
    """*storage* with its port, as long as the context lasts."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(storage)) as server:
        server.daemon_threads = True
        storage.port = server.server_port
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield storage
        finally:
            server.shutdown()
            thread.join()


def _handler(storage: Storage) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            if "comp=list" in asked.query:
                self._answer(200, storage.listing(parse_qs(asked.query).get("prefix", [""])[0]))
                return
            blob = storage.find(unquote(asked.path).partition("/")[2].partition("/")[2])
            if blob is None:
                self._answer(404, b"<Error><Code>BlobNotFound</Code></Error>", {"x-ms-error-code": "BlobNotFound"})
                return
            start, stop = self._range(len(blob.content))
            piece = blob.content[start:stop]
            told = {"ETag": '"0x1"', "Content-MD5": _md5(piece), "x-ms-blob-type": "BlockBlob"}
            if self.headers.get("Range"):
                self._answer(206, piece, {**told, "Content-Range": f"bytes {start}-{stop - 1}/{len(blob.content)}"})
            else:
                self._answer(200, piece, told)

        def do_HEAD(self) -> None:
            self.do_GET()

        def _range(self, size: int) -> tuple[int, int]:
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            return int(first), min(size, int(last) + 1) if last else size

        def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in {**(headers or {}), "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    return Handler


def _md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content).digest()).decode()
