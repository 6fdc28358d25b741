"""What has become of runs: from lists where several have one in common, else run by run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from himl_cli.core.errors import RunNotFound
from himl_cli.core.runs import Run, RunQuery
from himl_cli.services.tensorboard.homes import Homes
from himl_cli.services.tensorboard.run_list import RunList

A_LIST_PAYS = 3
"""So many runs are asked for by a list rather than one by one."""
PAGE = 100
"""Runs in one answer of the slowest service: a list is read no further than so many for each run wanted; what is below
is asked one by one."""


@dataclass
class Renewed:
    """`runs` as they are now, new ones too, by id; `gone`: what was said of those that are no longer there."""

    runs: dict[str, Run] = field(default_factory=dict)
    gone: dict[str, RunNotFound] = field(default_factory=dict)


class RunStates:
    """Asks the workspaces that keep the runs."""

    def __init__(self, homes: Homes) -> None:
        self._homes = homes
        self._lists: dict[tuple[str, ...], RunList] = {}
        self._unlisted: set[str] = set()

    def look_at(self, runs: Iterable[Run], known: Collection[str], renewed: Renewed) -> None:
        """The states of *runs*, put to *renewed*."""
        groups: dict[tuple[str, str, str], list[Run]] = defaultdict(list)
        for run in runs:
            groups[run.workspace, run.parent or "", run.experiment].append(run)
        for (_, parent, experiment), alike in groups.items():
            listed = [run for run in alike if run.id not in self._unlisted]
            if len(listed) >= A_LIST_PAYS:
                self._read(
                    listed[0],
                    RunQuery(parent=parent) if parent else RunQuery(experiment),
                    listed,
                    known,
                    renewed,
                    deepest=PAGE * len(listed),
                )
            self._ask_for(alike, renewed)

    def look_below(self, parent: Run, wanted: Collection[Run], known: Collection[str], renewed: Renewed) -> list[Run]:
        """The children of *parent* that are not *known*, in the order they were made; the states of those *wanted* are
        put to *renewed*."""
        listed = [run for run in wanted if run.id not in self._unlisted]
        found = self._read(parent, RunQuery(parent=parent.id), listed, known, renewed)
        self._ask_for(wanted, renewed)
        return [run for run in reversed(found) if run.id not in known]

    def _read(
        self,
        relative: Run,
        query: RunQuery,
        wanted: Collection[Run],
        known: Collection[str],
        renewed: Renewed,
        deepest: int | None = None,
    ) -> list[Run]:
        """A list of the workspace that keeps *relative*."""
        key = (relative.workspace, query.parent or "", query.experiment or "")
        if key not in self._lists:
            self._lists[key] = RunList(self._homes.of(relative), query)
        ids = {run.id for run in wanted}
        found = self._lists[key].read(ids, known, deepest=deepest)
        renewed.runs |= {run.id: run for run in found if run.id in known}
        self._unlisted |= ids - renewed.runs.keys()
        return found

    def _ask_for(self, runs: Iterable[Run], renewed: Renewed) -> None:
        """Those that no list has told."""
        for run in runs:
            if run.id not in renewed.runs:
                try:
                    renewed.runs[run.id] = self._homes.of(run).run(run.id)
                except RunNotFound as err:
                    renewed.gone[run.id] = err
