"""What a person should know of the search for `config.json`: files that look meant and were passed over, and where it
was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.workspaces.azure.places.config import (
    CONFIG_KEYS,
    CONFIG_NAMES,
    names_workspace,
    read_config,
    searched_folders,
)


def search_remarks(start: Path) -> Iterator[str]:
    """A sentence for each such file that is nearer than the one that is used, and one for a search that PYTHONPATH cut
    short.

    A `config.json` that has nothing of a workspace in it belongs to another program and is not worth a word.
    """
    searched = searched_folders(start.absolute())
    for path in _files_in(searched):
        if names_workspace(path):
            return
        complaint = _complaint(path)
        if complaint:
            yield f"Passed over: {complaint}"
    beyond = [folder for folder in (start.absolute(), *start.absolute().parents) if folder not in searched]
    missed = next((path for path in _files_in(beyond) if names_workspace(path)), None)
    if missed is not None:
        yield (
            f"The search for config.json stopped at '{searched[-1]}', which is on PYTHONPATH: '{missed}' was not "
            "looked at."
        )


def _files_in(folders: list[Path]) -> Iterator[Path]:
    return (folder / name for folder in folders for name in CONFIG_NAMES if (folder / name).is_file())


def _complaint(path: Path) -> str:
    """What is wrong with a file that may have been meant to name a workspace; nothing for one that plainly is not."""
    try:
        content = read_config(path)
    except (BadUsage, WorkspaceNotFound) as err:
        return "" if "no JSON object" in str(err) else str(err)
    missing = [key for key in CONFIG_KEYS if not isinstance(content.get(key), str)]
    if len(missing) == len(CONFIG_KEYS):
        return ""
    return f"'{path}' does not say {' and '.join(missing)}."
