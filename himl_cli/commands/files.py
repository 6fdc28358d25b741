"""`himl download` for files of runs, and `himl datastore` for files in a datastore.

Functions import the services that they use, to keep help fast. The commands share little code, as each
calls one service.
"""

from __future__ import annotations

import shlex
import sys
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    FOLLOW_LINKS,
    GlobOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    TableOptions,
    TransferOptions,
    WorkspaceOptions,
    option,
    parse_folder,
)
from himl_cli.commands.session import For, open_session
from himl_cli.core.errors import RunNotFound
from himl_cli.core.text import non_blank

download_app = group()
datastore_app = group(
    "Upload, download and list files in a datastore.\n\n"
    "himl uses the configured Azure ML workspace, or else the local one."
)
DATASTORE = option("Datastore (default: the workspace's default).", "NAME", panel="Workspace")


@command(download_app, "download")
def download(
    *,
    selection: SelectionOptions,
    prefix: str = option("Only names with this prefix, or one file.", "P", "", show_default=False, panel="Files"),
    output_key: str | None = option("Output dataset of the run, instead of its artifacts.", "KEY"),
    list_only: bool = option("List the files without downloading them.", default=False, names=("--list",)),
    globs: GlobOptions,
    output_dir: Path = option(
        "Save files as DIR/RUN_ID/NAME.",
        "DIR",
        "outputs",
        names=("--output_dir", "-o"),
        parse=parse_folder,
        panel="Destination",
    ),
    flat: bool = option("Save files as DIR/NAME (one run only).", default=False),
    strip_prefix: bool = option("Remove the folders of the prefix from names.", default=False),
    follow_links: bool = FOLLOW_LINKS,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Download the files of runs, and verify MD5 checksums.

    The default is the last run submitted from this folder. himl skips complete files and resumes partial ones. To
    replace local files that differ, use --overwrite. Otherwise himl lists them.

    \b
      himl download --prefix outputs
      himl download train_1772366400_0a1b2c3d --include '*.ckpt' --flat
      himl download --experiment train --num_runs 3 --list
    """
    from himl_cli.core.sweeps import MANY
    from himl_cli.render.file_views import FILE_COLUMNS, FILE_OF_RUN_COLUMNS, print_transfer
    from himl_cli.services.runs.changes import kind_of
    from himl_cli.services.runs.lookup import find_runs, with_steps
    from himl_cli.services.transfer.download import download_runs
    from himl_cli.services.transfer.plan import DownloadRequest, list_files
    from himl_cli.workspaces.base import with_links

    filters, how = globs.filters(prefix), transfer_opts
    selected = selection.selection(runs, single="--flat" if flat and not list_only else "")
    with open_session(workspace_opts, output_opts) as session:
        workspace, output = session.workspace, session.output
        try:
            found = find_runs(workspace, selected, cwd=session.cwd, notify=session.notify)
        except RunNotFound as err:
            if err.run in (runs or ()) and not err.similar:
                others = [word for word in runs or () if word != err.run] or ["latest"]
                files, folder = (
                    shlex.join(["himl", "download", *others, each, err.run]) for each in ("--prefix", "--output_dir")
                )
                err.hint = f"For files of that name: {files} - for a destination: {folder}"
            raise
        if selected.children and output_key is None:
            found = with_steps(workspace, found)
        opened = workspace.run_files if output_key is None else partial(workspace.output_files, key=output_key)
        files_of = (lambda run_id: with_links(opened(run_id))) if follow_links else opened
        if list_only:
            listed = chain.from_iterable(list_files(files_of(run.id), filters, run=run.id) for run in found)
            columns = FILE_COLUMNS if len(found) == 1 else FILE_OF_RUN_COLUMNS
            return output.table(listed, columns, quiet=lambda file: str(file["name"]), empty="No files.")
        request = DownloadRequest(
            output_dir, filters, "", strip_prefix, how.overwrite, not how.no_validate, how.workers
        )
        result = download_runs(files_of, found, request, output_key=output_key, flat=flat, notify=session.notify)
    nothing = f"Run '{found[0].id}' has no files." if len(found) == 1 else "None of these runs has any files."
    parent = next((run for run in found if MANY in run.tags), None)
    if parent and not selection.children:
        output.notice(
            f"Run '{parent.id}' is a {kind_of(parent)}. To download the files of its child runs, use --children."
        )
    folders = [output_dir] if flat else [output_dir / run.id for run in found]
    print_transfer(output, result, "Downloaded", [str(folder) for folder in folders], nothing=nothing)


@command(datastore_app, "upload")
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


@command(datastore_app, "download")
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


@command(datastore_app, "list")
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
