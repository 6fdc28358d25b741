"""Checkpoints for scripts: fetched, kept changed as a new run, linked to. What the commands of `himl checkpoint` do."""

from __future__ import annotations

import logging
import os
from argparse import ArgumentTypeError
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Literal

from himl_cli.api.distributed import once_per_node
from himl_cli.api.exceptions import NotThere, naming_checkpoint_arguments, raising
from himl_cli.api.open_workspace import resolve_runs
from himl_cli.api.transfer import PathLike, log_notice
from himl_cli.api.workspace import Run, Workspace
from himl_cli.core.errors import BadUsage, HimlError, NotFound, TransferIncomplete
from himl_cli.core.files import expand_home
from himl_cli.core.redaction import is_botched_address, redact, shown
from himl_cli.core.runs import Choice
from himl_cli.services.checkpoints import fetch, push
from himl_cli.services.checkpoints.select import choice_of
from himl_cli.services.checkpoints.source import find_source_run, kind_of, link_checkpoint
from himl_cli.workspaces.resolve import open_address

FOLDER = fetch.PLACE
log = logging.getLogger(__name__)


@naming_checkpoint_arguments()
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
    try:
        folder = None if output_dir is None else Path(output_dir)
        request = fetch.CheckpointRequest(os.fspath(source), choice_of(select, metric, goal), folder, overwrite)
        return _download_checkpoint(request, workspace, workspace_config_path)
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
    opened = resolve_runs(workspace, workspace_config_path)
    elsewhere = None if workspace is None and workspace_config_path is None else resolve_runs
    with raising(NotFound, NotThere):
        pushed = push.push_checkpoints(
            [Path(file) for file in listed],
            from_run,
            opened,
            Path.cwd(),
            log_notice,
            experiment=experiment_name,
            display_name=run_name or "",
            tags=tags,
            elsewhere=elsewhere,
        )
    return Run(Workspace.of(opened), pushed.run)


@naming_checkpoint_arguments()
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
    opened = resolve_runs(workspace, workspace_config_path)
    with raising(NotFound, NotThere):
        link = link_checkpoint(
            source, opened, Path.cwd(), choice=choice_of(select, metric, goal), days=expiry_days
        ).link
    wanted = datetime.now(timezone.utc) + timedelta(days=expiry_days)
    if link.expires < wanted - timedelta(minutes=16):  # it began a quarter of an hour ago
        log.warning(
            "The link is good until %s UTC, which is less than the %g days asked for.",
            f"{link.expires:%Y-%m-%d %H:%M}",
            expiry_days,
        )
    return link.url


@naming_checkpoint_arguments()
def _download_checkpoint(
    request: fetch.CheckpointRequest, workspace: object | None, workspace_config_path: PathLike | None
) -> Path:
    with raising(NotFound, NotThere):
        fetched = fetch.fetch_checkpoint(
            request,
            lambda: resolve_runs(workspace, workspace_config_path),
            open_address,
            Path.cwd(),
            once=once_per_node,
            notify=log_notice,
        )
    return fetched.path


MODEL_WEIGHTS_DIR_NAME = "pretrained_models"
"""The folder in the download folder for what comes from an https address, as in hi-ml."""


class NotACheckpoint(BadUsage, ValueError, ArgumentTypeError):
    """The text can be no checkpoint (hi-ml: ValueError); argparse prints its words as they are."""


class CheckpointParser:
    """A checkpoint that a script was given: a path, an https address, `RUN`, `RUN:FILE`, `RUN:FOLDER/FILE` or
    `RUN:FOLDER/`, as the commands take it.

    Where a path is taken (`open`, `Path`, `torch.load`), it stands for the file on this machine, which is brought to
    `checkpoints/RUN_ID` first, once on each node; all ranks have to ask. Making one looks at no more than the text and
    the disk. Texts made of it show no signature of an address.

    *select* ("last", "best", "epoch=3"), *metric* and *goal* say which of a run's checkpoints is meant where the text
    names none. An empty text is no checkpoint, and false. Raises NotACheckpoint (also a ValueError) for what can be
    none: a path that is not there, and no run either; and for a choice that there is not.
    """

    AML_RUN_ID_FORMAT = (
        "RUN for the run's last checkpoint, RUN:FILE for a file of its outputs/checkpoints, "
        "RUN:FOLDER/FILE for any file of it"
    )
    """How a run's checkpoints are named, in words for people; as `INFO_MESSAGE` and `DOC`, for the texts of a script's
    own options."""

    INFO_MESSAGE = f"Give a file or folder of this machine, an https address, or a run: {AML_RUN_ID_FORMAT}."
    DOC = (
        "The checkpoint to begin with: a file or folder of this machine, an https address of a file, or a run, here "
        f"or in Azure ML ({AML_RUN_ID_FORMAT})."
    )

    def __init__(
        self,
        checkpoint: PathLike = "",
        *,
        select: str | None = None,
        metric: str | None = None,
        goal: str | None = None,
    ) -> None:
        self._text = os.fspath(checkpoint)
        self._is_whole = True  # False for a copy that has lost what is secret of the text
        self._here: Path | None = None
        try:
            with naming_checkpoint_arguments():
                self._choice = choice_of(select, metric, goal)
                self._kind = _kind_of(self._text) if self._text else None
        except HimlError as err:
            raise NotACheckpoint(redact(f"{err} {err.hint}".strip())) from None
        if self._kind == "path":
            self._here = expand_home(self._text).absolute()
        else:
            self._text = self._text.strip()

    @property
    def checkpoint(self) -> str:
        """The text, without what may be secret: of an address without its query."""
        if self.is_url:
            return shown(self._text)
        return redact(self._text) if self.is_aml_run_id else self._text

    @property
    def is_local_file(self) -> bool:
        """Whether it is a file or folder of this machine."""
        return self._kind == "path"

    @property
    def is_url(self) -> bool:
        """Whether it is an https address; the address of a run's page in Azure ML Studio means the run."""
        return self._kind == "address"

    @property
    def is_aml_run_id(self) -> bool:
        """Whether it is a run, in Azure ML or here, or a file of one."""
        return self._kind == "run"

    def get_or_download_checkpoint(
        self, download_dir: PathLike = FOLDER, workspace: object = None, workspace_config_path: PathLike | None = None
    ) -> Path:
        """The file, or folder, on this machine: a local one as it is, of a run in `download_dir/RUN_ID`, of an address
        in `download_dir/pretrained_models`.

        What is complete there is not downloaded again; a file there that was changed since is left, which is
        TransferIncomplete. Every file is checked by MD5, where one is known. The workspace is found as
        `download_files_from_run_id` finds it. Raises NotThere (also a FileNotFoundError) naming what there is,
        RunNotFound, BadUsage where several fit, and what went wrong with the download.
        """
        if self.is_local_file:
            return expand_home(self._text)
        folder = Path(download_dir)
        return self._download(
            folder / MODEL_WEIGHTS_DIR_NAME if self.is_url else folder, workspace, workspace_config_path
        )

    def get_path(self, checkpoints_folder: PathLike = FOLDER) -> Path:
        """As `get_or_download_checkpoint`, of which this is hi-ml's older name."""
        return self.get_or_download_checkpoint(checkpoints_folder)

    def __fspath__(self) -> str:
        if self._here is None:
            self._here = self._download(Path(FOLDER), None, None).absolute()
        return str(self._here)

    def _download(self, root: Path, workspace: object, workspace_config_path: PathLike | None) -> Path:
        if self._kind is None:
            raise NotACheckpoint("There is no checkpoint: the text is empty.")
        if not self._is_whole:
            raise NotACheckpoint(
                f"'{self}' was pickled before it was fetched, and without its signature: ask for its path before."
            )
        try:
            # The choice is the script's, the text its user's: what names a file leaves nothing to choose. For `A:B` the
            # workspace says whether it does.
            choice = Choice() if self.is_url else self._choice
            if choice != Choice() and ":" in self._text:
                runs = resolve_runs(workspace, workspace_config_path)
                names_file = find_source_run(self._text, runs, Path.cwd(), Choice())[1] is not None
                choice = Choice() if names_file else choice
            request = fetch.CheckpointRequest(self._text, choice, root=root)
            return _download_checkpoint(request, workspace, workspace_config_path)
        except TransferIncomplete as err:
            if not err.differing:
                raise
            err.args = (f"{err} What lies in '{root}' is not, or no longer, what was to be fetched.",)
            err.hint = "Name it by its path, or move it away."
            raise

    def __bool__(self) -> bool:
        return self._text != ""

    def __str__(self) -> str:
        return self.checkpoint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.checkpoint!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CheckpointParser) and (self._text, self._choice) == (other._text, other._choice)

    def __hash__(self) -> int:
        return hash((self._text, self._choice))

    def __copy__(self) -> CheckpointParser:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> CheckpointParser:
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What a pickle gets. A signature goes to processes that are being started, and into no file: Lightning keeps a
        script's arguments in checkpoints."""
        is_whole = self._is_whole and (get_spawning_popen() is not None or self.checkpoint == self._text)
        return self.__dict__ | {"_text": self._text if is_whole else self.checkpoint, "_is_whole": is_whole}


def _kind_of(text: str) -> Literal["path", "address", "run"]:
    """As `kind_of`; what is meant as an address, and is none, is refused without its text: it may hold a signature.
    Raises NotFound, BadUsage."""
    try:
        kind = kind_of(text, Path.cwd())
    except HimlError:
        kind = None
        if not is_botched_address(text):
            raise
    if kind is None or (kind == "run" and is_botched_address(text)):
        raise BadUsage(
            "It looks like an address, and is none that can be read.", hint="An address reads https://HOST/PATH."
        )
    return kind


def checkpoint(text: str) -> CheckpointParser:
    """The checkpoint that *text* means, for argparse: `parser.add_argument("--src_checkpoint", type=checkpoint)`; see
    `CheckpointParser`.

    Raises NotACheckpoint for an empty text, too: a shell variable that is not set.
    """
    if not text.strip():
        raise NotACheckpoint("It is empty. Is a shell variable unset?")
    return CheckpointParser(text)
