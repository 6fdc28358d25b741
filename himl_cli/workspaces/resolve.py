"""Which workspace is meant, by what was named, else by where the command is given; and opening it, or two as one.

Only this module opens a backend, and imports its package then; Azure ML's light configuration and the names for Tab are
imported elsewhere too.
Runs are looked for in two places, since a job that runs here is recorded here, also where an Azure ML workspace is
configured: `open_runs` opens both. Everything else belongs to one: `open_workspace` for data, `open_for_jobs` for a
job. No request is made here.
"""

from __future__ import annotations

import heapq
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, NotAllowed, RunNotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.core.files import WORKSPACE_FOLDER, expand_home, named_folder, nearest_local
from himl_cli.core.logged import LoggedValues, Metric, RunResults
from himl_cli.core.runs import RECORDED_FROM, Run, RunQuery
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, WorkspaceFacts
from himl_cli.workspaces.azure import config
from himl_cli.workspaces.azure.config import WorkspaceAddress, current_cloud
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, FoundWorkspace, Workspace

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.core.jobs import DataSpec, JobSpec, PipelineSpec, SlurmSpec
    from himl_cli.core.workspaces import Check
    from himl_cli.workspaces.azure.workspace import AzureWorkspace
    from himl_cli.workspaces.local.workspace import LocalWorkspace


log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

azure_config_text = config.config_text
azure_config_at = config.find_config
azure_ids_set = config.ids_in_environment


@dataclass(frozen=True)
class ResolvedWorkspaces:
    """The workspaces that are meant: an Azure ML one, a local one (its folder), or both; and from where they were
    looked for."""

    azure: WorkspaceAddress | None
    local: Path | None
    start: Path
    is_named: bool = False


def find_workspaces(spec: str | None, config_file: str | None, *, start: Path) -> ResolvedWorkspaces:
    """The workspaces that *spec* or *config_file* names; else the configured Azure ML one and the nearest local one
    upward from *start*.

    Raises BadUsage for both arguments at once and for a configuration that cannot be used, NotFound for a config file
    that is not there. Either workspace may be missing; a local folder that was named need not exist yet.
    """
    if spec and config_file:
        raise BadUsage("--workspace and --config_file were both given.", hint="Give one of them.")
    if named := _named_config(spec, config_file):
        path, own = expand_home(named), own_azure(start)
        if own is not None:  # the only one that the job's identity is for
            log.warning("'%s' is not used: inside an Azure ML job, the job's own workspace is.", path)
        azure = own or config.address_from_config(path, cloud=cloud_setting(start))
        return ResolvedWorkspaces(azure, None, start, is_named=True)
    if spec:
        local = nearest_local(start) if spec == "local" else named_folder(spec)
        return ResolvedWorkspaces(None, local, start, is_named=True)
    meant = ResolvedWorkspaces(configured_azure(start), nearest_local(start), start)
    log.debug(
        "workspaces: Azure ML %s; local %s", meant.azure and f"{meant.azure.label} ({meant.azure.source})", meant.local
    )
    return meant


def _named_config(spec: str | None, config_file: str | None) -> str | None:
    """The config.json that an Azure ML workspace is named by."""
    return config_file or (spec if spec and spec.endswith(".json") else None)


def configured_azure(start: Path) -> WorkspaceAddress | None:
    """The job's own workspace inside an Azure ML job; else that of the nearest config.json; else that of the HIML_*
    variables."""
    cloud = cloud_setting(start)
    if own := config.address_of_job(cloud=cloud):
        return own
    file = config.find_config(start)
    return config.address_from_config(file, cloud=cloud) if file else config.address_from_environment(cloud=cloud)


def search_remarks(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[str]:
    """What a person should know of the search for a `config.json`, where that is what was asked for: files passed over,
    where it stopped."""
    return () if spec or config_file or own_azure(start) else tuple(config.search_remarks(start))


def is_in_azure_job() -> bool:
    """Whether this process is part of an Azure ML job."""
    return config.address_of_job() is not None


def own_azure(start: Path) -> WorkspaceAddress | None:
    """The workspace of the Azure ML job that this process is part of; None elsewhere. The settings for *start* may name
    its cloud."""
    return config.address_of_job(cloud=cloud_setting(start))


def cloud_setting(start: Path) -> str | None:
    """The cloud that the settings for *start* name. Raises BadUsage where `[azure]` in them holds what cannot be
    used."""
    return config.azure_settings(start).cloud or None


def open_workspace(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """The one workspace that is meant where only one can be: the Azure ML one if there is one, else the local one.

    Raises WorkspaceNotFound where there is none, and what `find_workspaces` raises.
    """
    meant = find_workspaces(spec, config_file, start=start)
    return open_azure(meant.azure, start) if meant.azure else _open_local(_existing(meant))


def open_runs(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """All runs that are meant: of the local workspace and of the Azure ML one, where there are both.

    Raises WorkspaceNotFound where there is neither, and what `find_workspaces` raises.
    """
    meant = find_workspaces(spec, config_file, start=start)
    address = meant.azure
    if address is None:
        for remark in () if meant.is_named else search_remarks(None, None, start=start):
            log.warning("%s", remark)
        return _open_local(_existing(meant))
    if meant.local is None:
        return open_azure(address, start)
    return JoinedWorkspace(_open_local(meant.local), lambda: open_azure(address, start), address.label)


def open_address(address: str) -> BlobStore:
    """The one file at an http or https address, read-only; no request is made yet. Raises BadUsage for plain http, but
    of this machine."""
    from himl_cli.workspaces.web import WebFile

    return WebFile(address)


def open_each(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[FoundWorkspace]:
    """Each workspace that is meant by itself, the one that data goes to first. Raises what `find_workspaces` raises."""
    meant = find_workspaces(spec, config_file, start=start)
    rule = "as named" if meant.is_named else "the nearest here or above"
    found: list[FoundWorkspace] = []
    if (azure := meant.azure) is not None:
        source = f"'{azure.source}' ({rule})" if Path(azure.source).is_absolute() else azure.source
        ids = {
            "workspace_name": azure.name,
            "resource_group": azure.resource_group,
            "subscription_id": azure.subscription_id,
        }
        facts = WorkspaceFacts("azure", azure.label, source, ids)
        found.append(FoundWorkspace(facts, meant.is_named, lambda: open_azure(azure, start)))
    if meant.local is not None:
        local = _open_local(meant.local)
        source = f"'{meant.local}' ({rule})" if meant.local.is_absolute() else str(meant.local)
        found.append(FoundWorkspace(WorkspaceFacts("local", local.label, source), meant.is_named, lambda: local))
    return found


def open_for_jobs(spec: str | None, config_file: str | None, *, start: Path, on_cluster: bool = False) -> Workspace:
    """The workspace that takes a job: the Azure ML one for a cluster, else the local one, which need not exist yet, the
    job makes it.

    The local one is the one *spec* names, else the nearest upward from *start*, else one beside the Azure
    `config.json`, else one in *start*. Raises BadUsage where the workspace that is named, or configured, is of the
    other kind.
    """
    if on_cluster:
        return open_azure(azure_for_jobs(spec, config_file, start=start), start)
    cloud_setting(start)
    if named := _named_config(spec, config_file):
        raise BadUsage(
            f"'{named}' names an Azure ML workspace, and this job runs and is recorded here.",
            hint="Add --cluster NAME to run it there, --record_in azure to see it there too, or leave the workspace "
            "out; --workspace takes a .himl folder.",
        )
    folder = named_folder(spec) if spec and spec != "local" else nearest_local(start)
    if folder is None:
        file = config.find_config(start)
        project = file.parent if file else start
        folder = (project.parent if file and project.name == ".azureml" else project) / WORKSPACE_FOLDER
    log.debug("the job is recorded in %s", folder)
    return _open_local(folder, create=True)


def slurm_partitions() -> Sequence[tuple[str, str, str]]:
    """The partitions of the site's Slurm: name, time limit, generic resources. Raises ServiceFailed."""
    from himl_cli.workspaces.local.slurm import partitions

    return partitions()


def slurm_checks(spec: str | None, config_file: str | None, slurm: SlurmSpec | None, *, start: Path) -> Iterator[Check]:
    """What doctor finds of Slurm; with *slurm* by a job in the local workspace, which is made where there is none."""
    from himl_cli.core.events import ignore
    from himl_cli.workspaces.local.slurm_batch import checks

    folder = start
    if slurm is not None:
        with closing(open_for_jobs(spec, config_file, start=start)) as workspace:
            assert isinstance(workspace, FolderWorkspace)
            workspace.prepare(ignore)
            folder = workspace.folder
    return checks(folder, slurm)


def azure_for_jobs(spec: str | None, config_file: str | None, *, start: Path) -> WorkspaceAddress:
    """The Azure ML workspace whose clusters are meant; no request is made. Raises BadUsage where none is named or
    configured."""
    if spec and not _named_config(spec, config_file):
        raise BadUsage(
            f"--workspace {spec} is a local workspace, which has no clusters.",
            hint="Leave it out, or run the job here: --cluster local",
        )
    address = find_workspaces(spec, config_file, start=start).azure
    elsewhere = "Without --cluster jobs run here, with --cluster slurm:NAME on your site's Slurm."
    return address or _not_configured("A job for a cluster", start, elsewhere)


def azure_to_record_in(spec: str | None, config_file: str | None, *, start: Path) -> WorkspaceAddress:
    """The Azure ML workspace that a job which runs here is told to: the one that is named, else the one that is
    configured; no request is made.

    Raises BadUsage where there is none.
    """
    is_named = _named_config(spec, config_file) is not None
    address = find_workspaces(spec, config_file, start=start).azure if is_named else configured_azure(start)
    return address or _not_configured("--record_in azure", start, "Without --record_in the job is recorded here.")


def _not_configured(asked: str, start: Path, else_: str) -> NoReturn:
    """Raises the error of a command that needs an Azure ML workspace: what was asked for, and what happens where it is
    not."""
    remarks = search_remarks(None, None, start=start)
    why = f"no config.json can be used. {remarks[0]}" if remarks else "none is configured."
    raise BadUsage(f"{asked} needs an Azure ML workspace, and {why}", hint=f"{HOW_TO_CONFIGURE} {else_}")


def recording_place(address: WorkspaceAddress, start: Path) -> dict[str, str]:
    """What `open_recording` needs to open the workspace at *address* later, and as the settings for *start* say. Holds
    no secret."""
    return {
        "subscription_id": address.subscription_id,
        "resource_group": address.resource_group,
        "name": address.name,
        "source": address.source,
        "start": str(start),
    }


def open_recording(folder: Path, place: Mapping[str, str]) -> tuple[LocalWorkspace, AzureWorkspace]:
    """The local workspace in *folder*, and the Azure ML workspace that `recording_place` told. No request is made
    yet."""
    start = Path(place["start"])
    address = azure_at(place["subscription_id"], place["resource_group"], place["name"], place["source"], start)
    return _open_local(folder), open_azure(address, start)


def local_folder(workspace: Workspace) -> Path | None:
    """The folder of a local workspace, or of the local one of two; None where there is none."""
    local = workspace.local if isinstance(workspace, JoinedWorkspace) else workspace
    return local.folder if isinstance(local, FolderWorkspace) else None


def sdk_objects(workspace: object, run_id: str, sdk: str) -> tuple[Any, ...]:
    """The job of an Azure ML workspace as its SDK has it: of `v2` azure-ai-ml's job and its client, signed in as the
    workspace is, of `v1` azureml-core's run. Raises BadUsage without that package, RunNotFound, TypeError."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    if not isinstance(workspace, AzureWorkspace):
        raise TypeError("Only an Azure ML workspace has its jobs in the SDK.")
    if sdk == "v2":
        return workspace.sdk_view(run_id)
    from himl_cli.workspaces.azure.jobs.v1 import sdk_run

    return (sdk_run(workspace.connection, run_id),)


def sdk_data(workspace: object, item: DataSpec, notify: Notify, *, is_output: bool) -> Any:
    """*item* of an Azure ML workspace as azure-ai-ml's `Input` or `Output`. Raises TypeError for another workspace,
    NotFound."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    if not isinstance(workspace, AzureWorkspace):
        raise TypeError("Only an Azure ML workspace has data for its jobs.")
    return workspace.sdk_data(item, is_output=is_output, notify=notify)


def register_environment(workspace: object, environment: Any) -> Any:
    """As `sdk.register_environment` for an Azure ML workspace. Raises TypeError for another."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    if not isinstance(workspace, AzureWorkspace):
        raise TypeError("Only an Azure ML workspace has environments.")
    from himl_cli.workspaces.azure.jobs.sdk import register_environment

    return register_environment(workspace.connection, environment)


def job_yaml(spec: JobSpec | PipelineSpec) -> str:
    """The job or pipeline as YAML that Azure ML's own command line takes. Makes no request; credentials are masked."""
    from himl_cli.core.jobs import PipelineSpec
    from himl_cli.workspaces.azure.jobs import yaml_form

    return yaml_form.pipeline_yaml(spec) if isinstance(spec, PipelineSpec) else yaml_form.job_yaml(spec)


def require_sdk_v1() -> None:
    """Raises BadUsage, with the command that installs it, where azureml-core is missing."""
    from himl_cli.workspaces.azure.jobs.v1 import require_sdk

    require_sdk()


def open_configured_azure(start: Path) -> Workspace | None:
    """The Azure ML workspace that is configured for *start*, or None. No request is made yet."""
    address = configured_azure(start)
    return open_azure(address, start) if address else None


def azure_facts(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[tuple[str, str, str]]:
    """What is set about Azure ML: key, value and where it stands, for the workspace and for signing in; empty values
    where nothing is set.

    The password's value is masked. Raises BadUsage for settings that cannot be used.
    """
    address = find_workspaces(spec, config_file, start=start).azure
    ids = (address.subscription_id, address.resource_group, address.name) if address else ("", "", "")
    source = address.source if address else "default"
    return [
        *((key, one, source) for key, one in zip(config.CONFIG_KEYS, ids, strict=True)),
        *config.settings_facts(start),
    ]


def _existing(meant: ResolvedWorkspaces) -> Path:
    if meant.local is not None:
        return meant.local
    what = f"No workspace: no {WORKSPACE_FOLDER} folder"
    if not meant.is_named and (remarks := search_remarks(None, None, start=meant.start)):
        raise WorkspaceNotFound(
            f"{what} in '{meant.start}' or above, and no Azure ML config.json that can be used.",
            hint=f"{remarks[0]} See 'himl doctor'.",
        )
    raise WorkspaceNotFound(
        f"{what} and no Azure ML config.json in '{meant.start}' or above.",
        hint="'himl submit SCRIPT' makes a local one here, and so does 'himl init --local'; --workspace names "
        "another. For Azure ML, see 'himl doctor'.",
    )


def open_azure(address: WorkspaceAddress, start: Path) -> AzureWorkspace:
    """The Azure ML workspace at *address*, with the credentials that the settings for *start* name. No request is made
    yet."""
    from himl_cli.workspaces.azure.connection import Connection
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return AzureWorkspace(Connection.open(address, settings=config.azure_settings(start)))


def own_local_run() -> tuple[LocalWorkspace, str] | None:
    """The workspace that keeps the job which this process is part of, and the run's id; None outside of a job that himl
    runs here."""
    folder, run_id = Path(os.environ.get("HIML_RUN_FOLDER", "")), os.environ.get("AZUREML_RUN_ID", "")
    # Else left over from another job, or a job elsewhere started by this one
    is_ours = bool(run_id) and folder.name == run_id and folder.is_dir()
    return (_open_local(folder.parent.parent), run_id) if is_ours else None


def azure_at(subscription_id: str, resource_group: str, name: str, source: str, start: Path) -> WorkspaceAddress:
    """The address of a workspace whose ids are known, in the cloud that the settings for *start* name; *source* says
    from where."""
    return WorkspaceAddress(subscription_id, resource_group, name, current_cloud(cloud_setting(start)), source)


def address_of(workspace: Workspace) -> WorkspaceAddress | None:
    """Where an opened workspace lies in Azure; None for a local one."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return workspace.connection.address if isinstance(workspace, AzureWorkspace) else None


def _open_local(folder: Path, *, create: bool = False) -> LocalWorkspace:
    from himl_cli.workspaces.local.workspace import LocalWorkspace

    if folder.is_file():
        raise BadUsage(f"'{folder}' is a file, not a workspace.", hint="Give a .himl folder.")
    if not folder.is_dir() and not create:
        raise WorkspaceNotFound(
            f"There is no workspace at '{folder}'.", hint=f"'himl submit SCRIPT --workspace {folder}' makes one there."
        )
    return LocalWorkspace(folder)


def azure_ids_in(path: Path) -> Mapping[str, str]:
    """The keys of the Azure ML workspace that a config file names. Raises WorkspaceNotFound or BadUsage."""
    address = config.address_from_config(path)
    return dict(zip(config.CONFIG_KEYS, (address.subscription_id, address.resource_group, address.name), strict=True))


def make_local(folder: Path) -> tuple[Path, bool]:
    """A local workspace in *folder*: its own folder, and whether that is new. Raises BadUsage or DiskFailed."""
    made = folder / WORKSPACE_FOLDER
    if made.is_file():
        raise BadUsage(f"'{made}' is a file, so no workspace can be made there.", hint="Move it away.")
    is_new = not made.is_dir()
    if is_new:
        _open_local(made, create=True).make()
    return made, is_new


class JoinedWorkspace(Workspace):
    """Two workspaces as one: the runs of *local* and of the service that *open_remote* opens, newest first; datastores
    are those of the latter.

    A run is looked for here first, which costs no request; the service is opened when it is first needed.
    *remote_label* is what it will be called, so that naming it needs no opening.
    """

    def __init__(self, local: Workspace, open_remote: Callable[[], Workspace], remote_label: str) -> None:
        self.local = local
        self._open_remote = open_remote
        self._remote_label = remote_label

    @property
    def label(self) -> str:
        return f"{self.local.label} and {self._remote_label}"

    @cached_property
    def _remote(self) -> Workspace:
        return self._open_remote()

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that keeps the run, the local one if both do. Raises RunNotFound, naming similar ids of
        both."""

        def known(workspace: Workspace) -> Workspace:
            workspace.run(run_id)
            return workspace

        return self._ask(run_id, known)

    def _ask(self, run_id: str, act: Callable[[Workspace], Answer]) -> Answer:
        """What *act* gives for the workspace that keeps the run: the local one if it is there, else the service, which
        says so if not."""
        here = self._missing_here(run_id)
        if here is None:
            return act(self.local)
        with _way_out(here.similar):
            try:
                return act(self._remote)
            except RunNotFound as err:
                similar = dict.fromkeys((*here.similar, *err.similar))
                raise RunNotFound(run_id, self.label, similar=list(similar)[:4]) from err

    def run(self, run_id: str) -> Run:
        return self._ask(run_id, lambda workspace: workspace.run(run_id))

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs of both, newest first; children are looked for where their parent is. A run of here that is told
        there too comes once."""
        if query.parent is not None:
            is_here = self._missing_here(query.parent) is None
            yield from (self.local.runs(query) if is_here else self._remote_runs(query))
            return
        others = (
            run for run in self._remote_runs(query) if RECORDED_FROM not in run.tags or self._missing_here(run.id)
        )
        both = heapq.merge(self.local.runs(query), others, key=lambda run: run.created, reverse=True)
        yield from islice(both, query.limit)

    def experiments(self) -> Mapping[str, datetime]:
        """Those of both; one that both have is as old as the older of them."""
        with _way_out():
            there = self._remote.experiments()
        here = self.local.experiments()
        found = {name: min(each[name] for each in (here, there) if name in each) for name in {**here, **there}}
        return dict(sorted(found.items(), key=lambda each: each[1], reverse=True))

    def _remote_runs(self, query: RunQuery) -> Iterator[Run]:
        with _way_out():
            yield from self._remote.runs(query)

    def _missing_here(self, run_id: str) -> RunNotFound | None:
        try:
            self.local.run(run_id)
        except RunNotFound as err:
            return err
        return None

    def tag(self, run_id: str, tags: Mapping[str, str | None]) -> Run:
        return self._ask(run_id, lambda workspace: workspace.tag(run_id, tags))

    def archive(self, run_id: str, *, restore: bool = False) -> Run:
        return self._ask(run_id, lambda workspace: workspace.archive(run_id, restore=restore))

    def cancel(self, run_id: str) -> bool:
        return self._ask(run_id, lambda workspace: workspace.cancel(run_id))

    def metrics(self, run_id: str) -> Sequence[Metric]:
        return self._ask(run_id, lambda workspace: workspace.metrics(run_id))

    def values(self, run_id: str) -> LoggedValues:
        return self._ask(run_id, lambda workspace: workspace.values(run_id))

    def parameters(self, run_id: str) -> Mapping[str, str]:
        return self._ask(run_id, lambda workspace: workspace.parameters(run_id))

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """Each workspace is asked once for the runs that came from it."""
        here = [run for run in runs if run.workspace == self.local.label]
        there = [run for run in runs if run.workspace != self.local.label]
        found = {**self.local.results(here, wanted=wanted, whole=whole)} if here else {}
        if there:
            with _way_out():
                found |= self._remote.results(there, wanted=wanted, whole=whole)
        return found

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        """As `results`."""
        here = [run for run in runs if run.workspace == self.local.label]
        there = [run for run in runs if run.workspace != self.local.label]
        with _way_out():
            return {**self.local.refresh(here), **(self._remote.refresh(there) if there else {})}

    def system_metrics(self, runs: Sequence[Run], *, by_node: bool = False) -> Mapping[str, Sequence[Metric]]:
        there = [run for run in runs if run.workspace != self.local.label]
        return self._remote.system_metrics(there, by_node=by_node) if there else {}

    def run_files(self, run_id: str) -> BlobStore:
        return self._ask(run_id, lambda workspace: workspace.run_files(run_id))

    def output_files(self, run_id: str, key: str) -> BlobStore:
        return self._ask(run_id, lambda workspace: workspace.output_files(run_id, key))

    def datastores(self) -> Sequence[DatastoreInfo]:
        return self._remote.datastores()

    def datastore(self, name: str | None = None) -> BlobStore:
        return self._remote.datastore(name)

    def close(self) -> None:
        self.local.close()
        if "_remote" in vars(self):
            self._remote.close()


@contextmanager
def _way_out(similar: Sequence[str] = ()) -> Iterator[None]:
    """A service that cannot be asked is an error, not an empty answer; its hint says how to do without it.

    *similar* are ids of runs kept here that may have been meant.
    """
    try:
        yield
    except (NotAllowed, ServiceFailed, WorkspaceNotFound) as err:
        alike = f"Did you mean {' or '.join(similar)}, kept here?" if similar else ""
        err.hint = " ".join(filter(None, (alike, err.hint, "To look at the runs kept here alone: --workspace local")))
        raise
