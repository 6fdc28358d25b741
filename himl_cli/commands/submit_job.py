"""Submission of a script, a pipeline or a YAML job for `himl submit`: locally, locally with a record in Azure ML, or on
a cluster."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from himl_cli.commands.mirror_process import start_mirror
from himl_cli.commands.options import OutputOptions, WorkspaceOptions, options_of
from himl_cli.commands.scripts import TYPED
from himl_cli.commands.session import For, Session, lazy_workspace, open_session
from himl_cli.commands.submit_options import SubmitOptions
from himl_cli.core.errors import (
    BadUsage,
    HimlError,
    Interrupted,
    JobFailed,
    NotFound,
    RunNotFound,
    WorkspaceNotFound,
)
from himl_cli.core.events import Notify
from himl_cli.core.files import WORKSPACE_FOLDER, is_same_place, temporary_folder
from himl_cli.core.jobs import HERE, STEP, JobSpec, is_job_file
from himl_cli.core.redaction import is_address, shown
from himl_cli.core.runs import Run, RunQuery, RunSelection, queued_in
from himl_cli.core.signals import Interruptions, interruptions, unbuffered_terminal
from himl_cli.core.sweeps import MANY, REPEATED
from himl_cli.core.text import non_blank
from himl_cli.core.webhook import Webhook
from himl_cli.render.job_views import (
    print_ended,
    print_job_file,
    print_left_running,
    print_prepared,
    print_run,
    print_sent,
    print_settings,
)
from himl_cli.render.output import Format
from himl_cli.render.progress import Watcher
from himl_cli.services.runs.follow import naming, naming_started, watching
from himl_cli.services.runs.lookup import find_runs, parse_reference
from himl_cli.services.runs.outcome import await_outcome, wait_for_run
from himl_cli.services.submission.data import bring_inputs, send_inputs
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import (
    REQUEST_FIELDS,
    THIS_MACHINE,
    PreparedJob,
    SubmitRequest,
    webhook_of,
    with_terminal,
)
from himl_cli.services.submission.start import (
    RESUME_OPTIONS,
    resume_run,
    start_and_note,
    store_changes,
    submit_mirrored,
    submit_prepared,
    submit_with_changes,
)
from himl_cli.services.submission.sweeps import OF_RECORD
from himl_cli.workspaces.base import CloudWorkspace, FolderWorkspace, ManagedWorkspace, Workspace
from himl_cli.workspaces.remote.address import is_remote, remote_facts
from himl_cli.workspaces.resolve import (
    azure_facts,
    azure_for_jobs,
    azure_for_mirror,
    cloud_setting,
    mirror_place,
    open_address,
    open_azure,
    open_configured_azure,
    open_runs,
)

if TYPE_CHECKING:
    from himl_cli.commands.submit_options import SubmitOptions
    from himl_cli.services.submission.pipelines import PreparedPipeline
    from himl_cli.services.submission.repeat import Repeat


class Submission(NamedTuple):
    """A call of `himl submit`: the request, the source of each value, and the options outside the request. `code` are
    temporary folders with code of runs, and the ids of these runs."""

    workspace_opts: WorkspaceOptions
    output_opts: OutputOptions
    request: SubmitRequest
    sources: Mapping[str, str]
    options: SubmitOptions
    repeat: Repeat | None = None
    code: Mapping[str, str] = {}

    def with_places(self, text: str) -> str:
        """The job file *text* with folders that `himl runs code` can fill in place of temporary ones."""
        for root, run_id in self.code.items():
            folder = f"code_of_{run_id}"
            how = f"# To save the code there: himl runs code {run_id} --output_dir {folder}\n"
            text = (how if root in text else "") + text.replace(root, str(self.request.cwd / folder))
        return text

    def prepared(self) -> PreparedJob:
        """The job of the request. Raises BadUsage, NotFound."""
        job = prepare_job(self.request)
        return job if self.repeat is None else self.repeat.applied(job)

    def waits(self, *, is_sent: bool) -> bool:
        """Whether to wait for the end. The default is to wait for local jobs. Typed options win over settings. Raises
        BadUsage if --follow and --no_wait are both typed or both set."""
        follow, wait = self.options.follow, self.options.wait
        if follow and wait is False:
            typed = [name for name in ("follow", "wait") if self.sources.get(name) == TYPED]
            if len(typed) != 1:
                raise BadUsage(
                    "--follow and --no_wait cannot be combined.",
                    hint="To follow later: himl runs logs --follow RUN",
                )
            return typed == ["follow"]
        return (follow or not is_sent) if wait is None else wait

    @property
    def is_by_ssh(self) -> bool:
        """Whether the job runs on a machine that himl reaches by SSH."""
        return is_remote(self.workspace_opts.workspace or "")

    @property
    def names_workspace(self) -> bool:
        """Whether the user named a workspace, rather than only the place of the job."""
        return any(self.sources[name] != "default" for name in options_of(WorkspaceOptions))

    def makes_cluster(self) -> bool:
        """Whether --create_cluster was typed. As a setting, it only applies to pipelines."""
        return self.options.create_cluster and self.sources["create_cluster"] == TYPED

    def check_notification(self, waits: bool) -> None:
        """Check that himl waits for an Azure ML job with a webhook, as only the waiting command can notify it. Raises
        BadUsage for a typed option, and prints a notice for a setting."""
        if webhook_of(self.request) is None or waits:
            return
        problem = "himl can only notify the webhook while it waits for the Azure ML job"
        if self.request.is_typed("notify"):
            raise BadUsage(f"--notify: {problem}.", hint="Add --wait.")
        self.output_opts.output().notice(f"Ignored: notify, since {problem}. To wait, add --wait.")

    def after_runs(self) -> Submission:
        """The call with the runs of --after as an option of sbatch. Raises RunNotFound, BadUsage."""
        request = self.request
        if not request.after or (request.queue is None and not is_job_file(request.target)):
            return self
        from himl_cli.services.submission.engine_options import after_jobs

        with open_session(self.workspace_opts, self.output_opts, For.runs) as session:
            selection = RunSelection(runs=tuple(request.after), is_exact=True)
            runs = find_runs(session.workspace, selection, cwd=request.cwd, notify=session.notify)
        return self._replace(request=replace(request, sbatch=after_jobs(request.sbatch, runs)))


def run_submission(call: Submission) -> Run | None:
    """Resume or repeat the run that the options name, or else submit the job. Returns and raises like
    `submit_script`."""
    call, options = call.after_runs(), call.options
    if options.resume is not None:
        return _resume(call, options.resume)
    if options.from_run is not None:
        return _repeat(call, options.from_run)
    for name, needed in {"only_args": "from RUN", "same_environment": "from RUN", "new_code": "resume RUN"}.items():
        if call.sources[name] == TYPED:
            raise BadUsage(f"--{name} has no effect without --{needed}.", hint=f"Add --{needed}, or omit --{name}.")
    return submit_file(call) if is_job_file(call.request.target) else submit_script(call)


def submit_script(call: Submission) -> Run | None:
    """Submit a script, a module or a command line, and return its run, or None with --dry_run.

    Raises BadUsage, NotFound, JobFailed, Interrupted.
    """
    request = call.request
    if call.makes_cluster():
        raise BadUsage("--create_cluster is for pipelines, whose .env describes the cluster.", hint="Omit it.")
    is_sent = call.is_by_ssh or request.engine != THIS_MACHINE
    waits = call.waits(is_sent=is_sent)
    if request.tty:
        request = with_terminal(request, waits=waits)
        call = call._replace(request=request)
    if call.options.dry_run:
        _print_script(call)
        return None
    if request.is_mirrored:
        return _run_mirrored(call, waits)
    if request.on_azure:
        if request.sdk == "v1":
            from himl_cli.workspaces.azure.workspace import sdk_v1

            sdk_v1()  # raises
        azure_for_jobs(*call.workspace_opts.names, start=request.cwd)  # raises
        call.check_notification(waits)
    job = call.prepared()
    with open_session(call.workspace_opts, call.output_opts, For.clusters if request.on_azure else For.jobs) as session:
        print_prepared(session.output, job.remarks, job.report)
        if call.workspace_opts.workspace is None:
            _print_other_workspace(session, job.spec)
        job = _with_data(call, session, job)
        start = partial(submit_prepared, session.taker, job)
        if is_sent:
            return _run_sent(call, session, start, waits, job.spec)
        return _run_here(session, start, waits, job.spec)


def _print_other_workspace(session: Session, spec: JobSpec) -> None:
    """Print a notice if the local workspace is not the one in the folder of the script's project."""
    own, used = spec.snapshot.root / WORKSPACE_FOLDER, session.workspace
    if isinstance(used, FolderWorkspace) and own.is_dir() and not is_same_place(own, used.folder):
        path = shlex.quote(os.path.relpath(own, session.cwd))
        session.output.notice(f"himl records this run in {used.label}. For the script's project: --workspace {path}")


def submit_file(call: Submission) -> Run | None:
    """Submit the pipeline or the job in a file: locally, or on the compute target of the file or the user.

    Returns and raises like `submit_script`.
    """
    if str(call.request.target).lower().endswith(".json"):
        return _submit_pipeline(call)
    from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
    from himl_cli.services.submission.pipelines import bring_to_steps

    if call.makes_cluster():
        raise BadUsage("--create_cluster is for pipeline files (.json), whose .env describes the cluster.")
    prepared = prepare_document(call.request)
    is_sent = prepared.goes_to_azure or prepared.is_queued or call.is_by_ssh
    waits = call.waits(is_sent=is_sent)
    if call.options.dry_run:
        output = call.output_opts.output()
        print_prepared(output, prepared.remarks, *prepared.reports)
        if prepared.is_queued and prepared.job is not None:
            _print_batch_script(call, prepared.job)
        else:
            print_job_file(output, changed_yaml(prepared))
        return None
    if prepared.goes_to_azure:
        azure_for_jobs(*call.workspace_opts.names, start=call.request.cwd)  # raises
        call.check_notification(waits)
    with open_session(
        call.workspace_opts, call.output_opts, For.clusters if prepared.goes_to_azure else For.jobs
    ) as session:
        print_prepared(session.output, prepared.remarks, *prepared.reports)
        workspace = session.workspace
        if prepared.goes_to_azure:
            if not isinstance(workspace, CloudWorkspace):
                raise HimlError(f"{workspace.label} cannot run YAML jobs.")
            send = partial(workspace.submit_document, prepared.sent)
            return _run_sent(call, session, send, waits)
        if prepared.pipeline is None:
            assert prepared.job is not None
            job = _with_data(call, session, PreparedJob(prepared.job, None))
            begin: Callable[..., Run] = partial(session.taker.submit, job.spec)
        else:
            pipeline = prepared.pipeline
            if isinstance(workspace, FolderWorkspace):
                with _data_sources(session) as (azure, notify):
                    pipeline = bring_to_steps(pipeline, workspace, azure, notify, open_address)
            begin = partial(session.taker.submit_pipeline, pipeline)
        start = partial(submit_with_changes, workspace, begin, prepared.changes)
        if is_sent:
            return _run_sent(call, session, start, waits)
        return _run_here(session, start, waits)


def _submit_pipeline(call: Submission) -> Run | None:
    from himl_cli.services.submission.pipelines import prepare_pipeline

    return _run_pipeline(call, prepare_pipeline(call.request, creates_cluster=call.options.create_cluster))


def _run_pipeline(call: Submission, prepared: PreparedPipeline, *, is_repeated: bool = False) -> Run | None:
    from himl_cli.services.submission.pipelines import (
        bring_to_steps,
        check_cluster,
        naming_pipeline_file,
        resolve_locally,
        resolve_on_azure,
        with_named_datastores,
    )

    request, spec = call.request, prepared.spec
    if call.makes_cluster() and not spec.cluster:
        raise BadUsage(
            "--create_cluster does not apply to a local pipeline.",
            hint="Omit it, or name the cluster: --cluster NAME, or AML_COMPUTE_CLUSTER_NAME in .env",
        )
    is_queued = request.queue is not None
    is_sent = bool(spec.cluster) or is_queued or call.is_by_ssh
    waits = call.waits(is_sent=is_sent)
    if call.options.dry_run:
        cloud_setting(request.cwd)
        output, spec = call.output_opts.output(), with_named_datastores(prepared)
        print_prepared(output, prepared.remarks, *prepared.reports)
        beside = {name for step in spec.steps if step.job.environment for name in step.job.environment.beside}
        from himl_cli.workspaces.azure.jobs.yaml_form import job_yaml

        print_job_file(output, call.with_places(job_yaml(spec)), sorted(beside), *prepared.reports)
        return None
    if spec.cluster:
        call.check_notification(waits)
        try:
            azure_for_jobs(*call.workspace_opts.names, start=request.cwd)
        except BadUsage as err:  # the remark explains the choice of Azure ML
            raise BadUsage(str(err), hint=err.hint if request.cluster is not None else prepared.remarks[0]) from err
    with open_session(call.workspace_opts, call.output_opts, For.clusters if spec.cluster else For.jobs) as session:
        print_prepared(session.output, prepared.remarks, *prepared.reports)
        workspace = session.workspace
        if not spec.cluster:
            if isinstance(workspace, FolderWorkspace):
                with _data_sources(session) as (azure, notify):
                    spec = resolve_locally(prepared, workspace, azure, notify)
                    if is_repeated:  # its data may be addresses of Azure ML
                        spec = bring_to_steps(spec, workspace, azure, notify, open_address)
            else:
                spec = with_named_datastores(prepared)
            submit = partial(session.taker.submit_pipeline, spec)
            begin = partial(submit_with_changes, workspace, submit, prepared.changes)
            return _run_sent(call, session, begin, waits) if is_sent else _run_here(session, begin, waits)

        def start(notify: Notify) -> Run:
            with naming_pipeline_file(prepared):
                check_cluster(prepared, workspace)
                there = replace(resolve_on_azure(prepared, workspace, notify), new_cluster=prepared.cluster)
                submit = partial(session.taker.submit_pipeline, there)
                return submit_with_changes(workspace, submit, prepared.changes, notify=notify)

        return _run_sent(call, session, start, waits)


def _resume(call: Submission, reference: str) -> Run:
    """Resume the run *reference* of --resume, and return it. While himl waits, Ctrl-C cancels
    the run, but on a cluster it only ends the waiting. Raises JobFailed, Interrupted, BadUsage, RunNotFound."""
    request = call.request
    call.waits(is_sent=False)  # raises for options that exclude each other
    shared = (*options_of(WorkspaceOptions), *options_of(OutputOptions))
    taken = (
        *RESUME_OPTIONS,
        *OF_RECORD,
        "resume",
        "new_code",
        "target",
        "module",
        "command",
        "wait",
        "follow",
        *(("set_values",) if is_job_file(request.target) else ()),
        *shared,
    )
    for name, source in call.sources.items():
        if source == TYPED and REQUEST_FIELDS.get(name, name) not in taken:
            shown = "from" if name == "from_run" else name
            raise BadUsage(
                f"--{shown} cannot be used with --resume, which keeps the options of the run.",
                hint="Omit it. Only --max_concurrent, --max_failures and --env_var can change.",
            )
    if request.max_concurrent is not None and request.max_concurrent < 1:
        raise BadUsage(f"--max_concurrent must be a positive integer, not {request.max_concurrent}.")
    if request.max_failures is not None and request.max_failures < 0:
        raise BadUsage(f"--max_failures must be 0 or a positive integer, not {request.max_failures}.")
    parse_reference(non_blank("--resume", reference))
    with open_session(call.workspace_opts, call.output_opts, For.runs) as session:
        with interruptions() as interrupted:
            given = _given_again(request)
            run, seen = resume_run(session.workspace, reference, request, session.notify, given, call.options.new_code)
            print_run(session.output, run, "Resumed run")
            home = session.workspace.home_of(run.id)
            is_sent = queued_in(run.tags) is not None or not isinstance(home, FolderWorkspace)
            waits = call.waits(is_sent=is_sent)
            if waits and not is_sent:
                return _wait_here(session, run, interrupted, start=seen)
        with watching(run.id):
            if interrupted and is_sent:
                raise KeyboardInterrupt
        if waits:
            return wait_or_leave(session, run, waits=True, follows=call.options.follow, start=seen)
        print_left_running(session.output, run)
        return run


def _repeat(call: Submission, reference: str) -> Run | None:
    """Submit the job of the run *reference* again, as `read_repeat`. Returns and raises like `submit_script`."""
    from himl_cli.commands.submit_options import by_ssh
    from himl_cli.services.submission.repeat import check_same_environment, read_repeat
    from himl_cli.services.submission.repeat_pipeline import repeat_pipeline

    options, pipeline = call.options, None
    with temporary_folder() as folder:
        place = Path(os.path.realpath(folder))
        with ExitStack() as stack:
            session, run = _repeated_run(stack, call, reference)
            workspace, notify = session.workspace, session.notify
            there = run.workspace.removeprefix("workspace ")
            if is_remote(there) and not call.is_by_ssh and not call.request.is_typed("cluster"):
                request, opts = by_ssh(replace(call.request, cluster=there), WorkspaceOptions())
                call = call._replace(request=request, workspace_opts=opts)
            stored = workspace.stored_pipeline(run.id) if MANY in run.tags else None
            if stored is not None:
                given = _given_again(call.request) if call.request.target else {}
                request, pipeline = repeat_pipeline(
                    workspace,
                    run,
                    stored,
                    call.request.without("target"),
                    given,
                    place,
                    notify,
                    only_args=options.only_args,
                )
                call, jobs = call._replace(request=request), [step.job for step in pipeline.spec.steps]
                if options.dry_run:
                    runs = {each.tags.get(STEP): each.id for each in workspace.runs(RunQuery(parent=run.id))}
                    steps = [step for step in pipeline.spec.steps if step.key in runs]
                    call = call._replace(code={str(step.job.snapshot.root): runs[step.key] for step in steps})
            else:
                found = read_repeat(workspace, run, call.request, place, notify, only_args=options.only_args)
                call = call._replace(request=found.request, repeat=found, code={str(place): run.id})
                jobs = [call.prepared().spec] if options.same_environment else []
            for spec in jobs[:1] if options.same_environment else ():
                check_same_environment(workspace, run, spec)
        return submit_script(call) if pipeline is None else _run_pipeline(call, pipeline, is_repeated=True)


def _repeated_run(stack: ExitStack, call: Submission, reference: str) -> tuple[Session, Run]:
    """The run *reference* of --from, and a session that *stack* closes. A machine that --cluster names for the new run
    need not have the old one. Raises RunNotFound, BadUsage."""
    from himl_cli.services.submission.repeat import repeated_run

    def found(opts: WorkspaceOptions) -> tuple[Session, Run]:
        session = stack.enter_context(open_session(opts, call.output_opts, For.runs))
        return session, repeated_run(session.workspace, reference, call.request, session.notify)

    if call.is_by_ssh and not call.names_workspace:
        with suppress(RunNotFound, WorkspaceNotFound):
            return found(WorkspaceOptions())
        stack.close()
    return found(call.workspace_opts)


def _given_again(request: SubmitRequest) -> Mapping[str, tuple[str, Sequence[str]]]:
    """The command lines and the arguments of *request* by the keys of steps, as `ManagedWorkspace.resume` takes them.
    Raises BadUsage for an invalid file."""
    if not is_job_file(request.target):
        return {"": (request.command or "", request.arguments)}
    request = replace(request, cluster=HERE)
    if str(request.target).lower().endswith(".json"):
        from himl_cli.services.submission.pipelines import prepare_pipeline

        steps = prepare_pipeline(request).spec.steps
    else:
        from himl_cli.services.submission.job_yaml import prepare_document

        prepared = prepare_document(request)
        steps = prepared.pipeline.steps if prepared.pipeline else ()
        if prepared.job is not None:
            return {"": (prepared.job.entry.target, prepared.job.arguments)}
    return {step.key: (step.job.entry.target, step.job.arguments) for step in steps}


def show_settings(
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    values: Mapping[str, Any],
    sources: Mapping[str, str],
) -> None:
    """Print the value and source of each option, of the settings of Azure ML and of those of other machines."""
    checkpoint = str(values.get("checkpoint") or "")
    if is_address(checkpoint):  # the query may contain a signature
        values = {**values, "checkpoint": shown(checkpoint)}
    is_local = workspace_opts.workspace == "local"
    azure = [] if is_local else azure_facts(*workspace_opts.names, start=Path.cwd())
    facts = [*((f"azure.{key}", value, source) for key, value, source in azure), *remote_facts(Path.cwd())]
    print_settings(output_opts.output(), values, sources, facts)


def _print_script(call: Submission) -> None:
    cloud_setting(call.request.cwd)
    job = call.prepared()
    if job.checkpoint is not None:
        raise BadUsage(
            "--checkpoint cannot be used with --dry_run, which sends no requests.",
            hint="Omit one of them.",
        )
    output = call.output_opts.output()
    print_prepared(output, job.remarks, job.report)
    if job.spec.engine is not None:
        return _print_batch_script(call, job.spec)
    beside = job.spec.environment.beside if job.spec.environment else ()
    from himl_cli.workspaces.azure.jobs.yaml_form import job_yaml

    print_job_file(output, call.with_places(job_yaml(job.spec)), beside, job.report)


def _print_batch_script(call: Submission, spec: JobSpec) -> None:
    with open_session(call.workspace_opts, call.output_opts, For.jobs) as session:
        if not isinstance(session.workspace, FolderWorkspace):
            raise BadUsage("--dry_run cannot be used on another machine.", hint="Omit it, or use the machine itself.")
        script = session.workspace.batch_script(spec, session.notify)
        print_job_file(session.output, script, name="batch_script")


@contextmanager
def _data_sources(session: Session) -> Iterator[tuple[Callable[[], Workspace | None], Notify]]:
    """Yield an opener of the Azure ML workspace for missing data, and an observer whose progress bar ends before the
    job's log begins."""
    with lazy_workspace(partial(open_configured_azure, session.cwd)) as azure, Watcher(session.output) as notify:
        yield azure, notify


def _with_data(call: Submission, session: Session, job: PreparedJob) -> PreparedJob:
    """The job with its data: inputs that himl fetches from the configured Azure ML workspace, and the checkpoint of a
    run or an https address, in a local copy or, for a cluster, in the workspace's storage.

    Raises NotFound, BadUsage.
    """
    spec, workspace = job.spec, session.workspace
    is_here = not call.request.on_azure
    if is_here and (spec.inputs or spec.default_datastore) and isinstance(workspace, FolderWorkspace):
        with _data_sources(session) as (azure, notify):
            spec = bring_inputs(spec, workspace, azure, notify, open_address)
    elif is_here and isinstance(workspace, ManagedWorkspace):  # on another machine
        with Watcher(session.output) as notify:
            spec = send_inputs(spec, workspace, notify)
    if job.checkpoint is None:
        return replace(job, spec=spec)
    from himl_cli.services.checkpoints.fetch import bring_checkpoint, refer_to_checkpoint

    if spec.in_place or spec.sdk == "v1":
        excluded = "--in_place: it would change your project" if spec.in_place else "--sdk v1"
        raise BadUsage(f"--checkpoint cannot be used with {excluded}.", hint="Omit one of them.")
    with _all_runs(call, session, job.checkpoint) as runs, Watcher(session.output) as notify:
        if is_here:
            spec = bring_checkpoint(job.checkpoint, runs, spec, session.cwd, notify, open_address)
        else:
            spec = refer_to_checkpoint(job.checkpoint, runs, workspace, spec, session.cwd, notify, open_address)
    return replace(job, spec=spec)


@contextmanager
def _all_runs(call: Submission, session: Session, source: str) -> Iterator[Workspace]:
    try:
        workspace = open_runs(*call.workspace_opts.names, start=session.cwd)
    except WorkspaceNotFound:  # the job is the first of its workspace
        try:
            yield session.workspace
        except WorkspaceNotFound:
            raise NotFound(
                f"File '{source}' does not exist, and there are no runs yet.",
                hint="Name a file, or the config.json of the run's workspace.",
            ) from None
        return
    with closing(workspace):
        yield workspace


def _run_here(session: Session, start: Callable[..., Run], waits: bool, spec: JobSpec | None = None) -> Run:
    with interruptions() as interrupted:
        run = start_and_note(start, session.cwd, session.notify)
        print_run(session.output, run)
        if waits:
            return _wait_here(session, run, interrupted, spec=spec)
        print_left_running(session.output, run)
        return run


def _run_sent(
    call: Submission, session: Session, start: Callable[..., Run], waits: bool, spec: JobSpec | None = None
) -> Run:
    with Watcher(session.output) as shown, naming_started(shown) as notify:
        run = start_and_note(start, session.cwd, notify)
        with watching(run.id):
            shown.close()  # before the log begins
        webhook = webhook_of(call.request) if waits else None
        return wait_or_leave(session, run, waits=waits, follows=call.options.follow, spec=spec, webhook=webhook)


def _run_mirrored(call: Submission, waits: bool) -> Run:
    """Run the job on this machine, and mirror it to an Azure ML workspace. While himl waits, Ctrl-C cancels the job.
    Raises JobFailed, Interrupted."""
    from himl_cli.services.runs.mirror_state import wait_until_mirrored

    named, cwd = call.workspace_opts, call.request.cwd
    address = azure_for_mirror(*named.names, start=cwd)
    job = call.prepared()
    # An Azure ML workspace in the options is the target of the mirror, and does not store the local run.
    names_azure = named.config_file or (named.workspace or "").endswith(".json")
    with open_session(WorkspaceOptions() if names_azure else named, call.output_opts, For.jobs) as session:
        print_prepared(session.output, job.remarks, job.report)
        job = _with_data(call, session, job)
        source = cast(FolderWorkspace, session.workspace)
        place = mirror_place(address, cwd)
        with interruptions() as interrupted:
            with closing(open_azure(address, cwd)) as target:
                run, mirrored = submit_mirrored(source, target, job.spec, cwd, place, start_mirror, session.notify)
                store_changes(source, run, job.changes, session.notify)
            print_run(session.output, run, mirrored=mirrored, url=mirrored.url)
            if not waits:
                print_sent(session.output, replace(run, url=mirrored.url), waits=False, follows=False)
                if interrupted:  # during the start
                    source.cancel(run.id)
                    raise Interrupted(f"Canceled run '{run.id}'.", hint=f"Show its status: himl runs show {run.id}")
                return run
            try:
                ended = _wait_here(session, run, interrupted, spec=job.spec)
            except JobFailed:
                wait_until_mirrored(source, run, mirrored.workspace, session.notify, interrupted)
                raise
            is_complete = wait_until_mirrored(source, run, mirrored.workspace, session.notify, interrupted)
            if interrupted and not is_complete:
                raise Interrupted(
                    f"Stopped waiting. Run '{run.id}' has ended.", hint=f"Show it: himl runs show {run.id}"
                )
            return ended


def _wait_here(
    session: Session, run: Run, interrupted: Interruptions, *, start: int = 0, spec: JobSpec | None = None
) -> Run:
    """Print the log of a local job from byte *start* until its end, and return the ended run.

    With *spec*, the hint for a failure is more exact. Raises JobFailed, Interrupted.
    """
    keys = unbuffered_terminal() if spec is not None and spec.tty else nullcontext()
    watch = _watch_sweep(session, run, interrupted)
    with naming(run.id), session.output.job_output(run) as write, keys:
        return await_outcome(
            session.workspace,
            run,
            session.notify,
            partial(print_ended, session.output, is_watched=watch is not None),
            write=None if watch else write,
            watch=watch,
            start=start,
            spec=spec,
            interrupted=interrupted,
            cwd=session.cwd,
        )


def _watch_sweep(session: Session, run: Run, interrupted: Interruptions | None = None) -> Callable[[], Run] | None:
    """A function that shows the trials of a sweep on the terminal until it ends. None for other runs and without a
    terminal. A signal in *interrupted* cancels the run."""
    output = session.output
    is_sweep = run.tags.get(MANY) == "sweep" or run.tags.get(MANY) in REPEATED
    if not is_sweep or output.format is not Format.human or not output.has_screen:
        return None

    def watch() -> Run:
        from himl_cli.core.logged import WatchedRuns
        from himl_cli.render.watch import run_frame, view
        from himl_cli.services.runs.watch import watch_runs

        watched = WatchedRuns([run])
        with view(output, run_frame) as shown:

            def follow() -> Run:
                for pause in watch_runs(session.workspace, watched, shown.notify):
                    shown.show(watched, pause)
                return watched.runs[0]

            if interrupted is None:
                return follow()
            return wait_for_run(session.workspace, run.id, follow, shown.notify, interrupted)

    return watch


def wait_or_leave(
    session: Session,
    run: Run,
    *,
    waits: bool,
    follows: bool,
    spec: JobSpec | None = None,
    webhook: Webhook | None = None,
    start: int = 0,
) -> Run:
    """Print that himl submitted the run to a cluster, and wait for its end if it *waits*.

    Prints the log from byte *start* if it *follows*, else occasional status lines, for a sweep about its trials. Ctrl-C
    only stops the waiting. Notifies the *webhook* of an Azure ML run's end. Raises JobFailed, Interrupted.
    """
    output = session.output
    with watching(run.id):
        print_sent(output, run, waits=waits, follows=follows)
        if spec is not None and spec.services:
            output.notice(f"To connect to {', '.join(spec.services)}: himl runs attach {run.id}")
        if not waits:
            return run
        watch = None if follows else _watch_sweep(session, run)
        with output.job_output(run) as write:
            return await_outcome(
                session.workspace,
                run,
                session.notify,
                partial(print_ended, output, is_watched=watch is not None),
                write=write if follows else None,
                watch=watch,
                start=start,
                spec=spec,
                webhook=webhook,
                cwd=session.cwd,
            )
