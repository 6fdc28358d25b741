"""`himl submit`: run a script, a module or a shell script as a job, locally or on a cluster.

Functions import the services that they use, to keep help fast.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import OutputOptions, WorkspaceOptions
from himl_cli.commands.scripts import (
    ScriptCommand,
    print_misplaced,
    print_outside,
    script_arguments,
    value_sources,
)
from himl_cli.commands.submit_options import SubmitOptions, by_ssh
from himl_cli.core.processes import end_standby, standby
from himl_cli.workspaces.local import SUPERVISOR
from himl_cli.workspaces.remote.address import is_remote

app = group()


@command(app, "submit", cls=ScriptCommand)
def submit(
    ctx: typer.Context,
    options: SubmitOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    target: Annotated[
        str | None,
        typer.Argument(metavar="TARGET", help="A .py, .sh, pipeline .json or Azure ML job .yml.", show_default=False),
    ] = None,
) -> Any:
    """Run a script as a job, from a snapshot of its project.

    himl saves the log, the outputs and the metrics. The job runs on this machine, or with --cluster on Azure ML,
    on Slurm or by SSH. Write the script's arguments after --. For many runs, use --sweep, --crossval or
    --different_seeds.

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
      himl submit --from latest -- --lr 0.2
    """
    sources = value_sources(ctx)
    print_outside(output_opts)
    if options.show_settings:
        from himl_cli.commands.submit_job import show_settings

        show_settings(workspace_opts, output_opts, ctx.params, sources)
        return None
    print_misplaced(ctx, output_opts)
    with ExitStack() as stack:
        if options.resume is None and options.from_run is None and sources["snapshot_root"] == "default":
            stack.enter_context(_asking_git(target))
        request = options.request(Path.cwd(), target, script_arguments(ctx), sources)
        request, workspace_opts = by_ssh(request, workspace_opts)
        from himl_cli.core.jobs import is_job_file
        from himl_cli.services.submission.request import THIS_MACHINE

        is_elsewhere = request.engine != THIS_MACHINE or is_remote(workspace_opts.workspace or "")
        is_many = request.sweep or request.crossval or request.different_seeds
        is_other = options.resume is not None or options.from_run is not None or options.dry_run or is_job_file(target)
        if is_elsewhere or is_many or is_other:
            end_standby(SUPERVISOR)
        else:
            stack.enter_context(standby(SUPERVISOR))
        from himl_cli.commands import submit_job

        return submit_job.run_submission(submit_job.Submission(workspace_opts, output_opts, request, sources, options))


def _asking_git(target: str | None) -> AbstractContextManager[None]:
    """Ask git about the project of a job, while himl loads its modules for the submission."""
    from himl_cli.services.submission.git import asking_ahead
    from himl_cli.services.submission.snapshot import find_snapshot_root

    return asking_ahead(find_snapshot_root(Path(target).parent.resolve() if target else Path.cwd()))
