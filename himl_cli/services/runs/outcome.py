"""Wait for the end of a run, and determine its outcome: the failed rank or child, the trials, the files that it did not
save, and its notification. Commands and functions for scripts wait with `await_outcome`."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted, JobFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.jobs import JobSpec
from himl_cli.core.logged import RunResults, SweepView
from himl_cli.core.runs import FAILED_RANK, LAST_ATTEMPT, Run, RunStatus
from himl_cli.core.signals import Interruptions
from himl_cli.core.sweeps import MANY, SWEPT
from himl_cli.core.text import named
from himl_cli.core.webhook import DUE, NOT_SENT, NOTIFICATION, SENDING, SENT, Webhook
from himl_cli.services.runs.failure_hints import failing_line, failure_hint
from himl_cli.services.runs.follow import code_that_lacks, follow_to_end, wait_for_end
from himl_cli.services.runs.logs import USER_LOGS, last_lines
from himl_cli.services.runs.lookup import children_of, sweep_view, with_steps
from himl_cli.services.runs.watch import plain_line
from himl_cli.workspaces.base import FolderWorkspace, ManagedWorkspace, Workspace

logger = logging.getLogger(__name__)

# The end of Azure ML's reason for a failure. The end of the log follows it.
NAMED_LOG = re.compile(r"\s*Please check log file '(?P<name>[^']+)'.*", re.DOTALL)
# How long a command waits for the next status of a notification.
NOTIFICATION_SECONDS = {DUE: 20.0, SENDING: 60.0}


# Lists the names and paths of files that are not part of a run's results, for which it looks at every file
UnkeptFiles = Callable[[], Sequence[tuple[str, Path]]]
# Shows a run that has ended, the name and the end of a log that was not printed yet, the trials of a sweep, and the
# files that are not part of its results, if it lists them
ShowOutcome = Callable[[Run, tuple[str, bytes] | None, SweepView | None, UnkeptFiles], None]


def await_outcome(
    workspace: Workspace,
    run: Run,
    notify: Notify,
    show: ShowOutcome,
    *,
    write: Callable[[bytes], None] | None = None,
    watch: Callable[[], Run] | None = None,
    start: int = 0,
    spec: JobSpec | None = None,
    webhook: Webhook | None = None,
    interrupted: Interruptions | None = None,
    cwd: Path | None = None,
) -> Run:
    """Wait for the end of *run*, *show* its outcome, and return the ended run.

    *watch* shows the run until its end, or *write* gets the log from byte *start*. Without both, *notify* gets
    occasional status lines, for a sweep about its trials. A signal in *interrupted* cancels a local run
    (`wait_for_run`). With None, Ctrl-C only stops the waiting. Notifies the *webhook* of the end of an Azure ML run.
    With *spec*, the job that was submitted from *cwd*, the hint for a failure is more exact. Raises JobFailed,
    Interrupted, and what the workspace raises.
    """
    if watch is not None:
        ended = watch()
    elif interrupted is not None and write is not None:
        follow = partial(follow_to_end, workspace, run.id, write, notify, start=start)
        ended = wait_for_run(workspace, run.id, follow, notify, interrupted)
        if not start:
            _tell_lacking_code(workspace, ended, notify)
    elif write is not None:
        ended = follow_to_end(workspace, run.id, write, notify, start=start)
    else:
        trials = spec.sweep.max_trials if spec and spec.sweep else 0
        ended = wait_for_end(workspace, run.id, notify, trials)
    sweep = sweep_outcome(workspace, ended) if MANY in ended.tags or SWEPT in ended.tags else None
    unkept = partial(unkept_files, workspace, ended) if interrupted is not None else tuple
    is_done = ended.status is RunStatus.completed
    show(ended, None if is_done else last_lines_of_failure(workspace, ended, is_shown=write is not None), sweep, unkept)
    if sweep and sweep.complaint:
        notify(Notice(f"{sweep.complaint} To rank by another one: himl runs show {run.id} --primary_metric NAME"))
    elif interrupted is None and sweep and sweep.metric and all(trial.value is None for trial in sweep.trials):
        notify(
            Notice(f"No trial logged the primary metric '{sweep.metric}'. To use another one, set --primary_metric.")
        )
    if webhook is not None and not isinstance(workspace.home_of(run.id), ManagedWorkspace):
        _notify_of_end(workspace, ended, sweep, webhook, notify)
    elif NOTIFICATION in ended.tags:
        _await_notification(workspace, ended, notify, interrupted or ())
    raise_unless_completed(workspace, ended, sweep, spec=spec, cwd=cwd, is_shown=write is not None)
    return ended


def wait_for_run(
    workspace: Workspace, run_id: str, follow: Callable[[], Run], notify: Notify, interrupted: Interruptions
) -> Run:
    """Call *follow*, which shows the run until it has ended. Return the ended run.

    A signal in *interrupted* cancels the run, and Interrupted is raised after its end. The list comes from
    `core.signals.interruptions`, which must begin before the job starts, so that no signal is lost.
    """

    def cancel_once_interrupted() -> None:
        """Run in a thread, because the reader of the output may block the main one."""
        if interrupted.wait():
            notify(Notice(f"Canceling run '{run_id}'. It has 10 seconds to exit."))
            try:
                workspace.cancel(run_id)
            except HimlError as err:
                notify(Notice(f"{err} {err.hint}".strip()))

    watcher = threading.Thread(target=cancel_once_interrupted, daemon=True)
    try:
        watcher.start()
        try:
            run = follow()
        finally:
            interrupted.end_wait()
            watcher.join()
    except KeyboardInterrupt as err:
        raise Interrupted(
            f"Stopped waiting. Run '{run_id}' is still being canceled.", hint=f"Its status: himl runs show {run_id}"
        ) from err
    if interrupted and run.status is RunStatus.canceled:
        raise Interrupted(f"Run '{run_id}' was canceled.", hint=f"List its files: himl download {run_id} --list")
    return run


def _tell_lacking_code(workspace: Workspace, run: Run, notify: Notify) -> None:
    """Tell *notify* which children of *run* had further attempts without changes in the project. A user who resumes a
    run learns it at the start."""
    if MANY in run.tags:
        again = [each.id for each in with_steps(workspace, children_of(workspace, run)) if LAST_ATTEMPT in each.tags]
        if again and (lacking := code_that_lacks(workspace, run.id)):
            notify(Notice(f"Further attempts of {named(again)} ran {lacking}"))


def raise_unless_completed(
    workspace: Workspace,
    run: Run,
    sweep: SweepView | None = None,
    *,
    spec: JobSpec | None = None,
    cwd: Path | None = None,
    is_shown: bool = False,
) -> None:
    """Raise JobFailed with the run, its reason and, if one is known, a remedy, if *run* did not complete.

    Failed trials of *sweep* count as a failure, because Azure ML may report such a sweep as completed. *spec* is the
    job that was submitted from *cwd*, if it is known. *is_shown* says that its log was printed.
    """
    if run.status is RunStatus.canceled:
        because = f": {run.reason.rstrip('.')}" if run.reason else ""
        raise JobFailed(f"Run '{run.id}' was canceled{because}.", hint=f"See himl runs show {run.id}")
    if run.status is not RunStatus.completed:
        child, name = failed_child(workspace, run), _log_of_failed_rank(run)
        remedy, place = _remedy(workspace, run, child, spec, cwd)
        hints = [f"Show the log: himl runs logs {run.id}{f' --file {name}' if name else ''}"]
        if child:
            hints = [f"Show the cause: himl runs logs {child}"]
        elif not run.started:
            hints = [f"See himl runs show {run.id}"]
        elif is_shown and not name:
            hints = []
        hints += filter(None, [remedy])
        resume = f"himl submit --resume {run.id}"
        failed_alike = not remedy and sweep and all(one.run.status is RunStatus.failed for one in sweep.trials)
        if MANY in run.tags and run.folder and resume not in run.reason and not failed_alike:
            hints.append(f"run the missing parts: {resume}")
        reason = NAMED_LOG.sub("", run.reason) or "the reason is unknown"
        raise JobFailed(f"Run '{run.id}' failed: {reason.rstrip('.')}{place}.", hint="; ".join(hints))
    trials = sweep.trials if sweep is not None else ()
    failed = [trial.run.id for trial in trials if trial.run.status is RunStatus.failed]
    if failed:
        raise JobFailed(
            f"Run '{run.id}': {len(failed)} of {len(trials)} trials failed.",
            hint=f"Show the cause: himl runs logs {failed[0]}",
        )


def _remedy(workspace: Workspace, run: Run, child: str, spec: JobSpec | None, cwd: Path | None) -> tuple[str, str]:
    """The remedy that the log of *run*, or of its failed *child*, shows, and the failing line of the user's code in
    brackets. Empty texts if they are unknown."""
    home, folder = workspace.home_of(run.id), cwd or Path.cwd()
    with suppress(HimlError):  # the run's own failure matters more
        python = home.python_of(child or run.id) if isinstance(home, FolderWorkspace) else ""
        _, log = last_lines_of_failure(workspace, workspace.run(child) if child else run) or ("", b"")
        return failure_hint(log, python, spec, folder), _place(home, child or run.id, log, folder)
    return "", ""


def _place(home: Workspace, run_id: str, log: bytes, folder: Path) -> str:
    """The failing line of the user's code in brackets. Empty if *log* has no traceback."""
    line = failing_line(log, folder)
    if line and isinstance(home, FolderWorkspace):
        line = failing_line(log, folder, {name for _, names in home.code_of(run_id) for name in names})
    return f" ({line})" if line else ""


def log_of_failure(workspace: Workspace, run: Run, cwd: Path) -> tuple[str, Sequence[str]]:
    """The name and the last lines of the log of a failed *run*, or of the first of its children that failed, with the
    failing line of the user's code. Empty for other runs, and if the log cannot be read."""
    with suppress(HimlError):
        child = failed_child(workspace, run)
        name, log = last_lines_of_failure(workspace, workspace.run(child) if child else run) or ("", b"")
        lines = [plain_line(line) for line in log.decode("utf-8", "replace").splitlines()]
        place = _place(workspace.home_of(run.id), child or run.id, log, cwd)
        return f"{name}{f' of run {child}' if child else ''}{place}", lines
    return "", ()


def last_lines_of_failure(workspace: Workspace, run: Run, *, is_shown: bool = False) -> tuple[str, bytes] | None:
    """Name and last lines of the log that shows why the run failed. None if the run did not fail, left no log, or
    *is_shown* says that the first rank's log, which was printed, is the one."""
    name = _log_of_failed_rank(run)
    is_wanted = bool(name) if is_shown else run.status is RunStatus.failed
    return last_lines(workspace, run.id, name) if is_wanted else None


def _log_of_failed_rank(run: Run) -> str | None:
    """Log of the failed rank, unless that is the first rank. The name has no folder, so that it matches the last
    attempt."""
    if found := FAILED_RANK.match(run.reason):
        return f"std_log_process_{found[1]}.txt" if found[1] != "0" else None
    named = NAMED_LOG.search(run.reason)
    is_first = named and re.fullmatch(r".*/(std_log|std_log_process_0+)\.txt", named["name"])
    return named["name"].removeprefix(USER_LOGS) if named and not is_first else None


def unkept_files(workspace: Workspace, run: Run) -> Sequence[tuple[str, Path]]:
    """Files that *run* and its children wrote on this machine outside of their saved outputs, with their names."""
    home = workspace.home_of(run.id)
    with suppress(HimlError):  # the run's outcome matters more
        if isinstance(home, FolderWorkspace):
            jobs = [run, *(with_steps(home, children_of(home, run)) if MANY in run.tags else ())]
            return [found for job in jobs for found in home.unkept_files(job.id).items()]
    return ()


def sweep_outcome(workspace: Workspace, run: Run) -> SweepView | None:
    """Trials of a sweep that has ended. None if they cannot be fetched: the run's own outcome is known without them."""
    try:
        return sweep_view(workspace, run, children_of(workspace, run))
    except HimlError as err:
        logger.debug("Cannot list the trials: %s", err)
        return None


def failed_child(workspace: Workspace, run: Run) -> str:
    """Id of the first failed child of a failed sweep or pipeline, whose log shows the cause. Empty for other runs, or
    if the children cannot be listed."""
    if run.status is not RunStatus.failed or MANY not in run.tags:
        return ""
    try:
        children = children_of(workspace, run)
    except HimlError as err:
        logger.debug("Cannot list the children: %s", err)
        return ""
    return next((child.id for child in children if child.status is RunStatus.failed), "")


def _await_notification(workspace: Workspace, run: Run, notify: Notify, interrupted: Sequence[int]) -> None:
    """Wait for the notification of the end of *run*. *notify* gets a notice of its failure."""
    tags, begin = run.tags, time.monotonic()
    while NOTIFICATION in tags and not interrupted:
        state, _, detail = tags[NOTIFICATION].partition(": ")
        if time.monotonic() - begin >= NOTIFICATION_SECONDS.get(state, 0.0):
            if state != SENT:
                detail = detail if state == NOT_SENT else f"{detail} may not have received it"
                notify(Notice(f"The notification failed: {detail}."))
            return
        time.sleep(0.1)
        tags = workspace.run(run.id).tags


def _notify_of_end(workspace: Workspace, run: Run, sweep: SweepView | None, webhook: Webhook, notify: Notify) -> None:
    """Notify *webhook* of the end of an Azure ML run. Records a failure as a tag of the run."""
    from himl_cli.workspaces.webhook import post, run_document

    results, children = RunResults(), list[Run]()
    with suppress(HimlError):  # omits results that the service does not return
        results = workspace.results([run], wanted=lambda name: True, whole=False)[run.id]
        children = list(children_of(workspace, run)) if MANY in run.tags or sweep else []
    if problem := post(webhook, run, run_document(run, "", results, children, sweep)):
        notify(Notice(f"The notification failed: {problem}."))
        with suppress(HimlError):
            workspace.tag(run.id, {NOTIFICATION: f"{NOT_SENT}: {problem}"})
