"""Resolve a checkpoint SOURCE: a local file, a file at an address, or files of a run. Create links to it."""

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
from himl_cli.core.redaction import is_address, is_botched_address
from himl_cli.core.runs import (
    BROUGHT,
    FROM_RUN,
    RECORDED_IN,
    Choice,
    LinkedCheckpoint,
    Run,
    RunSelection,
    underscored,
)
from himl_cli.core.sweeps import BEST_TRIAL, GOAL, MANY, PRIMARY_METRIC, REPEATED
from himl_cli.core.text import listed
from himl_cli.services.checkpoints.names import CHECKPOINT_FOLDER, is_mark, is_whole
from himl_cli.services.checkpoints.select import Candidates, Checkpoint, candidates_of, choose, without_brought
from himl_cli.services.runs.lookup import children_of, find_runs, is_run_address, sweep_view
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.workspaces.base import BlobStore, CloudWorkspace, Workspace

# Contents that mark a project folder, which is never a checkpoint.
PROJECT_MARKS = (".git", WORKSPACE_FOLDER, "himl.toml", "himl.private.toml", "pyproject.toml")
DRIVE = re.compile(r"[A-Za-z]:[\\/]")
# Characters that run ids do not contain.
NO_RUN = re.compile(r"[./\\]")
SHAPES = "Give a file, an https address, RUN, RUN:FILE, RUN:FOLDER/ or experiment:RUN."
CHILDREN = "Give one of its runs. To list them: himl runs show {}"
# The shortest is a minute and a half. A shorter link would expire before its use.
SHORTEST_DAYS, LONGEST_DAYS = 0.001, 365.0


def kind_of(text: str, cwd: Path) -> Literal["path", "address", "run"]:
    """Kind of the SOURCE *text*. An existing path has priority. Only the disk is read. Raises NotFound for a missing
    path, BadUsage for an empty text."""
    if not text.strip():
        raise BadUsage("The checkpoint source is empty.", hint=f"Is a shell variable unset? {SHAPES}")
    with suppress(OSError, ValueError, NotFound):  # invalid paths
        if (cwd / expand_home(text)).exists():
            return "path"
    if is_run_address(text):
        return "run"
    if is_address(text):
        return "address"
    if is_botched_address(text):  # the message omits it, because it may contain a secret
        raise BadUsage("The checkpoint source is an invalid address. It does not begin with https://.", hint=SHAPES)
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
    """Resolve *text*. For a run without a path, *choice* selects the checkpoint, and *notify* receives the reason.

    A path or an address does not use *workspace*. Raises NotFound, which lists the available files, RunNotFound,
    and BadUsage, which lists several matches.
    """
    kind = kind_of(text, cwd)
    if kind == "path":
        return find_local(text, cwd)
    if kind == "address":
        return Checkpoint([], address=text.strip())
    run, path, why = find_source_run(text, workspace, cwd, choice)
    found = checkpoint_of(run, path, why, workspace, choice, workspace.run_files(run.id))
    for remark in found.remarks:
        notify(Notice(remark))
    return found


def find_local(text: str, cwd: Path) -> Checkpoint:
    """Find the file or folder at the existing path *text*. Raises NotFound for an empty folder, BadUsage as in
    `files_in`, DiskFailed."""
    here = cwd / expand_home(text)
    if not here.is_dir():
        if text.endswith("/") or not here.is_file():
            what = "a file, not a folder" if here.is_file() else "neither a file nor a folder"
            raise NotFound(f"'{text}' is {what}.")
        return Checkpoint([str(here)])
    try:
        files = [found.path.replace("\\", "/") for found in files_in(here, text)]
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or here}'") from err
    if not files:
        raise NotFound(f"The folder '{text}' is empty, and not a checkpoint.")
    return Checkpoint(files, folder=f"{here}/".replace("\\", "/"), is_one=here.name.lower().endswith(".ckpt"))


def files_in(folder: Path, asked: str | Path, secrets: list[str] | None = None) -> Iterator[FoundFile]:
    """Yield the files of a checkpoint folder, without hidden files, himl's own files and files with secrets. The paths
    of the last are added to *secrets*.

    Raises BadUsage, with the folder as the user *asked* for it, for a project folder or a link that leads out of the
    folder. Raises OSError.
    """
    from himl_cli.services.submission.secret_files import is_private_folder, is_secret_file

    if any((folder / mark).exists() for mark in PROJECT_MARKS):
        raise BadUsage(
            f"'{asked}' is a project folder, not a checkpoint.",
            hint="Give files, or a folder that contains only checkpoints.",
        )
    top = os.path.realpath(folder)
    for found in walk_files(str(folder), skip_workspaces=True):
        *folders, base = found.name.split("/")
        is_hidden = base.startswith(".") and base != ".metadata"  # from torch.distributed.checkpoint
        if is_hidden or any(one.startswith(".") for one in folders):
            continue
        if is_secret_file(found.path, found.stat.st_size, any(map(is_private_folder, folders))):
            if secrets is not None:
                secrets.append(found.path)
            continue
        if not Path(os.path.realpath(found.path)).is_relative_to(top):
            raise BadUsage(
                f"'{found.path}' is behind a link that leads out of '{asked}'.",
                hint="Give the path of that file, or copy it to the folder.",
            )
        yield found


def check_whole(path: Path, *, in_folder: bool = False) -> None:
    """Raise BadUsage for a file that no job could load, OSError for an unreadable one. A folder may contain empty
    marker files."""
    with path.open("rb") as stream:
        is_empty = not stream.read(1)
    if is_empty and not (in_folder and is_mark(path)):
        raise BadUsage(f"'{path}' is empty, and not a valid checkpoint.")
    if not is_empty and not is_whole(path):
        raise BadUsage(f"'{path}' is incomplete, and not a valid checkpoint.")


def find_source_run(text: str, workspace: Workspace, cwd: Path, choice: Choice) -> tuple[Run, str | None, str]:
    """Find the run in *text*, its path, if there is one, and a sentence if it is the best trial of a sweep, for a
    choice of the best. `experiment:RUN` has priority over `RUN:PATH`.

    Raises RunNotFound and NotFound.
    """
    run, path = _run_and_path(text.strip(), workspace, cwd)
    if path is None:
        run, why = run_or_best_trial(run, workspace, choice)
        return run, None, why
    if choice != Choice():
        raise BadUsage(
            f"'{text}' is a file or folder of the run, and cannot be combined with --select.",
            hint=f"Omit --select, or give {run.id} alone.",
        )
    return run, path, ""


def _run_and_path(text: str, workspace: Workspace, cwd: Path) -> tuple[Run, str | None]:
    first, _, rest = (text, "", "") if is_run_address(text) else text.partition(":")
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
    """*run*, or for a choice of the best, the best trial of a sweep and a sentence about that. Raises NotFound without
    one."""
    if choice.kind != "best" or MANY not in run.tags or run.tags[MANY] == "pipeline":
        return run, ""
    if run.tags[MANY] in REPEATED:
        raise NotFound(
            f"Run '{run.id}' repeats one training, so that none of its runs is the best.", hint=CHILDREN.format(run.id)
        )
    best = _best_trial(run, workspace)
    if not best:
        raise NotFound(
            f"Sweep '{run.id}' has no best trial{'' if run.status.is_final else ' yet'}.", hint=CHILDREN.format(run.id)
        )
    trial = workspace.run(best)
    so_far = "" if run.status.is_final else " so far"
    return trial, f"Run '{run.id}' is a sweep. Using its best trial{so_far} '{trial.id}'."


def _best_trial(run: Run, workspace: Workspace) -> str:
    """The best trial of a sweep: the recorded one, unless it is archived or deleted. Empty without one."""
    if best := run.tags.get(BEST_TRIAL, ""):
        with suppress(RunNotFound):
            if not workspace.run(best).is_archived:
                return best
    view = sweep_view(workspace, run, children_of(workspace, run))
    return view.best if view is not None else ""


def checkpoint_of(
    run: Run, path: str | None, why: str, workspace: Workspace, choice: Choice, files: BlobStore
) -> Checkpoint:
    """Select among the *files* of *run*, with one listing. *why* says that it is a sweep's best trial. Raises NotFound,
    which lists the available files, BadUsage, which lists several matches."""
    if path is not None:
        return _at(run, path, files)
    pages = files.list("outputs/")
    blobs = [*next(pages, ())]
    if next(pages, None) is not None:  # a run may have a million files in other folders
        blobs = [
            blob
            for prefix in (f"{CHECKPOINT_FOLDER}/", "outputs/retry_")
            for page in files.list(prefix)
            for blob in page
        ]
    tags = dict(run.tags)
    if run.parent and FROM_RUN not in tags:
        with suppress(RunNotFound):  # trials on Azure ML do not have the tags of their sweep
            above = workspace.run(run.parent).tags
            tags |= {tag: above[tag] for tag in (FROM_RUN, BROUGHT, PRIMARY_METRIC, GOAL) if tag in above}
    run = replace(run, tags=tags)
    candidates = without_brought(Candidates(run, files, candidates_of(blobs), lambda: workspace.metrics(run.id)))
    try:
        found = choose(candidates, choice, of_best_trial=bool(why))
    except NotFound as err:  # for a sweep or pipeline, the hint names a run with checkpoints
        if MANY not in run.tags:
            raise
        best = BEST_TRIAL in run.tags and _best_trial(run, workspace)
        hint = f"Use its best trial, himl checkpoint fetch {best}, or add --select best."
        hint = hint if best else CHILDREN.format(run.id)
        raise NotFound(f"Run '{run.id}' has no such checkpoint, but its child runs may.", hint=hint) from err
    return replace(found, why=" ".join(filter(None, (why, candidates.remark, found.why))))


def _at(run: Run, path: str, files: BlobStore) -> Checkpoint:
    """Find the file or folder *path*. A name without a slash is searched for in the checkpoint folder first. A path
    with one is exact first."""
    plain = "/".join(part for part in path.replace("\\", "/").split("/") if part not in ("", "."))
    if not plain:
        raise BadUsage(f"'{run.id}:{path}' contains no file or folder name.", hint=SHAPES)
    for name in (plain, f"{CHECKPOINT_FOLDER}/{plain}") if "/" in plain else (f"{CHECKPOINT_FOLDER}/{plain}", plain):
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
    """Raise BadUsage for a SOURCE that is a local path or an address, and for an invalid lifetime, NotFound for a
    missing path. Opens no workspace."""
    if not SHORTEST_DAYS <= days <= LONGEST_DAYS:
        raise BadUsage(
            f"--expiry_days must be a number from {SHORTEST_DAYS:g} to {LONGEST_DAYS:g}, not {days:g}.",
            hint="Fractions are allowed, for example 0.5.",
        )
    kind = kind_of(source, cwd)
    if kind == "address":
        raise BadUsage("The source is already an address. Links lead to files of runs.", hint="Give RUN or RUN:PATH.")
    if kind == "path":
        raise BadUsage(
            f"'{source}' is on this machine. Links lead to files of runs.",
            hint="Give RUN or RUN:PATH, or push the file to a run first.",
        )


def link_checkpoint(
    source: str,
    workspace: Workspace,
    cwd: Path,
    *,
    choice: Choice | None = None,
    days: float = 10.0,
    notify: Notify = ignore,
) -> LinkedCheckpoint:
    """Create a read-only link to the file of *source* for *days*, or fewer if the storage limits that. *notify*
    receives the reason of a choice.

    Raises NotFound and similar errors, NotAllowed if no link can be signed, BadUsage for anything but one file of a run
    in a workspace that has links.
    """
    check_link(source, days, cwd)
    found = find_checkpoint(source, workspace, cwd, choice or Choice(), notify=notify)
    assert found.run is not None
    run = found.run
    if found.folder:
        count = f"{len(found.names):,} file{'s' * (len(found.names) != 1)}"
        raise BadUsage(
            f"'{source}' is a folder with {count}, but a link leads to one file.",
            hint=f"Its files: {listed(list(found.names))}. Give one: {run.id}:PATH",
        )
    (name,) = found.names
    home = workspace.home_of(run.id)
    if not isinstance(home, CloudWorkspace):
        hint = (
            "Copy the file, or push it to Azure ML and link it there: himl checkpoint push FILE --from "
            f"{run.id} --workspace config.json"
        )
        if RECORDED_IN in run.tags:
            hint = f"It is also recorded in {run.tags[RECORDED_IN]}. To use that, add --workspace config.json."
        raise BadUsage(f"Run '{run.id}' is in {home.label}, which has no links to files.", hint=hint)
    return LinkedCheckpoint(run, name, home.link(run.id, name, days=days))
