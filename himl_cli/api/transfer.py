"""Downloads and uploads, with hi-ml's names and arguments. Only local rank 0 of each node downloads, and progress is
optional."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from himl_cli.api.distributed import once_per_node
from himl_cli.api.exceptions import NoDatastore, NoFolder, NotAFolder, NotThere, raising
from himl_cli.api.open_workspace import resolve_run, resolve_workspace
from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.text import named
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest, literal
from himl_cli.services.transfer.upload import checked_prefix, upload, upload_named
from himl_cli.workspaces.base import BlobStore, Workspace

log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]


def download_files_from_run_id(
    run_id: str,
    output_folder: PathLike,
    prefix: str = "",
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
    validate_checksum: bool = False,
) -> None:
    """Download the files of a run whose names start with *prefix* to *output_folder*, with their whole names.

    himl skips complete files and replaces others. *run_id* is any reference that `fetch_run` accepts. Without a
    workspace, himl finds the run like the commands do. It always verifies the MD5 of every file, for any value
    of *validate_checksum*. Raises NotThere (also a FileNotFoundError) if no file matches, RunNotFound, and errors of
    single files after trying all: IntegrityFailed, ServiceFailed, TransferIncomplete and related ones.
    """
    request = DownloadRequest(Path(output_folder), Filters(prefix), overwrite=True)
    key = ("download files of run", run_id, prefix)
    download_once(lambda: _run_files(run_id, workspace, workspace_config_path), request, key)


def download_checkpoints_from_run_id(
    run_id: str,
    checkpoint_path_or_folder: PathLike,
    output_folder: PathLike,
    aml_workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> None:
    """Download a checkpoint of a run, or all files in a folder of checkpoints, to *output_folder*, with their whole
    names.

    It works like `download_files_from_run_id`, but the folder's name must match exactly: `outputs/checkpoints` does not
    include the files of `outputs/checkpoints_old`. Raises the same errors: NotThere (also a FileNotFoundError) for an
    unknown file or folder, RunNotFound, and errors of single files after trying all.
    """
    path = _posix(checkpoint_path_or_folder).strip("/")
    folder = Path(output_folder)

    def work(notify: Notify) -> TransferResult:
        files = _run_files(run_id, aml_workspace, workspace_config_path)
        prefix = f"{path}/" if path and files.stat(path) is None else path
        return download(files, DownloadRequest(folder, Filters(prefix), overwrite=True), notify)

    complete(once(folder, ("download checkpoints of run", run_id, path), work))


def download_from_datastore(
    datastore_name: str,
    file_prefix: str,
    output_folder: PathLike,
    aml_workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> None:
    """Download the files of a datastore whose names start with *file_prefix* to *output_folder*, with their whole
    names.

    himl keeps existing local files. With *overwrite*, it replaces those that differ. It verifies the MD5 of every file.
    With *show_progress*, it shows progress on stderr. Raises NotThere (also a FileNotFoundError) if no file matches and
    for an unknown datastore (also a KeyError), and errors of single files after trying all.
    """
    request = DownloadRequest(Path(output_folder), Filters(_posix(file_prefix)), overwrite=overwrite)
    key = ("download from datastore", datastore_name, file_prefix, overwrite)
    download_once(
        lambda: open_datastore(resolve_workspace(aml_workspace, workspace_config_path), datastore_name),
        request,
        key,
        show_progress=show_progress,
    )


def upload_to_datastore(
    datastore_name: str,
    local_data_folder: PathLike,
    remote_path: PathLike,
    aml_workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
    overwrite: bool = False,
    show_progress: bool = False,
) -> None:
    """Upload the contents of the folder *local_data_folder* to the folder *remote_path* of a datastore.

    himl keeps existing stored files. With *overwrite*, it replaces those that differ. Each rank that calls it uploads.
    Raises BadUsage (also a TypeError) for a file in place of a folder, NotThere (also a FileNotFoundError) for an empty
    or missing folder (also a TypeError) and for an unknown datastore (also a KeyError), and errors of single files
    after trying all.
    """
    request = UploadRequest(Path(local_data_folder), _posix(remote_path), overwrite=overwrite)
    workspace = resolve_workspace(aml_workspace, workspace_config_path)
    upload_folder(lambda: open_datastore(workspace, datastore_name), request, show_progress=show_progress)


def open_datastore(workspace: Workspace, name: str) -> BlobStore:
    """The datastore of that name. Raises NoDatastore with the existing names."""
    with raising(NotFound, NoDatastore):
        return workspace.datastore(name)


def _run_files(run_id: str, workspace: object | None, workspace_config_path: PathLike | None) -> BlobStore:
    opened, record = resolve_run(run_id, workspace, workspace_config_path)
    return opened.run_files(record.id)


def _posix(path: PathLike) -> str:
    """*path* with `/` as separator, like the names of stored files. `Path("")` is the top, like the empty text."""
    if isinstance(path, str):
        return path
    text = Path(path).as_posix()
    return "" if text == "." else text


def download_once(
    open_store: Callable[[], BlobStore],
    request: DownloadRequest,
    key: tuple[object, ...],
    *,
    show_progress: bool = False,
) -> TransferResult:
    """Download the selection of *request* once per node, like `once`. Only the downloading rank opens the store. Raises
    the error of the result."""
    return complete(
        once(request.folder, key, lambda notify: download(open_store(), request, notify), show_progress=show_progress),
        may_differ=not request.overwrite,
    )


def upload_folder(
    open_store: Callable[[], BlobStore], request: UploadRequest, *, show_progress: bool = False
) -> TransferResult:
    """Upload the folder of *request*, in every process that calls it. Raises BadUsage for a file, and errors of
    `upload`."""
    if request.local.is_file():
        raise NotAFolder(f"'{request.local}' is a file, not a folder.", hint="Pass the folder that contains it.")
    if not request.local.exists():
        raise NoFolder(f"There is no file or folder '{request.local}'.")
    with raising(NotFound, NotThere):
        store = open_store()
        result = _observed(lambda notify: upload(store, request, notify), show_progress, "Uploaded", request.prefix)
    return complete(result, may_differ=not request.overwrite)


def upload_files(
    open_store: Callable[[], BlobStore],
    files: Sequence[PathLike],
    root: PathLike | None,
    prefix: str,
    overwrite: bool,
    *,
    show_progress: bool = False,
) -> TransferResult:
    """Upload *files*, see `Datastore.upload_files`, in every process that calls it."""
    paths = [Path(os.path.abspath(file)) for file in files]
    if isinstance(files, (str, os.PathLike)) or not paths:
        raise BadUsage(f"upload_files needs a list of files, not {files!r}.")
    base = Path(os.path.abspath(root) if root else os.path.commonpath([path.parent for path in paths]))
    for path in paths:
        if not path.is_file():
            raise NotThere(f"There is no file '{path}' to upload.")
        if not path.is_relative_to(base):
            raise BadUsage(f"'{path}' is not in relative_root, '{base}'.")
    folder = checked_prefix(prefix)
    named_files = {"/".join(filter(None, (folder, path.relative_to(base).as_posix()))): path for path in paths}
    with raising(NotFound, NotThere):
        store = open_store()
        result = _observed(
            lambda notify: upload_named(store, named_files, notify, overwrite=overwrite),
            show_progress,
            "Uploaded",
            prefix,
        )
    return complete(result, may_differ=not overwrite)


def once(
    folder: Path,
    key: tuple[object, ...],
    work: Callable[[Notify], TransferResult],
    *,
    show_progress: bool = False,
) -> TransferResult:
    """Download to *folder* with *work*, once per node. *key* is the same for all ranks and for no other call.

    Raises NotThere if nothing is selected, and errors of *work*.
    """

    def act() -> TransferResult:
        return _observed(work, show_progress, "Downloaded", str(folder))

    with raising(NotFound, NotThere):
        return once_per_node(folder, repr(key), act, notify=_print_notice if show_progress else log_notice)


def _observed(work: Callable[[Notify], TransferResult], show_progress: bool, verb: str, place: str) -> TransferResult:
    """The result of *work*, which reports to the log, or to stderr if requested (a progress bar needs a terminal)."""
    if not show_progress:
        return work(log_notice)
    from himl_cli.render.file_views import summary
    from himl_cli.render.output import Output
    from himl_cli.render.progress import Watcher

    output = Output()
    with Watcher(output) as notify:
        result = work(notify)
    output.notice(summary(result, verb, [place]))
    return result


def _print_notice(event: Event) -> None:
    from himl_cli.render.output import Output

    if isinstance(event, Notice):
        Output().notice(event.text)


def log_notice(event: Event) -> None:
    """Log the notices of a transfer without a progress display."""
    if isinstance(event, Notice):
        log.info("%s", event.text)


def complete(result: TransferResult, *, may_differ: bool = False) -> TransferResult:
    """Return *result*, or raise its error. With *may_differ*, only log files that differ, as hi-ml documents."""
    if may_differ and result.differing:
        log.warning(
            "Skipped, as they exist with other content: %s. To replace them, pass overwrite=True.",
            named(result.differing),
        )
        result = replace(result, differing=())
    return result.raise_problem()


def download_one(
    open_files: Callable[[], BlobStore], run_id: str, name: str, output_file_path: PathLike | None
) -> None:
    """Download the file *name*, once per node, see `Run.download_file`."""
    base = name.rpartition("/")[2]
    target = Path(os.fspath(output_file_path or base))
    if output_file_path and (os.fspath(output_file_path).endswith(("/", os.sep)) or target.is_dir()):
        target /= base

    def work(notify: Notify) -> TransferResult:
        files = open_files()
        if files.stat(name) is None:
            there = [blob.name for page in files.list(name[: name.rfind("/") + 1]) for blob in page]
            similar = get_close_matches(name, there, n=3, cutoff=0.7) or there[:5]
            hint = f"Files: {', '.join(similar)}." if similar else ""
            raise NotFound(f"There is no file '{name}' in {files.label}.", hint=hint)
        only = Filters(name, include=(literal(name),))  # there may be a folder of that name
        if target.name == base:
            return download(files, DownloadRequest(target.parent, only, strip_prefix=True, overwrite=True), notify)
        # Download next to the target, then rename the complete file.
        folder = None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".himl-"))
            result = download(files, DownloadRequest(folder, only, strip_prefix=True, overwrite=True), notify)
            if result.problem() is None:
                os.replace(folder / base, target)
            return result
        except OSError as err:
            raise disk_error(err, f"Cannot write '{target}'") from err
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)

    complete(once(target.parent, ("download file", run_id, name, target.name), work))
