"""Bringing a checkpoint to this machine, complete and checked; what it is and where it lies then."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from himl_cli.core.blobs import TransferResult, listed
from himl_cli.core.checkpoints import Choice, FetchedCheckpoint
from himl_cli.core.errors import BadUsage, IntegrityFailed, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import expand_home, walk_files
from himl_cli.core.redaction import shown
from himl_cli.core.runs import RunSelection
from himl_cli.services.checkpoints.chosen_files import ChosenFiles
from himl_cli.services.checkpoints.here import path_of
from himl_cli.services.checkpoints.names import FOLDER
from himl_cli.services.checkpoints.sources import (
    Checkpoint,
    Meant,
    checkpoint_of,
    find_here,
    find_meant,
    kind_of,
    meant_by,
)
from himl_cli.services.checkpoints.whole import is_whole
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.local_files import disk_error, md5_of
from himl_cli.services.transfer.names import safe_relative
from himl_cli.services.transfer.plan import WORKERS, DownloadRequest
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.workspaces.base import BlobStore, Workspace

PLACE = "checkpoints"
OF_OTHER_FOLDERS = ("outputs", "logs", "user_logs", "azureml-logs", "system_logs")
"""What else of a run may have been fetched or downloaded to the folder of its checkpoints."""


class Once(Protocol):
    """Does something once on each node, and gives its outcome to all ranks, who meet in *folder* over *key*
    (`services.transfer.ranks`)."""

    def __call__(
        self, folder: Path, key: str, act: Callable[[], TransferResult], *, notify: Notify = ignore
    ) -> TransferResult: ...


@dataclass(frozen=True)
class CheckpointRequest:
    """`source` is a SOURCE; where it is None, `selection` says which run is meant. `folder` None: `root/RUN_ID`, of an
    address `root` itself."""

    source: str | None = None
    choice: Choice = field(default_factory=Choice)
    folder: Path | None = None
    overwrite: bool = False
    workers: int = WORKERS
    selection: RunSelection = field(default_factory=RunSelection)
    root: Path = Path(PLACE)


def fetch_checkpoint(
    request: CheckpointRequest,
    open_workspace: Callable[[], Workspace],
    open_address: Callable[[str], BlobStore],
    cwd: Path,
    *,
    once: Once = rank_zero_only,
    notify: Notify = ignore,
) -> FetchedCheckpoint:
    """The checkpoint that *request* means, below its folder; a path that exists stays where it is. Only for a run is
    the workspace opened.

    The file or folder it names is complete and checked, or this raises: NotFound, BadUsage (also where several fit),
    TransferIncomplete for another file of the name here, IntegrityFailed, ServiceFailed and their kin. What is complete
    here is not fetched again, what is partial is gone on with.
    """
    kind = "run" if request.source is None else kind_of(request.source, cwd)
    if kind != "run" and request.choice != Choice():
        what = "a path here" if kind == "path" else "an address"
        raise BadUsage(
            f"Of the checkpoints of a run one can be selected, and the source is {what}.",
            hint="Leave out what is to be selected.",
        )
    if request.source is not None and kind == "path":
        return _here(request.source, cwd)
    if request.source is not None and kind == "address":
        return _from_address(request, request.source, open_address(request.source), once, notify)
    workspace = open_workspace()
    meant = (
        find_meant(request.source, workspace, cwd, request.choice)
        if request.source is not None
        else _selected(request, workspace, cwd, notify)
    )
    folder = request.folder or request.root / _as_folder(meant.run.id)
    files = workspace.run_files(meant.run.id)
    work = _Work(request, folder, files, lambda: checkpoint_of(meant, workspace, request.choice, files), notify)
    return replace(
        work.done_by(once, repr(("checkpoint", meant.run.id, meant.path, request.choice, request.overwrite))),
        run=meant.run,
    )


def digest_of(fetched: FetchedCheckpoint) -> str | None:
    """The MD5 of a single file in hex digits, as it is on the disk; None for a folder. Raises OSError."""
    return md5_of(fetched.path).hex() if fetched.path.is_file() else None


@dataclass(frozen=True)
class _Work:
    """Bringing what *look* finds among *files* to *folder*."""

    request: CheckpointRequest
    folder: Path
    files: BlobStore
    look: Callable[[], Checkpoint]
    notify: Notify

    def done_by(self, once: Once, key: str) -> FetchedCheckpoint:
        """What came of it, the same in every rank. One that was not told (what started it had fetched before) looks for
        itself."""
        result = once(self.folder, key, self._fetch, notify=self.notify)
        record: dict[str, Any] = json.loads(result.note) if result.note else self._record(self.look(), TransferResult())
        return FetchedCheckpoint(**record)

    def _fetch(self) -> TransferResult:
        found = self.look()
        if found.why:
            self.notify(Notice(found.why))
        filters = Filters(f"{FOLDER}/" if found.is_in_usual_folder else "")
        asked = DownloadRequest(
            self.folder, filters, "", found.is_in_usual_folder, self.request.overwrite, workers=self.request.workers
        )
        result = download(ChosenFiles(self.files, found.blobs), asked, self.notify)
        problem = result.problem()
        if problem is not None:
            raise problem
        record = self._record(found, result)
        if found.is_one or not found.folder:
            where = f"at {shown(found.address)}" if found.address else "in the run"
            _check_whole(
                Path(record["shown"]),
                record["shown"],
                f"is as it lies {where}, but was not written to its end: it would not load.",
            )
        if found.folder:
            self._name_others(Path(record["shown"]), {name[len(found.folder) :] for name in found.names})
        return replace(result, note=json.dumps(record))

    def _name_others(self, folder: Path, names: Collection[str]) -> None:
        """Tell which files the folder has that are not the run's: it kept fewer since they were fetched, or somebody
        put them there."""
        try:
            there = [found.name for found in walk_files(str(folder), skip_workspaces=True)]
        except OSError as err:
            raise disk_error(err, f"Cannot read '{err.filename or folder}'") from err
        others = [name for name in there if name not in names and name.partition("/")[0] not in OF_OTHER_FOLDERS]
        if others:
            self.notify(Notice(f"'{folder}' also has what the run does not have there (any more): {listed(others)}."))

    def _record(self, found: Checkpoint, result: TransferResult) -> dict[str, Any]:
        """The fields of a FetchedCheckpoint that JSON can hold."""
        inside = posixpath.relpath(found.inside, FOLDER) if found.is_in_usual_folder else found.inside
        path = self.folder / inside
        return {
            "shown": str(path),
            "status": "fetched" if result.files else "complete",
            "names": list(found.names),
            "size": path.stat().st_size if path.is_file() else sum(blob.size for blob in found.blobs),
            "epoch": found.epoch,
            "metric": found.metric,
            "value": found.value,
            "unverified": result.unverified,
            "seconds": round(result.seconds, 3),
        }


def _here(source: str, cwd: Path) -> FetchedCheckpoint:
    found = find_here(source, cwd)
    files = found.names
    if found.is_one or not found.folder:
        _check_whole(path_of(source, cwd), source, "was not written to its end: it would not load.")
    text = str(expand_home(source)) if source.startswith("~") else source
    return FetchedCheckpoint(text, "local", files, sum(Path(file).stat().st_size for file in files))


def _check_whole(path: Path, called: str, words: str) -> None:
    """Raises IntegrityFailed."""
    if not is_whole(path):
        raise IntegrityFailed(f"'{called}' {words}", hint="Choose another one: --select, or RUN:FILE.")


def _from_address(
    request: CheckpointRequest, address: str, file: BlobStore, once: Once, notify: Notify
) -> FetchedCheckpoint:
    work = _Work(request, request.folder or request.root, file, lambda: _at_address(address, file), notify)
    return replace(work.done_by(once, repr(("checkpoint", file.origin, request.overwrite))), address=shown(address))


def _at_address(address: str, file: BlobStore) -> Checkpoint:
    blobs = [blob for page in file.list() for blob in page]
    if not blobs:
        raise NotFound(f"There is no file at {shown(address)}.")
    return Checkpoint([blob.name for blob in blobs], address=address, blobs=blobs)


def _selected(request: CheckpointRequest, workspace: Workspace, cwd: Path, notify: Notify) -> Meant:
    """The one run that the selection means. Raises BadUsage where these are several."""
    found = find_runs(workspace, request.selection, cwd=cwd, notify=notify)
    if len(found) > 1:
        raise BadUsage(
            f"{len(found)} runs are selected, and a checkpoint is that of one.",
            hint=f"Name one: {', '.join(run.id for run in found[:5])}",
        )
    return meant_by(found[0], workspace, request.choice)


def _as_folder(run_id: str) -> str:
    """*run_id* as the name of a folder here. Raises BadUsage."""
    try:
        (name,) = safe_relative(run_id)
    except ValueError:
        raise BadUsage(f"'{run_id}' cannot be the name of a folder here.", hint="Give --output_dir.") from None
    return name
