"""A datastore as scripts hold it, with the names of azureml-core's `Datastore` that hi-ml's users call."""

from __future__ import annotations

import os
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

from himl_cli.api.errors import NotThere, raising
from himl_cli.api.moving import bring, leave_what_is_there, send
from himl_cli.core.blobs import DatastoreInfo, TransferResult
from himl_cli.core.errors import NotFound
from himl_cli.core.events import Notify
from himl_cli.services.transfer.download import download
from himl_cli.services.transfer.filters import Filters
from himl_cli.services.transfer.plan import DownloadRequest, UploadRequest

if TYPE_CHECKING:
    from himl_cli.api.workspace import Workspace


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
        from himl_cli.api.configured import get_workspace

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
