"""`himl download`: files of runs.

The command imports the services that it uses in its body, to keep help fast.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    FOLLOW_LINKS,
    GlobOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    TransferOptions,
    WorkspaceOptions,
    option,
    parse_folder,
)
from himl_cli.commands.session import open_session
from himl_cli.core.errors import RunNotFound

app = group()


@command(app, "download")
def download(
    *,
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
    selection: SelectionOptions,
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
    from himl_cli.core.runs import more_files
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
                err.hint = _other_meanings(err.run, runs or ())
            raise
        if selected.children and output_key is None:
            found = with_steps(workspace, found)
        opened = workspace.run_files if output_key is None else partial(workspace.output_files, key=output_key)
        files_of = (lambda run_id: with_links(opened(run_id))) if follow_links else opened
        if list_only:
            listed = chain.from_iterable(list_files(files_of(run.id), filters, run=run.id) for run in found)
            columns = FILE_COLUMNS if len(found) == 1 else FILE_OF_RUN_COLUMNS
            output.table(listed, columns, quiet=lambda file: str(file["name"]), empty="No files.")
            if remark := more_files(found):
                output.notice(remark)
            return
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


def _other_meanings(word: str, words: Sequence[str]) -> str:
    """A hint for a *word* among the *words* of the command that is no run: files of that name, or a destination."""
    others = [each for each in words if each != word] or ["latest"]
    word = word.removeprefix("latest/") or word
    files, folder = (shlex.join(["himl", "download", *others, each, word]) for each in ("--prefix", "--output_dir"))
    return f"For files of that name: {files} - for a destination: {folder}"
