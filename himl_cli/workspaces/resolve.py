"""Find the workspaces that the user named or configured, and open one of them, or two as one.

Only this module opens a backend, and imports its package at that time. Other modules import only Azure ML's light
configuration and the names for Tab completion.
Runs are in two places, since himl records a local job in the local workspace even where an Azure ML workspace is
configured: `open_runs` opens both. Everything else belongs to one: `open_workspace` opens it for data, `open_for_jobs`
for a job. Opening sends no request.
"""

from __future__ import annotations

import heapq
import logging
import os
import re
import shlex
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, cast

from himl_cli.core.blobs import DatastoreInfo
from himl_cli.core.errors import BadUsage, NotAllowed, RunNotFound, ServiceFailed, WorkspaceNotFound
from himl_cli.core.files import WORKSPACE_FOLDER, expand_home, named_folder
from himl_cli.core.logged import Metric, RunResults
from himl_cli.core.records import dataclass
from himl_cli.core.runs import RECORDED_FROM, Run, RunQuery
from himl_cli.core.settings import is_other_users, nearest_local, owner_name
from himl_cli.core.workspaces import HOW_TO_CONFIGURE, WorkspaceFacts
from himl_cli.workspaces.azure import config
from himl_cli.workspaces.azure.config import WorkspaceAddress, current_cloud
from himl_cli.workspaces.base import Answer, BlobStore, FolderWorkspace, FoundWorkspace, Item, Workspace

if TYPE_CHECKING:
    from himl_cli.core.jobs import EngineSpec
    from himl_cli.core.workspaces import Check
    from himl_cli.workspaces.azure.workspace import AzureWorkspace
    from himl_cli.workspaces.local.workspace import LocalWorkspace
    from himl_cli.workspaces.remote.address import RemoteAddress
    from himl_cli.workspaces.remote.pointed import PointedRuns
    from himl_cli.workspaces.remote.workspace import RemoteWorkspace


log = logging.getLogger(__name__)
Method = TypeVar("Method", bound=Callable[..., Any])

azure_config_text = config.config_text
azure_config_at = config.find_config
azure_ids_set = config.ids_in_environment


@dataclass(frozen=True)
class ResolvedWorkspaces:
    """The named or configured workspaces: an Azure ML one, a local one (its folder), or both, or a named one that himl
    reaches by SSH. `start` is the folder where the search began."""

    azure: WorkspaceAddress | None
    local: Path | None
    start: Path
    is_named: bool = False
    remote: RemoteAddress | None = None


def find_workspaces(spec: str | None, config_file: str | None, *, start: Path) -> ResolvedWorkspaces:
    """Return the workspaces that *spec* or *config_file* names, else the configured Azure ML one and the nearest local
    one from *start* upward.

    Raises BadUsage for both arguments at once and for an invalid configuration, NotFound for a missing config file.
    Either workspace may be missing. A local folder that was named need not exist yet.
    """
    from himl_cli.workspaces.remote.address import remote_address

    if spec and config_file:
        raise BadUsage("--workspace and --config_file cannot be combined.", hint="Use only one of them.")
    if named := _named_config(spec, config_file):
        path, own = expand_home(named), own_azure(start)
        if own is not None:
            # The job's identity has access to its own workspace only
            log.warning("himl ignores '%s', since an Azure ML job always uses its own workspace.", path)
        azure = own or config.address_from_config(path, cloud=cloud_setting(start))
        return ResolvedWorkspaces(azure, None, start, is_named=True)
    if (remote := remote_address(spec, start)) is not None:
        return ResolvedWorkspaces(None, None, start, is_named=True, remote=remote)
    if spec:
        local = nearest_local(start) if spec == "local" else named_folder(spec)
        return ResolvedWorkspaces(None, local, start, is_named=True)
    meant = ResolvedWorkspaces(configured_azure(start), nearest_local(start), start)
    log.debug(
        "workspaces: Azure ML %s; local %s", meant.azure and f"{meant.azure.label} ({meant.azure.source})", meant.local
    )
    return meant


def _named_config(spec: str | None, config_file: str | None) -> str | None:
    """The path of the config.json that names an Azure ML workspace."""
    return config_file or (spec if spec and spec.endswith(".json") else None)


def configured_azure(start: Path) -> WorkspaceAddress | None:
    """The job's own workspace inside an Azure ML job, else that of the nearest config.json, else that of the HIML_*
    environment variables."""
    cloud = cloud_setting(start)
    if own := config.address_of_job(cloud=cloud):
        return own
    file = config.find_config(start)
    return config.address_from_config(file, cloud=cloud) if file else config.address_from_environment(cloud=cloud)


def search_remarks(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[str]:
    """Remarks on the search for a `config.json`, if there was one: files that it skipped and the folder where it
    stopped."""
    return () if spec or config_file or own_azure(start) else tuple(config.search_remarks(start))


def is_in_azure_job() -> bool:
    """Whether this process is part of an Azure ML job."""
    return config.address_of_job() is not None


def own_azure(start: Path) -> WorkspaceAddress | None:
    """The workspace of the Azure ML job that this process is part of, else None. The settings for *start* may name
    its cloud."""
    return config.address_of_job(cloud=cloud_setting(start))


def cloud_setting(start: Path) -> str | None:
    """The cloud that the settings for *start* name. Raises BadUsage for an invalid value in `[azure]`."""
    return config.azure_settings(start).cloud or None


def open_workspace(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """Open the only workspace that the command uses: the Azure ML one if there is one, else the local one.

    Raises WorkspaceNotFound if there is none, and the errors of `find_workspaces`.
    """
    meant = find_workspaces(spec, config_file, start=start)
    if meant.remote is not None:
        return open_remote(meant.remote)
    return open_azure(meant.azure, start) if meant.azure else _open_found_local(meant)


def open_runs(spec: str | None, config_file: str | None, *, start: Path) -> Workspace:
    """Open the local workspace, the Azure ML one, or both as one. The local one, if not named, includes the runs on
    other machines that its pointers name.

    Raises WorkspaceNotFound if there is neither, and the errors of `find_workspaces`.
    """
    meant = find_workspaces(spec, config_file, start=start)
    address = meant.azure
    if meant.remote is not None:
        return open_remote(meant.remote, nearest_local(start))
    if meant.local is None:
        return _open_found_local(meant) if address is None else open_azure(address, start)
    pointed = None if meant.is_named else _pointed_runs(meant.local, start)
    if address is None:
        local = _open_found_local(meant)
        return local if pointed is None else JoinedWorkspace(local, None, pointed=pointed)
    return JoinedWorkspace(_open_local(meant.local), lambda: open_azure(address, start), address.label, pointed)


def _pointed_runs(folder: Path, start: Path) -> PointedRuns | None:
    """The runs on other machines to which the local workspace in *folder* has pointers, None without pointers."""
    from himl_cli.workspaces.local import POINTERS

    with suppress(OSError):
        if any((folder / POINTERS).glob("*.json")):
            from himl_cli.workspaces.remote.pointed import PointedRuns
            from himl_cli.workspaces.remote.pointers import Pointers

            return PointedRuns(Pointers(folder), start)
    return None


def open_remote(address: RemoteAddress, pointers: Path | None = None) -> RemoteWorkspace:
    """The workspace at *address*, which notes new and deleted runs in the local workspace with the *pointers*. Connects
    at its first use."""
    from himl_cli.workspaces.remote.pointers import Pointers
    from himl_cli.workspaces.remote.workspace import RemoteWorkspace

    return RemoteWorkspace(address, None if pointers is None else Pointers(pointers))


def open_address(address: str) -> BlobStore:
    """The one file at an http or https address, read-only. Opening sends no request. Raises BadUsage for plain http to
    another machine."""
    from himl_cli.workspaces.web import WebFile

    return WebFile(address)


def open_each(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[FoundWorkspace]:
    """Open each workspace separately, the one that receives data first. Raises the errors of `find_workspaces`."""
    meant = find_workspaces(spec, config_file, start=start)
    if meant.remote is not None:
        raise _elsewhere(meant.remote)
    rule = "as named" if meant.is_named else "the nearest one upward"
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


def open_for_jobs(spec: str | None, config_file: str | None, *, start: Path, on_azure: bool = False) -> Workspace:
    """Open the workspace for a job: the Azure ML one for a cluster, else the local one, which the job creates if it
    does not exist.

    The local workspace is the one that *spec* names, else the nearest from *start* upward, else one beside the Azure
    `config.json`, else one in *start*. Without a name, that of another user which this one cannot write to does not
    count. Raises BadUsage if the named or configured workspace is of the other kind, or if other users could change it.
    """
    from himl_cli.workspaces.remote.address import remote_address

    if on_azure:
        return open_azure(azure_for_jobs(spec, config_file, start=start), start)
    cloud_setting(start)
    if (remote := remote_address(spec, start)) is not None:
        return open_remote(remote, _own_local(start))
    if named := _named_config(spec, config_file):
        raise BadUsage(
            f"'{named}' names an Azure ML workspace, but this job runs locally.",
            hint="To run it in Azure ML, add --cluster NAME. To record it there, add --record_in azure. Otherwise, "
            "omit the workspace, or name a .himl folder with --workspace.",
        )
    folder = named_folder(spec) if spec and spec != "local" else _own_local(start)
    log.debug("the job is recorded in %s", folder)
    return _open_local(folder, create=True)


def _elsewhere(remote: RemoteAddress) -> BadUsage:
    """The error of a command that uses only workspaces of this machine and of Azure ML."""
    return BadUsage(
        f"This command cannot use {remote.label}, which is on another machine.", hint=f"Run it there: ssh {remote.host}"
    )


def _own_local(start: Path) -> Path:
    """The local workspace for new runs, as `open_for_jobs` describes it."""
    found = nearest_local(start)
    if found is not None and not is_other_users(found):
        return found
    file = config.find_config(start)
    project = file.parent.parent if file and file.parent.name == ".azureml" else file.parent if file else start
    folder = (start if is_other_users(project) else project) / WORKSPACE_FOLDER
    if found is not None and found != folder:
        owner = owner_name(found.stat().st_uid)
        log.warning("himl records this job in '%s', because '%s' belongs to %s.", folder, found, owner)
    elif found is None and folder.is_dir() and nearest_local(start) is None:  # and no other command just made it
        raise BadUsage(
            f"himl does not use the workspace '{folder}', which other users could have changed.",
            hint=f"Use another one: --workspace FOLDER. To use it anyway: --workspace {shlex.quote(str(folder))}",
        )
    return folder


def engine_places(name: str) -> Sequence[tuple[str, str, str]]:
    """As `Engine.places`, of the engine *name*."""
    from himl_cli.workspaces.local.engines import engine_named

    return engine_named(name).places()


def engine_checks(
    name: str, spec: str | None, config_file: str | None, engine: EngineSpec | None, *, start: Path
) -> Iterator[Check]:
    """Doctor's checks of the engine *name*, none if this machine has none and no *engine* is given. With it, they
    include a job in the local workspace, which is created if missing."""
    from himl_cli.core.events import ignore
    from himl_cli.workspaces.local.engines import engine_named

    found, folder = engine_named(name), start
    if engine is not None:
        with closing(open_for_jobs(spec, config_file, start=start)) as workspace:
            assert isinstance(workspace, FolderWorkspace)
            workspace.prepare(ignore)
            folder = workspace.folder
    elif found.unavailable() is not None:
        return iter(())
    return found.checks(folder, engine)


def azure_for_jobs(spec: str | None, config_file: str | None, *, start: Path) -> WorkspaceAddress:
    """The Azure ML workspace that has the clusters. Sends no request. Raises BadUsage if none is named or
    configured."""
    if spec and not _named_config(spec, config_file):
        raise BadUsage(
            f"--workspace '{spec}' is not an Azure ML workspace, so it has no clusters.",
            hint="Omit --workspace, or run the job on this machine: --cluster local",
        )
    address = find_workspaces(spec, config_file, start=start).azure
    elsewhere = (
        "Without --cluster, jobs run locally. With --cluster slurm:NAME, they run on Slurm, and with "
        "--cluster ssh:HOST on another machine."
    )
    return address or _not_configured("A job for a cluster", start, elsewhere)


def azure_for_mirror(spec: str | None, config_file: str | None, *, start: Path) -> WorkspaceAddress:
    """The Azure ML workspace in which a local job is recorded: the named one, else the configured one. Sends no
    request.

    Raises BadUsage if there is none.
    """
    is_named = _named_config(spec, config_file) is not None
    address = find_workspaces(spec, config_file, start=start).azure if is_named else configured_azure(start)
    return address or _not_configured("--record_in azure", start, "Without --record_in, the job is recorded locally.")


def _not_configured(asked: str, start: Path, else_: str) -> NoReturn:
    """Raise the error of an option or a job that needs an Azure ML workspace. *else_* describes the alternative."""
    remarks = search_remarks(None, None, start=start)
    why = f"himl found no valid config.json. {remarks[0]}" if remarks else "none is configured."
    raise BadUsage(f"{asked} needs an Azure ML workspace, and {why}", hint=f"{HOW_TO_CONFIGURE} {else_}")


def mirror_place(address: WorkspaceAddress, start: Path) -> dict[str, str]:
    """The arguments with which `open_mirror` opens the workspace at *address* later, by the settings for *start*.
    Contains no secret."""
    return {
        "subscription_id": address.subscription_id,
        "resource_group": address.resource_group,
        "name": address.name,
        "source": address.source,
        "start": str(start),
    }


def open_mirror(folder: Path, place: Mapping[str, str]) -> tuple[LocalWorkspace, AzureWorkspace]:
    """The local workspace in *folder*, and the Azure ML workspace that `mirror_place` described. Sends no
    request."""
    start = Path(place["start"])
    address = azure_at(place["subscription_id"], place["resource_group"], place["name"], place["source"], start)
    return _open_local(folder), open_azure(address, start)


def local_folder(workspace: Workspace) -> Path | None:
    """The folder of a local workspace, or of the local one of two, else None."""
    local = workspace.local if isinstance(workspace, JoinedWorkspace) else workspace
    folder: Path | None = getattr(local, "folder", None)  # a member of `FolderWorkspace` only
    return folder


def open_configured_azure(start: Path) -> Workspace | None:
    """The Azure ML workspace that is configured for *start*, or None. Sends no request."""
    address = configured_azure(start)
    return open_azure(address, start) if address else None


def azure_facts(spec: str | None, config_file: str | None, *, start: Path) -> Sequence[tuple[str, str, str]]:
    """The Azure ML settings as tuples of key, value and source, for the workspace and for the credentials. Unset keys
    have empty values.

    The password's value is masked. Raises BadUsage for invalid settings.
    """
    address = find_workspaces(spec, config_file, start=start).azure
    ids = (address.subscription_id, address.resource_group, address.name) if address else ("", "", "")
    source = address.source if address else "default"
    return [
        *((key, one, source) for key, one in zip(config.CONFIG_KEYS, ids, strict=True)),
        *config.settings_facts(start),
    ]


def _open_found_local(meant: ResolvedWorkspaces) -> LocalWorkspace:
    """Open the local workspace, with a warning of each `config.json` that the search skipped. Raises
    WorkspaceNotFound."""
    remarks = [] if meant.is_named else [*config.search_remarks(meant.start)]
    for remark in remarks:
        log.warning("%s", remark)
    if meant.local is not None:
        return _open_local(meant.local)
    if os.path.lexists(there := meant.start / WORKSPACE_FOLDER) and not there.is_dir():
        raise BadUsage(f"The workspace '{there}' is not a folder.", hint="Move it away.")
    if meant.is_named:
        raise WorkspaceNotFound(
            f"No local workspace: no {WORKSPACE_FOLDER} folder in '{meant.start}' or above.",
            hint="Create one with 'himl submit SCRIPT' or 'himl init --local'.",
        )
    what = f"No workspace: no {WORKSPACE_FOLDER} folder"
    if remarks:
        raise WorkspaceNotFound(
            f"{what} in '{meant.start}' or above, and no valid Azure ML config.json.",
            hint=f"{remarks[0]} For details, run 'himl doctor'.",
        )
    raise WorkspaceNotFound(
        f"{what} and no Azure ML config.json in '{meant.start}' or above.",
        hint="Create a local workspace with 'himl submit SCRIPT' or 'himl init --local', or name one with "
        "--workspace. For Azure ML, run 'himl doctor'.",
    )


def open_azure(address: WorkspaceAddress, start: Path) -> AzureWorkspace:
    """The Azure ML workspace at *address*, with the credentials that the settings for *start* name. Sends no
    request."""
    from himl_cli.workspaces.azure.connection import Connection
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return AzureWorkspace(Connection.open(address, settings=config.azure_settings(start)))


def own_local_run() -> tuple[LocalWorkspace, str] | None:
    """The workspace and the run's id of the local himl job that this process is part of, else None."""
    folder, run_id = Path(os.environ.get("HIML_RUN_FOLDER", "")), os.environ.get("AZUREML_RUN_ID", "")
    # The variables may be left over from another job, or come from a local job that started a job elsewhere
    is_ours = bool(run_id) and folder.name == run_id and folder.is_dir()
    return (_open_local(folder.parent.parent), run_id) if is_ours else None


def azure_at(subscription_id: str, resource_group: str, name: str, source: str, start: Path) -> WorkspaceAddress:
    """The address of a workspace with known ids, in the cloud that the settings for *start* name. *source* names the
    origin of the ids."""
    return WorkspaceAddress(subscription_id, resource_group, name, current_cloud(cloud_setting(start)), source)


def address_of(workspace: Workspace) -> WorkspaceAddress | None:
    """The address of an Azure ML workspace, else None."""
    from himl_cli.workspaces.azure.workspace import AzureWorkspace

    return workspace.connection.address if isinstance(workspace, AzureWorkspace) else None


def _open_local(folder: Path, *, create: bool = False) -> LocalWorkspace:
    from himl_cli.workspaces.local.workspace import LocalWorkspace

    if folder.is_file():
        raise BadUsage(f"The workspace '{folder}' is a file.", hint="Move it away, or name a .himl folder.")
    if not folder.is_dir() and not create:
        raise WorkspaceNotFound(
            f"No workspace at '{folder}'.", hint=f"Create it with 'himl submit SCRIPT --workspace {folder}'."
        )
    return LocalWorkspace(folder)


def azure_ids_in(path: Path) -> Mapping[str, str]:
    """The ids in a config file of Azure ML, by key. Raises WorkspaceNotFound or BadUsage."""
    address = config.address_from_config(path)
    return dict(zip(config.CONFIG_KEYS, (address.subscription_id, address.resource_group, address.name), strict=True))


def make_local(folder: Path) -> tuple[Path, bool]:
    """Create a local workspace in *folder*. Return its path and whether it is new. Raises BadUsage or DiskFailed."""
    made = folder / WORKSPACE_FOLDER
    if made.is_file():
        raise BadUsage(f"Cannot create the workspace '{made}', because a file has this name.", hint="Move the file.")
    is_new = not made.is_dir()
    if is_new:
        _open_local(made, create=True).make()
    return made, is_new


def _in_home(method: Method) -> Method:
    """*method*, whose first argument is a run's id, of the workspace that contains the run."""

    def forwarded(joined: JoinedWorkspace, run_id: str, *args: Any, **options: Any) -> Any:
        return joined._ask(run_id, lambda workspace: getattr(workspace, method.__name__)(run_id, *args, **options))

    return cast("Method", forwarded)


class JoinedWorkspace(Workspace):
    """Several workspaces as one, newest runs first: the runs of *local*, the *pointed* ones, which were submitted from
    here to other machines, and those of the service that *open_service* opens. The datastores are those of the service
    if there is one, else the local ones.

    The local workspace is searched first, which needs no request, and then the pointers. The service is opened at first
    use. *service_label* is its name in messages, so that naming it does not open it.
    """

    def __init__(
        self,
        local: Workspace,
        open_service: Callable[[], Workspace] | None,
        service_label: str = "",
        pointed: PointedRuns | None = None,
    ) -> None:
        self.local = local
        self._open_service = open_service
        self._service_label = service_label
        self._pointed = pointed
        self._turn = threading.RLock()  # to use the local workspace, or to open the other one
        self._elsewhere = threading.RLock()  # to use a workspace on another machine, which has few sessions

    @property
    def label(self) -> str:
        pointed = self._pointed.label if self._pointed is not None else ""
        return " and ".join(filter(None, (self.local.label, pointed, self._service_label)))

    @cached_property
    def _opened(self) -> Workspace:
        assert self._open_service is not None
        return self._open_service()

    @property
    def _service(self) -> Workspace:
        with self._turn:
            return self._opened

    @property
    def _for_data(self) -> Workspace:
        return self.local if self._open_service is None else self._service

    def ask_all(self, ask: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
        """As for the service, which may have some of the runs."""
        if self._open_service is None:
            return super().ask_all(ask, items)
        from himl_cli.workspaces.azure.http import MANY_AT_ONCE, ask_all

        return ask_all(ask, items, at_once=MANY_AT_ONCE)

    def home_of(self, run_id: str) -> Workspace:
        """The workspace that contains the run, the local one if several do. Raises RunNotFound, naming similar ids of
        all."""

        def known(workspace: Workspace) -> Workspace:
            workspace.run(run_id)
            return workspace

        return self._ask(run_id, known)

    def _ask(self, run_id: str, act: Callable[[Workspace], Answer]) -> Answer:
        """Call *act* on the workspace that contains the run: the local one if it does, else that of its pointer, else
        the service, which raises RunNotFound if it does not."""
        with self._turn:
            here = self._missing_here(run_id)
            if here is None:
                return act(self.local)
        if self._pointed is not None:
            if (home := self._pointed.home_of(run_id)) is not None:
                with self._elsewhere:
                    return act(home)
            here = self._pointed.missing(here)
        # Part of an id of himl. A service could have a run with a shorter name, such as that of an experiment
        if here.abbreviated and (re.search(r"_\d{4}", run_id) or not here.abbreviated[0].startswith(run_id)):
            raise here
        if self._open_service is None:
            raise here
        with _way_out(here.similar):
            try:
                return act(self._service)
            except RunNotFound as err:
                similar = dict.fromkeys((*here.similar, *err.similar))
                ids = [*here.abbreviated, *err.abbreviated]
                raise RunNotFound(
                    run_id, self.label, similar=list(similar)[:4], abbreviated=ids, is_complete=False
                ) from err

    run = _in_home(Workspace.run)

    def runs(self, query: RunQuery) -> Iterator[Run]:
        """The runs of all, newest first. Children come from their parent's workspace. A local run that is also recorded
        in the service appears once."""
        if query.parent is not None:
            here: Sequence[Run] | None
            with self._turn:
                here = [*self.local.runs(query)] if self._missing_here(query.parent) is None else None
            if here is None and self._pointed is not None and (home := self._pointed.home_of(query.parent)) is not None:
                with self._elsewhere:
                    here = self._pointed.children(home, query)
            yield from self._of_service(query) if here is None else here
            return
        both = heapq.merge(self._own(query), self._only_there(query), key=partial(_time, query), reverse=True)
        yield from islice(both, query.limit)

    def _own(self, query: RunQuery) -> Iterator[Run]:
        """The runs of the local workspace and those with pointers, in pages. Only the machines of runs on a page are
        asked."""
        local = self.local.runs(query)
        if self._pointed is None:
            yield from local
            return
        time = partial(_time, query)
        pointed = sorted(self._pointed.last_known(query), key=time, reverse=True)
        both = heapq.merge(local, pointed, key=time, reverse=True)
        while page := [*islice(both, query.limit)]:
            with self._elsewhere:
                yield from self._pointed.current(page, query)

    def known_ids(self) -> Sequence[str]:
        """The ids of local runs, and of those with pointers."""
        return [*self.local.known_ids(), *(self._pointed.pointers.ids() if self._pointed is not None else ())]

    def forget(self, run_id: str) -> bool:
        return self._pointed is not None and self._pointed.pointers.remove(run_id)

    def experiments(self) -> Mapping[str, datetime]:
        """The experiments of all. The age of one in several workspaces is that of the oldest one."""
        every = [self.local.experiments()]
        if self._pointed is not None:
            every += [{run.experiment: run.created} for run in self._pointed.last_known(RunQuery())]
        if self._open_service is not None:
            with _way_out():
                every.append(self._service.experiments())
        names = {name for each in every for name in each}
        found = {name: min(each[name] for each in every if name in each) for name in names}
        return dict(sorted(found.items(), key=lambda each: each[1], reverse=True))

    def _only_there(self, query: RunQuery) -> Iterator[Run]:
        """The runs of the service without records of local runs, which count toward its limit, so that this requests
        more runs if there are some among the first."""
        passed: set[str] = set()
        limit = query.limit
        while True:
            found = 0
            for run in self._of_service(replace(query, limit=limit)):
                found += 1
                if run.id not in passed:
                    passed.add(run.id)
                    if RECORDED_FROM not in run.tags or self._missing_here(run.id):
                        yield run
            if not limit or found < limit:
                return
            limit *= 4

    def _of_service(self, query: RunQuery) -> Iterator[Run]:
        if self._open_service is not None:
            with _way_out():
                yield from self._service.runs(query)

    def _missing_here(self, run_id: str) -> RunNotFound | None:
        try:
            self.local.run(run_id)
        except RunNotFound as err:
            return err
        return None

    tag = _in_home(Workspace.tag)
    rename = _in_home(Workspace.rename)
    archive = _in_home(Workspace.archive)
    cancel = _in_home(Workspace.cancel)
    metrics = _in_home(Workspace.metrics)
    values = _in_home(Workspace.values)
    parameters = _in_home(Workspace.parameters)
    run_files = _in_home(Workspace.run_files)
    log_position = _in_home(Workspace.log_position)
    code_files = _in_home(Workspace.code_files)
    environment = _in_home(Workspace.environment)
    stored_job = _in_home(Workspace.stored_job)
    stored_pipeline = _in_home(Workspace.stored_pipeline)
    output_files = _in_home(Workspace.output_files)

    def delete_rest(self, run_id: str) -> bool:
        return self.local.delete_rest(run_id)

    def results(self, runs: Sequence[Run], *, wanted: Callable[[str], bool], whole: bool) -> Mapping[str, RunResults]:
        """Request the runs of each workspace once."""
        found: dict[str, RunResults] = {}
        for home, chosen in self._by_home(runs):
            with self._elsewhere if home is not self.local else self._turn, _way_out():
                found |= home.results(chosen, wanted=wanted, whole=whole)
        return found

    def refresh(self, runs: Sequence[Run]) -> Mapping[str, tuple[Run, RunResults]]:
        """As `results`. A run of another machine that does not answer is as it was last seen."""
        found: dict[str, tuple[Run, RunResults]] = {}
        pointed = list[Run]()
        for home, chosen in self._by_home(runs):
            if self._pointed is not None and self._pointed.home_labelled(home.label) is home:
                pointed += chosen
            else:
                with _way_out():
                    found |= home.refresh(chosen)
        if pointed and self._pointed is not None:
            with self._elsewhere:
                found |= self._pointed.refresh(pointed)
        return found

    def _by_home(self, runs: Sequence[Run]) -> Sequence[tuple[Workspace, Sequence[Run]]]:
        """The workspaces of *runs*, each with its runs."""
        found: dict[str, list[Run]] = {}
        for run in runs:
            found.setdefault(run.workspace, []).append(run)
        of_service = list[Run]()
        parts: list[tuple[Workspace, Sequence[Run]]] = []
        for label, chosen in found.items():
            pointed = self._pointed.home_labelled(label) if self._pointed is not None else None
            home = self.local if label == self.local.label else pointed
            if home is not None:
                parts.append((home, chosen))
            else:
                of_service += chosen
        if of_service and self._open_service is not None:
            with _way_out():
                parts.append((self._service, of_service))
        return parts

    def system_metrics(self, runs: Sequence[Run], *, by_node: bool = False) -> Mapping[str, Sequence[Metric]]:
        return {
            run_id: metrics
            for home, chosen in self._by_home(runs)
            for run_id, metrics in home.system_metrics(chosen, by_node=by_node).items()
        }

    def datastores(self) -> Sequence[DatastoreInfo]:
        return self._for_data.datastores()

    def datastore(self, name: str | None = None) -> BlobStore:
        return self._for_data.datastore(name)

    def close(self) -> None:
        self.local.close()
        if self._pointed is not None:
            self._pointed.close()
        if "_opened" in vars(self):
            self._opened.close()


def _time(query: RunQuery, run: Run) -> datetime:
    return (query.by_start and run.started) or run.created


@contextmanager
def _way_out(similar: Sequence[str] = ()) -> Iterator[None]:
    """Add to an error of the service the way to do without it. A service that does not answer is an error, not an empty
    result.

    *similar* are similar ids of local runs.
    """
    try:
        yield
    except (NotAllowed, ServiceFailed, WorkspaceNotFound) as err:
        alike = f"Did you mean the local run {' or '.join(similar)}?" if similar else ""
        err.hint = " ".join(filter(None, (alike, err.hint, "To use only local runs, add --workspace local")))
        raise
