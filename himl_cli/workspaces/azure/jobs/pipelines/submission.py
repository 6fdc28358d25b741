"""Submitting a pipeline to Azure ML: everything that its steps refer to is found or made, each thing once, then one job
is created."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import JobSpec, PipelineSpec, Snapshot, StepSpec
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.before_creation import before_creation
from himl_cli.workspaces.azure.jobs.code import CodeAssets
from himl_cli.workspaces.azure.jobs.code_upload import folder_for
from himl_cli.workspaces.azure.jobs.computes import check_compute
from himl_cli.workspaces.azure.jobs.environments import EnvironmentAsset, JobEnvironment, say_unchanged
from himl_cli.workspaces.azure.jobs.forms import CodeAsset
from himl_cli.workspaces.azure.jobs.lost import create_or_renew, is_gone
from himl_cli.workspaces.azure.jobs.new_clusters import create_cluster, has_cluster
from himl_cli.workspaces.azure.jobs.pipelines.components import Components
from himl_cli.workspaces.azure.jobs.pipelines.data import Places, check_outputs, placeholder_inputs, step_inputs
from himl_cli.workspaces.azure.jobs.pipelines.forms import StepForm, of_step, step_forms
from himl_cli.workspaces.azure.jobs.pipelines.submitted import submitted_pipeline
from himl_cli.workspaces.azure.jobs.sdk import load_sdk, loading_sdk
from himl_cli.workspaces.azure.jobs.sending import create_job, created_job, user_token
from himl_cli.workspaces.azure.jobs.submission import azure_run_id, environment_of
from himl_cli.workspaces.azure.requests.threads import ask_all
from himl_cli.workspaces.azure.storage.datastores import Datastores


@dataclass(frozen=True)
class _Found:
    """What the service has of what the steps refer to, in the order of codes and environments; None has to be made."""

    tenant_id: str
    data: Places
    codes: Sequence[CodeAsset | None]
    environments: Sequence[EnvironmentAsset | None]


@dataclass(frozen=True)
class _Made:
    """All that the steps refer to."""

    found: _Found
    codes: Sequence[CodeAsset]
    environments: Sequence[EnvironmentAsset]


class PipelineSubmission:
    """One pipeline on its way. `run` may be called once."""

    def __init__(self, connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> None:
        """Raises BadUsage for a step that no cluster could run, and for files that Azure Storage cannot hold."""
        self._connection = connection
        self._datastores = datastores
        self._spec = spec
        self._notify = notify
        self._run_id = spec.run_id or azure_run_id(spec.experiment)
        self._codes = CodeAssets(connection)
        self._snapshots = _distinct(spec.steps, _snapshot_of)
        self._environments = {
            key: JobEnvironment(connection, datastores, one)
            for key, one in _distinct(spec.steps, environment_of).items()
        }
        self._components = Components(connection)
        step_forms(spec, placeholder_inputs(spec))  # raises for placeholders that name nothing
        for key, snapshot in self._snapshots.items():
            of_step(self._first(_snapshot_of, key), partial(folder_for, snapshot))

    def run(self) -> Run:
        """Submit the pipeline. Until its job is created, an interruption leaves nothing that runs; it raises
        Interrupted.

        Raises NotFound for a compute, an environment or data that is not there, before anything is uploaded; BadUsage,
        NotAllowed, ServiceFailed.
        """
        with before_creation():
            found = self._find()
            self._make_cluster()
            made = self._prepared(found)
        created, made = create_or_renew(made, self._create, self._renewed)
        with created_job(self._run_id):
            return submitted_pipeline(created, self._connection, self._spec, self._run_id, made.found.tenant_id)

    def _find(self) -> _Found:
        """Ask for everything at once; nothing is uploaded or registered before all of it is known to be in order."""
        connection = self._connection
        heard: list[Event] = []  # on another thread
        computes: dict[str, int] = {}  # with the most nodes that a step wants of it
        for job in (step.job for step in self._spec.steps):
            computes[job.cluster] = max(job.nodes, computes.get(job.cluster, 1))
        checks: list[Callable[[], Any]] = [
            partial(self._check_compute, name, nodes, heard.append) for name, nodes in computes.items()
        ]
        checks += [lambda: connection.record().tenant_id, lambda: check_outputs(self._datastores, self._spec)]
        environments: list[Callable[[], Any]] = [
            partial(of_step, self._first(environment_of, key), one.find) for key, one in self._environments.items()
        ]
        codes: list[Callable[[], Any]] = [
            partial(of_step, self._first(_snapshot_of, key), partial(self._codes.find, one))
            for key, one in self._snapshots.items()
        ]
        answers = ask_all(lambda ask: ask(), [*checks, *environments, *codes])
        for event in heard:
            self._notify(event)
        rest = answers[len(checks) :]
        data = step_inputs(connection, self._datastores, self._spec, self._notify)
        return _Found(answers[len(computes)], data, rest[len(environments) :], rest[: len(environments)])

    def _check_compute(self, name: str, nodes: int, notify: Notify) -> None:
        """Raises NotFound, unless it is the cluster that is to be made, and BadUsage naming the step."""
        new = self._spec.new_cluster
        if new is not None and new.name == name and not has_cluster(self._connection, name):
            return
        try:
            check_compute(self._connection, name, nodes, notify)
        except NotFound as err:
            err.hint = f"{err.hint} --create_cluster makes it.".strip()
            raise
        except BadUsage as err:
            step = next(
                step.key
                for step in self._spec.steps
                if (step.job.cluster, step.job.nodes) == (name, max(step.job.nodes, nodes))
            )
            raise BadUsage(str(err).replace("--num_nodes", f"{step}: 'node_count'"), hint=err.hint) from err

    def _make_cluster(self) -> None:
        """Make the cluster that is to be made: it may cost money, so nothing else may be left to be refused."""
        if self._spec.new_cluster is not None:
            create_cluster(self._connection, self._spec.new_cluster, self._notify)

    def _prepared(self, found: _Found) -> _Made:
        """Upload and register what is missing."""
        if all(found.codes):
            self._notify(Notice("Code unchanged since an earlier submit: not uploaded again."))
        if all(one is not None and one.is_kept for one in found.environments):
            say_unchanged(self._notify)
        with nullcontext() if all(found.codes) else loading_sdk():
            codes = [
                known or self._uploaded(snapshot)
                for known, snapshot in zip(found.codes, self._snapshots.values(), strict=True)
            ]
        environments = [
            known or one.register(self._notify)
            for known, one in zip(found.environments, self._environments.values(), strict=True)
        ]
        return _Made(found, codes, environments)

    def _uploaded(self, snapshot: Snapshot) -> CodeAsset:
        """The code version of *snapshot*, uploaded unless another folder of the same contents was a moment ago."""
        return self._codes.known(snapshot) or self._codes.upload(snapshot, self._notify)

    def _create(self, made: _Made) -> Mapping[str, Any]:
        with before_creation():
            load_sdk()
            from himl_cli.workspaces.azure.jobs.pipelines.builder import build_pipeline

            forms = step_forms(self._spec, made.found.data)
            tags = {**self._spec.tags, "run_recovery_id": f"{self._spec.experiment}:{self._run_id}"}
            components = self._components.of([(form, *self._parts(form, made)) for form in forms])
            built = build_pipeline(
                self._connection.address, self._spec, self._run_id, tags, list(zip(forms, components, strict=True))
            )
            headers = user_token(self._connection)  # pipelines of azure-ai-ml always bring one
        return create_job(self._connection, self._run_id, built.api_version, built.body, headers)

    def _parts(self, form: StepForm, made: _Made) -> tuple[str, str]:
        """The ids of the step's code and environment."""
        job = form.spec.job
        codes = dict(zip(self._snapshots, made.codes, strict=True))
        environments = dict(zip(self._environments, made.environments, strict=True))
        return codes[_key(_snapshot_of(job))].id, environments[_key(environment_of(job))].id

    def _renewed(self, made: _Made) -> _Made | None:
        """The pipeline without what the service has lost of it; None where that is nothing."""
        return self._prepared(self._find()) if self._forget_lost(made) else None

    def _forget_lost(self, made: _Made) -> bool:
        """Drop what was remembered and what the service has lost since; whether there was anything."""
        lost = self._components.forget_lost(partial(is_gone, self._connection))
        for code, snapshot in zip(made.codes, self._snapshots.values(), strict=True):
            if not code.is_new and is_gone(self._connection, code.id):
                self._codes.forget(snapshot)
                lost = True
        for asset, environment in zip(made.environments, self._environments.values(), strict=True):
            if asset.is_kept and is_gone(self._connection, asset.id):
                environment.forget()
                lost = True
        return lost

    def _first(self, part: Callable[[JobSpec], Any], key: str) -> str:
        """The key of the first step whose *part* has this *key*."""
        return next(step.key for step in self._spec.steps if _key(part(step.job)) == key)


def _snapshot_of(job: JobSpec) -> Snapshot:
    return job.snapshot


def _distinct(steps: Sequence[StepSpec], part: Callable[[JobSpec], Any]) -> dict[str, Any]:
    """The parts of the steps, each once, by what tells it from others."""
    return {_key(part(step.job)): part(step.job) for step in steps}


def _key(part: Any) -> str:
    """What tells a snapshot or an environment from another one."""
    return hashlib.sha256(json.dumps(repr(part)).encode()).hexdigest()
