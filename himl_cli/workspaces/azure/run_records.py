"""Records of runs: translation of the service's states, tags and limits into himl's, and writing to runs. himl writes
begin and end, metrics and parameters in the forms of azureml-core, so that all clients read them alike."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from itertools import islice
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError
from himl_cli.core.events import Notice, Notify
from himl_cli.core.json_text import read_json
from himl_cli.core.logged import Logged, LoggedKind, LoggedRow, Value
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import mask_document, redact
from himl_cli.core.runs import NOTE, Run, RunEnd, RunStatus
from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, TRIAL, TRIALS
from himl_cli.core.text import shorten
from himl_cli.workspaces.azure.config import WorkspaceAddress
from himl_cli.workspaces.azure.responses import as_time, one_line, understood
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.retry import is_transient

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.connection import Connection

log = logging.getLogger(__name__)

# The states in the run history's own client. himl requests no others, which the service might refuse.
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

LOCAL_TARGET = "local"  # the target of runs without a job


def status_of(state: str) -> RunStatus:
    """The status for *state*. An unknown one counts as running, because all final ones are known."""
    return _STATUSES.get(state.lower(), RunStatus.running)


def states_of(statuses: Iterable[RunStatus]) -> list[str]:
    return [state for status in statuses for state in (*_OF_HISTORY[status], *_OF_JOBS.get(status, ()))]


def history_condition(statuses: Iterable[RunStatus]) -> str:
    """The condition of the run history for runs with one of *statuses*, or "" for all.

    Runs in progress are selected by excluding other states, so that unknown ones are included.
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


# Prefixes of the service's own tags, which Studio also hides.
SYSTEM_TAG = "_aml_system_"
_NUMBER = re.compile(r"_(\d+)")


def own_names(raw: Mapping[str, Any]) -> set[str]:
    """The names of the tags of *raw* that the service wrote.

    A sweep has thousands of characters of them: its settings twice (with the prefix, and without it for older SDKs),
    and the values of every trial.
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
    """himl's tags for the service's properties of a sweep, a trial or a pipeline in *raw*, or none for other runs."""
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
    """The number of a trial from its id `{sweep}_{number}`, or "" for other ids."""
    run_id, parent = str(raw.get("runId") or ""), str(raw.get("parentRunId") or "")
    found = _NUMBER.fullmatch(run_id, len(parent)) if parent and run_id.startswith(parent) else None
    return found[1] if found else ""


MAX_SECONDS = "himl.max_run_seconds"  # the property with the limit in whole seconds
SHORTEST = 60


def limit_properties(max_seconds: float | None) -> dict[str, str]:
    """The property of a job with this time limit, or none without a limit."""
    return {} if max_seconds is None else {MAX_SECONDS: str(limit_of(max_seconds))}


def limit_of(max_seconds: float) -> int:
    """The limit in whole seconds, at least a minute, because the service treats a shorter one as 60 days."""
    return max(SHORTEST, math.ceil(max_seconds))


def say_limits(limits: Iterable[float | None], notify: Notify) -> None:
    """Report jobs whose limit is longer than requested, once per limit."""
    for asked in dict.fromkeys(limits):
        if asked is not None and asked < SHORTEST:
            notify(Notice(f"--max_run_duration is at least {SHORTEST} s on a cluster, not {asked:g} s."))


RawRun = Mapping[str, Any]  # a run in the run history's form


@dataclass(frozen=True)
class RunFacts:
    """The constant facts of a run.

    `container_id` is the container of its artifacts. For a pipeline step that reused the results of an earlier one, it
    is that of the earlier one. `starts_jobs` is true if its children are separate jobs (a sweep, a pipeline, AutoML),
    not runs nested by its script. `later_starts` are the starts of the attempts after the first one of a local run that
    was mirrored. `is_local` is true if no job executes it.
    """

    id: str
    container_id: str
    experiment_id: str
    starts_jobs: bool
    later_starts: Sequence[datetime] = ()
    is_local: bool = False


def as_run(raw: RawRun, *, experiment: str, address: WorkspaceAddress, tenant_id: str = "") -> Run:
    """The record of *raw*.

    The run history has a job's command only in himl's own tag, and its exit code only in the error's message. A command
    that completed has exit code 0.
    """
    status = status_of(raw.get("status") or "")
    reason = _reason(raw) if status in (RunStatus.failed, RunStatus.canceled) else ""
    if (raw.get("status") or "").lower() == "paused":  # a run that waits shows what it waits for
        reason = "Azure ML, which paused it"
    traits = [str(trait).lower() for trait in (raw.get("runTypeV2") or {}).get("traits") or ()]
    is_command = "scriptrun" in traits and raw.get("target") != LOCAL_TARGET and not starts_jobs(raw)
    tags = user_tags(raw)
    return Run(
        id=raw["runId"],
        experiment=experiment,
        status=status,
        created=created_of(raw),
        display_name=raw.get("displayName") or "",
        description=tags.get(NOTE) or raw.get("description") or "",
        started=as_time(raw.get("startTimeUtc")),
        ended=as_time(raw.get("endTimeUtc")) if status.is_final else None,
        tags=tags,
        parent=raw.get("parentRunId") or None,
        exit_code=0 if status is RunStatus.completed and is_command else _exit_code(reason),
        reason=reason,
        command=tags.get("command_line") or raw.get("scriptName") or "",
        workspace=address.label,
        url=studio_url(raw["runId"], address, tenant_id),
        target=raw.get("target") or "",
        is_archived=bool(raw.get("hidden")),
    )


def created_of(record: Mapping[str, Any]) -> datetime:
    """The creation time of the run, or of a metric's row, or 1970 if missing."""
    return as_time(record.get("createdUtc")) or datetime.fromtimestamp(0, timezone.utc)


def starts_jobs(raw: RawRun) -> bool:
    """Return whether the run's children are separate jobs (a sweep, a pipeline, AutoML)."""
    if TRIALS in (raw.get("tags") or {}):
        return True
    properties, new_kind = raw.get("properties") or {}, raw.get("runTypeV2") or {}
    template = (properties.get("runTemplate") or "").lower()
    if "child" in template:  # AutoML's children have the source of their parent
        return False
    kinds = (raw.get("runType"), new_kind.get("orchestrator"), template, properties.get("azureml.runsource"))
    # A pipeline's step calls itself `azureml.StepRun`.
    return any(
        word in (kind or "").lower() for kind in kinds for word in ("hyperdrive", "sweep", "pipelinerun", "automl")
    )


def user_tags(raw: RawRun) -> dict[str, str]:
    """The run's tags by name, without the service's own, but with MLflow's, as in Studio. A sweep and its trials
    also have himl's tags."""
    tags = raw.get("tags") or {}
    own = own_names(raw)
    told = {name: "" if tags[name] is None else str(tags[name]) for name in tags if name not in own}
    return dict(sorted((sweep_tags(raw) | mask_document(told)).items()))


def studio_url(run_id: str, address: WorkspaceAddress, tenant_id: str = "") -> str:
    return address.studio_url(f"runs/{quote(run_id, safe='')}", tenant_id)


def _reason(raw: RawRun) -> str:
    body = raw.get("error") or {}
    error = body.get("error") or body
    message = _innermost(error.get("message") or "") or raw.get("cancelationReason") or error.get("code")
    limit = str((raw.get("properties") or {}).get(MAX_SECONDS) or "")
    started, ended = as_time(raw.get("startTimeUtc")), as_time(raw.get("endTimeUtc"))
    if not message and limit.isdecimal() and started and ended and (ended - started).total_seconds() >= int(limit):
        message = f"it ran for {int(limit):,} s, the limit of --max_run_duration"
    return one_line(message or "", 500)


# "status code 403" alone is the answer of a server
_EXIT_CODES = re.compile(
    r"\b(?:(?P<is_end>exited with )(?:exit |status |return )?|exit[ _]?)codes?:? (?P<codes>-?\d+(?:, ?-?\d+)*)",
    re.IGNORECASE,
)


def _exit_code(reason: str) -> int | None:
    """The exit code in *reason*, the first that is not 0 where it names those of several processes, or None. The end of
    the user's process counts more than codes that its error names. None if these differ."""
    found = [*_EXIT_CODES.finditer(reason)]
    texts = {one["codes"] for one in found if one["is_end"]} or {one["codes"] for one in found}
    codes = [int(code) for code in texts.pop().split(",")] if len(texts) == 1 else []
    return next(filter(None, codes), codes[0] if len(codes) == 1 else None)


def _innermost(message: str) -> str:
    """The message itself, if the service wrapped it in JSON (`{"NonCompliant": "..."}`, `{"error": {"message":
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


MOST_PARAMETERS = 200
# The words of the service, as in public reports.
_PARAMETER_LIMIT = re.compile(r"\bFieldName=Parameters, Limit=(\d+), Size=(\d+)")
MOST_ROWS = 250  # of one metric in one request
LONGEST_TEXT = 255  # of the value of a column
_KINDS = {
    LoggedKind.scalar: "azureml.v1.scalar",
    LoggedKind.list: "azureml.v1.list",
    LoggedKind.table: "azureml.v1.table",
    LoggedKind.image: "azureml.v2.image",
}
_TYPES = {bool: "bool", int: "int", float: "double"}


def _forms(entries: Iterable[Logged], container_id: str) -> Iterator[dict[str, Any]]:
    """The forms in the order of their first rows. One metric's rows stay in order, and consecutive ones share a form.
    *container_id* is the container of the run's files."""
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


def _has_long_text(entry: Logged) -> bool:
    values = (value for row in entry.rows for value in row.values.values())
    return any(isinstance(value, str) and len(value) > LONGEST_TEXT for value in values)


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
        return shorten(str(value), LONGEST_TEXT)
    # JSON has no such numbers, so these are the words of protocol buffers.
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return float(value) if kind == "double" else value


class RunWriting:
    """Writes to runs. The run must exist for all methods except `start`, because the services would otherwise create
    parts of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._full: set[str] = set()  # runs for whose missing parameters there was a warning
        self._shortened: set[str] = set()  # metrics for whose long texts there was a warning

    def start(self, new: Run) -> None:
        """Create the run, with its experiment if that is new, and start it."""
        experiment = self._connection.service("history", f"/experiments/{quote(new.experiment, safe='')}")
        try:
            self._connection.get(experiment)
        except ServiceNotFound:
            try:
                self._connection.post(experiment)
            except ServiceRefused as err:
                if err.status != 409:  # created meanwhile, or by a request whose response was lost
                    raise
        body: dict[str, Any] = {
            "runId": new.id,
            "displayName": new.display_name or new.id,
            "description": new.description or None,
            "parentRunId": new.parent,
            "target": LOCAL_TARGET,
            "tags": mask_document(new.tags),
            "scriptName": new.command or None,
            "runTypeV2": {"orchestrator": "External", "traits": ["unspecified"]},
        }
        body = {name: value for name, value in body.items() if value is not None}
        self._connection.patch(f"{experiment}/runs/{quote(new.id, safe='')}", json=body)
        self.begin(new.id)

    def begin(self, run_id: str) -> None:
        self._send_event(run_id, "Start", StartTime=_now())

    def end(self, run_id: str, end: RunEnd) -> None:
        """End the run. *end.reason* becomes the error of a failed one."""
        reason = redact(" ".join(end.reason.split()))[:2000]
        if end.status is RunStatus.failed and reason:
            self._send_event(run_id, "Error", ErrorResponse={"error": {"code": "UserError", "message": reason}})
        self._send_event(run_id, end.status.value, EndTime=_now())

    def log(self, run_id: str, entries: Sequence[Logged], container_id: str) -> None:
        """Send *entries* in as few requests as possible. A warning names a metric that the service rejects.

        Raises HimlError if it rejects a whole batch.
        """
        for name in {entry.name for entry in entries if _has_long_text(entry)} - self._shortened:
            self._shortened.add(name)
            log.warning("Azure ML stores at most %d characters of a text, so himl shortens '%s'.", LONGEST_TEXT, name)
        url = self._connection.service("metric", f"/runs/{quote(run_id, safe='')}/batch")
        forms = _forms(entries, container_id)
        while batch := list(islice(forms, 50)):  # as in azureml-core
            try:
                answer = self._connection.post(url, json={"values": batch, "reportErrors": True}).body
            except ServiceRefused as err:
                if not is_transient(err.status):
                    raise HimlError(f"Azure ML rejected metrics of run '{run_id}': {err}", hint=err.hint) from err
                raise
            for error in answer.get("errors") or [] if isinstance(answer, Mapping) else []:
                with understood(url, "an error in it"):
                    name = (error.get("metric") or {}).get("name") or "?"
                    why = ((error.get("errorResponse") or {}).get("error") or {}).get("message")
                why = why or "the service gives no reason"
                log.warning("Azure ML rejected metric '%s' of run '%s': %s", name, run_id, why)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        """Log parameters. A warning names the first one beyond the service's limit for a run.

        Raises BadUsage if the service rejects one, for example because it has another value already.
        """
        pairs, first = iter(mask_document(parameters).items()), ""
        while some := [*islice(pairs, 100)]:  # MLflow's limit
            while some and (excess := self._excess(run_id, some)):
                first, some = some[-excess:][0][0], some[:-excess]
            if first and run_id not in self._full:
                self._full.add(run_id)
                log.warning(
                    "Azure ML stores at most %d parameters of a run, so run '%s' lacks '%s' and all others after it.",
                    MOST_PARAMETERS,
                    run_id,
                    first,
                )

    def _excess(self, run_id: str, some: Sequence[tuple[str, str]]) -> int:
        """Log *some* parameters, or none of them if the run has no place for this number of them."""
        url = self._connection.service("mlflow", "/runs")
        params = [{"key": key, "value": value} for key, value in some]
        try:
            body = {"run_id": run_id, "metrics": [], "params": params, "tags": []}
            self._connection.post(f"{url}/log-batch", json=body)
            return 0
        except ServiceRefused as err:
            if err.status != 400:
                raise
            if limit := _PARAMETER_LIMIT.search(str(err)):
                return max(1, int(limit[2]) - int(limit[1]))
            run = self._connection.get(f"{url}/get", params={"run_id": run_id, "run_uuid": run_id}).object("run")
            with understood(f"{url}/get", "the run in it"):
                logged = run["run"]["data"].get("params") or ()
                known = mask_document({each["key"]: each.get("value") for each in logged})
            other = [
                f"'{key}' is '{known[key]}', not '{value}'" for key, value in some if known.get(key, value) != value
            ]
            why = f"{shorten(redact(', '.join(other)), 300)}." if other else str(err)
            hint = "A parameter keeps its first value." if other else err.hint
            raise BadUsage(f"Azure ML rejected parameters of run '{run_id}': {why}", hint=hint) from err

    def settle(self, run: RunFacts, seconds: float) -> None:
        """Wait at most *seconds* until the metric service has processed its data. Later data appears later."""
        experiment, run_id = quote(run.experiment_id, safe=""), quote(run.id, safe="")
        url = self._connection.service("history", f"/experimentids/{experiment}/runs/{run_id}/metricsingest/wait")
        deadline = time.monotonic() + seconds
        try:
            while self._connection.request("GET", url).status == 202 and (left := deadline - time.monotonic()) > 0:
                time.sleep(min(1.0, left))
        except ServiceNotFound:  # nothing was logged
            return

    def _send_event(self, run_id: str, name: str, **data: Any) -> None:
        url = self._connection.service("history", f"/runs/{quote(run_id, safe='')}/events")
        self._connection.post(
            url,
            json={
                "name": f"Microsoft.MachineLearning.Run.{name}",
                "timestamp": _now(),
                "data": {"RunId": run_id, **data},
            },
        )


def _now() -> str:
    return datetime.now(timezone.utc).isoformat()
