"""Metrics in the form that the metric service takes them: as azureml-core sends them, so that all clients read them
alike."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.redaction import redact
from himl_cli.core.results import Logged, LoggedKind, LoggedRow, NewRun, RunEnd, Value
from himl_cli.core.runs import RunStatus
from himl_cli.workspaces.azure.address import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.runs.history import RunFacts, RunHistory
from himl_cli.workspaces.azure.runs.records import LOCAL_TARGET, RawRun, status_of
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

log = logging.getLogger(__name__)

MOST_METRICS = 50  # in one request, as azureml-core has it
MOST_ROWS = 250  # of one metric in one request
_KINDS = {
    LoggedKind.scalar: "azureml.v1.scalar",
    LoggedKind.list: "azureml.v1.list",
    LoggedKind.table: "azureml.v1.table",
    LoggedKind.image: "azureml.v2.image",
}
_TYPES = {bool: "bool", int: "int", float: "double"}
Form = dict[str, Any]


def batches(entries: Iterable[Logged], container_id: str) -> Iterator[list[Form]]:
    """*entries* as bodies of requests. Scalars of one name that follow each other share a form; *container_id* is where
    the run's files lie."""
    forms = _forms(entries, container_id)
    while batch := list(islice(forms, MOST_METRICS)):
        yield batch


def _forms(entries: Iterable[Logged], container_id: str) -> Iterator[Form]:
    """The forms in the order of their first rows; one metric's rows stay in theirs."""
    open_forms: dict[tuple[str, str], Form] = {}
    for entry in entries:
        for start in range(0, len(entry.rows), MOST_ROWS):
            form = _form(entry, entry.rows[start : start + MOST_ROWS], container_id)
            key = (entry.name, form["properties"]["uxMetricType"])
            known = open_forms.get(key)
            if (
                known is None
                or known["columns"] != form["columns"]
                or len(known["value"]) + len(form["value"]) > MOST_ROWS
            ):
                if known is not None:
                    yield open_forms.pop(key)
                open_forms[key] = form
            else:
                known["value"] += form["value"]
    yield from open_forms.values()


def _form(entry: Logged, rows: Sequence[LoggedRow], container_id: str) -> Form:
    columns = {
        column: "Artifact" if entry.kind is LoggedKind.image else _type_of(entry.rows, column)
        for column in entry.columns
    }
    return {
        "name": entry.name,
        "columns": columns,
        "properties": {"uxMetricType": _KINDS[entry.kind]},
        "value": [_row(row, columns, container_id) for row in rows],
    }


def _row(row: LoggedRow, columns: Mapping[str, str], container_id: str) -> Form:
    data = {column: _written(row.values.get(column), kind, container_id) for column, kind in columns.items()}
    step = {} if row.step is None else {"step": row.step}
    return {"metricId": row.id, "createdUtc": row.time.isoformat(), **step, "data": data}


def _type_of(rows: Sequence[LoggedRow], column: str) -> str:
    """The column's type: that of its values; numbers of both kinds are doubles, and anything mixed is text."""
    values = [value for row in rows if (value := row.values.get(column)) is not None]
    names = (next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "string") for value in values)
    types = set(names) or {"none"}
    return types.pop() if len(types) == 1 else "double" if types == {"int", "double"} else "string"


def _written(value: Value, kind: str, container_id: str) -> Any:
    if kind == "Artifact":
        return f"aml://artifactId/ExperimentRun/{container_id}/{value}"
    if value is None or (kind == "string" and isinstance(value, str)):
        return value
    if kind == "string":
        return str(value)
    # JSON has no such numbers; protocol buffers' words for them
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if kind == "double" else value


EVENT = "Microsoft.MachineLearning.Run."
_ENDS = {RunStatus.completed: "Completed", RunStatus.failed: "Failed", RunStatus.canceled: "Canceled"}
MOST_PARAMETERS = 100  # in one batch, as MLflow allows
LONGEST_REASON = 2000
SECONDS_BETWEEN_LOOKS = 1.0


class RunWriting:
    """Sends what is written to runs. The run has to exist for all but `start`: the services would make some of it
    up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, new: NewRun) -> None:
        """Make the run, with its experiment where that is new, and let it begin."""
        experiment = self._connection.service("history", f"/experiments/{quote(new.experiment, safe='')}")
        try:
            self._connection.rest.get(experiment)
        except ServiceNotFound:
            try:
                self._connection.rest.post(experiment)
            except ServiceRefused as err:
                if err.status != 409:  # made by somebody else meanwhile, or by a try whose answer was lost
                    raise
        body: dict[str, Any] = {
            "runId": new.id,
            "displayName": new.display_name or new.id,
            "description": new.description or None,
            "parentRunId": new.parent,
            "target": LOCAL_TARGET,
            "tags": dict(new.tags),
            "scriptName": new.command or None,
            "runTypeV2": {"orchestrator": "External", "traits": ["unspecified"]},
        }
        url = f"{experiment}/runs/{quote(new.id, safe='')}"
        self._connection.rest.patch(url, json={name: value for name, value in body.items() if value is not None})
        self.begin(new.id)

    def begin(self, run_id: str) -> None:
        """Let a run begin that was made."""
        self._tell(run_id, "Start", {"StartTime": _now()})

    def end(self, run_id: str, end: RunEnd) -> None:
        """Move the run to its end; *end.reason* becomes the error that people see of a failed one."""
        reason = redact(" ".join(end.reason.split()))[:LONGEST_REASON]
        if end.status is RunStatus.failed and reason:
            self._tell(run_id, "Error", {"ErrorResponse": {"error": {"code": "UserError", "message": reason}}})
        self._tell(run_id, _ENDS[end.status], {"EndTime": _now()})

    def log(self, run_id: str, entries: Sequence[Logged], container_id: str) -> None:
        """Send *entries* in as few requests as the service takes. A metric that it will not have is named in a warning.

        Raises HimlError where it refuses a whole batch.
        """
        url = self._connection.service("metric", f"/runs/{quote(run_id, safe='')}/batch")
        for batch in batches(entries, container_id):
            try:
                answer = self._connection.rest.post(url, json={"values": batch, "reportErrors": True})
            except ServiceRefused as err:
                if err.status < 500 and err.status not in (408, 429):
                    raise HimlError(f"Metrics of run '{run_id}' were refused: {err}", hint=err.hint) from err
                raise
            for error in answer.get("errors") or [] if isinstance(answer, Mapping) else []:
                with understood(url, "an error in it"):
                    metric, said = error.get("metric") or {}, (error.get("errorResponse") or {}).get("error") or {}
                    name, why = metric.get("name") or "?", said.get("message") or "the service does not say why"
                log.warning("Metric '%s' of run '%s' was refused: %s", name, run_id, why)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Raises BadUsage where one has another value already."""
        url, pairs = self._connection.service("mlflow", "/runs/log-batch"), iter(parameters.items())
        while some := [{"key": key, "value": value} for key, value in islice(pairs, MOST_PARAMETERS)]:
            try:
                self._connection.rest.post(url, json={"run_id": run_id, "metrics": [], "params": some, "tags": []})
            except ServiceRefused as err:
                if err.status != 400:
                    raise
                raise BadUsage(
                    f"Parameters of run '{run_id}' were refused: {err}",
                    hint="A parameter keeps the value that it was logged with first.",
                ) from err

    def settle(self, run: RunFacts, seconds: float) -> None:
        """Wait until the metric service has taken in what it was sent, *seconds* at most: what comes later is only seen
        later."""
        url = self._connection.service(
            "history",
            f"/experimentids/{quote(run.experiment_id, safe='')}/runs/{quote(run.id, safe='')}/metricsingest/wait",
        )
        deadline = time.monotonic() + seconds
        try:
            while self._connection.rest.send("GET", url).status == 202 and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(SECONDS_BETWEEN_LOOKS, left))
        except ServiceNotFound:  # nothing was logged that it could wait for
            return

    def _tell(self, run_id: str, what: str, data: Mapping[str, Any]) -> None:
        url = self._connection.service("history", f"/runs/{quote(run_id, safe='')}/events")
        self._connection.rest.post(
            url, json={"name": EVENT + what, "timestamp": _now(), "data": {"RunId": run_id, **data}}
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()


STOPPING, ENDING = "cancelrequested", "finalizing"


def ask_to_cancel(connection: Connection, history: RunHistory, run_id: str) -> bool:
    """Ask the run, which had not ended a moment ago, to stop; nobody waits for it. False where it has ended meanwhile.

    Resource manager stops jobs of every kind. What it does not know or refuses (a run that was logged from anywhere),
    and any run inside a job, where there is no resource manager, is left to the run history.

    Raises HimlError for a run whose command has ended and that is being wound up: the service refuses to stop one.
    """
    quoted = quote(run_id, safe="")
    if not connection.in_job:
        try:
            reply = connection.rest.send(
                "POST", connection.arm(f"/jobs/{quoted}/cancel"), params={"api-version": ApiVersion.JOBS}
            )
        except (ServiceNotFound, ServiceRefused) as err:
            _raise_passing(err)
        else:
            return reply.status == 202 or not _ended_otherwise(history.get(run_id))
    raw = history.get(run_id)
    if _is_settled(raw):
        return not _ended_otherwise(raw)
    try:
        connection.rest.send(
            "POST",
            connection.service("history", f"/experimentids/{quote(raw['experimentId'], safe='')}/runs/{quoted}/cancel"),
        )
    except ServiceRefused as err:
        _raise_passing(err)
        raw = history.get(run_id)
        if not _is_settled(raw):
            raise
        return not _ended_otherwise(raw)
    return True


def _raise_passing(err: ServiceNotFound | ServiceRefused) -> None:
    """Raise *err* where it is about the service, not about the run."""
    if err.status >= 500 or err.status == 429:
        raise err


def _is_settled(raw: RawRun) -> bool:
    """Whether the run has ended, or was asked to stop, so that there is nothing left to ask for. Raises HimlError where
    it cannot be stopped."""
    state = str(raw.get("status") or "")
    if state.lower() == ENDING:
        raise HimlError(
            f"Run '{raw['runId']}' is in its last state, {state}: its command has ended, and Azure ML does not stop it "
            "any more.",
            hint=f"It ends by itself; 'himl runs show {raw['runId']}' tells when.",
        )
    return state.lower() == STOPPING or status_of(state).is_final


def _ended_otherwise(raw: RawRun) -> bool:
    """Whether the run ended by itself rather than by being stopped."""
    status = status_of(raw.get("status") or "")
    return status.is_final and status is not RunStatus.canceled
