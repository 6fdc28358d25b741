"""A job that was just created, as a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

from himl_cli.core.jobs import JobSpec
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.requests.answers import understood
from himl_cli.workspaces.azure.requests.times import as_time
from himl_cli.workspaces.azure.runs.records import studio_url
from himl_cli.workspaces.azure.runs.states import status_of


def submitted_run(answer: Mapping[str, Any], connection: Connection, spec: JobSpec, tenant_id: str) -> Run:
    """The run that *answer*, the service's on the creation of *spec*, tells of; credentials in its command are masked."""
    with understood(connection.arm("/jobs"), "the job"):
        properties, run_id = answer["properties"], str(answer["name"])
        return Run(
            id=run_id,
            experiment=str(properties.get("experimentName") or spec.experiment),
            status=status_of(str(properties.get("status") or "")),
            created=as_time((answer.get("systemData") or {}).get("createdAt")) or datetime.now(timezone.utc),
            display_name=str(properties.get("displayName") or ""),
            description=str(properties.get("description") or ""),
            tags={name: str(value) for name, value in sorted((properties.get("tags") or {}).items())},
            command=command_text(replace(spec, arguments=mask_arguments(spec.arguments))),
            workspace=connection.address.label,
            url=studio_url(run_id, connection.address, tenant_id),
        )
