"""Runs put on record without running anything, for tests about finding and showing them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.running import write_files

Point = tuple[str, float, int, int]


class RecordedRuns:
    """A local workspace in *folder*`/.himl` and what is recorded in it; each run is made a second after the one before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".himl" / "datastores" / "local").mkdir(parents=True)
        self.workspace = LocalWorkspace(folder / ".himl")
        self._database = Database(folder / ".himl" / "workspace.db", create=True)
        self._store = RunStore(self._database)
        self._clock = 1_772_366_400_000  # 2026-03-01 12:00:00 UTC

    def add(
        self,
        run_id: str,
        *,
        experiment: str = "train",
        status: RunStatus = RunStatus.completed,
        exit_code: int | None = None,
        reason: str = "",
        parent: str | None = None,
        display_name: str = "",
        command: str = "python train.py",
        tags: Mapping[str, str] | None = None,
        seconds: float = 65,
        files: Mapping[str, str | bytes] | None = None,
    ) -> str:
        """Record a run; *files* are named as its artifacts are (`outputs/...`, `user_logs/...`)."""
        self._clock += 1000
        folder = self.folder / ".himl" / "runs" / run_id
        new = Run(run_id, experiment, display_name=display_name, tags=dict(tags or {}), parent=parent, command=command)
        self._store.add(new, job=parent or run_id, folder=str(folder / "code"))
        times = (self._clock, None if status is RunStatus.queued else self._clock)
        with self._database.writing() as connection:
            connection.execute("UPDATE runs SET created = ?, started = ?, status = ? WHERE id = ?", (*times, status.value, run_id))
        if status.is_final:
            self._store.end(run_id, status, exit_code=exit_code, reason=reason, ended=self._clock + int(seconds * 1000))
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({}))
        write_files(folder, {name if name.startswith("user_logs/") else f"code/{name}": content for name, content in (files or {}).items()})
        return run_id

    def add_many(self, count: int) -> None:
        """Record *count* completed runs in one transaction, without folders."""
        rows = [(f"many_{self._clock // 1000 + number}_{number:08x}", self._clock + number) for number in range(count)]
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT INTO runs (id, job, experiment, display_name, description, command, folder, status, created, started, ended)"
                " VALUES (?1, ?1, 'many', '', '', 'python many.py', '', 'Completed', ?2, ?2, ?2 + 1000)",
                rows,
            )

    def log(self, run_id: str, points: Sequence[Point] = (), parameters: Mapping[str, str] | None = None) -> None:
        """Record metrics (name, value, step, milliseconds) and parameters."""
        MetricStore(self._database).log(run_id, points, parameters)
