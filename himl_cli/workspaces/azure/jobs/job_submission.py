"""Submission of jobs, pipelines and sweeps of pipelines to Azure ML. himl first finds or creates everything that they
refer to, once each and in an order that wastes no work, and then creates one job.

Network faults never cause a second job. An error states whether the job exists, does not exist, or may exist.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice, Notify, Starting, ignore
from himl_cli.core.jobs import JobSpec, PipelineSpec
from himl_cli.core.redaction import mask_arguments, redact
from himl_cli.core.runs import Run, RunEnd, RunStatus, new_run_id
from himl_cli.core.sampling import make_sampler
from himl_cli.core.signals import interruptions, terminations
from himl_cli.core.sweeps import TRIALS, sweep_tags, variable_name
from himl_cli.core.text import listed
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.jobs.assets import JobAsset, JobCode, JobEnvironment, folder_for
from himl_cli.workspaces.azure.jobs.body import (
    PipelineNode,
    PutRequest,
    check_names,
    component_request,
    job_request,
    pipeline_nodes,
    pipeline_request,
)
from himl_cli.workspaces.azure.jobs.command_line import command_line, script_line
from himl_cli.workspaces.azure.jobs.computes import check_compute, create_cluster, has_cluster
from himl_cli.workspaces.azure.jobs.data_assets import (
    JobData,
    of_step,
    pipeline_inputs,
    resolve_inputs,
    resolve_outputs,
)
from himl_cli.workspaces.azure.responses import as_time, understood
from himl_cli.workspaces.azure.run_history import RunHistory
from himl_cli.workspaces.azure.run_records import RunWriting, status_of, studio_url, user_tags
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastores import Datastores

log = logging.getLogger(__name__)

Composed = tuple[PutRequest, Mapping[str, str]]  # a request with its headers

USER_TOKEN = "x-azureml-token"  # of the user as whom the job acts
NOTHING_RUNS = "No job was created."


def submit_job(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit the job. An interruption before its creation leaves nothing running, and raises Interrupted.

    Raises BadUsage for a job that no cluster can run, and for files that Azure Storage cannot store. Raises NotFound
    for a missing compute target, environment or data before any upload. Also raises NotAllowed and ServiceFailed.
    """
    run_id, is_sweep = azure_run_id(spec.experiment), spec.sweep is not None
    code, environment = JobCode(connection, spec.snapshot), JobEnvironment(connection, datastores, spec.environment)
    if spec.sweep is not None:
        check_names(spec.sweep)
        renamed = [f"'{name}' as '{variable_name(name)}'" for name in spec.sweep.space if variable_name(name) != name]
        if renamed:
            notify(Notice(f"Azure ML records {listed(renamed)}. Scripts get the name that you gave."))
    command_line(spec)  # raises for unknown placeholders
    folder_for(spec.snapshot)
    heard: list[Event] = []  # on another thread
    data = (connection, datastores)
    with before_creation():
        # All requests run at once. himl uploads and registers nothing before all of them succeed.
        questions: list[Callable[[], Any]] = [
            lambda: check_compute(connection, spec.cluster, spec.nodes, heard.append),
            lambda: connection.record().tenant_id,
            environment.find,
            code.find,
            lambda: resolve_outputs(*data, spec.outputs, spec.default_datastore, heard.append, are_of_trials=is_sweep),
        ]
        _, tenant_id, _, _, outputs = ask_all(lambda ask: ask(), questions)
        for event in heard:
            notify(event)
        inputs = resolve_inputs(*data, spec.inputs, spec.default_datastore, notify)
        _make((code, environment), notify)

    def compose() -> Composed:
        headers = _user_token(connection) if spec.identity == "user" else {}
        return job_request(connection.address, run_id, spec, code.id, environment.id, inputs, outputs), headers

    command = script_line(replace(spec, arguments=mask_arguments(spec.arguments)))
    renew = partial(_renew, (code, environment), notify)
    return submit_request(connection, run_id, compose, tenant_id, spec.experiment, command, notify, renew)


def submit_pipeline(connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> Run:
    """Submit the pipeline. An interruption before its job's creation leaves nothing running, and raises Interrupted.

    Raises BadUsage for a step that no cluster can run, and for files that Azure Storage cannot store. Raises NotFound
    for a missing compute target, environment or data before any upload. Also raises NotAllowed and ServiceFailed.
    """
    run_id = spec.run_id or azure_run_id(spec.experiment)
    parts = _PipelineParts(connection, datastores, spec, notify)
    with before_creation():
        tenant_id, data = parts.find()
        if spec.new_cluster is not None:  # it may cost money, so everything that can fail comes first
            create_cluster(connection, spec.new_cluster, notify)
        _make(parts.assets.values(), notify)

    def compose() -> Composed:
        steps = parts.components(pipeline_nodes(spec, data))
        # azure-ai-ml always sends a token with pipelines.
        return pipeline_request(connection.address, run_id, spec, steps), _user_token(connection)

    command = redact(spec.command)
    return submit_request(connection, run_id, compose, tenant_id, spec.experiment, command, notify, parts.renew)


def submit_sweep(
    connection: Connection, datastores: Datastores, spec: PipelineSpec, history: RunHistory, notify: Notify
) -> str:
    """Submit the pipelines of a sweep, all at once, as children of a run that only records it, and return its id.

    Azure ML sweeps command jobs only. No process manages the parent: himl ends it when it finds that all trials ended.
    Raises as `submit_pipeline`. After an error between two pipelines, the hint says how many were submitted, and the
    run has only these trials.
    """
    assert spec.sweep is not None
    writing = RunWriting(connection)
    run_id, sampler, trials = azure_run_id(spec.experiment), make_sampler(spec.sweep), list[PipelineSpec]()
    for index in range(spec.sweep.max_trials):
        if (values := sampler(index, ())) is not None:
            trials.append(spec.trial(index, values))
            pipeline_nodes(trials[-1])  # raises for a value that is invalid in a command
    parts = _PipelineParts(connection, datastores, replace(trials[0], new_cluster=spec.new_cluster), notify)
    tags = {**spec.tags, **sweep_tags(spec.sweep), TRIALS: str(len(trials))}
    parent = Run(
        run_id,
        spec.experiment,
        display_name=spec.display_name,
        description=spec.description,
        tags={**tags, "run_recovery_id": f"{spec.experiment}:{run_id}"},
        command=redact(spec.command),
    )
    with before_creation():
        tenant_id, data = parts.find()
        if spec.new_cluster is not None:
            create_cluster(connection, spec.new_cluster, notify)
        _make(parts.assets.values(), notify)
    sent = 0
    try:
        with before_creation():
            writing.start(parent)
        notify(Starting(run_id))
        for number, trial in enumerate(trials):

            def compose(trial: PipelineSpec = trial, name: str = f"{run_id}_{number}") -> Composed:
                steps = parts.components(pipeline_nodes(trial, data))
                return pipeline_request(connection.address, name, trial, steps, run_id), _user_token(connection)

            job = (f"{run_id}_{number}", compose, tenant_id, spec.experiment, redact(spec.command))
            submit_request(connection, *job, notify, parts.renew)
            sent += 1
    except BaseException as err:
        with suppress(HimlError):
            sent = max(sent, sum(map(len, history.children(run_id))))  # includes one whose response was lost
            if sent:
                history.tag(run_id, {TRIALS: str(sent)})
            else:
                writing.end(run_id, RunEnd(RunStatus.failed, "himl submitted none of its pipelines"))
        if sent and isinstance(err, HimlError):
            others = f"{sent} of {len(trials)} pipelines were submitted and continue."
            err.hint = f"{others} 'himl runs show {run_id}' shows them, and 'himl runs cancel {run_id}' stops them."
        raise
    return run_id


def _make(assets: Collection[JobCode | JobEnvironment], notify: Notify) -> None:
    for kind in (JobCode, JobEnvironment):
        if all(asset.is_cached for asset in assets if isinstance(asset, kind)):
            notify(Notice(kind.unchanged))
    for asset in sorted(assets, key=lambda asset: isinstance(asset, JobEnvironment)):
        asset.make(notify)


def _renew(assets: Collection[JobAsset], notify: Notify) -> bool:
    lost = [asset.drop_lost() for asset in assets]
    for asset in assets:
        asset.make(notify)
    return any(lost)


def _user_token(connection: Connection) -> dict[str, str]:
    return {USER_TOKEN: connection.tokens.get(connection.address.cloud.jobs_scope)}


class _PipelineParts:
    def __init__(self, connection: Connection, datastores: Datastores, spec: PipelineSpec, notify: Notify) -> None:
        self._connection, self._datastores, self._spec, self._notify = connection, datastores, spec, notify
        self.assets: dict[str, JobCode | JobEnvironment] = {}  # by their contents
        self._components: dict[str, _Component] = {}  # by their paths
        for step in spec.steps:
            self.assets.setdefault(
                repr(step.job.environment), JobEnvironment(connection, datastores, step.job.environment, step.key)
            )
        for step in spec.steps:
            self.assets.setdefault(repr(step.job.snapshot), JobCode(connection, step.job.snapshot, step.key))
        pipeline_nodes(spec)  # raises for unknown placeholders
        for step in spec.steps:
            of_step(step.key, partial(folder_for, step.job.snapshot))

    def find(self) -> tuple[str, Mapping[tuple[str, str], JobData]]:
        """The tenant, and the data that is not from a step. All requests run at once. himl uploads and registers
        nothing before all of them succeed."""
        spec, heard = self._spec, list[Event]()  # on another thread
        nodes: dict[str, int] = {}  # the largest number that a step requests, by compute target
        stores: set[str | None] = set()
        for step in spec.steps:
            nodes[step.job.cluster] = max(step.job.nodes, nodes.get(step.job.cluster, 1))
            default = step.job.default_datastore or spec.default_datastore
            stores |= {item.datastore or default for item in step.job.outputs}
        questions: list[Callable[[], Any]] = [lambda: self._connection.record().tenant_id]
        questions += [partial(of_step, asset.step, asset.find) for asset in self.assets.values()]
        questions += [partial(self._check_compute, name, count, heard.append) for name, count in nodes.items()]
        questions += [partial(self._datastores.find, name) for name in sorted(name for name in stores if name)]
        tenant_id, *_ = ask_all(lambda ask: ask(), questions)
        for event in heard:
            self._notify(event)
        return tenant_id, pipeline_inputs(self._connection, self._datastores, spec, self._notify)

    def _check_compute(self, name: str, nodes: int, notify: Notify) -> None:
        new = self._spec.new_cluster
        if new is not None and new.name == name and not has_cluster(self._connection, name):
            return
        try:
            check_compute(self._connection, name, nodes, notify)
        except NotFound as err:
            err.hint = f"{err.hint} To create it, add --create_cluster.".strip()
            raise
        except BadUsage as err:
            steps = (step for step in self._spec.steps if step.job.cluster == name and step.job.nodes >= nodes)
            raise BadUsage(str(err).replace("--num_nodes", f"{next(steps).key}: 'node_count'"), hint=err.hint) from err

    def components(self, steps: Sequence[PipelineNode]) -> list[tuple[PipelineNode, str]]:
        """*steps* with the ids of their components. Registers unknown components, once per contents. Raises as
        `Connection` does."""
        self._components.clear()
        paths: list[str] = []
        for step in steps:
            job = step.spec.job
            code, environment = self.assets[repr(job.snapshot)], self.assets[repr(job.environment)]
            request = component_request(step, code.id, environment.id)
            self._components.setdefault(request.path, _Component(self._connection, request))
            paths.append(request.path)
        ask_all(lambda component: component.make(ignore), list(self._components.values()))
        return [(step, self._components[path].id) for step, path in zip(steps, paths, strict=True)]

    def renew(self) -> bool:
        gone = [component.drop_lost() for component in self._components.values()]
        return _renew(self.assets.values(), self._notify) or any(gone)


class _Component(JobAsset):
    """The component of pipeline steps. The service may store these contents under another version."""

    kind = "components"

    def __init__(self, connection: Connection, request: PutRequest) -> None:
        super().__init__(connection)
        self._request = request

    @property
    def _key(self) -> str:
        return self._connection.key(f"component {self._request.api_version} {self._request.path}")

    def _register(self, notify: Notify) -> str:
        reply = self._request.send(self._connection)
        with understood(reply.url, "the component"):
            return str(reply.body["id"])


def azure_run_id(experiment: str) -> str:
    """A new run id that is valid as a job's name: it begins with a letter or digit, and has at most 255 characters."""
    return new_run_id(re.sub(r"^[^A-Za-z0-9]+", "", experiment) or "job")


@contextmanager
def before_creation() -> Iterator[None]:
    """A context in which nothing can start a job. An interruption raises Interrupted, and any other failure passes
    through. Both state that nothing runs."""
    try:
        with terminations():
            yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted before the job was created. Nothing runs.") from err
    except (BadUsage, NotFound):
        raise  # for a usage error, the user expects no job
    except HimlError as err:
        note_nothing_runs(err)
        raise


@contextmanager
def created_job(run_id: str) -> Iterator[None]:
    """A context in which job *run_id* exists, but the user does not have its id. An interruption raises Interrupted
    with the id."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted after the creation of job '{run_id}', which continues.",
            hint=f"To stop it: himl runs cancel {run_id}",
        ) from err


def submit_request(
    connection: Connection,
    run_id: str,
    compose: Callable[[], Composed],
    tenant_id: str,
    experiment: str,
    command: str,
    notify: Notify,
    renew: Callable[[], bool] = lambda: False,
) -> Run:
    """Create job *run_id* with the request and headers from *compose*. If the service refuses it and *renew* restored
    something that the service had lost, create it a second time.

    The run is shown with *experiment* and *command*, which contains no credentials. Raises as `_create_job`, and
    ServiceFailed naming the job for an invalid response.
    """

    def create() -> Mapping[str, Any]:
        with before_creation():
            request, headers = compose()
        notify(Starting(run_id))
        return _create_job(connection, run_id, request, headers)

    try:
        answer = create()
    except (ServiceNotFound, ServiceRefused) as refusal:
        if refusal.status not in (400, 404):
            raise
        with before_creation():
            if not renew():
                raise
        log.debug("the service refused the job (%s); creating its lost assets again", refusal)
        answer = create()
    try:
        with created_job(run_id), understood(connection.arm("/jobs"), "the job"):
            properties = answer["properties"]
            tags = {"runId": run_id, "tags": properties.get("tags"), "properties": properties.get("properties")}
            created = as_time((answer.get("systemData") or {}).get("createdAt"))
            return Run(
                id=run_id,
                experiment=str(properties.get("experimentName") or experiment),
                status=status_of(str(properties.get("status") or "")),
                created=created or datetime.now(timezone.utc),
                display_name=str(properties.get("displayName") or ""),
                description=str(properties.get("description") or ""),
                tags=user_tags(tags),
                command=command,
                workspace=connection.address.label,
                url=studio_url(run_id, connection.address, tenant_id),
            )
    except ServiceFailed as err:
        raise ServiceFailed(f"Job '{run_id}' was created, but: {err}", hint=lookup_hint(run_id)) from err


def _create_job(
    connection: Connection, run_id: str, request: PutRequest, headers: Mapping[str, str]
) -> Mapping[str, Any]:
    """Create job *run_id* and return the service's response.

    A request without a response is sent again. This is safe, because the id is the job's name and there is at most one
    job of a name. If the first request succeeded, the service refuses the second (400, the job exists). So after any
    refusal, and after the last retry, himl looks for the job. A signal waits until it is known whether the job exists.

    Raises Interrupted with the job's id after a signal, ServiceFailed if the outcome is unknown, and as `Connection`.
    """
    url, query = connection.arm(f"/jobs/{quote(run_id, safe='')}"), {"api-version": request.api_version}
    with interruptions() as signals:
        try:
            created = connection.request("PUT", url, params=query, json=request.body, headers=headers).object("job")
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"Interrupted during the creation of job '{run_id}', which may exist.", hint=lookup_hint(run_id)
            ) from err
        except ServiceNotFound as err:
            note_nothing_runs(err)
            raise
        except HimlError as err:
            log.debug("creating %s failed: %s", run_id, err)
            created = _find_job(connection, url, run_id, query, err)
    with created_job(run_id):
        if signals:
            raise KeyboardInterrupt
        return created


def _find_job(
    connection: Connection, url: str, run_id: str, query: Mapping[str, str], failure: HimlError
) -> Mapping[str, Any]:
    try:
        return connection.get(url, params=query).object("job")
    except ServiceNotFound:
        note_nothing_runs(failure)
        raise failure from None
    except HimlError:
        if isinstance(failure, NotAllowed):  # its remedy comes first
            failure.hint = f"{failure.hint} {lookup_hint(run_id)}".strip()
            raise failure from None
        raise ServiceFailed(
            f"It is unknown whether job '{run_id}' was created: {failure}", hint=lookup_hint(run_id)
        ) from failure


def note_nothing_runs(err: HimlError) -> None:
    if NOTHING_RUNS not in err.hint:
        err.hint = f"{NOTHING_RUNS} {err.hint}".strip()


def lookup_hint(run_id: str) -> str:
    return f"'himl runs show {run_id}' shows whether the job exists, and 'himl runs cancel {run_id}' stops it."
