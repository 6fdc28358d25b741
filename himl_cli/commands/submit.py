"""`himl submit`: run a script, a module or a shell script as a job, here or on a cluster.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.scripts import ScriptCommand, print_misplaced, script_arguments, value_sources
from himl_cli.commands.submit_options import SubmitOptions

app = group()


@command(app, "submit", cls=ScriptCommand)
def submit(
    ctx: typer.Context,
    options: SubmitOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET", help="A .py or .sh script, a pipeline .json, or an Azure ML job .yml.", show_default=False
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
    if options.show_settings:
        from himl_cli.commands.submit_job import show_settings

        return show_settings(workspace_opts, output_opts, ctx.params, sources)
    print_misplaced(ctx, output_opts)
    request = options.request(Path.cwd(), target, script_arguments(ctx), sources)
    from himl_cli.commands import submit_job
    from himl_cli.services.submission.request import is_file

    call = submit_job.Submission(workspace_opts, output_opts, options, request, sources)
    if options.resume is not None:
        submit_job.resume(call)
    elif is_file(target):
        submit_job.submit_file(call)
    else:
        submit_job.submit_script(call)
