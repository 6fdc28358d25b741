"""Checkpoints that are files of this machine: which files a folder stands for, and whether a job could start from
them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from himl_cli.core.errors import BadUsage
from himl_cli.core.files import WORKSPACE_FOLDER, FoundFile, expand_home, walk_files
from himl_cli.services.checkpoints.whole import is_mark, is_whole
from himl_cli.services.secret_files import may_hold_secrets

PROJECT_MARKS = (".git", WORKSPACE_FOLDER, "himl.toml", "himl.private.toml", "pyproject.toml")
"""What makes a folder one of a project: all of it is never meant."""
OF_CHECKPOINTS = frozenset({".metadata"})
"""Hidden files that are part of a checkpoint: torch.distributed.checkpoint writes this one."""


def path_of(text: str | Path, cwd: Path) -> Path:
    """The path that *text* means in *cwd*, with `~` for a home folder. Raises NotFound for the home folder of
    nobody."""
    return cwd / expand_home(text)


def files_in(folder: Path, asked: str | Path) -> Iterator[FoundFile]:
    """The files that a folder of checkpoints stands for: without hidden ones, himl's own and those that hold secrets.

    Raises BadUsage, naming the folder as it was *asked* for, for one of a project and for a link that leads out of it;
    OSError.
    """
    if any((folder / mark).exists() for mark in PROJECT_MARKS):
        raise BadUsage(
            f"'{asked}' is the folder of a project, and no checkpoint.",
            hint="Name files, or a folder that has only checkpoints.",
        )
    top = os.path.realpath(folder)
    for found in walk_files(str(folder), skip_workspaces=True):
        if _is_hidden(found.name) or may_hold_secrets(found.path, found.stat.st_size):
            continue
        if not Path(os.path.realpath(found.path)).is_relative_to(top):
            raise BadUsage(
                f"'{found.path}' is reached by a link that leads out of '{asked}'.",
                hint="Name that file by itself, or copy it to the folder.",
            )
        yield found


def check_whole(path: Path, *, in_folder: bool = False) -> None:
    """Raises BadUsage for a file that no job could start from, OSError for one that cannot be read. A folder may have
    empty marks in it."""
    with path.open("rb") as stream:
        if not stream.read(1):
            if in_folder and is_mark(path):
                return
            raise BadUsage(f"'{path}' is empty, and no checkpoint.")
    if not is_whole(path):
        raise BadUsage(f"'{path}' was not written to its end, and is no checkpoint.")


def _is_hidden(name: str) -> bool:
    *folders, base = name.split("/")
    return any(folder.startswith(".") for folder in folders) or (base.startswith(".") and base not in OF_CHECKPOINTS)
