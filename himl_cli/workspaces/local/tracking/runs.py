"""The job's run and the runs nested in it, as MLflow's clients create, end, delete and search them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.metric_store import MetricStore
from himl_cli.workspaces.local.run_store import NewRun, RunStore, now_ms
from himl_cli.workspaces.local.tracking.environment import experiment_number
from himl_cli.workspaces.local.tracking.fields import Fields, Refused, missing
from himl_cli.workspaces.local.tracking.latest import LatestMetrics
from himl_cli.workspaces.local.tracking.lineage import Lineage
from himl_cli.workspaces.local.tracking.records import PARENT_RUN, RUN_NAME, STATUSES, USER, Json, TrackedRun, next_page
from himl_cli.workspaces.local.tracking.search import Searchable, order, parse_filter, parse_order

MOST_RUNS = 50_000
VIEWS = {"ACTIVE_ONLY": {False}, "DELETED_ONLY": {True}, "ALL": {False, True}}


def run_id_of(request: Fields) -> str:
    """`run_id`, which clients before MLflow 1.0 call `run_uuid`."""
    return request.text("run_id", "") or request.key("run_uuid")


class JobRuns:
    """What one job's clients may see: the job's run and its children. Raises `Refused` for every other run."""

    def __init__(
        self, database: Database, job: Run, artifacts_of: Callable[[str], Path], new_child_id: Callable[[], str]
    ) -> None:
        self.store = RunStore(database)
        self.metric_store = MetricStore(database)
        self.latest = LatestMetrics(self.metric_store)
        self.lineage = Lineage()
        self.job_id = job.id
        self.artifacts_of = artifacts_of
        self._new_child_id = new_child_id
        self._lock = threading.Lock()
        self._known: set[str] = set()
        self._deleted: set[str] = set()
        self.experiment = job.experiment
        self.experiment_id = experiment_number(job.experiment)

    def require(self, run_id: str, *, active: bool = True) -> str:
        """The id itself where it is this job's. Raises `Refused` where not, or where the run is deleted and *active* is
        asked for."""
        with self._lock:
            is_known, is_deleted = run_id in self._known, run_id in self._deleted
        if not is_known:
            if self.store.job_of(run_id) != self.job_id:
                raise missing(f"Run '{run_id[:300]}'")
            with self._lock:
                self._known.add(run_id)
        if active and is_deleted:
            raise Refused(f"The run {run_id} must be in the 'active' state. Current state is deleted.")
        return run_id

    def tracked(self, run_id: str) -> TrackedRun:
        run = self.store.get(self.require(run_id, active=False))
        if run is None:
            raise missing(f"Run '{run_id}'")
        with self._lock:
            return TrackedRun(run, self.experiment_id, self.artifacts_of(run_id), run_id in self._deleted)

    def get(self, request: Fields) -> Json:
        return {"run": self._whole(self.tracked(run_id_of(request)))}

    def create(self, request: Fields) -> Json:
        """A child of the run that `mlflow.parentRunId` names, else of the job's."""
        tags = request.pairs("tags")
        name = request.text("run_name", "") or tags.get(RUN_NAME, "")
        tags.pop(RUN_NAME, None)
        user = request.text("user_id", "")
        if user:
            tags.setdefault(USER, user)
        parent = tags.get(PARENT_RUN, self.job_id)
        if self.store.job_of(parent) != self.job_id:
            parent = self.job_id
        child = NewRun(
            id=self._new_child_id(),
            job=self.job_id,
            parent=parent,
            experiment=self.experiment,
            display_name=name,
            status=RunStatus.running,
            started=request.moment("start_time", now_ms()),
            tags=tags,
        )
        self.store.add(child)
        return {"run": self._whole(self.tracked(child.id))}

    def update(self, request: Fields) -> Json:
        """Rename a run, end or resume a child. The state of the job's own run is not a client's to decide: a script
        that fails says FINISHED too."""
        run_id = self.require(run_id_of(request))
        status = self._status(request)
        ended = request.moment("end_time", now_ms())
        if request.text("run_name", ""):
            self.store.rename(run_id, request.text("run_name"))
        if run_id != self.job_id and status is not None:
            self._move(run_id, status, ended)
        return {"run_info": self.tracked(run_id).info}

    def _status(self, request: Fields) -> RunStatus | None:
        name = request.text("status", "")
        if name and name not in STATUSES:
            raise Refused(f"Invalid status '{name[:50]}'. Valid values are {', '.join(STATUSES.keys())}.")
        return STATUSES[name] if name else None

    def _move(self, run_id: str, status: RunStatus, ended: int) -> None:
        now = self.tracked(run_id).run
        if now.status == status:
            return
        if now.ended is not None:
            self.store.reopen(run_id)
        if status.is_final:
            self.store.end(run_id, status, ended=ended)

    def delete(self, request: Fields) -> Json:
        """Hide a child; what is hidden when the job ends is removed for good."""
        run_id = self.require(request.key("run_id"), active=False)
        if run_id == self.job_id:
            raise Refused(
                "The job's own run cannot be deleted while it runs; afterwards 'himl runs delete' removes it."
            )
        with self._lock:
            self._deleted.add(run_id)
        return {}

    def restore(self, request: Fields) -> Json:
        run_id = self.require(request.key("run_id"), active=False)
        with self._lock:
            self._deleted.discard(run_id)
        return {}

    def remove_deleted(self) -> None:
        """Forget the children that were deleted and not restored, with the runs below them and all their files."""
        gone = sorted({run_id for deleted in self._deleted for run_id in self.store.descendants(deleted)})
        if not gone:
            return
        import shutil

        self.store.delete(gone)
        for run_id in gone:
            folder = self.artifacts_of(run_id)
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):
                folder.parent.rmdir()  # only where nothing else was put beside the artifacts

    def search(self, request: Fields) -> Json:
        """The job's runs that match, newest first unless ordered otherwise, in pages."""
        comparisons = parse_filter(request.text("filter", ""))
        clauses = [parse_order(clause) for clause in request.texts("order_by")]
        view = request.text("run_view_type", "ACTIVE_ONLY")
        size = request.integer("max_results", 1000, allowed=range(1, MOST_RUNS + 1))
        start = request.page_start()
        if view not in VIEWS:
            raise Refused(f"Invalid run_view_type '{view[:50]}'. Valid values are {', '.join(VIEWS)}.")
        if self.experiment_id not in request.texts("experiment_ids"):
            return {"runs": []}
        runs = [run for run in map(self.tracked, self.store.descendants(self.job_id)) if run.is_deleted in VIEWS[view]]
        runs.sort(key=lambda tracked: (-(tracked.run.started or tracked.run.created).timestamp(), tracked.run.id))
        seen = {tracked.run.id: tracked for tracked in runs}
        items = [(self._searchable(tracked), tracked.run.id) for tracked in runs]
        found = order([item for item in items if all(comparison.holds(item[0]) for comparison in comparisons)], clauses)
        page = [self._whole(seen[run_id]) for run_id in found[start : start + size]]
        return {"runs": page, **next_page(start, size, len(found))}

    def _searchable(self, tracked: TrackedRun) -> Searchable:
        run_id = tracked.run.id
        metrics = {name: value for name, value, _, _ in self.latest.of(run_id)}
        return Searchable(
            tracked.info, metrics, self.metric_store.parameters(run_id), tracked.tags, self.lineage.searchable(run_id)
        )

    def _whole(self, tracked: TrackedRun) -> Json:
        run_id = tracked.run.id
        inputs, outputs = self.lineage.inputs(run_id), self.lineage.outputs(run_id)
        return tracked.as_json(self.latest.as_json(run_id), self.metric_store.parameters(run_id), inputs, outputs)
