"""Submitting a job of Azure ML's YAML: azure-ai-ml reads it and makes ready what it refers to, himl sends the job
itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import redirect_stderr
from datetime import datetime, timezone
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import DocumentChanges
from himl_cli.core.redaction import redact
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import before_creation
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, silenced
from himl_cli.workspaces.azure.jobs.sending import USER_TOKEN, create_job, created_job
from himl_cli.workspaces.azure.jobs.submission import azure_run_id
from himl_cli.workspaces.azure.jobs.submitted import as_answered
from himl_cli.workspaces.azure.runs.records import studio_url


def submit_document(connection: Connection, path: Path, changes: DocumentChanges, notify: Notify) -> Run:
    """Start the job of the file. Code, environments and data that it names by paths are uploaded and registered by
    azure-ai-ml.

    Until the job is created, an interruption leaves nothing that runs; it raises Interrupted. Raises BadUsage for what
    is wrong with the file, NotFound for a compute that is not there, before anything is uploaded; NotAllowed,
    ServiceFailed.
    """
    with before_creation():
        load_sdk()
        from himl_cli.workspaces.azure.jobs.documents.reading import computes_of, read_job

        run_id = azure_run_id(changes.experiment or path.stem)
        job = read_job(path, changes, run_id)
        for name in computes_of(job):
            check_compute(connection, name, notify=notify)
        tenant_id = connection.record().tenant_id
        request = _made_ready(connection, path, job, changes, notify)
    parts = urlsplit(request.url)
    token = {USER_TOKEN: request.headers[USER_TOKEN]} if request.headers.get(USER_TOKEN) else {}
    answer = create_job(connection, run_id, parse_qs(parts.query)["api-version"][0], json.loads(request.body), token)
    with created_job(run_id):
        return as_answered(_known(connection, changes, job, run_id, tenant_id), answer, connection)


def _made_ready(connection: Connection, path: Path, job: Any, changes: DocumentChanges, notify: Notify) -> Any:
    """The request that creates the job, all that it refers to being there."""
    from himl_cli.workspaces.azure.jobs.documents.client import made_ready
    from himl_cli.workspaces.azure.jobs.documents.reading import complaints_of

    notify(Notice("azure-ai-ml uploads what the file names."))
    with (
        complaints_of(path),
        silenced(),
        redirect_stderr(StringIO()),
    ):  # it prints blank lines there, whatever it is told of progress
        return made_ready(
            connection, lambda client: client.jobs.create_or_update(job), changes.is_secret, notify
        ).request


def _known(connection: Connection, changes: DocumentChanges, job: Any, run_id: str, tenant_id: str) -> Run:
    tags: Mapping[str, str] = {name: str(value) for name, value in sorted((job.tags or {}).items())}
    return Run(
        id=run_id,
        experiment=job.experiment_name,
        status=RunStatus.queued,
        created=datetime.now(timezone.utc),
        display_name=job.display_name or "",
        description=job.description or "",
        tags=dict(tags),
        command=redact(changes.command),
        workspace=connection.address.label,
        url=studio_url(run_id, connection.address, tenant_id),
    )
