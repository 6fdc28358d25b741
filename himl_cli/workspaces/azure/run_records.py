"""Records of runs: states, tags and limits of the service as those of himl; and what himl writes to runs, in the forms
that azureml-core sends, so that all clients read them alike: begin and end, metrics, parameters."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, TRIAL, TRIALS
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow, Value
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run, RunEnd, RunStatus
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.responses import as_time, one_line, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.connection import Connection

log = logging.getLogger(__name__)

# The states that the run history's own client names; the run history is asked for no others, which it might refuse
_OF_HISTORY = {
    RunStatus.queued: ("NotStarted", "Unapproved", "Starting", "Preparing", "Queued", "Paused"),
    RunStatus.running: ("Running", "Finalizing", "CancelRequested", "Pausing"),
    RunStatus.completed: ("Completed",),
    RunStatus.failed: ("Failed",),
    RunStatus.canceled: ("Canceled",),
}
_OF_JOBS = {RunStatus.queued: ("Provisioning", "Waiting"), RunStatus.running: ("NotResponding", "Unknown")}
_STATUSES = {
    state.lower(): status for states in (_OF_HISTORY, _OF_JOBS) for status, names in states.items() for state in names
}

LOCAL_TARGET = "local"  # where runs are said to be that have no job


def status_of(state: str) -> RunStatus:
    """What *state* is to us. One that we do not know counts as running: the ends of a run are all known."""
    return _STATUSES.get(state.lower(), RunStatus.running)


def states_of(statuses: Iterable[RunStatus]) -> list[str]:
    return [state for status in statuses for state in (*_OF_HISTORY[status], *_OF_JOBS.get(status, ()))]


def history_condition(statuses: Iterable[RunStatus]) -> str:
    """The condition by which the run history picks runs that are one of *statuses*; "" for all of them.

    Runs that have not ended are picked by what they are not, so that a state without a name here is not missed.
    """
    wanted = set(statuses)
    if not wanted or wanted == set(RunStatus):
        return ""
    if all(status.is_final for status in wanted):
        return " or ".join(
            f"Status eq {state}" for status in RunStatus if status in wanted for state in _OF_HISTORY[status]
        )
    return " and ".join(
        f"Status ne {state}" for status in RunStatus if status not in wanted for state in _OF_HISTORY[status]
    )


# How the names of tags begin that the service writes for itself; Studio does not show them either
SYSTEM_TAG = "_aml_system_"
_NUMBER = re.compile(r"_(\d+)")


def own_names(raw: Mapping[str, Any]) -> set[str]:
    """The names of the tags of *raw* that the service wrote for itself.

    Of a sweep these are thousands of characters: its settings, written twice (with the prefix, and for older SDKs
    without), and the values of every trial.
    """
    tags, run_id = raw.get("tags") or {}, str(raw.get("runId") or "")
    return {
        name
        for name in tags
        if name.startswith(SYSTEM_TAG)
        or name in ("azureml.nodeid", "azureml.pipeline")  # of steps of a pipeline
        or (f"{SYSTEM_TAG}{name}" in tags and name != HYPERPARAMETERS)
        or (run_id and name.startswith(run_id) and _NUMBER.fullmatch(name, len(run_id)))
    }


def sweep_tags(raw: Mapping[str, Any]) -> dict[str, str]:
    """himl's tags for what *raw* says of itself as a sweep, a trial or a pipeline in words of its own; empty for other
    runs."""
    if str(raw.get("runType") or "").lower() == "azureml.pipelinerun":
        return {MANY: "pipeline"}
    found, tags, number = _of_sweep(raw.get("properties") or {}), raw.get("tags") or {}, number_of(raw)
    values = tags.get(HYPERPARAMETERS) or tags.get(SYSTEM_TAG + HYPERPARAMETERS)
    if values:
        found |= {HYPERPARAMETERS: str(values)} | ({TRIAL: number} if number else {})
    return found


def _of_sweep(properties: Mapping[str, Any]) -> dict[str, str]:
    try:
        config = read_json(properties.get("primary_metric_config") or "{}")
    except (TypeError, ValueError):
        return {}
    if not isinstance(config, dict) or not config.get("name"):
        return {}
    found = {
        MANY: "sweep",
        PRIMARY_METRIC: config["name"],
        GOAL: str(config.get("goal") or "").lower(),
        BEST_TRIAL: properties.get("best_child_run_id"),
    }
    return {name: str(value) for name, value in found.items() if value}


def is_sweep(raw: Mapping[str, Any]) -> bool:
    kind = str(raw.get("runType") or "").lower()
    return kind in ("hyperdrive", "sweep") or bool(_of_sweep(raw.get("properties") or {}))


def number_of(raw: Mapping[str, Any]) -> str:
    """The number of a trial, which is in its id, `{sweep}_{number}`; empty for other ids."""
    run_id, parent = str(raw.get("runId") or ""), str(raw.get("parentRunId") or "")
    found = _NUMBER.fullmatch(run_id, len(parent)) if parent and run_id.startswith(parent) else None
    return found[1] if found else ""


MAX_SECONDS = "himl.max_run_seconds"  # the property with the limit in whole seconds
SHORTEST = 60


def limit_properties(max_seconds: float | None) -> dict[str, str]:
    """The property of a job that may run for so long; none for one without a limit."""
    return {} if max_seconds is None else {MAX_SECONDS: str(limit_of(max_seconds))}


def limit_of(max_seconds: float) -> int:
    """The limit as the service takes it: whole seconds, a minute at least, for what is less it takes for 60 days."""
    return max(SHORTEST, math.ceil(max_seconds))


def say_limits(limits: Iterable[float | None], notify: Notify) -> None:
    """Tell where jobs may run for longer than was asked for, once for each limit."""
    for asked in dict.fromkeys(limits):
        if asked is not None and asked < SHORTEST:
            notify(Notice(f"--max_run_duration is a minute at least on a cluster: {SHORTEST} s, not {asked:g} s."))


RawRun = Mapping[str, Any]  # A run as the run history gives it


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


def as_run(raw: RawRun, *, experiment: str, address: WorkspaceAddress, tenant_id: str = "") -> Run:
    """The record of *raw*.

    The run history's answer has the command of a job in himl's own tag only, and its exit code in the words of its
    error; a command that completed ended with 0.
    """
    status = status_of(raw.get("status") or "")
    reason = _reason(raw) if status in (RunStatus.failed, RunStatus.canceled) else ""
    found = re.search(r"\b(?:exit|status|return) ?code:? (-?\d+)", reason, re.IGNORECASE)
    traits = [str(trait).lower() for trait in (raw.get("runTypeV2") or {}).get("traits") or ()]
    is_command = "scriptrun" in traits and raw.get("target") != LOCAL_TARGET and not starts_jobs(raw)
    tags = user_tags(raw)
    return Run(
        id=raw["runId"],
        experiment=experiment,
        status=status,
        created=created_of(raw),
        display_name=raw.get("displayName") or "",
        description=raw.get("description") or "",
        started=as_time(raw.get("startTimeUtc")),
        ended=as_time(raw.get("endTimeUtc")) if status.is_final else None,
        tags=tags,
        parent=raw.get("parentRunId") or None,
        exit_code=int(found[1]) if found else 0 if status is RunStatus.completed and is_command else None,
        reason=reason,
        command=tags.get("command_line") or raw.get("scriptName") or "",
        workspace=address.label,
        url=studio_url(raw["runId"], address, tenant_id),
        is_archived=bool(raw.get("hidden")),
    )


def created_of(record: Mapping[str, Any]) -> datetime:
    """When the run, or the row of a metric, was made; 1970 where that is not told."""
    return as_time(record.get("createdUtc")) or datetime.fromtimestamp(0, timezone.utc)


def starts_jobs(raw: RawRun) -> bool:
    """Whether the run's children are jobs of their own (a sweep, a pipeline, AutoML)."""
    if TRIALS in (raw.get("tags") or {}):
        return True
    properties, new_kind = raw.get("properties") or {}, raw.get("runTypeV2") or {}
    template = (properties.get("runTemplate") or "").lower()
    if "child" in template:  # AutoML's children carry the source of their parent
        return False
    kinds = (raw.get("runType"), new_kind.get("orchestrator"), template, properties.get("azureml.runsource"))
    # A step of a pipeline calls itself `azureml.StepRun`
    return any(
        word in (kind or "").lower() for kind in kinds for word in ("hyperdrive", "sweep", "pipelinerun", "automl")
    )


def user_tags(raw: RawRun) -> dict[str, str]:
    """The run's tags by name, without the service's own; those of MLflow stay, as in Studio. A sweep and its trials
    have himl's tags for that as well."""
    tags = raw.get("tags") or {}
    own = own_names(raw)
    told = {name: "" if tags[name] is None else str(tags[name]) for name in tags if name not in own}
    return dict(sorted((sweep_tags(raw) | told).items()))


def studio_url(run_id: str, address: WorkspaceAddress, tenant_id: str = "") -> str:
    return address.studio_url(f"runs/{quote(run_id, safe='')}", tenant_id)


def _reason(raw: RawRun) -> str:
    body = raw.get("error") or {}
    error = body.get("error") or body
    message = _innermost(error.get("message") or "") or raw.get("cancelationReason") or error.get("code")
    limit = str((raw.get("properties") or {}).get(MAX_SECONDS) or "")
    started, ended = as_time(raw.get("startTimeUtc")), as_time(raw.get("endTimeUtc"))
    if not message and limit.isdecimal() and started and ended and (ended - started).total_seconds() >= int(limit):
        message = f"it ran for as long as --max_run_duration let it ({int(limit):,} s)"
    return one_line(message or "", 500)


def _innermost(message: str) -> str:
    """The message itself, where the service wrapped it in JSON (`{"NonCompliant": "..."}`, `{"error": {"message":
    "..."}}`)."""
    if not message.lstrip().startswith("{"):
        return message
    try:
        value: Any = read_json(message)
    except ValueError:
        return message
    while isinstance(value, dict) and value:
        value = value.get("error") or value.get("message") or value.get("Message") or next(iter(value.values()))
    return value if isinstance(value, str) and value else message


MOST_ROWS = 250  # of one metric in one request
_KINDS = {
    LoggedKind.scalar: "azureml.v1.scalar",
    LoggedKind.list: "azureml.v1.list",
    LoggedKind.table: "azureml.v1.table",
    LoggedKind.image: "azureml.v2.image",
}
_TYPES = {bool: "bool", int: "int", float: "double"}


def _forms(entries: Iterable[Logged], container_id: str) -> Iterator[dict[str, Any]]:
    """The forms in the order of their first rows; one metric's rows stay in theirs, and those that follow each other
    share a form. *container_id* is where the run's files lie."""
    open_forms: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in entries:
        columns = {
            column: "Artifact" if entry.kind is LoggedKind.image else _type_of(entry.rows, column)
            for column in entry.columns
        }
        key = entry.name, _KINDS[entry.kind]
        for start in range(0, len(entry.rows), MOST_ROWS):
            rows = entry.rows[start : start + MOST_ROWS]
            form = open_forms.get(key)
            if form is None or form["columns"] != columns or len(form["value"]) + len(rows) > MOST_ROWS:
                if form is not None:
                    yield open_forms.pop(key)
                form = {"name": entry.name, "columns": columns, "properties": {"uxMetricType": key[1]}, "value": []}
                open_forms[key] = form
            for row in rows:
                data = {
                    column: _written(row.values.get(column), kind, container_id) for column, kind in columns.items()
                }
                step = {} if row.step is None else {"step": row.step}
                form["value"].append({"metricId": row.id, "createdUtc": row.time.isoformat(), **step, "data": data})
    yield from open_forms.values()


def _type_of(rows: Sequence[LoggedRow], column: str) -> str:
    values = [value for row in rows if (value := row.values.get(column)) is not None]
    names = (next((name for kind, name in _TYPES.items() if isinstance(value, kind)), "string") for value in values)
    types = set(names) or {"none"}
    return types.pop() if len(types) == 1 else "double" if types == {"int", "double"} else "string"


def _written(value: Value, kind: str, container_id: str) -> Any:
    if kind == "Artifact":
        return f"aml://artifactId/ExperimentRun/{container_id}/{value}"
    if value is None:
        return None
    if kind == "string":
        return str(value)
    # JSON has no such numbers; protocol buffers' words for them
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if kind == "double" else value


class RunWriting:
    """Sends what is written to runs. The run has to exist for all but `start`: the services would make some of it
    up."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, new: Run) -> None:
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
        body = {name: value for name, value in body.items() if value is not None}
        self._connection.rest.patch(f"{experiment}/runs/{quote(new.id, safe='')}", json=body)
        self.begin(new.id)

    def begin(self, run_id: str) -> None:
        self._send_event(run_id, "Start", StartTime=_now())

    def end(self, run_id: str, end: RunEnd) -> None:
        """Move the run to its end; *end.reason* becomes the error that people see of a failed one."""
        reason = redact(" ".join(end.reason.split()))[:2000]
        if end.status is RunStatus.failed and reason:
            self._send_event(run_id, "Error", ErrorResponse={"error": {"code": "UserError", "message": reason}})
        self._send_event(run_id, end.status.value, EndTime=_now())

    def log(self, run_id: str, entries: Sequence[Logged], container_id: str) -> None:
        """Send *entries* in as few requests as the service takes. A metric that it will not have is named in a warning.

        Raises HimlError where it refuses a whole batch.
        """
        url = self._connection.service("metric", f"/runs/{quote(run_id, safe='')}/batch")
        forms = _forms(entries, container_id)
        while batch := list(islice(forms, 50)):  # as azureml-core has it
            try:
                answer = self._connection.rest.post(url, json={"values": batch, "reportErrors": True})
            except ServiceRefused as err:
                if err.status < 500 and err.status not in (408, 429):
                    raise HimlError(f"Metrics of run '{run_id}' were refused: {err}", hint=err.hint) from err
                raise
            for error in answer.get("errors") or [] if isinstance(answer, Mapping) else []:
                with understood(url, "an error in it"):
                    name = (error.get("metric") or {}).get("name") or "?"
                    why = ((error.get("errorResponse") or {}).get("error") or {}).get("message")
                why = why or "the service does not say why"
                log.warning("Metric '%s' of run '%s' was refused: %s", name, run_id, why)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Raises BadUsage where one has another value already."""
        url, pairs = self._connection.service("mlflow", "/runs/log-batch"), iter(parameters.items())
        while some := [{"key": key, "value": value} for key, value in islice(pairs, 100)]:  # as MLflow allows
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
        experiment, run_id = quote(run.experiment_id, safe=""), quote(run.id, safe="")
        url = self._connection.service("history", f"/experimentids/{experiment}/runs/{run_id}/metricsingest/wait")
        deadline = time.monotonic() + seconds
        try:
            while self._connection.rest.send("GET", url).status == 202 and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(1.0, left))
        except ServiceNotFound:  # nothing was logged that it could wait for
            return

    def _send_event(self, run_id: str, name: str, **data: Any) -> None:
        url = self._connection.service("history", f"/runs/{quote(run_id, safe='')}/events")
        self._connection.rest.post(
            url,
            json={
                "name": f"Microsoft.MachineLearning.Run.{name}",
                "timestamp": _now(),
                "data": {"RunId": run_id, **data},
            },
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
