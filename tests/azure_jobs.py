"""Jobs for a cluster, as the services make them of a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from himl_cli.core.events import Notify, ignore
from himl_cli.core.jobs import Entry, EntryKind, EnvironmentSpec, JobSpec, Snapshot
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.assets import JobCode

FILES = {"train.py": "print('trained')\n", "data/list.txt": "a\nb\n"}
CONDA = "name: training\ndependencies:\n- python=3.11\n- pip:\n  - mlflow-skinny\n"
MADE = EnvironmentSpec(image="docker.io/python:3.11", conda=CONDA)


def snapshot_of(folder: Path, files: Mapping[str, str] = FILES) -> Snapshot:
    """*files* written to *folder*, as a snapshot of it."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Snapshot(folder, sorted(files), sum(len(text.encode()) for text in files.values()))


def cluster_spec(folder: Path, files: Mapping[str, str] = FILES, **fields: Any) -> JobSpec:
    """A job of `train.py` on `cpu-cluster`, one process, an environment made from a conda file; *fields* say otherwise."""
    given: dict[str, Any] = {"experiment": "sent", "distribution": "", "cluster": "cpu-cluster", "shm_size": "100g", "environment": MADE}
    given |= {"entry": Entry(EntryKind.script, "train.py"), "snapshot": snapshot_of(folder, files), **fields}
    return JobSpec(**given)


def ensured(connection: Connection, snapshot: Snapshot, notify: Notify = ignore) -> JobCode:
    """The snapshot's code version, uploaded where there is none, as a submission does it."""
    code = JobCode(connection, snapshot)
    code.find()
    code.make(notify)
    return code
