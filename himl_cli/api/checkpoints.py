"""Checkpoints for scripts: fetched, kept changed as a new run, linked to. What the commands of `himl checkpoint` do."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path

from himl_cli.api.configured import where_runs_are
from himl_cli.api.errors import NotThere, naming_arguments, raising
from himl_cli.api.moving import log_notice
from himl_cli.api.paths import PathLike
from himl_cli.api.ranks import once_per_node
from himl_cli.api.run import Run
from himl_cli.core.checkpoints import Choice
from himl_cli.core.errors import NotFound, TransferIncomplete
from himl_cli.services.checkpoints import fetch, push
from himl_cli.services.checkpoints.select import choice_of
from himl_cli.services.checkpoints.source import link_checkpoint
from himl_cli.workspaces.resolve import open_address

FOLDER = fetch.PLACE
log = logging.getLogger(__name__)


@naming_arguments()
def fetch_checkpoint(
    source: PathLike,
    output_dir: PathLike | None = None,
    *,
    select: str | None = None,
    metric: str | None = None,
    goal: str | None = None,
    overwrite: bool = False,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> Path:
    """Bring a checkpoint to this machine and give its path: a file, or the folder where *source* means one.

    *source* is a path (given back as it is), an https address, `RUN`, `RUN:FILE`, `RUN:FOLDER/FILE` or `RUN:FOLDER/`;
    *select* ("last", "best", "epoch=3"), *metric* and *goal* ("minimize", "maximize") say which of a run's. It goes to
    *output_dir*, by default `checkpoints/RUN_ID` (`checkpoints` for an address). What is complete there is not fetched
    again, every file is checked by MD5, and one that was changed here since is left, unless *overwrite* is set. Local
    rank 0 of each node fetches; all ranks have to call it.

    The run is looked for as `fetch_run` does. Raises NotThere (also a FileNotFoundError) naming what there is,
    RunNotFound, BadUsage where several fit, and what went wrong with the transfer: TransferIncomplete, IntegrityFailed,
    ServiceFailed and their kin.
    """
    folder = None if output_dir is None else Path(output_dir)
    choice = choice_of(select, metric, goal)
    try:
        return bring_checkpoint(
            os.fspath(source),
            choice,
            folder=folder,
            overwrite=overwrite,
            workspace=workspace,
            workspace_config_path=workspace_config_path,
        )
    except TransferIncomplete as err:
        err.hint = "overwrite=True replaces what differs." if err.differing else err.hint
        raise


def push_checkpoints(
    files: PathLike | Iterable[PathLike],
    from_run: str,
    experiment_name: str | None = None,
    run_name: str | None = None,
    *,
    tags: Mapping[str, str] | None = None,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> Run:
    """Keep changed checkpoints of *from_run* as a new run, from which jobs start, and give that run.

    *files* are files and folders (for all in them); they get their names below `outputs/checkpoints`. The new run is in
    the workspace that keeps *from_run*, or in the one given, in the experiment *experiment_name* (by default that of
    *from_run*), and is called *run_name* for people. Its tag `himl.checkpoint_from` names *from_run*. It ends as
    Completed once all files are stored, else as Failed or Canceled. Every process that calls it makes one.

    Raises, and makes no run: NotThere (also a FileNotFoundError) for a file that is not there, RunNotFound, BadUsage
    for an empty or half-written file and for two that would get one name. Raises what went wrong with the upload.
    """
    listed = [files] if isinstance(files, str | os.PathLike) else files
    request = push.PushRequest(
        [Path(file) for file in listed], from_run, experiment_name, run_name or "", dict(tags or {})
    )
    place = where_runs_are(workspace, workspace_config_path)
    elsewhere = None if workspace is None and workspace_config_path is None else lambda: where_runs_are().opened
    with raising(NotFound, NotThere):
        pushed = push.push_checkpoints(request, place.opened, Path.cwd(), log_notice, elsewhere=elsewhere)
    return Run(place, pushed.run)


@naming_arguments()
def checkpoint_url(
    source: str,
    expiry_days: float = 10.0,
    *,
    select: str | None = None,
    metric: str | None = None,
    goal: str | None = None,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> str:
    """An address at which anybody can read the one checkpoint of a run in Azure ML that *source* means, without signing
    in, for so many days.

    It holds a signature: do not log it. Where the storage account's key may not be used it may be good for less time,
    which the log says. The words are those of `fetch_checkpoint`. Raises NotThere (also a FileNotFoundError),
    RunNotFound, NotAllowed where no link can be signed, BadUsage for anything but one file of a run in Azure ML and for
    days that are not above 0 and at most 365.
    """
    place = where_runs_are(workspace, workspace_config_path)
    with raising(NotFound, NotThere):
        link = link_checkpoint(
            source, place.opened, Path.cwd(), choice=choice_of(select, metric, goal), days=expiry_days
        ).link
    if link.expires < datetime.now(timezone.utc) + timedelta(days=expiry_days) - timedelta(
        minutes=16
    ):  # it began a quarter of an hour ago
        log.warning(
            "The link is good until %s UTC, which is less than the %g days asked for.",
            f"{link.expires:%Y-%m-%d %H:%M}",
            expiry_days,
        )
    return link.url


@naming_arguments()
def bring_checkpoint(
    source: str,
    choice: Choice,
    *,
    folder: Path | None = None,
    root: Path = Path(FOLDER),
    overwrite: bool = False,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> Path:
    """Fetch what *source* and *choice* mean to *folder*, by default `root/RUN_ID`, of an address *root*; see
    `fetch_checkpoint`."""
    request = fetch.CheckpointRequest(source, choice, folder, overwrite, root=root)
    with raising(NotFound, NotThere):
        fetched = fetch.fetch_checkpoint(
            request,
            lambda: where_runs_are(workspace, workspace_config_path).opened,
            open_address,
            Path.cwd(),
            once=once_per_node,
            notify=log_notice,
        )
    return fetched.path
