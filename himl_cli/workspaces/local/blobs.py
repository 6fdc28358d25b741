"""Files by name on this machine: what a run produced, and the folders that are datastores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from heapq import merge
from pathlib import Path

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.files import FoundFile, walk_files
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.folder_store import RECORD_AT_ONCE, FolderStore
from himl_cli.workspaces.local.stored_files import safe_parts

GROWING = ("logs/", "user_logs/")


class RunFiles(FolderStore):
    """A run's artifacts: `outputs/` and `logs/` where the script wrote them, `user_logs/`, and what was logged or
    stored.

    What was logged (the run's `artifacts` folder) shows at the root; where it has a name that the script's own files
    have too, theirs is the one shown.
    """

    def __init__(self, run_folder: Path, code_folder: Path, label: str) -> None:
        self.label = label
        self.origin = str(run_folder.resolve())
        self._roots = {
            "logs": code_folder / "logs",
            "outputs": code_folder / "outputs",
            "user_logs": run_folder / "user_logs",
        }
        self._artifacts = run_folder / "artifacts"

    def _files(self, prefix: str) -> Iterator[FoundFile]:
        own = [self._below(root, folder, prefix) for root, folder in self._roots.items()]
        last = None
        for name, _, found in merge(
            *(((f.name, 0, f) for f in files) for files in own),
            ((f.name, 1, f) for f in walk_files(str(self._artifacts), prefix)),
        ):
            if name != last:
                yield found
            last = name

    def _below(self, root: str, folder: Path, prefix: str) -> Iterator[FoundFile]:
        start = f"{root}/"
        if start.startswith(prefix) or prefix.startswith(start):
            for found in walk_files(str(folder), prefix[len(start) :]):
                yield FoundFile(start + found.name, found.path, found.stat)

    def _path(self, name: str) -> str | None:
        parts = safe_parts(name)
        if parts is None:
            return None
        if parts[0] in self._roots and len(parts) > 1:
            own = os.path.join(self._roots[parts[0]], *parts[1:])
            if os.path.isfile(own):
                return own
        return os.path.join(self._artifacts, *parts)

    def _may_grow(self, name: str) -> bool:
        return name.startswith(GROWING)


class DatastoreFolder(FolderStore):
    """A folder as a datastore. The MD5 of what was stored is on record while the file's size and time stay as they
    were."""

    def __init__(self, folder: Path, name: str, database: Database) -> None:
        self.label = f"datastore '{name}'"
        self.origin = str(folder.resolve())
        self._folder = folder
        self._name = name
        self._database = database

    def _files(self, prefix: str) -> Iterator[FoundFile]:
        return walk_files(str(self._folder), prefix)

    def _path(self, name: str) -> str | None:
        parts = safe_parts(name)
        return None if parts is None else os.path.join(self._folder, *parts)

    def _recorded(self, page: Sequence[FoundFile]) -> dict[str, bytes]:
        known: dict[str, bytes] = {}
        for start in range(0, len(page), RECORD_AT_ONCE):
            some = {_key(found.name): found for found in page[start : start + RECORD_AT_ONCE]}
            marks = ",".join("?" * len(some))
            statement = f"SELECT name, size, mtime, md5 FROM digests WHERE datastore = ? AND name IN ({marks})"
            for row in self._database.rows(statement, (self._name, *some)):
                found = some[row["name"]]
                if (row["size"], row["mtime"]) == (found.stat.st_size, found.stat.st_mtime_ns):
                    known[found.name] = row["md5"]
        return known

    def _record(self, stored: list[BlobInfo]) -> None:
        rows = [(self._name, _key(blob.name), blob.size, int(blob.etag.split("-")[2], 16), blob.md5) for blob in stored]
        stored.clear()
        if rows:
            with self._database.writing() as connection:
                connection.executemany(
                    "INSERT OR REPLACE INTO digests (datastore, name, size, mtime, md5) VALUES (?,?,?,?,?)", rows
                )


def _key(name: str) -> str | bytes:
    """*name* as the database can keep it: names that are not UTF-8 as their bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape")
    return name
