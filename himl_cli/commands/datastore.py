"""`himl datastore`: files of a datastore, up, down and listed."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    Bundle,
    GlobOptions,
    OutputOptions,
    TransferOptions,
    WorkspaceOptions,
    conclude_transfer,
    option,
)
from himl_cli.commands.session import For, open_session

app = group(
    "Upload, download and list files of a datastore: of the Azure ML workspace where one is configured, else of the "
    "local one."
)


class DatastoreOptions(Bundle, panel="Workspace"):
    """The datastore to use."""

    datastore: str | None = option("Which one (default: the workspace's default one).", "NAME")


class NameOptions(Bundle, panel="Which files"):
    """The names of files here."""

    strip_prefix: bool = option("Drop the folders of the prefix from the names.", default=False)


class ListOptions(Bundle):
    """The form of a list."""

    null: bool = option("Names alone, each ended by a null character, for xargs -0.", default=False)


@command(app, "upload")
def upload_files(
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A folder, whose contents are uploaded, or a file.")],
    remote_prefix: Annotated[
        str, typer.Argument(metavar="REMOTE_PREFIX", help="The folder in the datastore; '.' is its top.")
    ],
    globs: GlobOptions,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    store_opts: DatastoreOptions,
) -> None:
    """Upload a folder's contents, or a file.

    Identical files are skipped; files there that differ are left as they are and listed, unless --overwrite is given.

    \b
      himl datastore upload data/digits digits
      himl datastore upload model.ckpt models --datastore shared
    """
    from himl_cli.services.transfer.plan import UploadRequest
    from himl_cli.services.transfer.upload import checked_prefix, upload

    target, how = checked_prefix(remote_prefix) or ".", transfer_opts
    request = UploadRequest(local, remote_prefix, globs.filters(), how.overwrite, not how.no_validate, how.workers)
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(store_opts.datastore)
        result = upload(store, request, session.notify)
        inside = f"{store.label} of {session.workspace.label}"
    conclude_transfer(session.output, result, "Uploaded", [target], inside=inside)


@command(app, "download")
def download_files(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Names that start so, or one file; '' is all.")],
    local_dir: Annotated[
        Path,
        typer.Argument(metavar="LOCAL_DIR", help="The folder to write to; the whole remote path is kept below it."),
    ],
    globs: GlobOptions,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    store_opts: DatastoreOptions,
    names: NameOptions,
) -> None:
    """Download files, checked by MD5.

    Complete files are skipped, partial ones resumed; files here that differ are left as they are and listed, unless
    --overwrite is given.

    \b
      himl datastore download digits data
      himl datastore download models/ . --strip_prefix --include '*.ckpt'
    """
    from himl_cli.services.transfer.download import download_blobs
    from himl_cli.services.transfer.plan import DownloadRequest

    filters, how = globs.filters(prefix), transfer_opts
    request = DownloadRequest(
        local_dir, filters, "", names.strip_prefix, how.overwrite, not how.no_validate, how.workers
    )
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(store_opts.datastore)
        result = download_blobs(store, request, notify=session.notify)
    nothing = f"There are no files in {store.label}."
    conclude_transfer(session.output, result, "Downloaded", [str(local_dir)], nothing=nothing)


@command(app, "list")
def list_stored(
    globs: GlobOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    store_opts: DatastoreOptions,
    list_opts: ListOptions,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Names that start so, or one file.", show_default=False)
    ] = "",
) -> None:
    """List files with their sizes.

    \b
      himl datastore list
      himl datastore list models/ --include '*.ckpt' -q
    """
    from himl_cli.render.output import encoded
    from himl_cli.render.transfers import FILE_COLUMNS
    from himl_cli.services.transfer.filters import list_files

    filters = globs.filters(prefix)
    with open_session(workspace_opts, output_opts, For.data) as session:
        store = session.workspace.datastore(store_opts.datastore)
        files = list_files(store, filters)
        if list_opts.null:
            for file in files:
                session.output.write(encoded(f"{file.name}\0", sys.stdout))
            return session.output.flush()
        empty = f"No files in {store.label}."
        session.output.table(files, FILE_COLUMNS, quiet=lambda file: str(file.name), empty=empty)
