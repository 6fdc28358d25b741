"""Downloads and uploads, with hi-ml's names and arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.api.errors import NotThere, raising
from himl_cli.api.resolve import find_run, get_workspace
from himl_cli.api.transfer import PathLike, bring, complete, leave_what_is_there, send
from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notify
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.plan import DownloadRequest, UploadRequest
from himl_cli.workspaces.base import BlobStore

if TYPE_CHECKING:
    pass


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

    def work(notify: Notify) -> TransferResult:
        return download(_files_of(run_id, workspace, workspace_config_path), request, notify)

    complete(bring(request.folder, repr(("download files of run", run_id, prefix)), work))


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

    def work(notify: Notify) -> TransferResult:
        files = _files_of(run_id, aml_workspace, workspace_config_path)
        is_folder = path != "" and files.stat(path) is None
        return download(
            files,
            DownloadRequest(Path(output_folder), Filters(f"{path}/" if is_folder else path), overwrite=True),
            notify,
        )

    complete(bring(Path(output_folder), repr(("download checkpoints of run", run_id, path)), work))


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

    def work(notify: Notify) -> TransferResult:
        return download(_datastore(datastore_name, aml_workspace, workspace_config_path), request, notify)

    key = repr(("download from datastore", datastore_name, file_prefix, overwrite))
    leave_what_is_there(bring(request.folder, key, work, show_progress=show_progress))


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
    store = _datastore(datastore_name, aml_workspace, workspace_config_path)
    leave_what_is_there(send(store, request, show_progress=show_progress))


def _files_of(run_id: str, workspace: object | None, workspace_config_path: PathLike | None) -> BlobStore:
    return find_run(run_id, workspace, workspace_config_path).files()


def _datastore(name: str, workspace: object | None, workspace_config_path: PathLike | None) -> BlobStore:
    opened = get_workspace(workspace, workspace_config_path).opened
    with raising(NotFound, NotThere):
        return opened.datastore(name)


def _posix(path: PathLike) -> str:
    """*path* with the separators that names of stored files have; `Path("")` is the top, as the empty text is."""
    if isinstance(path, str):
        return path
    text = Path(path).as_posix()
    return "" if text == "." else text
