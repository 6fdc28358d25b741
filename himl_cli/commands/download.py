"""`himl download`: the files of runs, checked and complete."""

from __future__ import annotations

import shlex
from functools import partial
from itertools import chain
from pathlib import Path

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    Bundle,
    GlobOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    TransferOptions,
    WorkspaceOptions,
    conclude_transfer,
    option,
)
from himl_cli.commands.session import open_session
from himl_cli.core.errors import RunNotFound

app = group()


class SourceOptions(Bundle, panel="Which files"):
    """Which of a run's files."""

    prefix: str = option("Only names that start so, or one file.", "P", "", show_default=False)
    output_key: str | None = option("The run's output dataset KEY, not its artifacts.", "KEY")
    list_only: bool = option("List the files, download nothing.", default=False, names=("--list",))


class TargetOptions(Bundle, panel="Where to"):
    """Where files go."""

    output_dir: Path = option("Files go to DIR/RUN_ID/NAME.", "DIR", Path("outputs"), kind=Path)
    flat: bool = option("Files go to DIR/NAME (one run only).", default=False)
    strip_prefix: bool = option("Drop the folders of the prefix from names.", default=False)


@command(app, "download")
def download(
    selection: SelectionOptions,
    source: SourceOptions,
    globs: GlobOptions,
    target: TargetOptions,
    transfer_opts: TransferOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Download the files of runs, checked by MD5.

    Without a run: of the one submitted last from this folder. Complete files are skipped, partial ones resumed; files
    here that differ are left as they are and listed, unless --overwrite is given.

    \b
      himl download --prefix outputs
      himl download train_1772366400_0a1b2c3d --include '*.ckpt' --flat
      himl download --experiment train --num_runs 3 --list
    """
    from himl_cli.core.sweeps import MANY
    from himl_cli.render.transfers import FILE_COLUMNS, FILE_OF_RUN_COLUMNS
    from himl_cli.services.runs.changes import kind_of
    from himl_cli.services.runs.lookup import find_runs
    from himl_cli.services.transfer.download import download_runs
    from himl_cli.services.transfer.filters import list_files
    from himl_cli.services.transfer.plan import DownloadRequest

    filters, key, how = globs.filters(source.prefix), source.output_key, transfer_opts
    selected = selection.selection(runs, single="--flat" if target.flat and not source.list_only else "")
    with open_session(workspace_opts, output_opts) as session:
        workspace = session.workspace
        try:
            found = find_runs(workspace, selected, cwd=session.cwd, notify=session.notify)
        except RunNotFound as err:
            if err.run in (runs or ()) and not err.similar:
                others = [word for word in runs or () if word != err.run] or ["latest"]
                files, folder = (
                    shlex.join(["himl", "download", *others, each, err.run]) for each in ("--prefix", "--output_dir")
                )
                err.hint = f"For files of that name: {files} - for a folder to write to: {folder}"
            raise
        files_of = workspace.run_files if key is None else partial(workspace.output_files, key=key)
        if source.list_only:
            listed = chain.from_iterable(list_files(files_of(run.id), filters, run=run.id) for run in found)
            columns = FILE_COLUMNS if len(found) == 1 else FILE_OF_RUN_COLUMNS
            return session.output.table(listed, columns, quiet=lambda file: str(file.name), empty="No files.")
        request = DownloadRequest(
            target.output_dir, filters, "", target.strip_prefix, how.overwrite, not how.no_validate, how.workers
        )
        result = download_runs(files_of, found, request, output_key=key, flat=target.flat, notify=session.notify)
    nothing = f"Run '{found[0].id}' has no files." if len(found) == 1 else "None of these runs has any files."
    parent = next((run for run in found if MANY in run.tags), None)
    if parent and not selection.children:
        session.output.notice(
            f"Run '{parent.id}' is a {kind_of(parent)}: --children downloads the files of the runs below it."
        )
    folders = [target.output_dir] if target.flat else [target.output_dir / run.id for run in found]
    conclude_transfer(session.output, result, "Downloaded", [str(folder) for folder in folders], nothing=nothing)
