"""Moving files for scripts: each node's rank 0 alone brings them, progress only where it is asked for."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from himl_cli.api.errors import NotThere, raising
from himl_cli.api.ranks import once_per_node
from himl_cli.core.blobs import DatastoreInfo, TransferResult, named
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.events import Event, Notice, Notify
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters, literal
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.plan import DownloadRequest, UploadRequest
from himl_cli.services.transfer.upload import upload
from himl_cli.workspaces.base import BlobStore

if TYPE_CHECKING:
    from himl_cli.api.workspace import Workspace


log = logging.getLogger(__name__)

PathLike = str | os.PathLike[str]
Work = Callable[[Notify], TransferResult]


def bring(folder: Path, key: str, work: Work, *, show_progress: bool = False) -> TransferResult:
    """What *work* brings to *folder*, done once on each node; *key* is the same for all ranks and for no other call.

    Raises NotThere where nothing is meant, and what *work* raises.
    """
    with _observing(show_progress, "Downloaded", str(folder)) as (notify, conclude), raising(NotFound, NotThere):
        return once_per_node(folder, key, lambda: conclude(work(notify)), notify=notify)


def send(store: BlobStore, request: UploadRequest, *, show_progress: bool = False) -> TransferResult:
    """Upload the folder that *request* means; every process that calls it does it. Raises BadUsage for a file, and as
    `upload`."""
    if request.local.is_file():
        raise BadUsage(f"'{request.local}' is a file, and a folder is uploaded.", hint="Give the folder that holds it.")
    with _observing(show_progress, "Uploaded", request.prefix) as (notify, conclude), raising(NotFound, NotThere):
        return conclude(upload(store, request, notify))


def complete(result: TransferResult) -> TransferResult:
    """*result* itself. Raises the error it amounts to, if any."""
    problem = result.problem()
    if problem is not None:
        raise problem
    return result


def leave_what_is_there(result: TransferResult) -> TransferResult:
    """As `complete`, and files that differ are no error, as hi-ml documents; the log names them."""
    if result.differing:
        log.warning(
            "Left as they are, because they exist with another content: %s; overwrite=True replaces them.",
            named(result.differing),
        )
    return complete(replace(result, differing=()))


Conclude = Callable[[TransferResult], TransferResult]


@contextmanager
def _observing(show_progress: bool, verb: str, place: str) -> Iterator[tuple[Notify, Conclude]]:
    """Whom to tell of progress, and of the result: the log, or where it was asked for stderr (a bar only on a
    terminal)."""
    if not show_progress:
        yield log_notice, lambda result: result
        return
    from himl_cli.render.output import Output
    from himl_cli.render.progress import observing
    from himl_cli.render.transfers import summary

    output = Output()
    said: list[TransferResult] = []

    def conclude(result: TransferResult) -> TransferResult:
        said.append(result)
        return result

    with observing(output) as notify:
        yield notify, conclude
    for result in said:
        output.notice(summary(result, verb, [place]))


def log_notice(event: Event) -> None:
    """What a script hears of a transfer where it asked for no progress."""
    if isinstance(event, Notice):
        log.info("%s", event.text)


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


class Datastore:
    """A place for data in *workspace*."""

    def __init__(self, workspace: Workspace, info: DatastoreInfo) -> None:
        self.workspace = workspace
        self.name = info.name
        self.datastore_type = info.kind
        self.location = info.location
        self.is_default = info.is_default

    @staticmethod
    def get(workspace: object, datastore_name: str) -> Datastore:
        """The datastore of that name; *workspace* may be a vendor's object too. Raises NotThere naming those that
        exist."""
        from himl_cli.api.resolve import get_workspace

        opened = get_workspace(workspace)
        found = opened.datastores.get(datastore_name)
        if found is None:
            with raising(NotFound, NotThere):
                opened.opened.datastore(datastore_name)  # raises the error that names those there are
            raise NotThere(f"No datastore '{datastore_name}' in {opened.opened.label}.")
        return found

    def download(
        self,
        target_path: str | os.PathLike[str],
        prefix: str = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Bring the files whose names start with *prefix* to *target_path*, the whole name below it; returns how many
        came.

        Files that are here already are left unless *overwrite*; every file is checked by MD5. Raises NotThere, and
        what went wrong with single files once all were tried.
        """
        request = DownloadRequest(Path(target_path), Filters(prefix), overwrite=overwrite)

        def work(notify: Notify) -> TransferResult:
            return download(self.workspace.opened.datastore(self.name), request, notify)

        key = repr(("download from datastore", self.workspace.opened.label, self.name, prefix, overwrite))
        return leave_what_is_there(bring(request.folder, key, work, show_progress=show_progress)).files

    def upload(
        self,
        src_dir: str | os.PathLike[str],
        target_path: str | os.PathLike[str] = "",
        overwrite: bool = False,
        show_progress: bool = False,
    ) -> int:
        """Store the contents of the folder *src_dir* below *target_path*; returns how many files were sent.

        Files that are there already are left unless *overwrite*. Raises BadUsage where *src_dir* is a file, NotThere
        where it is not there or empty, and what went wrong with single files once all were tried.
        """
        request = UploadRequest(Path(src_dir), PurePath(target_path).as_posix(), overwrite=overwrite)
        return leave_what_is_there(
            send(self.workspace.opened.datastore(self.name), request, show_progress=show_progress)
        ).files

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Datastore) and (self.workspace, self.name) == (other.workspace, other.name)

    def __hash__(self) -> int:
        return hash((self.workspace, self.name))

    def __repr__(self) -> str:
        return f"Datastore({self.name!r} in {self.workspace.opened.label})"
