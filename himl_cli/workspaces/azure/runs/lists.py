"""The conditions of a query in the languages of the service, and checked here.

The run history takes OData-like text. What is not sure to survive in it (quotes, other scripts, odd names of tags) is
left out there, and every run that comes is checked here once more: a condition may cost a page, never a wrong run.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.runs import Run, RunQuery, implied_experiment
from himl_cli.core.sweeps import HYPERPARAMETERS, TRIAL
from himl_cli.core.text import near_matches
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.responses import pages, understood
from himl_cli.workspaces.azure.runs.history import PAGE, Experiments, RunHistory
from himl_cli.workspaces.azure.runs.records import (
    SYSTEM_TAG,
    RawRun,
    as_run,
    history_condition,
    is_sweep,
    number_of,
    states_of,
)

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.:/@+=, -]*")


def fulfils(run: Run, query: RunQuery) -> bool:
    """Whether *run* meets the conditions of *query*, its limit aside."""
    return (
        (query.experiment is None or run.experiment.lower() == query.experiment.lower())
        and (not query.statuses or run.status in query.statuses)
        and all(run.tags.get(name) == value for name, value in query.tags.items())
        and run.parent == query.parent
    )


def is_plain(query: RunQuery) -> bool:
    """Whether the service can check all conditions on tags itself."""
    return all(_PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value) for name, value in query.tags.items())


def history_filter(query: RunQuery) -> str:
    """The conditions for the run history, as far as they can be said; "" for none."""
    said = [] if query.parent else ["ParentRunId eq null"]
    said.append(history_condition(query.statuses))
    said += [f'Tags/{name} eq "{value}"' for name, value in _plain_tags(query)]
    return " and ".join(f"({condition})" for condition in said if condition)


def roots_in_index() -> list[dict[str, Any]]:
    """The filters of the index that give runs of their own that were not archived."""
    return [_equals("type", "runs"), _equals("annotations/archived", "false"), _equals("properties/parentRunId", None)]


def index_conditions(query: RunQuery) -> list[dict[str, Any]]:
    """The conditions for the index of the workspace, as far as they can be said."""
    wanted = [_equals("annotations/status", *states_of(query.statuses))] if query.statuses else []
    return wanted + [_equals(f"annotations/tags/{name}", value) for name, value in _plain_tags(query)]


def is_met_in_index(entity: Mapping[str, Any], query: RunQuery) -> bool:
    """Whether a run, as the index shows it, meets all that `index_conditions` asks for."""
    shown: Mapping[str, Any] = entity.get("annotations") or {}
    tags: Mapping[str, Any] = shown.get("tags") or {}
    is_wanted = not query.statuses or shown.get("status") in states_of(query.statuses)
    return is_wanted and all(tags.get(name) == value for name, value in _plain_tags(query))


def _equals(field: str, *values: str | None) -> dict[str, Any]:
    return {"field": field, "operator": "eq", "values": list(values)}


def _plain_tags(query: RunQuery) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, value in query.tags.items()
        if _PLAIN_NAME.fullmatch(name) and _PLAIN_VALUE.fullmatch(value)
    ]


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
    url = connection.service("index", "/entities")

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
    first = {"api-version": ApiVersion.JOBS, "listViewType": "ActiveOnly"}
    for page in pages(lambda _: connection.rest.get(url, params=first), url, "jobs", follow=connection.rest.get):
        with understood(url, "a job in it"):
            names = [str(job["name"]) for job in page.items]
        yield names


STEP_RUN = "azureml.steprun"
_BOUND = re.compile(r"\$\{\{\s*parent\.jobs\.([^.\s{}]+)\.")


class PipelineSteps:
    """The steps of pipelines, asked for once each: they never change."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._known: dict[str, Mapping[str, Mapping[str, str]]] = {}

    def labelled(self, raw: RawRun, run: Run) -> Run:
        """*run*, of *raw*, with the tags that tell its step; as it is where it is none, or where that is not told."""
        if str(raw.get("runType") or "").lower() != STEP_RUN or not run.parent:
            return run
        return replace(run, tags={**run.tags, **self._tags(run.parent).get(run.display_name, {})})

    def _tags(self, pipeline: str) -> Mapping[str, Mapping[str, str]]:
        """The tags of each step of the *pipeline* by the name under which its run is shown. One request, none within a
        job."""
        if pipeline not in self._known:
            try:
                self._known[pipeline] = {} if self._connection.in_job else self._asked(pipeline)
            except HimlError as err:  # a name is not worth an error
                log.debug("the steps of %s are not known: %s", pipeline, err)
                self._known[pipeline] = {}
        return self._known[pipeline]

    def _asked(self, pipeline: str) -> Mapping[str, Mapping[str, str]]:
        url = self._connection.arm(f"/jobs/{quote(pipeline, safe='')}")
        answer = self._connection.rest.get_object(url, "job", params={"api-version": ApiVersion.JOBS})
        with understood(url, "the pipeline"):
            jobs = answer["properties"].get("jobs") or {}
            keys = {node: _own_key(node, given) for node, given in jobs.items()}
            shown = [given.get("display_name") or node for node, given in jobs.items()]
            tags = {name: _tags_of(keys, node, jobs[node]) for name, node in zip(shown, jobs, strict=True)}
        return {name: tags[name] for name in tags if shown.count(name) == 1}


def _own_key(node: str, given: Mapping[str, Any]) -> str:
    """The step's key: where himl made the node it stands beside, since not every key may be a node's name."""
    return str((given.get("tags") or {}).get(STEP) or node)


def _tags_of(keys: Mapping[str, str], node: str, given: Mapping[str, Any]) -> dict[str, str]:
    after = [keys[other] for other in dict.fromkeys(_waited_for(given)) if other in keys]
    return {STEP: keys[node], **({STEP_AFTER: ",".join(after)} if after else {})}


def _waited_for(given: Mapping[str, Any]) -> Iterator[str]:
    """The nodes whose outputs the node reads."""
    for one in (given.get("inputs") or {}).values():
        text = one.get("value") or one.get("uri") if isinstance(one, Mapping) else one
        yield from _BOUND.findall(str(text or ""))


_JSON = re.compile(r"\s*\{")


class Trials:
    """Completes records of trials by what their sweeps tell, which are asked for where that is needed alone."""

    def __init__(self, history: RunHistory) -> None:
        self._history = history
        self._values: dict[str, str] = {}
        self._others: set[str] = set()  # runs with children that are called like trials, which are no sweeps

    def completed(self, page: Sequence[RawRun]) -> list[RawRun]:
        """The runs of *page*, a trial without values with tags for its values and its number; a request for each sweep
        that has such ones."""
        asked: dict[str, RawRun] = {raw["runId"]: raw for raw in page}
        return [self._with_values(raw, asked) if self._lacks_values(raw) else raw for raw in page]

    def _lacks_values(self, raw: RawRun) -> bool:
        tags = raw.get("tags") or {}
        is_told = HYPERPARAMETERS in tags or SYSTEM_TAG + HYPERPARAMETERS in tags
        return not is_told and bool(number_of(raw)) and raw["parentRunId"] not in self._others

    def _with_values(self, raw: RawRun, asked: dict[str, RawRun]) -> RawRun:
        run_id, parent = str(raw["runId"]), str(raw["parentRunId"])
        if run_id not in self._values:
            sweep = self._sweep(parent, asked)
            if not is_sweep(sweep):
                self._others.add(parent)
                return raw
            tags = sweep.get("tags") or {}
            text = str(tags.get(SYSTEM_TAG + run_id) or tags.get(run_id) or "")
            if not _JSON.match(text):
                return _with_tags(raw, {TRIAL: number_of(raw)})
            self._values[run_id] = text
        return _with_tags(raw, {TRIAL: number_of(raw), HYPERPARAMETERS: self._values[run_id]})

    def _sweep(self, run_id: str, asked: dict[str, RawRun]) -> RawRun:
        if run_id not in asked:
            try:
                asked[run_id] = self._history.get(run_id)
            except ServiceNotFound:
                asked[run_id] = {}
        return asked[run_id]


def _with_tags(raw: RawRun, tags: Mapping[str, Any]) -> RawRun:
    return {**raw, "tags": {**(raw.get("tags") or {}), **tags}}


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
        with understood(self._connection.service("history"), f"run '{raw['runId']}'"):
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
