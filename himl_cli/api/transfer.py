"""Downloads and uploads, with hi-ml's names and arguments: local rank 0 of each node alone downloads, and progress is
shown only where it is asked for."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path

from himl_cli.api.distributed import once_per_node
from himl_cli.api.exceptions import NotThere, raising
from himl_cli.api.open_workspace import resolve_run, resolve_workspace
from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.core.text import named
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest, Filters, UploadRequest, literal
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import BlobStore

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
    """Download the files of a run whose names start with *prefix* to *output_folder*, their whole names kept below it.

    Files that are complete are skipped, others replaced. *run_id* may be anything that `fetch_run` takes; without a
    workspace the run is looked for as the commands do. Every file is checked by MD5, whether *validate_checksum* is set
    or not. Raises NotThere (also a FileNotFoundError) where no file matches, RunNotFound, and what went wrong with
    single files once all were tried: IntegrityFailed, ServiceFailed, TransferIncomplete and their kin.
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
    """Download a checkpoint of a run, or all files in a folder of checkpoints, to *output_folder*, their whole names
    kept below it.

    As `download_files_from_run_id`, but the folder's name is taken whole: `outputs/checkpoints` does not mean the files
    of `outputs/checkpoints_old`. Raises what that one raises: NotThere (also a FileNotFoundError) where there is no
    such file or folder, RunNotFound, and what went wrong with single files once all were tried.
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
    """Download the files of a datastore whose names start with *file_prefix* to *output_folder*, their whole names kept
    below it.

    Files that exist here are left, unless *overwrite* is set: then those that differ are replaced. Every file is
    checked by MD5. With *show_progress*, progress is shown on stderr. Raises NotThere (also a FileNotFoundError) for an
    unknown datastore and where no file matches, and what went wrong with single files once all were tried.
    """
    request = DownloadRequest(Path(output_folder), Filters(_posix(file_prefix)), overwrite=overwrite)
    key = ("download from datastore", datastore_name, file_prefix, overwrite)
    download_once(
        lambda: resolve_workspace(aml_workspace, workspace_config_path).datastore(datastore_name),
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

    Files that exist there are left, unless *overwrite* is set: then those that differ are replaced. Each rank that
    calls it uploads. Raises BadUsage for a file in place of a folder, NotThere (also a FileNotFoundError) for a folder
    that is empty or not there and for an unknown datastore, and what went wrong with single files once all were tried.
    """
    request = UploadRequest(Path(local_data_folder), _posix(remote_path), overwrite=overwrite)
    workspace = resolve_workspace(aml_workspace, workspace_config_path)
    upload_folder(lambda: workspace.datastore(datastore_name), request, show_progress=show_progress)


def _run_files(run_id: str, workspace: object | None, workspace_config_path: PathLike | None) -> BlobStore:
    opened, record = resolve_run(run_id, workspace, workspace_config_path)
    return opened.run_files(record.id)


def _posix(path: PathLike) -> str:
    """*path* with the separators that names of stored files have; `Path("")` is the top, as the empty text is."""
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
    """Download what *request* selects, as `once`; the store is opened by the rank that downloads. Raises the error that
    the result amounts to."""
    return complete(
        once(request.folder, key, lambda notify: download(open_store(), request, notify), show_progress=show_progress),
        may_differ=not request.overwrite,
    )


def upload_folder(
    open_store: Callable[[], BlobStore], request: UploadRequest, *, show_progress: bool = False
) -> TransferResult:
    """Upload the folder that *request* names; every process that calls it does it. Raises BadUsage for a file, and as
    `upload`."""
    if request.local.is_file():
        raise BadUsage(f"'{request.local}' is a file, and a folder is uploaded.", hint="Give the folder that holds it.")
    with raising(NotFound, NotThere):
        store = open_store()
        result = _observed(lambda notify: upload(store, request, notify), show_progress, "Uploaded", request.prefix)
    return complete(result, may_differ=not request.overwrite)


def once(
    folder: Path,
    key: tuple[object, ...],
    work: Callable[[Notify], TransferResult],
    *,
    show_progress: bool = False,
) -> TransferResult:
    """What *work* downloads to *folder*, done once on each node; *key* is the same for all ranks and for no other call.

    Raises NotThere where nothing is selected, and what *work* raises.
    """

    def act() -> TransferResult:
        return _observed(work, show_progress, "Downloaded", str(folder))

    with raising(NotFound, NotThere):
        return once_per_node(folder, repr(key), act, notify=_print_notice if show_progress else log_notice)


def _observed(work: Callable[[Notify], TransferResult], show_progress: bool, verb: str, place: str) -> TransferResult:
    """What *work* gives; it is told to the log, or where that was asked for to stderr (a bar only on a terminal)."""
    if not show_progress:
        return work(log_notice)
    from himl_cli.render.output import Output
    from himl_cli.render.progress import observing
    from himl_cli.render.results import summary

    output = Output()
    with observing(output) as notify:
        result = work(notify)
    output.notice(summary(result, verb, [place]))
    return result


def _print_notice(event: Event) -> None:
    from himl_cli.render.output import Output

    if isinstance(event, Notice):
        Output().notice(event.text)


def log_notice(event: Event) -> None:
    """What a script hears of a transfer where it asked for no progress."""
    if isinstance(event, Notice):
        log.info("%s", event.text)


def complete(result: TransferResult, *, may_differ: bool = False) -> TransferResult:
    """*result* itself. Raises the error it amounts to, if any; with *may_differ* files that differ are named in the
    log, as hi-ml documents."""
    if may_differ and result.differing:
        log.warning(
            "Left as they are, because they exist with another content: %s; overwrite=True replaces them.",
            named(result.differing),
        )
        result = replace(result, differing=())
    return result.raise_problem()


def download_one(
    open_files: Callable[[], BlobStore], run_id: str, name: str, output_file_path: PathLike | None
) -> None:
    """Download the file called *name*, once on each node; see `Run.download_file`."""
    base = name.rpartition("/")[2]
    target = Path(os.fspath(output_file_path or base))
    if output_file_path and (os.fspath(output_file_path).endswith(("/", os.sep)) or target.is_dir()):
        target /= base

    def work(notify: Notify) -> TransferResult:
        files = open_files()
        if files.stat(name) is None:
            there = [blob.name for page in files.list(name[: name.rfind("/") + 1]) for blob in page]
            similar = get_close_matches(name, there, n=3, cutoff=0.7) or there[:5]
            hint = f"There are: {', '.join(similar)}." if similar else ""
            raise NotFound(f"There is no file '{name}' in {files.label}.", hint=hint)
        only = Filters(name, include=(literal(name),))  # there may be a folder of that name, too
        if target.name == base:
            return download(files, DownloadRequest(target.parent, only, strip_prefix=True, overwrite=True), notify)
        folder = None  # beside its place, where it gets its name once it is complete
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
