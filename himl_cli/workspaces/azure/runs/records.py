"""From what the service says of a run to our record of it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run, RunStatus
from himl_cli.core.text import read_json
from himl_cli.workspaces.azure.places.address import WorkspaceAddress
from himl_cli.workspaces.azure.requests.times import as_time
from himl_cli.workspaces.azure.runs.limits import limit_reached
from himl_cli.workspaces.azure.runs.states import LOCAL_TARGET, status_of
from himl_cli.workspaces.azure.runs.sweep_tags import own_names, sweep_tags

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
    return Run(
        id=raw["runId"],
        experiment=experiment,
        status=status,
        created=as_time(raw.get("createdUtc")) or datetime.fromtimestamp(0, timezone.utc),
        display_name=raw.get("displayName") or "",
        description=raw.get("description") or "",
        started=as_time(raw.get("startTimeUtc")),
        ended=as_time(raw.get("endTimeUtc")) if status.is_final else None,
        tags=user_tags(raw),
        parent=raw.get("parentRunId") or None,
        exit_code=int(found[1]) if found else 0 if status is RunStatus.completed and _is_command(raw) else None,
        reason=reason,
        command=user_tags(raw).get(SUBMITTED_WITH) or raw.get("scriptName") or "",
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


def _is_command(raw: RawRun) -> bool:
    """Whether the run is a job that runs a command, which alone has an exit code."""
    traits = [str(trait).lower() for trait in (raw.get("runTypeV2") or {}).get("traits") or ()]
    return COMMAND in traits and raw.get("target") != LOCAL_TARGET and not starts_jobs(raw)


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
    message = (
        _innermost(error.get("message") or "")
        or raw.get("cancelationReason")
        or error.get("code")
        or limit_reached(raw)
    )
    line = redact(" ".join(message.split()))
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
