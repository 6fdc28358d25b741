"""Submitting a job to Azure ML: everything it refers to is found or made, in an order that wastes nothing, then the job
is created."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import JobSpec
from himl_cli.core.redaction import mask_arguments
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.jobs.body import JobReferences, job_request
from himl_cli.workspaces.azure.jobs.code import CodeAssets, folder_for
from himl_cli.workspaces.azure.jobs.command_line import check_names, command_line, script_line
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.create import (
    azure_run_id,
    before_creation,
    create_job,
    create_or_renew,
    created_job,
    created_run,
    is_gone,
    user_token,
)
from himl_cli.workspaces.azure.jobs.environments import JobEnvironment, environment_of, notify_unchanged
from himl_cli.workspaces.azure.jobs.job_data import resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.storage.datastores import Datastores

UNCHANGED_CODE = "Code unchanged since an earlier submit: not uploaded again."


def submit_job(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit the job. Until the job itself is created, an interruption leaves nothing that runs; it raises Interrupted.

    Raises BadUsage for a job that no cluster could run, and for files that Azure Storage cannot hold; NotFound for a
    compute, an environment or data that is not there, before anything is uploaded; NotAllowed, ServiceFailed.
    """
    run_id, codes = azure_run_id(spec.experiment), CodeAssets(connection)
    registry = JobEnvironment(connection, datastores, environment_of(spec))
    if spec.sweep is not None:
        check_names(spec.sweep)
    command_line(spec)  # raises for placeholders that name nothing
    folder_for(spec.snapshot)
    heard: list[Event] = []  # on another thread

    def outputs_of_job() -> Any:
        default, is_sweep = spec.default_datastore, spec.sweep is not None
        return resolve_outputs(connection, datastores, spec.outputs, default, heard.append, are_of_trials=is_sweep)

    with before_creation():
        # everything is asked for at once; nothing is uploaded or registered before all of it is known to be in order
        questions: list[Callable[[], Any]] = [
            lambda: check_compute(connection, spec.cluster, spec.nodes, heard.append),
            lambda: connection.record().tenant_id,
            registry.find,
            lambda: codes.find(spec.snapshot),
            outputs_of_job,
        ]
        _, tenant_id, environment, code, outputs = ask_all(lambda ask: ask(), questions)
        for event in heard:
            notify(event)
        inputs = resolve_inputs(connection, datastores, spec.inputs, spec.default_datastore, notify)
        if code is not None:
            notify(Notice(UNCHANGED_CODE))
        if environment is not None and environment.is_cached:
            notify_unchanged(notify)
        code = code or codes.upload(spec.snapshot, notify)
        environment = environment or registry.register(notify)

    def create() -> Mapping[str, Any]:
        with before_creation():
            headers = user_token(connection) if spec.identity == "user" else {}
            references = JobReferences(code.id, environment.id, inputs, outputs)
            request = job_request(connection.address, run_id, spec, references)
        return create_job(connection, run_id, request, headers)

    def renew() -> bool:
        """Make anew what was remembered and the service has lost since; whether there was anything."""
        nonlocal code, environment
        is_lost = False
        if not code.is_new and is_gone(connection, code.id):
            codes.forget(spec.snapshot)
            code, is_lost = codes.upload(spec.snapshot, notify), True
        if environment.is_cached and is_gone(connection, environment.id):
            registry.forget()
            environment, is_lost = registry.register(notify), True
        return is_lost

    answer = create_or_renew(create, renew)
    with created_job(run_id):
        command = script_line(replace(spec, arguments=mask_arguments(spec.arguments)))
        return created_run(connection, run_id, answer, tenant_id, experiment=spec.experiment, command=command)
