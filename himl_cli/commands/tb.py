"""`himl tb`: runs in TensorBoard.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import Bundle, OutputOptions, RunArgs, SelectionOptions, WorkspaceOptions, option
from himl_cli.commands.session import Session, open_session
from himl_cli.core.errors import BadUsage
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

app = group()


def _inside_run(option: str, folder: str) -> str:
    if ".." in folder.replace("\\", "/").split("/"):
        hint = f"Leave out '..': {option} outputs/tb"
        raise BadUsage(f"{option} is a folder inside a run, got '{folder}'.", hint=hint)
    return folder


def _copies(option: str, text: str | None) -> Path | None:
    if text is None:
        return None
    non_blank(option, text)
    folder = expand_home(text, "folder")
    if folder.is_file():
        raise BadUsage(f"{option} takes a folder: '{text}' is a file.")
    return folder


class EventOptions(Bundle, panel="Event files"):
    """Which event files, and where their copies go."""

    log_dir: str = option("Their folder inside a run; if it has none, all are taken.", "DIR", "logs", parse=_inside_run)
    run_logs_dir: Path | None = option("Where copies go.  [default: himl's cache]", "DIR", parse=_copies)
    refresh: int = option("Time between looks for new runs and files.", "SECONDS", 15)
    sync_only: bool = option("Fetch once, print where they are, and end.", default=False)

    def validate(self) -> None:
        if self.refresh < 1:
            raise BadUsage(f"--refresh takes a whole number of seconds from 1, got {self.refresh}.")


class ServerOptions(Bundle, panel="TensorBoard"):
    """Where TensorBoard listens."""

    port: int = option("Its port; the next free one if that is taken.", "N", 6006)
    host: str = option("Its host; any but localhost lets other machines in.", "HOST", "localhost", parse=non_blank)
    open_browser: bool = option("Open it in the browser.", default=False, names=("--open",))

    def validate(self) -> None:
        from himl_cli.services.tensorboard.server import LAST_PORT

        if not 0 <= self.port <= LAST_PORT:
            raise BadUsage(f"--port takes a number from 0 to {LAST_PORT}, got {self.port}.")


@command(app, "tb")
def tb(
    selection: SelectionOptions,
    events: EventOptions,
    server: ServerOptions,
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
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

    selected = selection.selection(runs)
    ended_by = () if events.sync_only else (KeyboardInterrupt,)
    with suppress(*ended_by), open_session(workspace_opts, output_opts) as session:
        copies = events.run_logs_dir
        shown = SelectedRuns(session.workspace, selected, session.cwd, events.log_dir, copies, session.notify)
        if events.sync_only:
            from himl_cli.render.job_output import SYNCED_COLUMNS
            from himl_cli.services.tensorboard.server import sync_once

            shown.start()
            synced, problem = sync_once(shown.sources, session.notify)
            if synced:
                session.output.table(synced, SYNCED_COLUMNS, quiet=lambda run: str(run.folder))
            if problem is not None:
                raise problem
        else:
            _serve(session, shown, events.refresh, server)


def _serve(session: Session, runs: SelectedRuns, refresh: int, server: ServerOptions) -> None:
    from himl_cli.render.progress import Watcher
    from himl_cli.services.tensorboard.server import serve

    def on_start(url: str) -> None:
        document = {"url": url, "runs": [source.run.id for source in runs.sources]}
        session.output.result(document, human=f"TensorBoard: {url}", quiet=url)
        session.output.flush()  # it is there at once, also for a program at the other end of a pipe
        session.output.notice("Ctrl-C ends it.")
        if not logging.getLogger().isEnabledFor(logging.INFO):  # this goes on for hours, and says itself who is silent
            logging.getLogger("himl_cli.workspaces.retry").setLevel(logging.ERROR)
        if server.open_browser:
            import webbrowser

            if not webbrowser.open(url):
                session.output.notice(f"No browser can be opened here: open {url} yourself.")

    watcher = Watcher(session.output)
    try:
        serve(runs, server.host, server.port, refresh, watcher, on_start, on_first_update=watcher.close)
    finally:
        watcher.close()
