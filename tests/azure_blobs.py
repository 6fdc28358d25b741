"""Containers of the double as stores whose patience is short, so that tests of faults need not wait."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from xml.sax.saxutils import escape

import pytest

from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.curl import CurlPool
from himl_cli.workspaces.azure.storage.signing import SasSigner
from himl_cli.workspaces.retry import RetryPolicy
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace

HASTY = RetryPolicy(attempts=4, first=0.01, longest=0.02, longest_asked=2.0)
PATIENT = 60.0  # seconds: longer than the double takes for an answer on any machine
DEFAULT = "workspaceblobstore"


def hasty_store(azure: StagedWorkspace, *, root: str = "", retries: RetryPolicy = HASTY, stall: float = 120.0) -> AzureBlobs:
    """The default datastore's container, by a SAS of the test's own; a request without progress is given up after *stall* seconds."""
    storage, container = azure.state.storage, azure.state.datastores[DEFAULT].container
    signer = SasSigner(storage.container_sas(container, permissions="rcwl"))
    return AzureBlobs(f"https://{storage.host}/{container}", signer, root=root, label="the store", pool=CurlPool(PATIENT, stall), policy=retries)


def use(azure: StagedWorkspace, environment: pytest.MonkeyPatch, rights: set[Right]) -> None:
    """Let an application with *rights* be the one that signs in."""
    for name, value in azure.environment(azure.add_principal(rights)).items():
        environment.setenv(name, value)


@contextmanager
def storage_that_lists(
    names: Sequence[str], body: bytes, *, content_range: str = "", marker: str = "", connections: list[int] | None = None, tells_md5: bool = True
) -> Iterator[AzureBlobs]:
    """A storage service that lists *names*, whatever they are, and answers every request for one of them with *body*.

    It knows nothing of ranges; with *content_range* it says that what it sends is one. With *marker* there is always another page.
    Each connection adds the port it comes from to *connections*. Without *tells_md5* its answers have no `Content-MD5`.
    """
    md5 = base64.b64encode(hashlib.md5(body).digest()).decode()
    properties = f"<Properties><Content-Length>{len(body)}</Content-Length><Etag>0x1</Etag><Content-MD5>{md5}</Content-MD5></Properties>"
    blobs = "".join(f"<Blob><Name>{escape(name)}</Name>{properties}</Blob>" for name in sorted(names))
    listing = f"<EnumerationResults><Blobs>{blobs}</Blobs><NextMarker>{marker}</NextMarker></EnumerationResults>".encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            if connections is not None:
                connections.append(self.client_address[1])

        def do_GET(self) -> None:
            content = listing if "comp=list" in self.path else body
            is_range = bool(content_range) and content is body
            self.send_response(206 if is_range else 200)
            for name, value in {"ETag": '"0x1"', "Content-MD5": md5 if tells_md5 else "", "Content-Length": str(len(content))}.items():
                if value:
                    self.send_header(name, value)
            if is_range:
                self.send_header("Content-Range", content_range)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever)
        thread.start()
        store = AzureBlobs(f"http://127.0.0.1:{server.server_port}/account/container", SasSigner("sig=x"), label="the store", policy=HASTY)
        try:
            yield store
        finally:
            server.shutdown()
            thread.join()
