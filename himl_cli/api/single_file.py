"""Bringing one file of a run to a place of the caller's choice."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path

from himl_cli.api.moving import bring, complete
from himl_cli.core.blobs import TransferResult
from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notify
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters, literal
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest
from himl_cli.workspaces.base import BlobStore


def bring_file(
    open_files: Callable[[], BlobStore], run_id: str, name: str, output_file_path: str | os.PathLike[str] | None
) -> None:
    """Bring the file called *name*, once on each node; see `Run.download_file`."""
    base = name.rpartition("/")[2]
    target = _target(base, output_file_path)

    def work(notify: Notify) -> TransferResult:
        files = open_files()
        if files.stat(name) is None:
            raise _no_file(files, name)
        if target.name != base:
            return _renamed(files, name, target, notify)
        return download(files, _only(name, target.parent), notify)

    complete(bring(target.parent, repr(("download file", run_id, name, target.name)), work))


def _target(base: str, path: str | os.PathLike[str] | None) -> Path:
    """The file that is meant by *path*, which may be a folder."""
    if path is None:
        return Path(base)
    text = os.fspath(path)
    is_folder = text.endswith(("/", os.sep)) or os.path.isdir(text)
    return Path(text) / base if is_folder else Path(text)


def _only(name: str, folder: Path) -> DownloadRequest:
    """The file *name* alone (there may be a folder of that name, too), without its folders."""
    return DownloadRequest(folder, Filters(name, include=(literal(name),)), strip_prefix=True, overwrite=True)


def _renamed(files: BlobStore, name: str, target: Path, notify: Notify) -> TransferResult:
    """Bring the file to a folder beside its place, and give it its name once it is complete. Raises DiskFailed."""
    folder = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=".himl-"))
        result = download(files, _only(name, folder), notify)
        if result.problem() is None:
            os.replace(folder / name.rpartition("/")[2], target)
        return result
    except OSError as err:
        raise disk_error(err, f"Cannot write '{target}'") from err
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _no_file(files: BlobStore, name: str) -> NotFound:
    folder = name[: name.rfind("/") + 1]
    there = [blob.name for page in files.list(folder) for blob in page]
    near = get_close_matches(name, there, n=3, cutoff=0.7) or there[:5]
    return NotFound(
        f"There is no file '{name}' in {files.label}.", hint=f"There are: {', '.join(near)}." if near else ""
    )
