"""A pipeline that was just created, as a run."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from himl_cli.core.pipelines import PipelineSpec
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.submitted import as_answered
from himl_cli.workspaces.azure.runs.records import studio_url


def submitted_pipeline(answer: Mapping[str, Any], connection: Connection, spec: PipelineSpec, run_id: str, tenant_id: str) -> Run:
    """The run that *answer*, the service's on the creation of *spec* as job *run_id*, tells of.

    Raises ServiceFailed, which names the job, for an answer that is not understood.
    """
    known = Run(
        id=run_id,
        experiment=spec.experiment,
        status=RunStatus.queued,
        created=datetime.now(timezone.utc),
        display_name=spec.display_name,
        description=spec.description,
        tags={name: spec.tags[name] for name in sorted(spec.tags)},
        command=redact(spec.command),
        workspace=connection.address.label,
        url=studio_url(run_id, connection.address, tenant_id),
    )
    return as_answered(known, answer, connection)
