"""`himl checkpoint push`: changed checkpoints go to a run of their own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import HimlCommand, command, group, normalized
from himl_cli.commands.options import (
    WHERETO,
    WORKERS,
    Bundle,
    ChoiceOptions,
    OutputOptions,
    OverwriteOpt,
    SelectionOptions,
    WorkersOpt,
    WorkspaceOptions,
    checked_workers,
    parse_pairs,
)
from himl_cli.commands.session import open_session, talking
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.workspaces.base import Workspace

NEW_RUN = "The new run"


def register_push(app: typer.Typer) -> None:
    """Let *app* have the command."""
    command(app, "push")(push)


def push(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Changed checkpoints; a folder is all files in it.", show_default=False),
    ],
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="RUN", help="The run that they come from.", rich_help_panel=NEW_RUN, show_default=False
        ),
    ],
    experiment: Annotated[
        str | None,
        typer.Option(
            "--experiment", metavar="NAME", help="Its experiment (default: that of --from).", rich_help_panel=NEW_RUN
        ),
    ] = None,
    display_name: Annotated[
        str,
        typer.Option(
            "--display_name", metavar="TEXT", help="Its name for people.", rich_help_panel=NEW_RUN, show_default=False
        ),
    ] = "",
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="K=V", help="A tag of it.", rich_help_panel=NEW_RUN)
    ] = None,
    *,
    where: WorkspaceOptions,
    talk: OutputOptions,
) -> None:
    """Upload changed checkpoints to a new run, from which jobs start.

    They go to outputs/checkpoints; files below a folder that 'himl checkpoint fetch' made keep their places. The new
    run is made where the one of --from is, unless --workspace names another workspace.

    \b
      himl checkpoint push changed --from train_1772366400_0a1b2c3d
      himl checkpoint push changed/last.ckpt --from RUN --experiment surgery
      himl submit train.py --checkpoint $(himl checkpoint push last.ckpt --from R)
    """
    from himl_cli.render.transfers import say_pushed, say_rank_does_nothing
    from himl_cli.services.checkpoints.pushing import PushRequest, push_checkpoints
    from himl_cli.services.runs.lookup import parse_reference
    from himl_cli.services.transfer.ranks import rank_of_all

    for file in files:
        non_blank("FILE", file)
    parse_reference(non_blank("--from", source) or "")
    request = PushRequest(
        [Path(file) for file in files], source, experiment, display_name, parse_pairs("--tag", tag or ())
    )
    rank = rank_of_all(os.environ)
    if rank > 0:
        say_rank_does_nothing(talk.output(), rank)
        return
    with open_session(where, talk) as session, _all_runs(session.cwd) as others:
        is_named = where.workspace is not None or where.config_file is not None
        pushed = push_checkpoints(
            request, session.workspace, session.cwd, session.notify, elsewhere=others if is_named else None
        )
    say_pushed(session.output, pushed)


@contextmanager
def _all_runs(cwd: Path) -> Iterator[Callable[[], Workspace]]:
    """A function that opens what a command without --workspace would work with; closed at the end."""
    from himl_cli.workspaces.open import open_runs

    opened: list[Workspace] = []

    def workspace() -> Workspace:
        opened.append(open_runs(None, None, start=cwd))
        return opened[-1]

    try:
        yield workspace
    finally:
        for each in opened:
            each.close()


def register_url(app: typer.Typer) -> None:
    """Let *app* have the command."""
    command(app, "url", cls=_Url)(url)


class _Url(HimlCommand):
    """Takes SOURCE by hi-ml's `--run_id` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for place, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and normalized(option[2:]) == "run":
                return super().parse_args(ctx, [*args[:place], *([value] if equals else []), *args[place + 1 :]])
        return super().parse_args(ctx, args)


def url(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="RUN or RUN:PATH, as for fetch.", show_default=False)],
    expiry_days: Annotated[
        float,
        typer.Option(
            "--expiry_days",
            metavar="N",
            help="How long the link is good, up to 365; 0.5 is half a day.  [default: 10]",
            show_default=False,
        ),
    ] = 10.0,
    *,
    choice: ChoiceOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
) -> None:
    """Print a link by which anybody can read a checkpoint.

    The link is to one file of a run on Azure ML, for reading only, and holds its own signature: whoever gets it needs
    no account.

    \b
      himl checkpoint url train_1772366400_0a1b2c3d
      himl checkpoint url train_1772366400_0a1b2c3d:best.ckpt --expiry_days 2
      himl submit train.py --checkpoint "$(himl checkpoint url RUN -q)"
    """
    from himl_cli.render.transfers import say_linked
    from himl_cli.services.checkpoints.linking import check_days, check_is_of_run, link_checkpoint

    check_days(expiry_days)
    check_is_of_run(source, Path.cwd())
    wanted = choice.choice()
    with open_session(where, talk) as session:
        linked = link_checkpoint(source, session.workspace, session.cwd, choice=wanted, days=expiry_days)
    say_linked(session.output, linked, expiry_days)


app = group("Fetch checkpoints of runs, push changed ones to a new run, make links to them.")

SourceArg = Annotated[
    str | None,
    typer.Argument(
        metavar="[SOURCE]",
        help="A path, an https address, RUN, RUN:FILE, RUN:FOLDER/, experiment:RUN or a Studio URL.",
        show_default=False,
    ),
]


class CheckpointTargetOptions(Bundle):
    """Where the checkpoint goes, and how."""

    def __init__(
        self,
        output_dir: Annotated[
            str | None,
            typer.Option(
                "--output_dir",
                metavar="DIR",
                help="The folder it goes to.  [default: checkpoints/RUN_ID]",
                rich_help_panel=WHERETO,
            ),
        ] = None,
        overwrite: OverwriteOpt = False,
        workers: WorkersOpt = WORKERS,
    ) -> None:
        self.folder = None if output_dir is None else _folder(output_dir)
        self.overwrite = overwrite
        self.workers = checked_workers(workers)


def _folder(text: str) -> Path:
    non_blank("--output_dir", text)
    folder = expand_home(text, "folder")
    if folder.exists() and not folder.is_dir():
        raise BadUsage(f"--output_dir '{text}' is a file, and no folder.")
    return folder


@command(app, "fetch")
def fetch(
    which: ChoiceOptions,
    target: CheckpointTargetOptions,
    selection: SelectionOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    source: SourceArg = None,
) -> None:
    """Fetch a checkpoint, and print its path alone.

    Of a run, its last checkpoint unless --select says otherwise; without SOURCE, of the run submitted last from this
    folder. What is complete here is not fetched again; a file here that differs is left, unless --overwrite is given.

    \b
      python train.py --ckpt "$(himl checkpoint fetch train_1772366400_0a1b2c3d)"
      himl checkpoint fetch RUN --select best --metric val/loss
      himl checkpoint fetch RUN:best_val_loss.ckpt --output_dir weights
    """
    from himl_cli.render.transfers import say_fetched
    from himl_cli.services.checkpoints.fetching import CheckpointRequest, digest_of, fetch_checkpoint
    from himl_cli.services.checkpoints.sources import kind_of
    from himl_cli.workspaces.open import open_address

    if source is not None and selection.is_given:
        raise BadUsage("A SOURCE and options that select a run at once.", hint="Give one of them.")
    request = CheckpointRequest(
        source, which.choice(), target.folder, target.overwrite, target.workers, selection.selection()
    )
    if source is None or kind_of(source, Path.cwd()) == "run":
        with _naming_files(source), open_session(where, talk) as session:
            fetched = fetch_checkpoint(
                request, lambda: session.workspace, open_address, session.cwd, notify=session.notify
            )
    else:
        with talking(talk) as (_, notify):
            fetched = fetch_checkpoint(request, _no_workspace, open_address, Path.cwd(), notify=notify)
    say_fetched(talk.output(), fetched, lambda: digest_of(fetched))


@contextmanager
def _naming_files(source: str | None) -> Iterator[None]:
    """Within it, the error that there is no workspace says that SOURCE is no file either."""
    try:
        yield
    except WorkspaceNotFound as err:
        if source is None:
            raise
        raise WorkspaceNotFound(
            f"There is no file '{source}', and no workspace that could have such a run.", hint=err.hint
        ) from err


def _no_workspace() -> Workspace:
    raise WorkspaceNotFound("There is no workspace.")


register_push(app)
register_url(app)
