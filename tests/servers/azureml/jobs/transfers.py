"""Folders and files between a job's disk and storage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.servers.azureml.jobs.places import Place

WORKERS = 8


def fetch_folder(place: Place, folder: Path) -> int:
    """Copy all blobs below *place* into *folder*, which is made; how many there were."""
    folder.mkdir(parents=True, exist_ok=True)
    names = [blob.name for blob in place.storage.list(place.container, place.prefix) if not blob.name.endswith("/")]
    pairs = [(name, folder / name.removeprefix(place.prefix)) for name in names]
    with ThreadPoolExecutor(WORKERS) as pool:
        for done in [pool.submit(_fetch, place, name, target) for name, target in pairs]:
            done.result()
    return len(pairs)


def fetch_file(place: Place, target: Path) -> bool:
    """Copy the blob that *place* names to *target*; false where there is none."""
    if place.storage.properties(place.container, place.path) is None:
        return False
    _fetch(place, place.path, target)
    return True


def send_folder(folder: Path, place: Place) -> int:
    """Copy all files of *folder* below *place*; how many there were."""
    files = list(files_below(folder))
    place.storage.put_all(place.container, ((place.prefix + path.relative_to(folder).as_posix(), path.read_bytes()) for path in files))
    return len(files)


def send_file(path: Path, place: Place) -> None:
    place.storage.put(place.container, place.path, path.read_bytes())


def files_below(folder: Path) -> Iterator[Path]:
    """Files in *folder*, whatever their depth; nothing where there is no such folder."""
    found: Iterable[Path] = sorted(folder.rglob("*")) if folder.is_dir() else ()
    return (path for path in found if path.is_file())


def _fetch(place: Place, name: str, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(place.storage.get(place.container, name))
