"""Event files fetched whole at each refresh, by azure-storage-blob: a refresh for each line on standard input, answered by a line.

Arguments: the container's address with its signature, a folder, and a prefix for each run.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from azure.storage.blob import ContainerClient


def fetch(container: ContainerClient, folder: Path, prefix: str) -> None:
    for name in container.list_blob_names(name_starts_with=f"{prefix}logs/"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(container.download_blob(name).readall())


def main() -> None:
    address, folder, *prefixes = sys.argv[1:]
    with ContainerClient.from_container_url(address) as container, ThreadPoolExecutor(8) as pool:
        answer("ready")
        for _ in sys.stdin:
            for done in [pool.submit(fetch, container, Path(folder), prefix) for prefix in prefixes]:
                done.result()
            answer("done")


def answer(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
