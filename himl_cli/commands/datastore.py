"""`himl datastore`: upload, download and list files in a datastore.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, subcommands
from himl_cli.commands.options import (
    GlobOptions,
    OutputOptions,
    TableOptions,
    TransferOptions,
    WorkspaceOptions,
    option,
)
from himl_cli.commands.session import For, open_session
from himl_cli.core.text import non_blank

app = subcommands(
    "Upload, download and list files in a datastore.\n\n"
    "himl uses the configured Azure ML workspace, or else the local one."
)
DATASTORE = option("Datastore (default: the workspace's default).", "NAME", panel="Workspace")


@command(app, "upload")
def upload_files(
    *,
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A folder, to upload its contents, or a file.")],
    remote_prefix: Annotated[
        str, typer.Argument(metavar="REMOTE_PREFIX", help="Folder in the datastore ('.' for the top).")
    ],
    globs: GlobOptions,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    datastore: str | None = DATASTORE,
) -> None:
    """Upload a folder's contents, or a file.

    himl skips identical files. To replace stored files that differ, use --overwrite. Otherwise himl lists them.

    \b
      himl datastore upload data/digits digits
      himl datastore upload model.ckpt models --datastore shared
    """
    from himl_cli.render.file_views import print_transfer
    from himl_cli.services.transfer.plan import UploadRequest
    from himl_cli.services.transfer.upload import checked_prefix, upload

    target, how = checked_prefix(non_blank("REMOTE_PREFIX", remote_prefix)) or ".", transfer_opts
    request = UploadRequest(local, remote_prefix, globs.filters(), how.overwrite, not how.no_validate, how.workers)
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(datastore)
        result = upload(store, request, session.notify)
        inside = f"{store.label} of {session.workspace.label}"
    print_transfer(session.output, result, "Uploaded", [target], inside=inside)


@command(app, "download")
def download_files(
    *,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Prefix of names, or one file ('' for all).")],
    local_dir: Annotated[
        str,
        typer.Argument(metavar="LOCAL_DIR", help="Destination folder, for the whole remote paths."),
    ],
    globs: GlobOptions,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    datastore: str | None = DATASTORE,
    strip_prefix: bool = option("Remove the folders of the prefix from names.", default=False, panel="Files"),
) -> None:
    """Download files, and verify MD5 checksums.

    himl skips complete files, and resumes partial ones. To replace local files that differ, use --overwrite. Otherwise
    himl lists them.

    \b
      himl datastore download digits data
      himl datastore download models/ . --strip_prefix --include '*.ckpt'
    """
    from himl_cli.render.file_views import print_transfer
    from himl_cli.services.transfer.download import download_blobs
    from himl_cli.services.transfer.plan import DownloadRequest

    filters, how = globs.filters(prefix), transfer_opts
    folder = Path(non_blank("LOCAL_DIR", local_dir))
    request = DownloadRequest(folder, filters, "", strip_prefix, how.overwrite, not how.no_validate, how.workers)
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(datastore)
        result = download_blobs(store, request, notify=session.notify)
    print_transfer(session.output, result, "Downloaded", [str(folder)], nothing=f"There are no files in {store.label}.")


@command(app, "list")
def list_stored(
    *,
    globs: GlobOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: TableOptions,
    datastore: str | None = DATASTORE,
    null: bool = option("Print null-terminated names only, for xargs -0.", default=False, panel="Options"),
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Prefix of names, or one file.", show_default=False)
    ] = "",
) -> None:
    """List files with their sizes.

    \b
      himl datastore list
      himl datastore list models/ --include '*.ckpt' -q
    """
    from himl_cli.render.file_views import FILE_COLUMNS
    from himl_cli.render.output import encoded
    from himl_cli.services.transfer.plan import list_files

    filters = globs.filters(prefix)
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(datastore)
        files = list_files(store, filters)
        if null:
            for file in files:
                session.output.write(encoded(f"{file['name']}\0", sys.stdout))
            return session.output.flush()
        session.output.table(
            files, FILE_COLUMNS, quiet=lambda file: str(file["name"]), empty=f"No files in {store.label}."
        )
