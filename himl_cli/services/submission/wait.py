"""Waiting for a run that was just submitted: its output as it grows, and, for one that runs here, Ctrl-C's rule."""

from __future__ import annotations

import math
import os
import re
import shlex
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted, JobFailed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify, ignore
from himl_cli.core.files import home_folder
from himl_cli.core.jobs import EntryKind, JobSpec
from himl_cli.core.runs import FAILED_RANK, Run, RunQuery, RunStatus, SweepView
from himl_cli.core.sweeps import MANY
from himl_cli.services.runs.logs import GROWTH, USER_LOGS, follow_log, last_lines
from himl_cli.workspaces.base import FolderWorkspace, Workspace
from himl_cli.workspaces.retry import OutageTolerance

SECONDS_BETWEEN_LOOKS = 0.05
SELDOM = 3
"""A run of which nothing but the end is wanted is looked at so many times less often."""
NAMED_LOG = re.compile(
    r"\s*Please check log file '(?P<name>[^']+)'.*", re.DOTALL
)  # how Azure ML goes on, with the log's end after it
LACKS_MODULE = re.compile(rb"^ModuleNotFoundError: ", re.MULTILINE)
FIRST_LOG = re.compile(r".*/(std_log|std_log_process_0+)\.txt")
TRIALS_A_SECOND = 50
ENDS = {RunStatus.failed: "failed", RunStatus.canceled: "canceled"}
_MODULE = re.compile(
    rb"(?:^ModuleNotFoundError: No module named '|: No module named |\(ModuleNotFoundError: No module named ')([\w.]+)",
    re.MULTILINE,
)
_FILE = re.compile(rb"No such file or directory: '([^'\n]+)'")
_IN_CODE = re.compile(r".*/runs/[^/]+/code/")


def wait_for_run(
    workspace: Workspace,
    run_id: str,
    write: Callable[[bytes], None],
    notify: Notify,
    interrupted: Sequence[int],
    *,
    start: int = 0,
) -> Run:
    """Hand the run's output to *write*, from the byte *start* of its log on, until the run has ended; return it as it
    ended.

    Once *interrupted* holds a signal, the run is canceled, and Interrupted is raised when it has ended. The list is
    that of `core.interruptions`, which is to hold from before the job starts: no signal may be lost in between.
    """
    try:
        with (
            _canceling(workspace, run_id, notify, interrupted),
            suppress(NotFound),
        ):  # a job may end before its log was opened
            for piece in follow_log(workspace, run_id, start=start):
                write(piece)
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Stopped waiting; run '{run_id}' is still being stopped.", hint=f"See how it ends: himl runs show {run_id}"
        ) from err
    run = workspace.run(run_id)
    if interrupted and run.status is RunStatus.canceled:
        raise Interrupted(f"Run '{run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {run_id}")
    return run


def raise_unless_completed(
    run: Run, failed_child: str = "", sweep: SweepView | None = None, *, failure_hint: str = ""
) -> None:
    """Raises JobFailed, naming the run and why it did not complete; of many runs, *failed_child* is one whose log says
    it.

    The same where trials of *sweep* failed: Azure ML may call such a sweep completed. *failure_hint* is what helps,
    where that is known.
    """
    if run.status is RunStatus.canceled:
        because = f": {run.reason.rstrip('.')}" if run.reason else ""
        raise JobFailed(f"Run '{run.id}' was canceled{because}.", hint=f"See himl runs show {run.id}")
    if run.status is not RunStatus.completed:
        if failed_child:
            look = f"What went wrong: himl runs logs {failed_child}"
        else:
            look = f"Its output: himl runs logs {run.id}" if run.started else f"See himl runs show {run.id}"
        name = None if failed_child else _log_of_failed_rank(run)
        reason = NAMED_LOG.sub("", run.reason) or "no reason is known"
        hint = look + (f" --file {name}" if name else "") + (f"; {failure_hint}" if failure_hint else "")
        resume = f"; to do what is missing: himl submit --resume {run.id}"
        if MANY in run.tags and run.folder and resume not in run.reason:
            hint += resume
        raise JobFailed(f"Run '{run.id}' failed: {reason.rstrip('.')}.", hint=hint)
    trials = sweep.trials if sweep is not None else ()
    failed = [trial.run.id for trial in trials if trial.run.status is RunStatus.failed]
    if failed:
        raise JobFailed(
            f"Run '{run.id}': {len(failed)} of {len(trials)} trials failed.",
            hint=f"What went wrong: himl runs logs {failed[0]}",
        )


def wait_for_end(workspace: Workspace, run_id: str, notify: Notify, trials: int = 0) -> Run:
    """The run as it ended; *notify* hears of its states, and how many of the *trials* of a sweep have ended.

    An outage of the service is tolerated for ten minutes.
    """
    pause, at_most = workspace.home_of(run_id).poll_interval
    outage, status = OutageTolerance(notify), None
    progress = SweepProgress(workspace, run_id, trials, notify)
    while True:
        try:
            run = workspace.run(run_id)
            progress.look()
        except ServiceFailed as err:
            outage.failed(err)
        else:
            outage.succeeded()
            if run.status.is_final:
                return run
            if run.status is not status:
                notify(Notice(f"Run '{run_id}' is {run.status.value.lower()}."))
            status = run.status
        time.sleep(pause)
        pause = min(at_most * SELDOM, pause * GROWTH)


class SweepProgress:
    """Tells *notify* how many of *trials* have ended, whenever that has changed; without trials, nothing is asked or
    told."""

    def __init__(
        self,
        workspace: Workspace,
        run_id: str,
        trials: int,
        notify: Notify,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._workspace = workspace
        self._run_id = run_id
        self._trials = trials
        self._notify = notify
        self._shown = ""
        self._clock = clock
        self._next_look = -math.inf

    def look(self) -> None:
        """Ask for the trials there are, unless that was a short time ago: the more there are, the more it costs. Raises
        what the workspace raises."""
        now = self._clock()
        if not self._trials or now < self._next_look:
            return
        self._next_look = now + self._trials / TRIALS_A_SECOND
        states = Counter(run.status for run in self._workspace.runs(RunQuery(parent=self._run_id)))
        ended = sum(count for status, count in states.items() if status.is_final)
        parts = [
            f"{ended} of {self._trials} trial{'s' * (self._trials != 1)} ended",
            *(f"{states[status]} {word}" for status, word in ENDS.items() if states[status]),
        ]
        text = ", ".join(parts)
        if ended and text != self._shown:
            self._notify(Notice(f"{text}."))
            self._shown = text


def follow_to_end(workspace: Workspace, run_id: str, write: Callable[[bytes], None], notify: Notify) -> Run:
    """Hand the run's log to *write* as it comes, and give the run as it ended."""
    with suppress(NotFound):  # it may end without a log
        for piece in follow_log(workspace, run_id, notify=notify):
            write(piece)
    return wait_for_end(workspace, run_id, ignore)


def last_lines_of_failed_rank(workspace: Workspace, run: Run) -> tuple[str, bytes] | None:
    """The log's name and its last lines when a rank failed whose output was not shown, since the first rank's is; else
    None."""
    name = _log_of_failed_rank(run)
    return last_lines(workspace, run.id, name) if name else None


def last_lines_of_failure(workspace: Workspace, run: Run) -> tuple[str, bytes] | None:
    """The name and the last lines of the log that says why the run failed; None where it did not, or left no log."""
    return last_lines(workspace, run.id, _log_of_failed_rank(run)) if run.status is RunStatus.failed else None


def failure_hint(
    workspace: Workspace, run: Run, failed_child: str = "", *, spec: JobSpec | None = None, cwd: Path | None = None
) -> str:
    """What to do about a module or a file that *run* (or the child of it that failed) had not, as its log says; empty
    where something else ended it.

    *spec* is the job as it was sent from *cwd*, where that is known.
    """
    if run.status is not RunStatus.failed:
        return ""
    home = workspace.home_of(run.id)
    with suppress(HimlError):  # the run's own failure is what is to be told
        failed = workspace.run(failed_child) if failed_child else run
        found = last_lines_of_failure(workspace, failed)
        if found and spec is not None and (hint := hint_for_missing(spec, found[1], cwd or Path.cwd())):
            return hint
        python = (
            home.python_of(failed.id)
            if found and LACKS_MODULE.search(found[1]) and isinstance(home, FolderWorkspace)
            else ""
        )
        return f"it ran with '{python}', --python names another" if python else ""
    return ""


def unkept_files(workspace: Workspace, run: Run) -> Sequence[Path]:
    """What *run* wrote on this machine, outside of what is kept of it."""
    home = workspace.home_of(run.id)
    with suppress(HimlError):  # how the run ended is what is to be told
        return home.unkept_files(run.id) if isinstance(home, FolderWorkspace) else ()
    return ()


def _log_of_failed_rank(run: Run) -> str | None:
    """The log of the rank that failed, where that is not the first one: without a folder, so that it is found in the
    last try."""
    found = FAILED_RANK.match(run.reason)
    if found:
        return f"std_log_process_{found[1]}.txt" if found[1] != "0" else None
    named = NAMED_LOG.search(run.reason)
    return named["name"].removeprefix(USER_LOGS) if named and not FIRST_LOG.fullmatch(named["name"]) else None


@contextmanager
def _canceling(workspace: Workspace, run_id: str, notify: Notify, interrupted: Sequence[int]) -> Iterator[None]:
    """Cancels the run once *interrupted* holds a signal; in a thread, since the main one may be held up by whoever
    reads the output."""
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(SECONDS_BETWEEN_LOOKS):
            if interrupted:
                notify(Notice(f"Canceling run '{run_id}': it has 10 seconds to end by itself."))
                try:
                    workspace.cancel(run_id)
                except HimlError as err:
                    notify(Notice(f"{err} {err.hint}".strip()))
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def hint_for_missing(spec: JobSpec, log: bytes, cwd: Path) -> str:
    """How the next submit of the job, from *cwd*, gets the module or the file that the end of its *log* says was not
    there; empty where nobody knows."""
    if spec.in_place:
        return ""
    if modules := _MODULE.findall(log):
        return _module(spec, modules[-1].decode(), cwd)
    files = _FILE.findall(log)
    return _file(spec, files[-1].decode("utf-8", "replace").replace("\\\\", "/"), cwd) if files else ""


def _module(spec: JobSpec, name: str, cwd: Path) -> str:
    root, is_module = spec.snapshot.root, spec.entry.kind is EntryKind.module
    folders = (root, *root.parents)
    folder = next(
        (each for each in folders if (each / f"{name}.py").is_file() or any((each / name).glob("*.py"))), None
    )
    is_found = folder is not None and folder not in (home_folder(), Path(root.anchor))
    if is_found and folder != root:
        path = "" if is_module else " --env_var PYTHONPATH=."
        return f"'{name}' lies in '{folder}', which is not sent: add --snapshot_root {_shown(str(folder), cwd)}{path}"
    if is_found and "/" in spec.entry.target:
        return f"'{name}' lies in '{root}', where Python does not look for it: add --env_var PYTHONPATH=."
    if is_module and spec.entry.target.split(".")[0] == name.split(".")[0]:
        return (
            f"-m takes a module that Python finds in '{root}' or is installed; a script is named by its path: himl "
            "submit PATH.py"
        )
    return ""


def _file(spec: JobSpec, path: str, cwd: Path) -> str:
    name = os.path.normpath(_IN_CODE.sub("", path)).replace("\\", "/")
    here = spec.snapshot.root / name
    if (
        os.path.isabs(name)
        or name.startswith("..")
        or not here.exists()
        or any(f"{each}/".startswith(f"{name}/") for each in spec.snapshot.files)
    ):
        return ""
    place = f"'{name}' lies in '{spec.snapshot.root}', and is not sent"
    if not spec.cluster and spec.sweep is None:
        return f"{place}: --in_place runs the job where it lies"
    top = name.split("/", 1)[0]
    shown = _shown(str(spec.snapshot.root / top), cwd)
    as_data = f"--input {shlex.quote(top)}" if spec.cluster else f"--input {shlex.quote(top)},local={shown}"
    first = f"himl datastore upload {shown} {shlex.quote(top)}, then " if spec.cluster else ""
    return (
        f"{place}: make it data of the job, {first}{as_data}, and read it in the folder that "
        f"AZURE_ML_INPUT_INPUT_{len(spec.inputs)} names"
    )


def _shown(path: str, cwd: Path) -> str:
    relative = os.path.relpath(path, cwd) if os.path.splitdrive(path)[0] == os.path.splitdrive(cwd)[0] else path
    return shlex.quote(min(relative, path, key=len))
