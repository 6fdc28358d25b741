"""Records of runs: states, tags and limits of the service as those of himl."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from himl_cli.core.events import Notice, Notify
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.sweeps import BEST_TRIAL, GOAL, HYPERPARAMETERS, MANY, PRIMARY_METRIC, TRIAL
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.address import WorkspaceAddress
from himl_cli.workspaces.azure.responses import as_time

_OF_HISTORY = {
    RunStatus.queued: ("NotStarted", "Unapproved", "Starting", "Preparing", "Queued", "Paused"),
    RunStatus.running: ("Running", "Finalizing", "CancelRequested", "Pausing"),
    RunStatus.completed: ("Completed",),
    RunStatus.failed: ("Failed",),
    RunStatus.canceled: ("Canceled",),
}
"""The states that the run history's own client names; the run history is asked for no others, which it might refuse."""
_OF_JOBS = {RunStatus.queued: ("Provisioning", "Waiting"), RunStatus.running: ("NotResponding", "Unknown")}
_STATUSES = {
    state.lower(): status for states in (_OF_HISTORY, _OF_JOBS) for status, names in states.items() for state in names
}

LOCAL_TARGET = "local"
"""Where runs are said to be that have no job."""


def status_of(state: str) -> RunStatus:
    """What *state* is to us. One that we do not know counts as running: the ends of a run are all known."""
    return _STATUSES.get(state.lower(), RunStatus.running)


def states_of(statuses: Iterable[RunStatus]) -> list[str]:
    """All states that are one of *statuses* to us."""
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


SYSTEM_TAG = "_aml_system_"
"""How the names of tags begin that the service writes for itself; Studio does not show them either."""
METRIC_CONFIG, BEST_CHILD = "primary_metric_config", "best_child_run_id"
"""Properties of a sweep."""
STEP_TAGS = ("azureml.nodeid", "azureml.pipeline")
"""Tags that the service gives to each step of a pipeline."""
PIPELINE_TYPE = "azureml.pipelinerun"
SWEEP_TYPES = ("hyperdrive", "sweep")
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
        or name in STEP_TAGS
        or (f"{SYSTEM_TAG}{name}" in tags and name != HYPERPARAMETERS)
        or (run_id and name.startswith(run_id) and _NUMBER.fullmatch(name, len(run_id)))
    }


def sweep_tags(raw: Mapping[str, Any]) -> dict[str, str]:
    """himl's tags for what *raw* says of itself as a sweep, a trial or a pipeline in words of its own; empty for other
    runs."""
    if str(raw.get("runType") or "").lower() == PIPELINE_TYPE:
        return {MANY: "pipeline"}
    found, tags, number = _of_sweep(raw.get("properties") or {}), raw.get("tags") or {}, number_of(raw)
    values = tags.get(HYPERPARAMETERS) or tags.get(SYSTEM_TAG + HYPERPARAMETERS)
    if values:
        found |= {HYPERPARAMETERS: str(values)} | ({TRIAL: number} if number else {})
    return found


def _of_sweep(properties: Mapping[str, Any]) -> dict[str, str]:
    try:
        config = read_json(properties.get(METRIC_CONFIG) or "{}")
    except (TypeError, ValueError):
        return {}
    if not isinstance(config, dict) or not config.get("name"):
        return {}
    said = {
        MANY: "sweep",
        PRIMARY_METRIC: config["name"],
        GOAL: config.get("goal"),
        BEST_TRIAL: properties.get(BEST_CHILD),
    }
    return {name: str(value).lower() if name == GOAL else str(value) for name, value in said.items() if value}


def is_sweep(raw: Mapping[str, Any]) -> bool:
    """Whether the run is a sweep, of whichever client."""
    return str(raw.get("runType") or "").lower() in SWEEP_TYPES or bool(_of_sweep(raw.get("properties") or {}))


def number_of(raw: Mapping[str, Any]) -> str:
    """The number of a trial, which is in its id, `{sweep}_{number}`; empty for other ids."""
    run_id, parent = str(raw.get("runId") or ""), str(raw.get("parentRunId") or "")
    found = _NUMBER.fullmatch(run_id, len(parent)) if parent and run_id.startswith(parent) else None
    return found[1] if found else ""


MAX_SECONDS = "himl.max_run_seconds"
"""The property with the limit in whole seconds."""
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


LONGEST_REASON = 500
_EXIT_CODE = re.compile(r"\b(?:exit|status|return) ?code:? (-?\d+)", re.IGNORECASE)
_ENDED_BADLY = (RunStatus.failed, RunStatus.canceled)

STARTS_JOBS = ("hyperdrive", "sweep", "pipelinerun", "automl")
"""Words in the kind of a run whose children are jobs; a step of a pipeline calls itself `azureml.StepRun`."""
COMMAND = "scriptrun"
"""What one of the traits of a job is called that runs a command."""
SUBMITTED_WITH = "command_line"
"""The tag in which himl says what it was told to run."""

RawRun = Mapping[str, Any]
"""A run as the run history gives it."""


def as_run(raw: RawRun, *, experiment: str, address: WorkspaceAddress, tenant_id: str = "") -> Run:
    """The record of *raw*.

    The run history's answer has the command of a job in himl's own tag only, and its exit code in the words of its
    error; a command that completed ended with 0.
    """
    status = status_of(raw.get("status") or "")
    reason = _reason(raw) if status in _ENDED_BADLY else ""
    found = _EXIT_CODE.search(reason)
    traits = [str(trait).lower() for trait in (raw.get("runTypeV2") or {}).get("traits") or ()]
    is_command = COMMAND in traits and raw.get("target") != LOCAL_TARGET and not starts_jobs(raw)
    tags = user_tags(raw)
    return Run(
        id=raw["runId"],
        experiment=experiment,
        status=status,
        created=as_time(raw.get("createdUtc")) or datetime.fromtimestamp(0, timezone.utc),
        display_name=raw.get("displayName") or "",
        description=raw.get("description") or "",
        started=as_time(raw.get("startTimeUtc")),
        ended=as_time(raw.get("endTimeUtc")) if status.is_final else None,
        tags=tags,
        parent=raw.get("parentRunId") or None,
        exit_code=int(found[1]) if found else 0 if status is RunStatus.completed and is_command else None,
        reason=reason,
        command=tags.get(SUBMITTED_WITH) or raw.get("scriptName") or "",
        workspace=address.label,
        url=studio_url(raw["runId"], address, tenant_id),
    )


def starts_jobs(raw: RawRun) -> bool:
    """Whether the run's children are jobs of their own (a sweep, a pipeline, AutoML)."""
    properties, new_kind = raw.get("properties") or {}, raw.get("runTypeV2") or {}
    template = (properties.get("runTemplate") or "").lower()
    if "child" in template:  # AutoML's children carry the source of their parent
        return False
    kinds = (raw.get("runType"), new_kind.get("orchestrator"), template, properties.get("azureml.runsource"))
    return any(word in (kind or "").lower() for kind in kinds for word in STARTS_JOBS)


def user_tags(raw: RawRun) -> dict[str, str]:
    """The run's tags by name, without the service's own; those of MLflow stay, as in Studio. A sweep and its trials
    have himl's tags for that as well."""
    tags = raw.get("tags") or {}
    own = own_names(raw)
    told = {name: "" if tags[name] is None else str(tags[name]) for name in tags if name not in own}
    return dict(sorted((sweep_tags(raw) | told).items()))


def studio_url(run_id: str, address: WorkspaceAddress, tenant_id: str = "") -> str:
    """The run's page in Studio."""
    return address.studio_url(f"runs/{quote(run_id, safe='')}", tenant_id)


def _reason(raw: RawRun) -> str:
    """Why the run ended as it did, in one line and without secrets; "" where the service does not say."""
    body = raw.get("error") or {}
    error = body.get("error") or body
    message = _innermost(error.get("message") or "") or raw.get("cancelationReason") or error.get("code")
    limit = str((raw.get("properties") or {}).get(MAX_SECONDS) or "")
    started, ended = as_time(raw.get("startTimeUtc")), as_time(raw.get("endTimeUtc"))
    if not message and limit.isdecimal() and started and ended and (ended - started).total_seconds() >= int(limit):
        message = f"it ran for as long as --max_run_duration let it ({int(limit):,} s)"
    line = redact(" ".join((message or "").split()))
    return line if len(line) <= LONGEST_REASON else line[: LONGEST_REASON - 1] + "…"


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
