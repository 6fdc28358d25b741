"""Runs what `himl submit` was given, a script, a pipeline or a job in YAML: here, or on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.session import For, Session, lazy_workspace, open_session
from himl_cli.commands.submit_options import TYPED, SubmitOptions
from himl_cli.core.errors import BadUsage, HimlError, JobFailed, NotFound, WorkspaceNotFound
from himl_cli.core.processes import interruptions
from himl_cli.core.redaction import is_address, shown
from himl_cli.core.text import non_blank
from himl_cli.render.error_output import ReaderGone
from himl_cli.render.job_output import (
    print_ended,
    print_job_yaml,
    print_left_running,
    print_prepared,
    print_run,
    print_sent,
    print_settings,
    print_unkept,
    print_without_values,
)
from himl_cli.render.progress import observing
from himl_cli.services.runs.details import failed_child, sweep_outcome
from himl_cli.services.runs.logs import naming, watching
from himl_cli.services.runs.lookup import parse_reference
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.pipelines import (
    bring_to_steps,
    check_cluster,
    naming_pipeline_file,
    prepare_pipeline,
    resolve_locally,
    resolve_on_cluster,
    submit_pipeline,
    with_named_datastores,
)
from himl_cli.services.submission.prepare import prepare_job, start_and_note, submit_job
from himl_cli.services.submission.request import REQUEST_FIELDS, PreparedJob, SubmitRequest, is_pipeline
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
from himl_cli.workspaces.resolve import (
    azure_facts,
    azure_for_jobs,
    azure_to_record_in,
    cloud_setting,
    job_yaml,
    open_address,
    open_configured_azure,
    open_runs,
    pipeline_yaml,
    require_sdk_v1,
)

if TYPE_CHECKING:
    from himl_cli.core.events import Notify
    from himl_cli.core.jobs import JobSpec
    from himl_cli.core.runs import Run
    from himl_cli.workspaces.base import Workspace

SHARED = ("workspace", "config_file", "format", "json", "quiet", "verbose", "yes")
"""Options that any command has."""


def submit_script(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    options: SubmitOptions,
    request: SubmitRequest,
    sources: Mapping[str, str],
) -> None:
    """Run a script, a module or a command line: here, here but recorded on Azure ML, or on a cluster; or only show the
    job. Raises BadUsage, NotFound, JobFailed, Interrupted."""
    if options.create_cluster and sources["create_cluster"] == TYPED:
        raise BadUsage(
            "--create_cluster is for pipelines, whose .env says what the cluster is like.", hint="Leave it out."
        )
    waits = options.waits(on_cluster=bool(request.on_cluster), sources=sources)
    if options.dry_run:
        cloud_setting(request.cwd)
        return _print_script(output_opts, prepare_job(request))
    if request.is_told_to_azure:
        from himl_cli.commands.recorder import run_recorded

        address = azure_to_record_in(workspace_opts.workspace, workspace_opts.config_file, start=request.cwd)
        return run_recorded(workspace_opts, output_opts, prepare_job(request), address, waits=waits)
    if request.on_cluster:
        if request.sdk == "v1":
            require_sdk_v1()
        # before anything is looked at
        azure_for_jobs(workspace_opts.workspace, workspace_opts.config_file, start=request.cwd)
    job = prepare_job(request)
    if not request.on_cluster:
        with open_session(workspace_opts, output_opts, For.jobs) as session:
            print_prepared(session.output, job.remarks, job.report)
            whole = with_checkpoint(session, workspace_opts, with_inputs(session, job))
            start = partial(submit_job, session.jobs, whole, session.cwd, session.notify)
            _run_here(session, start, waits, job.spec)
        return
    with open_session(workspace_opts, output_opts, For.clusters) as session, naming_once_made() as made:
        print_prepared(session.output, job.remarks, job.report)
        job = _with_checkpoint_there(session, workspace_opts, job)
        with observing(session.output) as notify:  # its bar is gone before a log is printed
            made.append(submit_job(session.jobs, job, session.cwd, notify))
        wait_or_leave(session, made[0], waits=waits, follows=options.follow, spec=job.spec)


def submit_file(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    options: SubmitOptions,
    request: SubmitRequest,
    sources: Mapping[str, str],
) -> None:
    """Run the pipeline or the job that a file describes: here, or as it is on the compute that it or the user names.
    Raises BadUsage, NotFound, JobFailed, Interrupted."""
    if is_pipeline(str(request.target)):
        return _submit_pipeline(workspace_opts, output_opts, options, request, sources)
    if options.create_cluster and sources["create_cluster"] == TYPED:
        raise BadUsage("--create_cluster is for pipeline files (.json), whose .env says what cluster that is.")
    prepared = prepare_document(request)
    waits = options.waits(on_cluster=prepared.goes_to_azure, sources=sources)
    if options.dry_run:
        output = output_opts.output()
        print_prepared(output, prepared.remarks, *prepared.reports)
        return print_job_yaml(output, changed_yaml(prepared))
    if prepared.goes_to_azure:
        # before anything is looked at
        azure_for_jobs(workspace_opts.workspace, workspace_opts.config_file, start=request.cwd)
        with open_session(workspace_opts, output_opts, For.clusters) as session, naming_once_made() as made:
            print_prepared(session.output, prepared.remarks, *prepared.reports)
            documents = session.workspace
            if not isinstance(documents, CloudWorkspace):
                raise HimlError(f"{session.workspace.label} does not run jobs in YAML.")
            with observing(session.output) as notify:
                path, changes = prepared.document.path, prepared.changes
                send = partial(documents.submit_document, path, changes, notify=notify)
                made.append(start_and_note(send, session.cwd, notify))
            wait_or_leave(session, made[0], waits=waits, follows=options.follow)
        return
    with open_session(workspace_opts, output_opts, For.jobs) as session:
        print_prepared(session.output, prepared.remarks, *prepared.reports)
        job, pipeline = prepared.job, prepared.pipeline
        if isinstance(session.workspace, FolderWorkspace):
            with _data_sources(session) as (azure, notify):
                if job is not None and (job.inputs or job.default_datastore):
                    job = bring_inputs(job, session.workspace, azure, notify)
                if pipeline is not None:
                    pipeline = bring_to_steps(pipeline, session.workspace, azure, notify)
        if pipeline is not None:
            begin = partial(submit_pipeline, session.workspace, pipeline, session.cwd, session.notify)
        else:
            assert job is not None
            begin = partial(submit_job, session.jobs, PreparedJob(job, None), session.cwd, session.notify)
        _run_here(session, begin, waits)


def _submit_pipeline(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    options: SubmitOptions,
    request: SubmitRequest,
    sources: Mapping[str, str],
) -> None:
    """Run a pipeline's JSON."""

    prepared = prepare_pipeline(request, creates_cluster=options.create_cluster)
    spec = prepared.spec
    if options.create_cluster and sources["create_cluster"] == TYPED and not spec.cluster:
        raise BadUsage(
            "--create_cluster: this pipeline runs here.",
            hint="Leave it out, or name the cluster: --cluster NAME, or AML_COMPUTE_CLUSTER_NAME in .env",
        )
    waits = options.waits(on_cluster=bool(spec.cluster), sources=sources)
    if options.dry_run:
        cloud_setting(request.cwd)
        output, spec = output_opts.output(), with_named_datastores(prepared)
        print_prepared(output, prepared.remarks, *prepared.reports)
        wheels = {wheel.name for step in spec.steps if step.job.environment for wheel in step.job.environment.wheels}
        return print_job_yaml(output, pipeline_yaml(spec), sorted(wheels))
    if not spec.cluster:
        with open_session(workspace_opts, output_opts, For.jobs) as session:
            print_prepared(session.output, prepared.remarks, *prepared.reports)
            if isinstance(session.workspace, FolderWorkspace):
                with _data_sources(session) as (azure, notify):
                    spec = resolve_locally(prepared, session.workspace, azure, notify)
            _run_here(session, partial(submit_pipeline, session.workspace, spec, session.cwd, session.notify), waits)
        return
    try:  # before anything is looked at; the error says why the pipeline goes there
        azure_for_jobs(workspace_opts.workspace, workspace_opts.config_file, start=request.cwd)
    except BadUsage as err:
        raise BadUsage(str(err), hint=err.hint if request.cluster is not None else prepared.remarks[0]) from err
    with open_session(workspace_opts, output_opts, For.clusters) as session, naming_once_made() as made:
        print_prepared(session.output, prepared.remarks, *prepared.reports)
        with observing(session.output) as notify, naming_pipeline_file(prepared):
            check_cluster(prepared, session.workspace)
            spec = replace(resolve_on_cluster(prepared, session.workspace, notify), new_cluster=prepared.cluster)
            made.append(submit_pipeline(session.workspace, spec, session.cwd, notify))
        wait_or_leave(session, made[0], waits=waits, follows=options.follow)


def resume(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    options: SubmitOptions,
    request: SubmitRequest,
    sources: Mapping[str, str],
) -> None:
    """Go on with the run of --resume. Ctrl-C cancels it while it is waited for. Raises JobFailed, Interrupted,
    BadUsage, RunNotFound."""

    waits = options.waits(on_cluster=False, sources=sources)
    taken = (*COUNT, *OF_RECORD, "resume", "target", "module", "wait", "follow", *SHARED)
    for name, source in sources.items():
        if source == TYPED and REQUEST_FIELDS.get(name, name) not in taken:
            raise BadUsage(
                f"--{name} does not go with --resume: the run goes on as it was submitted.",
                hint="Leave it out; --max_concurrent and --env_var may be given.",
            )
    if request.max_concurrent is not None and request.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent {request.max_concurrent}: at least 1 is needed.")
    reference = non_blank("--resume", options.resume) or ""
    parse_reference(reference)
    with open_session(workspace_opts, output_opts) as session, interruptions() as interrupted:
        run, seen = resume_run(session.workspace, reference, request, session.notify)
        print_run(session.output, run, "Going on with run")
        if waits:
            wait_here(session, run, interrupted, start=seen)
        else:
            print_left_running(session.output, run)


def show_settings(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    values: Mapping[str, Any],
    sources: Mapping[str, str],
) -> None:
    """Print the value of each option and of what is set about Azure ML, and where each came from."""
    checkpoint = str(values.get("checkpoint") or "")
    if is_address(checkpoint):  # its query may hold a signature
        values = {**values, "checkpoint": shown(checkpoint)}
    azure = (
        []
        if workspace_opts.workspace == "local"
        else azure_facts(workspace_opts.workspace, workspace_opts.config_file, start=Path.cwd())
    )
    print_settings(output_opts.output(), values, sources, azure)


def _print_script(output_opts: OutputOptions, job: PreparedJob) -> None:
    """Print the job as Azure ML would get it; nothing is sent, no request is made. Raises BadUsage for a job with a
    checkpoint."""
    if job.checkpoint is not None:
        raise BadUsage(
            "--checkpoint does not go with --dry_run: where the checkpoint lies has to be asked for.",
            hint="Leave one of them out.",
        )
    output = output_opts.output()
    print_prepared(output, job.remarks, job.report)
    wheels = job.spec.environment.wheels if job.spec.environment else ()
    print_job_yaml(output, job_yaml(job.spec), [wheel.name for wheel in wheels])


@contextmanager
def _data_sources(session: Session) -> Iterator[tuple[Callable[[], Workspace | None], Notify]]:
    """Opens the Azure ML workspace that data not here yet may come from; the bar is gone before the job's output is
    shown."""
    with lazy_workspace(partial(open_configured_azure, session.cwd)) as azure, observing(session.output) as notify:
        yield azure, notify


def with_inputs(session: Session, job: PreparedJob) -> PreparedJob:
    """The job with the folders of inputs that are not here yet, but in the Azure ML workspace that is configured."""
    if not (job.spec.inputs or job.spec.default_datastore) or not isinstance(session.workspace, FolderWorkspace):
        return job

    with _data_sources(session) as (azure, notify):
        return replace(job, spec=bring_inputs(job.spec, session.workspace, azure, notify))


def with_checkpoint(session: Session, workspace_opts: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The job with the files of its checkpoint, copied to this machine where they are a run's or at an address. Raises
    NotFound, BadUsage."""
    if job.checkpoint is None:
        return job
    if job.spec.in_place:
        raise BadUsage(
            "--checkpoint does not go with --in_place: it would write into your project.", hint="Leave one of them out."
        )
    from himl_cli.services.checkpoints.fetch import bring_checkpoint

    with _all_runs(session, workspace_opts, job.checkpoint) as runs, observing(session.output) as notify:
        spec = bring_checkpoint(job.checkpoint, runs, job.spec, session.cwd, notify, open_address)
    return replace(job, spec=spec)


def _with_checkpoint_there(session: Session, workspace_opts: WorkspaceOptions, job: PreparedJob) -> PreparedJob:
    """The same for a job on a cluster, which reads the checkpoint from the workspace's storage."""
    if job.checkpoint is None:
        return job
    if job.spec.sdk == "v1":
        raise BadUsage("--checkpoint does not go with --sdk v1.", hint="Leave one of them out.")
    from himl_cli.services.checkpoints.fetch import refer_to_checkpoint

    workspace, cwd = session.workspace, session.cwd
    with _all_runs(session, workspace_opts, job.checkpoint) as runs, observing(session.output) as notify:
        spec = refer_to_checkpoint(job.checkpoint, runs, workspace, job.spec, cwd, notify, open_address)
        return replace(job, spec=spec)


@contextmanager
def _all_runs(session: Session, workspace_opts: WorkspaceOptions, source: str) -> Iterator[Workspace]:
    """All runs that may be meant by *source*, here and on Azure ML."""
    try:
        workspace = open_runs(workspace_opts.workspace, workspace_opts.config_file, start=session.cwd)
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


def _run_here(session: Session, start: Callable[[], Run], waits: bool, spec: JobSpec | None = None) -> None:
    """Start a job on this machine. Ctrl-C cancels it while it is waited for. Raises JobFailed, Interrupted."""
    with interruptions() as interrupted:
        run = start()
        print_run(session.output, run)
        if waits:
            wait_here(session, run, interrupted, spec=spec)
        else:
            print_left_running(session.output, run)


def wait_here(
    session: Session, run: Run, interrupted: list[int], *, start: int = 0, spec: JobSpec | None = None
) -> None:
    """Show the output of a job that runs here, from the byte *start* of its log on, until its end; with its *spec* the
    hint of a failure is more exact. Raises JobFailed, Interrupted."""
    workspace, output = session.workspace, session.output
    with printing_unfinished(session, run), naming(run.id):
        with _showing_output(session, run):
            ended = wait_for_run(workspace, run.id, output.stream, session.notify, interrupted, start=start)
        print_ended(output, ended, last_lines_of_failed_rank(workspace, ended), sweep_outcome(workspace, ended))
        print_unkept(output, unkept_files(workspace, ended))
        child = failed_child(workspace, ended)
        hint = failure_hint(workspace, ended, child, spec=spec, cwd=session.cwd)
        raise_unless_completed(ended, child, failure_hint=hint)


def wait_or_leave(session: Session, run: Run, *, waits: bool, follows: bool, spec: JobSpec | None = None) -> None:
    """Say that the run is on its way, and wait for it where that is wanted: Ctrl-C ends the waiting only. Raises
    JobFailed, Interrupted."""
    if not waits:
        with watching(run.id):
            print_sent(session.output, run, waits=False, follows=False)
        return
    with printing_unfinished(session, run), watching(run.id):
        print_sent(session.output, run, waits=True, follows=follows)
        _wait_there(session, run, follows=follows, spec=spec)


def _wait_there(session: Session, run: Run, *, follows: bool, spec: JobSpec | None) -> None:
    """Wait for a run on a cluster, its log shown where that *follows*, else a sentence now and then; of a sweep about
    its trials. Raises JobFailed."""
    workspace, output = session.workspace, session.output
    with _showing_output(session, run):
        if follows:
            ended = follow_to_end(workspace, run.id, output.stream, session.notify)
        else:
            trials = spec.sweep.max_trials if spec and spec.sweep else 0
            ended = wait_for_end(workspace, run.id, session.notify, trials)
    last_lines = last_lines_of_failed_rank if follows else last_lines_of_failure
    sweep = sweep_outcome(workspace, ended)
    print_ended(output, ended, last_lines(workspace, ended), sweep)
    print_without_values(output, sweep)
    child = failed_child(workspace, ended)
    hint = failure_hint(workspace, ended, child, spec=spec, cwd=session.cwd) if spec else ""
    raise_unless_completed(ended, child, sweep, failure_hint=hint)


@contextmanager
def _showing_output(session: Session, run: Run) -> Iterator[None]:
    """Within it a job's output is printed; where its reader leaves, that the job goes on is said."""
    try:
        yield
    except ReaderGone:
        session.output.notice(
            f"Nobody reads the output any more; run {run.id} goes on. To stop it: himl runs cancel {run.id}"
        )
        raise
    finally:
        session.output.end_line()


@contextmanager
def printing_unfinished(session: Session, run: Run) -> Iterator[None]:
    """Within it the run is waited for; where that breaks off, the run is printed all the same, for whoever reads its id
    (`run=$(himl submit -q)`)."""
    try:
        yield
    except (JobFailed, ReaderGone):
        raise
    except Exception:
        session.output.result(run, human="", quiet=run.id)
        raise


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
