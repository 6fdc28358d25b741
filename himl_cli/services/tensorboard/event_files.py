"""Which files of a run TensorBoard reads."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from himl_cli.core.blobs import BlobInfo
from himl_cli.workspaces.base import BlobStore

MARK = "tfevents"
"""What TensorBoard looks for in the name of a file."""
WHOLE_EVERY = 4
"""Where event files lie outside of the folder asked for: one look in so many is at the whole run, the others at the
folder that they have in common."""


def is_event_file(name: str) -> bool:
    """Whether TensorBoard would read a file of this name (`/`-separated)."""
    return MARK in name.rpartition("/")[2]


class EventFinder:
    """The event files of one run, looked for again and again, in as narrow a part of the run as has them.

    Those below *log_dir* are shown by their names there. Where the first that are found lie elsewhere, all of the run's
    are taken from then on, by their whole names: what is shown keeps its name.
    """

    def __init__(self, store: BlobStore, log_dir: str) -> None:
        self._store = store
        folder = PurePosixPath(log_dir.replace("\\", "/")).as_posix().strip("/")
        self._below = "" if folder in ("", ".") else f"{folder}/"
        self._is_inside = False
        self._is_everywhere = not self._below
        self._common = ""
        self._looks = 0

    def find(self, *, is_last: bool = False) -> Mapping[str, BlobInfo]:
        """By the names that they are shown by. *is_last*: none may be missed."""
        self._looks += 1
        if self._is_everywhere:
            return {blob.name: blob for blob in self._everywhere(is_last)}
        if self._is_inside or self._looks == 1:
            inside = self._marked(self._below)
            if inside or self._is_inside:
                return self._inside(inside)
        found = self._marked("")
        inside = [blob for blob in found if blob.name.startswith(self._below)]
        if inside:
            return self._inside(inside)
        self._is_everywhere = bool(found)
        self._common = _common_folder(found)
        return {blob.name: blob for blob in found}

    def _inside(self, found: Sequence[BlobInfo]) -> Mapping[str, BlobInfo]:
        self._is_inside = True
        return {blob.name[len(self._below) :]: blob for blob in found}

    def _everywhere(self, is_last: bool) -> Sequence[BlobInfo]:
        if self._common and not is_last and self._looks % WHOLE_EVERY:
            found = self._marked(self._common)
            if found:
                return found
        found = self._marked("")
        self._common = _common_folder(found)
        return found

    def _marked(self, prefix: str) -> list[BlobInfo]:
        return [blob for page in self._store.list(prefix) for blob in page if is_event_file(blob.name)]


def _common_folder(found: Sequence[BlobInfo]) -> str:
    """The folder that all of them lie below, with a slash at its end; empty where that is the whole run."""
    folder = posixpath.commonpath([posixpath.dirname(blob.name) for blob in found]) if found else ""
    return f"{folder}/" if folder else ""
