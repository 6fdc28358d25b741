"""Walking a folder so that the names come out sorted as plain strings, whatever its size."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

PART_SUFFIX = ".himl-part"
STATE_NAME = ".himl-transfer"
STATE_FILE = f"{STATE_NAME}.db"
"""What himl remembers of a folder that it downloads to; it stays there."""
RANKS_NAME = ".himl-ranks"
WORKSPACE_FOLDER = ".himl"


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A regular file below the folder that was walked: its name with `/` separators, its path, and its state when it was met."""

    name: str
    path: str
    stat: os.stat_result


def is_bookkeeping(base: str) -> bool:
    """Whether *base*, a file or folder name, is one that himl keeps for its own transfers."""
    folded = base.casefold()
    return folded.startswith((STATE_NAME, RANKS_NAME)) or (folded.startswith(".") and folded.endswith(PART_SUFFIX))


def walk_files(folder: str, prefix: str = "", *, skip_workspaces: bool = False) -> Iterator[FoundFile]:
    """Files below *folder* whose name starts with *prefix*, sorted as plain strings (`a-b` < `a/x` < `a0`).

    Symlinks are followed (a loop once, a broken one not at all); sockets, pipes, devices and himl's bookkeeping are left
    out, with *skip_workspaces* `.himl` folders too. Memory is what the folders on the way to one file hold. A folder that
    vanishes meanwhile has no files; one that cannot be read raises OSError.
    """
    try:
        here = os.stat(folder)
    except FileNotFoundError:
        return
    yield from _walk(folder, "", prefix, frozenset({(here.st_dev, here.st_ino)}), skip_workspaces)


def _walk(folder: str, under: str, prefix: str, above: frozenset[tuple[int, int]], skip_workspaces: bool) -> Iterator[FoundFile]:
    # A folder sorts as its name with the slash, so that its files land between its neighbours where they belong.
    for name in _sorted_names(folder, under, prefix, skip_workspaces):
        path = os.path.join(folder, name.removesuffix("/"))
        try:
            status = os.stat(path)
        except OSError:  # a broken link, a loop of links, or gone meanwhile
            continue
        if not name.endswith("/"):
            yield FoundFile(under + name, path, status)
        elif (status.st_dev, status.st_ino) not in above:
            yield from _walk(path, under + name, prefix, above | {(status.st_dev, status.st_ino)}, skip_workspaces)


def _sorted_names(folder: str, under: str, prefix: str, skip_workspaces: bool) -> list[str]:
    """Names in *folder* that can lead to *prefix*; those of folders end with a slash."""
    names: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                kind = "" if is_bookkeeping(entry.name) else _kind(entry)
                name = under + entry.name
                leads_there = (name + "/").startswith(prefix) or prefix.startswith(name + "/")
                if kind == "folder" and leads_there and not (skip_workspaces and entry.name == WORKSPACE_FOLDER):
                    names.append(entry.name + "/")
                elif kind == "file" and name.startswith(prefix):
                    names.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names.sort()
    return names


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        return "folder" if entry.is_dir() else "file" if entry.is_file() else ""
    except OSError:  # a link that leads to itself
        return ""
