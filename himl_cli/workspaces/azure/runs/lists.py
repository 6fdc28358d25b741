"""Lists of runs: which pages are asked for, and which of their runs are passed on."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from himl_cli.core.runs import Run, RunQuery, implied_experiment
from himl_cli.core.text import near_matches
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.runs.conditions import fulfils, history_filter, is_plain
from himl_cli.workspaces.azure.runs.experiments import Experiments
from himl_cli.workspaces.azure.runs.history import PAGE, RunHistory
from himl_cli.workspaces.azure.runs.index import newest_ids
from himl_cli.workspaces.azure.runs.pipeline_steps import PipelineSteps
from himl_cli.workspaces.azure.runs.records import RawRun, as_run
from himl_cli.workspaces.azure.runs.trials import Trials

log = logging.getLogger(__name__)

SPARE = 5
"""Asked for beyond the limit: archived runs among the newest then cost no second page."""
SIFTED = 100
"""Runs on a page where the conditions are checked here."""

LOOKED_THROUGH = 100
"""How many of the newest runs are looked through for similar ids."""


class RunLists:
    """Runs by their conditions, newest first, a page at a time as they are consumed; archived ones are left out, as in
    Studio."""

    def __init__(self, connection: Connection, history: RunHistory, experiments: Experiments) -> None:
        self._connection = connection
        self._history = history
        self._experiments = experiments
        self._steps = PipelineSteps(connection)
        self._trials = Trials(history)

    def record(self, raw: RawRun) -> Run:
        """The run as we tell it; a request where its experiment's name is not known yet, or a trial's values are
        not."""
        return self._told(self._trials.completed([raw])[0])

    def _told(self, raw: RawRun) -> Run:
        name = self._experiments.name(raw["experimentId"])
        tenant_id = self._connection.record().tenant_id
        with understood(self._connection.history(), f"run '{raw['runId']}'"):
            return as_run(raw, experiment=name, address=self._connection.address, tenant_id=tenant_id)

    def runs(self, query: RunQuery) -> Iterator[Run]:
        left = query.limit
        if left is not None and left < 1:
            return
        passed: set[str] = set()  # a run that is made meanwhile can push another onto the next page
        for page in self._pages(query):
            shown = [raw for raw in page if not raw.get("hidden") and raw["runId"] not in passed]
            passed.update(raw["runId"] for raw in shown)
            self._experiments.learn(raw["experimentId"] for raw in shown)
            labelled = (self._steps.labelled(raw, self._told(raw)) for raw in self._trials.completed(shown))
            for run in filter(lambda run: fulfils(run, query), labelled):
                yield run
                left = None if left is None else left - 1
                if left == 0:
                    return

    def similar_ids(self, run_id: str) -> list[str]:
        """Ids like this one among the newest of the experiment that it names, else of the workspace.

        Two requests; a third in a workspace whose index does not answer, which is looked through by its jobs.
        """
        experiment = implied_experiment(run_id)
        if experiment is not None:
            page = next(self._history.of_experiment(experiment, filter="", top=LOOKED_THROUGH), [])
            found = near_matches(run_id, [raw["runId"] for raw in page])
            if found:
                return found
        return near_matches(run_id, next(newest_ids(self._connection, RunQuery(), top=LOOKED_THROUGH), []))

    def _pages(self, query: RunQuery) -> Iterator[Sequence[RawRun]]:
        if query.parent is None and query.experiment is None:
            for ids in newest_ids(self._connection, query, top=_page_size(query)):
                yield self._history.many(ids)
            return
        try:
            yield from self._filtered(query, history_filter(query), _page_size(query))
        except ServiceRefused as err:
            simple = history_filter(RunQuery(parent=query.parent))
            if err.status != 400 or history_filter(query) == simple:
                raise
            log.debug("the run history does not take a filter, looking at all runs instead: %s", err)
            yield from self._filtered(query, simple, SIFTED)

    def _filtered(self, query: RunQuery, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        if query.parent is not None:
            return self._history.children(query.parent, filter=filter, top=top)
        return self._history.of_experiment(query.experiment or "", filter=filter, top=top)


def _page_size(query: RunQuery) -> int:
    if query.limit is None:
        return PAGE
    wanted = query.limit + SPARE
    return min(PAGE, wanted if is_plain(query) else max(SIFTED, wanted))
