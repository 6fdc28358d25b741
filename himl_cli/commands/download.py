"""`himl download`: the files of runs, checked and complete."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    FILES,
    WHERETO,
    Bundle,
    GlobOptions,
    MovingOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    WorkspaceOptions,
    conclude,
)
from himl_cli.commands.session import open_session
from himl_cli.core.errors import RunNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from himl_cli.core.runs import Run
    from himl_cli.workspaces.base import BlobStore, Workspace

app = group()


class SourceOptions(Bundle):
    """Which of a run's files."""

    def __init__(
        self,
        prefix: Annotated[
            str,
            typer.Option(
                "--prefix",
                metavar="P",
                help="Only names that start so, or one file.",
                rich_help_panel=FILES,
                show_default=False,
            ),
        ] = "",
        output_key: Annotated[
            str | None,
            typer.Option(
                "--output_key",
                metavar="KEY",
                help="The run's output dataset KEY, not its artifacts.",
                rich_help_panel=FILES,
            ),
        ] = None,
        list_only: Annotated[
            bool, typer.Option("--list", help="List the files, download nothing.", rich_help_panel=FILES)
        ] = False,
    ) -> None:
        self.prefix = prefix
        self.output_key = output_key
        self.list_only = list_only

    def files_of(self, workspace: Workspace) -> Callable[[str], BlobStore]:
        return workspace.run_files if self.output_key is None else partial(workspace.output_files, key=self.output_key)


class TargetOptions(Bundle):
    """Where files go."""

    def __init__(
        self,
        output_dir: Annotated[
            Path,
            typer.Option("--output_dir", metavar="DIR", help="Files go to DIR/RUN_ID/NAME.", rich_help_panel=WHERETO),
        ] = Path("outputs"),
        flat: Annotated[
            bool, typer.Option("--flat", help="Files go to DIR/NAME (one run only).", rich_help_panel=WHERETO)
        ] = False,
        strip_prefix: Annotated[
            bool,
            typer.Option("--strip_prefix", help="Drop the folders of the prefix from names.", rich_help_panel=WHERETO),
        ] = False,
    ) -> None:
        self.folder = output_dir
        self.flat = flat
        self.strip_prefix = strip_prefix

    def places(self, runs: Sequence[Run]) -> list[str]:
        return [str(self.folder)] if self.flat else [str(self.folder / run.id) for run in runs]


@contextmanager
def _naming_files(words: Sequence[str]) -> Iterator[None]:
    """Within it, the error that one of *words* is no run says how files and a folder are named."""
    try:
        yield
    except RunNotFound as err:
        if err.run in words and not err.similar:
            others = [word for word in words if word != err.run] or ["latest"]
            files, folder = (
                shlex.join(["himl", "download", *others, option, err.run]) for option in ("--prefix", "--output_dir")
            )
            err.hint = f"For files of that name: {files} - for a folder to write to: {folder}"
        raise


@command(app, "download")
def download(
    selection: SelectionOptions,
    source: SourceOptions,
    globs: GlobOptions,
    target: TargetOptions,
    how: MovingOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
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

    filters = globs.filters(source.prefix)
    wanted = selection.selection(runs, single="--flat" if target.flat and not source.list_only else "")
    with open_session(where, talk) as session:
        with _naming_files(runs or ()):
            found = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        files_of = source.files_of(session.workspace)
        if source.list_only:
            files = chain.from_iterable(list_files(files_of(run.id), filters, run=run.id) for run in found)
            session.output.table(
                files,
                FILE_COLUMNS if len(found) == 1 else FILE_OF_RUN_COLUMNS,
                quiet=lambda file: str(file.name),
                empty="No files.",
            )
            return
        request = DownloadRequest(
            target.folder, filters, "", target.strip_prefix, how.overwrite, how.validate, how.workers
        )
        result = download_runs(
            files_of, found, request, output_key=source.output_key, flat=target.flat, notify=session.notify
        )
    nothing = f"Run '{found[0].id}' has no files." if len(found) == 1 else "None of these runs has any files."
    parents = [run for run in found if MANY in run.tags]
    if parents and not selection.children:
        session.output.notice(
            f"Run '{parents[0].id}' is a {kind_of(parents[0])}: --children downloads the files of the runs below it."
        )
    conclude(session.output, result, "Downloaded", target.places(found), nothing=nothing)
