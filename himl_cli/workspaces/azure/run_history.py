"""The run history: one run, pages of an experiment's runs, the children of a run, and its cancellation. Lists of the
whole workspace come from the index. A query's conditions exist in both services' languages.

The run history accepts OData-like text. himl omits conditions that may not survive in it (quotes, other scripts, odd
tag names), and checks every run again. So a condition may cost a page, but never returns a wrong run.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from itertools import chain, islice, repeat
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import STEP, STEP_AFTER
from himl_cli.core.processes import register_after_fork
from himl_cli.core.redaction import mask_document
from himl_cli.core.runs import NOTE, Run, RunQuery, RunStatus, end_of_trials, implied_experiment, later_starts
from himl_cli.core.sweeps import HYPERPARAMETERS, TRIAL, TRIALS
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import Page, as_time, object_of, pages, understood, unexpected
from himl_cli.workspaces.azure.run_records import (
    LOCAL_TARGET,
    SYSTEM_TAG,
    RawRun,
    RunFacts,
    RunWriting,
    as_run,
    created_of,
    history_condition,
    is_sweep,
    number_of,
    starts_jobs,
    states_of,
    status_of,
)
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.retry import is_transient

log = logging.getLogger(__name__)

RUNS_PAGE = 500  # runs per page of a full list, as in the vendor's SDK
BATCH = 100
NEWEST_FIRST = "CreatedUtc desc"
# The vendor's SDK uses only the second order, in which a run without a start has no place.
ORDERS = (NEWEST_FIRST, "StartTimeUtc desc", "")
SIFTED = 100  # runs per page when himl checks the conditions
LOOKED_THROUGH = 100  # newest runs to search for similar ids
LARGEST_PAGE = 100  # the index's limit
_BY_ITSELF = (RunStatus.completed, RunStatus.failed)

# Fetches a page by a filter, an order (both may be empty), a continuation token and a size.
Asks = Callable[[str, str, str | None, int], Any]


def can_be_name(name: str) -> bool:
    """Return whether *name* is valid as one part of an address. Others would lead elsewhere, so himl sends none."""
    return bool(name.strip(".")) and name.isprintable() and "/" not in name and "\\" not in name


def can_be_id(run_id: str) -> bool:
    return len(run_id) <= 256 and can_be_name(run_id)


class RunHistory:
    """The service that records runs. Returns raw runs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._facts: OrderedDict[str, RunFacts] = OrderedDict()
        self._orders: Sequence[str] = ORDERS
        self._lock = threading.Lock()
        register_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def get(self, run_id: str) -> RawRun:
        url = self._url(run_id)
        return self._seen(self._connection.get(url).object("run"), url)

    def facts(self, run_id: str) -> RunFacts:
        """The constant facts of the run, without a request for a known one. Raises ServiceNotFound."""
        return self._facts.get(run_id) or _facts_of(self.get(run_id))  # `get` has checked its form

    def data(self, run_id: str) -> tuple[RawRun, Mapping[str, Any]]:
        """The run with its outputs, which `get` omits, and the definition of its job, or an empty one. Raises
        ServiceNotFound."""
        url = self._connection.service("history", "/rundata")
        parts = ("selectRunMetadata", "selectRunDefinition", "selectJobSpecification")
        answer = self._connection.post(url, json={"runId": run_id, **dict.fromkeys(parts, True)}).object("run")
        if "runMetadata" in answer and not answer["runMetadata"]:
            raise ServiceNotFound(f"The run history has no data of run '{run_id}'.")
        definition = object_of(answer.get("runDefinition") or {}, url, "definition of a job")
        return self._seen(object_of(answer.get("runMetadata"), url, "run"), url), definition

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> RawRun:
        """Set *tags*, remove those that are None, and leave others. The run must exist, because a patch would create
        it."""
        new = mask_document({name: value for name, value in tags.items() if value is not None})
        if len(new) == len(tags):
            return self._patch(run_id, {"tags": new, **({"description": new[NOTE]} if NOTE in new else {})})
        url = self._url(run_id, "/tags")
        reply = self._connection.request("DELETE", url, json=[name for name in tags if name not in new])
        return self._patch(run_id, {"tags": new}) if new else self._seen(reply.object("run"), url)

    def rename(self, run_id: str, display_name: str) -> RawRun:
        """Change the display name. As for `tag`, the run must exist."""
        return self._patch(run_id, mask_document({"displayName": display_name}))

    def archive(self, run_id: str, *, restore: bool = False) -> RawRun:
        """Archive the run, as Studio and azure-ai-ml do, or restore it. As for `tag`, it must exist."""
        return self._patch(run_id, {"hidden": not restore})

    def _patch(self, run_id: str, change: Mapping[str, Any]) -> RawRun:
        url = self._url(run_id)
        return self._seen(self._connection.patch(url, json={"runId": run_id, **change}).object("run"), url)

    def of_experiment(self, experiment: str, *, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages of the experiment's runs, newest first, with *top* runs on the first page and more on later ones.

        No page for an unknown experiment.
        """
        if not can_be_name(experiment):
            return
        url = self._connection.service("history", f"/experiments/{quote(experiment, safe='')}/runs:query")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            body = {"filter": filter or None, "orderby": order or None, "top": top, "continuationToken": token}
            return self._connection.post(url, json=body).body

        yield from self._newest_first(ask, url, filter, top)

    def children(self, run_id: str, *, filter: str = "", top: int = RUNS_PAGE) -> Iterator[Sequence[RawRun]]:
        """Pages of the run's children, as in `of_experiment`. No page for an unknown run."""
        if not can_be_id(run_id):
            return
        url = self._url(run_id, "/children")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            query = {"$orderby": order, "$top": str(top), "$filter": filter, "$continuationtoken": token}
            return self._connection.get(url, params={name: value for name, value in query.items() if value}).body

        yield from self._newest_first(ask, url, filter, top)

    def _newest_first(self, ask: Asks, url: str, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages in the first of ORDERS that the service accepts, which later calls try first."""
        for order in self._orders:
            found = self._in_order(ask, url, filter, order, top)
            try:
                first = next(found, None)
            except ServiceRefused as err:
                if err.status != 400 or order == ORDERS[-1]:
                    raise
                log.debug("the run history may reject the order '%s': %s", order, err)
                continue
            self._orders = ORDERS[ORDERS.index(order) :]
            yield from () if first is None else chain([first], found)
            return

    def _in_order(self, ask: Asks, url: str, filter: str, order: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages of runs, newest first. Without an *order*, reads all runs at once and sorts each page."""
        if order == NEWEST_FIRST:
            yield from self._pages(ask, url, filter, order, top)
            return
        unsorted = " and ".join(one for one in (filter, order and "(StartTimeUtc eq null)") if one)
        others = _sorted(chain.from_iterable(self._pages(ask, url, unsorted, "", RUNS_PAGE)))
        for page in self._pages(ask, url, filter, order, top) if order else ():
            runs = _sorted(raw for raw in page if raw.get("startTimeUtc"))
            if runs:
                newer = [raw for raw in others if created_of(raw) > created_of(runs[-1])]
                others = others[len(newer) :]
                yield _sorted([*runs, *newer])
        yield others

    def _pages(self, ask: Asks, url: str, filter: str, order: str, top: int) -> Iterator[Sequence[RawRun]]:
        # Growing pages need few requests for a reader of everything, and few runs for one of the first page.
        sizes = chain((min(RUNS_PAGE, top * 4**number) for number in range(5)), repeat(RUNS_PAGE))
        found = pages(
            lambda token: ask(filter, order, token, next(sizes)),
            url,
            "runs",
            follow=lambda link: self._connection.get(link).body,
        )
        try:
            first = [*islice(found, 1)]
        except ServiceNotFound:
            return
        for page in chain(first, found):
            yield [self._seen(raw, url) for raw in page.items]

    def many(self, run_ids: Sequence[str]) -> list[RawRun]:
        """The runs of these ids, in that order, without deleted ones. Sends one request per hundred runs, and one for
        each missing run."""
        found: dict[str, RawRun] = {}
        url = self._connection.service("history", "/batchrundata")
        for start in range(0, len(run_ids), BATCH):
            requests = {
                run_id: {"runId": run_id, "selectRunMetadata": True} for run_id in run_ids[start : start + BATCH]
            }
            try:
                answer = self._connection.post(url, json={"requests": requests}).object("runs")
            except (ServiceNotFound, ServiceRefused) as err:  # a service without this route, or with a lower limit
                if err.status not in (400, 404):
                    raise
                continue
            with understood(url, "its list of runs"):
                for run_id, result in (answer["successfulResults"] or {}).items():
                    if result.get("runMetadata"):
                        found[run_id] = self._seen(result["runMetadata"], url)

        def single(run_id: str) -> RawRun | None:
            try:
                return self.get(run_id)
            except ServiceNotFound:
                return None

        missing = [run_id for run_id in run_ids if run_id not in found]
        found |= {raw["runId"]: raw for raw in ask_all(single, missing) if raw is not None}
        return [found[run_id] for run_id in run_ids if run_id in found]

    def cancel(self, run_id: str) -> bool:
        """Request the cancellation of a run in progress, without waiting for it. Returns False if it has ended by now.

        Resource manager cancels jobs of every kind. The run history cancels runs that it does not have or refuses (such
        as a run logged from elsewhere), and any run inside a job, which has no access to resource manager.

        Raises HimlError for a run whose command has ended, because the service does not cancel its last phase.
        """
        path = f"{quote(run_id, safe='')}/cancel"
        if not self._connection.in_job:
            try:
                reply = self._connection.request(
                    "POST", self._connection.arm(f"/jobs/{path}"), params={"api-version": ApiVersion.JOBS}
                )
            except (ServiceNotFound, ServiceRefused) as err:
                if is_transient(err.status):  # a failure of the service, not of the run
                    raise
            else:
                return reply.status == 202 or status_of(self.get(run_id).get("status") or "") not in _BY_ITSELF
        raw = self.get(run_id)
        if (is_stopped := _is_stopped(raw)) is not None:
            return is_stopped
        url = self._connection.service("history", f"/experimentids/{quote(raw['experimentId'], safe='')}/runs/{path}")
        try:
            self._connection.request("POST", url)
        except ServiceRefused as err:
            if is_transient(err.status) or (is_stopped := _is_stopped(self.get(run_id))) is None:
                raise
            return is_stopped
        return True

    def _url(self, run_id: str, below: str = "") -> str:
        return self._connection.service("history", f"/runs/{quote(run_id, safe='')}{below}")

    def _seen(self, raw: RawRun, url: str) -> RawRun:
        """Raise ServiceFailed unless *raw*, a response of *url*, has the fields of every run."""
        with understood(url, "a run in it"):
            facts = _facts_of(raw)
        with self._lock:
            self._facts[facts.id] = facts
            while len(self._facts) > 2000:
                self._facts.popitem(last=False)
        return raw


def _sorted(runs: Iterable[RawRun]) -> list[RawRun]:
    return sorted(runs, key=created_of, reverse=True)


def _facts_of(raw: RawRun) -> RunFacts:
    """The constant facts of *raw*. Raises KeyError or TypeError for a missing or invalid field."""
    container_id = raw.get("dataContainerId") or f"dcid.{raw['runId']}"
    starts = later_starts(raw.get("tags") or {})
    facts = RunFacts(
        raw["runId"], container_id, raw["experimentId"], starts_jobs(raw), starts, raw.get("target") == LOCAL_TARGET
    )
    texts = (raw.get(name) or "" for name in ("parentRunId", "status", "createdUtc"))
    "".join((facts.id, facts.experiment_id, container_id, *texts))
    for name in ("tags", "properties", "runTypeV2"):
        {**(raw.get(name) or {})}
    return facts


def experiment_name(connection: Connection, experiment_id: str) -> str:
    """The experiment's name, with one request unless it is cached, or its id if the experiment was deleted."""
    key = connection.key(experiment_id.lower())
    known = connection.kept.get("experiments", key)
    if isinstance(known, str):
        return known
    url = connection.service("history", f"/experimentids/{quote(experiment_id, safe='')}")
    try:
        name = connection.get(url).object("experiment").get("name")
    except ServiceNotFound:
        return experiment_id  # its runs still exist
    if not isinstance(name, str) or not name:
        raise unexpected(url, "it has no experiment")
    connection.kept.put("experiments", key, name)
    return name


def _is_stopped(raw: RawRun) -> bool | None:
    """Return whether the run was canceled or a request for it is pending (True) or it ended (False), or None while it
    continues. Raises HimlError if it cannot be canceled."""
    state = str(raw.get("status") or "")
    if state.lower() == "finalizing":
        raise HimlError(
            f"Azure ML no longer cancels run '{raw['runId']}': its command has ended, and it is {state}.",
            hint=f"Wait for its end. To see its status: himl runs show {raw['runId']}",
        )
    if state.lower() == "cancelrequested":
        return True
    return status_of(state) not in _BY_ITSELF if status_of(state).is_final else None


def fulfils(run: Run, query: RunQuery) -> bool:
    return (
        (query.experiment is None or run.experiment.lower() == query.experiment.lower())
        and (not query.statuses or run.status in query.statuses)
        and all(run.tags.get(name) == value for name, value in query.tags.items())
        and (query.children or run.parent == query.parent)
        and (query.since is None or run.created >= query.since)
    )


def plain_tags(query: RunQuery) -> dict[str, str]:
    """The conditions on tags that the service itself can check.

    A tag without a value may be null there, which equals no text.
    """
    return {
        name: value
        for name, value in query.tags.items()
        if re.fullmatch(r"[A-Za-z0-9_.-]+", name) and re.fullmatch(r"[A-Za-z0-9_.:/@+=, -]+", value)
    }


def history_filter(query: RunQuery) -> str:
    """The conditions for the run history, as far as its language allows, or ""."""
    is_any = query.parent or query.children
    conditions = ["" if is_any else "ParentRunId eq null", history_condition(query.statuses)]
    conditions += [f'Tags/{name} eq "{value}"' for name, value in plain_tags(query).items()]
    return " and ".join(f"({condition})" for condition in conditions if condition)


def index_conditions(query: RunQuery) -> list[dict[str, Any]]:
    wanted = [_equals("annotations/status", *states_of(query.statuses))] if query.statuses else []
    return wanted + [_equals(f"annotations/tags/{name}", value) for name, value in plain_tags(query).items()]


def _equals(field: str, *values: str | None) -> dict[str, Any]:
    return {"field": field, "operator": "eq", "values": list(values)}


# The index's filters for runs that are not child runs.
ROOTS_IN_INDEX = [_equals("type", "runs"), _equals("properties/parentRunId", None)]


def newest_ids(connection: Connection, query: RunQuery, *, top: int) -> Iterator[Sequence[str]]:
    """Pages of ids of runs without a parent that may match *query*, newest first, some of them twice. The caller must
    check them."""
    conditions = index_conditions(query)
    shown = [] if query.archived is None else [_equals("annotations/archived", str(query.archived).lower())]
    everything = _of_index(connection, shown, LARGEST_PAGE if conditions else top)
    newest: Page | None = None
    try:
        newest = next(everything)
    except (ServiceNotFound, ServiceRefused) as err:
        if connection.in_job or is_transient(err.status):
            raise
        log.debug("unexpected response of the index, listing jobs instead: %s", err)
    if newest is None or not (newest.items or newest.has_more or connection.in_job):
        url = connection.arm("/jobs")
        view = {False: "ActiveOnly", True: "ArchivedOnly", None: "All"}[query.archived]
        first = {"api-version": ApiVersion.JOBS, "listViewType": view}
        for page in connection.pages(url, "jobs", first):
            with understood(url, "a job in it"):
                yield [str(job["name"]) for job in page.items]
        return
    yield _ids(newest.items)
    is_long = conditions and newest.has_more
    picked = _picked(connection, [*shown, *conditions], newest, query) if is_long else None
    yield from (_ids(page.items) for page in picked or everything)


def _picked(
    connection: Connection, conditions: Sequence[dict[str, Any]], newest: Page, query: RunQuery
) -> Iterator[Page] | None:
    """Pages of the runs that match *conditions* in the index, or None if it refuses them, or returns no run although a
    list without them had matches."""
    picked = _of_index(connection, conditions, LARGEST_PAGE)
    try:
        first = next(picked)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        log.debug("the index refuses conditions, checking all runs instead: %s", err)
        return None
    states, tags = states_of(query.statuses), plain_tags(query).items()
    expected = {
        run["properties"]["runId"]
        for run in newest.items
        if (not states or (run.get("annotations") or {}).get("status") in states)
        and tags <= ((run.get("annotations") or {}).get("tags") or {}).items()
    }
    if expected and expected.isdisjoint(_ids(first.items)):
        log.debug("the index ignores conditions, checking all runs instead")
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
        return connection.post(url, json=body | ({way: behind, "pageSize": LARGEST_PAGE} if behind else {})).body

    for page in pages(ask, url, "runs"):
        with understood(url, "a run in it"):
            "".join(_ids(page.items))  # raises TypeError if an id is not text
            for run in page.items:
                ((run.get("annotations") or {}).get("tags") or {}).keys()
        yield page


def _ids(runs: Iterable[Mapping[str, Any]]) -> list[str]:
    return [run["properties"]["runId"] for run in runs]


def step_tags(connection: Connection, pipeline: str) -> dict[str, dict[str, str]]:
    """The tags of each step of the *pipeline*, by the display name of its run. One request."""
    url = connection.arm(f"/jobs/{quote(pipeline, safe='')}")
    answer = connection.get(url, params={"api-version": ApiVersion.JOBS}).object("job")
    tags: dict[str, dict[str, str]] = {}
    with understood(url, "the pipeline"):
        jobs = answer["properties"].get("jobs") or {}
        # A step's key is next to a node name from himl, because not every key is valid as one.
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
    """Runs by their conditions, newest first. Requests each page when it is needed. Archived runs are omitted, as in
    Studio, or listed alone on request."""

    def __init__(self, connection: Connection, history: RunHistory) -> None:
        self._connection = connection
        self._history = history
        self._experiment = cache(partial(experiment_name, connection))  # one request each
        self._steps: dict[str, dict[str, dict[str, str]]] = {}  # constant tags by name, by pipeline
        self._values: dict[str, str] = {}  # of trials
        self._others: set[str] = set()  # runs with children named like trials that are not sweeps

    def record(self, raw: RawRun, page: dict[str, RawRun] | None = None) -> Run:
        """The run as himl's record. Sends a request for an unknown experiment name or a trial's unknown values. *page*
        has runs of the same response by id, and receives those that it requests."""
        raw = self._with_values(raw, {raw["runId"]: raw} if page is None else page)
        name = self._experiment(raw["experimentId"])
        tenant_id = self._connection.record().tenant_id
        with understood(self._connection.service("history"), f"run '{raw['runId']}'"):
            run = as_run(raw, experiment=name, address=self._connection.address, tenant_id=tenant_id)
        is_open_sweep = run.tags.get(TRIALS, "").isdecimal() and not run.status.is_final
        return self._with_end(run) if is_open_sweep else run

    def runs(self, query: RunQuery) -> Iterator[Run]:
        left = query.limit
        if left is not None and left < 1:
            return
        passed: set[str] = set()  # a new run can push another one onto the next page
        for page in self._pages(query):
            wanted = [raw for raw in page if query.archived in (None, bool(raw.get("hidden")))]
            if query.since is not None and page and all(created_of(raw) < query.since for raw in page):
                return
            shown = {raw["runId"]: raw for raw in wanted if raw["runId"] not in passed}
            passed.update(shown)
            ask_all(self._experiment, [*{raw["experimentId"] for raw in shown.values()}])
            for raw in [*shown.values()]:
                run = self._with_step(raw, self.record(raw, shown))
                if not fulfils(run, query):
                    continue
                yield run
                left = None if left is None else left - 1
                if left == 0:
                    return

    def newest_ids(self, run_id: str) -> Sequence[str]:
        """The newest runs of the experiment in the id, then of the workspace, without the id itself, or none after an
        error.

        Sends two requests, and a third if the index fails and himl lists the jobs.
        """
        experiment, found = implied_experiment(run_id), list[str]()
        try:
            if experiment is not None:
                page = next(self._history.of_experiment(experiment, filter="", top=LOOKED_THROUGH), [])
                found = [raw["runId"] for raw in page]
            found += next(newest_ids(self._connection, RunQuery(), top=LOOKED_THROUGH), [])
        except HimlError:
            return []  # a hint is not worth another error
        return [*dict.fromkeys(one for one in found if one != run_id)]

    def _with_end(self, run: Run) -> Run:
        """End a sweep that no process manages once its trials have ended. The first reader to see this records it."""
        trials = list(chain.from_iterable(self._history.children(run.id)))
        statuses = [status_of(raw.get("status") or "") for raw in trials]
        if len(trials) < int(run.tags[TRIALS]) or not all(status.is_final for status in statuses):
            return run
        end = end_of_trials(statuses, len(trials))
        with suppress(HimlError):  # a reader without write access still sees the end
            RunWriting(self._connection).end(run.id, end)
        ended = max((as_time(raw.get("endTimeUtc")) or run.created for raw in trials), default=run.created)
        return replace(run, status=end.status, reason=end.reason, ended=ended)

    def _with_step(self, raw: RawRun, run: Run) -> Run:
        if str(raw.get("runType") or "").lower() != "azureml.steprun" or not run.parent:
            return run
        if run.parent not in self._steps:
            self._steps[run.parent] = {}
            try:
                if not self._connection.in_job:
                    self._steps[run.parent] = step_tags(self._connection, run.parent)
            except HimlError as err:  # a name is not worth an error
                log.debug("cannot read the steps of %s: %s", run.parent, err)
        return replace(run, tags={**run.tags, **self._steps[run.parent].get(run.display_name, {})})

    def _with_values(self, raw: RawRun, known: dict[str, RawRun]) -> RawRun:
        """A trial without values, with tags for its values and number from its sweep, which is one of *known* or
        requested and added there."""
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
        top = RUNS_PAGE
        if query.limit is not None:
            is_plain = len(plain_tags(query)) == len(query.tags)
            # Requests a few beyond the limit, so that archived runs among the newest do not cost a second page.
            top = min(RUNS_PAGE, max(query.limit + 5, 0 if is_plain else SIFTED))
        if query.parent is None and query.experiment is None:
            passed: set[str] = set()
            found = newest_ids(self._connection, query, top=top)
            page = next(found, None)
            while page is not None:
                new = [run_id for run_id in page if run_id not in passed]
                asks: list[Callable[[], Any]] = [partial(self._history.many, new)]
                passed.update(page)
                if query.limit is None or len(passed) < query.limit:  # which requests the next ids at the same time
                    asks.append(partial(next, found, None))
                runs, *following = ask_all(lambda ask: ask(), asks)
                yield runs
                page = following[0] if following else next(found, None)
            return

        def filtered(filter: str, top: int) -> Iterator[Sequence[RawRun]]:
            if query.parent is not None:
                return self._history.children(query.parent, filter=filter, top=top)
            return self._history.of_experiment(query.experiment or "", filter=filter, top=top)

        full, simple = history_filter(query), history_filter(RunQuery(parent=query.parent, children=query.children))
        try:
            yield from filtered(full, top)
        except ServiceRefused as err:
            if err.status != 400 or full == simple:
                raise
            log.debug("the run history rejects a filter, checking all runs instead: %s", err)
            yield from filtered(simple, SIFTED)
