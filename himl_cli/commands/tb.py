"""`himl tb`: runs in TensorBoard.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import Bundle, OutputOptions, RunArgs, SelectionOptions, WorkspaceOptions
from himl_cli.commands.session import Session, open_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.tensorboard.runs import SelectedRuns

FILES, BOARD = "Event files", "TensorBoard"

app = group()


class EventOptions(Bundle):
    """Which event files, and where their copies go."""

    def __init__(
        self,
        log_dir: Annotated[
            str,
            typer.Option(
                "--log_dir",
                metavar="DIR",
                help="Their folder inside a run; if it has none, all are taken.",
                rich_help_panel=FILES,
            ),
        ] = "logs",
        run_logs_dir: Annotated[
            str | None,
            typer.Option(
                "--run_logs_dir", metavar="DIR", help="Where copies go.  [default: himl's cache]", rich_help_panel=FILES
            ),
        ] = None,
        refresh: Annotated[
            int,
            typer.Option(
                "--refresh", metavar="SECONDS", help="Time between looks for new runs and files.", rich_help_panel=FILES
            ),
        ] = 15,
        sync_only: Annotated[
            bool, typer.Option("--sync_only", help="Fetch once, print where they are, and end.", rich_help_panel=FILES)
        ] = False,
    ) -> None:
        if refresh < 1:
            raise BadUsage(f"--refresh takes a whole number of seconds from 1, got {refresh}.")
        if ".." in log_dir.replace("\\", "/").split("/"):
            raise BadUsage(
                f"--log_dir is a folder inside a run, got '{log_dir}'.", hint="Leave out '..': --log_dir outputs/tb"
            )
        non_blank("--run_logs_dir", run_logs_dir)
        self.log_dir = log_dir
        self.copies = expand_home(run_logs_dir, "folder") if run_logs_dir else None
        if self.copies is not None and self.copies.is_file():
            raise BadUsage(f"--run_logs_dir takes a folder: '{run_logs_dir}' is a file.")
        self.refresh = refresh
        self.sync_only = sync_only


class BoardOptions(Bundle):
    """Where TensorBoard listens."""

    def __init__(
        self,
        port: Annotated[
            int,
            typer.Option(
                "--port", metavar="N", help="Its port; the next free one if that is taken.", rich_help_panel=BOARD
            ),
        ] = 6006,
        host: Annotated[
            str,
            typer.Option(
                "--host",
                metavar="HOST",
                help="Its host; any but localhost lets other machines in.",
                rich_help_panel=BOARD,
            ),
        ] = "localhost",
        open_browser: Annotated[
            bool, typer.Option("--open", help="Open it in the browser.", rich_help_panel=BOARD)
        ] = False,
    ) -> None:
        from himl_cli.services.tensorboard.server import LAST_PORT

        if not 0 <= port <= LAST_PORT:
            raise BadUsage(f"--port takes a number from 0 to {LAST_PORT}, got {port}.")
        non_blank("--host", host)
        self.port = port
        self.host = host
        self.open_browser = open_browser


@command(app, "tb")
def tb(
    selection: SelectionOptions,
    events: EventOptions,
    board: BoardOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
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
    from himl_cli.services.tensorboard.runs import SelectedRuns

    wanted = selection.selection(runs)
    with suppress(*() if events.sync_only else (KeyboardInterrupt,)), open_session(where, talk) as session:
        selected = SelectedRuns(session.workspace, wanted, session.cwd, events.log_dir, events.copies, session.notify)
        if events.sync_only:
            _sync(session, selected)
        else:
            _serve(session, selected, events.refresh, board)


def _sync(session: Session, runs: SelectedRuns) -> None:
    from himl_cli.render.jobs import say_synced
    from himl_cli.services.tensorboard.poller import sync_once

    runs.start()
    synced, problem = sync_once(runs.sources, session.notify)
    if synced:
        say_synced(session.output, synced)
    if problem is not None:
        raise problem


def _serve(session: Session, runs: SelectedRuns, refresh: int, board: BoardOptions) -> None:
    from himl_cli.commands.session import leave_out_retries
    from himl_cli.render.jobs import say_served
    from himl_cli.render.progress import Watcher
    from himl_cli.services.tensorboard.server import serve

    def on_url(url: str) -> None:
        say_served(session.output, url, [source.run.id for source in runs.sources])
        leave_out_retries()
        if board.open_browser:
            import webbrowser

            if not webbrowser.open(url):
                session.output.notice(f"No browser can be opened here: open {url} yourself.")

    watcher = Watcher(session.output)
    try:
        serve(runs, board.host, board.port, refresh, watcher, on_url, on_first_update=watcher.close)
    finally:
        watcher.close()
