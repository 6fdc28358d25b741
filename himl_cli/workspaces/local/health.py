"""What a local workspace is, and whether it is in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from himl_cli.core.errors import HimlError
from himl_cli.core.workspaces import Check, WorkspaceFacts
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.disk_errors import CHECK_PERMISSIONS

NAME = "local workspace"
JOURNALS = {"wal": "WAL journal (a local disk)", "delete": "rollback journal (a network file system)"}


def checks(folder: Path, label: str) -> Iterator[Check]:
    """Whether the record can be read and the folder written, and which journal it has."""
    if not os.path.lexists(folder / "workspace.db"):
        yield Check.passed(NAME, f"{label}: no run yet.")
    else:
        try:
            count = _runs(folder)
            yield Check.passed(NAME, f"{label}: {count:,} run{'s' * (count != 1)}, {journal(folder)}.")
        except HimlError as err:
            yield Check.failed(NAME, str(err), err.hint)
            return
    if not os.access(folder, os.W_OK):
        yield Check.note(NAME, f"'{folder}' may only be read: jobs cannot be recorded there.", CHECK_PERMISSIONS)


def describe(folder: Path, label: str, datastore: str) -> WorkspaceFacts:
    """The folder, its journal and its default datastore. Raises DiskFailed for a damaged record."""
    facts = {"folder": str(folder), "default_datastore": datastore}
    if os.path.lexists(folder / "workspace.db"):
        facts |= {"runs": str(_runs(folder)), "journal": journal(folder)}
    return WorkspaceFacts("local", label, f"'{folder}'", facts)


def journal(folder: Path) -> str:
    """How the record of runs is written. Raises DiskFailed."""
    mode = str(_ask(folder, "PRAGMA journal_mode"))
    return JOURNALS.get(mode.lower(), f"{mode} journal")


def _runs(folder: Path) -> int:
    return int(str(_ask(folder, "SELECT count(*) FROM runs")))


def _ask(folder: Path, statement: str) -> object:
    database = Database(folder / "workspace.db")
    try:
        return database.rows(statement)[0][0]
    finally:
        database.close()
