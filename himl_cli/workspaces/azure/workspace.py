"""An Azure ML workspace behind the `Workspace` Protocol, and its checks for `himl doctor`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial
from types import ModuleType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import HimlError, NotAllowed, RunNotFound
from himl_cli.core.events import Notify
from himl_cli.core.installed import RunEnvironment
from himl_cli.core.jobs import (
    ClusterSpec,
    ContainerSpec,
    DataSpec,
    DocumentSpec,
    JobSpec,
    ListFiles,
    PipelineSpec,
    StoredJob,
)
from himl_cli.core.logged import Logged, LoggedValues, Metric, RunResults
from himl_cli.core.runs import (
    JobServices,
    Run,
    RunEnd,
    RunFootprint,
    RunQuery,
    RunService,
    RunStatus,
    SignedLink,
    later_starts,
    run_not_found,
)
from himl_cli.core.sweeps import TRIALS
from himl_cli.core.workspaces import Check, CheckState, WorkspaceFacts, tried
from himl_cli.workspaces.azure import responses
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection, DiskCache
from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all
from himl_cli.workspaces.azure.run_history import RunHistory, RunLists, can_be_id
from himl_cli.workspaces.azure.run_outputs import DEFAULT_OUTPUT, find_output
from himl_cli.workspaces.azure.run_records import LOCAL_TARGET, RunFacts, RunWriting, say_limits
from himl_cli.workspaces.azure.service_errors import ServiceNotFound
from himl_cli.workspaces.base import Answer, BlobStore, Dataset, Exchange, Item, ObservedWorkspace, StoredPipeline

if TYPE_CHECKING:
    from himl_cli.workspaces.azure.run_deletion import RunDeletion
    from himl_cli.workspaces.azure.storage.datastores import Datastores

# The checks in order, with their prerequisites. himl skips a check if a prerequisite failed.
DOCTOR_CHECKS = {
    "curl": (),
    "sign-in": (),
    "clock": (),
    "workspace": ("sign-in",),
    "datastore": ("sign-in", "workspace", "curl"),
}


class AzureWorkspace(ObservedWorkspace):
    """Runs, their files and datastores of one workspace. Construction sends no request. `connection` gives access to
    the services."""

    poll_interval = (1.0, 5.0)

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._history = RunHistory(connection)
        self._lists = RunLists(connection, self._history)
        self._writing = RunWriting(connection)

    @cached_property
    def _datastores(self) -> Datastores:
        from himl_cli.workspaces.azure.storage.datastores import Datastores

        return Datastores(self.connection)

    def _facts(self, run_id: str) -> RunFacts:
        return self._found(run_id, self._history.facts)

    def _found(self, run_id: str, ask: Callable[[str], Answer]) -> Answer:
        """The result of *ask* for the run. Raises RunNotFound, naming similar ids. Sends no request for an id that is
        not valid."""
        if not can_be_id(run_id):
            raise RunNotFound(run_id, self.label)
        try:
            return ask(run_id)
        except ServiceNotFound as err:
            raise run_not_found(run_id, self.label, self._lists.newest_ids(run_id), is_complete=False) from err

    @property
    def label(self) -> str:
        return self.connection.address.label

    def close(self) -> None:
        """Close all connections to the services and to storage. A later request opens new ones."""
        if "_datastores" in vars(self):
            self._datastores.close()
        self.connection.close()

    def ask_all(self, ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        return ask_all(ask, items, at_once=MANY_AT_ONCE)

    def run(self, run_id: str) -> Run:
        return self._lists.record(self._found(run_id, self._history.get))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        return self._lists.runs(query)

    def experiments(self) -> Mapping[str, datetime]:
        from himl_cli.workspaces.azure.run_metrics import read_experiments

        return read_experiments(self.connection)

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> Run:
        self._facts(run_id)
        return self._lists.record(self._history.tag(run_id, tags))

    def rename(self, run_id: str, display_name: str) -> Run:
        self._facts(run_id)
        return self._lists.record(self._history.rename(run_id, display_name))

    def archive(self, run_id: str, *, restore: bool = False) -> Run:
        self._facts(run_id)
        return self._lists.record(self._history.archive(run_id, restore=restore))

    def cancel(self, run_id: str, *, force: bool = False) -> bool:
        """Cancel the run, whose status is always known. A sweep that is only a record is canceled by its trials and in
        its record. A run without a job is canceled in its record, because its process may have died."""
        run = self.run(run_id)
        if run.status.is_final:
            return False
        if TRIALS not in run.tags:
            is_stopped = self._history.cancel(run_id)
            if is_stopped and self._facts(run_id).is_local:
                self._writing.end(run_id, RunEnd(RunStatus.canceled))
            return is_stopped
        waiting = [trial.id for trial in self.runs(RunQuery(parent=run_id, archived=None)) if not trial.status.is_final]

        def cancel(trial: str) -> HimlError | None:
            try:
                self._history.cancel(trial)
            except HimlError as err:
                return err
            return None

        failures = [err for err in ask_all(cancel, waiting) if err is not None]
        self._writing.end(run_id, RunEnd(RunStatus.canceled))
        if failures:
            raise failures[0]
        return True

    def metrics(self, run_id: str) -> Sequence[Metric]:
        return self._values(run_id, texts=False).metrics

    def values(self, run_id: str, *, whole: bool = True) -> LoggedValues:
        return self._values(run_id, texts=True)

    def _values(self, run_id: str, *, texts: bool) -> LoggedValues:
        from himl_cli.workspaces.azure.run_metrics import read_values, with_nested

        facts = self._facts(run_id)
        starts = {run_id: facts.later_starts}
        return read_values(self.connection, with_nested(self._history, facts), starts, texts=texts)

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        from himl_cli.workspaces.azure.run_metrics import ManyRuns

        return ManyRuns(self.connection, self._history, runs).results(wanted, whole=whole) if runs else {}

    def with_children(self, runs: Sequence[Run]) -> Set[str]:
        from himl_cli.workspaces.azure.run_metrics import ManyRuns

        return ManyRuns(self.connection, self._history, runs).parents()

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        """Read current values, with one request to MLflow per hundred runs, and one for those whose status changed."""
        from himl_cli.workspaces.azure.run_metrics import ManyRuns

        known = ManyRuns(self.connection, self._history, runs).current() if runs else {}
        changed = [
            run.id
            for run in runs
            if run.id not in known or known[run.id].status not in (run.status, None) or TRIALS in run.tags
        ]
        records = {raw["runId"]: self._lists.record(raw) for raw in self._history.many(changed)}
        last = {
            run_id: RunResults(found.last, parameters=found.parameters, steps=found.steps)
            for run_id, found in known.items()
        }
        last |= self.results([run for run in runs if later_starts(run.tags)], wanted=lambda name: True, whole=False)
        return {
            run.id: (records.get(run.id, run), last.get(run.id, RunResults()))
            for run in runs
            if run.id in records or run.id in known
        }

    def system_metrics(self, runs: Sequence[Run], *, by_node: bool = False) -> Mapping[str, Sequence[Metric]]:
        from himl_cli.workspaces.azure.resource_metrics import read_resource_metrics

        found = ask_all(partial(read_resource_metrics, self.connection, by_node=by_node), runs)
        return {run.id: metrics for run, metrics in zip(runs, found, strict=True)}

    def parameters(self, run_id: str) -> Mapping[str, str]:
        from himl_cli.workspaces.azure.run_metrics import read_parameters

        return read_parameters(self.connection, self._found(run_id, self._history.get))

    def run_files(self, run_id: str) -> BlobStore:
        """The artifacts. Sends no request of its own for a run that himl has seen."""
        return self._datastores.artifacts(run_id, self._facts(run_id).container_id, f"run '{run_id}'")

    def artifact_location(self, run_id: str) -> tuple[str, str]:
        from himl_cli.workspaces.azure.storage.datastores import ARTIFACT_STORE

        return ARTIFACT_STORE, f"ExperimentRun/{self._facts(run_id).container_id}"

    def link(self, run_id: str, name: str, *, days: float) -> SignedLink:
        return self._datastores.artifact_link(self._facts(run_id).container_id, f"run '{run_id}'", name, days=days)

    def _job(self, run_id: str) -> Mapping[str, Any]:
        """The stored properties of the run's job, with a request for most runs."""
        from himl_cli.workspaces.azure.jobs.submitted import job_properties

        self._facts(run_id)
        return job_properties(self.connection, run_id, self._history.get)

    def code_files(self, run_id: str) -> tuple[BlobStore, Container[str] | None] | None:
        from himl_cli.workspaces.azure.jobs.submitted import code_uri

        uri = code_uri(self.connection, self._job(run_id))
        return None if uri is None else (self._datastores.at_uri(uri, f"code of run '{run_id}'", is_code=True), None)

    def environment(self, run_id: str) -> RunEnvironment | None:
        from himl_cli.workspaces.azure.jobs.submitted import environment_of

        return environment_of(self.connection, self._job(run_id))

    def stored_job(self, run_id: str) -> StoredJob | None:
        from himl_cli.workspaces.azure.jobs.submitted import TITLES, bound_to, job_again

        job, run = self._job(run_id), self.run(run_id)
        inputs = {**(job.get("inputs") or {})}
        read = {key: source for key, item in inputs.items() if (source := bound_to(item))}
        if read:  # outputs of other steps of the pipeline
            steps = {each.display_name: each.id for each in self.runs(RunQuery(parent=run.parent, archived=None))}
            for key, (node, output) in read.items():
                data = self._found(steps.get(job[TITLES][node], node), self._history.data)
                uri, _ = find_output(self.connection, self._history, data, output)
                inputs[key] = {"uri": uri, "mode": inputs[key].get("mode")}
        return job_again({**job, "inputs": inputs}, run)

    def stored_pipeline(self, run_id: str) -> StoredPipeline | None:
        from himl_cli.workspaces.azure.jobs.submitted import code_uri, pipeline_again

        found = pipeline_again(self.connection, self._job(run_id), self.run(run_id))
        if found is None:
            return None
        spec, ids = found
        uris = {root: code_uri(self.connection, {"codeId": each}) for root, each in ids.items()}
        label = f"code of run '{run_id}'"
        code = {root: self._datastores.at_uri(uri, label, is_code=True) for root, uri in uris.items() if uri}
        return StoredPipeline(spec, (), code)

    def output_files(self, run_id: str, key: str) -> BlobStore:
        label = f"output '{key}' of run '{run_id}'"
        if key == DEFAULT_OUTPUT:
            return self._datastores.artifacts(run_id, self._facts(run_id).container_id, label)
        uri, is_file = find_output(self.connection, self._history, self._found(run_id, self._history.data), key)
        return self._datastores.at_uri(uri, label, is_file=is_file)

    def job_services(self, run_id: str) -> JobServices | None:
        from himl_cli.workspaces.azure.run_services import job_services

        return job_services(self.connection, run_id)

    def services(self, run_id: str, node: int) -> Sequence[RunService]:
        from himl_cli.workspaces.azure.run_services import read_services

        return read_services(self.connection, run_id, node)

    def tunnel(self, service: RunService, read: Callable[[], bytes], write: Callable[[bytes], None]) -> None:
        from himl_cli.workspaces.azure.run_services import tunnel

        tunnel(self.connection, service, read, write)

    def datastores(self) -> Sequence[DatastoreInfo]:
        return self._datastores.infos()

    def datastore(self, name: str | None = None) -> BlobStore:
        return self._datastores.open(name)

    def ensure_datastore(self, spec: ContainerSpec, *, notify: Notify) -> str:
        from himl_cli.workspaces.azure.storage.datastores import ensure_datastore

        return ensure_datastore(self.connection, self._datastores, spec, notify)

    def dataset(self, item: DataSpec, default_datastore: str | None) -> Dataset:
        from himl_cli.workspaces.azure.jobs.data_assets import find_dataset

        return find_dataset(self.connection, self._datastores, item, default_datastore)

    def submit(self, spec: JobSpec, *, notify: Notify) -> Run:
        """Start the job and return while it waits for a node. An interruption before that leaves nothing running, as
        the error states."""
        say_limits([spec.max_seconds], notify)
        if spec.sdk == "v1":
            run: Run = sdk_v1().submit(self.connection, self._datastores, spec, notify)
            return run
        from himl_cli.workspaces.azure.jobs.job_submission import submit_job

        return submit_job(self.connection, self._datastores, spec, notify)

    def submit_pipeline(self, spec: PipelineSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.azure.jobs.job_submission import submit_pipeline, submit_sweep

        say_limits([step.job.max_seconds for step in spec.steps], notify)
        if spec.sweep is not None:
            return self.run(submit_sweep(self.connection, self._datastores, spec, self._history, notify))
        return submit_pipeline(self.connection, self._datastores, spec, notify)

    def submit_document(self, document: DocumentSpec, *, notify: Notify) -> Run:
        from himl_cli.workspaces.azure.jobs.sdk import submit_document

        return submit_document(self.connection, self._datastores, document, notify)

    def register_environment(self, environment: Any, list_files: ListFiles, *, notify: Notify) -> Any:
        """azure-ai-ml's *environment*, registered if missing. Raises TypeError for another object."""
        from himl_cli.workspaces.azure.jobs.sdk import register_environment

        return register_environment(self.connection, self._datastores, environment, list_files, notify)

    @cached_property
    def _deletion(self) -> RunDeletion:
        from himl_cli.workspaces.azure.run_deletion import RunDeletion

        return RunDeletion(self.connection, self._history, self._datastores, self._lists.record)

    def footprint(self, run: Run, *, outputs: bool) -> RunFootprint:
        return self._deletion.footprint(run, outputs=outputs)

    def erase(self, footprint: RunFootprint, *, notify: Notify) -> bool:
        return self._deletion.erase(footprint, notify)

    def sdk_objects(self, run_id: str, sdk: str) -> tuple[Any, ...]:
        """The SDK's objects for a job. `v2`: azure-ai-ml's job and its client, with the credentials of the workspace.
        `v1`: azureml-core's run. Raises BadUsage without that package, RunNotFound."""
        if sdk == "v1":
            return (sdk_v1().sdk_run(self.connection, run_id),)
        from himl_cli.workspaces.azure.jobs.sdk import sdk_view

        return sdk_view(self.connection, run_id)

    def sdk_data(self, item: DataSpec, *, is_output: bool, notify: Notify) -> Any:
        """*item* as azure-ai-ml's `Input` or `Output`. Raises NotFound."""
        from himl_cli.workspaces.azure.jobs.sdk import sdk_data

        return sdk_data(self.connection, self._datastores, item, is_output, notify)

    def has_cluster(self, name: str) -> bool:
        from himl_cli.workspaces.azure.jobs.computes import has_cluster

        return has_cluster(self.connection, name)

    def create_cluster(self, spec: ClusterSpec, *, notify: Notify) -> None:
        from himl_cli.workspaces.azure.jobs.computes import create_cluster

        create_cluster(self.connection, spec, notify)

    def start_run(self, new: Run) -> Run:
        if not can_be_id(new.id):
            raise RunNotFound(new.id, self.label)
        try:
            found = self._history.get(new.id)
        except ServiceNotFound:
            if new.parent is not None:
                self._facts(new.parent)
            self._writing.start(new)
        else:
            # The run was created but never started, because something interrupted himl in between.
            if (found.get("status") or "").lower() != "notstarted" or found.get("target") != LOCAL_TARGET:
                return self._lists.record(found)
            self._writing.begin(new.id)
        return self.run(new.id)

    def log(self, run_id: str, entries: Sequence[Logged]) -> None:
        self._writing.log(run_id, entries, self._facts(run_id).container_id)

    def log_parameters(self, run_id: str, parameters: Mapping[str, str]) -> None:
        self._facts(run_id)
        self._writing.log_parameters(run_id, parameters)

    def settle(self, run_id: str, seconds: float = 60.0) -> None:
        self._writing.settle(self._facts(run_id), seconds)

    def end_run(self, run_id: str, end: RunEnd) -> Run:
        before = self.run(run_id)
        if before.status.is_final:
            return before
        self._writing.end(run_id, end)
        return self.run(run_id)

    @contextmanager
    def observed(self) -> Iterator[list[Exchange]]:
        seen, connection = list[Exchange](), self.connection

        def observe(response: responses.Response) -> None:
            base, _, path = response.path.partition(connection.address.path)
            is_arm = response.url.startswith(connection.address.cloud.resource_manager)
            service = "arm" if is_arm else base.strip("/").partition("/")[0]
            seen.append(Exchange(response.method, service, path, response.status, response.headers, response.body))

        kept, connection.kept = connection.kept, DiskCache(None)
        connection.observers.append(observe)
        try:
            yield seen
        finally:
            connection.observers.remove(observe)
            connection.kept = kept

    def request(self, method: str, service: str, path: str = "", *, json: Any = None) -> Exchange:
        """As `ObservedWorkspace.request`, with the version of resource manager's interface that himl uses."""
        connection, refusal = self.connection, ""
        is_arm = service == "arm"
        version = ApiVersion.CODES if path.startswith(("/codes/", "/data/")) else ApiVersion.JOBS
        params = {"api-version": ApiVersion.DATASTORE_SECRETS if path.endswith("/listSecrets") else version}
        url = connection.arm(path) if is_arm else connection.service(service, path)
        with self.observed() as seen:
            try:
                connection.request(method, url, params=params if is_arm else None, json=json)
            except HimlError as err:
                if not seen or isinstance(err, NotAllowed):
                    raise
                refusal = str(err)
        return replace(seen[-1], refusal=refusal)

    def identifying_names(self) -> Mapping[str, str]:
        address, record, token = self.connection.address, self.connection.record(), self.connection.sign_in()
        names = {
            address.subscription_id: "subscription",
            address.resource_group: "resource group",
            address.name: "workspace",
            record.workspace_id: "workspace",
            record.tenant_id: "tenant",
            record.storage_account.rpartition("/")[2]: "storage account",
            record.location: "region",
        }
        claims = ("upn", "preferred_username", "unique_name", "name", "appid", "oid", "email")
        return names | {str(token.claims()[name]): "user" for name in claims if token.claims().get(name)}

    def checks(self) -> Iterator[Check]:
        """The checks of pycurl, the sign-in, the clock, the workspace and its default datastore, past the cache."""
        failed: set[str] = set()
        for name, needs in DOCTOR_CHECKS.items():
            cause = next((one for one in needs if one in failed), None)
            if cause:
                check = Check.skipped(name, f"himl skipped this check because the {cause} failed.")
            else:
                check = tried(name, lambda: self._look(name))  # noqa: B023 - called at once
            if check.state is CheckState.failed:
                failed.add(name)
            yield check

    def _look(self, name: str) -> Check:
        """Run one of DOCTOR_CHECKS. Raises HimlError on failure. A job without an identity is valid, so a check that
        needs one does not fail in it."""
        connection, label = self.connection, self.label
        if name == "curl":
            from himl_cli.workspaces.transfer_engine.curl import load_pycurl

            return Check.passed(name, "{}, {}.".format(*str(load_pycurl().version).split()[:2]))
        if name == "sign-in":
            token = connection.sign_in()
            is_named = token.principal[:8] in token.credential
            who = f", as {token.principal}" if token.principal and not is_named else ""
            tenant = f", tenant {token.tenant_id}" if token.tenant_id else ""
            minutes = max(0, round((token.expires - time.time()) / 60))
            left = f"{minutes} minutes" if minutes < 120 else f"{round(minutes / 60)} hours"
            return Check.passed(name, f"{token.credential}{who}{tenant}; valid for {left}.")
        if name == "clock":
            ahead = connection.clock_skew()
            if ahead is None:
                return Check.skipped(name, "The service's response has no date.")
            if abs(ahead) <= responses.TOLERABLE_SECONDS:
                return Check.passed(name, f"within {max(1, round(abs(ahead)))} s of the service's.")
            return Check.failed(
                name,
                f"This machine's clock is {responses.describe_skew(ahead)} the service's.",
                "Synchronise the clock, because the service rejects its signatures.",
            )
        if name == "workspace":
            if not connection.in_job:
                return Check.passed(name, f"{label} responds, in {connection.record(fresh=True).location}.")
            # Request run history, because resource manager may reject a job's token.
            run_id = os.environ["AZUREML_RUN_ID"]
            connection.get(connection.service("history", f"/runs/{quote(run_id, safe='')}"))
            return Check.passed(name, f"{label} responds, with this job's run '{run_id}'.")
        try:
            store = self.datastore()
            next(store.list("himl-doctor/"), None)  # nothing has this prefix, so the response is short
        except NotAllowed as err:
            if not connection.in_job:
                raise
            return Check.note(name, str(err), err.hint)
        return Check.passed(name, f"himl can list {store.label}.")

    def describe(self) -> WorkspaceFacts:
        """The workspace's ids, region, default datastore and page in Studio, with "" for what a job cannot find out.
        Raises as its requests do."""
        address, record = self.connection.address, self.connection.record()
        try:
            default = next((store.name for store in self.datastores() if store.is_default), "")
        except NotAllowed:
            if not self.connection.in_job:
                raise
            default = ""
        facts = {
            "workspace_name": address.name,
            "resource_group": address.resource_group,
            "subscription_id": address.subscription_id,
            "tenant_id": record.tenant_id,
            "workspace_id": record.workspace_id,
            "location": record.location,
            "cloud": address.cloud.name,
            "storage_account": record.storage_account.rpartition("/")[2],
            "default_datastore": default,
            "studio_url": address.studio_url(tenant_id=record.tenant_id),
        }
        return WorkspaceFacts("azure", address.label, address.source, facts)


def sdk_v1() -> ModuleType:
    """The module of `--sdk v1`, which nothing else imports. Raises BadUsage if azureml-core is missing."""
    from himl_cli.workspaces.azure.jobs import v1

    v1.require_package("azureml.core")
    return v1


def azure_only(workspace: object, message: str) -> AzureWorkspace:
    """*workspace*, which must be in Azure ML. Raises TypeError with *message*."""
    if not isinstance(workspace, AzureWorkspace):
        raise TypeError(message)
    return workspace
