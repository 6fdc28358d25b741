"""What many runs logged, for a handful of requests: last values and parameters by MLflow's search, the rest only where
there is any.

MLflow tells single numbers alone, its search not always at once, nor all that azureml-core logged. Whether runs have
anything else (tables, lists, texts, images, numbers that were not told), the metric service says of a few of them and
of those of which MLflow told nothing; where the few have, or all points are wanted, of each. Of runs that are trials of
one job the same program ran, so that a few stand for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from himl_cli.core.results import RunResults, Series, Value
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.runs.history import PAGE, RunHistory
from himl_cli.workspaces.azure.runs.metric_tables import Listed, Told, list_metrics, read_told
from himl_cli.workspaces.azure.runs.mlflow_runs import PARENT, ROOT, MlflowRun, MlflowRuns, can_be_quoted, quoted

log = logging.getLogger(__name__)

PROBED = 4
"""Runs that are asked for what MLflow does not tell."""
HISTORY_FIELDS = {PARENT: "ParentRunId", ROOT: "RootRunId"}
FEW = 3
"""Up to so many runs are asked for one by one."""
Wanted = Callable[[str], bool]


class ManyRuns:
    """Reads what many runs of one workspace logged."""

    def __init__(self, connection: Connection, history: RunHistory) -> None:
        self._connection = connection
        self._history = history
        self._mlflow = MlflowRuns(connection)

    def results(self, runs: Sequence[Run], wanted: Wanted, *, whole: bool) -> dict[str, RunResults]:
        """As `Workspace.results`."""
        known = {run.id: run for run in self._known(runs)}
        nested = self._nested(runs, known)
        everyone = [*dict.fromkeys([*(run.id for run in runs), *nested])]
        known |= {run.id: run for run, _ in nested.values()}
        last = {
            run_id: {name: value for name, value in known[run_id].last.items() if wanted(name)}
            for run_id in everyone
            if run_id in known
        }
        waiting = {run.id for run in runs if run.started is None}
        silent = [run_id for run_id in everyone if run_id not in known or not (known[run_id].last or run_id in waiting)]
        told = self._told(everyone, known, silent, wanted, whole=whole)
        series = self._series(last, told) if whole else {}
        found = {
            run_id: _result(
                last.get(run_id, {}), series.get(run_id, {}), told.get(run_id, Told()), known.get(run_id), whole
            )
            for run_id in everyone
        }
        for run_id, (_, root) in nested.items():
            found[root] = found[root].filled(found[run_id])
        return {run.id: found[run.id] for run in runs}

    def _known(self, runs: Sequence[Run]) -> list[MlflowRun]:
        """The runs as MLflow has them: those of one parent by one search, others by their ids."""
        asked = {run.id for run in runs}
        experiments = self._experiment_ids(runs)
        groups: dict[tuple[str, str], list[str]] = {}
        for run in runs:
            groups.setdefault((experiments[run.experiment], run.parent or ""), []).append(run.id)
        found: dict[str, MlflowRun] = {}
        for (experiment_id, parent), run_ids in groups.items():
            if parent and len(run_ids) > FEW and can_be_quoted(parent):
                children = self._searched((experiment_id, f"tags.{PARENT} = {quoted(parent)}")) or ()
                found |= {run.id: run for run in children if run.id in asked}
            rest = [run_id for run_id in run_ids if run_id not in found]
            found |= {run.id: run for run in self._mlflow.with_ids(experiment_id, rest)}
        return list(found.values())

    def _nested(self, runs: Sequence[Run], known: Mapping[str, MlflowRun]) -> dict[str, tuple[MlflowRun, str]]:
        """Runs that scripts nested in *runs*, each with the one that it belongs to: a search for all of one root, or
        for one that logged nothing.

        A search cannot leave out the siblings: of tags the service takes `=` alone.
        """
        asked = {run.id for run in runs}
        experiments = self._experiment_ids(runs)
        searches: dict[tuple[str, str, str], None] = {}
        for run in runs:
            found = known.get(run.id)
            root = found.tags.get(ROOT, run.id) if found else run.id
            if run.parent and root not in asked and can_be_quoted(root):
                searches[run.experiment, ROOT, root] = None
            elif not (found and found.last) and can_be_quoted(run.id) and not self._history.facts(run.id).starts_jobs:
                searches[run.experiment, PARENT, run.id] = None
        candidates = {
            run.id: run
            for some in ask_all(lambda one: self._below(*one, experiments[one[0]], asked), list(searches))
            for run in some
        }
        belongs = {run_id: _ancestor(run_id, candidates, asked) for run_id in candidates}
        return {run_id: (candidates[run_id], root) for run_id, root in belongs.items() if root}

    def _below(self, experiment: str, tag: str, above: str, experiment_id: str, asked: set[str]) -> list[MlflowRun]:
        """The runs below *above* but those *asked* for; the run history names them where MLflow does not understand the
        question."""
        found = self._searched((experiment_id, f"tags.{tag} = {quoted(above)}"))
        if found is not None:
            return [run for run in found if run.id not in asked]
        try:
            pages = self._history.of_experiment(experiment, filter=f"({HISTORY_FIELDS[tag]} eq {above})", top=PAGE)
            ids = [
                run_id for page in pages for raw in page if (run_id := raw["runId"]) != above and run_id not in asked
            ]
        except ServiceRefused as err:
            if err.status != 400:
                raise
            log.warning(
                "Azure ML does not tell which runs are nested in '%s'; what they logged is missing (%s)", above, err
            )
            return []
        return self._mlflow.with_ids(experiment_id, ids)

    def _experiment_ids(self, runs: Sequence[Run]) -> dict[str, str]:
        """The id of each experiment that *runs* belong to, by its name."""
        return {
            name: self._history.facts(run.id).experiment_id
            for name, run in {run.experiment: run for run in runs}.items()
        }

    def _searched(self, search: tuple[str, str]) -> list[MlflowRun] | None:
        """None where MLflow does not understand the search."""
        try:
            return list(self._mlflow.search(*search))
        except ServiceRefused as err:
            if err.status != 400:
                raise
            log.debug("MLflow's search does not take '%s': %s", search[1], err)
            return None

    def _told(
        self,
        run_ids: Sequence[str],
        known: Mapping[str, MlflowRun],
        silent: Sequence[str],
        wanted: Wanted,
        *,
        whole: bool,
    ) -> dict[str, Told]:
        """What MLflow does not tell, by run; runs of which it told nothing are asked for in any case."""
        few = run_ids[:: max(1, -(-len(run_ids) // PROBED))]
        first = run_ids if whole else [*dict.fromkeys([*few, *silent])]
        listed = list_metrics(self._connection, first)

        def is_told(one: Listed) -> bool:
            return one.is_scalar and one.run in known and one.name in known[one.run].last

        if not all(is_told(one) or one.run in silent for one in listed):
            listed += list_metrics(self._connection, [run_id for run_id in run_ids if run_id not in set(first)])
        return read_told(self._connection, [one for one in listed if not is_told(one)], wanted)

    def _series(
        self, last: Mapping[str, Mapping[str, float]], told: Mapping[str, Told]
    ) -> dict[str, dict[str, Series]]:
        """All points of what MLflow tells."""
        by_name: dict[str, list[str]] = {}
        for run_id, values in last.items():
            for name in values:
                if name not in told.get(run_id, Told()).last:
                    by_name.setdefault(name, []).append(run_id)
        found: dict[str, dict[str, Series]] = {}
        for (run_id, name), series in self._mlflow.histories(by_name).items():
            found.setdefault(run_id, {})[name] = series
        return found


def _ancestor(run_id: str, candidates: Mapping[str, MlflowRun], asked: set[str]) -> str:
    """The one of *asked* that the run is nested in; empty where it is not nested in any."""
    passed = {run_id}
    while run_id in candidates:
        run_id = candidates[run_id].tags.get(PARENT, "")
        if run_id in asked:
            return run_id
        if run_id in passed:
            return ""
        passed.add(run_id)
    return ""


def _result(
    last: Mapping[str, float], series: Mapping[str, Series], told: Told, run: MlflowRun | None, whole: bool
) -> RunResults:
    values: dict[str, Value] = {**last, **told.last}
    parameters = run.parameters if run else {}
    if not whole:
        return RunResults(values, parameters=parameters)
    return RunResults(values, {**series, **told.series}, told.texts, told.tables, told.lists, told.images, parameters)
