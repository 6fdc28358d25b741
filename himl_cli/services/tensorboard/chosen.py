"""The runs that a selection means: at first, and again as long as something goes on."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Notify, ignore
from himl_cli.core.files import expand_home
from himl_cli.core.runs import Run, RunQuery, RunSelection
from himl_cli.core.sweeps import MANY
from himl_cli.services.runs.aggregate import PREPARATION
from himl_cli.services.runs.lookup import (
    LATEST,
    find_runs,
    nearest_latest_run_file,
    newest_run,
    no_children,
    read_latest_run_file,
)
from himl_cli.services.tensorboard.aside import several
from himl_cli.services.tensorboard.homes import Homes
from himl_cli.services.tensorboard.run_list import RunList
from himl_cli.services.tensorboard.run_states import Renewed, RunStates
from himl_cli.workspaces.base import Workspace

log = logging.getLogger(__name__)


class ChosenRuns:
    """The runs of *selection*; of a sweep or a pipeline it and all below it. What comes later joins them; none
    leaves."""

    def __init__(self, workspace: Workspace, selection: RunSelection, cwd: Path, notify: Notify = ignore) -> None:
        self.homes = Homes(workspace)
        self._workspace = workspace
        self._selection = selection
        self._cwd = cwd
        self._notify = notify
        self._states = RunStates(self.homes)
        self._known: dict[str, Run] = {}
        self._roots: list[str] = []
        self._parents: set[str] = set()  # whose children may become more
        self._experiment: RunList | None = None

    @property
    def may_grow(self) -> bool:
        """Whether other runs can still join."""
        return bool(self._parents) or self._may_mean_others

    @property
    def _may_mean_others(self) -> bool:
        """Whether what the user said may mean another run later."""
        return not self._selection.runs or any(text.lower() == LATEST for text in self._selection.runs)

    def first(self) -> list[Run]:
        """Never empty: raises what `find_runs` does instead."""
        found = find_runs(self._workspace, replace(self._selection, children=False), cwd=self._cwd, notify=self._notify)
        self._add_roots(found)
        self._look_below(found, Renewed())
        shown = [run for run in self._known.values() if self._is_shown(run)]
        if not shown:
            raise no_children(found)
        return shown

    def again(self, wanted: Collection[str]) -> Renewed:
        """What is new, and the states of the runs *wanted*. Raises HimlError where a service cannot be asked; the next
        time goes on."""
        renewed = Renewed()
        asked = {*wanted, *self._parents}
        new = self._new_roots(asked, renewed)
        alone = [
            self._known[run_id]
            for run_id in asked - renewed.runs.keys()
            if self._known[run_id].parent not in self._parents
        ]
        self._states.look_at(alone, self._known, renewed)
        self._parents -= renewed.gone.keys()
        self._known |= renewed.runs
        self._add_roots(new)
        self._look_below([self._known[parent] for parent in self._parents], renewed, asked)
        renewed.runs |= {run.id: run for run in new}
        return Renewed({run_id: run for run_id, run in renewed.runs.items() if self._is_shown(run)}, renewed.gone)

    def _is_shown(self, run: Run) -> bool:
        return not (self._selection.children and run.id in self._roots)

    def _add_roots(self, runs: Iterable[Run]) -> None:
        for run in runs:
            self._known[run.id] = run
            self._roots.append(run.id)
            if self._selection.children or MANY in run.tags:
                self._parents.add(run.id)

    def _new_roots(self, asked: Collection[str], renewed: Renewed) -> list[Run]:
        """Runs that the selection means by now beside those it meant before, oldest first."""
        if self._selection.experiment is not None:
            return self._newer_in_experiment(asked, renewed)
        try:
            run = self._latest() if self._may_mean_others else None
        except (
            NotFound,
            BadUsage,
        ) as err:  # a file that is just being written, a workspace whose runs were all deleted
            log.debug("nothing new: %s", err)
            return []
        return [run] if run is not None and run.id not in self._known else []

    def _newer_in_experiment(self, asked: Collection[str], renewed: Renewed) -> list[Run]:
        """Those that are newer than the oldest chosen at first."""
        chosen = self._selection
        roots = [self._known[run_id] for run_id in self._roots]
        oldest = min(run.created for run in roots)
        if self._experiment is None:
            self._experiment = RunList(self._workspace, RunQuery(roots[0].experiment, chosen.statuses, chosen.tags))
        is_sifted = bool(chosen.statuses or chosen.tags)  # an older run may come to meet the conditions
        wanted = [run.id for run in roots if is_sifted or run.id in asked]
        found = self._experiment.read(wanted, self._known, down_to=oldest)
        renewed.runs |= {run.id: run for run in found if run.id in self._known}
        return [run for run in reversed(found) if run.id not in self._known and run.created > oldest]

    def _latest(self) -> Run | None:
        """The run that `latest` or the file means; None where the file names a known one, which costs nothing to
        see."""
        if self._selection.runs:
            return newest_run(self._workspace)
        named = self._selection.latest_run_file
        path = nearest_latest_run_file(self._cwd) if named is None else self._cwd / expand_home(named)
        if read_latest_run_file(path).run_id in self._known:
            return None
        return find_runs(self._workspace, RunSelection(latest_run_file=str(path)), cwd=self._cwd)[0]

    def _look_below(self, parents: Iterable[Run], renewed: Renewed, asked: Collection[str] = ()) -> None:
        """New children of those of *parents* that may have some, theirs too, and the states of the children *asked*
        for."""
        above = [parent for parent in parents if parent.id in self._parents]
        wanted: dict[str | None, list[Run]] = defaultdict(list)
        for run_id in asked:
            wanted[self._known[run_id].parent].append(self._known[run_id])
        answers = several(lambda parent: self._below(parent, wanted.get(parent.id, ())), above)
        new: list[Run] = []
        for parent, (found, states) in zip(above, answers, strict=True):
            renewed.runs |= states.runs
            renewed.gone |= states.gone
            new += [run for run in found if not run.id.endswith(PREPARATION) and run.id not in self._known]
            if parent.status.is_final:  # asked for before its children were
                self._parents.discard(parent.id)
        self._known |= {run.id: run for run in new}
        renewed.runs |= {run.id: run for run in new}
        self._parents |= {run.id for run in new if MANY in run.tags}
        if new:
            self._look_below(new, renewed)

    def _below(self, parent: Run, wanted: Collection[Run]) -> tuple[list[Run], Renewed]:
        states = Renewed()
        return self._states.look_below(parent, wanted, self._known, states), states
