"""Submission of a prepared job to a workspace, its record for the next command, and the resumption of a run."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from himl_cli.core.errors import BadUsage, HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import LATEST_RUN_FILE, remove_tree, temporary_folder, write_atomic
from himl_cli.core.jobs import JobSpec, NewCode, Resumption
from himl_cli.core.redaction import is_masked, mask_arguments, redact
from himl_cli.core.runs import (
    CHANGES,
    RECORDED_FROM,
    RECORDED_IN,
    STUDIO,
    Run,
    RunQuery,
    RunSelection,
    attempt_of,
    new_run_id,
)
from himl_cli.core.sweeps import MANY, SWEPT
from himl_cli.core.text import named
from himl_cli.core.webhook import NOTIFICATION
from himl_cli.services.runs.follow import watching
from himl_cli.services.runs.logs import MAIN_LOG
from himl_cli.services.runs.lookup import find_runs
from himl_cli.services.runs.mirror_state import MirrorFile, MirrorState, SentRun
from himl_cli.services.submission.git import DIRTY, git_facts, with_untracked
from himl_cli.services.submission.request import (
    PreparedJob,
    SubmitRequest,
    check_choices,
    command_line,
    job_words,
    shorten_tags,
    webhook_of,
)
from himl_cli.services.submission.snapshot import take_snapshot
from himl_cli.services.submission.sweeps import (
    OF_RECORD,
    SWEEP_KINDS,
    requested_sweep,
    single_sweep_option,
    sweep_text,
    without_seed,
)
from himl_cli.workspaces.base import FolderWorkspace, JobTaker, ManagedWorkspace, RunRecorder, Workspace

# Options that apply to a resumed run
RESUME_OPTIONS = ("max_concurrent", "max_failures", "env_vars", "notify", "notify_format")


def submit_prepared(workspace: JobTaker, job: PreparedJob, *, notify: Notify) -> Run:
    """Start the job, and store the changes of its code with the run. Raises the errors of `JobRunner.submit`. A failure
    to store them is a notice."""
    run = workspace.submit(job.spec, notify=notify)
    if job.temporary is not None:
        with suppress(OSError):
            remove_tree(job.temporary)
    store_changes(workspace, run, job.changes, notify)
    return run


def store_changes(workspace: Workspace, run: Run, changes: bytes, notify: Notify) -> None:
    """Store the *changes* of the code of a job that has started, if there are any. A failure is a notice."""
    if not changes:
        return
    with watching(run.id), temporary_folder() as folder:
        from himl_cli.services.runs.writing import store_files

        file = folder / "changes.diff"
        try:
            file.write_bytes(changes)
            store_files(workspace.run_files(run.id), {CHANGES: file})
        except (HimlError, OSError) as err:
            notify(Notice(f"Cannot store the changes of the code with run '{run.id}': {err}"))


def submit_with_changes(workspace: Workspace, submit: Callable[..., Run], changes: bytes, *, notify: Notify) -> Run:
    """Call *submit*, and store the *changes* of the code with its run."""
    run = submit(notify=notify)
    store_changes(workspace, run, changes, notify)
    return run


def start_and_note(start: Callable[..., Run], cwd: Path, notify: Notify) -> Run:
    """The run that *start*, a workspace's method with its job, starts, stored as the latest run of *cwd*. If *start*
    raises an error, nothing runs. Raises Interrupted, naming the run, after the start."""
    run = start(notify=notify)
    with watching(run.id):
        note_latest(run, cwd, notify)
    return run


def note_latest(run: Run, cwd: Path, notify: Notify) -> None:
    """Store *run* as the latest one of *cwd*. A failure to write is a notice."""
    try:
        write_atomic(cwd / LATEST_RUN_FILE, f"{run.recovery_id}\n")  # survives a crash of the machine
    except OSError as err:
        notify(Notice(f"Cannot write {LATEST_RUN_FILE} in '{cwd}': {err.strerror}."))


def resume_run(
    workspace: Workspace,
    wanted: str,
    request: SubmitRequest,
    notify: Notify,
    given: Mapping[str, tuple[str, Sequence[str]]],
    takes_new_code: bool,
) -> tuple[Run, int]:
    """Resume the run *wanted*, with the present code of its project if it *takes_new_code*. Returns it with the offset
    in its log, in bytes, at which new output begins.

    `env_vars`, `max_concurrent`, `max_failures` and `notify` of *request* apply. Its other options must agree with the
    run's record. Secrets that are masked there come from the command lines and arguments *given* (`ManagedWorkspace`).
    Raises RunNotFound, and BadUsage for a run that cannot be resumed or that was a different job.
    """
    (run,) = find_runs(workspace, RunSelection(runs=(wanted,), is_exact=True), cwd=request.cwd, notify=notify)
    home = workspace.home_of(run.id)
    if not isinstance(home, ManagedWorkspace):
        raise BadUsage(
            f"Run '{run.id}' is in {home.label}, where runs cannot be resumed.",
            hint="Submit it again. Azure ML restarts preempted jobs.",
        )
    _check_agrees(run, request)
    # A sweep or a pipeline appends to its log, but each attempt of a job has a new log
    log = workspace.run_files(run.id).stat(MAIN_LOG) if MANY in run.tags else None
    check_choices(request)
    webhook = webhook_of(request)
    if webhook is None and NOTIFICATION in run.tags:
        notify(Notice("himl sends no notification, because it does not store the address. Pass it again: --notify URL"))
    limits = {name: getattr(request, name) for name in ("max_concurrent", "max_failures")}
    code, changed = None, list[str]()
    if isinstance(home, FolderWorkspace):
        code = _new_code(home, run) if takes_new_code else None
        changed = [] if takes_new_code else [name for _, names in home.code_of(run.id) for name in names]
    elif takes_new_code:
        raise BadUsage("--new_code cannot be used on another machine.", hint=f"Submit the job again: --from {run.id}")
    resumed = home.resume(run.id, Resumption(request.env_vars, given, limits, webhook, code), notify=notify)
    if changed:
        how = f"For the new code: himl submit --resume {run.id} --new_code"
        notify(Notice(f"The code of the submission runs, which lacks changes of {named(changed)}. {how}"))
    note_latest(resumed, Path(request.cwd), notify)
    return resumed, log.size if log else 0


def _new_code(home: FolderWorkspace, run: Run) -> NewCode:
    """New snapshots for the jobs of *run*. Raises BadUsage."""
    snapshots, changed, commits = {}, list[str](), list[str]()
    for old, names in home.code_of(run.id):
        if old.source not in snapshots:
            root = Path(old.source)
            if not root.is_dir():
                raise BadUsage(f"The folder of the code, '{root}', does not exist.", hint="Omit --new_code.")
            report = take_snapshot(root, old.ignored_folders, old.include_secret)
            snapshots[old.source] = report.snapshot
            git = git_facts(root)
            state = {"true": " with changes", "false": ""}.get(with_untracked(git, {}, [report]).get(DIRTY, ""))
            commit = git.get("build_source_id", "")[:10]
            commits += [f"commit {commit}{' perhaps with changes' if state is None else state}"] if commit else []
            changed += [*names, *sorted({*report.snapshot.files} - {*old.files})]
    if not snapshots:
        raise BadUsage(f"Run '{run.id}' has no copy of its code, and runs the present one.", hint="Omit --new_code.")
    begin = f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"
    begin = begin if MANY in run.tags else f"attempt {attempt_of(run) + 1}"
    return NewCode(snapshots, ", ".join([f"from {begin}: {named(changed) or 'unchanged'}", *commits]))


def _check_agrees(run: Run, request: SubmitRequest) -> None:
    leave_out = f": himl submit --resume {run.id}"
    made_by = run.tags.get("command_line", run.command)
    words = [""]
    with suppress(ValueError):  # the command line of another client
        words = shlex.split(made_by)
    target, arguments = job_words(request)
    if request.target or request.module or request.command:
        if not _agree(words, [*target, *arguments]):
            raise BadUsage(
                f"Run '{run.id}' was started as '{made_by}', not as '{command_line(request)}'.",
                hint=f"Omit the script{leave_out}",
            )
    elif arguments and not _agree(words[2 if words[0] in ("-m", "--command") else 1 :], arguments):
        raise BadUsage(
            f"Run '{run.id}' has the arguments of '{made_by}', not '{shlex.join(mask_arguments(arguments))}'.",
            hint=f"Omit them{leave_out}",
        )
    if any(map(request.is_typed, OF_RECORD[: len(SWEEP_KINDS)])):
        of_settings = [name for name in SWEEP_KINDS if not request.is_typed(name)]
        again = requested_sweep(single_sweep_option(request.without("max_concurrent", "max_failures", *of_settings)))
        text, made = sweep_text(again) if again else "a single run", run.tags.get(SWEPT, "")
        if text not in (made, without_seed(made)):
            was = made or ("a pipeline" if run.tags.get(MANY) == "pipeline" else "a single run")
            raise BadUsage(f"Run '{run.id}' is '{was}', not '{text}'.", hint=f"Omit these options{leave_out}")


def _agree(made: Sequence[str], given: Sequence[str]) -> bool:
    """Whether the words *made*, in which secrets are masked, are *given*."""
    return len(made) == len(given) and all(map(is_masked, made, given))


def submit_mirrored(
    source: FolderWorkspace,
    target: RunRecorder,
    spec: JobSpec,
    cwd: Path,
    place: Mapping[str, str],
    start_mirror: Callable[[Path, str], None],
    notify: Notify,
) -> tuple[Run, Run]:
    """Start the run in *target*, the mirror process, and the local job. Returns both runs, which have the same id.

    *place* identifies *target* for the mirror. *start_mirror* starts the process for a run of the workspace in a
    folder. If the run in *target* cannot start, nothing starts. If the job does not start, the mirror marks the run in
    *target* as failed. It starts before the job, so that it can do so even if this process is killed. Raises the errors
    of both workspaces.
    """
    run_id = new_run_id(spec.experiment)
    try:  # a cheap request finds most problems before anything is created
        next(iter(target.runs(RunQuery(spec.experiment, limit=1))), None)
    except (NotAllowed, NotFound, ServiceFailed) as err:
        hint = "Nothing was started. To record the job in the local workspace only, omit --record_in azure."
        err.hint = f"{err.hint} {hint}".strip()
        raise
    source.prepare(notify)
    file, state = MirrorFile(source.folder, run_id), MirrorState(run_id, place, is_starting=True)
    file.begin(state)
    try:
        recovery = {"run_recovery_id": f"{spec.experiment}:{run_id}"}
        machine = {RECORDED_FROM: platform.node() or "another machine"}
        tags = {**shorten_tags(spec.tags), **recovery, **machine}
        new = Run(
            run_id,
            spec.experiment,
            display_name=spec.display_name,
            description=spec.description,
            tags=tags,
            command=spec.entry.target,
        )
        state.runs[run_id] = SentRun(tags={**spec.tags, **recovery})
        mirrored = _start_mirrored(target, new, file, state, start_mirror)
        start_mirror(source.folder, run_id)
        tags = {**spec.tags, RECORDED_IN: target.label, STUDIO: mirrored.url}
        try:
            run = start_and_note(partial(source.submit, replace(spec, run_id=run_id, tags=tags)), cwd, notify)
        except BaseException as err:
            state.failure = redact(f"the job did not start{f': {err}' if isinstance(err, HimlError) else ''}")
            raise
        finally:
            state.is_starting = False
            file.write(state)
        return run, mirrored
    finally:
        file.release()


def _start_mirrored(
    target: RunRecorder, new: Run, file: MirrorFile, state: MirrorState, start_mirror: Callable[[Path, str], None]
) -> Run:
    try:
        return target.start_run(new)
    except BaseException as err:
        if isinstance(err, HimlError) and not (isinstance(err, ServiceFailed) and not err.is_lasting):
            file.remove()
            raise
        # The run may exist even though no answer arrived, so the mirror process ends it
        interrupted = "himl submit was interrupted before the job began"
        state.is_starting, state.failure = False, redact(str(err)) if isinstance(err, HimlError) else interrupted
        file.write(state)
        start_mirror(file.path.parent.parent, new.id)
        if isinstance(err, KeyboardInterrupt):
            message = (
                f"Interrupted before the job began. Run '{new.id}' may exist in {target.label} and ends as Failed."
            )
            raise Interrupted(message) from err
        raise
