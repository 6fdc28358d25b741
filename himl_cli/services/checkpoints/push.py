"""Which name each of some files here gets among a run's checkpoints, when they are pushed."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.core.blobs import BlobInfo
from himl_cli.core.checkpoints import FROM_RUN, PUSHED, PushedCheckpoints
from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotFound
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.processes import take_time_to_end
from himl_cli.core.redaction import redact
from himl_cli.core.results import NewRun, RunEnd
from himl_cli.core.runs import Run, RunSelection, RunStatus, new_run_id
from himl_cli.core.text import non_blank
from himl_cli.services.checkpoints.names import FOLDER, best_first
from himl_cli.services.checkpoints.source import check_whole, files_in, path_of
from himl_cli.services.naming import experiment_remarks, friendly_experiment
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.transfer.local_files import disk_error, md5_of
from himl_cli.services.transfer.upload import upload_named
from himl_cli.workspaces.base import BlobStore, RunRecorder, Workspace

OUTPUTS = "outputs/"


def places_of(
    files: Sequence[Path], sources: Collection[str], has: Callable[[str], bool], cwd: Path
) -> Mapping[str, Path]:
    """The paths that *files* mean by their names in the new run. A folder stands for the files in it (`here.files_in`),
    a pattern for what matches.

    They go below `outputs/checkpoints`. What lies below a folder that is called as a run of *sources* was laid there by
    `fetch` (or `download`), and keeps its name; *has* says whether the source run has a file. Raises NotFound for what
    is not there, DiskFailed, and BadUsage for a file that is empty or was not written to its end, for the folder of a
    project, and for two files that would get one name.
    """
    found: dict[str, Path] = {}
    for file in files:
        for meant in _matching(path_of(file, cwd), file):
            for place, path in _inside(meant, file):
                name = _name(path, place, sources, has)
                other = found.setdefault(name, path)
                if not os.path.samefile(other, path):
                    raise BadUsage(
                        f"'{other}' and '{path}' would both be '{name}' in the new run.",
                        hint="Rename one of them, or push them to two runs.",
                    )
    return found


def _matching(path: Path, asked: Path) -> list[Path]:
    """The file or folder at *path*, or what matches it as a pattern: not every shell reads those. Raises NotFound."""
    if path.exists():
        return [path]
    matching = sorted(glob.glob(str(path), recursive=True)) if glob.has_magic(str(asked)) else []
    if not matching:
        raise NotFound(f"There is no file '{asked}'.")
    return [Path(one) for one in matching]


def _inside(path: Path, asked: Path) -> Iterator[tuple[str, Path]]:
    """The files that *path* means, each with its name from there. Raises NotFound, BadUsage, DiskFailed."""
    try:
        if path.is_file():
            check_whole(path)
            yield path.name, path
            return
        is_empty = True
        for found in files_in(path, asked) if path.is_dir() else ():
            is_empty = False
            check_whole(Path(found.path), in_folder=True)
            yield found.name, Path(found.path)
    except OSError as err:
        raise disk_error(err, f"Cannot read '{err.filename or path}'") from err
    if is_empty:
        raise NotFound(f"There are no files in '{asked}'.")


def _name(path: Path, place: str, sources: Collection[str], has: Callable[[str], bool]) -> str:
    parts = Path(os.path.abspath(path)).parts
    runs = [number for number, part in enumerate(parts[:-1]) if part in sources]
    if runs:
        place = "/".join(parts[runs[-1] + 1 :])
    if place.startswith(OUTPUTS):
        return place
    below = f"{FOLDER}/{place}"
    return place if "/" in place and not has(below) and has(place) else below


log = logging.getLogger(__name__)

COMMAND = "himl checkpoint push"
INTERRUPTED = f"{COMMAND} was interrupted before all files were stored"
AGAIN = "Push again: that makes another run."


@dataclass(frozen=True)
class PushRequest:
    """`files` (or folders) are changed checkpoints of the run that `source` names; None and '' stand for this run's
    experiment and a name with its id."""

    files: Sequence[Path]
    source: str
    experiment: str | None = None
    display_name: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


def push_checkpoints(
    request: PushRequest,
    workspace: Workspace,
    cwd: Path,
    notify: Notify = ignore,
    *,
    elsewhere: Callable[[], Workspace] | None = None,
) -> PushedCheckpoints:
    """Make a run of the request's files, in *workspace*; of several joined ones, in the one that keeps the source.

    The source is looked for in *workspace*, then in what *elsewhere* opens. The new run ends as Completed once all
    files are stored, their MD5s on record; else as Failed or Canceled, with the reason. Nothing is made where something
    is wrong with the request: raises NotFound, RunNotFound, BadUsage.
    """
    if not request.files:
        raise BadUsage("Nothing is named to push.", hint="Name files or folders.")
    source, keeper = _source(request.source, workspace, elsewhere, cwd)
    target = workspace.home_of(source.id) if keeper is workspace else workspace
    if not isinstance(target, RunRecorder):
        raise HimlError(f"No run can be made in {target.label}.")
    originals = _Originals(keeper.run_files(source.id))
    # Its files may lie as they were fetched from there
    before = {source.tags[FROM_RUN]} if PUSHED in source.tags and FROM_RUN in source.tags else set()
    files = places_of(request.files, {source.id, *before}, originals.has, cwd)
    unchanged = [name for name, path in files.items() if originals.equal(name, path)]
    for remark in experiment_remarks(request.experiment or source.experiment, _experiment(request, source)):
        notify(Notice(remark))
    run = _filled(target, _started(target, _new_run(request, source)), files, notify)
    return PushedCheckpoints(run, source, [*files], unchanged, _start(run, [*files]))


def _source(
    text: str, workspace: Workspace, elsewhere: Callable[[], Workspace] | None, cwd: Path
) -> tuple[Run, Workspace]:
    """The run, and the workspace that it was found in."""
    non_blank("--from", text)

    def found(place: Workspace) -> tuple[Run, Workspace]:
        (run,) = find_runs(place, RunSelection(runs=(text,)), cwd=cwd)
        return run, place

    try:
        return found(workspace)
    except NotFound:
        if elsewhere is None:
            raise
        return found(elsewhere())


class _Originals:
    """What the source run keeps."""

    def __init__(self, files: BlobStore) -> None:
        self._files = files
        self._outputs: dict[str, BlobInfo] = {blob.name: blob for page in files.list(OUTPUTS) for blob in page}

    def has(self, name: str) -> bool:
        return name in self._outputs if name.startswith(OUTPUTS) else self._files.stat(name) is not None

    def equal(self, name: str, path: Path) -> bool:
        """Whether the file at *path* is what the run has under *name*, as far as the MD5 there is known."""
        blob = self._outputs.get(name)
        if blob is None or blob.size != path.stat().st_size:
            return False
        there = blob.md5 or self._files.md5(blob)
        return there is not None and there == md5_of(str(path))


def _experiment(request: PushRequest, source: Run) -> str:
    return source.experiment if request.experiment is None else friendly_experiment(request.experiment)


def _new_run(request: PushRequest, source: Run) -> NewRun:
    experiment = _experiment(request, source)
    run_id = new_run_id(friendly_experiment(experiment))
    tags = {name: redact(value) for name, value in request.tags.items()}
    tags |= {FROM_RUN: source.id, PUSHED: "1", "run_recovery_id": f"{experiment}:{run_id}"}
    name = request.display_name or f"changed checkpoints of {source.id}"
    return NewRun(run_id, experiment, name, f"Changed checkpoints of run {source.recovery_id}", tags, command=COMMAND)


def _started(target: RunRecorder, new: NewRun) -> Run:
    """The run as it began. Whoever interrupts that leaves none that goes on."""
    try:
        return target.start_run(new)
    except KeyboardInterrupt:
        take_time_to_end()
        with suppress(HimlError):
            target.end_run(new.id, RunEnd(RunStatus.canceled, INTERRUPTED))
        raise


def _filled(target: RunRecorder, run: Run, files: Mapping[str, Path], notify: Notify) -> Run:
    """The run once *files* are stored and it has ended. Raises what kept them from it, after the run was ended for
    that."""
    try:
        result = upload_named(target.run_files(run.id), files, notify)
    except HimlError as err:
        _give_up(target, run, err)
        raise
    except KeyboardInterrupt as err:
        take_time_to_end()
        told = _ended(target, run, RunEnd(RunStatus.canceled, INTERRUPTED))
        raise Interrupted(f"Interrupted: run '{run.id}' has not all of the files, and {told}.", hint=AGAIN) from err
    problem = result.problem()
    if problem is None:
        return _completed(target, run)
    problem.hint = result.failed[0].hint if result.failed else ""
    _give_up(target, run, problem)
    raise problem


def _completed(target: RunRecorder, run: Run) -> Run:
    """The run, ended. An error says that its files are all there."""
    end = RunEnd(RunStatus.completed)
    try:
        return target.end_run(run.id, end)
    except HimlError as err:
        err.args = (f"All files are in run '{run.id}', which could not be ended and may go on as Running: {err}",)
        err.hint = f"{err.hint} Jobs can start from it as it is.".strip()
        raise
    except KeyboardInterrupt as err:
        take_time_to_end()
        raise Interrupted(
            f"Interrupted: all files are in run '{run.id}', and it {_ended(target, run, end)}.",
            hint="Jobs can start from it.",
        ) from err


def _start(run: Run, names: Sequence[str]) -> str:
    """What means these files, as `--checkpoint` reads it."""
    if best_first(names):
        return run.id
    if len(names) == 1:
        return f"{run.id}:{names[0].removeprefix(f'{FOLDER}/')}"
    return f"{run.id}:{FOLDER}/" if all(name.startswith(f"{FOLDER}/") for name in names) else f"{run.id}:FILE"


def _give_up(target: RunRecorder, run: Run, problem: HimlError) -> None:
    """End the run as failed for *problem*, and let that say so."""
    told = _ended(target, run, RunEnd(RunStatus.failed, f"Not all files could be stored: {problem}"))
    problem.args = (f"{problem} Run '{run.id}' has not all of the files, and {told}.",)
    problem.hint = f"{problem.hint} {AGAIN}".strip()


def _ended(target: RunRecorder, run: Run, end: RunEnd) -> str:
    """What became of the run."""
    try:
        return f"ended as {target.end_run(run.id, end).status.value}"
    except HimlError as err:
        log.warning("Run '%s' could not be ended: %s", run.id, err)
        return "could not be ended: it may go on as Running"
