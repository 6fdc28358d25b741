"""The runs on other machines that were submitted from here, as their machines know them at present."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from himl_cli.core.errors import HimlError, RunNotFound, WorkspaceNotFound
from himl_cli.core.logged import RunResults
from himl_cli.core.runs import Run, RunQuery, run_not_found
from himl_cli.core.sweeps import MANY
from himl_cli.workspaces.remote.address import remote_address
from himl_cli.workspaces.remote.pointers import Pointers, RunPointer
from himl_cli.workspaces.remote.workspace import RemoteWorkspace

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5.0  # in which a machine must answer when runs of several machines are listed
AGAIN_SECONDS = 30.0  # after which a machine that did not is asked again

MLFLOW_ID = re.compile(r"[0-9a-f]{32}")  # of runs that a script starts with plain MLflow

Found = Mapping[str, tuple[Run, RunResults]]


class PointedRuns:
    """The runs of *pointers*, on the machines that the settings for *start* describe. Opening sends nothing."""

    def __init__(self, pointers: Pointers, start: Path) -> None:
        self.pointers = pointers
        self._start = start
        self._homes: dict[str, RemoteWorkspace] = {}  # by place
        self._children: dict[str, str] = {}  # the places of child runs that were listed
        self._failed: dict[str, float] = {}  # places, and when they failed to answer
        self._lock = threading.RLock()

    @property
    def label(self) -> str:
        return " and ".join(self._home(place).label for place in sorted({each.place for each in self.pointers.all()}))

    def _home(self, place: str) -> RemoteWorkspace:
        with self._lock:
            if place not in self._homes:
                address = remote_address(place, self._start)
                assert address is not None, place
                self._homes[place] = RemoteWorkspace(address, self.pointers)
            return self._homes[place]

    def home_of(self, run_id: str) -> RemoteWorkspace | None:
        """The workspace of a run with a pointer, of one of its trials or steps, of a child run that `runs` found, or of
        a run with an id of MLflow, for which it asks each machine with pointers. None for other runs."""
        if MLFLOW_ID.fullmatch(run_id) and run_id not in self._children:
            self._find(run_id)
        if run_id in self._children:
            return self._home(self._children[run_id])
        parts = run_id.split("_")
        for size in range(len(parts), 0, -1):
            if (found := self.pointers.get("_".join(parts[:size]))) is not None:
                return self._home(found.place)
        return None

    def _find(self, run_id: str) -> None:
        """Note the place of a run without a pointer, if a machine with pointers has it and answers in time."""
        places = {each.place for each in self.pointers.all()}

        def ask(place: str) -> bool:
            home = self._home(place)
            try:
                home.connection.call(Run, "run", {"run_id": run_id}, seconds=ANSWER_SECONDS)
            except (RunNotFound, WorkspaceNotFound):
                return False
            except HimlError as err:
                log.warning("himl did not look for run '%s' in %s. %s", run_id, home.label, err)
                return False
            return True

        with ThreadPoolExecutor(len(places) or 1) as pool:
            for place, has_it in zip(places, pool.map(ask, places), strict=True):
                if has_it:
                    self._children[run_id] = place

    def home_labelled(self, label: str) -> RemoteWorkspace | None:
        """The opened workspace with that label."""
        with self._lock:
            return next((each for each in self._homes.values() if each.label == label), None)

    def missing(self, error: RunNotFound) -> RunNotFound:
        """The *error* of the local workspace with the ids of these runs that are like the one that it names."""
        mine = run_not_found(error.run, "", self.pointers.ids())
        similar = [*error.similar, *mine.similar] if mine.abbreviated or not error.abbreviated else error.similar
        abbreviated = [*error.abbreviated, *mine.abbreviated]
        return RunNotFound(error.run, self.label, similar=similar[:4], abbreviated=abbreviated)

    def last_known(self, query: RunQuery) -> Sequence[Run]:
        """The runs of the experiment and the time of *query* as last seen, newest first. Sends nothing."""
        return [
            each.run
            for each in self.pointers.all()
            if query.experiment in (None, each.run.experiment)
            and (query.since is None or each.run.created >= query.since)
        ]

    def children(self, parent: RemoteWorkspace, query: RunQuery) -> Sequence[Run]:
        """The child runs of a run of the workspace *parent*."""
        found = [*parent.runs(query)]
        place = next(place for place, home in self._homes.items() if home is parent)
        self._children |= {run.id: place for run in found}
        return found

    def current(self, page: Sequence[Run], query: RunQuery) -> Sequence[Run]:
        """The *page*, with the present state of those runs that have pointers, if they match *query*. Each machine is
        asked once, all at the same time."""
        pointers = {run.id: pointer for run in page if (pointer := self._pointer(run)) is not None}
        now = self._ask([*pointers.values()])
        found: list[Run] = []
        for run in page:
            if run.id not in pointers:
                found.append(run)
            elif run.id in now and _matches(now[run.id][0], query):
                found.append(now[run.id][0])
                if query.children and MANY in now[run.id][0].tags and not now[run.id][0].is_unknown:
                    below = replace(query, parent=run.id, limit=None, children=False)
                    found += self.children(self._home(pointers[run.id].place), below)
        return found

    def _pointer(self, run: Run) -> RunPointer | None:
        found = self.pointers.get(run.id)
        return found if found is not None and found.run.workspace == run.workspace else None

    def refresh(self, runs: Sequence[Run]) -> Found:
        """As `Workspace.refresh`, of runs with pointers and of child runs. A run whose machine does not answer is as it
        was last seen."""
        pointers = []
        for run in runs:
            home = self.home_labelled(run.workspace)
            place = next((place for place, each in self._homes.items() if each is home), "")
            pointers.append(self._pointer(run) or RunPointer(place, run, time.time()))
        return self._ask(pointers)

    def _ask(self, pointers: Sequence[RunPointer]) -> Found:
        by_place: dict[str, list[RunPointer]] = {}
        for each in pointers:
            by_place.setdefault(each.place, []).append(each)
        if not by_place:
            return {}
        found: dict[str, tuple[Run, RunResults]] = {}
        with ThreadPoolExecutor(len(by_place)) as pool:
            for answer in pool.map(partial(self._ask_place, by_place), by_place):
                found |= answer
        return found

    def _ask_place(self, by_place: Mapping[str, Sequence[RunPointer]], place: str) -> Found:
        pointers = by_place[place]
        home = self._home(place)
        if time.monotonic() - self._failed.get(place, -AGAIN_SECONDS) >= AGAIN_SECONDS:
            try:
                found = home.refresh_within([each.run for each in pointers], ANSWER_SECONDS)
            except HimlError as err:
                if place not in self._failed:
                    text = f"The runs of {home.label} are shown as they were last seen. {err}"
                    log.warning("%s To ask again: himl runs list -w %s", text, place)
                self._failed[place] = time.monotonic()
            else:
                self._note(pointers, found)
                return found
        return {each.run.id: (each.unreachable(home.address.host), RunResults()) for each in pointers}

    def _note(self, pointers: Sequence[RunPointer], found: Found) -> None:
        for each in pointers:
            known = self.pointers.get(each.run.id)
            if known is None:  # a child run, or another process removed it
                continue
            if each.run.id not in found:
                self.pointers.missed(known)
            elif not known.seen or found[each.run.id][0] != known.run or not known.run.status.is_final:
                with suppress(OSError):  # the folder may be read-only
                    self.pointers.put(known.place, found[each.run.id][0], is_seen=True)

    def close(self) -> None:
        for home in self._homes.values():
            home.close()


def _matches(run: Run, query: RunQuery) -> bool:
    return (
        query.archived in (None, run.is_archived)
        and (not query.statuses or run.status in query.statuses)
        and all(run.tags.get(name) == value for name, value in query.tags.items())
    )
