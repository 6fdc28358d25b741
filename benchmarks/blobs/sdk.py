"""azure-storage-blob as its users speed it up: a thread a file, and for the large one its own connections. Prints what it spent once imported.

`python -m benchmarks.blobs.sdk down|up URL KEY PART FOLDER plain|checked`; URL is the account's. `checked` asks for an MD5 with each request.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from azure.storage.blob import BlobServiceClient, ContainerClient

from benchmarks.blobs.sample import CONTAINER

THREADS = 32
CONNECTIONS = 8


def download(container: ContainerClient, part: str, folder: Path, *, is_checked: bool) -> None:
    def fetch(name: str) -> None:
        with open(folder / name, "wb") as file:
            container.download_blob(name, max_concurrency=CONNECTIONS, validate_content=is_checked).readinto(file)

    (folder / part).mkdir(parents=True)
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(fetch, [blob.name for blob in container.list_blobs(name_starts_with=f"{part}/")]):
            pass


def upload(container: ContainerClient, part: str, folder: Path, *, is_checked: bool) -> None:
    def send(path: Path) -> None:
        with open(path, "rb") as file:
            container.upload_blob(f"{part}/{path.name}", file, overwrite=True, max_concurrency=CONNECTIONS, validate_content=is_checked)

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(send, sorted((folder / part).iterdir())):
            pass


def main() -> None:
    direction, url, key, part, folder, how = sys.argv[1:]
    with BlobServiceClient(url, credential=key, max_block_size=8 << 20, max_chunk_get_size=8 << 20) as client:
        start, cpu = time.perf_counter(), time.process_time()
        move = download if direction == "down" else upload
        move(client.get_container_client(CONTAINER), part, Path(folder), is_checked=how == "checked")
        print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
