"""Recorded runs: without execution, by local jobs, and with checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.files import LATEST_RUN_FILE
from himl_cli.core.logged import Aggregation, Child, RunResults, Value
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import HYPERPARAMETERS
from himl_cli.services.checkpoints.select import Checkpoint, choice_of
from himl_cli.services.checkpoints.source import find_checkpoint
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import Database, RunStore
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.running import Himl, until, write_files

Point = tuple[str, float, int, int]


class RecordedRuns:
    """A local workspace in *folder*`/.himl` with recorded runs. Each run is created a second after the previous one,
    and has *tags*.
    """

    def __init__(self, folder: Path, tags: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self._tags = tags or {}
        (folder / ".himl" / "datastores" / "local").mkdir(parents=True, exist_ok=True)
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
        """Record a run. *files* have the names of artifacts (`outputs/...`, `user_logs/...`)."""
        self._clock += 1000
        folder = self.folder / ".himl" / "runs" / run_id
        new = Run(
            run_id,
            experiment,
            display_name=display_name,
            tags={**self._tags, **(tags or {})},
            parent=parent,
            command=command,
        )
        self._store.add(replace(new, folder=str(folder / "code")), job=parent or run_id)
        times = (self._clock, None if status is RunStatus.queued else self._clock)
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE runs SET created = ?, started = ?, status = ? WHERE id = ?", (*times, status.value, run_id)
            )
        if status.is_final:
            self._store.end(run_id, status, exit_code=exit_code, reason=reason, ended=self._clock + int(seconds * 1000))
        folder.mkdir(parents=True)
        (folder / "job.json").write_text(json.dumps({}))
        write_files(
            folder,
            {
                name if name.startswith("user_logs/") else f"code/{name}": content
                for name, content in (files or {}).items()
            },
        )
        return run_id

    def add_many(self, count: int) -> None:
        """Record *count* completed runs in one transaction, without folders."""
        rows = [
            {"id": f"many_{self._clock // 1000 + number}_{number:08x}", "created": self._clock + number}
            for number in range(count)
        ]
        with self._database.writing() as connection:
            connection.executemany(
                "INSERT INTO runs (id, job, experiment, display_name, description, command, folder, "
                "status, created, started, ended)"
                " VALUES (:id, :id, 'many', '', '', 'python many.py', '', 'Completed', :created, :created, "
                ":created + 1000)",
                rows,
            )

    def log(self, run_id: str, points: Sequence[Point] = (), parameters: Mapping[str, str] | None = None) -> None:
        """Record metrics (name, value, step, milliseconds) and parameters."""
        MetricStore(self._database).log(run_id, points, (parameters or {}).items())


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    """Three runs, the newest with metrics, parameters and children."""
    runs = RecordedRuns(project)
    runs.add("base_1_aa", experiment="base", display_name="baseline", exit_code=0, tags={"team": "blue"})
    runs.add(
        "train_2_bb",
        status=RunStatus.failed,
        exit_code=3,
        reason="exit code 3",
        seconds=3.25,
        tags={"team": "red", "build_branch": "main"},
    )
    runs.add(
        "train_3_cc",
        exit_code=0,
        tags={"team": "blue"},
        files={"user_logs/std_log.txt": b"epoch 1\n\xff\xfe raw\n", "user_logs/std_log_process_1.txt": "rank 1\n"},
    )
    runs.add("fold_0", parent="train_3_cc", display_name="fold 0")
    runs.add("fold_1", parent="train_3_cc", display_name="fold 1", status=RunStatus.failed, exit_code=1)
    runs.log(
        "train_3_cc",
        [("val/loss", 1.0, 1, 1), ("val/loss", 0.5, 2, 2), ("grad", float("nan"), 2, 2), ("big", float("-inf"), 2, 2)],
        {"lr": "0.1"},
    )
    runs.log("fold_0", [("val/loss", 0.25, 1, 1)])
    return runs


posix = pytest.mark.skipif(os.name == "nt", reason="signals, terminals and process groups of POSIX")

STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGINT, signal.SIG_IGN)
subprocess.Popen([sys.executable, "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"])
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(0.5)
print("up", flush=True)
time.sleep(600)
"""


def latest(himl: Himl) -> dict[str, Any]:
    """The full document of the newest run."""
    run = himl.ok("runs", "show", "--run", "latest", "--json").json()
    return dict(run)


def runs(himl: Himl) -> list[dict[str, Any]]:
    return list(himl.ok("runs", "list", "--num_runs", "all", "--json").json())


def status(himl: Himl) -> str:
    return str(runs(himl)[0]["status"])


def started(himl: Himl, project: Path, *options: str) -> subprocess.Popen[bytes]:
    """A submit of train.py that waits for its job, after the script has printed `up` and himl has noted the run."""
    process = himl.start("submit", "train.py", *options)
    until((project / LATEST_RUN_FILE).exists)
    until(lambda: any(beginning(log) == b"up" for log in (project / ".himl" / "runs").glob("*/user_logs/std_log.txt")))
    return process


def beginning(log: Path) -> bytes:
    """The first two bytes, since reading a log that grows equally fast would never end."""
    with log.open("rb") as stream:
        return stream.read(2)


RUN = "train_1_aa"
HERE, RETRY = "outputs/checkpoints", "outputs/retry_001/checkpoints"
CREATED = 1_772_366_401  # time of the first of RecordedRuns


def add(
    runs: RecordedRuns, *names: str, content: Mapping[str, str] | None = None, tags: Mapping[str, str] | None = None
) -> None:
    """Add a run with the files *names*, by default in `outputs/checkpoints`, each a second later than the previous
    one.
    """
    full = [name if name.startswith("outputs/") else f"{HERE}/{name}" for name in names]
    runs.add(
        RUN, files={place: (content or {}).get(name, name) for place, name in zip(full, names, strict=True)}, tags=tags
    )
    for number, place in enumerate(full):
        os.utime(runs.folder / ".himl" / "runs" / RUN / "code" / place, (CREATED + number, CREATED + number))


def found(
    runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None, source: str = RUN
) -> Checkpoint:
    return find_checkpoint(source, runs.workspace, runs.folder, choice_of(select, metric, goal))


def name(runs: RecordedRuns, select: str | None = None, metric: str | None = None, goal: str | None = None) -> str:
    return found(runs, select, metric, goal).inside.removeprefix(f"{HERE}/")


def log(runs: RecordedRuns, metric: str, values: Mapping[int, float]) -> None:
    runs.log(RUN, [(metric, value, step, step) for step, value in values.items()])


NOON = datetime(2026, 3, 1, 12, tzinfo=timezone.utc)


def run(
    run_id: str,
    *,
    values: Mapping[str, object] | None = None,
    tags: Mapping[str, str] | None = None,
    command: str = "",
    **fields: str,
) -> Run:
    """A completed run with *values* as its hyperparameters."""
    own = {HYPERPARAMETERS: json.dumps(values)} if values is not None else {}
    tags = {**own, **(tags or {})}
    done = RunStatus.completed
    return Run(run_id, "train", done, NOON, tags=tags, command=command, **fields)  # type: ignore[arg-type]


def aggregation(all_last: Mapping[str, Mapping[str, Value]]) -> Aggregation:
    """An aggregation of last values by label."""
    children = [Child(run(label), label, {}, RunResults(last)) for label, last in all_last.items()]
    return Aggregation(sorted({name for last in all_last.values() for name in last}), children)
