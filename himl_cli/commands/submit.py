"""`himl submit`: run a script, a module or a shell script as a job, here or on a cluster.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._script_command import ScriptCommand, script_arguments, value_sources
from himl_cli.commands._submit_many import ManyOptions
from himl_cli.commands._submit_naming import BuildOptions, NamingOptions
from himl_cli.commands._submit_options import TYPED, AfterOptions, DataOptions, submit_request
from himl_cli.commands._submit_place import EnvironmentOptions, PlaceOptions, SentOptions
from himl_cli.core.errors import BadUsage

app = group()


@command(app, "submit", cls=ScriptCommand)
def submit(
    ctx: typer.Context,
    place: PlaceOptions,
    sent: SentOptions,
    environment: EnvironmentOptions,
    naming: NamingOptions,
    build: BuildOptions,
    data: DataOptions,
    many: ManyOptions,
    after: AfterOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    target: Annotated[
        str | None, typer.Argument(metavar="TARGET", help="A .py or .sh script, a pipeline .json, or an Azure ML job .yml.", show_default=False)
    ] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="PACKAGE.MODULE", help="A module, as python -m takes it.", rich_help_panel="Arguments")] = None,
) -> None:
    """Run a script as a job: a snapshot of its project, recorded with its log, outputs and metrics.

    Here, or with --cluster on Azure ML. Arguments of the script stand after --. With --sweep, --crossval or
    --different_seeds it is many runs, each with values of its own.

    \b
      himl submit train.py -- --epochs 5
      himl submit train.py --cluster gpu --follow
      himl submit train.py --cluster gpu --dry_run > job.yml
      himl submit -m lab.train --cluster gpu --num_nodes 2 --processes_per_node 4
      himl submit train.py --input mnist,local=data/mnist --tag team=blue
      himl submit train.py --sweep lr=0.1,0.01 --max_concurrent 2
      himl submit train.py --crossval 5 --cluster gpu
      himl submit --resume latest
    """
    from himl_cli.commands._submit_run import run_here, run_on_cluster, say_all_settings, say_dry_run
    from himl_cli.services.submission import prepare_job
    from himl_cli.services.submission.target import is_file
    from himl_cli.workspaces.open import azure_for_jobs, azure_to_record_in, check_azure_settings, require_sdk_v1

    cwd = Path.cwd()
    sources = value_sources(ctx)
    if after.show_settings:
        return say_all_settings(talk, where, ctx.params, sources)
    request = submit_request(cwd, target, module, script_arguments(ctx), (place, sent, environment, naming, build, data, many, after), sources)
    if many.resume is not None:
        from himl_cli.commands._submit_resume import resume

        return resume(where, talk, many.resume, request, waits=after.waits(on_cluster=False, sources=sources), sources=sources)
    if is_file(target):
        from himl_cli.commands._submit_file import submit_file

        return submit_file(where, talk, request, after, sources, create_cluster=place.create_cluster)
    if place.create_cluster and sources["create_cluster"] == TYPED:
        raise BadUsage("--create_cluster is for pipelines, whose .env says what the cluster is like.", hint="Leave it out.")
    waits = after.waits(on_cluster=bool(request.on_cluster), sources=sources)
    if after.dry_run:
        check_azure_settings(cwd)
        return say_dry_run(talk, prepare_job(request))
    if request.is_told_to_azure:
        from himl_cli.commands._submit_recorded import run_recorded

        address = azure_to_record_in(where.workspace, where.config_file, start=cwd)
        return run_recorded(where, talk, prepare_job(request), address, waits=waits)
    if not request.on_cluster:
        return run_here(where, talk, prepare_job(request), waits=waits)
    if request.sdk == "v1":
        require_sdk_v1()
    azure_for_jobs(where.workspace, where.config_file, start=cwd)  # before anything is looked at
    run_on_cluster(where, talk, prepare_job(request), waits=waits, follows=after.follow)
