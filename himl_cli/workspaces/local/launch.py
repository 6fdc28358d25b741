"""Start the process that supervises a run, for the first time or to resume it, and read its progress."""

from __future__ import annotations

import logging
import os
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from himl_cli.core.editables import with_editables
from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, JobFailed, shortage
from himl_cli.core.events import Notice, Notify
from himl_cli.core.files import last_lines
from himl_cli.core.jobs import STEP, EntryKind, JobSpec, NewCode, Resumption, is_job_file
from himl_cli.core.json_text import read_json
from himl_cli.core.locks import ProcessLock, is_held
from himl_cli.core.redaction import MASK, masked_names
from himl_cli.core.runs import NEW_CODE, Run, RunStatus, check_known
from himl_cli.core.signals import interruptions
from himl_cli.core.sweeps import TRIAL
from himl_cli.workspaces.local import SUPERVISOR
from himl_cli.workspaces.local.code_store import CodeStore, is_result
from himl_cli.workspaces.local.engines import here
from himl_cli.workspaces.local.engines.base import LOG
from himl_cli.workspaces.local.launch_request import (
    LaunchRequest,
    Plan,
    check_shell,
    job_from_stored_form,
    linked_inputs,
    plan_from_stored,
    with_secrets,
)
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, STARTING, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, DONE
from himl_cli.workspaces.local.staging import STAGED, check_staged, copied_code, replace_files, stored_jobs

log = logging.getLogger(__name__)

Request = LaunchRequest | Plan

SUBMIT_AGAIN = "Submit it again as a new run."


def launch(request: Request, notify: Notify) -> None:
    """Start the job, sweep or pipeline. Returns once it is recorded and its files are staged. *notify* gets messages of
    its engine.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then), NotFound
    for a command line that needs bash if bash is missing.
    """
    if request.spec.engine is not None:
        from himl_cli.workspaces.local.engines.queue import queue_job, queue_plan

        if isinstance(request, Plan):
            return begin(request, partial(queue_plan, notify=notify))
        return begin(replace(request, again=True), partial(queue_job, notify=notify))
    check_shell(request.spec)
    with _with_stdin(request) as (own, handles):
        begin(own, partial(_start, handles=handles, notify=notify))


def begin(request: Request, start: Callable[[Any, RunFolder], HimlError | None]) -> None:
    """Create the run's folder, and *start* the run in it.

    Returns once the run is recorded and its files are staged. During the start, a file in `starting/` is locked. A file
    without a lock shows `remove_leftovers` that the start was killed.
    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    folder = RunFolder(Path(request.run_folder))
    mark = folder.workspace / STARTING / folder.run_id
    lock, what, where = ProcessLock(mark), "Cannot start the job", mark
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        if lock.take():
            lock.sign()
        where = folder.path
        folder.path.mkdir(parents=True)
        try:
            folder.allow_to_run()
            error = start(request, folder)
        except OSError as err:
            error = explain_disk_error(err, what, folder.path)
        if error is not None:
            folder.remove()
            raise error
    except OSError as err:
        raise explain_disk_error(err, what, where) from err
    finally:
        lock.release()
        with suppress(OSError):
            mark.unlink()


def _renewed(
    specs: Sequence[JobSpec], places: Sequence[Path], code: NewCode, children: Mapping[Path, int]
) -> list[JobSpec]:
    """The jobs *specs* with the snapshots of *code*, whose files replace those in *places*, and in the folders of
    *children*, each with the number of its job. Raises OSError, and BadUsage for a missing script."""
    found, old = [], {place: spec.snapshot for place, spec in zip(places, specs, strict=True)}
    for spec in specs:
        new, target = code.snapshots[spec.snapshot.source], spec.entry.target
        if spec.entry.kind in (EntryKind.script, EntryKind.shell) and target not in new.files:
            raise BadUsage(f"'{target}' is not in the new code of '{new.root}'.", hint="Omit --new_code.")
        tags = {**spec.tags, NEW_CODE: code.note}  # for trials and steps that have not started
        found.append(with_editables(replace(spec, snapshot=new, editables=None, tags=tags), os.environ)[0])
        linked_inputs(found[-1])  # raises for new files behind a link to an input, where they would replace its files
    for place, number in {place: number for number, place in enumerate(places)}.items():
        replace_files(found[number], place, old[place].files)
    for child, number in children.items():
        replace_files(found[number], child, old[places[number]].files)
    for number, spec in enumerate(found):  # files of a checkpoint are no code, and stay
        kept = [name for name in old[places[number]].files if is_result(name)]
        found[number] = replace(spec, snapshot=replace(spec.snapshot, files=[*spec.snapshot.files, *kept]))
    return found


def resume(workspace: Path, run: Run, resumption: Resumption, *, children: Sequence[Run] = (), notify: Notify) -> None:
    """Resume a run that stopped early: a job with another attempt, a sweep or a pipeline with its missing trials or
    steps. New code is also for the next attempts of its *children*. Returns once it is running again. Raises BadUsage
    if it cannot be resumed, DiskFailed, Interrupted."""
    _check_state(run)
    env, given, code = resumption.env, resumption.given, resumption.code
    folder = RunFolder(workspace / "runs" / run.id)
    stored, record = folder.read(PLAN), folder.read(RECORD)
    request: Request
    try:
        jobs = [{**job, "spec": with_secrets(job["spec"], given.get(job["key"]))} for job in stored_jobs(folder)]
        if "many" not in stored and not (jobs and record.get(STAGED)):
            raise BadUsage(
                f"Run '{run.id}' cannot be resumed: the job or its files were not stored.",
                hint=SUBMIT_AGAIN,
            )
        _check_stored(run, [job["spec"] for job in jobs], env)
        if "many" in stored:
            request = plan_from_stored({**stored["many"], "jobs": jobs}, folder.path, env)
        else:
            spec, data = job_from_stored_form(jobs[0]["spec"], env), (record["inputs"], record["outputs"])
            request = LaunchRequest(str(folder.path), replace(spec, tty=False), run.command, *data, again=True)
        specs = [replace(spec, webhook=resumption.webhook) for spec in request.specs]
        if specs[0].sweep is not None:
            changes: dict[str, Any] = {name: limit for name, limit in resumption.limits.items() if limit is not None}
            specs[0] = replace(specs[0], sweep=replace(specs[0].sweep, **changes))
        request = request.with_specs(specs)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
        raise DiskFailed(
            f"The record of the run in '{folder.path}' is invalid ({type(err).__name__}: {err}).",
            hint=SUBMIT_AGAIN,
        ) from err
    from himl_cli.workspaces.local.engines.queue import queue_again

    for spec in specs:
        check_shell(spec)
    places, store = copied_code(folder), CodeStore(workspace)
    for place in places if code is None else ():
        check_staged(place, run.id)
        store.paths(place, None, run.id)
    try:
        lock = ProcessLock(folder.lock)
        if code is not None and lock.take():  # else the start reports that another process has the run
            try:
                with suppress(DiskFailed):  # the new code replaces what is damaged
                    for place in places:
                        store.restore(place, None, run.id)
                if isinstance(request, Plan):
                    others = _unfinished(request, folder, children)
                    request = request.with_specs(_renewed(specs, request.places, code, others)).staged()
                    folder.write(PLAN, {"many": request.stored()})
                else:
                    request = request.with_specs(_renewed(specs, [folder.code], code, {}))
            finally:
                lock.release()
        if specs[0].engine is not None:
            return queue_again(request, folder, notify)
        with _with_stdin(request) as (own, handles):
            error = _start(own, folder, handles, notify)
    except OSError as err:
        raise explain_disk_error(err, "Cannot resume the run", folder.path) from err
    if error is not None:
        raise error


def _unfinished(plan: Plan, folder: RunFolder, children: Sequence[Run]) -> dict[Path, int]:
    """The folders of code of *children* that start again, each with the number of its job in the plan."""
    found = {}
    for child in children:
        own, keys = RunFolder(folder.path.with_name(child.id)), [job.key for job in plan.jobs]
        number = keys.index(child.tags[STEP]) if child.tags.get(STEP) in keys else 0
        is_job = bool(own.read(RECORD).get(STAGED)) and not plan.jobs[number].spec.in_place
        if is_job and child.status is not RunStatus.completed and not own.may_be_supervised():
            found[own.code] = number
    return found


def _check_state(run: Run) -> None:
    if run.parent:
        what = "trial" if TRIAL in run.tags else "step" if STEP in run.tags else ""
        problem = f"is a {what} of run '{run.parent}'" if what else f"was nested in run '{run.parent}' by its script"
        raise BadUsage(f"Run '{run.id}' {problem}.", hint=f"Resume the parent run: himl submit --resume {run.parent}")
    if not run.status.is_final:
        check_known(run, "himl runs cancel")
        raise BadUsage(
            f"Run '{run.id}' is still in progress.",
            hint=f"To see it: himl runs show {run.id}, to stop it: himl runs cancel {run.id}",
        )
    if run.status is RunStatus.completed:
        raise BadUsage(f"Run '{run.id}' is already completed.", hint=f"See himl runs show {run.id}")


def _check_stored(run: Run, forms: list[dict[str, Any]], env: Mapping[str, str]) -> None:
    """Raise BadUsage if the record lacks secrets, which himl never stores. For a masked value, the message names its
    option, else the masked argument."""
    masked: dict[str, None] = {}
    for form in forms:
        if form["has_secrets"]:
            names = masked_names(form["arguments"])
            masked |= dict.fromkeys(names or ["the command line"] * (MASK in form["entry"]["target"]))
    if masked:
        target, arguments = forms[0]["entry"]["target"], forms[0]["arguments"]
        words = ["himl", "submit", "--resume", run.id]
        file = shlex.split(run.tags.get("command_line", ""))[:1]
        if is_job_file(*file):
            words += file
        else:
            words += [*(["--command", target] if MASK in target else []), *(["--", *arguments] if arguments else [])]
        raise BadUsage(
            f"Run '{run.id}' cannot be resumed: himl does not store arguments that look like secrets: "
            f"{', '.join(masked)}.",
            hint=f"Give them again: {shlex.join(word.replace(MASK, 'VALUE') for word in words)}",
        )
    missing = sorted({name for form in forms for name in form["env_names"]} - set(env))
    if missing:
        again = " ".join(f"--env_var {name}=…" for name in missing)
        raise BadUsage(
            f"himl does not store the values of the environment variables of run '{run.id}': {', '.join(missing)}.",
            hint=f"Set them again: {again}",
        )


@contextmanager
def _with_stdin(request: Request) -> Iterator[tuple[Request, tuple[int, ...]]]:
    """The request of a job with the stdin of this process, and the handles that its supervisor inherits.

    The supervisor inherits a pipe, file or socket itself, so that other programs can read what the script leaves
    unread, as in a shell's loop. A job in place or with `tty` gets the name of a terminal, for a debugger. On Windows a
    job gets no stdin.
    """
    handles: tuple[int, ...] = ()
    with suppress(AttributeError, OSError, ValueError):  # closed, or replaced by an object without a file
        if isinstance(request, LaunchRequest) and sys.platform != "win32":
            number, takes_keys = sys.stdin.fileno(), request.spec.in_place or request.spec.tty
            if not stat.S_ISCHR(os.fstat(number).st_mode):
                handles = (os.dup(number),)
                request = replace(request, stdin=str(handles[0]))
            elif takes_keys and os.isatty(number):
                request = replace(request, stdin=os.ttyname(number))
    try:
        yield request, handles
    finally:
        for handle in handles:
            os.close(handle)


def remove_leftovers(workspace: Path, is_recorded: Callable[[str], bool]) -> None:
    """Remove the folders of runs whose start was killed before they were recorded."""
    for mark in (workspace / STARTING).glob("*"):
        lock, folder = ProcessLock(mark), RunFolder(workspace / "runs" / mark.name)
        with suppress(OSError, DiskFailed):  # it may be another user's
            if is_held(mark) or folder.may_be_supervised() or not lock.take():
                continue
            if not is_recorded(mark.name) and not folder.user_logs.exists():
                folder.remove()
            mark.unlink()
        lock.release()


def spawn(request: Request, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the process, which inherits *handles*, with *request* on its stdin. It reports on its stdout. Raises
    OSError."""
    module = "himl_cli.workspaces.local.controller" if isinstance(request, Plan) else SUPERVISOR
    return here.start(Path(request.run_folder), request.to_json(), handles, module, request.spec.setup)


def events_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """The events that the process reports until it ends. Skips other output, for example of a sitecustomize."""
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode(errors="replace").strip()
        if text:
            log.debug("the supervisor reports %s", text)
        with suppress(ValueError):
            event = read_json(text)
            if isinstance(event, dict) and "event" in event:
                yield event


def start_error(events: list[dict[str, Any]], folder: RunFolder) -> HimlError | None:
    """The error of a start that left no run, according to *events*. None if there is a run."""
    last = events[-1] if events else {"event": "nothing"}
    if last["event"] in ("started", "recorded"):
        return None  # after 'recorded' alone the supervisor died, which readers detect by the run's free lock
    if last["event"] == "refused":
        kind = BadUsage if last["why"] in (BUSY, DONE) else DiskFailed
        return kind(last["message"], hint=last["hint"])
    why = last_lines(folder.path / LOG) or ["it has no log"]
    what, hint = shortage(why[0]) or (why[0], "Check the installation of himl: himl --version")
    return JobFailed(f"The job's supervisor did not start: {what}", hint=hint)


def _start(request: Request, folder: RunFolder, handles: Sequence[int], notify: Notify) -> HimlError | None:
    """Start the process, and wait until the run is started, or waits in the queue of this machine. Returns the error if
    neither is true. Raises OSError."""
    events: list[dict[str, Any]] = []

    def cancel() -> None:
        with suppress(DiskFailed):  # in a signal handler; the call below raises the same error
            folder.ask_to_cancel()

    with interruptions(cancel) as interrupted:
        try:
            process = spawn(request, handles)
        except BadUsage as err:  # invalid lines of setup
            return err
        for event in events_of(process):
            events.append(event)
            if event["event"] in ("started", "refused"):
                break
    assert process.stdout is not None
    process.stdout.close()
    process.returncode = 0  # without it, Popen warns that the process is still running
    error = start_error(events, folder)
    if error is None and (reason := events[-1].get("waits")):
        notify(Notice(f"Run '{folder.run_id}' {reason}."))
    if interrupted and error is None:
        folder.ask_to_cancel()
        while folder.is_supervised():
            time.sleep(0.05)
        raise Interrupted(
            f"Run '{folder.run_id}' was canceled.", hint=f"Its files are kept: himl runs show {folder.run_id}"
        )
    return error
