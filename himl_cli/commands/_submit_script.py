"""What `himl submit` does with a script or a module: run it here, here but recorded on Azure ML, or on a cluster, or
only show the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._submit_options import TYPED, AfterOptions
from himl_cli.commands._submit_run import run_here, run_on_cluster, say_dry_run
from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.workspaces.open import azure_for_jobs, azure_to_record_in, check_azure_settings, require_sdk_v1

if TYPE_CHECKING:
    from himl_cli.services.submission.request import SubmitRequest


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
