"""`himl tb` and `himl ui`: show runs in TensorBoard and in MLflow's user interface.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    FOLLOW_LINKS,
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
    from himl_cli.services.child_server import ChildServer
    from himl_cli.services.server_access import Access
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

tb_app, ui_app = group(), group()
HOST = option("Host. Any but localhost allows remote access.", "HOST", "localhost", parse=non_blank)
OPEN = option("Open the page in the browser.", default=False, names=("--open",))
NO_TOKEN = option("Admit all who can reach the port, for example a proxy.", default=False)


@command(ui_app, "ui")
def ui(
    *,
    port: int = option("Port, or else the next free one.", "N", 5000, panel="MLflow"),
    host: str = HOST,
    open_browser: bool = OPEN,
    no_token: bool = NO_TOKEN,
    read_only: bool = option("Refuse all changes.", default=False),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Show runs in MLflow's user interface, including runs in progress.

    The interface shows local and Azure ML runs with their metrics and files. It can change names and tags, and
    permanently delete local runs. The printed address has a token, which keeps out other users. It needs the extra
    'ui'. Ctrl-C stops it.

    \b
      himl ui
      himl ui --open --workspace local
    """
    from himl_cli.services.child_server import check_port
    from himl_cli.services.mlflow_server import require_mlflow, serve, store_uri
    from himl_cli.services.server_access import Access

    check_port(port)
    require_mlflow()
    with suppress(KeyboardInterrupt), open_session(workspace_opts, output_opts) as session:
        session.workspace.experiments()  # triggers the sign-in while the user can see its prompt
        uri = store_uri(*workspace_opts.names, start=session.cwd)
        access = Access.new(has_token=not no_token, reads_only=read_only)
        serve(uri, host, port, access, session.notify, lambda server: _announce(session, server, {}, open_browser))


def _inside_run(option: str, folder: str) -> str:
    if ".." in folder.replace("\\", "/").split("/"):
        raise BadUsage(
            f"{option} must be a folder inside a run, not '{folder}'.", hint=f"Omit '..': {option} outputs/tb"
        )
    return folder


@command(tb_app, "tb")
def tb(
    *,
    log_dir: str = option(
        "Folder inside a run, or else the whole run.",
        "DIR",
        "logs",
        parse=_inside_run,
        panel="Event files",
    ),
    run_logs_dir: Path | None = option("Folder for copies.  [default: himl's cache]", "DIR", parse=parse_folder),
    follow_links: bool = FOLLOW_LINKS,
    refresh: int = option("Interval of checks for new runs and files.", "SECONDS", 15),
    sync_only: bool = option("Fetch once, print the folders, and exit.", default=False),
    port: int = option("Port, or else the next free one.", "N", 6006, panel="TensorBoard"),
    host: str = HOST,
    open_browser: bool = OPEN,
    no_token: bool = NO_TOKEN,
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Show runs in TensorBoard, including runs in progress.

    The default is the last run submitted from this folder. A sweep or pipeline includes its child runs. New runs that
    match appear automatically. For runs on Azure ML, himl fetches event files, and later only new parts. The printed
    address has a token, which keeps out other users. Ctrl-C stops TensorBoard.

    \b
      himl tb
      himl tb --experiment train --num_runs 5 --open
      himl tb train_1772366400_0a1b2c3d --sync_only --run_logs_dir logs
    """
    from himl_cli.services.child_server import check_port
    from himl_cli.services.server_access import Access
    from himl_cli.services.tensorboard.shown_runs import SelectedRuns

    if refresh < 1:
        raise BadUsage(f"--refresh must be a positive integer of seconds, not {refresh}.")
    check_port(port)
    selected = selection.selection(runs)
    with suppress(*[] if sync_only else [KeyboardInterrupt]), open_session(workspace_opts, output_opts) as session:
        wanted = (selected, session.cwd, log_dir, run_logs_dir, session.notify)
        shown = SelectedRuns(session.workspace, *wanted, follows_links=follow_links)
        if not sync_only:
            access = Access.new(has_token=not no_token)
            return _serve(session, shown, host, port, refresh, access, open_browser)
        from himl_cli.render.file_views import SYNCED_COLUMNS
        from himl_cli.services.tensorboard.server import sync_once

        shown.start()
        synced, problem = sync_once(shown.sources, session.notify)
        if synced:
            session.output.table(synced, SYNCED_COLUMNS, quiet=lambda run: str(run.folder))
        if problem is not None:
            raise problem


def _serve(
    session: Session, runs: SelectedRuns, host: str, port: int, refresh: int, access: Access, open_browser: bool
) -> None:
    import logging

    from himl_cli.render.progress import Watcher
    from himl_cli.services.tensorboard.server import serve

    def on_start(server: ChildServer) -> None:
        _announce(session, server, {"runs": [source.run.id for source in runs.sources]}, open_browser)
        # TensorBoard runs for hours, and its watcher reports services that do not respond.
        if not logging.getLogger().isEnabledFor(logging.INFO):
            logging.getLogger("himl_cli.workspaces.retry").setLevel(logging.ERROR)

    with Watcher(session.output) as watcher:
        serve(runs, host, port, refresh, access, watcher, on_start, on_first_update=watcher.close)


def _announce(session: Session, server: ChildServer, document: Mapping[str, Any], open_browser: bool) -> None:
    """Print the address of the server, and open it in the browser with --open."""
    url = server.url
    session.output.result({"url": url, **document}, human=f"{server.name}: {url}", quiet=url)
    session.output.flush()  # for a program that reads the address from a pipe
    session.output.notice("Press Ctrl-C to stop it.")
    if open_browser:
        open_url(session.output, server.write_page())


def open_url(output: Output, url: str) -> None:
    import webbrowser

    if not webbrowser.open(url):
        output.notice(f"himl cannot open a browser. Open {url}.")
