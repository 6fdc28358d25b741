"""What `--checkpoint SOURCE` adds to a job."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.session import For, Session, azure_beside, open_session
from himl_cli.commands.submit_options import RENAMED, TYPED, AfterOptions
from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, WorkspaceNotFound
from himl_cli.core.processes import interruptions
from himl_cli.core.redaction import is_address, shown
from himl_cli.core.text import non_blank
from himl_cli.render.errors import ReaderGone
from himl_cli.render.jobs import (
    say_all_prepared,
    say_ended,
    say_job_yaml,
    say_left_running,
    say_prepared,
    say_resumed,
    say_sent,
    say_submitted,
    say_unfinished,
    say_unkept,
    say_without_values,
)
from himl_cli.render.progress import observing
from himl_cli.services.runs.details import failed_child, sweep_outcome
from himl_cli.services.runs.logs import naming, watching
from himl_cli.services.runs.lookup import parse_reference
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.pipelines import (
    as_named,
    bring_to_steps,
    check_cluster,
    find_here,
    find_there,
    in_words_of_the_file,
    noted,
    prepare_pipeline,
    submit_pipeline,
)
from himl_cli.services.submission.prepare import prepare_job, submit_job
from himl_cli.services.submission.request import PreparedJob, SubmitRequest, is_pipeline
from himl_cli.services.submission.resume import COUNT, OF_RECORD, resume_run
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
from himl_cli.workspaces.base import CloudWorkspace, FolderWorkspace
from himl_cli.workspaces.open import azure_for_jobs, azure_to_record_in, check_azure_settings, require_sdk_v1

if TYPE_CHECKING:
    from himl_cli.core.jobs import JobSpec, PipelineSpec
    from himl_cli.core.runs import Run
    from himl_cli.services.submission.job_yaml import PreparedDocument
    from himl_cli.services.submission.pipelines import PreparedPipeline
    from himl_cli.workspaces.base import Workspace


def with_checkpoint_there(session: Session, where: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The same for a job on a cluster, which reads the checkpoint from the workspace's storage."""
    if job.checkpoint is None:
        return job
    if job.spec.sdk == "v1":
        raise BadUsage("--checkpoint does not go with --sdk v1.", hint="Leave one of them out.")
    from himl_cli.services.checkpoints.referring import refer_to_checkpoint
    from himl_cli.workspaces.open import open_address

    with _runs(session, where, job.checkpoint) as runs, observing(session.output) as notify:
        return replace(
            job,
            spec=refer_to_checkpoint(
                job.checkpoint, runs, session.workspace, job.spec, session.cwd, notify, open_address
            ),
        )


def with_checkpoint(session: Session, where: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The job with the files of its checkpoint, which are brought to this machine where they are a run's or at an
    address. Raises NotFound, BadUsage."""
    if job.checkpoint is None:
        return job
    if job.spec.in_place:
        raise BadUsage(
            "--checkpoint does not go with --in_place: it would write into your project.", hint="Leave one of them out."
        )
    from himl_cli.services.checkpoints.bringing import bring_checkpoint
    from himl_cli.workspaces.open import open_address

    with _runs(session, where, job.checkpoint) as runs, observing(session.output) as notify:
        brought = bring_checkpoint(job.checkpoint, runs, session.cwd, notify, open_address)
    return replace(job, spec=replace(job.spec, brought=brought.files, tags={**job.spec.tags, **brought.tags}))


@contextmanager
def _runs(session: Session, where: WorkspaceOptions, source: str) -> Iterator[Workspace]:
    """All runs that may be meant, here and on Azure ML."""
    from himl_cli.workspaces.open import open_runs

    try:
        workspace = open_runs(where.workspace, where.config_file, start=session.cwd)
    except WorkspaceNotFound:  # the job is the first of its workspace
        try:
            yield session.workspace
        except WorkspaceNotFound:
            raise NotFound(
                f"There is no file '{source}', and no run yet.",
                hint="Name a file, or the config.json of the run's workspace.",
            ) from None
        return
    try:
        yield workspace
    finally:
        workspace.close()


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
    if not (job.spec.inputs or job.spec.default_datastore) or not isinstance(session.workspace, FolderWorkspace):
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
    from himl_cli.render.jobs import say_settings
    from himl_cli.workspaces.open import azure_facts

    checkpoint = str(values.get("checkpoint") or "")
    if is_address(checkpoint):  # its query may hold a signature
        values = {**values, "checkpoint": shown(checkpoint)}
    facts = [] if where.workspace == "local" else azure_facts(where.workspace, where.config_file, start=Path.cwd())
    say_settings(talk.output(), values, sources, facts)


def submit_script(
    where: WorkspaceOptions,
    talk: OutputOptions,
    request: SubmitRequest,
    after: AfterOptions,
    sources: Mapping[str, str],
    *,
    create_cluster: bool,
) -> None:
    """Run the script or module that the request's target names. Raises BadUsage, NotFound, JobFailed, Interrupted."""
    if create_cluster and sources["create_cluster"] == TYPED:
        raise BadUsage(
            "--create_cluster is for pipelines, whose .env says what the cluster is like.", hint="Leave it out."
        )
    waits = after.waits(on_cluster=bool(request.on_cluster), sources=sources)
    if after.dry_run:
        check_azure_settings(request.cwd)
        return say_dry_run(talk, prepare_job(request))
    if request.is_told_to_azure:
        from himl_cli.commands._submit_recorded import run_recorded

        address = azure_to_record_in(where.workspace, where.config_file, start=request.cwd)
        return run_recorded(where, talk, prepare_job(request), address, waits=waits)
    if not request.on_cluster:
        return run_here(where, talk, prepare_job(request), waits=waits)
    if request.sdk == "v1":
        require_sdk_v1()
    azure_for_jobs(where.workspace, where.config_file, start=request.cwd)  # before anything is looked at
    run_on_cluster(where, talk, prepare_job(request), waits=waits, follows=after.follow)


def submit_document_file(
    where: WorkspaceOptions,
    talk: OutputOptions,
    request: SubmitRequest,
    after: AfterOptions,
    sources: Mapping[str, str],
) -> None:
    """Run the job of the file: here, or as it is on the compute that it or the user names. Raises BadUsage, NotFound,
    JobFailed, Interrupted."""
    prepared = prepare_document(request)
    waits = after.waits(on_cluster=prepared.goes_to_azure, sources=sources)
    if after.dry_run:
        output = talk.output()
        say_all_prepared(output, prepared.remarks, prepared.reports)
        return say_job_yaml(output, changed_yaml(prepared))
    if not prepared.goes_to_azure:
        return start_here(where, talk, lambda session: _ready_document(session, prepared), waits=waits)
    azure_for_jobs(where.workspace, where.config_file, start=request.cwd)  # before anything is looked at
    with open_session(where, talk, For.clusters) as session, naming_once_made() as made:
        say_all_prepared(session.output, prepared.remarks, prepared.reports)
        with observing(session.output) as notify:
            workspace = session.workspace
            if not isinstance(workspace, CloudWorkspace):
                raise HimlError(f"{workspace.label} does not run jobs in YAML.")
            documents = workspace
            made.append(
                noted(
                    lambda: documents.submit_document(prepared.document.path, prepared.changes, notify=notify),
                    session.cwd,
                    notify,
                )
            )
        wait_or_leave(session, made[0], waits=waits, follows=after.follow)


def _ready_document(session: Session, prepared: PreparedDocument) -> Callable[[], Run]:
    say_all_prepared(session.output, prepared.remarks, prepared.reports)
    job, pipeline = _with_data(session, prepared.job, prepared.pipeline)
    if job is not None:
        ready = PreparedJob(job, None)
        return lambda: submit_job(session.jobs, ready, session.cwd, session.notify)
    assert pipeline is not None
    return lambda: submit_pipeline(session.workspace, pipeline, session.cwd, session.notify)


def _with_data(
    session: Session, job: JobSpec | None, pipeline: PipelineSpec | None
) -> tuple[JobSpec | None, PipelineSpec | None]:
    """The job or the pipeline with the folders of data that is not here yet, but in the Azure ML workspace that is
    configured."""
    here = session.workspace
    if not isinstance(here, FolderWorkspace):
        return job, pipeline
    with azure_beside(session.cwd) as azure, observing(session.output) as notify:
        if job is not None and (job.inputs or job.default_datastore):
            job = bring_inputs(job, here, azure, notify)
        if pipeline is not None:
            pipeline = bring_to_steps(pipeline, here, azure, notify)
    return job, pipeline


def submit_file(
    where: WorkspaceOptions,
    talk: OutputOptions,
    request: SubmitRequest,
    after: AfterOptions,
    sources: Mapping[str, str],
    *,
    create_cluster: bool,
) -> None:
    """Run the pipeline or the job that the request's target tells of. Raises BadUsage, NotFound, JobFailed,
    Interrupted."""
    if not is_pipeline(str(request.target)):
        if create_cluster and sources["create_cluster"] == TYPED:
            raise BadUsage("--create_cluster is for pipeline files (.json), whose .env says what cluster that is.")
        return submit_document_file(where, talk, request, after, sources)
    prepared = prepare_pipeline(request, creates_cluster=create_cluster)
    if create_cluster and sources["create_cluster"] == TYPED and not prepared.spec.cluster:
        raise BadUsage(
            "--create_cluster: this pipeline runs here.",
            hint="Leave it out, or name the cluster: --cluster NAME, or AML_COMPUTE_CLUSTER_NAME in .env",
        )
    waits = after.waits(on_cluster=bool(prepared.spec.cluster), sources=sources)
    if after.dry_run:
        check_azure_settings(request.cwd)
        return _say_dry_run(talk, prepared)
    if prepared.spec.cluster:
        _check_azure(where, request, prepared)
        return _run_there(where, talk, prepared, waits=waits, follows=after.follow)
    start_here(where, talk, lambda session: _ready_pipeline(session, prepared), waits=waits)


def _check_azure(where: WorkspaceOptions, request: SubmitRequest, prepared: PreparedPipeline) -> None:
    """Raises BadUsage where no Azure ML workspace is meant, before anything is looked at; it says why the pipeline goes
    there."""
    try:
        azure_for_jobs(where.workspace, where.config_file, start=request.cwd)
    except BadUsage as err:
        raise BadUsage(str(err), hint=err.hint if request.cluster is not None else prepared.remarks[0]) from err


def _ready_pipeline(session: Session, prepared: PreparedPipeline) -> Callable[[], Run]:
    say_all_prepared(session.output, prepared.remarks, prepared.reports)
    spec = prepared.spec
    if isinstance(session.workspace, FolderWorkspace):
        with (
            azure_beside(session.cwd) as azure,
            observing(session.output) as notify,
        ):  # the bar is gone before the output is shown
            spec = find_here(prepared, session.workspace, azure, notify)
    return lambda: submit_pipeline(session.workspace, spec, session.cwd, session.notify)


def _run_there(
    where: WorkspaceOptions, talk: OutputOptions, prepared: PreparedPipeline, *, waits: bool, follows: bool
) -> None:
    with open_session(where, talk, For.clusters) as session, naming_once_made() as made:
        say_all_prepared(session.output, prepared.remarks, prepared.reports)
        with observing(session.output) as notify, in_words_of_the_file(prepared):
            check_cluster(prepared, session.workspace)
            spec = replace(find_there(prepared, session.workspace, notify), new_cluster=prepared.cluster)
            made.append(submit_pipeline(session.workspace, spec, session.cwd, notify))
        wait_or_leave(session, made[0], waits=waits, follows=follows)


def _say_dry_run(talk: OutputOptions, prepared: PreparedPipeline) -> None:
    from himl_cli.workspaces.open import pipeline_yaml

    output = talk.output()
    say_all_prepared(output, prepared.remarks, prepared.reports)
    spec = as_named(prepared)
    wheels = {wheel.name for step in spec.steps if step.job.environment for wheel in step.job.environment.wheels}
    say_job_yaml(output, pipeline_yaml(spec), sorted(wheels))


MEANT = (*COUNT, *OF_RECORD, "resume", "target", "module", "wait", "follow")
SHARED = ("workspace", "config_file", "format", "json", "quiet", "verbose", "yes")


def resume(
    where: WorkspaceOptions,
    talk: OutputOptions,
    wanted: str,
    request: SubmitRequest,
    *,
    waits: bool,
    sources: Mapping[str, str],
) -> None:
    """Go on with the run. Ctrl-C cancels it while it is waited for. Raises JobFailed, Interrupted, BadUsage,
    RunNotFound."""
    for name, source in sources.items():
        if source == TYPED and RENAMED.get(name, name) not in (*MEANT, *SHARED):
            raise BadUsage(
                f"--{name} does not go with --resume: the run goes on as it was submitted.",
                hint="Leave it out; --max_concurrent and --env_var may be given.",
            )
    if request.max_concurrent is not None and request.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent {request.max_concurrent}: at least 1 is needed.")
    parse_reference(non_blank("--resume", wanted) or "")
    with open_session(where, talk) as session, interruptions() as interrupted:
        run, seen = resume_run(session.workspace, wanted, request, session.notify)
        say_resumed(session.output, run)
        if waits:
            wait_here(session, run, interrupted, start=seen)
        else:
            say_left_running(session.output, run)
