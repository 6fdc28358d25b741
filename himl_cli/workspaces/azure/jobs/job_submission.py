"""Submitting jobs and pipelines to Azure ML: everything that they refer to is found or made, each thing once and in an
order that wastes nothing, then one job is created."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.jobs import JobSpec, PipelineSpec, StepSpec
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
from himl_cli.workspaces.azure.jobs.code import JobAsset, JobCode, folder_for
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
from himl_cli.workspaces.azure.jobs.data_assets import (
    FOLDER,
    INPUT_MODES,
    JobInput,
    of_step,
    own_inputs,
    pipeline_inputs,
    resolve_inputs,
    resolve_outputs,
)
from himl_cli.workspaces.azure.jobs.environments import JobEnvironment, environment_of
from himl_cli.workspaces.azure.responses import understood
from himl_cli.workspaces.azure.storage.datastores import Datastores

COMPONENTS = "components"
_AFTER, _DONE = "himl_after_", "himl_done"
"""What an input is called that a step has only to wait for another one, before the name of that; and the output that it
is bound to where there is no other."""


def submit_job(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit the job. Until the job itself is created, an interruption leaves nothing that runs; it raises Interrupted.

    Raises BadUsage for a job that no cluster could run, and for files that Azure Storage cannot hold; NotFound for a
    compute, an environment or data that is not there, before anything is uploaded; NotAllowed, ServiceFailed.
    """
    run_id = azure_run_id(spec.experiment)
    code, environment = parts = (
        _Part(JobCode(connection, spec.snapshot)),
        _Part(JobEnvironment(connection, datastores, environment_of(spec))),
    )
    if spec.sweep is not None:
        check_names(spec.sweep)
    command_line(spec)  # raises for placeholders that name nothing
    folder_for(spec.snapshot)
    heard: list[Event] = []  # on another thread
    default, is_sweep = spec.default_datastore, spec.sweep is not None
    with before_creation():
        # everything is asked for at once; nothing is uploaded or registered before all of it is known to be in order
        questions: list[Callable[[], Any]] = [
            lambda: check_compute(connection, spec.cluster, spec.nodes, heard.append),
            lambda: connection.record().tenant_id,
            environment.find,
            code.find,
            lambda: resolve_outputs(
                connection, datastores, spec.outputs, default, heard.append, are_of_trials=is_sweep
            ),
        ]
        _, tenant_id, _, _, outputs = ask_all(lambda ask: ask(), questions)
        for event in heard:
            notify(event)
        inputs = resolve_inputs(connection, datastores, spec.inputs, default, notify)
        _make(parts, notify)

    def create() -> Mapping[str, Any]:
        with before_creation():
            headers = user_token(connection) if spec.identity == "user" else {}
            references = JobReferences(code.id, environment.id, inputs, outputs)
            request = job_request(connection.address, run_id, spec, references)
        return create_job(connection, run_id, request, headers)

    def renew() -> bool:
        """Make anew what was cached and the service has lost since; whether there was anything."""
        lost = [part.drop_lost(connection) for part in parts]
        for part in parts:
            part.make(notify)
        return any(lost)

    answer = create_or_renew(create, renew)
    with created_job(run_id):
        command = script_line(replace(spec, arguments=mask_arguments(spec.arguments)))
        return created_run(connection, run_id, answer, tenant_id, experiment=spec.experiment, command=command)


@dataclass
class _Part:
    """Code or an environment that a job refers to; in a pipeline `step` is the first one that does."""

    source: JobCode | JobEnvironment
    step: str = ""
    asset: JobAsset | None = None

    @property
    def id(self) -> str:
        assert self.asset is not None
        return self.asset.id

    def find(self) -> None:
        self.asset = of_step(self.step, self.source.find) if self.step else self.source.find()

    def make(self, notify: Notify) -> None:
        """Upload and register it, unless it was found, or another part with the same contents was made."""
        self.asset = self.asset or self.source.cached() or self.source.register(notify)

    def drop_lost(self, connection: Connection) -> bool:
        """Forget what was cached and the service has lost since; whether that was so."""
        is_lost = self.asset is not None and self.asset.is_cached and is_gone(connection, self.asset.id)
        if is_lost:
            self.source.forget()
            self.asset = None
        return is_lost


def _make(parts: Collection[_Part], notify: Notify) -> None:
    """Upload and register what was not found; *notify* hears what kinds of parts are all of an earlier submit."""
    kinds = [[part for part in parts if isinstance(part.source, kind)] for kind in (JobCode, JobEnvironment)]
    for one in kinds:
        if all(part.asset is not None and part.asset.is_cached for part in one):
            notify(Notice(one[0].source.unchanged))
    for part in (*kinds[0], *kinds[1]):
        part.make(notify)


def submit_pipeline(connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> Run:
    """Submit the pipeline. Until its job is created, an interruption leaves nothing that runs; it raises Interrupted.

    Raises BadUsage for a step that no cluster could run, and for files that Azure Storage cannot hold; NotFound for a
    compute, an environment or data that is not there, before anything is uploaded; NotAllowed, ServiceFailed.
    """
    run_id = spec.run_id or azure_run_id(spec.experiment)
    parts = _PipelineParts(connection, datastores, spec, notify)
    with before_creation():
        tenant_id, data = parts.find()
        if spec.new_cluster is not None:  # it may cost money: nothing else may be left to be refused
            create_cluster(connection, spec.new_cluster, notify)
        _make(parts.all.values(), notify)

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


class _PipelineParts:
    """Codes, environments and components of one pipeline's steps, each once."""

    def __init__(self, connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> None:
        """Raises BadUsage for steps that cannot be, without a request."""
        self._connection, self._datastores, self._spec, self._notify = connection, datastores, spec, notify
        self.all: dict[str, _Part] = {}
        self._cached_components: dict[str, str] = {}  # ids, by key, of those that nobody was asked for
        for step in spec.steps:
            environment = environment_of(step.job)
            self.all.setdefault(repr(environment), _Part(JobEnvironment(connection, datastores, environment), step.key))
        for step in spec.steps:
            snapshot = step.job.snapshot
            self.all.setdefault(repr(snapshot), _Part(JobCode(connection, snapshot), step.key))
        pipeline_nodes(spec, placeholder_inputs(spec))  # raises for placeholders that name nothing
        for step in spec.steps:
            of_step(step.key, partial(folder_for, step.job.snapshot))

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
        questions += [part.find for part in self.all.values()]
        questions += [partial(self._check_compute, name, count, heard.append) for name, count in nodes.items()]
        questions += [partial(self._datastores.find, name) for name in sorted(name for name in stores if name)]
        tenant_id, *_ = ask_all(lambda ask: ask(), questions)
        for event in heard:
            self._notify(event)
        return tenant_id, pipeline_inputs(self._connection, self._datastores, spec, self._notify)

    def components(self, steps: Sequence[PipelineNode]) -> list[tuple[PipelineNode, str]]:
        """*steps* with the ids of their components: those that are not known are registered, the same contents once.
        Raises as `Rest` does."""
        requests: list[PutRequest] = []
        for step in steps:
            code, environment = self.all[repr(step.spec.job.snapshot)], self.all[repr(environment_of(step.spec.job))]
            requests.append(component_request(step, code.id, environment.id))
        keys = [self._connection.key(f"component {one.api_version} {one.path}") for one in requests]
        by_key = dict(zip(keys, requests, strict=True))
        cached = {key: self._connection.kept.get(COMPONENTS, key) for key in by_key}
        self._cached_components = {key: id for key, id in cached.items() if isinstance(id, str) and id}
        new = [key for key in by_key if key not in self._cached_components]
        made = dict(zip(new, ask_all(lambda key: self._register(key, by_key[key]), new), strict=True))
        return [(step, self._cached_components.get(key) or made[key]) for step, key in zip(steps, keys, strict=True)]

    def renew(self) -> bool:
        """Make anew what was cached and what the service has lost since; whether there was anything."""
        gone = [key for key, id in self._cached_components.items() if is_gone(self._connection, id)]
        for key in gone:
            self._connection.kept.forget(COMPONENTS, key)
        lost = [part.drop_lost(self._connection) for part in self.all.values()]
        for part in self.all.values():
            part.make(self._notify)
        return bool(gone) or any(lost)

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
    outputs: dict[str, str | None] = {}
    for item in step.job.outputs:
        datastore = item.datastore or step.job.default_datastore
        is_usual = not datastore or datastore == spec.default_datastore
        # else anew for each run (`${{name}}` is the step's), below what the service would choose by itself
        folder = f"azureml://datastores/{datastore}/paths/azureml/${{{{name}}}}/{item.key}/"
        outputs[item.key] = None if is_usual else folder
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
