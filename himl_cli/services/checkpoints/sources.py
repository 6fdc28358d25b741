"""What a checkpoint SOURCE means: a file here, a file at an address, or files of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.checkpoints import Choice
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.redaction import is_address, is_botched_address
from himl_cli.core.runs import Run, RunSelection
from himl_cli.services.checkpoints.candidates import candidates_of
from himl_cli.services.checkpoints.choosing import choose, choose_in_best_trial
from himl_cli.services.checkpoints.here import files_in, path_of
from himl_cli.services.checkpoints.names import FOLDER, LAST
from himl_cli.services.checkpoints.offers import Offer
from himl_cli.services.checkpoints.refusals import nothing
from himl_cli.services.checkpoints.swept import best_trial_of, explaining_parents
from himl_cli.services.naming import underscored
from himl_cli.services.runs.lookup import find_runs, is_studio_url
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import BlobStore, Workspace

DRIVE = re.compile(r"[A-Za-z]:[\\/]")
NO_RUN = re.compile(r"[./\\]")
"""What ids of runs do not have in them."""
RETRIES = "outputs/retry_"
NOTED = 10_000
SHAPES = "A file, an https address, RUN, RUN:FILE, RUN:FOLDER/ and experiment:RUN are understood."


@dataclass(frozen=True)
class Checkpoint:
    """What was found: `names` are files of `run`, or, where that is None, paths here; nobody knows them yet for an
    `address`, which is '' for all else.

    `folder` is what is dropped of names; '' for a single file. `is_one` where the folder is one checkpoint, as
    DeepSpeed's are. `blobs` is what the run's store said of the names. `why` is a sentence to tell the user; `epoch`,
    `metric` and `value` are what the choice was made by, or the name says.
    """

    names: Sequence[str]
    run: Run | None = None
    folder: str = ""
    address: str = ""
    blobs: Sequence[BlobInfo] = ()
    is_one: bool = False
    why: str = ""
    epoch: int | None = None
    metric: str = ""
    value: float | None = None

    @property
    def inside(self) -> str:
        """The file, or the folder without a slash at its end."""
        return self.folder.rstrip("/") or self.names[0]

    @property
    def is_in_usual_folder(self) -> bool:
        """Whether it is that folder, or lies in it."""
        return f"{self.inside}/".startswith(f"{FOLDER}/")

    @property
    def folder_place(self) -> str:
        """Where the files of a folder go, without a slash at the end."""
        return f"{FOLDER}/{_last_with_ending(self.folder.rstrip('/'))}" if self.is_one else FOLDER

    @property
    def by_place(self) -> dict[str, str]:
        """The names by where the files go: what is one checkpoint is `outputs/checkpoints/last` with its own ending,
        files of a folder keep their names."""
        if self.folder:
            return {f"{self.folder_place}/{name[len(self.folder) :]}": name for name in self.names}
        (name,) = self.names
        return {f"{FOLDER}/{_last_with_ending(name)}": name}


@dataclass(frozen=True)
class Meant:
    """A run, and the path in it where one was named."""

    run: Run
    path: str | None = None
    why: str = ""


def kind_of(text: str, cwd: Path) -> Literal["path", "address", "run"]:
    """What sort of SOURCE *text* is; a path that exists wins. Looks at the disk only. Raises NotFound for a path where
    nothing is, BadUsage for no text."""
    if not text.strip():
        raise BadUsage("The checkpoint's source is empty.", hint=f"Is a shell variable unset? {SHAPES}")
    if _exists(text, cwd):
        return "path"
    if is_address(text):
        return "run" if is_studio_url(text) else "address"
    if is_botched_address(text):  # not shown: it may hold a secret
        raise BadUsage(
            "The checkpoint's source is an address that cannot be read: it does not begin with https://.", hint=SHAPES
        )
    if DRIVE.match(text) or (":" not in text and NO_RUN.search(text)):
        raise NotFound(f"There is no file '{text}'.", hint=SHAPES)
    return "run"


def find_checkpoint(text: str, workspace: Workspace, cwd: Path, choice: Choice = Choice()) -> Checkpoint:  # noqa: B008
    """What *text* means; of a run without a path, the one that *choice* says.

    For a path or an address nothing is asked of *workspace*. Raises NotFound naming what there is, RunNotFound,
    BadUsage naming what several fit.
    """
    kind = kind_of(text, cwd)
    if kind == "path":
        return find_here(text, cwd)
    if kind == "address":
        return Checkpoint([], address=text.strip())
    meant = find_meant(text, workspace, cwd, choice)
    return checkpoint_of(meant, workspace, choice, workspace.run_files(meant.run.id))


def find_here(text: str, cwd: Path) -> Checkpoint:
    """The file or folder at the path *text*, which exists. Raises NotFound for an empty folder, BadUsage as
    `here.files_in` does, DiskFailed."""
    here = path_of(text, cwd)
    if not here.is_dir():
        if text.endswith("/") or not here.is_file():
            raise NotFound(
                f"'{text}' is {'a file, and no folder' if here.is_file() else 'neither a file nor a folder'}."
            )
        return Checkpoint([str(here)])
    try:
        files = [found.path for found in files_in(here, text)]
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or here}'") from err
    if not files:
        raise NotFound(f"The folder '{text}' is empty, and no checkpoint.")
    return Checkpoint(
        [file.replace("\\", "/") for file in files],
        folder=f"{here}/".replace("\\", "/"),
        is_one=here.name.lower().endswith(".ckpt"),
    )


def find_meant(text: str, workspace: Workspace, cwd: Path, choice: Choice) -> Meant:
    """The run that *text* names, of a sweep its best trial where the best is asked for. `experiment:RUN` comes before
    `RUN:PATH`.

    Raises RunNotFound and NotFound.
    """
    run, path = _run_and_path(text.strip(), workspace, cwd)
    if path is not None and choice != Choice():
        raise BadUsage(
            f"'{text}' names a file or folder of the run, and --select chooses one.",
            hint=f"Leave out --select, or give {run.id} alone.",
        )
    return Meant(run, path) if path is not None else meant_by(run, workspace, choice)


def meant_by(run: Run, workspace: Workspace, choice: Choice) -> Meant:
    """*run*, or the best trial of a sweep where the best is asked for. Raises NotFound where it has none."""
    trial = best_trial_of(run, workspace) if choice.kind == "best" else None
    return (
        Meant(run) if trial is None else Meant(trial, why=f"Run '{run.id}' is a sweep; its best trial is '{trial.id}'.")
    )


def checkpoint_of(meant: Meant, workspace: Workspace, choice: Choice, files: BlobStore) -> Checkpoint:
    """Which of the run's *files* are meant, for one listing of them. Raises NotFound naming what there is, BadUsage
    naming what several fit."""
    run = meant.run
    if meant.path is not None:
        return _at(run, meant.path, files)
    offer = Offer(
        run, files, candidates_of(_where_checkpoints_are(files)), _Outputs(files), lambda: workspace.metrics(run.id)
    )
    with explaining_parents(run, workspace):
        chosen = choose_in_best_trial(offer, choice) if meant.why else choose(offer, choice)
    one = chosen.candidate
    why = " ".join(filter(None, (meant.why, chosen.why)))
    folder = f"{one.name}/" if one.is_folder else ""
    return Checkpoint(
        [b.name for b in one.blobs],
        run,
        folder,
        "",
        one.blobs,
        one.is_folder,
        why,
        one.told.epoch,
        chosen.metric,
        chosen.value,
    )


def _exists(text: str, cwd: Path) -> bool:
    try:
        return path_of(text, cwd).exists()
    except (OSError, ValueError, NotFound):  # what no path can be
        return False


def _run_and_path(text: str, workspace: Workspace, cwd: Path) -> tuple[Run, str | None]:
    if is_address(text):
        return _run(text, workspace, cwd), None
    first, colon, rest = text.partition(":")
    if not colon:
        return _run(text, workspace, cwd), None
    second, colon, path = rest.partition(":")
    if colon:
        return _run(f"{first}:{second}", workspace, cwd), path or None
    if rest and not NO_RUN.search(rest):
        try:
            run = workspace.run(rest)
        except RunNotFound:
            pass
        else:
            if underscored(run.experiment) == underscored(first):
                return run, None
    return _run(first, workspace, cwd), rest or None


def _run(text: str, workspace: Workspace, cwd: Path) -> Run:
    (run,) = find_runs(workspace, RunSelection(runs=(text,)), cwd=cwd)
    return run


def _where_checkpoints_are(files: BlobStore) -> Iterator[BlobInfo]:
    """The files in `outputs/` where one page has them all, else those in the folders of checkpoints: a run may have a
    million others there."""
    pages = files.list("outputs/")
    first = next(pages, ())
    if next(pages, None) is None:
        yield from first
        return
    for prefix in (f"{FOLDER}/", RETRIES):
        yield from (blob for page in files.list(prefix) for blob in page)


@dataclass(frozen=True)
class _Outputs:
    """Names of files in `outputs/`, as many as an error may have to tell; they are listed when it does."""

    files: BlobStore

    def __iter__(self) -> Iterator[str]:
        return islice((blob.name for page in self.files.list("outputs/") for blob in page), NOTED)


def _at(run: Run, path: str, files: BlobStore) -> Checkpoint:
    """The file or folder called *path*: one without a slash is looked for in the folder of checkpoints first, any other
    as it is."""
    plain = "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
    if not plain:
        raise BadUsage(f"'{run.id}:{path}' names no file or folder of the run.", hint=SHAPES)
    for name in (plain, f"{FOLDER}/{plain}") if "/" in plain else (f"{FOLDER}/{plain}", plain):
        inside: list[BlobInfo] = []
        for blob in (blob for page in files.list(name) for blob in page):
            if blob.name == name and not path.endswith(("/", "\\")):
                return Checkpoint([name], run, blobs=[blob])
            if blob.name.startswith(f"{name}/"):
                inside.append(blob)
        if inside:
            return Checkpoint(
                [blob.name for blob in inside], run, f"{name}/", blobs=inside, is_one=name.lower().endswith(".ckpt")
            )
    raise nothing(run, f"no '{path}'", _Outputs(files))


def _last_with_ending(name: str) -> str:
    base = name.replace("\\", "/").rpartition("/")[2]
    _, dot, ending = base.rpartition(".")
    return f"last{dot}{ending}" if dot else LAST
