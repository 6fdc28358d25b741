"""Deletion of runs with their files in storage: which files these are, and the order of the steps.

himl deletes the files first, directly in storage. Studio's deletion was seen to leave them, and no other route is known
to delete them reliably. A run is deleted after its own files, and after its child runs. So an interrupted deletion can
be repeated, and no files remain without a run.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from himl_cli.core.errors import HimlError, NotFound
from himl_cli.core.events import Counted, Counting, Notify
from himl_cli.core.runs import OutputFootprint, Run, RunFootprint
from himl_cli.workspaces.azure.config import ApiVersion
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.http import ask_all
from himl_cli.workspaces.azure.responses import Response, understood
from himl_cli.workspaces.azure.run_history import RunHistory
from himl_cli.workspaces.azure.run_outputs import DEFAULT_OUTPUT, find_output, is_reused
from himl_cli.workspaces.azure.run_records import RawRun
from himl_cli.workspaces.azure.service_errors import ServiceNotFound, ServiceRefused
from himl_cli.workspaces.azure.storage.container import AzureBlobs
from himl_cli.workspaces.azure.storage.datastores import ARTIFACT_STORE, Datastores, parse_data_uri
from himl_cli.workspaces.retry import is_transient
from himl_cli.workspaces.transfer_engine.headers import retry_after

log = logging.getLogger(__name__)

RUNS_AT_ONCE, BLOBS_AT_ONCE = 4, 16
STORES_AT_ONCE = 16  # of all runs
LONGEST_WAIT = 120.0  # seconds for the service to confirm that a job is deleted
DATA_ASSET = re.compile(r"/data/([^/]+)/versions/([^/]+)$")
_PARAMS = {"api-version": ApiVersion.DATA}


class RunDeletion:
    """*as_run* converts a raw run of the run history into himl's record."""

    def __init__(
        self, connection: Connection, history: RunHistory, datastores: Datastores, as_run: Callable[[RawRun], Run]
    ) -> None:
        self._connection, self._history, self._datastores, self._as_run = connection, history, datastores, as_run
        self._turn = threading.BoundedSemaphore(STORES_AT_ONCE)

    def footprint(self, run: Run, *, outputs: bool) -> RunFootprint:
        """As `CloudWorkspace.footprint`."""
        below = [*self._below(run.id)]
        tree = [run, *below]
        counts = [each for found in ask_all(self._counted, [one.id for one in tree]) for each in found]
        places = dict.fromkeys(place for place, files, _ in counts if files)
        made = ask_all(self._outputs, tree) if outputs else []
        return RunFootprint(
            run,
            below,
            files=sum(files for _, files, _ in counts),
            size=sum(size for _, _, size in counts),
            places=[*places],
            outputs=[each for found in made for each in found],
            is_counted=True,
        )

    def _below(self, run_id: str) -> Iterator[Run]:
        """All child runs at any depth, parents before their children, including archived ones."""
        level = [run_id]
        while level:
            pages = ask_all(lambda parent: [*self._history.children(parent)], level)
            found = [raw for some in pages for page in some for raw in page]
            yield from map(self._as_run, found)
            level = [str(raw["runId"]) for raw in found]

    def _stores(self, run_id: str) -> list[AzureBlobs]:
        """The locations of the run's own files: its artifacts, and the archive that Studio creates for a download.

        None for a step that reused another run's results, because its files belong to that run.
        """
        container = self._history.facts(run_id).container_id
        if container != f"dcid.{run_id}":
            return []
        base, label = f"azureml://datastores/{ARTIFACT_STORE}/paths", f"run '{run_id}'"
        return [
            self._datastores.to_delete(f"{base}/ExperimentRun/{container}/", label),
            self._datastores.to_delete(f"{base}/ArtifactZip/ExperimentRun/{container}.zip", label, is_file=True),
        ]

    def _counted(self, run_id: str) -> list[tuple[str, int, int]]:
        return [_count(store) for store in self._stores(run_id)]

    def _outputs(self, run: Run) -> list[OutputFootprint]:
        raw, definition = self._history.data(run.id)
        if is_reused(raw):
            return []
        found = []
        for key, asset in (raw.get("outputs") or {}).items():
            registered = DATA_ASSET.search(str((asset or {}).get("assetId") or ""))
            if key == DEFAULT_OUTPUT or registered is None:
                continue
            name, version = registered.groups()
            try:
                uri, is_file = find_output(self._connection, self._history, (raw, definition), key)
            except NotFound as err:
                log.debug("output '%s' of run '%s' has no location any more: %s", key, run.id, err)
                continue
            kept = self._why_kept(name, version, uri)
            store = self._datastores.to_delete(uri, f"output '{key}' of run '{run.id}'", is_file=is_file)
            place, files, size = (store.place, 0, 0) if kept else _count(store)
            found.append(OutputFootprint(run.id, key, f"{name}:{version}", uri, is_file, place, files, size, kept))
        return found

    def _why_kept(self, name: str, version: str, uri: str) -> str:
        """Why himl keeps the files of this version of a data asset, because others need them, or ""."""
        address = self._connection.address
        own = parse_data_uri(uri, address)
        if not own.path.strip("/"):
            return "it is a whole datastore"
        for other in self._versions(name):
            place = parse_data_uri(other[1], address) if other[0] != version else None
            if place and (place.datastore, place.account, place.container) == (
                own.datastore,
                own.account,
                own.container,
            ):
                one, two = (f"{each.path.strip('/')}/" for each in (own, place))
                if one.startswith(two) or two.startswith(one):
                    return f"version {other[0]} of it is in the same folder"
        return ""

    def _versions(self, name: str) -> list[tuple[str, str]]:
        """The versions of a data asset that are not archived, each with its location."""
        url = self._connection.arm(f"/data/{quote(name, safe='')}/versions")
        try:
            found = [*self._connection.resources(url, "versions", _PARAMS)]
        except ServiceNotFound:
            return []
        with understood(url, "a version in it"):
            return [
                (str(each["name"]), str(each["properties"].get("dataUri") or ""))
                for each in found
                if not each["properties"].get("isArchived")
            ]

    def erase(self, footprint: RunFootprint, notify: Notify) -> bool:
        """As `CloudWorkspace.erase`."""
        going = [each for each in footprint.outputs if not each.kept]
        total = footprint.files + sum(each.files for each in going)
        tally = _Tally(notify, total, self._turn)

        def empty(run_id: str) -> None:
            for output in going:
                if output.run == run_id:
                    label = f"output '{output.key}' of run '{run_id}'"
                    tally.delete(self._datastores.to_delete(output.uri, label, is_file=output.is_file))
                    self._archive_asset(output.asset)
            for store in self._stores(run_id):
                tally.delete(store)

        def empty_and_archive(run: Run) -> None:
            empty(run.id)
            if not run.is_archived:
                self._history.archive(run.id)

        root = footprint.run.id
        try:
            ask_all(empty_and_archive, [*reversed(footprint.below)], at_once=RUNS_AT_ONCE)
            empty(root)
            return self._delete_record(root)
        except HimlError as err:
            err.args = (f"{err} himl deleted {tally.deleted:,} of {total:,} files, but not run '{root}'.",)
            raise

    def _delete_record(self, run_id: str) -> bool:
        """Delete the run and return whether the service did. If it has no job of this name, or refuses, archive the
        run."""
        if not self._connection.in_job:  # a job has no access to resource manager
            url = self._connection.arm(f"/jobs/{quote(run_id, safe='')}")
            try:
                self._wait(self._connection.request("DELETE", url, params={"api-version": ApiVersion.JOBS}))
            except (ServiceNotFound, ServiceRefused) as err:
                if is_transient(err.status):
                    raise
                log.debug("archived run '%s', because the service did not delete it: %s", run_id, err)
            else:
                return True
        try:
            self._history.get(run_id)  # patching a deleted run would create it again
        except ServiceNotFound:
            return True
        self._history.archive(run_id)
        return False

    def _wait(self, reply: Response) -> None:
        """Wait for a job's deletion for a while. It continues in any case."""
        deadline = time.monotonic() + LONGEST_WAIT
        while reply.status == 202 and "location" in reply.headers and time.monotonic() < deadline:
            time.sleep(min(retry_after(reply.headers.get) or 1.0, 10.0))
            reply = self._connection.request("GET", reply.headers["location"])

    def _archive_asset(self, asset: str) -> None:
        """Archive the version of a data asset, as azure-ai-ml does, because the service deletes none by design."""
        name, _, version = asset.rpartition(":")
        url = self._connection.arm(f"/data/{quote(name, safe='')}/versions/{quote(version, safe='')}")
        found = self._connection.find_object(url, "data asset", params=_PARAMS)
        if found is not None:
            with understood(url, "the data asset"):
                properties: Mapping[str, Any] = {**found["properties"], "isArchived": True}
            self._connection.request("PUT", url, params=_PARAMS, json={"properties": properties})


class _Tally:
    """Deletes the contents of stores from several threads, and counts them."""

    def __init__(self, notify: Notify, total: int, turn: threading.BoundedSemaphore) -> None:
        self.deleted = 0
        self._notify, self._lock, self._turn = notify, threading.Lock(), turn
        notify(Counting("files", total))

    def delete(self, store: AzureBlobs) -> None:
        with self._turn:
            store.delete(self._count, workers=BLOBS_AT_ONCE)

    def _count(self) -> None:
        with self._lock:
            self.deleted += 1
        self._notify(Counted())


def _count(store: AzureBlobs) -> tuple[str, int, int]:
    """The location, the number of its files, and their bytes."""
    files = size = 0
    for page in store.list():
        files += len(page)
        size += sum(blob.size for blob in page)
    return store.place, files, size
