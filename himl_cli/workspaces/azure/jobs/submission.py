"""Submitting a job to Azure ML: everything it refers to is found or made, in an order that wastes nothing, then the job
is created."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import EnvironmentSpec, JobSpec
from himl_cli.core.runs import Run, new_run_id
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import before_creation
from himl_cli.workspaces.azure.jobs.code import CodeAssets
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.jobs.command_text import command_text
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.data import resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.jobs.environments import EnvironmentAsset, JobEnvironment, say_unchanged
from himl_cli.workspaces.azure.jobs.forms import CodeAsset, JobInput, JobOutput
from himl_cli.workspaces.azure.jobs.job_form import JobForm, shape_of, texts_of
from himl_cli.workspaces.azure.jobs.lost import create_or_renew, is_gone
from himl_cli.workspaces.azure.jobs.sdk import loading_sdk
from himl_cli.workspaces.azure.jobs.sending import acting_as_user, create_job, created_job
from himl_cli.workspaces.azure.jobs.submitted import submitted_run
from himl_cli.workspaces.azure.jobs.sweeps import check_names, outputs_for
from himl_cli.workspaces.azure.jobs.templates import Templates
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.storage.datastores import Datastores


@dataclass(frozen=True)
class _Found:
    """What the service has of what a job refers to; None has to be made."""

    tenant_id: str
    inputs: Mapping[str, JobInput]
    outputs: Mapping[str, JobOutput]
    environment: EnvironmentAsset | None
    code: CodeAsset | None


@dataclass(frozen=True)
class _Ready:
    """A job with all that it refers to, and the request that creates it: the version of the service and a body."""

    found: _Found
    code: CodeAsset
    environment: EnvironmentAsset
    form: JobForm
    request: tuple[str, Mapping[str, Any]]


class Submission:
    """One job on its way. `run` may be called once."""

    def __init__(self, connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> None:
        """Raises BadUsage for a job that no cluster could run, and for files that Azure Storage cannot hold."""
        self._connection = connection
        self._datastores = datastores
        self._spec = spec
        self._notify = notify
        self._run_id = azure_run_id(spec.experiment)
        self._codes = CodeAssets(connection)
        self._environment = JobEnvironment(connection, datastores, environment_of(spec))
        self._templates = Templates(connection.kept, connection.address)
        if spec.sweep is not None:
            check_names(spec.sweep)
        command_text(spec)  # raises for placeholders that name nothing
        folder_for(spec.snapshot)

    def run(self) -> Run:
        """Submit the job. Until the job itself is created, an interruption leaves nothing that runs; it raises
        Interrupted.

        Raises NotFound for a compute, an environment or data that is not there, before anything is uploaded; BadUsage,
        NotAllowed, ServiceFailed.
        """
        with before_creation():
            ready = self._prepared()
        created, ready = create_or_renew(ready, self._create, self._renewed)
        with created_job(self._run_id):
            return submitted_run(created, self._connection, self._spec, self._run_id, ready.found.tenant_id)

    def _create(self, ready: _Ready) -> Mapping[str, Any]:
        api_version, body = ready.request
        with before_creation():
            headers = acting_as_user(self._connection, body)
        return create_job(self._connection, self._run_id, api_version, body, headers)

    def _prepared(self) -> _Ready:
        found = self._find()
        if found.code is not None:
            self._notify(Notice("Code unchanged since an earlier submit: not uploaded again."))
        if found.environment is not None and found.environment.is_kept:
            say_unchanged(self._notify)
        code = found.code or self._uploaded(found)
        environment = found.environment or self._environment.register(self._notify)
        return self._ready(found, code, environment)

    def _uploaded(self, found: _Found) -> CodeAsset:
        """The code, uploaded; azure-ai-ml is loaded meanwhile where it will be needed."""
        shape = shape_of(self._spec, found.inputs, found.outputs)
        is_sdk_needed = found.environment is None or not self._templates.is_kept(shape)
        with loading_sdk() if is_sdk_needed else nullcontext():
            return self._codes.upload(self._spec.snapshot, self._notify)

    def _renewed(self, ready: _Ready) -> _Ready | None:
        """The job without what was remembered of it where the service has lost that since; None where the request stays
        the same."""
        code, environment = ready.code, ready.environment
        if not code.is_new and is_gone(self._connection, code.id):
            self._codes.forget(self._spec.snapshot)
            code = self._codes.upload(self._spec.snapshot, self._notify)
        if environment.is_kept and is_gone(self._connection, environment.id):
            self._environment.forget()
            environment = self._environment.register(self._notify)
        self._templates.forget(ready.form.shape)
        again = self._ready(ready.found, code, environment)
        return None if again.request == ready.request else again

    def _ready(self, found: _Found, code: CodeAsset, environment: EnvironmentAsset) -> _Ready:
        texts = texts_of(self._spec, self._run_id, code.id, environment.id, found.inputs, found.outputs)
        form = JobForm(shape_of(self._spec, found.inputs, found.outputs), texts)
        return _Ready(found, code, environment, form, self._templates.request(form))

    def _find(self) -> _Found:
        """Ask for everything at once; nothing is uploaded or registered before all of it is known to be in order."""
        spec, connection = self._spec, self._connection
        heard: list[Event] = []  # on another thread
        questions: list[Callable[[], Any]] = [
            lambda: check_compute(connection, spec.cluster, spec.nodes, heard.append),
            lambda: connection.record().tenant_id,
            self._environment.find,
            lambda: self._codes.find(spec.snapshot),
            lambda: resolve_outputs(connection, self._datastores, spec.outputs, spec.default_datastore, heard.append),
        ]
        _, tenant_id, environment, code, outputs = ask_all(lambda ask: ask(), questions)
        for event in heard:
            self._notify(event)
        inputs = resolve_inputs(connection, self._datastores, spec.inputs, spec.default_datastore, self._notify)
        return _Found(tenant_id, inputs, outputs_for(spec, outputs, self._notify), environment, code)


def azure_run_id(experiment: str) -> str:
    """A new run id that the service takes as a job's name: it begins with a letter or digit, and has 255 characters at
    most."""
    return new_run_id(re.sub(r"^[^A-Za-z0-9]+", "", experiment) or "job")


def environment_of(spec: JobSpec) -> EnvironmentSpec:
    """The environment of a job for a cluster. Raises BadUsage where it has none."""
    if spec.environment is None or not (spec.environment.name or spec.environment.image or spec.environment.context):
        raise BadUsage(
            "A job on a cluster needs an environment.",
            hint="Name a conda file with --conda_env, or a registered environment with --environment.",
        )
    return spec.environment
