"""Checkpoints for scripts: fetch, push, and create links, like the commands of `himl checkpoint`."""

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
    name_offset: int | None = None,
    overwrite: bool = False,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> Path:
    """Fetch a checkpoint, and return its absolute local path: a file, or a folder if *source* names one.

    *source* is a path, an https address, `RUN`, `RUN:FILE`, `RUN:FOLDER/FILE` or `RUN:FOLDER/`.
    *select* ("last", "best", "epoch=3"), *metric* and *goal* ("minimize", "maximize") select among the checkpoints of a
    run. *name_offset* is the difference between epochs in names and in the log of the metric (1 if only names count
    from 1), by default determined by comparison. The destination is *output_dir*, by default `checkpoints/RUN_ID`
    (`checkpoints` for an address). himl skips complete files, verifies the MD5 of every file, and keeps local files
    that differ, unless *overwrite* is set. Local rank 0 of each node fetches. All ranks must call it.

    himl finds the run like `fetch_run`. Raises NotThere (also a FileNotFoundError) with the existing names,
    RunNotFound, BadUsage for an ambiguous source, and errors of the transfer: TransferIncomplete, IntegrityFailed,
    ServiceFailed and related ones.
    """
    try:
        folder = None if output_dir is None else Path(output_dir)
        request = fetch.CheckpointRequest(
            os.fspath(source), choice_of(select, metric, goal, name_offset), folder, overwrite
        )
        return _download_checkpoint(request, workspace, workspace_config_path)
    except TransferIncomplete as err:
        err.hint = "To replace files that differ, pass overwrite=True." if err.differing else err.hint
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
    """Save changed checkpoints of *from_run* as a new run, as a start for jobs, and return that run.

    *files* are files and folders (for all files in them). himl saves them in `outputs/checkpoints`. The new run is in
    the workspace of *from_run*, or in the given one, and in the experiment *experiment_name* (default: that of
    *from_run*), with the display name *run_name*. Its tag `himl.checkpoint_from` names *from_run*. Its status is
    Completed after all uploads, or else Failed or Canceled. Every process that calls the function creates a run.

    Raises, without creating a run: NotThere (also a FileNotFoundError) for a missing file, RunNotFound, BadUsage for an
    empty or incomplete file and for two files with the same name. Raises errors of the upload.
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
    name_offset: int | None = None,
    workspace: object | None = None,
    workspace_config_path: PathLike | None = None,
) -> str:
    """A link that gives anyone read access to a checkpoint for *expiry_days* days. *source* names one file of a run in
    Azure ML.

    The link contains a signature, so do not log it. If himl cannot use the storage account's key, the link may expire
    earlier, and himl logs a warning. *source*, *select*, *metric*, *goal* and *name_offset* are those of
    `fetch_checkpoint`. Raises NotThere (also a FileNotFoundError), RunNotFound, NotAllowed if himl cannot sign a link,
    BadUsage for anything but one file of a run in Azure ML and for days outside 0 to 365.
    """
    opened = resolve_runs(workspace, workspace_config_path)
    with raising(NotFound, NotThere):
        link = link_checkpoint(
            source,
            opened,
            Path.cwd(),
            choice=choice_of(select, metric, goal, name_offset),
            days=expiry_days,
            notify=log_notice,
        ).link
    wanted = datetime.now(timezone.utc) + timedelta(days=expiry_days)
    if link.expires < wanted - timedelta(minutes=16):  # a link is valid from 15 minutes ago
        log.warning(
            "The link expires at %s UTC, before the requested %g days.",
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
    return fetched.path.absolute()


MODEL_WEIGHTS_DIR_NAME = "pretrained_models"
"""The subfolder for downloads from an https address, as in hi-ml."""


class NotACheckpoint(BadUsage, ValueError, ArgumentTypeError):
    """The text is not a checkpoint (hi-ml: ValueError). argparse prints the message as it is."""


class CheckpointParser:
    """The checkpoint argument of a script: a path, an https address, `RUN`, `RUN:FILE`, `RUN:FOLDER/FILE` or
    `RUN:FOLDER/`, as in the commands.

    Where a path is accepted (`open`, `Path`, `torch.load`), it acts as the local file, which himl first fetches to
    `checkpoints/RUN_ID`, once per node. All ranks must do so. The constructor only checks the text and the disk. Its
    string forms omit the signature of an address.

    *select* ("last", "best", "epoch=3"), *metric*, *goal* and *name_offset* select among the checkpoints of a run if
    the text names none, as in `fetch_checkpoint`. An empty text means no checkpoint, and is false. Raises
    NotACheckpoint (also a ValueError) for a text that is neither an existing path nor a possible run, and for an
    invalid selection.
    """

    AML_RUN_ID_FORMAT = (
        "RUN for the run's last checkpoint, RUN:FILE for a file of its outputs/checkpoints, "
        "RUN:FOLDER/FILE for any of its files"
    )
    """The format of a run's checkpoints. Like `INFO_MESSAGE` and `DOC`, it is for the help of a script's options."""

    INFO_MESSAGE = f"Use a local file or folder, an https address, or a run: {AML_RUN_ID_FORMAT}."
    DOC = (
        "The checkpoint to start from: a local file or folder, an https address of a file, or a run, local or in "
        f"Azure ML ({AML_RUN_ID_FORMAT})."
    )

    def __init__(
        self,
        checkpoint: PathLike = "",
        *,
        select: str | None = None,
        metric: str | None = None,
        goal: str | None = None,
        name_offset: int | None = None,
    ) -> None:
        self._text = os.fspath(checkpoint)
        self._is_whole = True  # False for a copy without the secret part of the text
        self._here: Path | None = None
        try:
            with naming_checkpoint_arguments():
                self._choice = choice_of(select, metric, goal, name_offset)
                self._kind = _kind_of(self._text) if self._text else None
        except HimlError as err:
            raise NotACheckpoint(redact(f"{err} {err.hint}".strip())) from None
        if self._kind == "path":
            self._here = expand_home(self._text).absolute()
        else:
            self._text = self._text.strip()

    @property
    def checkpoint(self) -> str:
        """The text without secrets, such as the query of an address."""
        if self.is_url:
            return shown(self._text)
        return redact(self._text) if self.is_aml_run_id else self._text

    @property
    def is_local_file(self) -> bool:
        """Whether it is a local file or folder."""
        return self._kind == "path"

    @property
    def is_url(self) -> bool:
        """Whether it is an https address. The URL of a run's page in Azure ML Studio counts as the run."""
        return self._kind == "address"

    @property
    def is_aml_run_id(self) -> bool:
        """Whether it is a run, in Azure ML or local, or a file of one."""
        return self._kind == "run"

    def get_or_download_checkpoint(
        self, download_dir: PathLike = FOLDER, workspace: object = None, workspace_config_path: PathLike | None = None
    ) -> Path:
        """The absolute path of the local file or folder: a local one, one of a run in `download_dir/RUN_ID`, one from
        an address in `download_dir/pretrained_models`.

        himl skips complete files. It keeps local files that differ, and raises TransferIncomplete. It verifies the MD5
        of every file that has one. It finds the workspace like `download_files_from_run_id`. Raises NotThere (also a
        FileNotFoundError) with the existing names, RunNotFound, BadUsage for an ambiguous text, and errors of the
        download.
        """
        if self.is_local_file:
            return Path(self)
        folder = Path(download_dir)
        return self._download(
            folder / MODEL_WEIGHTS_DIR_NAME if self.is_url else folder, workspace, workspace_config_path
        )

    def get_path(self, checkpoints_folder: PathLike = FOLDER) -> Path:
        """hi-ml's older name of `get_or_download_checkpoint`."""
        return self.get_or_download_checkpoint(checkpoints_folder)

    def __fspath__(self) -> str:
        if self._here is None:
            self._here = self._download(Path(FOLDER), None, None)
        return str(self._here)

    def _download(self, root: Path, workspace: object, workspace_config_path: PathLike | None) -> Path:
        if self._kind is None:
            raise NotACheckpoint("The checkpoint is empty.")
        if not self._is_whole:
            raise NotACheckpoint(f"'{self}' was pickled without its signature. Request its path before pickling.")
        try:
            # The script makes the choice, and its user writes the text. A text that names a file needs no choice. For
            # `A:B`, only the workspace shows whether B is a file.
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
            err.args = (f"{err} Files in '{root}' differ from the checkpoint.",)
            err.hint = "Pass the local path, or move the files away."
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
        """The state for a pickle. Only new processes get a signature, and files do not, as Lightning saves a script's
        arguments in checkpoints."""
        is_whole = self._is_whole and (get_spawning_popen() is not None or self.checkpoint == self._text)
        return self.__dict__ | {"_text": self._text if is_whole else self.checkpoint, "_is_whole": is_whole}


def _kind_of(text: str) -> Literal["path", "address", "run"]:
    """Like `kind_of`, but rejects an invalid address without its text, which may contain a signature. Raises NotFound,
    BadUsage."""
    try:
        kind = kind_of(text, Path.cwd())
    except HimlError:
        kind = None
        if not is_botched_address(text):
            raise
    if kind is None:
        raise BadUsage("This is not a valid address.", hint="An address has the form https://HOST/PATH.")
    return kind


def checkpoint(text: str) -> CheckpointParser:
    """The checkpoint for *text*, as a type for argparse: `parser.add_argument("--src_checkpoint", type=checkpoint)`,
    see `CheckpointParser`.

    Raises NotACheckpoint even for an empty text, as of an unset shell variable.
    """
    if not text.strip():
        raise NotACheckpoint("The value is empty. Is a shell variable unset?")
    return CheckpointParser(text)
