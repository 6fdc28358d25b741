"""Fetch checkpoints to a local folder, to a job on this machine, or to a job on a cluster."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import posixpath
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from himl_cli.core.blobs import BlobInfo, TransferResult
from himl_cli.core.errors import BadUsage, IntegrityFailed, NotAllowed, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import cache_of, expand_home, walk_files
from himl_cli.core.jobs import DataSpec, JobSpec
from himl_cli.core.locks import ProcessLock
from himl_cli.core.records import dataclass
from himl_cli.core.redaction import parts_of, shown
from himl_cli.core.runs import BROUGHT, FROM_RUN, Choice, FetchedCheckpoint, RunSelection
from himl_cli.core.text import listed
from himl_cli.services.checkpoints.names import (
    CHECKPOINT_FOLDER,
    CheckpointRank,
    best_first,
    is_better,
    is_whole,
    rank_of,
)
from himl_cli.services.checkpoints.select import Checkpoint, candidates_of, content_of
from himl_cli.services.checkpoints.source import (
    check_whole,
    checkpoint_of,
    find_checkpoint,
    find_local,
    find_source_run,
    kind_of,
    run_or_best_trial,
)
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.submission.request import LONGEST_TAG_VALUE, shorten_tags
from himl_cli.services.transfer.digests import md5_of
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error, safe_relative
from himl_cli.services.transfer.plan import WORKERS, DownloadRequest, Filters, literal
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.services.transfer.upload import upload_named
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, Workspace

log = logging.getLogger(__name__)

KEPT_DAYS = 30
MOST_DIGESTS = 50  # files of a checkpoint on a cluster for which the service may compute an MD5
# A file in each folder. Its modification time is the folder's last use.
USED = ".himl-used"
PLACE = "checkpoints"
# Other folders of a run that may have been downloaded next to its checkpoints.
OF_OTHER_FOLDERS = ("outputs", "logs", "user_logs", "azureml-logs", "system_logs")
INPUT_KEY = "himl_checkpoint"
INPUT = f"${{{{inputs.{INPUT_KEY}}}}}"

OpenAddress = Callable[[str], BlobStore]


@contextmanager
def cache_folder(key: str) -> Iterator[Path]:
    """Cache folder for *key*, which himl deletes `KEPT_DAYS` after its last use. Raises BadUsage without a home folder,
    DiskFailed."""
    top = cache_of("checkpoints", "for checkpoints", "Download the checkpoint, and give its path.")
    folder = top / hashlib.sha256(key.encode()).hexdigest()[:16]
    try:
        # No process may remove a folder that another one is about to use
        with ProcessLock(top / ".himl-lock", mode=0o600):
            folder.mkdir(mode=0o700, exist_ok=True)
            (folder / USED).touch()
            for other in [path for path in top.iterdir() if path.is_dir()]:
                used = other / USED if (other / USED).exists() else other
                if used.stat().st_mtime < time.time() - KEPT_DAYS * 24 * 3600:
                    shutil.rmtree(other, ignore_errors=True)  # on Windows, a program may have a file open
    except OSError as err:
        raise disk_error(err, "Cannot create himl's cache folder") from err
    try:
        yield folder
    finally:
        with suppress(OSError):
            (folder / USED).touch()


@dataclass(frozen=True)
class CheckpointRequest:
    """`source` is a SOURCE. If it is None, `selection` selects the run. If `folder` is None, it is `root/RUN_ID`, or
    `root` for an address."""

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
    open_address: OpenAddress,
    cwd: Path,
    *,
    once: Callable[..., TransferResult] = rank_zero_only,
    notify: Notify = ignore,
) -> FetchedCheckpoint:
    """Fetch the checkpoint of *request* to its folder. An existing path stays in place. The workspace is opened for
    runs only. *once* is called like `rank_zero_only`.

    On return, the file or folder is complete and checked. Raises NotFound, BadUsage (including for several matches),
    TransferIncomplete for a different local file with the same name, IntegrityFailed, ServiceFailed and similar
    errors. Complete local files are not fetched again, and partial ones are resumed.
    """
    source, choice = request.source, request.choice
    kind = "run" if source is None else kind_of(source, cwd)
    if kind != "run" and choice != Choice():
        what = "a local path" if kind == "path" else "an address"
        raise BadUsage(
            f"Only the checkpoints of a run can be selected, but the source is {what}.",
            hint="Omit the selection.",
        )
    if source is not None and kind == "path":
        found = find_local(source, cwd)
        if found.is_one or not found.folder:
            _check_whole(cwd / expand_home(source), f"'{source}' is incomplete, and would not load.")
        text = str(expand_home(source)) if source.startswith("~") else source
        return FetchedCheckpoint(text, "local", found.names, sum(Path(file).stat().st_size for file in found.names))
    if source is not None and kind == "address":
        file = open_address(source)
        key = repr(("checkpoint", file.origin, request.overwrite))
        find = partial(_find_at_address, source, file)
        fetched = _fetch_once(request, request.folder or request.root, file, find, once, key, notify)
        return replace(fetched, address=shown(source))
    workspace = open_workspace()
    if source is not None:
        run, inside, why = find_source_run(source, workspace, cwd, choice)
    else:
        runs = find_runs(workspace, request.selection, cwd=cwd, notify=notify)
        if len(runs) > 1:
            raise BadUsage(
                f"A checkpoint comes from one run, but {len(runs)} are selected.",
                hint=f"Give one: {', '.join(run.id for run in runs[:5])}",
            )
        run, why = run_or_best_trial(runs[0], workspace, choice)
        inside = None
    folder = request.folder
    if folder is None:
        try:
            folder = request.root.joinpath(*safe_relative(run.id))
        except ValueError:
            raise BadUsage(f"'{run.id}' is not a valid local folder name.", hint="Give --output_dir.") from None
    files = workspace.run_files(run.id)
    key = repr(("checkpoint", run.id, inside, choice, request.overwrite))
    find = partial(checkpoint_of, run, inside, why, workspace, choice, files)
    return replace(_fetch_once(request, folder, files, find, once, key, notify), run=run)


def digest_of(fetched: FetchedCheckpoint) -> str | None:
    """MD5 of a single file on the disk, in hex digits. None for a folder. Raises OSError."""
    return md5_of(fetched.path).hex() if fetched.path.is_file() else None


def _find_at_address(address: str, file: BlobStore) -> Checkpoint:
    blobs = [blob for page in file.list() for blob in page]
    if not blobs:
        raise NotFound(f"There is no file at {shown(address)}.")
    return Checkpoint([blob.name for blob in blobs], address=address, blobs=blobs)


def _fetch_once(
    request: CheckpointRequest,
    folder: Path,
    files: BlobStore,
    find: Callable[[], Checkpoint],
    once: Callable[..., TransferResult],
    key: str,
    notify: Notify,
) -> FetchedCheckpoint:
    """Fetch the checkpoint that *find* finds among *files* to *folder*. Return the same in every rank. A rank without a
    record (its launcher fetched the checkpoint earlier) searches for itself."""

    def fetch() -> TransferResult:
        found = find()
        for remark in found.remarks:
            notify(Notice(remark))
        is_usual = found.is_in_usual_folder
        filters = Filters(f"{CHECKPOINT_FOLDER}/" if is_usual else "")
        wanted = DownloadRequest(folder, filters, "", is_usual, request.overwrite, workers=request.workers)
        result = download(files, wanted, notify, blobs=found.blobs).raise_problem()
        record = _record(found, folder, result)
        path = Path(record["shown"])
        if found.is_one or not found.folder:
            where = f"at {shown(found.address)}" if found.address else "in the run"
            _check_whole(path, f"'{path}' is the same as {where}, but is incomplete, and would not load.")
        if found.folder:
            # The run may have fewer files than at the last fetch, or the user may have added some.
            names = {name[len(found.folder) :] for name in found.names}
            try:
                there = [file.name for file in walk_files(str(path), skip_workspaces=True)]
            except OSError as err:
                raise disk_error(err, f"Cannot read '{err.filename or path}'") from err
            others = [name for name in there if name not in names and name.partition("/")[0] not in OF_OTHER_FOLDERS]
            if others:
                notify(Notice(f"'{path}' also contains files that the run does not have: {listed(others)}."))
        return replace(result, note=json.dumps(record))

    result = once(folder, key, fetch, notify=notify)
    record: dict[str, Any] = json.loads(result.note) if result.note else _record(find(), folder, TransferResult())
    return FetchedCheckpoint(**record)


def _record(found: Checkpoint, folder: Path, result: TransferResult) -> dict[str, Any]:
    path = folder / (posixpath.relpath(found.inside, CHECKPOINT_FOLDER) if found.is_in_usual_folder else found.inside)
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


def _check_whole(path: Path, text: str, hint: str = "Select another one with --select or RUN:FILE.") -> None:
    if not is_whole(path):
        raise IntegrityFailed(text, hint=hint)


def bring_checkpoint(
    source: str, workspace: Workspace, spec: JobSpec, cwd: Path, notify: Notify, open_address: OpenAddress
) -> JobSpec:
    """Add the checkpoint files of *source* to *spec*. Files of a run or an address are downloaded to himl's cache,
    unless the cache has them.

    Raises NotFound, which lists the available files, and what the download raises.
    """
    found = find_checkpoint(source, workspace, cwd, notify=notify)
    files = _bring(found, workspace, notify, open_address)
    if found.run is not None or found.address:
        whose = f"of run {found.run.id}" if found.run is not None else f"at {shown(found.address)}"
        what = f"{', '.join(sorted(found.names)[:3])} {whose}" if found.names else whose
        notify(Notice(f"The job starts with checkpoint {what} in {', '.join(sorted(files)[:3])}."))
    return replace(spec, brought=files, tags={**spec.tags, **_tags_of(found, _contents(files))})


def _bring(found: Checkpoint, workspace: Workspace, notify: Notify, open_address: OpenAddress) -> dict[str, str]:
    """Local paths of the checkpoint files, by their path in the working folder of the new job.

    Raises BadUsage for a local file that no job could load, IntegrityFailed for such a file of a run or an address.
    """
    if found.run is None and not found.address:
        try:
            for name in found.names:
                check_whole(Path(name), in_folder=bool(found.folder))
        except OSError as err:
            raise disk_error(err, f"Cannot read '{err.filename or found.inside}'") from err
        return found.by_place
    if found.run is not None:
        files = workspace.run_files(found.run.id)
        key = f"{files.origin} {found.run.id}"
    else:
        files = open_address(found.address)
        found, key = _find_at_address(found.address, files), files.origin
    with cache_folder(key) as root:
        download(files, DownloadRequest(root, overwrite=True), notify, blobs=found.blobs).raise_problem()
        if found.is_one or not found.folder:
            _check_whole(
                root / found.inside,
                f"'{found.inside}' is incomplete, and not a valid checkpoint.",
                "Select another one, or train without it.",
            )
        return {place: str(root / name) for place, name in found.by_place.items()}


def _contents(paths: Mapping[str, str]) -> list[BlobInfo]:
    """The local files *paths*, by their places in a job, as blobs with those names. Raises DiskFailed."""
    try:
        return [BlobInfo(place, os.path.getsize(path), "", md5_of(path)) for place, path in sorted(paths.items())]
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename}'") from err


def _tags_of(found: Checkpoint, contents: Sequence[BlobInfo]) -> dict[str, str]:
    """Tags with the checkpoint that a run began with: RUN:PATH, an address without its query, or `./` and the name of a
    local file or folder, and its contents, unless they are unknown."""
    if found.run is not None:
        source = f"{found.run.id}:{found.folder or found.names[0]}"
    elif found.address:
        source = shown(found.address)
    else:
        source = f"./{Path(found.inside).name}{'/' if found.folder else ''}"
    words = [content_of(one, lambda _: None) for one in candidates_of(contents)]
    text = " ".join(filter(None, words))
    is_known = bool(words) and None not in words and len(text) <= LONGEST_TAG_VALUE
    return {**shorten_tags({FROM_RUN: source}), **({BROUGHT: text} if is_known else {})}


def refer_to_checkpoint(
    source: str,
    runs: Workspace,
    cluster: Workspace,
    spec: JobSpec,
    cwd: Path,
    notify: Notify,
    open_address: OpenAddress,
) -> JobSpec:
    """Add the checkpoint of *source*, among *runs*, at an address or in a local file, to *spec*.

    Files in the workspace of the cluster are used in place. Other files are first uploaded to the default datastore,
    below `himl_checkpoints/`, once. Raises NotFound, which lists the available files, and what transfers raise.
    """
    if any(item.key == INPUT_KEY for item in spec.inputs):
        raise BadUsage(f"Input '{INPUT_KEY}' has the name of the input for --checkpoint.", hint="Choose another name.")
    found = find_checkpoint(source, runs, cwd, notify=notify)
    located = _location(found, runs, cluster)
    if located is not None and found.run is not None and not found.run.status.is_final:
        notify(Notice(f"The job begins with '{found.inside}' as it is when the job starts."))
    contents: Sequence[BlobInfo] = ()
    if located is None:
        paths = _bring(found, runs, notify, open_address)
        contents = _contents(paths)
        located = _upload(found, paths, contents, cluster.datastore(spec.default_datastore), notify)
    elif found.run is not None and found.run.status.is_final and len(found.blobs) <= MOST_DIGESTS:
        store, blobs = runs.run_files(found.run.id), {blob.name: blob for blob in found.blobs}
        contents = [
            replace(blobs[name], name=place, md5=blobs[name].md5 or store.md5(blobs[name]))
            for place, name in sorted(found.by_place.items())
        ]
    item, files = located
    brought = {place: f"{INPUT}/{name}" for place, name in files.items()}
    if found.folder:
        brought = {f"{found.place}/": f"{INPUT}/"}
    text = shown(source) if found.address else source
    notify(Notice(f"The job starts with checkpoint '{text}' in {', '.join(sorted(brought)[:3])}."))
    tags = {**spec.tags, **_tags_of(found, contents)}
    return replace(spec, inputs=[*spec.inputs, item], brought=brought, tags=tags)


def _location(found: Checkpoint, runs: Workspace, cluster: Workspace) -> tuple[DataSpec, Mapping[str, str]] | None:
    """Input for a checkpoint in the cluster's workspace, and its file names by path in the working folder of the job.
    None for other checkpoints.

    A file at an address may be in the storage of one of the workspace's datastores, which needs no signature. Raises
    NotFound if it was deleted, IntegrityFailed if it is empty.
    """
    above = ""
    if found.run is not None:
        home = runs.home_of(found.run.id)
        if not isinstance(home, CloudWorkspace) or home.label != cluster.label:
            return None
        if found.blobs and not any(blob.size for blob in found.blobs):
            raise IntegrityFailed(
                f"'{found.inside}' of run '{found.run.id}' is empty, and not a valid checkpoint.",
                hint="Select another one, or train without it.",
            )
        datastore, folder = home.artifact_location(found.run.id)
        above = f"{folder}/"
    else:
        datastore, path = _datastore_of(found.address, cluster)
        if not datastore:
            return None
        with suppress(NotAllowed):  # the job's account may have access
            if cluster.datastore(datastore).stat(path) is None:
                raise NotFound(
                    f"There is no file '{path}' in datastore '{datastore}'.",
                    hint="It may have been deleted after the link was created.",
                )
        found = replace(found, names=[path])
    inside = found.folder.rstrip("/") or posixpath.dirname(found.names[0])
    files = {place: posixpath.relpath(name, inside or ".") for place, name in found.by_place.items()}
    return DataSpec(INPUT_KEY, f"{above}{inside}", datastore=datastore, mode="mount"), files


def _datastore_of(address: str, cluster: Workspace) -> tuple[str, str]:
    """Datastore of the cluster that contains *address*, and the path in it. Empty if there is none."""
    parts = parts_of(address)
    container, _, path = parts.path.lstrip("/").partition("/")
    account, dfs, suffix = (parts.hostname or "").partition(".dfs.")
    host = f"{account}.blob.{suffix}" if dfs else account  # the data lake API serves the same blobs
    is_state = "snapshot=" in parts.query or "versionid=" in parts.query
    if parts.scheme == "https" and ".blob." in host and path and not is_state:
        for store in cluster.datastores():
            place = parts_of(store.location)
            if (place.scheme, place.hostname, place.path.strip("/")) == ("https", host, container):
                return store.name, unquote(path)
    return "", ""


def _upload(
    found: Checkpoint, paths: Mapping[str, str], contents: Sequence[BlobInfo], store: BlobStore, notify: Notify
) -> tuple[DataSpec, Mapping[str, str]]:
    """Upload *paths* (by path in the job), with these *contents*, to a folder that is named after them, and skip files
    that it has. Return the same as `_location`."""
    digests = {blob.name: blob.md5 or b"" for blob in contents}
    content = "".join(f"{place}\n{md5.hex()}\n" for place, md5 in digests.items())
    folder = f"himl_checkpoints/{hashlib.sha256(content.encode()).hexdigest()[:16]}"
    files = {place: place[len(found.place) + 1 :] if found.folder else Path(path).name for place, path in paths.items()}
    named = {f"{folder}/{name}": place for place, name in files.items()}
    stored = (blob for page in store.list(f"{folder}/") for blob in page if blob.name in named)
    complete = {blob.name for blob in stored if (blob.md5 or store.md5(blob)) == digests[named[blob.name]]}
    upload_named(
        store, {name: Path(paths[place]) for name, place in named.items() if name not in complete}, notify
    ).raise_problem()
    return DataSpec(INPUT_KEY, folder, mode="mount"), files


def bring_best(
    files: BlobStore, root: Path, folder: str = CHECKPOINT_FOLDER, *, than: CheckpointRank | None = None
) -> TransferResult:
    """Fetch the checkpoint to continue from, from the run's *files* to *root*, with its name. Fetch nothing if there is
    none, or none better *than* that.

    An incomplete one is removed, and the next best is fetched. Raises ServiceFailed, IntegrityFailed and similar
    errors.
    """
    above, slash, _ = folder.rpartition("/")
    sizes = {blob.name: blob.size for page in files.list(above + slash) for blob in page}
    total = TransferResult()
    better = (name for name, size in sizes.items() if size and is_better(rank_of(name, folder), than))
    for name in best_first(better, folder):
        filters = Filters(name, include=(literal(name),))
        total += download(files, DownloadRequest(root, filters, overwrite=True)).raise_problem()
        if is_whole(root / name):
            break
        log.warning("'%s' of %s is incomplete. Using the next best checkpoint.", name, files.label)
        (root / name).unlink()
    return total
