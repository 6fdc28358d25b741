"""What `himl submit` does with a file that tells of a whole job: a pipeline's JSON, or a job in Azure ML's YAML."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._session import For, Session, azure_beside, open_session
from himl_cli.commands._submit_options import TYPED, AfterOptions
from himl_cli.commands._submit_run import naming_once_made, start_here, wait_or_leave
from himl_cli.core.errors import BadUsage
from himl_cli.render.progress import observing
from himl_cli.render.submission import say_all_prepared, say_job_yaml
from himl_cli.services.submission.pipelines import (
    as_named,
    check_cluster,
    find_here,
    find_there,
    in_words_of_the_file,
    prepare_pipeline,
    submit_pipeline,
)
from himl_cli.services.submission.request import is_pipeline
from himl_cli.workspaces.abilities import FindsDatasets
from himl_cli.workspaces.open import azure_for_jobs, check_azure_settings

if TYPE_CHECKING:
    from himl_cli.core.runs import Run
    from himl_cli.services.submission.pipelines import PreparedPipeline
    from himl_cli.services.submission.request import SubmitRequest


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
        from himl_cli.commands._submit_document import submit_document_file

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
    start_here(where, talk, lambda session: _ready_here(session, prepared), waits=waits)


def _check_azure(where: WorkspaceOptions, request: SubmitRequest, prepared: PreparedPipeline) -> None:
    """Raises BadUsage where no Azure ML workspace is meant, before anything is looked at; it says why the pipeline goes
    there."""
    try:
        azure_for_jobs(where.workspace, where.config_file, start=request.cwd)
    except BadUsage as err:
        raise BadUsage(str(err), hint=err.hint if request.cluster is not None else prepared.remarks[0]) from err


def _ready_here(session: Session, prepared: PreparedPipeline) -> Callable[[], Run]:
    say_all_prepared(session.output, prepared.remarks, prepared.reports)
    spec = prepared.spec
    if isinstance(session.workspace, FindsDatasets):
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
