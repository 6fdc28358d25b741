"""`himl checkpoint`: checkpoints of runs, to use and to change.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import HimlCommand, command, group, normalized
from himl_cli.commands.options import (
    OVERWRITE,
    WORKERS_OPTION,
    Bundle,
    ChoiceOptions,
    OutputOptions,
    SelectionOptions,
    WorkspaceOptions,
    option,
    parse_pairs,
)
from himl_cli.commands.session import lazy_workspace, open_session, output_session
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    pass

app = group("Fetch checkpoints of runs, push changed ones to a new run, make links to them.")


def _folder(option: str, text: str | None) -> Path | None:
    if text is None:
        return None
    non_blank(option, text)
    folder = expand_home(text, "folder")
    if folder.exists() and not folder.is_dir():
        raise BadUsage(f"{option} '{text}' is a file, and no folder.")
    return folder


class CheckpointTargetOptions(Bundle, panel="Where to"):
    """Where the checkpoint goes, and how."""

    output_dir: Path | None = option("The folder it goes to.  [default: checkpoints/RUN_ID]", "DIR", parse=_folder)
    overwrite: bool = OVERWRITE
    workers: int = WORKERS_OPTION


@command(app, "fetch")
def fetch(
    choice: ChoiceOptions,
    target: CheckpointTargetOptions,
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="A path, an https address, RUN, RUN:FILE, RUN:FOLDER/, experiment:RUN or a Studio URL.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch a checkpoint, and print its path alone.

    Of a run, its last checkpoint unless --select says otherwise; without SOURCE, of the run submitted last from this
    folder. What is complete here is not fetched again; a file here that differs is left, unless --overwrite is given.

    \b
      python train.py --ckpt "$(himl checkpoint fetch train_1772366400_0a1b2c3d)"
      himl checkpoint fetch RUN --select best --metric val/loss
      himl checkpoint fetch RUN:best_val_loss.ckpt --output_dir weights
    """
    from himl_cli.render.transfers import print_fetched_checkpoint
    from himl_cli.services.checkpoints.fetch import CheckpointRequest, digest_of, fetch_checkpoint
    from himl_cli.services.checkpoints.source import kind_of
    from himl_cli.workspaces.resolve import open_address, open_workspace

    if source is not None and selection.is_given:
        raise BadUsage("A SOURCE and options that select a run at once.", hint="Give one of them.")
    request = CheckpointRequest(
        source, choice.choice(), target.output_dir, target.overwrite, target.workers, selection.selection()
    )
    if source is None or kind_of(source, Path.cwd()) == "run":
        try:
            with open_session(workspace_opts, output_opts) as session:
                fetched = fetch_checkpoint(
                    request, lambda: session.workspace, open_address, session.cwd, notify=session.notify
                )
        except WorkspaceNotFound as err:
            if source is None:
                raise
            raise WorkspaceNotFound(
                f"There is no file '{source}', and no workspace that could have such a run.", hint=err.hint
            ) from err
    else:
        with output_session(output_opts) as (_, notify):
            closed = partial(open_workspace, None, None, start=Path.cwd())  # asked for by no path and no address
            fetched = fetch_checkpoint(request, closed, open_address, Path.cwd(), notify=notify)
    print_fetched_checkpoint(output_opts.output(), fetched, lambda: digest_of(fetched))


class NewRunOptions(Bundle, panel="The new run"):
    """The run that changed checkpoints go to."""

    source: str = option(
        "The run that they come from.", "RUN", ..., names=("--from",), kind=str, parse=non_blank, show_default=False
    )
    experiment: str | None = option("Its experiment (default: that of --from).", "NAME")
    display_name: str = option("Its name for people.", "TEXT", "", show_default=False)
    tag: Mapping[str, str] = option("A tag of it.", "K=V", many=True, parse=parse_pairs)


@command(app, "push")
def push(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Changed checkpoints; a folder is all files in it.", show_default=False),
    ],
    new_run: NewRunOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Upload changed checkpoints to a new run, from which jobs start.

    They go to outputs/checkpoints; files below a folder that 'himl checkpoint fetch' made keep their places. The new
    run is made where the one of --from is, unless --workspace names another workspace.

    \b
      himl checkpoint push changed --from train_1772366400_0a1b2c3d
      himl checkpoint push changed/last.ckpt --from RUN --experiment surgery
      himl submit train.py --checkpoint $(himl checkpoint push last.ckpt --from R)
    """
    from himl_cli.render.transfers import print_pushed_checkpoints
    from himl_cli.services.checkpoints.push import PushRequest, push_checkpoints
    from himl_cli.services.runs.lookup import parse_reference
    from himl_cli.services.transfer.ranks import rank_of_all
    from himl_cli.workspaces.resolve import open_runs

    for file in files:
        non_blank("FILE", file)
    parse_reference(new_run.source)
    paths = [Path(file) for file in files]
    request = PushRequest(paths, new_run.source, new_run.experiment, new_run.display_name, new_run.tag)
    rank = rank_of_all(os.environ)
    if rank > 0:
        return output_opts.output().notice(f"Rank {rank} pushes nothing: rank 0 does.")
    with (
        open_session(workspace_opts, output_opts) as session,
        lazy_workspace(lambda: open_runs(None, None, start=session.cwd)) as others,
    ):
        is_named = workspace_opts.workspace is not None or workspace_opts.config_file is not None
        elsewhere = others if is_named else None
        pushed = push_checkpoints(request, session.workspace, session.cwd, session.notify, elsewhere=elsewhere)
    print_pushed_checkpoints(session.output, pushed)


class LinkOptions(Bundle):
    """How a link is made."""

    expiry_days: float = option(
        "How long the link is good, up to 365; 0.5 is half a day.  [default: 10]", "N", 10.0, show_default=False
    )


class _UrlCommand(HimlCommand):
    """Takes SOURCE by hi-ml's `--run_id` too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for index, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and normalized(option[2:]) == "run":
                args = [*args[:index], *([value] if equals else []), *args[index + 1 :]]
                break
        return super().parse_args(ctx, args)


@command(app, "url", cls=_UrlCommand)
def url(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="RUN or RUN:PATH, as for fetch.", show_default=False)],
    link: LinkOptions,
    choice: ChoiceOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Print a link by which anybody can read a checkpoint.

    The link is to one file of a run on Azure ML, for reading only, and holds its own signature: whoever gets it needs
    no account.

    \b
      himl checkpoint url train_1772366400_0a1b2c3d
      himl checkpoint url train_1772366400_0a1b2c3d:best.ckpt --expiry_days 2
      himl submit train.py --checkpoint "$(himl checkpoint url RUN -q)"
    """
    from himl_cli.render.transfers import print_checkpoint_url
    from himl_cli.services.checkpoints.source import check_link, link_checkpoint

    days, selected = link.expiry_days, choice.choice()
    check_link(source, days, Path.cwd())
    with open_session(workspace_opts, output_opts) as session:
        linked = link_checkpoint(source, session.workspace, session.cwd, choice=selected, days=days)
    print_checkpoint_url(session.output, linked, days)
