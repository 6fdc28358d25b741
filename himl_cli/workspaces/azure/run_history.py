"""The run history: one run, the runs of an experiment in pages, the children of a run, its outputs, and its stop."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import chain, islice, repeat
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError, NotFound
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import as_time, object_of, pages, understood, unexpected
from himl_cli.workspaces.azure.run_records import RawRun, RunFacts, starts_jobs, status_of
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

PAGE = 500  # runs where all are wanted; what the vendor's SDK asks for
BATCH = 100
NEWEST_FIRST = "CreatedUtc desc"
# The vendor's SDK orders runs by the second only, and a run without a start has no place in it
ORDERS = (NEWEST_FIRST, "StartTimeUtc desc", "")
DEFAULT_OUTPUT = "default"  # the output that the service adds to jobs: their artifacts
MODELS = ("custommodel", "mlflowmodel", "tritonmodel")

_BY_ITSELF = (RunStatus.completed, RunStatus.failed)

log = logging.getLogger(__name__)

# Asks for a page by a filter, an order (both may be empty), a continuation token and a size
OutputUri = tuple[str, bool]  # `azureml://…`, and whether it is that of one file
Asks = Callable[[str, str, str | None, int], Any]


def can_be_name(name: str) -> bool:
    """Whether *name* can stand as one part of an address; others would lead elsewhere, and are not asked for."""
    return bool(name.strip(".")) and name.isprintable() and "/" not in name and "\\" not in name


def can_be_id(run_id: str) -> bool:
    return len(run_id) <= 256 and can_be_name(run_id)


class RunHistory:
    """The service that records runs. Gives runs as it tells them."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._facts: OrderedDict[str, RunFacts] = OrderedDict()
        self._orders: Sequence[str] = ORDERS
        self._lock = threading.Lock()

    def get(self, run_id: str) -> RawRun:
        url = self._url(run_id)
        return self._seen(self._connection.rest.get_object(url, "run"), url)

    def facts(self, run_id: str) -> RunFacts:
        """What never changes in the run; no request where it was seen before. Raises ServiceNotFound."""
        return self._facts.get(run_id) or _facts_of(self.get(run_id))  # `get` has seen to its form

    def data(self, run_id: str) -> tuple[RawRun, Mapping[str, Any]]:
        """The run with its outputs, which `get` leaves out, and the definition of its job, empty where it has none.
        Raises ServiceNotFound."""
        url = self._connection.service("history", "/rundata")
        parts = ("selectRunMetadata", "selectRunDefinition", "selectJobSpecification")
        answer = self._connection.rest.post_object(url, "run", json={"runId": run_id, **dict.fromkeys(parts, True)})
        if "runMetadata" in answer and not answer["runMetadata"]:
            raise ServiceNotFound(f"The run history has no data of run '{run_id}'.")
        definition = object_of(answer.get("runDefinition") or {}, url, "definition of a job")
        return self._seen(object_of(answer.get("runMetadata"), url, "run"), url), definition

    def tag(self, run_id: str, tags: dict[str, str]) -> RawRun:
        """Set *tags*, and leave others. The run must exist: a patch of one that does not would make it."""
        url = self._url(run_id)
        answer = self._connection.rest.patch(url, json={"runId": run_id, "tags": tags})
        return self._seen(object_of(answer, url, "run"), url)

    def of_experiment(self, experiment: str, *, filter: str, top: int) -> Iterator[Sequence[RawRun]]:
        """Pages of the experiment's runs, newest first, *top* on the first and more on each that follows.

        No page where there is no such experiment.
        """
        if not can_be_name(experiment):
            return
        url = self._connection.service("history", f"/experiments/{quote(experiment, safe='')}/runs:query")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            body = {"filter": filter or None, "orderby": order or None, "top": top, "continuationToken": token}
            return self._connection.rest.post(url, json=body)

        yield from self._newest_first(ask, url, filter, top)

    def children(self, run_id: str, *, filter: str = "", top: int = PAGE) -> Iterator[Sequence[RawRun]]:
        """Pages of the run's children, as of_experiment gives them. No page where there is no such run."""
        if not can_be_id(run_id):
            return
        url = self._url(run_id, "/children")

        def ask(filter: str, order: str, token: str | None, top: int) -> Any:
            query = {"$orderby": order, "$top": str(top), "$filter": filter, "$continuationtoken": token}
            return self._connection.rest.get(url, params={name: value for name, value in query.items() if value})

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
        # Growing pages: few requests for whoever reads on, few runs for whoever does not
        sizes = chain((min(PAGE, top * 4**number) for number in range(5)), repeat(PAGE))
        found = pages(
            lambda token: ask(filter, order, token, next(sizes)), url, "runs", follow=self._connection.rest.get
        )
        try:
            first = [*islice(found, 1)]
        except ServiceNotFound:
            return
        for page in chain(first, found):
            yield [self._seen(raw, url) for raw in page.items]

    def many(self, run_ids: Sequence[str]) -> list[RawRun]:
        """The runs of these ids, in that order; those that are gone are left out. A request a hundred runs, and one for
        each that did not come."""
        found: dict[str, RawRun] = {}
        url = self._connection.service("history", "/batchrundata")
        for start in range(0, len(run_ids), BATCH):
            batch = run_ids[start : start + BATCH]
            requests = {run_id: {"runId": run_id, "selectRunMetadata": True} for run_id in batch}
            try:
                answer = self._connection.rest.post_object(url, "runs", json={"requests": requests})
            except (ServiceNotFound, ServiceRefused) as err:  # a service without this route, or one that takes fewer
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
        """Ask the run, which had not ended a moment ago, to stop; nobody waits for it. False where it has ended
        meanwhile.

        Resource manager stops jobs of every kind. What it does not know or refuses (a run that was logged from
        anywhere), and any run inside a job, where there is no resource manager, is left to the run history.

        Raises HimlError for a run whose command has ended and that is being wound up: the service refuses to stop one.
        """
        path = f"{quote(run_id, safe='')}/cancel"
        if not self._connection.in_job:
            try:
                reply = self._connection.rest.send(
                    "POST", self._connection.arm(f"/jobs/{path}"), params={"api-version": ApiVersion.JOBS}
                )
            except (ServiceNotFound, ServiceRefused) as err:
                if err.status >= 500 or err.status == 429:  # it is about the service, not about the run
                    raise
            else:
                return reply.status == 202 or status_of(self.get(run_id).get("status") or "") not in _BY_ITSELF
        raw = self.get(run_id)
        if (is_stopped := _is_stopped(raw)) is not None:
            return is_stopped
        url = self._connection.service("history", f"/experimentids/{quote(raw['experimentId'], safe='')}/runs/{path}")
        try:
            self._connection.rest.send("POST", url)
        except ServiceRefused as err:
            if err.status >= 500 or err.status == 429 or (is_stopped := _is_stopped(self.get(run_id))) is None:
                raise
            return is_stopped
        return True

    def _url(self, run_id: str, below: str = "") -> str:
        return self._connection.service("history", f"/runs/{quote(run_id, safe='')}{below}")

    def _seen(self, raw: RawRun, url: str) -> RawRun:
        """Raises ServiceFailed where *raw*, an answer of *url*, does not have what every run has."""
        with understood(url, "a run in it"):
            facts = _facts_of(raw)
        with self._lock:
            self._facts[facts.id] = facts
            while len(self._facts) > 2000:
                self._facts.popitem(last=False)
        return raw


def _created(raw: RawRun) -> datetime:
    return as_time(str(raw.get("createdUtc") or "")) or datetime.fromtimestamp(0, timezone.utc)


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
    known = connection.kept.get("experiments", key)
    if isinstance(known, str):
        return known
    url = connection.service("history", f"/experimentids/{quote(experiment_id, safe='')}")
    try:
        name = connection.rest.get_object(url, "experiment").get("name")
    except ServiceNotFound:
        return experiment_id  # its runs are there still
    if not isinstance(name, str) or not name:
        raise unexpected(url, "it holds no experiment")
    connection.kept.put("experiments", key, name, seconds=LONGEST_SECONDS)
    return name


def _defined_outputs(definition: Mapping[str, Any], run_id: str) -> dict[str, OutputUri | None]:
    """The outputs in *definition* by name, None where it names no place. *run_id* goes where the definition has a mark
    for it.

    Jobs and steps of pipelines have `outputData`; that of a pipeline itself is spelled in another way, and mostly names
    no place. Batch scoring and steps of the older SDK have `dataReferences`, which does not tell outputs from inputs,
    but for those that are downloaded.
    """
    outputs, references = definition.get("outputData"), definition.get("dataReferences")
    places: dict[str, OutputUri | None] = {}

    def place(key: str, datastore: str | None, path: str | None) -> OutputUri | None:
        """*datastore*: its name, or its id, which ends in the name."""
        if not datastore or not path:
            return None
        name, path = datastore.rpartition("/")[2], _filled(path, run_id, key).lstrip("/")
        return f"azureml://datastores/{name}/paths/{path}", False

    if not isinstance(outputs, Mapping) and not references:
        for key, output in {**(definition.get("Outputs") or {}), **(definition.get("OutputBindings") or {})}.items():
            output = output or {}
            places[key] = place(key, output.get("DatastoreId"), output.get("PathOnDatastore"))
            if output.get("Uri"):
                places[key] = _filled(output["Uri"], run_id, key), False
        return places
    for key, reference in (references or {}).items():
        reference = reference or {}
        there = place(key, reference.get("dataStoreName"), reference.get("pathOnDataStore"))
        if there is not None and str(reference.get("mode")).lower() != "download":
            places[key] = there
    for key, output in (outputs or {}).items():
        location = (output or {}).get("outputLocation") or {}
        uri, path = location.get("uri") or {}, location.get("dataPath") or {}
        places[key] = place(key, path.get("datastoreName"), path.get("relativePath") or f"dataset/{run_id}/{key}")
        if uri.get("path"):
            places[key] = _filled(uri["path"], run_id, key), bool(uri.get("isFile"))
    return places


def _filled(template: str, run_id: str, key: str) -> str:
    """*template* with what stands for the run and the output in it, as jobs (`${{name}}`), steps (`{name}`) and
    azureml-core (`{run-id}`) write it."""
    marks = {
        **dict.fromkeys(("${{name}}", "{name}", "{run-id}"), run_id),
        **dict.fromkeys(("${{output_name}}", "{output_name}", "{output-name}"), key),
    }
    for mark, value in marks.items():
        template = template.replace(mark, value)
    return template


def find_output(
    connection: Connection, history: RunHistory, data: tuple[RawRun, Mapping[str, Any]], key: str
) -> OutputUri:
    """Where output *key* of the run lies, by its *data*; a request for the place of an asset, and one where the run
    reused another's results.

    Raises NotFound naming the keys there are, or where its place is not told.
    """
    raw, definition = data
    run_id = source = str(raw["runId"])
    properties: Mapping[str, Any] = raw.get("properties") or {}
    if properties.get("azureml.reusedrunid") and str(properties.get("azureml.isreused")).lower() == "true":
        source = properties["azureml.reusedrunid"]  # its outputs are the step's, as the vendor's SDK has it
        with suppress(ServiceNotFound):  # they can still lie there: at the same places, with its id in them
            raw, definition = history.data(source)
    with understood(connection.service("history"), "what it tells of outputs"):
        assets = {name: {**(asset or {})} for name, asset in (raw.get("outputs") or {}).items()}
        defined = _defined_outputs(definition, source)
    if key not in assets and key not in defined:
        raise NotFound(
            f"Run '{run_id}' has no output '{key}'; it has: {', '.join(sorted({DEFAULT_OUTPUT, *assets, *defined}))}."
        )
    asset = assets.get(key) or {}
    place = _place_of_asset(connection, asset, defined.get(key)) or defined.get(key)
    if place is not None:
        return place
    if asset.get("assetId"):
        raise NotFound(
            f"The asset '{asset['assetId']}' of this output is gone.",
            hint="It was deleted; its files may still lie on their datastore.",
        )
    raise NotFound(
        f"Azure ML does not tell where output '{key}' of run '{run_id}' lies.",
        hint="It may become known when the run has ended.",
    )


def _place_of_asset(connection: Connection, asset: Mapping[str, Any], defined: OutputUri | None) -> OutputUri | None:
    """Where the service has the asset; None where it does not know it (any more). What the job *defined* tells whether
    a model is one file."""
    asset_id, kind = asset.get("assetId"), str(asset.get("type")).lower()
    if not asset_id:
        return None
    is_model = kind in MODELS or "/models/" in asset_id
    service, path = ("modelregistry", "/models") if is_model else ("data", "/dataversion")
    url = connection.service(service, f"{path}/batchGetResolvedUris")
    version = {"api-version": ApiVersion.MODELS} if is_model else None
    try:
        answer = connection.rest.post_object(url, "asset", params=version, json={"values": [asset_id]})
    except (ServiceNotFound, ServiceRefused) as err:
        if err.status not in (400, 404):
            raise
        return None
    with understood(url, "the asset in it"):
        # The one asset that was asked for, under whatever spelling of its id
        found = next(iter((answer["values"] or {}).values()), None) or {}
        place = found.get("path" if is_model else "uri")
        if not place:
            return None
        if not isinstance(place, str):
            raise TypeError("its place is no text")
        is_file = str(found.get("type") or kind).lower() == "urifile"
        return place, (defined is not None and defined[1]) if is_model else is_file


def _is_stopped(raw: RawRun) -> bool | None:
    """Whether the run was stopped, or asked to, rather than ended by itself; None where it goes on. Raises HimlError
    where it cannot be stopped."""
    state = str(raw.get("status") or "")
    if state.lower() == "finalizing":
        raise HimlError(
            f"Run '{raw['runId']}' is in its last state, {state}: its command has ended, and Azure ML does not stop it "
            "any more.",
            hint=f"It ends by itself; 'himl runs show {raw['runId']}' tells when.",
        )
    if state.lower() == "cancelrequested":
        return True
    return status_of(state) not in _BY_ITSELF if status_of(state).is_final else None
