"""Starting the process that looks after a run, anew or again: hand it its request, hear how far it came."""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from himl_cli.core.errors import BadUsage, DiskFailed, HimlError, Interrupted, JobFailed
from himl_cli.core.jobs import STEP, TRIAL, JobSpec, Webhook
from himl_cli.core.processes import ProcessLock, detached, interruptions, is_held
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import Run, RunStatus
from himl_cli.workspaces.local.launch_request import (
    LaunchRequest,
    Plan,
    check_shell,
    job_from_stored_form,
    plan_from_stored,
    shown_command,
)
from himl_cli.workspaces.local.run_folder import PLAN, RECORD, STARTING, RunFolder, explain_disk_error
from himl_cli.workspaces.local.run_process import BUSY, DONE
from himl_cli.workspaces.local.staging import STAGED

log = logging.getLogger(__name__)

Request = TypeVar("Request", LaunchRequest, Plan)

SUBMIT_AGAIN = "Submit it again as a new run."


def launch(workspace: Path, spec: JobSpec, inputs: Mapping[str, str], outputs: Mapping[str, str], run_id: str) -> None:
    """Start the job in the workspace folder *workspace*; returns once it is recorded and its files are staged.

    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then), NotFound
    without bash for a line of it.
    """
    folder = str(workspace / "runs" / run_id)
    log.debug("run %s: inputs %s, outputs %s", run_id, inputs, outputs)
    if spec.slurm is not None:
        from himl_cli.workspaces.local.slurm_batch import queue_job

        request = LaunchRequest(folder, spec, shown_command(spec), inputs, outputs, again=True)
        return begin(request, start=queue_job)
    check_shell(spec)
    with _own_stdin(spec) as (stdin, handles):
        request = LaunchRequest(folder, spec, shown_command(spec), inputs, outputs, stdin)
        begin(request, start=partial(_start, handles=handles))


def begin(request: Request, start: Callable[[Request, RunFolder], HimlError | None] | None = None) -> None:
    """Make the run's folder, and *start* the run in it, by default by the process of *request*.

    Returns once the run is recorded and its files are staged. While it is being started, a file in `starting/` is
    locked: by one that is not, `remove_leftovers` knows starts that were killed.
    Raises DiskFailed when the run cannot be recorded, Interrupted after Ctrl-C (the run is canceled then).
    """
    folder = RunFolder(Path(request.run_folder))
    mark = folder.workspace / STARTING / folder.run_id
    lock, what, where = ProcessLock(mark), "Cannot start the job", mark
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        lock.take()
        where = folder.path
        folder.path.mkdir(parents=True)
        try:
            folder.allow_to_run()
            error = (start or _start)(request, folder)
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


def resume(
    workspace: Path, run: Run, *, env: Mapping[str, str], max_concurrent: int | None, webhook: Webhook | None
) -> None:
    """Resume a run that stopped before its end: a job by another attempt, a sweep or a pipeline by what is missing.
    Returns once it is at work again. Raises BadUsage where it cannot be resumed, DiskFailed, Interrupted."""
    _check_state(run)
    folder = RunFolder(workspace / "runs" / run.id)
    stored, record = folder.read(PLAN), folder.read(RECORD)
    try:
        if "many" in stored:
            _check_stored(run, [job["spec"] for job in stored["many"]["jobs"]], env)
            plan = plan_from_stored(stored["many"], folder.path, env)
            plan = replace(plan, jobs=[replace(job, spec=replace(job.spec, webhook=webhook)) for job in plan.jobs])
            if max_concurrent is not None and plan.jobs[0].spec.sweep is not None:
                sweep = replace(plan.sweep, max_concurrent=max_concurrent)
                first = replace(plan.jobs[0], spec=replace(plan.jobs[0].spec, sweep=sweep))
                plan = replace(plan, jobs=[first, *plan.jobs[1:]])
            specs = [job.spec for job in plan.jobs]
        elif "job" not in stored or not record.get(STAGED):
            raise BadUsage(
                f"Run '{run.id}' cannot be resumed: what it was to run is not on record, or its files were never laid.",
                hint=SUBMIT_AGAIN,
            )
        else:
            _check_stored(run, [stored["job"]], env)
            specs = [replace(job_from_stored_form(stored["job"], env), webhook=webhook)]
            data = record["inputs"], record["outputs"]
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as err:
        raise DiskFailed(
            f"What '{folder.path}' keeps of the run has another form than himl writes ({type(err).__name__}: {err}).",
            hint=SUBMIT_AGAIN,
        ) from err
    from himl_cli.workspaces.local.slurm_batch import queue_again

    for spec in specs:
        check_shell(spec)
    try:
        if "many" in stored:
            error = queue_again(plan, folder) if specs[0].slurm else _start(plan, folder)
        else:
            with _own_stdin(specs[0]) as (stdin, handles):
                request = LaunchRequest(str(folder.path), specs[0], run.command, *data, stdin, again=True)
                error = queue_again(request, folder) if specs[0].slurm else _start(request, folder, handles)
    except OSError as err:
        raise explain_disk_error(err, "Cannot resume the run", folder.path) from err
    if error is not None:
        raise error


def _check_state(run: Run) -> None:
    if run.parent:
        what = "trial" if TRIAL in run.tags else "step" if STEP in run.tags else ""
        problem = f"is a {what} of run '{run.parent}'" if what else f"was nested in run '{run.parent}' by its script"
        raise BadUsage(f"Run '{run.id}' {problem}.", hint=f"Resume the whole: himl submit --resume {run.parent}")
    if not run.status.is_final:
        raise BadUsage(
            f"Run '{run.id}' is still at work.",
            hint=f"To see it: himl runs show {run.id}, to stop it: himl runs cancel {run.id}",
        )
    if run.status is RunStatus.completed:
        raise BadUsage(f"Run '{run.id}' is completed: nothing is left to do.", hint=f"See himl runs show {run.id}")


def _check_stored(run: Run, forms: list[dict[str, Any]], env: Mapping[str, str]) -> None:
    """Raises BadUsage where the record lacks what no file may hold. Of arguments that were masked it names `--name` of
    one whose value was, else what is left of it."""
    masked: dict[str, None] = {}
    for form in forms:
        if form["has_secrets"]:
            words = form["arguments"]
            pairs = [(before, word) for before, word in zip(["", *words], words, strict=False) if MASK in word]
            names = [before if word == MASK and before.startswith("-") else word for before, word in pairs]
            masked |= dict.fromkeys(names or ["its command line"])
    if masked:
        raise BadUsage(
            f"Run '{run.id}' cannot be resumed: its arguments hold a secret, which is not kept, or look so: "
            f"{', '.join(masked)}.",
            hint=f"{SUBMIT_AGAIN} Give secrets by --env_var NAME=VALUE.",
        )
    missing = sorted({name for form in forms for name in form["env_names"]} - set(env))
    if missing:
        again = " ".join(f"--env_var {name}=…" for name in missing)
        raise BadUsage(
            f"Run '{run.id}' had variables whose values are not kept: {', '.join(missing)}.",
            hint=f"Give them again: {again}",
        )


@contextmanager
def _own_stdin(spec: JobSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """What this process reads, for the job to read (`LaunchRequest.stdin`), and the handles that its supervisor
    inherits.

    A pipe, file or socket is handed on itself, so that what the script leaves unread stays there for others, as in a
    shell's loop. Of a terminal only an in-place job gets the name, for a debugger. On Windows nothing is handed on.
    """
    try:
        number = sys.stdin.fileno()
        mode = os.fstat(number).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or an object of the program that calls
        yield "", ()
        return
    if sys.platform == "win32" or stat.S_ISCHR(mode):
        yield os.ttyname(number) if spec.in_place and sys.platform != "win32" and os.isatty(number) else "", ()
        return
    handle = os.dup(number)
    try:
        yield str(handle), (handle,)
    finally:
        os.close(handle)


def remove_leftovers(workspace: Path, is_recorded: Callable[[str], bool]) -> None:
    """Remove the folders of runs whose start was killed before they were on record."""
    for mark in (workspace / STARTING).glob("*"):
        lock, folder = ProcessLock(mark), RunFolder(workspace / "runs" / mark.name)
        if is_held(mark) or folder.is_supervised() or not lock.take():
            continue
        with suppress(OSError, DiskFailed):
            if not is_recorded(mark.name) and not folder.user_logs.exists():
                folder.remove()
            mark.unlink()
        lock.release()


def spawn(request: LaunchRequest | Plan, handles: Sequence[int] = ()) -> subprocess.Popen[bytes]:
    """Start the process, which inherits *handles*, and hand it *request*. It reports on its stdout. Raises OSError."""
    log.debug("starting a supervisor for %s", request.run_folder)
    module = "controller" if isinstance(request, Plan) else "supervisor"
    with (Path(request.run_folder) / "supervisor.log").open("ab") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", f"himl_cli.workspaces.local.{module}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            cwd=request.run_folder,
            pass_fds=handles,
            **detached(),
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it died at once; that it says nothing is noticed next
        process.stdin.write(request.to_json().encode())
        process.stdin.close()
    return process


def events_of(process: subprocess.Popen[bytes]) -> Iterator[dict[str, Any]]:
    """What the process reports, to the end of its life. What else is printed there (by a sitecustomize) is passed
    over."""
    assert process.stdout is not None
    for line in process.stdout:
        text = line.decode(errors="replace").strip()
        if text:
            log.debug("the supervisor says %s", text)
        with suppress(ValueError):
            event = json.loads(text)
            if isinstance(event, dict) and "event" in event:
                yield event


def start_error(events: list[dict[str, Any]], folder: RunFolder) -> HimlError | None:
    """Why there is no run, as far as *events* say; None where there is one."""
    last = events[-1] if events else {"event": "nothing"}
    if last["event"] in ("started", "recorded"):
        return None  # after 'recorded' alone the supervisor died; the run's free lock tells every reader so
    if last["event"] == "refused":
        kind = BadUsage if last["why"] in (BUSY, DONE) else DiskFailed
        return kind(last["message"], hint=last["hint"])
    why = (folder.path / "supervisor.log").read_text(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    return JobFailed(
        f"The job's supervisor did not start: {why[0]}", hint="Is himl installed whole? Try: himl --version"
    )


def _start(request: LaunchRequest | Plan, folder: RunFolder, handles: Sequence[int] = ()) -> HimlError | None:
    """Start the process, and wait until it reports that the run is started, or is not: then why. Raises OSError."""
    events: list[dict[str, Any]] = []

    def cancel() -> None:
        with suppress(DiskFailed):  # in a signal's handler; what fails here fails again, and is said, right after
            folder.ask_to_cancel()

    with interruptions(cancel) as interrupted:
        process = spawn(request, handles)
        for event in events_of(process):
            events.append(event)
            if event["event"] in ("started", "refused"):
                break
    assert process.stdout is not None
    process.stdout.close()
    process.returncode = 0  # it outlives this process, which Popen would warn of
    error = start_error(events, folder)
    if interrupted and error is None:
        folder.ask_to_cancel()
        while folder.is_supervised():
            time.sleep(0.05)
        raise Interrupted(
            f"Run '{folder.run_id}' was canceled.", hint=f"What it wrote is kept: himl runs show {folder.run_id}"
        )
    return error
