"""Ids of the newest runs of a whole workspace.

The run history can only be asked experiment by experiment. Studio's own lists come from an index of all that lies in
the workspace (`POST /index/v1.0{workspace}/entities`): not documented, but used by the vendor's promptflow and by other
public clients. It follows the run history with some seconds' delay, so only the ids are taken from it, and the records
from the run history. Its conditions on status and tags are not taken on trust either: the newest hundred runs are
always asked for without them, for the caller to pick from their records, and what the conditions give beyond those is
held against that page. A workspace whose index does not answer, or shows no run at all, is read by resource manager's
list of jobs instead: that is documented, but has no filters, no size of a page, and says nothing about its order, which
is newest first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from himl_cli.core.runs import RunQuery
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.places import api_versions
from himl_cli.workspaces.azure.requests.answers import pages, understood
from himl_cli.workspaces.azure.requests.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.runs.conditions import index_conditions, is_met_in_index, roots_in_index

log = logging.getLogger(__name__)

LARGEST_PAGE = 100
"""What the index gives at most."""

Entity = Mapping[str, Any]


class IndexPage(NamedTuple):
    """Runs as the index shows them, and whether there are more behind them."""

    runs: Sequence[Entity]
    has_more: bool

    @property
    def ids(self) -> list[str]:
        return [run["properties"]["runId"] for run in self.runs]


def newest_ids(connection: Connection, query: RunQuery, *, top: int) -> Iterator[Sequence[str]]:
    """Pages of ids of runs without a parent that may meet *query*, newest first, none twice; those that do not have to
    be sorted out."""
    passed: set[str] = set()
    for page in _pages(connection, query, top):
        ids = [run_id for run_id in page if run_id not in passed]
        passed.update(ids)
        yield ids


def _pages(connection: Connection, query: RunQuery, top: int) -> Iterator[Sequence[str]]:
    conditions = index_conditions(query)
    everything = _of_index(connection, [], LARGEST_PAGE if conditions else top)
    try:
        newest = next(everything)
    except (ServiceNotFound, ServiceRefused) as err:
        if connection.in_job or err.status >= 500 or err.status == 429:
            raise
        log.debug("the index does not answer as expected, listing jobs instead: %s", err)
        yield from _of_jobs(connection)
        return
    if not newest.runs and not newest.has_more and not connection.in_job:
        log.debug("the index shows no runs, listing jobs as well")
        yield from _of_jobs(connection)
        return
    yield newest.ids
    picked = _picked(connection, conditions, newest, query) if conditions and newest.has_more else None
    yield from (page.ids for page in picked or everything)


def _picked(
    connection: Connection, conditions: Sequence[dict[str, Any]], newest: IndexPage, query: RunQuery
) -> Iterator[IndexPage] | None:
    """Pages of the runs that the index picks by *conditions*; None where it refuses them, or misses all that it has
    shown to meet them."""
    picked = _of_index(connection, conditions, LARGEST_PAGE)
    try:
        first = next(picked)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        log.debug("the index refuses conditions, looking at all runs instead: %s", err)
        return None
    expected = IndexPage([run for run in newest.runs if is_met_in_index(run, query)], has_more=False).ids
    if expected and set(expected).isdisjoint(first.ids):
        log.debug("the index does not know conditions, looking at all runs instead")
        return None
    return chain([first], picked)


def _of_index(connection: Connection, conditions: Sequence[dict[str, Any]], top: int) -> Iterator[IndexPage]:
    body: dict[str, Any] = {
        "filters": [*roots_in_index(), *conditions],
        "order": [{"field": "properties/creationContext/createdTime", "direction": "Desc"}],
        "freeTextSearch": "",
        "pageSize": min(top, LARGEST_PAGE),
        "includeTotalResultCount": False,
        "searchBuilder": "AppendPrefix",
        "continuationToken": None,
    }
    url = connection.index("/entities")

    def ask(behind: str | int | None) -> Any:
        way = "skip" if isinstance(behind, int) else "continuationToken"
        return connection.rest.post(url, json=body | ({way: behind, "pageSize": LARGEST_PAGE} if behind else {}))

    for page in pages(ask, url, "runs"):
        with understood(url, "a run in it"):
            _check(page.items)
        yield IndexPage(page.items, page.has_more)


def _check(runs: Sequence[Entity]) -> None:
    """Raise where these lack what is used of them."""
    "".join(run["properties"]["runId"] for run in runs)  # raises TypeError for what is no text
    for run in runs:
        shown = run.get("annotations") or {}
        (shown.get("tags") or {}).keys()


def _of_jobs(connection: Connection) -> Iterator[Sequence[str]]:
    url = connection.arm("/jobs")
    first = {"api-version": api_versions.JOBS, "listViewType": "ActiveOnly"}
    for page in pages(lambda _: connection.rest.get(url, params=first), url, "jobs", follow=connection.rest.get):
        with understood(url, "a job in it"):
            names = [str(job["name"]) for job in page.items]
        yield names
