"""The run of a script that is part of no job: nothing is kept, the log tells what would have been."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himl_cli.api.recording import Recording, reason_of
from himl_cli.core.results import Logged, LoggedKind

log = logging.getLogger(__name__)


class OfflineRun(Recording):
    """Takes what a run takes and tells it to Python's logging, at level INFO. `get_metrics` gives it back; nothing is
    sent and nothing written.

    It has no `experiment`, which is how azureml-core's users tell such a run.
    """

    def __init__(self) -> None:
        self.id = f"OfflineRun_{uuid.uuid4()}"
        self.status = "Running"
        self.tags: dict[str, str] = {}
        self._logged: dict[str, list[Logged]] = {}

    def get_status(self) -> str:
        """Running, or Completed or Failed once `complete` or `fail` was called."""
        return self.status

    def get_tags(self) -> dict[str, str]:
        """The tags that were set; a copy."""
        return dict(self.tags)

    def get_metrics(self, name: str | None = None, recursive: bool = False) -> dict[str, Any]:
        """What was logged, by name: a value, or a list where there are several; a table as a dictionary of columns."""
        return {metric: _value(entries) for metric, entries in self._logged.items() if name in (None, metric)}

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set *tags*, their values as texts; others stay as they are."""
        self.tags.update({key: str(value) for key, value in tags.items()})
        log.info("No run to tag with %s.", dict(tags))

    def flush(self, timeout_seconds: int = 300) -> None:
        """Nothing is waiting."""

    def complete(self) -> None:
        """Take the status Completed."""
        self.status = "Completed"

    def fail(self, error_details: str | BaseException | None = None, error_code: str | None = None) -> None:
        """Take the status Failed, and tell the log why, as a warning."""
        self.status = "Failed"
        log.warning("Failed, and no run to record it: %s", reason_of(error_details, error_code))

    def __repr__(self) -> str:
        return f"OfflineRun({self.id!r})"

    def _keep(self, entry: Logged) -> None:
        self._logged.setdefault(entry.name, []).append(entry)
        log.info("No run to log to: %s '%s' %s", entry.kind.value, entry.name, _value([entry]))

    def _store_files(self, files: Mapping[str, Path]) -> None:
        log.info("No run to upload to: %s", ", ".join(files))


def _value(entries: list[Logged]) -> Any:
    rows = [row.values for entry in entries for row in entry.rows]
    if entries[0].kind is LoggedKind.table:
        columns = [*dict.fromkeys(column for row in rows for column in row)]
        return {
            column: rows[0].get(column) if len(rows) == 1 else [row.get(column) for row in rows] for column in columns
        }
    found = [value for row in rows for value in row.values()]
    return found[0] if len(found) == 1 else found
