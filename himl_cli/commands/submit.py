"""`himl submit`: run a script, a module or a shell script as a job.

Services are imported in the functions that need them, so that help comes at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands._group import command, group
from himl_cli.commands._options import OutputOptions, WorkspaceOptions
from himl_cli.commands._script_command import ScriptCommand, script_arguments, value_sources
from himl_cli.commands._session import For, Session, open_session
from himl_cli.commands._submit_options import AfterOptions, BuildOptions, DataOptions, NamingOptions, PlaceOptions, SentOptions, submit_request

if TYPE_CHECKING:
    from himl_cli.core.runs import Run

app = group()


@command(app, "submit", cls=ScriptCommand)
def submit(
    ctx: typer.Context,
    place: PlaceOptions,
    sent: SentOptions,
    naming: NamingOptions,
    build: BuildOptions,
    data: DataOptions,
    after: AfterOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    target: Annotated[str | None, typer.Argument(metavar="TARGET", help="A .py or .sh script.", show_default=False)] = None,
    module: Annotated[str | None, typer.Option("-m", metavar="PACKAGE.MODULE", help="A module, as python -m takes it.", rich_help_panel="Arguments")] = None,
) -> None:
    """Run a script as a job: a snapshot of its project, recorded with its log, outputs and metrics.

    Arguments of the script stand after --.

    \b
      himl submit train.py -- --epochs 5
      himl submit train.py --tag team=blue --no_wait
      himl submit -m lab.train --processes_per_node 2
      himl submit train.py --input mnist,local=data/mnist
    """
    from himl_cli.core.interruptions import interruptions
    from himl_cli.render.settings import say_settings
    from himl_cli.render.submission import say_left_running, say_snapshot, say_submitted
    from himl_cli.services.submission import check_place, prepare_job, submit_job
    from himl_cli.workspaces.open import nearest_azure_config

    cwd = Path.cwd()
    if after.show_settings:
        return say_settings(talk.output(), ctx.params, value_sources(ctx))
    check_place(place.cluster, place.record_in, nearest_azure_config(cwd))
    job = prepare_job(submit_request(cwd, target, module, script_arguments(ctx), place, sent, naming, build, data))
    with open_session(where, talk, For.jobs) as session, interruptions() as interrupted:
        say_snapshot(session.output, job.report)
        run = submit_job(session.jobs, job, cwd, session.notify)
        say_submitted(session.output, run)
        if after.wait:
            _wait(session, run, interrupted)
        else:
            say_left_running(session.output, run)


def _wait(session: Session, run: Run, interrupted: list[int]) -> None:
    from himl_cli.render.errors import ReaderGone
    from himl_cli.render.submission import say_ended
    from himl_cli.services.waiting import last_lines_of_failed_rank, raise_unless_completed, wait_for_run

    try:
        ended = wait_for_run(session.workspace, run.id, session.output.stream, session.notify, interrupted)
    except ReaderGone:
        session.output.notice(f"Nobody reads the output any more; run {run.id} goes on. To stop it: himl runs cancel {run.id}")
        raise
    finally:
        session.output.end_line()
    say_ended(session.output, ended, last_lines_of_failed_rank(session.workspace, ended))
    raise_unless_completed(ended)
