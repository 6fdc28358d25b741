"""Submitting a job that runs here and is told to another workspace from its first moment on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from himl_cli.core.errors import HimlError, Interrupted, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Notify
from himl_cli.core.jobs import JobSpec
from himl_cli.core.redaction import redact
from himl_cli.core.results import NewRun
from himl_cli.core.runs import RECORDED_FROM, RECORDED_IN, STUDIO, Run, RunQuery, new_run_id
from himl_cli.services.recording.note import Note, NoteFile, Told
from himl_cli.services.submission.prepare import shorten_tags, submit_job
from himl_cli.services.submission.request import PreparedJob
from himl_cli.workspaces.base import FolderWorkspace, RunRecorder

NOTHING_STARTED = "Nothing was started."


@dataclass(frozen=True)
class Recording:
    """How a recording is done: `place` is what opens the other workspace, `start` starts the process for a run of the
    workspace in a folder."""

    place: Mapping[str, str]
    start: Callable[[Path, str], None]


def submit_recorded(
    here: FolderWorkspace, there: RunRecorder, job: PreparedJob, cwd: Path, recording: Recording, notify: Notify
) -> tuple[Run, Run]:
    """Start the run there, what records it, and the job here; the run here and the one there, which have the same id.

    Where the first fails, nothing is started. Where the job does not start, the run there ends as failed, in the
    background. The process that records is there before the job, and takes over should this one be killed. Raises what
    both workspaces raise.
    """
    run_id = new_run_id(job.spec.experiment)
    _check_reachable(there, job.spec.experiment)
    here.prepare(notify)
    file, note = NoteFile(here.folder, run_id), Note(run_id, recording.place, is_starting=True)
    file.begin(note)
    try:
        new = _new_run(job.spec, run_id)
        note.runs[run_id] = Told(tags={**job.spec.tags, "run_recovery_id": new.tags["run_recovery_id"]})
        twin = _begin_there(there, new, file, note, lambda: recording.start(here.folder, run_id))
        tags = {**job.spec.tags, RECORDED_IN: there.label, STUDIO: twin.url}
        recording.start(here.folder, run_id)
        return _start_here(
            here, replace(job, spec=replace(job.spec, run_id=run_id, tags=tags)), cwd, notify, file, note
        ), twin
    finally:
        file.release()


def _check_reachable(there: RunRecorder, experiment: str) -> None:
    """A question before anything is made: most of what can be wrong shows at it."""
    try:
        next(iter(there.runs(RunQuery(experiment, limit=1))), None)
    except (NotAllowed, NotFound, ServiceFailed) as err:
        err.hint = f"{err.hint} {NOTHING_STARTED} Without --record_in azure the job is recorded here alone.".strip()
        raise


def _begin_there(there: RunRecorder, new: NewRun, file: NoteFile, note: Note, start: Callable[[], None]) -> Run:
    try:
        return there.start_run(new)
    except ServiceFailed as err:  # it may be there all the same: whoever records sees to its end
        if err.is_lasting:
            file.remove()
        else:
            _give_up(file, note, str(err))
            start()
        raise
    except HimlError:
        file.remove()
        raise
    except BaseException as err:  # somebody will not wait for the answer: it may be there, too
        _give_up(file, note, "himl submit was interrupted before the job began")
        start()
        if isinstance(err, KeyboardInterrupt):
            raise Interrupted(
                f"Interrupted before the job began; run '{new.id}' may be in {there.label} and ends there as failed."
            ) from err
        raise


def _start_here(here: FolderWorkspace, job: PreparedJob, cwd: Path, notify: Notify, file: NoteFile, note: Note) -> Run:
    try:
        run = submit_job(here, job, cwd, notify)
    except BaseException as err:
        _give_up(file, note, f"the job did not start: {err}" if isinstance(err, HimlError) else "the job did not start")
        raise
    note.is_starting = False
    file.write(note)
    return run


def _give_up(file: NoteFile, note: Note, why: str) -> None:
    note.is_starting, note.failure = False, redact(why)
    file.write(note)


def _new_run(spec: JobSpec, run_id: str) -> NewRun:
    tags = {
        **shorten_tags(spec.tags),
        "run_recovery_id": f"{spec.experiment}:{run_id}",
        RECORDED_FROM: platform.node() or "another machine",
    }
    return NewRun(run_id, spec.experiment, spec.display_name, spec.description, tags, command=spec.entry.target)
