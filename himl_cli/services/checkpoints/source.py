"""What a checkpoint SOURCE means: a file of this machine, a file at an address, or files of a run; and links to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Literal

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.errors import BadUsage, NotFound, RunNotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import WORKSPACE_FOLDER, FoundFile, expand_home, walk_files
from himl_cli.core.jobs import BEST_TRIAL, MANY, REPEATED
from himl_cli.core.redaction import is_address, is_botched_address
from himl_cli.core.runs import RECORDED_IN, Choice, LinkedCheckpoint, Run, RunSelection, underscored
from himl_cli.core.text import listed
from himl_cli.services.checkpoints.names import FOLDER, is_mark, is_whole
from himl_cli.services.checkpoints.select import Candidates, Checkpoint, candidates_of, choose
from himl_cli.services.runs.lookup import children_of, find_runs, is_studio_url, sweep_view
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, Workspace

# What makes a folder one of a project: all of it is never meant.
PROJECT_MARKS = (".git", WORKSPACE_FOLDER, "himl.toml", "himl.private.toml", "pyproject.toml")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# What ids of runs do not have in them.
NO_RUN = re.compile(r"[./\\]")
SHAPES = "A file, an https address, RUN, RUN:FILE, RUN:FOLDER/ and experiment:RUN are understood."
CHILDREN = "Name one of its runs: 'himl runs show {}' lists them."
# The shortest is a minute and a half: nobody could use a link that is over sooner.
SHORTEST_DAYS, LONGEST_DAYS = 0.001, 365.0


def kind_of(text: str, cwd: Path) -> Literal["path", "address", "run"]:
    """What sort of SOURCE *text* is; a path that exists wins. Looks at the disk only. Raises NotFound for a path where
    nothing is, BadUsage for no text."""
    if not text.strip():
        raise BadUsage("The checkpoint's source is empty.", hint=f"Is a shell variable unset? {SHAPES}")
    with suppress(OSError, ValueError, NotFound):  # what no path can be
        if (cwd / expand_home(text)).exists():
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


def find_checkpoint(
    text: str,
    workspace: Workspace,
    cwd: Path,
    choice: Choice = Choice(),  # noqa: B008
    *,
    notify: Notify = ignore,
) -> Checkpoint:
    """What *text* means; of a run without a path, the one that *choice* says. Why is told to *notify*.

    For a path or an address nothing is asked of *workspace*. Raises NotFound naming what there is, RunNotFound,
    BadUsage naming what several fit.
    """
    kind = kind_of(text, cwd)
    if kind == "path":
        return find_local(text, cwd)
    if kind == "address":
        return Checkpoint([], address=text.strip())
    run, path, why = find_source_run(text, workspace, cwd, choice)
    found = checkpoint_of(run, path, why, workspace, choice, workspace.run_files(run.id))
    if found.why:
        notify(Notice(found.why))
    return found


def find_local(text: str, cwd: Path) -> Checkpoint:
    """The file or folder at the path *text*, which exists. Raises NotFound for an empty folder, BadUsage as
    `files_in` does, DiskFailed."""
    here = cwd / expand_home(text)
    if not here.is_dir():
        if text.endswith("/") or not here.is_file():
            what = "a file, and no folder" if here.is_file() else "neither a file nor a folder"
            raise NotFound(f"'{text}' is {what}.")
        return Checkpoint([str(here)])
    try:
        files = [found.path.replace("\\", "/") for found in files_in(here, text)]
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or here}'") from err
    if not files:
        raise NotFound(f"The folder '{text}' is empty, and no checkpoint.")
    return Checkpoint(files, folder=f"{here}/".replace("\\", "/"), is_one=here.name.lower().endswith(".ckpt"))


def files_in(folder: Path, asked: str | Path) -> Iterator[FoundFile]:
    """The files that a folder of checkpoints stands for: without hidden ones, himl's own and those that hold secrets.

    Raises BadUsage, naming the folder as it was *asked* for, for one of a project and for a link that leads out of it;
    OSError.
    """
    from himl_cli.services.submission.snapshot import may_hold_secrets

    if any((folder / mark).exists() for mark in PROJECT_MARKS):
        raise BadUsage(
            f"'{asked}' is the folder of a project, and no checkpoint.",
            hint="Name files, or a folder that has only checkpoints.",
        )
    top = os.path.realpath(folder)
    for found in walk_files(str(folder), skip_workspaces=True):
        *folders, base = found.name.split("/")
        is_hidden = base.startswith(".") and base != ".metadata"  # which torch.distributed.checkpoint writes
        if is_hidden or any(one.startswith(".") for one in folders) or may_hold_secrets(found.path, found.stat.st_size):
            continue
        if not Path(os.path.realpath(found.path)).is_relative_to(top):
            raise BadUsage(
                f"'{found.path}' is reached by a link that leads out of '{asked}'.",
                hint="Name that file by itself, or copy it to the folder.",
            )
        yield found


def check_whole(path: Path, *, in_folder: bool = False) -> None:
    """Raises BadUsage for a file that no job could start from, OSError for one that cannot be read. A folder may have
    empty marks in it."""
    with path.open("rb") as stream:
        is_empty = not stream.read(1)
    if is_empty and not (in_folder and is_mark(path)):
        raise BadUsage(f"'{path}' is empty, and no checkpoint.")
    if not is_empty and not is_whole(path):
        raise BadUsage(f"'{path}' was not written to its end, and is no checkpoint.")


def find_source_run(text: str, workspace: Workspace, cwd: Path, choice: Choice) -> tuple[Run, str | None, str]:
    """The run that *text* names and the path in it where one is named; of a sweep its best trial where the best is
    asked for, and a sentence that says so. `experiment:RUN` comes before `RUN:PATH`.

    Raises RunNotFound and NotFound.
    """
    run, path = _run_and_path(text.strip(), workspace, cwd)
    if path is None:
        run, why = run_or_best_trial(run, workspace, choice)
        return run, None, why
    if choice != Choice():
        raise BadUsage(
            f"'{text}' names a file or folder of the run, and --select chooses one.",
            hint=f"Leave out --select, or give {run.id} alone.",
        )
    return run, path, ""


def _run_and_path(text: str, workspace: Workspace, cwd: Path) -> tuple[Run, str | None]:
    first, _, rest = (text, "", "") if is_address(text) else text.partition(":")
    second, colon, path = rest.partition(":")
    if not colon and rest and not NO_RUN.search(rest):
        with suppress(RunNotFound):
            run = workspace.run(rest)
            if underscored(run.experiment) == underscored(first):
                return run, None
    name = f"{first}:{second}" if colon else first
    (run,) = find_runs(workspace, RunSelection(runs=(name,)), cwd=cwd)
    return run, (path if colon else rest) or None


def run_or_best_trial(run: Run, workspace: Workspace, choice: Choice) -> tuple[Run, str]:
    """*run*, or the best trial of a sweep where the best is asked for, and a sentence that says so. Raises NotFound
    where it has none (yet)."""
    if choice.kind != "best" or MANY not in run.tags or run.tags[MANY] == "pipeline":
        return run, ""
    if run.tags[MANY] in REPEATED:
        raise NotFound(
            f"Run '{run.id}' repeats one training, and none of its runs is the best.", hint=CHILDREN.format(run.id)
        )
    best = run.tags.get(BEST_TRIAL)
    if not best:
        view = sweep_view(workspace, run, children_of(workspace, run))
        best = view.best if view is not None else None
    if not best:
        raise NotFound(
            f"Sweep '{run.id}' has no best trial{'' if run.status.is_final else ' yet'}.", hint=CHILDREN.format(run.id)
        )
    trial = workspace.run(best)
    return trial, f"Run '{run.id}' is a sweep; its best trial is '{trial.id}'."


def checkpoint_of(
    run: Run, path: str | None, why: str, workspace: Workspace, choice: Choice, files: BlobStore
) -> Checkpoint:
    """Which of the *files* of the *run* are meant, for one listing of them; *why* says that it is a sweep's best trial.
    Raises NotFound naming what there is, BadUsage naming what several fit."""
    if path is not None:
        return _at(run, path, files)
    pages = files.list("outputs/")
    blobs = [*next(pages, ())]
    if next(pages, None) is not None:  # a run may have a million files outside the folders of checkpoints
        blobs = [blob for prefix in (f"{FOLDER}/", "outputs/retry_") for page in files.list(prefix) for blob in page]
    candidates = Candidates(run, files, candidates_of(blobs), lambda: workspace.metrics(run.id))
    try:
        found = choose(candidates, choice, of_best_trial=bool(why))
    except NotFound as err:  # of a run of many: the hint names the run that has one
        if MANY not in run.tags:
            raise
        best = run.tags.get(BEST_TRIAL)
        hint = f"Name its best trial, himl checkpoint fetch {best}, or add --select best."
        hint = hint if best else CHILDREN.format(run.id)
        raise NotFound(f"Run '{run.id}' has no such checkpoint of its own; those below it may.", hint=hint) from err
    return replace(found, why=f"{why} {found.why}".strip())


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
            is_one = name.lower().endswith(".ckpt")
            return Checkpoint([blob.name for blob in inside], run, f"{name}/", blobs=inside, is_one=is_one)
    raise Candidates(run, files, (), list).nothing(f"no '{path}'")


def check_link(source: str, days: float, cwd: Path) -> None:
    """Raises BadUsage for a SOURCE that is a path here or an address and for what is no time that a link may live,
    NotFound for a path where nothing is. Opens no workspace."""
    if not SHORTEST_DAYS <= days <= LONGEST_DAYS:
        raise BadUsage(
            f"--expiry_days takes a number from {SHORTEST_DAYS:g} to {LONGEST_DAYS:g}, got {days:g}.",
            hint="Parts of a day go, too: 0.5",
        )
    kind = kind_of(source, cwd)
    if kind == "address":
        raise BadUsage(
            "This is the address of a file already.", hint="Links are made to files of runs: RUN or RUN:PATH"
        )
    if kind == "path":
        raise BadUsage(
            f"'{source}' is on this machine; links are made to files of runs.",
            hint="Name RUN or RUN:PATH, or push it to a run first.",
        )


def link_checkpoint(
    source: str, workspace: Workspace, cwd: Path, *, choice: Choice | None = None, days: float = 10.0
) -> LinkedCheckpoint:
    """A read-only link to the one file that *source* means, for so many days or, where storage allows no more, fewer.

    Raises NotFound and its kin, NotAllowed where no link can be signed, BadUsage for anything but one file of a run in
    a workspace that has links.
    """
    check_link(source, days, cwd)
    found = find_checkpoint(source, workspace, cwd, choice or Choice())
    assert found.run is not None
    run = found.run
    if found.folder:
        count = f"{len(found.names):,} file{'s' * (len(found.names) != 1)}"
        raise BadUsage(
            f"'{source}' is a folder with {count}, and a link is to one file.",
            hint=f"There are: {listed(list(found.names))}. Name one: {run.id}:PATH",
        )
    (name,) = found.names
    home = workspace.home_of(run.id)
    if not isinstance(home, CloudWorkspace):
        hint = (
            "Copy the file, or put it on Azure ML and link it there: himl checkpoint push FILE --from "
            f"{run.id} --workspace config.json"
        )
        if RECORDED_IN in run.tags:
            hint = f"It is recorded in {run.tags[RECORDED_IN]} too: name that by --workspace config.json."
        raise BadUsage(f"Run '{run.id}' is in {home.label}: there are no links to files of this machine.", hint=hint)
    return LinkedCheckpoint(run, name, home.link(run.id, name, days=days))
