"""Brings checkpoints to a folder here, to a job on this machine, or to a job on a cluster."""

from __future__ import annotations

import hashlib
import json
import posixpath
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from himl_cli.core.blobs import BlobInfo, FetchRequest, StoreRequest, TransferResult, listed
from himl_cli.core.checkpoints import FROM_RUN, Choice, FetchedCheckpoint
from himl_cli.core.errors import BadUsage, IntegrityFailed, NotAllowed, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import cache_of, expand_home, walk_files
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.redaction import parts_of, shown
from himl_cli.core.runs import RunSelection
from himl_cli.services.checkpoints.names import FOLDER
from himl_cli.services.checkpoints.recovery import is_whole
from himl_cli.services.checkpoints.source import (
    Checkpoint,
    check_whole,
    checkpoint_of,
    find_checkpoint,
    find_here,
    find_source_run,
    kind_of,
    run_or_best_trial,
)
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.submission.prepare import shorten_tags
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.file_names import safe_relative
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.local_files import disk_error, md5_of
from himl_cli.services.transfer.plan import WORKERS, DownloadRequest
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.upload import upload_named
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, FetchSink, StoreSink, Workspace


class ChosenFiles:
    """The files *blobs* of *store*, as they were when they were listed; their bytes come only while their ETags are
    still those."""

    def __init__(self, store: BlobStore, blobs: Iterable[BlobInfo]) -> None:
        self._store = store
        self._blobs = sorted(blobs, key=lambda blob: blob.name)

    @property
    def label(self) -> str:
        return self._store.label

    @property
    def origin(self) -> str:
        return self._store.origin

    def list(self, prefix: str = "") -> Iterator[Sequence[BlobInfo]]:
        yield [blob for blob in self._blobs if blob.name.startswith(prefix)]

    def stat(self, name: str) -> BlobInfo | None:
        """As it is now: it may have changed since it was listed."""
        return self._store.stat(name)

    def md5(self, blob: BlobInfo) -> bytes | None:
        return self._store.md5(blob)

    def read(self, name: str, offset: int = 0) -> Iterator[bytes]:
        return self._store.read(name, offset)

    def fetch(self, requests: Iterable[FetchRequest], sink: FetchSink, *, workers: int) -> None:
        self._store.fetch(requests, sink, workers=workers)

    def store(self, requests: Iterable[StoreRequest], sink: StoreSink, *, workers: int) -> None:
        self._store.store(requests, sink, workers=workers)


KEPT_DAYS = 30
USED = ".himl-used"
"""The file in each folder whose time says when it was used last."""
_LOCK, _GONE = ".himl-lock", ".gone-"


@contextmanager
def cache_folder(key: str) -> Iterator[Path]:
    """The folder for what *key* names, which stays as it is while it is in use here, and for `KEPT_DAYS` after. Raises
    BadUsage without a home, DiskFailed."""
    from filelock import FileLock

    top = cache_of("checkpoints", "to keep checkpoints in", "Download it, and name the file.")
    folder = top / hashlib.sha256(key.encode()).hexdigest()[:16]
    unused = []
    try:
        with FileLock(top / _LOCK):  # for a moment: nobody renames a folder that another himl is about to use
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / USED).touch()
            for other in top.iterdir():
                if other.name.startswith(_GONE):  # somebody was stopped while removing it
                    unused.append(other)
                elif other.is_dir():
                    with suppress(OSError):  # on Windows, a program has a file of it open
                        used = other / USED if (other / USED).exists() else other
                        if used.stat().st_mtime < time.time() - KEPT_DAYS * 24 * 3600:
                            unused.append(other.rename(top / f"{_GONE}{uuid.uuid4().hex}"))
    except OSError as err:
        raise disk_error(err, "Cannot make himl's cache folder") from err
    for path in unused:
        shutil.rmtree(path, ignore_errors=True)
    try:
        yield folder
    finally:
        with suppress(OSError):
            (folder / USED).touch()


PLACE = "checkpoints"
OF_OTHER_FOLDERS = ("outputs", "logs", "user_logs", "azureml-logs", "system_logs")
"""What else of a run may have been fetched or downloaded to the folder of its checkpoints."""


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
    once: Callable[..., TransferResult] = rank_zero_only,
    notify: Notify = ignore,
) -> FetchedCheckpoint:
    """The checkpoint that *request* means, below its folder; a path that exists stays where it is. Only for a run is
    the workspace opened. *once* is called as `rank_zero_only` is.

    The file or folder it names is complete and checked, or this raises: NotFound, BadUsage (also where several fit),
    TransferIncomplete for another file of the name here, IntegrityFailed, ServiceFailed and their kin. What is complete
    here is not fetched again, what is partial is gone on with.
    """
    source, choice = request.source, request.choice
    kind = "run" if source is None else kind_of(source, cwd)
    if kind != "run" and choice != Choice():
        what = "a path here" if kind == "path" else "an address"
        raise BadUsage(
            f"Of the checkpoints of a run one can be selected, and the source is {what}.",
            hint="Leave out what is to be selected.",
        )
    if source is not None and kind == "path":
        found = find_here(source, cwd)
        if found.is_one or not found.folder:
            _check_whole(cwd / expand_home(source), source, "was not written to its end: it would not load.")
        text = str(expand_home(source)) if source.startswith("~") else source
        return FetchedCheckpoint(text, "local", found.names, sum(Path(file).stat().st_size for file in found.names))
    if source is not None and kind == "address":
        address, file = source, open_address(source)

        def find_address() -> Checkpoint:
            blobs = [blob for page in file.list() for blob in page]
            if not blobs:
                raise NotFound(f"There is no file at {shown(address)}.")
            return Checkpoint([blob.name for blob in blobs], address=address, blobs=blobs)

        key = repr(("checkpoint", file.origin, request.overwrite))
        fetched = _fetch_once(request, request.folder or request.root, file, find_address, once, key, notify)
        return replace(fetched, address=shown(address))
    workspace = open_workspace()
    if source is not None:
        source_run = find_source_run(source, workspace, cwd, choice)
    else:
        runs = find_runs(workspace, request.selection, cwd=cwd, notify=notify)
        if len(runs) > 1:
            raise BadUsage(
                f"{len(runs)} runs are selected, and a checkpoint is that of one.",
                hint=f"Name one: {', '.join(run.id for run in runs[:5])}",
            )
        source_run = run_or_best_trial(runs[0], workspace, choice)
    run = source_run.run
    folder = request.folder
    if folder is None:
        try:
            folder = request.root.joinpath(*safe_relative(run.id))
        except ValueError:
            raise BadUsage(f"'{run.id}' cannot be the name of a folder here.", hint="Give --output_dir.") from None
    files = workspace.run_files(run.id)
    key = repr(("checkpoint", run.id, source_run.path, choice, request.overwrite))
    find = partial(checkpoint_of, source_run, workspace, choice, files)
    return replace(_fetch_once(request, folder, files, find, once, key, notify), run=run)


def digest_of(fetched: FetchedCheckpoint) -> str | None:
    """The MD5 of a single file in hex digits, as it is on the disk; None for a folder. Raises OSError."""
    return md5_of(fetched.path).hex() if fetched.path.is_file() else None


def _fetch_once(
    request: CheckpointRequest,
    folder: Path,
    files: BlobStore,
    find: Callable[[], Checkpoint],
    once: Callable[..., TransferResult],
    key: str,
    notify: Notify,
) -> FetchedCheckpoint:
    """Bring what *find* finds among *files* to *folder*; gives the same in every rank. One that gets no record (what
    started it had fetched before) looks for itself."""

    def fetch() -> TransferResult:
        found = find()
        if found.why:
            notify(Notice(found.why))
        is_usual = found.is_in_usual_folder
        filters = Filters(f"{FOLDER}/" if is_usual else "")
        wanted = DownloadRequest(folder, filters, "", is_usual, request.overwrite, workers=request.workers)
        result = download(ChosenFiles(files, found.blobs), wanted, notify)
        problem = result.problem()
        if problem is not None:
            raise problem
        record = _record(found, folder, result)
        path = Path(record["shown"])
        if found.is_one or not found.folder:
            where = f"at {shown(found.address)}" if found.address else "in the run"
            text = f"is as it lies {where}, but was not written to its end: it would not load."
            _check_whole(path, record["shown"], text)
        if found.folder:
            # The run kept fewer since they were fetched, or somebody put them there
            names = {name[len(found.folder) :] for name in found.names}
            try:
                there = [file.name for file in walk_files(str(path), skip_workspaces=True)]
            except OSError as err:
                raise disk_error(err, f"Cannot read '{err.filename or path}'") from err
            others = [name for name in there if name not in names and name.partition("/")[0] not in OF_OTHER_FOLDERS]
            if others:
                notify(Notice(f"'{path}' also has what the run does not have there (any more): {listed(others)}."))
        return replace(result, note=json.dumps(record))

    result = once(folder, key, fetch, notify=notify)
    record: dict[str, Any] = json.loads(result.note) if result.note else _record(find(), folder, TransferResult())
    return FetchedCheckpoint(**record)


def _record(found: Checkpoint, folder: Path, result: TransferResult) -> dict[str, Any]:
    """The fields of a FetchedCheckpoint that JSON can hold."""
    path = folder / (posixpath.relpath(found.inside, FOLDER) if found.is_in_usual_folder else found.inside)
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


def _check_whole(path: Path, called: str, words: str) -> None:
    """Raises IntegrityFailed."""
    if not is_whole(path):
        raise IntegrityFailed(f"'{called}' {words}", hint="Choose another one: --select, or RUN:FILE.")


OpenAddress = Callable[[str], BlobStore]


@dataclass(frozen=True)
class Brought:
    """`files` are paths here by their place in a new job's working folder; `tags` say on the run what it began with."""

    files: Mapping[str, str]
    tags: Mapping[str, str]


def bring_checkpoint(
    source: str, workspace: Workspace, cwd: Path, notify: Notify, open_address: OpenAddress
) -> Brought:
    """The files that *source* means; those of a run or an address are downloaded to himl's cache, where they are not
    complete there.

    Raises NotFound naming what there is, and what the download raises.
    """
    found = find_checkpoint(source, workspace, cwd)
    if found.why:
        notify(Notice(found.why))
    files = bring_found(found, workspace, notify, open_address)
    if found.run is not None or found.address:
        whose = f"of run {found.run.id}" if found.run is not None else f"at {shown(found.address)}"
        what = f"{', '.join(sorted(found.names)[:3])} {whose}" if found.names else whose
        notify(Notice(f"Checkpoint {what} goes to {', '.join(sorted(files)[:3])}."))
    return Brought(files, tags_of(found))


def bring_found(found: Checkpoint, workspace: Workspace, notify: Notify, open_address: OpenAddress) -> dict[str, str]:
    """Paths here of the files that were found, by their place in a new job's working folder.

    Raises BadUsage for a file here that no job could start from, IntegrityFailed for such a checkpoint of a run or at
    an address.
    """
    if found.run is not None:
        files = workspace.run_files(found.run.id)
        return _downloaded(found, ChosenFiles(files, found.blobs), f"{files.origin} {found.run.id}", notify)
    if found.address:
        file = open_address(found.address)
        (blob,) = (blob for page in file.list() for blob in page)
        return _downloaded(replace(found, names=[blob.name]), file, file.origin, notify)
    try:
        for name in found.names:
            check_whole(Path(name), in_folder=bool(found.folder))
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or found.inside}'") from err
    return dict(found.by_place)


def tags_of(found: Checkpoint) -> dict[str, str]:
    """The tag that says what a run began with: RUN:PATH, an address without its query, or `./` and the name of a file
    or folder that was here."""
    if found.run is not None:
        told = f"{found.run.id}:{found.folder or found.names[0]}"
    elif found.address:
        told = shown(found.address)
    else:
        told = f"./{Path(found.folder or found.names[0]).name}{'/' if found.folder else ''}"
    return shorten_tags({FROM_RUN: told})


def _downloaded(found: Checkpoint, files: BlobStore, key: str, notify: Notify) -> dict[str, str]:
    with cache_folder(key) as root:
        problem = download(files, DownloadRequest(root, overwrite=True), notify).problem()
        if problem is not None:
            raise problem
        if (found.is_one or not found.folder) and not is_whole(root / found.inside):
            raise IntegrityFailed(
                f"'{found.inside}' was not written to its end, and is no checkpoint.",
                hint="Choose another one, or train on without it.",
            )
        return {place: str(root / name) for place, name in found.by_place.items()}


KEY = "himl_checkpoint"
INPUT = f"${{{{inputs.{KEY}}}}}"
UPLOADED = "himl_checkpoints"


def refer_to_checkpoint(
    source: str,
    runs: Workspace,
    cluster: Workspace,
    spec: JobSpec,
    cwd: Path,
    notify: Notify,
    open_address: OpenAddress,
) -> JobSpec:
    """*spec* with the checkpoint that *source* means, among *runs*, at an address or a file here.

    What lies in the workspace of the cluster is read where it lies; all else is uploaded first to the default
    datastore, below `himl_checkpoints/`, once. Raises NotFound naming what there is, and what moving the files raises.
    """
    if any(item.key == KEY for item in spec.inputs):
        raise BadUsage(f"An input is called '{KEY}', which is that of --checkpoint.", hint="Choose another key.")
    found = find_checkpoint(source, runs, cwd)
    if found.why:
        notify(Notice(found.why))
    located = _location(found, runs, cluster)
    if located is not None and found.run is not None and not found.run.status.is_final:
        text = f"the job begins with '{found.inside}' as that is when the job starts"
        notify(Notice(f"Run '{found.run.id}' has not ended: {text}."))
    item, files = located or _upload(found, runs, cluster, spec.default_datastore, notify, open_address)
    brought = {place: f"{INPUT}/{name}" for place, name in files.items()}
    if found.folder:
        brought = {f"{found.folder_place}/": f"{INPUT}/"}
    told = shown(source) if found.address else source
    notify(Notice(f"Checkpoint '{told}' is {', '.join(sorted(brought)[:3])} when the job starts."))
    return replace(spec, inputs=[*spec.inputs, item], brought=brought, tags={**spec.tags, **tags_of(found)})


def _location(found: Checkpoint, runs: Workspace, cluster: Workspace) -> tuple[DataSpec, Mapping[str, str]] | None:
    """The input that has the checkpoint where it lies, and the names of the files in it by their place in the job's
    working folder; None for what is not in the cluster's workspace.

    A file at an address may be in storage that a datastore of the workspace is of; the signature is not needed then.
    Raises NotFound where it is gone.
    """
    datastore = above = ""
    if found.run is not None:
        home = runs.home_of(found.run.id)
        if not isinstance(home, CloudWorkspace) or home.label != cluster.label:
            return None
        if found.blobs and not any(blob.size for blob in found.blobs):
            raise IntegrityFailed(
                f"'{found.inside}' of run '{found.run.id}' is empty, and no checkpoint.",
                hint="Choose another one, or train on without it.",
            )
        datastore, folder = home.artifact_location(found.run.id)
        above = f"{folder}/"
    elif found.address:
        parts = parts_of(found.address)
        container, _, path = parts.path.lstrip("/").partition("/")
        account, dfs, suffix = (parts.hostname or "").partition(".dfs.")
        host = f"{account}.blob.{suffix}" if dfs else account  # the lake's own interface is to the same blobs
        is_state = "snapshot=" in parts.query or "versionid=" in parts.query
        if parts.scheme == "https" and ".blob." in host and path and not is_state:
            endpoints = {store.name: parts_of(store.location) for store in cluster.datastores()}
            address = ("https", host, container)
            datastore = next(
                (name for name, one in endpoints.items() if (one.scheme, one.hostname, one.path.strip("/")) == address),
                "",
            )
        found = replace(found, names=[unquote(path)])
        if datastore:
            is_there = True
            with suppress(NotAllowed):  # whoever runs the job may read it all the same
                is_there = cluster.datastore(datastore).stat(found.names[0]) is not None
            if not is_there:
                raise NotFound(
                    f"There is no file '{found.names[0]}' in datastore '{datastore}'.",
                    hint="Was the checkpoint deleted since the link was made?",
                )
    if not datastore:
        return None
    inside = found.folder.rstrip("/") or posixpath.dirname(found.names[0])
    files = {place: posixpath.relpath(name, inside or ".") for place, name in found.by_place.items()}
    return DataSpec(KEY, f"{above}{inside}", datastore=datastore, mode="mount"), files


def _upload(
    found: Checkpoint,
    runs: Workspace,
    cluster: Workspace,
    default: str | None,
    notify: Notify,
    open_address: OpenAddress,
) -> tuple[DataSpec, Mapping[str, str]]:
    """As `_location`, of the files in a folder that is named after their content; what is there already is not sent
    again."""
    paths = {place: Path(path) for place, path in bring_found(found, runs, notify, open_address).items()}
    digests = {place: md5_of(str(path)) for place, path in sorted(paths.items())}
    content = "".join(f"{place}\n{md5.hex()}\n" for place, md5 in digests.items())
    store, folder = cluster.datastore(default), f"{UPLOADED}/{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    cut = len(found.folder_place) + 1
    files = {place: place[cut:] if found.folder else path.name for place, path in paths.items()}
    named = {f"{folder}/{name}": place for place, name in files.items()}
    stored = (blob for page in store.list(f"{folder}/") for blob in page if blob.name in named)
    complete = {blob.name for blob in stored if (blob.md5 or store.md5(blob)) == digests[named[blob.name]]}
    missing = {name: paths[place] for name, place in named.items() if name not in complete}
    problem = upload_named(store, missing, notify).problem()
    if problem is not None:
        raise problem
    return DataSpec(KEY, folder, mode="mount"), files
