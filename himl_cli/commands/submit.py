"""`himl submit`: run a script, a module or a shell script as a job, here or on a cluster.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.scripts import ScriptCommand, say_misplaced, script_arguments, value_sources
from himl_cli.commands.submit_options import (
    AfterOptions,
    BuildOptions,
    DataOptions,
    EnvironmentOptions,
    ManyOptions,
    NamingOptions,
    PlaceOptions,
    SentOptions,
    submit_request,
)

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
        str | None,
        typer.Argument(
            metavar="TARGET", help="A .py or .sh script, a pipeline .json, or an Azure ML job .yml.", show_default=False
        ),
    ] = None,
    module: Annotated[
        str | None,
        typer.Option(
            "-m", metavar="PACKAGE.MODULE", help="A module, as python -m takes it.", rich_help_panel="Arguments"
        ),
    ] = None,
    command: Annotated[
        str | None,
        typer.Option(
            "--command",
            metavar="LINE",
            help="A command line, of any program, in place of TARGET.",
            rich_help_panel="Arguments",
        ),
    ] = None,
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
      himl submit --command "python -V && python train.py"
      himl submit --resume latest
    """
    sources = value_sources(ctx)
    if after.show_settings:
        from himl_cli.commands.submit_job import say_all_settings

        return say_all_settings(talk, where, ctx.params, sources)
    say_misplaced(ctx, talk)
    bundles = (place, sent, environment, naming, build, data, many, after)
    request = submit_request(Path.cwd(), target, module, command, script_arguments(ctx), bundles, sources)
    if many.resume is not None:
        from himl_cli.commands.submit_job import resume

        return resume(
            where, talk, many.resume, request, waits=after.waits(on_cluster=False, sources=sources), sources=sources
        )
    from himl_cli.services.submission.request import is_file

    if is_file(target):
        from himl_cli.commands.submit_job import submit_file

        return submit_file(where, talk, request, after, sources, create_cluster=place.create_cluster)
    from himl_cli.commands.submit_job import submit_script

    submit_script(where, talk, request, after, sources, create_cluster=place.create_cluster)
