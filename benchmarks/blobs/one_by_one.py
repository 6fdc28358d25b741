"""Small files as azureml-core moves them. Prints what it spent once imported.

`python -m benchmarks.blobs.one_by_one down|up URL SAS PART FOLDER loop|pool`; URL is the account's.
`loop`: one file after the other by one client of azure-storage-blob, which is what users of `Run.download_file` in a loop have.
`pool`: what `Run.download_files` and `upload_files` of azureml-core 1.61 do: batches of 100 in a thread pool of the default size, a new client and
connection for each file, whole content in memory; up, an MD5 with each request, and the size asked for afterwards. Its own functions insist on https
at `blob.core.windows.net`, so they cannot be pointed at this machine.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

from azure.storage.blob import BlobServiceClient, ContainerClient

from benchmarks.blobs.sample import CONTAINER

BATCH = 100
CONNECTIONS = 8

Move = Callable[[ContainerClient, str, Path], None]


def fetch(container: ContainerClient, name: str, folder: Path) -> None:
    with open(folder / name, "wb") as file:
        file.write(container.download_blob(name, max_concurrency=CONNECTIONS).readall())


def send(container: ContainerClient, name: str, folder: Path) -> None:
    with open(folder / name, "rb") as file:
        container.upload_blob(name, file, validate_content=True)
    container.get_blob_client(name).get_blob_properties()


def in_a_loop(container: ContainerClient, names: Iterable[str], folder: Path, move: Move) -> None:
    for name in names:
        move(container, name, folder)


def in_a_pool(url: str, sas: str, names: list[str], folder: Path, move: Move) -> None:
    def once(name: str) -> None:
        with BlobServiceClient(url, credential=sas) as client:
            move(client.get_container_client(CONTAINER), name, folder)

    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), BATCH):
            for done in wait([pool.submit(once, name) for name in names[start : start + BATCH]]).done:
                done.result()


def main() -> None:
    direction, url, sas, part, folder, how = sys.argv[1:]
    start, cpu = time.perf_counter(), time.process_time()
    with BlobServiceClient(url, credential=sas) as client:
        container = client.get_container_client(CONTAINER)
        (Path(folder) / part).mkdir(parents=True, exist_ok=True)
        here = sorted(f"{part}/{path.name}" for path in (Path(folder) / part).iterdir())
        names = here if direction == "up" else [blob.name for blob in container.list_blobs(name_starts_with=f"{part}/")]
        move = send if direction == "up" else fetch
        if how == "loop":
            in_a_loop(container, names, Path(folder), move)
        else:
            in_a_pool(url, sas, names, Path(folder), move)
    print(json.dumps({"wall": time.perf_counter() - start, "cpu": time.process_time() - cpu}))


if __name__ == "__main__":
    main()
