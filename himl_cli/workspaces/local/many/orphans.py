"""Children that go on although their parent's keeper is gone."""

from __future__ import annotations

from pathlib import Path

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import RunStore


def at_work_below(runs: Path, store: RunStore, run_id: str) -> list[str]:
    """Ids of the children of a run that have a supervisor which lives; *runs* is the folder of all runs."""
    children = [
        run.id
        for run in store.query(RunQuery(parent=run_id))
        if not run.status.is_final and store.job_of(run.id) == run.id
    ]
    return [child for child in children if RunFolder(runs / child).is_supervised()]
