"""`himl tb` and `himl ui`: runs in the browser, in TensorBoard and in MLflow's user interface.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    from himl_cli.render.output import Output
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

tb_app, ui_app = group(), group()
HOST = option("Its host; any but localhost lets other machines in.", "HOST", "localhost", parse=non_blank)
OPEN = option("Open it in the browser.", default=False, names=("--open",))


@command(ui_app, "ui")
def ui(
    *,
    port: int = option("Its port; the next free one if that is taken.", "N", 5000, panel="MLflow"),
    host: str = HOST,
    open_browser: bool = OPEN,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Show runs in MLflow's user interface, also while they go on.

    All runs of the workspace, those kept here and those of Azure ML side by side: tables, curves, comparisons, files.
    Tags can be changed, and runs that are kept here can be deleted, for good. Needs the extra ui. Ctrl-C ends it.

    \b
      himl ui
      himl ui --open --workspace local
    """
    from himl_cli.services.child_server import check_port
    from himl_cli.services.mlflow_server import require_mlflow, serve, store_uri

    check_port(port)
    require_mlflow()
    with suppress(KeyboardInterrupt), open_session(workspace_opts, output_opts) as session:
        session.workspace.experiments()  # who has to sign in does it here, where it can be seen
        uri = store_uri(*workspace_opts.names, start=session.cwd)
        serve(uri, host, port, session.notify, lambda url: _announce(session, "MLflow", {"url": url}, open_browser))


def _inside_run(option: str, folder: str) -> str:
    if ".." in folder.replace("\\", "/").split("/"):
        raise BadUsage(
            f"{option} is a folder inside a run, got '{folder}'.", hint=f"Leave out '..': {option} outputs/tb"
        )
    return folder


@command(tb_app, "tb")
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
    host: str = HOST,
    open_browser: bool = OPEN,
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
    from himl_cli.services.child_server import check_port
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

    if refresh < 1:
        raise BadUsage(f"--refresh takes a whole number of seconds from 1, got {refresh}.")
    check_port(port)
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
        _announce(session, "TensorBoard", document, open_browser)
        if not logging.getLogger().isEnabledFor(logging.INFO):  # this goes on for hours, and says itself who is silent
            logging.getLogger("himl_cli.workspaces.retry").setLevel(logging.ERROR)

    with observing(session.output) as watcher:
        serve(runs, host, port, refresh, watcher, on_start, on_first_update=watcher.close)


def _announce(session: Session, name: str, document: Mapping[str, Any], open_browser: bool) -> None:
    """Print the address of the server, and open it in the browser where that is wanted."""
    url = document["url"]
    session.output.result(document, human=f"{name}: {url}", quiet=url)
    session.output.flush()  # it is there at once, also for a program at the other end of a pipe
    session.output.notice("Ctrl-C ends it.")
    if open_browser:
        open_url(session.output, url)


def open_url(output: Output, url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        output.notice(f"No browser can be opened here: open {url} yourself.")
