"""Ten slides in a store, the place that brings them to the user's cache, and what is in that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

import platformdirs
import pytest

from himl_cli.core.events import Event, Finished, ignore
from himl_cli.core.montage import SlideFolder
from himl_cli.services.montage.stored import open_stored
from himl_cli.workspaces.base import BlobStore
from himl_cli.workspaces.local.file_blobs import DatastoreFolder
from himl_cli.workspaces.local.run_store import Database
from tests.support.folders import contents, files_below
from tests.support.running import write_files
from tests.support.stores import ListedFiles

KB = 1000
NAMES = [f"slides/{number:02}.tif" for number in range(10)]
BODIES = {name: bytes([place]) * (100 * KB) for place, name in enumerate(NAMES)}
LARGE = 1_000 * KB * KB


def cache() -> Path:
    return platformdirs.user_cache_path("himl", appauthor=False) / "slides"


def cached() -> dict[str, bytes]:
    """What slides the cache holds, by file name; those that go, or get another name, while it is looked at are left out."""
    return {PurePosixPath(name).name: content for name, content in contents(cache()).items() if name.endswith((".tif", ".dcm", ".himl-part"))}


def size() -> int:
    """Bytes of slides in the cache. A file that gets another name meanwhile counts once."""
    found = {}
    for path in files_below(cache()):
        if path.suffix in (".tif", ".dcm", ".himl-part"):
            with suppress(FileNotFoundError):
                told = path.stat()
                found[told.st_ino] = told.st_size
    return sum(found.values())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def store(folder: Path, tmp_path: Path) -> Iterator[BlobStore]:
    """The slides as a store that does not say where they lie."""
    write_files(folder, BODIES)
    database = Database(tmp_path / "workspace.db", create=True)
    yield listed(folder, database)
    database.close()


def listed(folder: Path, database: Database) -> BlobStore:
    """*folder* as it is now."""
    files = DatastoreFolder(folder, "lab", database)
    return ListedFiles(files, (blob for page in files.list() for blob in page))


@contextmanager
def opened(store: BlobStore, limit: int = LARGE, expected: Sequence[str] = (), events: list[Event] | None = None) -> Iterator[SlideFolder]:
    """The place `slides`; *expected* are names in it, all of them by default."""
    with open_stored(store, "slides", limit, ignore if events is None else events.append) as (place, _):
        place.expect(expected or [*place.names()])
        yield place


def read(place: SlideFolder, name: str) -> bytes:
    with place.local_path(name.removeprefix("slides/")) as path:
        return path.read_bytes()


def fetched(events: Sequence[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, Finished)]
