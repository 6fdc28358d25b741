"""A job that was just created, as a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from himl_cli.core.errors import ServiceFailed
from himl_cli.core.jobs import JobSpec, PipelineSpec
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.command_text import script_text
from himl_cli.workspaces.azure.jobs.sending import tells
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.times import as_time
from himl_cli.workspaces.azure.runs.records import studio_url, user_tags
from himl_cli.workspaces.azure.runs.states import status_of


def run_of(spec: JobSpec, run_id: str, connection: Connection, tenant_id: str) -> Run:
    """The run that *spec* has become, by what is known here: it waits. Credentials in its command are masked."""
    return waiting_run(
        spec, script_text(replace(spec, arguments=mask_arguments(spec.arguments))), run_id, connection, tenant_id
    )


def waiting_run(spec: JobSpec | PipelineSpec, command: str, run_id: str, connection: Connection, tenant_id: str) -> Run:
    """A run that was just made of *spec* and waits; *command* is what it shows as its command, credentials masked."""
    return Run(
        id=run_id,
        experiment=spec.experiment,
        status=RunStatus.queued,
        created=datetime.now(timezone.utc),
        display_name=spec.display_name,
        description=spec.description,
        tags={name: spec.tags[name] for name in sorted(spec.tags)},
        command=command,
        workspace=connection.address.label,
        url=studio_url(run_id, connection.address, tenant_id),
    )


def submitted_run(answer: Mapping[str, Any], connection: Connection, spec: JobSpec, run_id: str, tenant_id: str) -> Run:
    """The run that *answer*, the service's on the creation of *spec* as job *run_id*, tells of.

    Raises ServiceFailed, which names the job, for an answer that is not understood.
    """
    return as_answered(run_of(spec, run_id, connection, tenant_id), answer, connection)


def as_answered(known: Run, answer: Mapping[str, Any], connection: Connection) -> Run:
    """*known*, a run that was just created, with what the service's *answer* says of it. Raises ServiceFailed as
    `submitted_run` does."""
    try:
        with understood(connection.arm("/jobs"), "the job"):
            properties = answer["properties"]
            return replace(
                known,
                experiment=str(properties.get("experimentName") or known.experiment),
                status=status_of(str(properties.get("status") or "")),
                created=as_time((answer.get("systemData") or {}).get("createdAt")) or known.created,
                display_name=str(properties.get("displayName") or ""),
                description=str(properties.get("description") or ""),
                tags=user_tags(
                    {"runId": known.id, "tags": properties.get("tags"), "properties": properties.get("properties")}
                ),
            )
    except ServiceFailed as err:
        raise ServiceFailed(f"Job '{known.id}' was created, but: {err}", hint=tells(known.id)) from err
