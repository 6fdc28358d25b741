"""`himl tb`: runs in TensorBoard.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    OutputOptions,
    RunArgs,
    SelectionOptions,
    WorkspaceOptions,
    option,
    parse_folder,
)
from himl_cli.commands.session import Session, open_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

app = group()


def _inside_run(option: str, folder: str) -> str:
    if ".." in folder.replace("\\", "/").split("/"):
        raise BadUsage(
            f"{option} is a folder inside a run, got '{folder}'.", hint=f"Leave out '..': {option} outputs/tb"
        )
    return folder


@command(app, "tb")
def tb(
    *,
    selection: SelectionOptions,
    log_dir: str = option(
        "Their folder inside a run; if it has none, all are taken.",
        "DIR",
        "logs",
        parse=_inside_run,
        panel="Event files",
    ),
    run_logs_dir: Path | None = option("Where copies go.  [default: himl's cache]", "DIR", parse=parse_folder),
    refresh: int = option("Time between looks for new runs and files.", "SECONDS", 15),
    sync_only: bool = option("Fetch once, print where they are, and end.", default=False),
    port: int = option("Its port; the next free one if that is taken.", "N", 6006, panel="TensorBoard"),
    host: str = option("Its host; any but localhost lets other machines in.", "HOST", "localhost", parse=non_blank),
    open_browser: bool = option("Open it in the browser.", default=False, names=("--open",)),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Show runs in TensorBoard, also while they go on.

    Without a run: the one submitted last from this folder. A sweep or a pipeline is shown with all runs below it. Runs
    that are added later join. Local runs are shown where they lie; of others the event files are fetched, and then only
    what is new in them. Ctrl-C ends it.

    \b
      himl tb
      himl tb --experiment train --num_runs 5 --open
      himl tb train_1772366400_0a1b2c3d --sync_only --run_logs_dir logs
    """
    from himl_cli.services.tensorboard.server import LAST_PORT
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

    if refresh < 1:
        raise BadUsage(f"--refresh takes a whole number of seconds from 1, got {refresh}.")
    if not 0 <= port <= LAST_PORT:
        raise BadUsage(f"--port takes a number from 0 to {LAST_PORT}, got {port}.")
    selected = selection.selection(runs)
    with suppress(*[] if sync_only else [KeyboardInterrupt]), open_session(workspace_opts, output_opts) as session:
        shown = SelectedRuns(session.workspace, selected, session.cwd, log_dir, run_logs_dir, session.notify)
        if not sync_only:
            return _serve(session, shown, host, port, refresh, open_browser)
        from himl_cli.render.results import SYNCED_COLUMNS
        from himl_cli.services.tensorboard.server import sync_once

        shown.start()
        synced, problem = sync_once(shown.sources, session.notify)
        if synced:
            session.output.table(synced, SYNCED_COLUMNS, quiet=lambda run: str(run.folder))
        if problem is not None:
            raise problem


def _serve(session: Session, runs: SelectedRuns, host: str, port: int, refresh: int, open_browser: bool) -> None:
    import logging

    from himl_cli.render.progress import observing
    from himl_cli.services.tensorboard.server import serve

    def on_start(url: str) -> None:
        document = {"url": url, "runs": [source.run.id for source in runs.sources]}
        session.output.result(document, human=f"TensorBoard: {url}", quiet=url)
        session.output.flush()  # it is there at once, also for a program at the other end of a pipe
        session.output.notice("Ctrl-C ends it.")
        if not logging.getLogger().isEnabledFor(logging.INFO):  # this goes on for hours, and says itself who is silent
            logging.getLogger("himl_cli.workspaces.retry").setLevel(logging.ERROR)
        if open_browser:
            import webbrowser

            if not webbrowser.open(url):
                session.output.notice(f"No browser can be opened here: open {url} yourself.")

    with observing(session.output) as watcher:
        serve(runs, host, port, refresh, watcher, on_start, on_first_update=watcher.close)
