"""`himl checkpoint`: checkpoints of runs, to use and to change.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands import _checkpoint_push, _checkpoint_url
from himl_cli.commands._bundles import Bundle
from himl_cli.commands._checkpoint_options import ChoiceOptions
from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, SelectionOptions, WorkspaceOptions
from himl_cli.commands._session import open_session, talking
from himl_cli.commands._transfer import WHERETO, WORKERS, OverwriteOpt, WorkersOpt, checked_workers
from himl_cli.core.errors import BadUsage, WorkspaceNotFound
from himl_cli.core.files import expand_home
from himl_cli.core.text import non_blank

if TYPE_CHECKING:
    from himl_cli.workspaces.base import Workspace

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
    from himl_cli.render.checkpoints import say_fetched
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


_checkpoint_push.register(app)
_checkpoint_url.register(app)
