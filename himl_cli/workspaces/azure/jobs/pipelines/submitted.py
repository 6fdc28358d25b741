"""A pipeline that was just created, as a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from himl_cli.core.jobs import PipelineSpec
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.submitted import as_answered, waiting_run


def submitted_pipeline(
    answer: Mapping[str, Any], connection: Connection, spec: PipelineSpec, run_id: str, tenant_id: str
) -> Run:
    """The run that *answer*, the service's on the creation of *spec* as job *run_id*, tells of.

    Raises ServiceFailed, which names the job, for an answer that is not understood.
    """
    return as_answered(waiting_run(spec, redact(spec.command), run_id, connection, tenant_id), answer, connection)
