"""What many runs logged, for a handful of requests: last values and parameters by MLflow's search, the rest only where there is any.

MLflow tells single numbers alone. Whether runs have tables, lists, texts or images, the metric service says of a few of them; where those have, or all
points are wanted, of each. Of runs that are trials of one job the same program ran, so that a few stand for all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

from himl_cli.core.logged import Value
from himl_cli.core.results import RunResults, Series
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.requests.errors import ServiceRefused
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.runs.history import RunHistory
from himl_cli.workspaces.azure.runs.metric_tables import Told, list_metrics, read_told
from himl_cli.workspaces.azure.runs.mlflow_runs import PARENT, ROOT, MlflowRun, MlflowRuns, can_be_quoted, quoted

log = logging.getLogger(__name__)

PROBED = 4
"""Runs that are asked for what MLflow does not tell."""
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
        """As `ReadsManyRuns.results`."""
        known = {run.id: run for run in self._known(runs)}
        nested = self._nested(runs, known)
        everyone = [*dict.fromkeys([*(run.id for run in runs), *nested])]
        known |= {run.id: run for run, _ in nested.values()}
        told = self._told(everyone, known, wanted, whole=whole)
        last = {run_id: {name: value for name, value in known[run_id].last.items() if wanted(name)} for run_id in everyone if run_id in known}
        series = self._series(last, told) if whole else {}
        found = {run_id: _result(last.get(run_id, {}), series.get(run_id, {}), told.get(run_id, Told()), known.get(run_id), whole) for run_id in everyone}
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
                found |= {run.id: run for run in self._mlflow.search(experiment_id, f"tags.{PARENT} = {quoted(parent)}") if run.id in asked}
            rest = [run_id for run_id in run_ids if run_id not in found]
            found |= {run.id: run for run in self._mlflow.with_ids(experiment_id, rest)}
        return list(found.values())

    def _nested(self, runs: Sequence[Run], known: Mapping[str, MlflowRun]) -> dict[str, tuple[MlflowRun, str]]:
        """Runs that scripts nested in *runs*, each with the one that it belongs to: a search for all of one root, or for one that logged nothing."""
        asked = {run.id for run in runs}
        experiments = self._experiment_ids(runs)
        searches: dict[tuple[str, str], None] = {}
        for run in runs:
            found = known.get(run.id)
            root = found.tags.get(ROOT, run.id) if found else run.id
            experiment_id = experiments[run.experiment]
            if run.parent and root not in asked and can_be_quoted(root + run.parent):
                searches[experiment_id, f"tags.{ROOT} = {quoted(root)} AND tags.{PARENT} != {quoted(run.parent)}"] = None
            elif not (found and found.last) and can_be_quoted(run.id) and not self._history.facts(run.id).starts_jobs:
                searches[experiment_id, f"tags.{PARENT} = {quoted(run.id)}"] = None
        candidates = {run.id: run for some in ask_all(self._searched, list(searches)) for run in some if run.id not in asked}
        belongs = {run_id: _ancestor(run_id, candidates, asked) for run_id in candidates}
        return {run_id: (candidates[run_id], root) for run_id, root in belongs.items() if root}

    def _experiment_ids(self, runs: Sequence[Run]) -> dict[str, str]:
        """The id of each experiment that *runs* belong to, by its name."""
        return {name: self._history.facts(run.id).experiment_id for name, run in {run.experiment: run for run in runs}.items()}

    def _searched(self, search: tuple[str, str]) -> list[MlflowRun]:
        try:
            return list(self._mlflow.search(*search))
        except ServiceRefused as err:
            if err.status != 400:
                raise
            log.debug("nested runs cannot be looked for: %s", err)
            return []

    def _told(self, run_ids: Sequence[str], known: Mapping[str, MlflowRun], wanted: Wanted, *, whole: bool) -> dict[str, Told]:
        """What MLflow does not tell, by run; runs that it does not know are asked for in any case."""
        few = run_ids[:: max(1, -(-len(run_ids) // PROBED))]
        unknown = [run_id for run_id in run_ids if run_id not in known]
        first = run_ids if whole else [*dict.fromkeys([*few, *unknown])]
        listed = list_metrics(self._connection, first)
        if not all(one.is_scalar or one.run in unknown for one in listed):
            listed += list_metrics(self._connection, [run_id for run_id in run_ids if run_id not in set(first)])
        return read_told(self._connection, listed, wanted, set(unknown))

    def _series(self, last: Mapping[str, Mapping[str, float]], told: Mapping[str, Told]) -> dict[str, dict[str, Series]]:
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


def _result(last: Mapping[str, float], series: Mapping[str, Series], told: Told, run: MlflowRun | None, whole: bool) -> RunResults:
    values: dict[str, Value] = {**last, **told.last}
    parameters = run.parameters if run else {}
    if not whole:
        return RunResults(values, parameters=parameters)
    return RunResults(values, {**series, **told.series}, told.texts, told.tables, told.lists, told.images, parameters)
