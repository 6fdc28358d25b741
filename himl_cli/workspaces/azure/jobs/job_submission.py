"""Submitting jobs and pipelines to Azure ML: everything that they refer to is found or made, their computes too, each
thing once and in an order that wastes nothing, then one job is created.

It is created once, whatever the network does, and with a clear word where it is not known whether it was created or
where nothing was.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Notice, Notify, ignore
from himl_cli.core.jobs import SERVERLESS, ClusterSpec, JobSpec, PipelineSpec
from himl_cli.core.processes import interruptions, terminations
from himl_cli.core.redaction import mask_arguments, redact
from himl_cli.core.runs import Run, new_run_id
from himl_cli.core.text import did_you_mean
from himl_cli.workspaces.azure.config import ApiVersion
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
from himl_cli.workspaces.azure.jobs.data_assets import (
    JobData,
    of_step,
    pipeline_inputs,
    resolve_inputs,
    resolve_outputs,
)
from himl_cli.workspaces.azure.responses import as_time, object_of, one_line, understood
from himl_cli.workspaces.azure.run_records import status_of, studio_url, user_tags
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.datastores import Datastores

log = logging.getLogger(__name__)

USER_TOKEN = "x-azureml-token"  # of the user whom a job is to act as
NOTHING_RUNS = "No job was created."
# Kinds of computes that run no command jobs, as sentences name them.
NO_JOBS = {
    "Databricks": "Databricks",
    "DataFactory": "a Data Factory",
    "DataLakeAnalytics": "Data Lake Analytics",
    "HDInsight": "HDInsight",
    "SynapseSpark": "a Spark pool",
}
# A cluster without nodes is there within a minute; one with some waits for these.
CLUSTER_SECONDS = 20 * 60.0
_COMPUTES = {"api-version": ApiVersion.COMPUTES}


def submit_job(connection: Connection, datastores: Datastores, spec: JobSpec, notify: Notify) -> Run:
    """Submit the job. Until the job itself is created, an interruption leaves nothing that runs; it raises Interrupted.

    Raises BadUsage for a job that no cluster could run, and for files that Azure Storage cannot hold; NotFound for a
    compute, an environment or data that is not there, before anything is uploaded; NotAllowed, ServiceFailed.
    """
    run_id, is_sweep = azure_run_id(spec.experiment), spec.sweep is not None
    code, environment = JobCode(connection, spec.snapshot), JobEnvironment(connection, datastores, spec.environment)
    if spec.sweep is not None:
        check_names(spec.sweep)
    command_line(spec)  # raises for placeholders that name nothing
    folder_for(spec.snapshot)
    heard: list[Event] = []  # on another thread
    data = (connection, datastores)
    with before_creation():
        # everything is asked for at once; nothing is uploaded or registered before all of it is known to be in order
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

    def compose() -> tuple[PutRequest, Mapping[str, str]]:
        headers = _user_token(connection) if spec.identity == "user" else {}
        return job_request(connection.address, run_id, spec, code.id, environment.id, inputs, outputs), headers

    command = script_line(replace(spec, arguments=mask_arguments(spec.arguments)))
    renew = partial(_renew, (code, environment), notify)
    return submit_request(connection, run_id, compose, tenant_id, spec.experiment, command, renew)


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
        _make(parts.assets.values(), notify)

    def compose() -> tuple[PutRequest, Mapping[str, str]]:
        steps = parts.components(pipeline_nodes(spec, data))
        # pipelines of azure-ai-ml always bring a token
        return pipeline_request(connection.address, run_id, spec, steps), _user_token(connection)

    return submit_request(connection, run_id, compose, tenant_id, spec.experiment, redact(spec.command), parts.renew)


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
        self.assets: dict[str, JobCode | JobEnvironment] = {}  # by what they are made of
        self._components: dict[str, _Component] = {}  # by their paths
        for step in spec.steps:
            self.assets.setdefault(
                repr(step.job.environment), JobEnvironment(connection, datastores, step.job.environment, step.key)
            )
        for step in spec.steps:
            self.assets.setdefault(repr(step.job.snapshot), JobCode(connection, step.job.snapshot, step.key))
        pipeline_nodes(spec)  # raises for placeholders that name nothing
        for step in spec.steps:
            of_step(step.key, partial(folder_for, step.job.snapshot))

    def find(self) -> tuple[str, Mapping[tuple[str, str], JobData]]:
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
            err.hint = f"{err.hint} --create_cluster makes it.".strip()
            raise
        except BadUsage as err:
            steps = (step for step in self._spec.steps if step.job.cluster == name and step.job.nodes >= nodes)
            raise BadUsage(str(err).replace("--num_nodes", f"{next(steps).key}: 'node_count'"), hint=err.hint) from err

    def components(self, steps: Sequence[PipelineNode]) -> list[tuple[PipelineNode, str]]:
        """*steps* with the ids of their components: those that are not known are registered, the same contents once.
        Raises as `HttpClient` does."""
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
    """What steps of a pipeline run; the service may know these contents under another version."""

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
    """A new run id that the service takes as a job's name: it begins with a letter or digit, and has 255 characters at
    most."""
    return new_run_id(re.sub(r"^[^A-Za-z0-9]+", "", experiment) or "job")


@contextmanager
def before_creation() -> Iterator[None]:
    """Within it nothing can start a job: an interruption raises Interrupted, any other failure stays what it is, and
    both say that nothing runs."""
    try:
        with terminations():
            yield
    except KeyboardInterrupt as err:
        raise Interrupted("Interrupted before the job was created: nothing runs.") from err
    except (BadUsage, NotFound):
        raise  # nobody expects a job of what is wrong
    except HimlError as err:
        note_nothing_runs(err)
        raise


@contextmanager
def created_job(run_id: str) -> Iterator[None]:
    """Within it job *run_id* is there, and nobody has heard of it yet. Raises Interrupted, which says its id, where
    that is interrupted."""
    try:
        yield
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Job '{run_id}' was created before the interruption, and goes on.",
            hint=f"To stop it: himl runs cancel {run_id}",
        ) from err


def submit_request(
    connection: Connection,
    run_id: str,
    compose: Callable[[], tuple[PutRequest, Mapping[str, str]]],
    tenant_id: str,
    experiment: str,
    command: str,
    renew: Callable[[], bool] = lambda: False,
) -> Run:
    """Create job *run_id* by the request, with headers, that *compose* gives; a second time where the service refuses
    it and *renew* made anew what it has lost.

    *experiment* and *command*, which holds no credentials, are what the run is shown with. Raises as `_create_job`;
    ServiceFailed, which names the job, for an answer that is not understood.
    """

    def create() -> Mapping[str, Any]:
        with before_creation():
            request, headers = compose()
        return _create_job(connection, run_id, request, headers)

    try:
        answer = create()
    except (ServiceNotFound, ServiceRefused) as refusal:
        if refusal.status not in (400, 404):
            raise
        with before_creation():
            if not renew():
                raise
        log.debug("the service refuses the job (%s); what was remembered of it is made anew", refusal)
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
    """Create job *run_id* and give what the service says of it.

    A request is repeated where its answer was lost: its id is the job's name, of which there is never a second one. The
    service refuses the repetition then (400, the job is there), so that after any refusal, and where all tries failed,
    the job is looked for. A signal waits until it is known whether there is one.

    Raises Interrupted after one, with the id of the job; ServiceFailed, too, where it stays unknown; and as
    `HttpClient` does.
    """
    url, query = connection.arm(f"/jobs/{quote(run_id, safe='')}"), {"api-version": request.api_version}
    with interruptions() as signals:
        try:
            reply = connection.rest.send("PUT", url, params=query, json=request.body, headers=headers)
            created = object_of(reply.body, url, "job")
        except KeyboardInterrupt as err:
            raise Interrupted(
                f"Interrupted while job '{run_id}' was being created: it may be there.", hint=lookup_hint(run_id)
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
        return connection.rest.get_object(url, "job", params=query)
    except ServiceNotFound:
        note_nothing_runs(failure)
        raise failure from None
    except HimlError:
        if isinstance(failure, NotAllowed):  # what is to be done about that comes first
            failure.hint = f"{failure.hint} {lookup_hint(run_id)}".strip()
            raise failure from None
        raise ServiceFailed(
            f"It is not known whether job '{run_id}' was created: {failure}", hint=lookup_hint(run_id)
        ) from failure


def note_nothing_runs(err: HimlError) -> None:
    if NOTHING_RUNS not in err.hint:
        err.hint = f"{NOTHING_RUNS} {err.hint}".strip()


def lookup_hint(run_id: str) -> str:
    return f"'himl runs show {run_id}' tells whether there is such a job, 'himl runs cancel {run_id}' stops it."


def check_compute(connection: Connection, name: str, nodes: int = 1, notify: Notify = ignore) -> None:
    """Look at the compute that a job of so many *nodes* is for; one request, none for `serverless`.

    *notify* hears of one whose last change failed: the service takes jobs for it.

    Raises NotFound naming those that exist, BadUsage for one that runs no such job, and as `HttpClient` does.
    """
    if name.lower() == SERVERLESS:
        return
    found: Mapping[str, Any] | None = None
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):  # others would mean something else in a URL
        found = connection.rest.find_object(_compute_url(connection, name), "compute", params=_COMPUTES)
    if found is None:
        computes = connection.rest.resources(connection.arm("/computes"), "computes", _COMPUTES)
        names = sorted(str(item.get("name")) for item in computes)
        others = f"there are: {', '.join(names)}" if names else "it has none"
        raise NotFound(f"No compute '{name}' in {connection.address.label}; {others}.", hint=did_you_mean(name, names))
    with understood(_compute_url(connection, name), "the compute"):
        properties = found["properties"]
        kind, state = str(properties["computeType"]), properties.get("provisioningState")
        settings = (properties.get("properties") or {}).get("scaleSettings") or {}
        most = 1 if kind == "ComputeInstance" else settings.get("maxNodeCount")  # None: that is not told
        if kind in NO_JOBS:
            raise BadUsage(
                f"The compute '{name}' is {NO_JOBS[kind]}, which runs no such jobs.",
                hint="Name a compute cluster with --cluster.",
            )
        if state in ("Deleting", "Canceled"):
            raise BadUsage(
                f"The compute '{name}' cannot be used: its state is {state}.",
                hint="Name another one with --cluster, or ask the workspace's owner.",
            )
        if most is not None and nodes > int(most):
            raise BadUsage(
                f"--num_nodes {nodes}: the compute '{name}' has {most} node{'s' * (int(most) != 1)} at most.",
                hint="Ask for fewer, or name a larger one with --cluster.",
            )
        if state == "Failed":
            errors = [one.get("error") or one for one in properties.get("provisioningErrors") or ()]
            words = next((one_line(str(error["message"])) for error in errors if error.get("message")), "")
            reason = f": {words.rstrip('.')}" if words else ""
            notify(
                Notice(
                    f"The compute '{name}' is in state Failed{reason}. The job is sent all the same, and may wait "
                    "there."
                )
            )


def has_cluster(connection: Connection, name: str) -> bool:
    return connection.rest.find_object(_compute_url(connection, name), "compute", params=_COMPUTES) is not None


def create_cluster(connection: Connection, spec: ClusterSpec, notify: Notify) -> None:
    """Make the cluster and wait until it can take jobs; where there is one of its name, that is said, and nothing is
    made.

    Raises BadUsage for a name or numbers that no cluster has, and for a size or nodes that the service refuses (its
    quota); NotAllowed, ServiceFailed; Interrupted after Ctrl-C, when the cluster may be there.
    """
    name, size, nodes = spec.name, spec.size, f"{spec.min_nodes} to {spec.max_nodes} nodes"
    for is_right, text, hint in (
        (
            re.fullmatch(r"[A-Za-z](?!.*--)[A-Za-z0-9-]{1,22}[A-Za-z0-9]", name),
            f"No cluster can be called '{name}'.",
            "Take 3 to 24 letters, digits and '-', a letter first.",
        ),
        (
            re.fullmatch(r"[A-Za-z0-9_]+", size),
            f"'{size}' is no size of a virtual machine.",
            "Write it as Azure does: Standard_NC6s_v3",
        ),
        (
            0 <= spec.min_nodes <= spec.max_nodes >= 1,
            f"A cluster cannot have {nodes}.",
            "The lower number is 0 at least, the upper one 1.",
        ),
    ):
        if not is_right:
            raise BadUsage(text, hint=hint)
    if has_cluster(connection, name):
        notify(Notice(f"Cluster '{name}' is there already: not made again."))
        return
    notify(Notice(f"Making cluster '{name}': {nodes} of {size}."))
    try:
        with terminations():
            operation = _request_cluster(connection, spec)
            deadline, pause = time.monotonic() + CLUSTER_SECONDS, 1.0
            while not _is_ready(connection, spec, operation):
                if time.monotonic() > deadline:
                    raise ServiceFailed(
                        f"Cluster '{name}' is not ready after {CLUSTER_SECONDS / 60:.0f} minutes.",
                        hint="Studio shows what it waits for.",
                    )
                time.sleep(pause)
                pause = min(5.0, pause * 1.5)  # the service does not tell how long to wait
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Interrupted while cluster '{name}' was being made: it may be there.",
            hint=f"To remove it: az ml compute delete --name {name}",
        ) from err
    notify(Notice(f"Cluster '{name}' is ready."))


def _request_cluster(connection: Connection, spec: ClusterSpec) -> str:
    idle = "PT2M"  # how long a node without a job is kept: the service's own choice
    nodes = {"minNodeCount": spec.min_nodes, "maxNodeCount": spec.max_nodes, "nodeIdleTimeBeforeScaleDown": idle}
    machines = {
        "vmSize": spec.size,
        "vmPriority": "LowPriority" if spec.low_priority else "Dedicated",
        "scaleSettings": nodes,
    }
    body = {
        "location": connection.record().location,
        "properties": {"computeType": "AmlCompute", "properties": machines},
    }
    try:
        reply = connection.rest.send("PUT", _compute_url(connection, spec.name), params=_COMPUTES, json=body)
    except ServiceRefused as err:
        if err.status != 400:
            raise
        raise _no_cluster(spec, str(err)) from err
    return reply.headers.get("azure-asyncoperation", "")


def _is_ready(connection: Connection, spec: ClusterSpec, operation: str) -> bool:
    if operation:
        answer = connection.rest.get_object(operation, "operation")
        with understood(operation, "the operation"):
            if not _has_succeeded(spec, str(answer.get("status") or ""), answer.get("error")):
                return False
    url = _compute_url(connection, spec.name)
    found = connection.rest.get_object(url, "compute", params=_COMPUTES)
    with understood(url, "the compute"):
        properties = found["properties"]
        state = str(properties.get("provisioningState") or "Succeeded")
        below = properties.get("properties") or {}
        errors = [*(properties.get("provisioningErrors") or ()), *(below.get("errors") or ())]
        return _has_succeeded(spec, state, errors[0].get("error", errors[0]) if errors else None)


def _has_succeeded(spec: ClusterSpec, state: str, error: Mapping[str, Any] | None) -> bool:
    if state.lower() in ("creating", "updating", "inprogress", "running", "accepted"):
        return False
    outer = error or {}
    if state.lower() == "succeeded" and not outer:
        return True
    inner = next((one for one in outer.get("details") or () if isinstance(one, Mapping) and one.get("message")), outer)
    words = inner.get("message") or outer.get("message") or f"its state is {state}"
    raise _no_cluster(spec, str(words), str(inner.get("code")))


def _no_cluster(spec: ClusterSpec, words: str, code: str = "") -> BadUsage:
    hint = "'az ml compute list-sizes' shows the sizes of this region."
    if "quota" in f"{code} {words}".lower():
        hint = "Ask for fewer nodes or another size, or have the subscription's quota raised in the Azure portal."
    return BadUsage(f"Azure ML makes no cluster '{spec.name}' of {spec.size}: {one_line(words)}", hint=hint)


def _compute_url(connection: Connection, name: str) -> str:
    return connection.arm(f"/computes/{quote(name, safe='')}")
