"""What `himl submit` does once its options are read: run here, run on a cluster, or only show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._session import For, Session, azure_beside, open_session
from himl_cli.commands._submit_checkpoint import with_checkpoint, with_checkpoint_there
from himl_cli.core.errors import BadUsage, JobFailed
from himl_cli.core.processes import interruptions
from himl_cli.core.redaction import is_address, shown
from himl_cli.render.errors import ReaderGone
from himl_cli.render.progress import observing
from himl_cli.render.submission import (
    say_ended,
    say_job_yaml,
    say_left_running,
    say_prepared,
    say_sent,
    say_submitted,
    say_unfinished,
    say_unkept,
    say_without_values,
)
from himl_cli.services.run_details import failed_child, sweep_outcome
from himl_cli.services.run_logs import naming, watching
from himl_cli.services.submission.prepare import submit_job
from himl_cli.services.submission.wait import (
    failure_hint,
    follow_to_end,
    last_lines_of_failed_rank,
    last_lines_of_failure,
    raise_unless_completed,
    unkept_files,
    wait_for_end,
    wait_for_run,
)
from himl_cli.workspaces.abilities import FindsDatasets

if TYPE_CHECKING:
    from himl_cli.core.jobs import JobSpec
    from himl_cli.core.runs import Run
    from himl_cli.services.submission.request import PreparedJob


def run_here(where: WorkspaceOptions, talk: OutputOptions, job: PreparedJob, *, waits: bool) -> None:
    """Run the job on this machine. Ctrl-C cancels it while it is waited for. Raises JobFailed, Interrupted."""

    def ready(session: Session) -> Callable[[], Run]:
        say_prepared(session.output, job.remarks, job.report)
        whole = with_checkpoint(session, where, with_inputs(session, job))
        return lambda: submit_job(session.jobs, whole, session.cwd, session.notify)

    start_here(where, talk, ready, waits=waits, spec=job.spec)


def start_here(
    where: WorkspaceOptions,
    talk: OutputOptions,
    ready: Callable[[Session], Callable[[], Run]],
    *,
    waits: bool,
    spec: JobSpec | None = None,
) -> None:
    """Run on this machine what *ready* gives once all is at hand. Ctrl-C cancels it while it is waited for. Raises
    JobFailed, Interrupted.

    *spec* is the job, where it is one: a failure's hint looks into what was sent.
    """
    with open_session(where, talk, For.jobs) as session:
        start = ready(session)
        with interruptions() as interrupted:
            run = start()
            say_submitted(session.output, run)
            if waits:
                wait_here(session, run, interrupted, spec=spec)
            else:
                say_left_running(session.output, run)


def with_inputs(session: Session, job: PreparedJob) -> PreparedJob:
    """The job with the folders of inputs that are not here yet, but in the Azure ML workspace that is configured."""
    if not (job.spec.inputs or job.spec.default_datastore) or not isinstance(session.workspace, FindsDatasets):
        return job
    from himl_cli.services.submission.data import bring_inputs

    with (
        azure_beside(session.cwd) as azure,
        observing(session.output) as notify,
    ):  # the bar is gone before the job's output is shown
        return replace(job, spec=bring_inputs(job.spec, session.workspace, azure, notify))


def wait_here(
    session: Session, run: Run, interrupted: list[int], *, start: int = 0, spec: JobSpec | None = None
) -> None:
    """Show the output of a job that runs here, from the byte *start* of its log on, until its end. Raises JobFailed,
    Interrupted."""
    with printing_unfinished(session, run), naming(run.id):
        try:
            ended = wait_for_run(
                session.workspace, run.id, session.output.stream, session.notify, interrupted, start=start
            )
        except ReaderGone:
            session.output.notice(
                f"Nobody reads the output any more; run {run.id} goes on. To stop it: himl runs cancel {run.id}"
            )
            raise
        finally:
            session.output.end_line()
        say_ended(
            session.output,
            ended,
            last_lines_of_failed_rank(session.workspace, ended),
            sweep_outcome(session.workspace, ended),
        )
        say_unkept(session.output, unkept_files(session.workspace, ended))
        child = failed_child(session.workspace, ended)
        raise_unless_completed(
            ended, child, failure_hint=failure_hint(session.workspace, ended, child, spec=spec, cwd=session.cwd)
        )


@contextmanager
def printing_unfinished(session: Session, run: Run) -> Iterator[None]:
    """Within it the run is waited for; where that breaks off, the run is printed all the same, for whoever reads its id
    (`run=$(himl submit -q)`)."""
    try:
        yield
    except (JobFailed, ReaderGone):
        raise
    except Exception:
        say_unfinished(session.output, run)
        raise


def run_on_cluster(
    where: WorkspaceOptions, talk: OutputOptions, job: PreparedJob, *, waits: bool, follows: bool
) -> None:
    """Send the job to its cluster. Once it is there, Ctrl-C ends the waiting only. Raises JobFailed, Interrupted."""
    with open_session(where, talk, For.clusters) as session, naming_once_made() as made:
        say_prepared(session.output, job.remarks, job.report)
        job = with_checkpoint_there(session, where, job)
        with observing(session.output) as notify:  # its bar is gone before a log is printed
            made.append(submit_job(session.jobs, job, session.cwd, notify))
        wait_or_leave(session, made[0], waits=waits, follows=follows, spec=job.spec)


@contextmanager
def naming_once_made() -> Iterator[list[Run]]:
    """A list for the run that is made within: once it is in there, Ctrl-C ends the watching only, and its id is said.
    Raises Interrupted."""
    made: list[Run] = []
    try:
        yield made
    except KeyboardInterrupt:
        if not made:
            raise
        with watching(made[0].id):
            raise


def wait_or_leave(session: Session, run: Run, *, waits: bool, follows: bool, spec: JobSpec | None = None) -> None:
    """Say that the run is on its way, and wait for it where that is wanted: Ctrl-C ends the waiting only. Raises
    JobFailed, Interrupted."""
    if not waits:
        with watching(run.id):
            say_sent(session.output, run, waits=False, follows=False)
        return
    with printing_unfinished(session, run), watching(run.id):
        say_sent(session.output, run, waits=True, follows=follows)
        wait_there(session, run, follows=follows, spec=spec)


def wait_there(session: Session, run: Run, *, follows: bool, spec: JobSpec | None = None) -> None:
    """Wait for a run on a cluster, its log shown where that *follows*, else a sentence now and then; of a sweep about
    its trials. Raises JobFailed."""
    try:
        if follows:
            ended = follow_to_end(session.workspace, run.id, session.output.stream, session.notify)
        else:
            ended = wait_for_end(
                session.workspace, run.id, session.notify, spec.sweep.max_trials if spec and spec.sweep else 0
            )
    except ReaderGone:
        session.output.notice(
            f"Nobody reads the output any more; run {run.id} goes on. To stop it: himl runs cancel {run.id}"
        )
        raise
    finally:
        session.output.end_line()
    unseen = last_lines_of_failed_rank if follows else last_lines_of_failure
    sweep = sweep_outcome(session.workspace, ended)
    say_ended(session.output, ended, unseen(session.workspace, ended), sweep)
    say_without_values(session.output, sweep)
    child = failed_child(session.workspace, ended)
    raise_unless_completed(
        ended,
        child,
        sweep,
        failure_hint=failure_hint(session.workspace, ended, child, spec=spec, cwd=session.cwd) if spec else "",
    )


def say_dry_run(talk: OutputOptions, job: PreparedJob) -> None:
    """Print the job as Azure ML would get it; nothing is sent, no request is made. Raises BadUsage for a job with a
    checkpoint."""
    from himl_cli.workspaces.open import job_yaml

    if job.checkpoint is not None:
        raise BadUsage(
            "--checkpoint does not go with --dry_run: where the checkpoint lies has to be asked for.",
            hint="Leave one of them out.",
        )
    output = talk.output()
    say_prepared(output, job.remarks, job.report)
    wheels = job.spec.environment.wheels if job.spec.environment else ()
    say_job_yaml(output, job_yaml(job.spec), [wheel.name for wheel in wheels])


def say_all_settings(
    talk: OutputOptions, where: WorkspaceOptions, values: Mapping[str, Any], sources: Mapping[str, str]
) -> None:
    """Print the value of each option and of what is set about Azure ML, and where each came from."""
    from himl_cli.render.settings import say_settings
    from himl_cli.workspaces.open import azure_facts

    checkpoint = str(values.get("checkpoint") or "")
    if is_address(checkpoint):  # its query may hold a signature
        values = {**values, "checkpoint": shown(checkpoint)}
    facts = [] if where.workspace == "local" else azure_facts(where.workspace, where.config_file, start=Path.cwd())
    say_settings(talk.output(), values, sources, facts)
