"""Create a run from changed checkpoints: the names of its files, and its end."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import expand_home
from himl_cli.core.jobs import secrets_text
from himl_cli.core.redaction import redact
from himl_cli.core.runs import (
    FROM_RUN,
    PUSHED,
    PushedCheckpoints,
    Run,
    RunEnd,
    RunSelection,
    RunStatus,
    experiment_remarks,
    friendly_experiment,
    new_run_id,
)
from himl_cli.core.signals import take_time_to_end
from himl_cli.core.text import non_blank
from himl_cli.services.checkpoints.names import CHECKPOINT_FOLDER, best_first
from himl_cli.services.checkpoints.source import check_whole, files_in
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.transfer.digests import md5_of
from himl_cli.services.transfer.local_files import disk_error
from himl_cli.services.transfer.upload import upload_named
from himl_cli.workspaces.base import BlobStore, RunRecorder, Workspace

OUTPUTS = "outputs/"
log = logging.getLogger(__name__)

COMMAND = "himl checkpoint push"
AGAIN = "Push again, which creates another run."


def push_checkpoints(
    files: Sequence[Path],
    from_run: str,
    workspace: Workspace,
    cwd: Path,
    notify: Notify = ignore,
    *,
    experiment: str | None = None,
    display_name: str = "",
    tags: Mapping[str, str] | None = None,
    elsewhere: Callable[[], Workspace] | None = None,
) -> PushedCheckpoints:
    """Create a run in *workspace* from *files* (or folders), changed checkpoints of *from_run*. Of several joined
    workspaces, use the one with the source run. By default, the experiment is that run's, and the name contains its id.

    The source is searched for in *workspace*, then in the result of *elsewhere*. The new run ends as Completed when all
    files are stored with their MD5s, otherwise as Failed or Canceled, with the reason. An invalid request creates
    nothing. Raises NotFound, RunNotFound, BadUsage.
    """
    if not files:
        raise BadUsage("No files to push were given.", hint="Give files or folders.")
    non_blank("--from", from_run)
    selection, home = RunSelection(runs=(from_run,), is_exact=True), workspace
    try:
        (source,) = find_runs(workspace, selection, cwd=cwd, notify=notify)
    except NotFound:
        if elsewhere is None:
            raise
        home = elsewhere()
        (source,) = find_runs(home, selection, cwd=cwd, notify=notify)
    target = workspace.home_of(source.id) if home is workspace else workspace
    if not isinstance(target, RunRecorder):
        raise HimlError(f"himl cannot create runs in {target.label}.")
    store = home.run_files(source.id)
    originals = {blob.name: blob for page in store.list(OUTPUTS) for blob in page}
    # The files may be in a folder that `fetch` created for one of these runs.
    sources = {source.id, source.tags[FROM_RUN]} if PUSHED in source.tags and FROM_RUN in source.tags else {source.id}
    secrets: list[str] = []
    found = _find_files(files, sources, store, originals, cwd, secrets)
    if secrets:
        notify(Notice(secrets_text(secrets, "To push one, give its path.")))
    unchanged = []
    for name, path in found.items():
        blob = originals.get(name)
        if blob is not None and blob.size == path.stat().st_size:
            md5 = blob.md5 or store.md5(blob)
            unchanged += [name] if md5 is not None and md5 == md5_of(str(path)) else []
    name = source.experiment if experiment is None else friendly_experiment(experiment)
    for remark in experiment_remarks(experiment or source.experiment, name):
        notify(Notice(remark))
    run_id = new_run_id(friendly_experiment(name))
    new = Run(
        run_id,
        name,
        display_name=display_name or f"changed checkpoints of {source.id}",
        description=f"Changed checkpoints of run {source.recovery_id}",
        tags={
            **{tag: redact(str(value)) for tag, value in (tags or {}).items()},
            FROM_RUN: source.id,
            PUSHED: "1",
            "run_recovery_id": f"{name}:{run_id}",
        },
        command=COMMAND,
    )
    run = _store_files(target, new, found, notify)
    names = [*found]
    start = run.id  # the text that `--checkpoint` reads
    if len(names) == 1 and not best_first(names):
        start += f":{names[0].removeprefix(f'{CHECKPOINT_FOLDER}/')}"
    elif not best_first(names):
        start += (
            f":{CHECKPOINT_FOLDER}/" if all(name.startswith(f"{CHECKPOINT_FOLDER}/") for name in names) else ":FILE"
        )
    return PushedCheckpoints(run, source, names, unchanged, start)


def _find_files(
    files: Sequence[Path],
    sources: Collection[str],
    store: BlobStore,
    originals: Container[str],
    cwd: Path,
    secrets: list[str],
) -> Mapping[str, Path]:
    """Paths of *files* by their names in the new run. Folders and patterns, which some shells do not expand, are
    expanded to their files, except those with secrets, which are added to *secrets*.

    The names begin with `outputs/checkpoints`. Files below a folder with the id of one of *sources*, which `fetch` or
    `download` created, keep their names. Raises NotFound for missing files, DiskFailed, and BadUsage for an empty or
    incomplete file, for a project folder, and for two files with the same name.
    """
    names: dict[str, Path] = {}
    for file in files:
        path = cwd / expand_home(file)
        paths = [path]
        if not path.exists():
            paths = [*map(Path, sorted(glob.glob(str(path), recursive=True)))] if glob.has_magic(str(file)) else []
        if not paths:
            is_address = str(file).startswith(("http:", "https:"))
            hint = "himl pushes files of this machine. Fetch the file first: himl checkpoint fetch URL"
            raise NotFound(f"There is no file '{file}'.", hint=hint if is_address else "Check the path.")
        for top in paths:
            is_empty = True
            try:
                inside = (
                    ((found.name, Path(found.path)) for found in files_in(top, file, secrets)) if top.is_dir() else ()
                )
                for place, one in [(top.name, top)] if top.is_file() else inside:
                    is_empty = False
                    check_whole(one, in_folder=one != top)
                    parts = Path(os.path.abspath(one)).parts
                    runs = [number for number, part in enumerate(parts[:-1]) if part in sources]
                    name = "/".join(parts[runs[-1] + 1 :]) if runs else place
                    if not name.startswith(OUTPUTS):
                        below = f"{CHECKPOINT_FOLDER}/{name}"
                        is_whole_name = "/" in name and below not in originals and store.stat(name) is not None
                        name = name if is_whole_name else below
                    other = names.setdefault(name, one)
                    if not os.path.samefile(other, one):
                        raise BadUsage(
                            f"'{other}' and '{one}' would have the same name in the new run: '{name}'.",
                            hint="Rename one of them, or push them to two runs.",
                        )
            except OSError as err:
                raise disk_error(err, f"Cannot read '{err.filename or top}'") from err
            if is_empty:
                raise NotFound(f"There are no files in '{file}'.")
    return names


def _store_files(target: RunRecorder, new: Run, files: Mapping[str, Path], notify: Notify) -> Run:
    """Store *files*, end the run and return it. Raises what prevented that, after ending the run. An interruption ends
    the run."""
    is_begun = is_stored = False
    try:
        target.start_run(new)
        is_begun = True
        result = upload_named(target.run_files(new.id), files, notify)
        problem = result.problem()
        if problem is not None:
            problem.hint = result.failed[0].hint if result.failed else ""
            raise problem
        is_stored = True
        return target.end_run(new.id, RunEnd(RunStatus.completed))
    except HimlError as err:
        if is_stored:
            err.args = (f"Run '{new.id}' has all files, but could not be ended and may stay Running: {err}",)
            err.hint = f"{err.hint} Jobs can start from it in this status.".strip()
        elif is_begun:
            ending = _end(target, new.id, RunEnd(RunStatus.failed, f"Not all files could be stored: {err}"))
            err.args = (f"{err} Run '{new.id}' is missing files, and {ending}.",)
            err.hint = f"{err.hint} {AGAIN}".strip()
        raise
    except KeyboardInterrupt as err:
        take_time_to_end()
        if is_stored:
            ending = _end(target, new.id, RunEnd(RunStatus.completed))
            raise Interrupted(
                f"Interrupted. Run '{new.id}' has all files, and {ending}.", hint="Jobs can start from it."
            ) from err
        text = f"{COMMAND} was interrupted before all files were stored"
        ending = _end(target, new.id, RunEnd(RunStatus.canceled, text))
        if not is_begun:
            raise
        raise Interrupted(f"Interrupted. Run '{new.id}' is missing files, and {ending}.", hint=AGAIN) from err


def _end(target: RunRecorder, run_id: str, end: RunEnd) -> str:
    try:
        return f"ended as {target.end_run(run_id, end).status.value}"
    except HimlError as err:
        log.warning("Run '%s' could not be ended: %s", run_id, err)
        return "could not be ended and may stay Running"
