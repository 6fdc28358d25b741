"""Lists of runs: pages of the index and the run history, with the conditions of a query in their languages.

The run history takes OData-like text. What is not sure to survive in it (quotes, other scripts, odd names of tags) is
left out there, and every run that comes is checked here once more: a condition may cost a page, never a wrong run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import HYPERPARAMETERS, STEP, STEP_AFTER, TRIAL
from himl_cli.core.runs import Run, RunQuery, implied_experiment
from himl_cli.core.text import near_matches
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import Page, pages, understood
from himl_cli.workspaces.azure.run_history import PAGE, RunHistory, experiment_name
from himl_cli.workspaces.azure.run_records import (
    SYSTEM_TAG,
    RawRun,
    as_run,
    history_condition,
    is_sweep,
    number_of,
    states_of,
)
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

SIFTED = 100  # runs on a page where the conditions are checked here
LOOKED_THROUGH = 100  # how many of the newest runs are looked through for similar ids
LARGEST_PAGE = 100  # what the index gives at most

log = logging.getLogger(__name__)


def fulfils(run: Run, query: RunQuery) -> bool:
    return (
        (query.experiment is None or run.experiment.lower() == query.experiment.lower())
        and (not query.statuses or run.status in query.statuses)
        and all(run.tags.get(name) == value for name, value in query.tags.items())
        and run.parent == query.parent
    )


def plain_tags(query: RunQuery) -> dict[str, str]:
    """The conditions on tags that the service can check itself."""
    return {
        name: value
        for name, value in query.tags.items()
        if re.fullmatch(r"[A-Za-z0-9_.-]+", name) and re.fullmatch(r"[A-Za-z0-9_.:/@+=, -]*", value)
    }


def history_filter(query: RunQuery) -> str:
    """The conditions for the run history, as far as they can be said; "" for none."""
    conditions = ["" if query.parent else "ParentRunId eq null", history_condition(query.statuses)]
    conditions += [f'Tags/{name} eq "{value}"' for name, value in plain_tags(query).items()]
    return " and ".join(f"({condition})" for condition in conditions if condition)


def index_conditions(query: RunQuery) -> list[dict[str, Any]]:
    wanted = [_equals("annotations/status", *states_of(query.statuses))] if query.statuses else []
    return wanted + [_equals(f"annotations/tags/{name}", value) for name, value in plain_tags(query).items()]


def _equals(field: str, *values: str | None) -> dict[str, Any]:
    return {"field": field, "operator": "eq", "values": list(values)}


# The filters of the index that give runs of their own that were not archived
ROOTS_IN_INDEX = [
    _equals("type", "runs"),
    _equals("annotations/archived", "false"),
    _equals("properties/parentRunId", None),
]


def newest_ids(connection: Connection, query: RunQuery, *, top: int) -> Iterator[Sequence[str]]:
    """Pages of ids of runs without a parent that may meet *query*, newest first, some twice; those that do not have to
    be sorted out."""
    conditions = index_conditions(query)
    everything = _of_index(connection, [], LARGEST_PAGE if conditions else top)
    newest: Page | None = None
    try:
        newest = next(everything)
    except (ServiceNotFound, ServiceRefused) as err:
        if connection.in_job or err.status >= 500 or err.status == 429:
            raise
        log.debug("the index does not answer as expected, listing jobs instead: %s", err)
    if newest is None or not (newest.items or newest.has_more or connection.in_job):
        url = connection.arm("/jobs")
        first = {"api-version": ApiVersion.JOBS, "listViewType": "ActiveOnly"}
        for page in pages(lambda _: connection.rest.get(url, params=first), url, "jobs", follow=connection.rest.get):
            with understood(url, "a job in it"):
                yield [str(job["name"]) for job in page.items]
        return
    yield _ids(newest.items)
    picked = _picked(connection, conditions, newest, query) if conditions and newest.has_more else None
    yield from (_ids(page.items) for page in picked or everything)


def _picked(
    connection: Connection, conditions: Sequence[dict[str, Any]], newest: Page, query: RunQuery
) -> Iterator[Page] | None:
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
    states, tags = states_of(query.statuses), plain_tags(query).items()
    expected = {
        run["properties"]["runId"]
        for run in newest.items
        if (not states or (run.get("annotations") or {}).get("status") in states)
        and tags <= ((run.get("annotations") or {}).get("tags") or {}).items()
    }
    if expected and expected.isdisjoint(_ids(first.items)):
        log.debug("the index does not know conditions, looking at all runs instead")
        return None
    return chain([first], picked)


def _of_index(connection: Connection, conditions: Sequence[dict[str, Any]], top: int) -> Iterator[Page]:
    body: dict[str, Any] = {
        "filters": [*ROOTS_IN_INDEX, *conditions],
        "order": [{"field": "properties/creationContext/createdTime", "direction": "Desc"}],
        "freeTextSearch": "",
        "pageSize": min(top, LARGEST_PAGE),
        "includeTotalResultCount": False,
        "searchBuilder": "AppendPrefix",
        "continuationToken": None,
    }
    url = connection.service("index", "/entities")

    def ask(behind: str | int | None) -> Any:
        way = "skip" if isinstance(behind, int) else "continuationToken"
        return connection.rest.post(url, json=body | ({way: behind, "pageSize": LARGEST_PAGE} if behind else {}))

    for page in pages(ask, url, "runs"):
        with understood(url, "a run in it"):
            "".join(_ids(page.items))  # raises TypeError for what is no text
            for run in page.items:
                ((run.get("annotations") or {}).get("tags") or {}).keys()
        yield page


def _ids(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [run["properties"]["runId"] for run in runs]


def step_tags(connection: Connection, pipeline: str) -> dict[str, dict[str, str]]:
    """The tags of each step of the *pipeline* by the name under which its run is shown. One request."""
    url = connection.arm(f"/jobs/{quote(pipeline, safe='')}")
    answer = connection.rest.get_object(url, "job", params={"api-version": ApiVersion.JOBS})
    tags: dict[str, dict[str, str]] = {}
    with understood(url, "the pipeline"):
        jobs = answer["properties"].get("jobs") or {}
        # The key of a step stands beside a node that himl made, since not every key may be a node's name
        keys = {node: str((given.get("tags") or {}).get(STEP) or node) for node, given in jobs.items()}
        shown = [given.get("display_name") or node for node, given in jobs.items()]
        for name, (node, given) in zip(shown, jobs.items(), strict=True):
            inputs = (given.get("inputs") or {}).values()
            texts = [one.get("value") or one.get("uri") if isinstance(one, Mapping) else one for one in inputs]
            words = "\n".join(str(text or "") for text in texts)
            bound = dict.fromkeys(re.findall(r"\$\{\{\s*parent\.jobs\.([^.\s{}]+)\.", words))
            after = ",".join(keys[other] for other in bound if other in keys)
            tags[name] = {STEP: keys[node], **({STEP_AFTER: after} if after else {})}
    return {name: tags[name] for name in tags if shown.count(name) == 1}


class RunLists:
    """Runs by their conditions, newest first, a page at a time as they are consumed; archived ones are left out, as in
    Studio."""

    def __init__(self, connection: Connection, history: RunHistory) -> None:
        self._connection = connection
        self._history = history
        self._experiments: dict[str, str] = {}  # names by id
        self._steps: dict[str, dict[str, dict[str, str]]] = {}  # tags by name, by pipeline: they never change
        self._values: dict[str, str] = {}  # of trials
        self._others: set[str] = set()  # runs with children that are called like trials, which are no sweeps

    def record(self, raw: RawRun, page: dict[str, RawRun] | None = None) -> Run:
        """The run as himl has it; a request where its experiment's name is not known yet, or a trial's values are
        not. *page* are runs that came with it, by id; those that had to be asked for are added."""
        raw = self._with_values(raw, {raw["runId"]: raw} if page is None else page)
        name = self._experiment(raw["experimentId"])
        tenant_id = self._connection.record().tenant_id
        with understood(self._connection.service("history"), f"run '{raw['runId']}'"):
            return as_run(raw, experiment=name, address=self._connection.address, tenant_id=tenant_id)

    def runs(self, query: RunQuery) -> Iterator[Run]:
        left = query.limit
        if left is not None and left < 1:
            return
        passed: set[str] = set()  # a run that is made meanwhile can push another onto the next page
        for page in self._pages(query):
            shown = {raw["runId"]: raw for raw in page if not raw.get("hidden") and raw["runId"] not in passed}
            passed.update(shown)
            ask_all(self._experiment, [*{raw["experimentId"] for raw in shown.values()} - self._experiments.keys()])
            for raw in [*shown.values()]:
                run = self._with_step(raw, self.record(raw, shown))
                if not fulfils(run, query):
                    continue
                yield run
                left = None if left is None else left - 1
                if left == 0:
                    return

    def similar_ids(self, run_id: str) -> list[str]:
        """Ids like this one among the newest of the experiment that it names, else of the workspace; none where they
        cannot be had.

        Two requests; a third in a workspace whose index does not answer, which is looked through by its jobs.
        """
        experiment, found = implied_experiment(run_id), []
        try:
            if experiment is not None:
                page = next(self._history.of_experiment(experiment, filter="", top=LOOKED_THROUGH), [])
                found = near_matches(run_id, [raw["runId"] for raw in page])
            ids = newest_ids(self._connection, RunQuery(), top=LOOKED_THROUGH)
            found = found or near_matches(run_id, next(ids, []))
        except HimlError:
            return []  # a hint is not worth another error
        return [one for one in found if one != run_id]

    def _experiment(self, experiment_id: str) -> str:
        if experiment_id not in self._experiments:
            self._experiments[experiment_id] = experiment_name(self._connection, experiment_id)
        return self._experiments[experiment_id]

    def _with_step(self, raw: RawRun, run: Run) -> Run:
        if str(raw.get("runType") or "").lower() != "azureml.steprun" or not run.parent:
            return run
        if run.parent not in self._steps:
            self._steps[run.parent] = {}
            try:
                if not self._connection.in_job:
                    self._steps[run.parent] = step_tags(self._connection, run.parent)
            except HimlError as err:  # a name is not worth an error
                log.debug("the steps of %s are not known: %s", run.parent, err)
        return replace(run, tags={**run.tags, **self._steps[run.parent].get(run.display_name, {})})

    def _with_values(self, raw: RawRun, known: dict[str, RawRun]) -> RawRun:
        """A trial without values with tags for its values and its number, by what its sweep tells: that is one of
        *known* or asked for, and added there."""
        tags, number = raw.get("tags") or {}, number_of(raw)
        if HYPERPARAMETERS in tags or SYSTEM_TAG + HYPERPARAMETERS in tags or not number:
            return raw
        run_id, parent = str(raw["runId"]), str(raw["parentRunId"])
        if parent in self._others:
            return raw
        if run_id not in self._values:
            if parent not in known:
                try:
                    known[parent] = self._history.get(parent)
                except ServiceNotFound:
                    known[parent] = {}
            if not is_sweep(known[parent]):
                self._others.add(parent)
                return raw
            told = known[parent].get("tags") or {}
            text = str(told.get(SYSTEM_TAG + run_id) or told.get(run_id) or "")
            if not text.lstrip().startswith("{"):
                return {**raw, "tags": {**tags, TRIAL: number}}
            self._values[run_id] = text
        return {**raw, "tags": {**tags, TRIAL: number, HYPERPARAMETERS: self._values[run_id]}}

    def _pages(self, query: RunQuery) -> Iterator[Sequence[RawRun]]:
        top = PAGE
        if query.limit is not None:
            is_plain = len(plain_tags(query)) == len(query.tags)
            # Some are asked for beyond the limit: archived runs among the newest then cost no second page
            top = min(PAGE, max(query.limit + 5, 0 if is_plain else SIFTED))
        if query.parent is None and query.experiment is None:
            passed: set[str] = set()
            for page in newest_ids(self._connection, query, top=top):
                yield self._history.many([run_id for run_id in page if run_id not in passed])
                passed.update(page)
            return

        def filtered(filter: str, top: int) -> Iterator[Sequence[RawRun]]:
            if query.parent is not None:
                return self._history.children(query.parent, filter=filter, top=top)
            return self._history.of_experiment(query.experiment or "", filter=filter, top=top)

        full, simple = history_filter(query), history_filter(RunQuery(parent=query.parent))
        try:
            yield from filtered(full, top)
        except ServiceRefused as err:
            if err.status != 400 or full == simple:
                raise
            log.debug("the run history does not take a filter, looking at all runs instead: %s", err)
            yield from filtered(simple, SIFTED)
