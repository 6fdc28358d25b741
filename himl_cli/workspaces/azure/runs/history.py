"""The run history: one run, the runs of an experiment in pages, the children of a run."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import chain, repeat
from typing import Any
from urllib.parse import quote

from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import as_time, object_of, pages, understood, unexpected
from himl_cli.workspaces.azure.runs.records import RawRun, starts_jobs
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

PAGE = 500
"""Runs on a page where all are wanted; what the vendor's SDK asks for."""
GROWTH = 4
"""How much larger each page is than the one before: few requests for whoever reads on, few runs for whoever does
not."""
BATCH = 100
LONGEST_ID = 256
REMEMBERED = 2000
NEWEST_FIRST = "CreatedUtc desc"
LONG_AGO = datetime.fromtimestamp(0, timezone.utc)
ORDERS = (NEWEST_FIRST, "StartTimeUtc desc", "")
"""The vendor's SDK orders runs by the second only, and a run without a start has no place in it."""

log = logging.getLogger(__name__)

Asks = Callable[[str, str, str | None, int], Any]
"""Asks for a page by a filter, an order (both may be empty), a continuation token and a size."""


def can_be_name(name: str) -> bool:
    """Whether *name* can stand as one part of an address; others would lead elsewhere, and are not asked for."""
    return bool(name.strip(".")) and name.isprintable() and "/" not in name and "\\" not in name


def can_be_id(run_id: str) -> bool:
    """Whether the service could have a run of this id."""
    return len(run_id) <= LONGEST_ID and can_be_name(run_id)


@dataclass(frozen=True)
class RunFacts:
    """Of a run, what never changes.

    `container_id` is where its artifacts lie: for a step of a pipeline that reused the results of an earlier one, that
    one's. `starts_jobs`: its children are jobs of their own (a sweep, a pipeline, AutoML), not runs that its script
    nested in it.
    """

    id: str
    container_id: str
    experiment_id: str
    starts_jobs: bool


@dataclass(frozen=True)
class RunData:
    """All that the run history has of a run: its record, here with its outputs, and the definition of its job, empty
    where it has none."""

    id: str
    run: RawRun
    definition: Mapping[str, Any]


class RunHistory:
    """The service that records runs. Gives runs as it tells them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._facts: OrderedDict[str, RunFacts] = OrderedDict()
        self._orders: Sequence[str] = ORDERS
        self._lock = threading.Lock()

    def get(self, run_id: str) -> RawRun:
        """Raises ServiceNotFound."""
        url = self._url(run_id)
        return self._seen(self._connection.rest.get_object(url, "run"), url)

    def facts(self, run_id: str) -> RunFacts:
        """What never changes in the run; no request where it was seen before. Raises ServiceNotFound."""
        return self._facts.get(run_id) or _facts_of(self.get(run_id))  # `get` has seen to its form

    def data(self, run_id: str) -> RunData:
        """The run with its outputs and its definition, which `get` leaves out. Raises ServiceNotFound."""
        wanted = {
            "runId": run_id,
            "selectRunMetadata": True,
            "selectRunDefinition": True,
            "selectJobSpecification": True,
        }
        url = self._connection.service("history", "/rundata")
        answer = self._connection.rest.post_object(url, "run", json=wanted)
        if "runMetadata" in answer and not answer["runMetadata"]:
            raise ServiceNotFound(f"The run history has no data of run '{run_id}'.")
        definition = object_of(answer.get("runDefinition") or {}, url, "definition of a job")
        return RunData(run_id, self._seen(object_of(answer.get("runMetadata"), url, "run"), url), definition)

    def tag(self, run_id: str, tags: dict[str, str]) -> RawRun:
        """Set *tags*, and leave others. The run must exist: a patch of one that does not would make it."""
        url = self._url(run_id)
        return self._seen(
            object_of(self._connection.rest.patch(url, json={"runId": run_id, "tags": tags}), url, "run"), url
        )

    def of_experiment(self, experiment: str, *, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages of the experiment's runs, newest first, *top* on the first and more on each that follows.

        No page where there is no such experiment.
        """
        if not can_be_name(experiment):
            return
        url = self._connection.service("history", f"/experiments/{quote(experiment, safe='')}/runs:query")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            said = {"filter": filter or None, "orderby": order or None, "top": top, "continuationToken": token}
            return self._connection.rest.post(url, json=said)

        yield from self._newest_first(ask, url, filter, top)

    def children(self, run_id: str, *, filter: str = "", top: int = PAGE) -> Iterator[Sequence[RawRun]]:
        """Pages of the run's children, as of_experiment gives them. No page where there is no such run."""
        if not can_be_id(run_id):
            return
        url = self._url(run_id, "/children")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            said = {"$orderby": order, "$top": str(top), "$filter": filter, "$continuationtoken": token}
            return self._connection.rest.get(url, params={name: value for name, value in said.items() if value})

        yield from self._newest_first(ask, url, filter, top)

    def _newest_first(self, ask: Asks, url: str, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages in the first of ORDERS that the service takes, which is then asked for first."""
        for order in self._orders:
            found = self._in_order(ask, url, filter, order, top)
            try:
                first = next(found, None)
            except ServiceRefused as err:
                if err.status != 400 or order == ORDERS[-1]:
                    raise
                log.debug("the run history may not take the order '%s': %s", order, err)
                continue
            self._orders = ORDERS[ORDERS.index(order) :]
            yield from () if first is None else chain([first], found)
            return

    def _in_order(self, ask: Asks, url: str, filter: str, order: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages of runs, newest first. Those that *order* does not sort are read at once, and each page is sorted
        here."""
        if order == NEWEST_FIRST:
            yield from self._pages(ask, url, filter, order, top)
            return
        unsorted = " and ".join(one for one in (filter, order and "(StartTimeUtc eq null)") if one)
        others = _sorted(chain.from_iterable(self._pages(ask, url, unsorted, "", PAGE)))
        for page in self._pages(ask, url, filter, order, top) if order else ():
            runs = _sorted(raw for raw in page if raw.get("startTimeUtc"))
            if runs:
                newer = [raw for raw in others if _created(raw) > _created(runs[-1])]
                others = others[len(newer) :]
                yield _sorted([*runs, *newer])
        yield others

    def _pages(self, ask: Asks, url: str, filter: str, order: str, top: int) -> Iterator[Sequence[RawRun]]:
        sizes = chain((min(PAGE, top * GROWTH**number) for number in range(5)), repeat(PAGE))
        runs = pages(
            lambda token: ask(filter, order, token, next(sizes)), url, "runs", follow=self._connection.rest.get
        )
        try:
            first = next(runs)
        except ServiceNotFound:
            return
        for page in chain([first], runs):
            yield [self._seen(raw, url) for raw in page.items]

    def many(self, run_ids: Sequence[str]) -> list[RawRun]:
        """The runs of these ids, in that order; those that are gone are left out. A request a hundred runs, and one for
        each that did not come."""
        found: dict[str, RawRun] = {}
        for start in range(0, len(run_ids), BATCH):
            found |= self._batch(run_ids[start : start + BATCH])

        def single(run_id: str) -> RawRun | None:
            try:
                return self.get(run_id)
            except ServiceNotFound:
                return None

        missing = [run_id for run_id in run_ids if run_id not in found]
        found |= {raw["runId"]: raw for raw in ask_all(single, missing) if raw is not None}
        return [found[run_id] for run_id in run_ids if run_id in found]

    def _batch(self, run_ids: Sequence[str]) -> dict[str, RawRun]:
        """Those of the runs that come at once."""
        requests = {run_id: {"runId": run_id, "selectRunMetadata": True} for run_id in run_ids}
        url = self._connection.service("history", "/batchrundata")
        try:
            answer = self._connection.rest.post_object(url, "runs", json={"requests": requests})
        except (ServiceNotFound, ServiceRefused) as err:  # a service without this route, or one that takes fewer
            if err.status not in (400, 404):
                raise
            return {}
        with understood(url, "its list of runs"):
            results = {
                run_id: result["runMetadata"]
                for run_id, result in (answer["successfulResults"] or {}).items()
                if result.get("runMetadata")
            }
        return {run_id: self._seen(raw, url) for run_id, raw in results.items()}

    def _url(self, run_id: str, below: str = "") -> str:
        return self._connection.service("history", f"/runs/{quote(run_id, safe='')}{below}")

    def _seen(self, raw: RawRun, url: str) -> RawRun:
        """*raw*, an answer of *url*. Raises ServiceFailed where it does not have what every run has."""
        with understood(url, "a run in it"):
            facts = _facts_of(raw)
        with self._lock:
            self._facts[facts.id] = facts
            while len(self._facts) > REMEMBERED:
                self._facts.popitem(last=False)
        return raw


def _created(raw: RawRun) -> datetime:
    return as_time(str(raw.get("createdUtc") or "")) or LONG_AGO


def _sorted(runs: Iterable[RawRun]) -> list[RawRun]:
    return sorted(runs, key=_created, reverse=True)


def _facts_of(raw: RawRun) -> RunFacts:
    """Raises KeyError or TypeError where one of the fields by which runs are told apart is missing or no text, or none
    of names."""
    container_id = raw.get("dataContainerId") or f"dcid.{raw['runId']}"
    facts = RunFacts(raw["runId"], container_id, raw["experimentId"], starts_jobs(raw))
    "".join((facts.id, facts.experiment_id, container_id, raw.get("parentRunId") or "", raw.get("status") or ""))
    for name in ("tags", "properties", "runTypeV2"):
        {**(raw.get(name) or {})}
    return facts


def experiment_name(connection: Connection, experiment_id: str) -> str:
    """The experiment's name; one request where it is not kept on disk. Its id, where it was deleted since."""
    key = connection.key(experiment_id.lower())
    kept = connection.kept.get("experiments", key)
    if isinstance(kept, str):
        return kept
    url = connection.service("history", f"/experimentids/{quote(experiment_id, safe='')}")
    try:
        name = connection.rest.get_object(url, "experiment").get("name")
    except ServiceNotFound:
        return experiment_id  # its runs are there still
    if not isinstance(name, str) or not name:
        raise unexpected(url, "it holds no experiment")
    connection.kept.put("experiments", key, name, seconds=LONGEST_SECONDS)
    return name
