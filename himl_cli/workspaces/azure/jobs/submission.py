"""Submitting jobs and pipelines to Azure ML: everything that they refer to is found or made, each thing once and in an
order that wastes nothing, then one job is created."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import DataSpec, EnvironmentSpec, JobSpec, PipelineSpec, Snapshot, StepSpec
from himl_cli.core.redaction import mask_arguments, redact
from himl_cli.core.runs import Run
from himl_cli.workspaces.azure.cache import LONGEST_SECONDS
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.jobs.body import (
    JobReferences,
    PipelineNode,
    PutRequest,
    component_request,
    job_request,
    pipeline_request,
)
from himl_cli.workspaces.azure.jobs.code import CodeAsset, CodeAssets, folder_for
from himl_cli.workspaces.azure.jobs.command_line import check_names, command_line, script_line
from himl_cli.workspaces.azure.jobs.computes import check_compute, create_cluster, has_cluster
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
from himl_cli.workspaces.azure.jobs.environments import (
    UNCHANGED,
    EnvironmentAsset,
    JobEnvironment,
    environment_of,
)
from himl_cli.workspaces.azure.jobs.job_data import (
    FOLDER,
    INPUT_MODES,
    JobInput,
    of_step,
    own_inputs,
    pipeline_inputs,
    resolve_inputs,
    resolve_outputs,
)
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.storage.datastores import Datastores

UNCHANGED_CODE = "Code unchanged since an earlier submit: not uploaded again."
COMPONENTS = "components"
_AFTER, _DONE = "himl_after_", "himl_done"
"""What an input is called that a step has only to wait for another one, before the name of that; and the output that it
is bound to where there is no other."""


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
            notify(Notice(UNCHANGED))
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


def submit_pipeline(connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> Run:
    """Submit the pipeline. Until its job is created, an interruption leaves nothing that runs; it raises Interrupted.

    Raises BadUsage for a step that no cluster could run, and for files that Azure Storage cannot hold; NotFound for a
    compute, an environment or data that is not there, before anything is uploaded; NotAllowed, ServiceFailed.
    """
    run_id = spec.run_id or azure_run_id(spec.experiment)
    parts = _Parts(connection, datastores, spec, notify)
    with before_creation():
        tenant_id, data = parts.find()
        if spec.new_cluster is not None:  # it may cost money: nothing else may be left to be refused
            create_cluster(connection, spec.new_cluster, notify)
        parts.make()

    def create() -> Mapping[str, Any]:
        with before_creation():
            steps = parts.components(pipeline_nodes(spec, data))
            request = pipeline_request(connection.address, run_id, spec, steps)
            headers = user_token(connection)  # pipelines of azure-ai-ml always bring one
        return create_job(connection, run_id, request, headers)

    answer = create_or_renew(create, parts.renew)
    with created_job(run_id):
        command = redact(spec.command)
        return created_run(connection, run_id, answer, tenant_id, experiment=spec.experiment, command=command)


class _Parts:
    """Codes, environments and components of one pipeline's steps, each once."""

    def __init__(self, connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> None:
        """Raises BadUsage for steps that cannot be, without a request."""
        self._connection, self._datastores, self._spec, self._notify = connection, datastores, spec, notify
        self._registry = CodeAssets(connection)
        self._snapshots: dict[str, tuple[str, Snapshot]] = {}  # with the first step of each
        self._environments: dict[str, tuple[str, JobEnvironment]] = {}
        self._codes: dict[str, CodeAsset | None] = {}
        self._images: dict[str, EnvironmentAsset | None] = {}
        self._cached_components: dict[str, str] = {}  # ids, by key, of those that nobody was asked for
        for step in spec.steps:
            environment = environment_of(step.job)
            asset = JobEnvironment(connection, datastores, environment)
            self._snapshots.setdefault(_key(step.job.snapshot), (step.key, step.job.snapshot))
            self._environments.setdefault(_key(environment), (step.key, asset))
        pipeline_nodes(spec, placeholder_inputs(spec))  # raises for placeholders that name nothing
        for key, snapshot in self._snapshots.values():
            of_step(key, partial(folder_for, snapshot))

    def find(self) -> tuple[str, Mapping[tuple[str, str], JobInput]]:
        """The tenant, and data from outside. Asks for everything at once; nothing is uploaded or registered before all
        of it is known to be in order."""
        spec, heard = self._spec, list[Event]()  # on another thread
        nodes: dict[str, int] = {}  # by compute, the most that a step wants of it
        stores: set[str | None] = set()
        for step in spec.steps:
            nodes[step.job.cluster] = max(step.job.nodes, nodes.get(step.job.cluster, 1))
            default = step.job.default_datastore or spec.default_datastore
            stores |= {item.datastore or default for item in step.job.outputs}
        questions: list[Callable[[], Any]] = [lambda: self._connection.record().tenant_id]
        questions += [partial(of_step, key, one.find) for key, one in self._environments.values()]
        questions += [
            partial(of_step, key, partial(self._registry.find, snapshot)) for key, snapshot in self._snapshots.values()
        ]
        questions += [partial(self._check_compute, name, count, heard.append) for name, count in nodes.items()]
        questions += [partial(self._datastores.find, name) for name in sorted(name for name in stores if name)]
        tenant_id, *answers = ask_all(lambda ask: ask(), questions)
        for event in heard:
            self._notify(event)
        data = pipeline_inputs(self._connection, self._datastores, spec, self._notify)
        count = len(self._environments)
        self._images = dict(zip(self._environments, answers, strict=False))
        self._codes = dict(zip(self._snapshots, answers[count:], strict=False))
        return tenant_id, data

    def make(self) -> None:
        """Upload and register what is missing; a folder of the same contents as another one once."""
        if all(self._codes.values()):
            self._notify(Notice(UNCHANGED_CODE))
        if all(one is not None and one.is_cached for one in self._images.values()):
            self._notify(Notice(UNCHANGED))
        for key, (_, snapshot) in self._snapshots.items():
            code = self._codes[key] or self._registry.known(snapshot) or self._registry.upload(snapshot, self._notify)
            self._codes[key] = code
        for key, (_, environment) in self._environments.items():
            self._images[key] = self._images[key] or environment.register(self._notify)

    def components(self, steps: Sequence[PipelineNode]) -> list[tuple[PipelineNode, str]]:
        """*steps* with the ids of their components: those that are not known are registered, the same contents once.
        Raises as `Rest` does."""
        requests: list[PutRequest] = []
        for step in steps:
            code, image = self._codes[_key(step.spec.job.snapshot)], self._images[_key(environment_of(step.spec.job))]
            assert code is not None and image is not None
            requests.append(component_request(step, code.id, image.id))
        keys = [self._connection.key(f"component {one.api_version} {one.path}") for one in requests]
        by_key = dict(zip(keys, requests, strict=True))
        cached = {key: self._connection.kept.get(COMPONENTS, key) for key in by_key}
        self._cached_components = {key: id for key, id in cached.items() if isinstance(id, str) and id}
        new = [key for key in by_key if key not in self._cached_components]
        made = dict(zip(new, ask_all(lambda key: self._register(key, by_key[key]), new), strict=True))
        return [(step, self._cached_components.get(key) or made[key]) for step, key in zip(steps, keys, strict=True)]

    def renew(self) -> bool:
        """Make anew what was remembered and what the service has lost since; whether there was anything."""
        lost = [key for key, id in self._cached_components.items() if is_gone(self._connection, id)]
        for key in lost:
            self._connection.kept.forget(COMPONENTS, key)
        for key, (_, snapshot) in self._snapshots.items():
            code = self._codes[key]
            if code is not None and not code.is_new and is_gone(self._connection, code.id):
                self._registry.forget(snapshot)
                lost.append(key)
        for key, (_, environment) in self._environments.items():
            image = self._images[key]
            if image is not None and image.is_cached and is_gone(self._connection, image.id):
                environment.forget()
                lost.append(key)
        if lost:
            self.find()
            self.make()
        return bool(lost)

    def _register(self, key: str, request: PutRequest) -> str:
        """Register the component, and give the id that the service answers with: it may know these contents under
        another version."""
        url = self._connection.arm(quote(request.path))
        params = {"api-version": request.api_version}
        answer = self._connection.rest.send("PUT", url, params=params, json=request.body).body
        with understood(url, "the component"):
            id = str(answer["id"])
        self._connection.kept.put(COMPONENTS, key, id, seconds=LONGEST_SECONDS)
        return id

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


def pipeline_nodes(spec: PipelineSpec, data: Mapping[tuple[str, str], JobInput]) -> list[PipelineNode]:
    """The steps of *spec*, whose own inputs were found to be *data*, by the step's key and theirs.

    Raises BadUsage for a placeholder in a step's arguments that names nothing.
    """
    names = _node_names(spec.steps)
    return [of_step(step.key, partial(_pipeline_node, spec, step, names, data)) for step in spec.steps]


def placeholder_inputs(spec: PipelineSpec) -> dict[tuple[str, str], JobInput]:
    """Inputs that were not looked for: for checks of a pipeline before the first request."""
    return {
        (step.key, item.key): JobInput(FOLDER, "", INPUT_MODES[item.mode or "download"])
        for step in spec.steps
        for item in own_inputs(step)
    }


def _node_names(steps: Sequence[StepSpec]) -> dict[str, str]:
    """What the service is to call each step, by its key: small letters, digits and `_`, a letter first, no name
    twice."""
    names: dict[str, str] = {}
    for step in steps:
        plain = re.sub(r"[^a-z0-9_]", "_", step.key.lower())
        plain = plain if plain[:1].isalpha() else f"step_{plain}"
        name, number = plain, 1
        while name in names.values():
            number += 1
            name = f"{plain}_{number}"
        names[step.key] = name
    return names


def _pipeline_node(
    spec: PipelineSpec, step: StepSpec, names: Mapping[str, str], data: Mapping[tuple[str, str], JobInput]
) -> PipelineNode:
    def output_of(key: str, output: str, mode: str) -> JobInput:
        return JobInput(FOLDER, f"${{{{parent.jobs.{names[key]}.outputs.{output}}}}}", mode)

    inputs: dict[str, JobInput] = {}
    for item in step.job.inputs:
        source = step.takes.get(item.key)
        if source is None:
            inputs[item.key] = data[step.key, item.key]
        else:
            inputs[item.key] = output_of(source.step, source.output, INPUT_MODES[item.mode or "download"])
    outputs = {item.key: _output_folder(spec, step, item) for item in step.job.outputs}
    steps = {other.key: other for other in spec.steps}
    for key in _awaited(step):
        # the first output is there once the step is completed, whatever is in it
        others = steps[key].job.outputs
        inputs[f"{_AFTER}{names[key]}"] = output_of(key, others[0].key if others else _DONE, "direct")
    if not outputs and any(step.key in _awaited(other) for other in spec.steps):
        outputs[_DONE] = None
    name = step.name or step.key
    if any(other.key != step.key and (other.name or other.key) == name for other in spec.steps):
        name = f"{name} ({step.key})"
    return PipelineNode(step, names[step.key], name, command_line(step.job), inputs, outputs)


def _awaited(step: StepSpec) -> list[str]:
    """The keys of the steps that *step* waits for and takes nothing from."""
    sources = {output.step for output in step.takes.values()}
    return [key for key in step.after if key not in sources]


def _output_folder(spec: PipelineSpec, step: StepSpec, item: DataSpec) -> str | None:
    """Where a step's output goes: anew for each run (`${{name}}` is the step's), below what the service would choose by
    itself."""
    datastore = item.datastore or step.job.default_datastore
    if not datastore or datastore == spec.default_datastore:
        return None
    return f"azureml://datastores/{datastore}/paths/azureml/${{{{name}}}}/{item.key}/"


def _key(part: Snapshot | EnvironmentSpec) -> str:
    """What tells a snapshot or an environment from another one."""
    return hashlib.sha256(json.dumps(repr(part)).encode()).hexdigest()
