"""`himl checkpoint`: fetch, push and share checkpoints of runs.

Functions import the services that they use, to keep help fast. The commands share no code, as each
calls one service.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from himl_cli.commands.groups import HimlCommand, command, normalized, subcommands
from himl_cli.commands.options import (
    OVERWRITE,
    WORKERS_OPTION,
    ChoiceOptions,
    OutputOptions,
    SelectionOptions,
    WorkspaceOptions,
    option,
    parse_folder,
    parse_pairs,
)
from himl_cli.commands.session import lazy_workspace, open_session, output_session
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.text import non_blank

app = subcommands("Fetch checkpoints of runs, push changed ones to a new run, and print links.")


@command(app, "fetch")
def fetch(
    *,
    choice: ChoiceOptions,
    output_dir: Path | None = option(
        "Destination folder.  [default: checkpoints/RUN_ID]",
        "DIR",
        names=("--output_dir", "-o"),
        parse=parse_folder,
        panel="Destination",
    ),
    overwrite: bool = OVERWRITE,
    workers: int = WORKERS_OPTION,
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[SOURCE]",
            help="Path, https URL, RUN, RUN:FILE, RUN:FOLDER/, experiment:RUN or Studio URL.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Fetch a checkpoint, and print its path.

    The default SOURCE is the last run submitted from this folder. The default checkpoint of a run is its last one. himl
    skips complete files. To replace local files that differ, use --overwrite.

    \b
      python train.py --ckpt "$(himl checkpoint fetch train_1772366400_0a1b2c3d)"
      himl checkpoint fetch RUN --select best --metric val/loss
      himl checkpoint fetch RUN:best_val_loss.ckpt --output_dir weights
    """
    from himl_cli.render.checkpoint_views import print_fetched_checkpoint
    from himl_cli.services.checkpoints.fetch import CheckpointRequest, digest_of, fetch_checkpoint
    from himl_cli.workspaces.resolve import open_address, open_runs

    if source is not None and any(vars(selection).values()):
        raise BadUsage("SOURCE and options that select a run cannot be combined.", hint="Use only one of them.")
    request = CheckpointRequest(source, choice.choice(), output_dir, overwrite, workers, selection.selection())
    cwd = Path.cwd()
    try:
        with (
            output_session(output_opts) as (output, notify),
            lazy_workspace(lambda: open_runs(*workspace_opts.names, start=cwd)) as workspace,
        ):
            fetched = fetch_checkpoint(request, workspace, open_address, cwd, notify=notify)
    except WorkspaceNotFound as err:
        if source is None:
            raise
        raise WorkspaceNotFound(
            f"File '{source}' does not exist, and there is no workspace with such a run.", hint=err.hint
        ) from err
    print_fetched_checkpoint(output, fetched, lambda: digest_of(fetched))


@command(app, "push")
def push(
    *,
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE...", help="Changed checkpoints, or folders of them.", show_default=False),
    ],
    source: str = option(
        "Original run of the checkpoints.",
        "RUN",
        ...,
        names=("--from",),
        kind=str,
        parse=non_blank,
        show_default=False,
        panel="New run",
    ),
    experiment: str | None = option("Experiment (default: that of --from).", "NAME"),
    display_name: str = option("Display name of the run.", "TEXT", "", show_default=False),
    tag: Mapping[str, str] = option("Tag of the run.", "K=V", many=True, parse=parse_pairs, names=("--tag", "-t")),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Upload changed checkpoints to a new run, to start jobs from.

    himl saves them in outputs/checkpoints. Files from 'himl checkpoint fetch' keep their relative paths. The new run is
    in the workspace of --from, unless --workspace names another one.

    \b
      himl checkpoint push changed --from train_1772366400_0a1b2c3d
      himl checkpoint push changed/last.ckpt --from RUN --experiment surgery
      himl submit train.py --checkpoint $(himl checkpoint push last.ckpt --from R)
    """
    from himl_cli.core.ranks import rank_of_all
    from himl_cli.render.checkpoint_views import print_pushed_checkpoints
    from himl_cli.services.checkpoints.push import push_checkpoints
    from himl_cli.services.runs.lookup import parse_reference
    from himl_cli.workspaces.resolve import open_runs

    for file in files:
        non_blank("FILE", file)
    parse_reference(source)
    rank = rank_of_all(os.environ)
    if rank > 0:
        return output_opts.output().notice(f"Skipped on rank {rank}: only rank 0 pushes checkpoints.")
    with (
        open_session(workspace_opts, output_opts) as session,
        lazy_workspace(lambda: open_runs(None, None, start=session.cwd)) as others,
    ):
        pushed = push_checkpoints(
            [Path(file) for file in files],
            source,
            session.workspace,
            session.cwd,
            session.notify,
            experiment=experiment,
            display_name=display_name,
            tags=tag,
            elsewhere=others if any(workspace_opts.names) else None,
        )
    print_pushed_checkpoints(session.output, pushed)


class _UrlCommand(HimlCommand):
    """Accepts hi-ml's `--run_id` for SOURCE."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        for index, word in enumerate(args):
            option, equals, value = word.partition("=")
            if option.startswith("--") and normalized(option[2:]) == "run":
                args = [*args[:index], *([value] if equals else []), *args[index + 1 :]]
                break
        return super().parse_args(ctx, args)


@command(app, "url", cls=_UrlCommand)
def url(
    *,
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="RUN or RUN:PATH, as in fetch.", show_default=False)],
    expiry_days: float = option("Validity in days, up to 365.  [default: 10]", "N", 10.0, show_default=False),
    choice: ChoiceOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Print a link that gives anyone read access to a checkpoint.

    The link is read-only, for one file of a run on Azure ML. It contains a signature, so readers need no account.

    \b
      himl checkpoint url train_1772366400_0a1b2c3d
      himl checkpoint url train_1772366400_0a1b2c3d:best.ckpt --expiry_days 2
      himl submit train.py --checkpoint "$(himl checkpoint url RUN -q)"
    """
    from himl_cli.render.checkpoint_views import print_checkpoint_url
    from himl_cli.services.checkpoints.source import check_link, link_checkpoint

    selected = choice.choice()
    check_link(source, expiry_days, Path.cwd())
    with open_session(workspace_opts, output_opts) as session:
        linked = link_checkpoint(
            source, session.workspace, session.cwd, choice=selected, days=expiry_days, notify=session.notify
        )
    print_checkpoint_url(session.output, linked, expiry_days)
