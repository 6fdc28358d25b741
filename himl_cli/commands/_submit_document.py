"""What `himl submit` does with a job in Azure ML's YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._session import For, Session, azure_beside, open_session
from himl_cli.commands._submit_options import AfterOptions
from himl_cli.commands._submit_run import naming_once_made, start_here, wait_or_leave
from himl_cli.core.errors import HimlError
from himl_cli.render.progress import observing
from himl_cli.render.submission import say_all_prepared, say_job_yaml
from himl_cli.services.submission.data import bring_inputs
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.pipelines import bring_to_steps, noted, submit_pipeline
from himl_cli.services.submission.prepare import submit_job
from himl_cli.services.submission.request import PreparedJob
from himl_cli.workspaces.abilities import FindsDatasets
from himl_cli.workspaces.job_abilities import SubmitsDocuments
from himl_cli.workspaces.open import azure_for_jobs

if TYPE_CHECKING:
    from himl_cli.core.jobs import JobSpec, PipelineSpec
    from himl_cli.core.runs import Run
    from himl_cli.services.submission.job_yaml import PreparedDocument
    from himl_cli.services.submission.request import SubmitRequest


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
        return start_here(where, talk, lambda session: _ready_here(session, prepared), waits=waits)
    azure_for_jobs(where.workspace, where.config_file, start=request.cwd)  # before anything is looked at
    with open_session(where, talk, For.clusters) as session, naming_once_made() as made:
        say_all_prepared(session.output, prepared.remarks, prepared.reports)
        with observing(session.output) as notify:
            workspace = session.workspace
            if not isinstance(workspace, SubmitsDocuments):
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


def _ready_here(session: Session, prepared: PreparedDocument) -> Callable[[], Run]:
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
    if not isinstance(here, FindsDatasets):
        return job, pipeline
    with azure_beside(session.cwd) as azure, observing(session.output) as notify:
        if job is not None and (job.inputs or job.default_datastore):
            job = bring_inputs(job, here, azure, notify)
        if pipeline is not None:
            pipeline = bring_to_steps(pipeline, here, azure, notify)
    return job, pipeline
