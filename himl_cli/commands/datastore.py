"""`himl datastore`: files of a datastore, up, down and listed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    WHERE,
    GlobOptions,
    MovingOptions,
    OutputOptions,
    StripOpt,
    WorkspaceOptions,
    conclude,
)
from himl_cli.commands.session import For, open_session

app = group(
    "Upload, download and list files of a datastore: of the Azure ML workspace where one is configured, else of the "
    "local one."
)

DatastoreOpt = Annotated[
    str | None,
    typer.Option(
        "--datastore", metavar="NAME", help="Which one (default: the workspace's default one).", rich_help_panel=WHERE
    ),
]


@command(app, "upload")
def upload_files(
    local: Annotated[Path, typer.Argument(metavar="LOCAL", help="A folder, whose contents are uploaded, or a file.")],
    remote_prefix: Annotated[
        str, typer.Argument(metavar="REMOTE_PREFIX", help="The folder in the datastore; '.' is its top.")
    ],
    globs: GlobOptions,
    how: MovingOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    datastore: DatastoreOpt = None,
) -> None:
    """Upload a folder's contents, or a file.

    Identical files are skipped; files there that differ are left as they are and listed, unless --overwrite is given.

    \b
      himl datastore upload data/digits digits
      himl datastore upload model.ckpt models --datastore shared
    """
    from himl_cli.services.transfer.plan import UploadRequest
    from himl_cli.services.transfer.upload import checked_prefix, upload

    checked_prefix(remote_prefix)
    request = UploadRequest(local, remote_prefix, globs.filters(), how.overwrite, how.validate, how.workers)
    with open_session(where, talk, For.data) as session:
        store = session.workspace.datastore(datastore)
        result = upload(store, request, session.notify)
        inside = f"{store.label} of {session.workspace.label}"
    conclude(session.output, result, "Uploaded", [checked_prefix(remote_prefix) or "."], inside=inside)


@command(app, "download")
def download_files(
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Names that start so, or one file; '' is all.")],
    local_dir: Annotated[
        Path,
        typer.Argument(metavar="LOCAL_DIR", help="The folder to write to; the whole remote path is kept below it."),
    ],
    globs: GlobOptions,
    how: MovingOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    datastore: DatastoreOpt = None,
    strip_prefix: StripOpt = False,
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

    request = DownloadRequest(
        local_dir, globs.filters(prefix), "", strip_prefix, how.overwrite, how.validate, how.workers
    )
    with open_session(where, talk, For.data) as session:
        store = session.workspace.datastore(datastore)
        result = download_blobs(store, request, notify=session.notify)
    conclude(session.output, result, "Downloaded", [str(local_dir)], nothing=f"There are no files in {store.label}.")


@command(app, "list")
def list_stored(
    globs: GlobOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    prefix: Annotated[
        str, typer.Argument(metavar="PREFIX", help="Names that start so, or one file.", show_default=False)
    ] = "",
    datastore: DatastoreOpt = None,
    null: Annotated[
        bool, typer.Option("--null", help="Names alone, each ended by a null character, for xargs -0.")
    ] = False,
) -> None:
    """List files with their sizes.

    \b
      himl datastore list
      himl datastore list models/ --include '*.ckpt' -q
    """
    from himl_cli.render.transfers import FILE_COLUMNS
    from himl_cli.services.transfer.filters import list_files

    filters = globs.filters(prefix)
    with open_session(where, talk, For.data) as session:
        store = session.workspace.datastore(datastore)
        files = list_files(store, filters)
        if null:
            session.output.null_ended(file.name for file in files)
            return
        session.output.table(
            files, FILE_COLUMNS, quiet=lambda file: str(file.name), empty=f"No files in {store.label}."
        )
