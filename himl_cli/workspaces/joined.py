"""Two workspaces behind one `Workspace`: runs that were recorded here, and those of a service.

A run is looked for here first, which costs no request; the service is opened when it is first needed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import islice
from typing import TypeVar

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import NotAllowed, RunNotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.core.results import RunResults
from himl_cli.core.runs import RECORDED_FROM, LoggedValues, Metric, Run, RunQuery
from himl_cli.workspaces.base import BlobStore, Workspace

SIMILAR = 4
Answer = TypeVar("Answer")


class JoinedWorkspace(Workspace):
    """The runs of *local* and of the workspace that *open_remote* opens, newest first; datastores are those of the
    latter.

    *remote_label* is what the latter will be called, so that naming it needs no opening.
    """

    def __init__(self, local: Workspace, open_remote: Callable[[], Workspace], remote_label: str) -> None:
        self.local = local
        self._open_remote = open_remote
        self._remote_label = remote_label

    @property
    def label(self) -> str:
        return f"{self.local.label} and {self._remote_label}"

    @cached_property
    def _remote(self) -> Workspace:
        return self._open_remote()

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run, the local one if both do. Raises RunNotFound, naming similar ids of
        both."""

        def known(workspace: Workspace) -> Workspace:
            workspace.run(run_id)
            return workspace

        return self._ask(run_id, known)

    def _ask(self, run_id: str, act: Callable[[Workspace], Answer]) -> Answer:
        """What *act* gives for the workspace that keeps the run: the local one if it is there, else the service, which
        says so if not."""
        try:
            self.local.run(run_id)
        except RunNotFound as err:
            here = err
        else:
            return act(self.local)
        with _way_out(here.similar):
            try:
                return act(self._remote)
            except RunNotFound as err:
                similar = dict.fromkeys((*here.similar, *err.similar))
                raise RunNotFound(run_id, self.label, similar=list(similar)[:SIMILAR]) from err

    def run(self, run_id: str) -> Run:
        return self._ask(run_id, lambda keeper: keeper.run(run_id))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs of both, newest first; children are looked for where their parent is. A run of here that is told
        there too comes once."""
        if query.parent is not None:
            yield from (self.local.runs(query) if self._is_local(query.parent) else self._remote_runs(query))
            return
        others = (
            run for run in self._remote_runs(query) if RECORDED_FROM not in run.tags or not self._is_local(run.id)
        )
        both = heapq.merge(self.local.runs(query), others, key=lambda run: run.created, reverse=True)
        yield from islice(both, query.limit)

    def _remote_runs(self, query: RunQuery) -> Iterator[Run]:
        with _way_out():
            yield from self._remote.runs(query)

    def _is_local(self, run_id: str) -> bool:
        try:
            self.local.run(run_id)
        except RunNotFound:
            return False
        return True

    def tag(self, run_id: str, tags: Mapping[str, str]) -> Run:
        return self._ask(run_id, lambda keeper: keeper.tag(run_id, tags))

    def cancel(self, run_id: str) -> bool:
        return self._ask(run_id, lambda keeper: keeper.cancel(run_id))

    def metrics(self, run_id: str) -> Sequence[Metric]:
        return self._ask(run_id, lambda keeper: keeper.metrics(run_id))

    def values(self, run_id: str) -> LoggedValues:
        return self._ask(run_id, lambda keeper: keeper.values(run_id))

    def parameters(self, run_id: str) -> Mapping[str, str]:
        return self._ask(run_id, lambda keeper: keeper.parameters(run_id))

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """Each workspace is asked once for the runs that came from it."""
        here = [run for run in runs if run.workspace == self.local.label]
        there = [run for run in runs if run.workspace != self.local.label]
        found: dict[str, RunResults] = {}
        if here:
            found |= self.local.results(here, wanted=wanted, whole=whole)
        if there:
            with _way_out():
                found |= self._remote.results(there, wanted=wanted, whole=whole)
        return found

    def run_files(self, run_id: str) -> BlobStore:
        return self._ask(run_id, lambda keeper: keeper.run_files(run_id))

    def output_files(self, run_id: str, key: str) -> BlobStore:
        return self._ask(run_id, lambda keeper: keeper.output_files(run_id, key))

    def datastores(self) -> Sequence[DatastoreInfo]:
        return self._remote.datastores()

    def datastore(self, name: str | None = None) -> BlobStore:
        return self._remote.datastore(name)

    def close(self) -> None:
        """Close what the service's workspace holds open, if it was opened."""
        if "_remote" in vars(self):
            self._remote.close()


@contextmanager
def _way_out(similar: Sequence[str] = ()) -> Iterator[None]:
    """A service that cannot be asked is an error, not an empty answer; its hint says how to do without it.

    *similar* are ids of runs kept here that may have been meant.
    """
    try:
        yield
    except (NotAllowed, ServiceFailed, WorkspaceNotFound) as err:
        alike = f"Did you mean {' or '.join(similar)}, kept here?" if similar else ""
        err.hint = " ".join(filter(None, (alike, err.hint, "To look at the runs kept here alone: --workspace local")))
        raise
