"""`himl runs`: what ran, how it ended, and what can be done about it.

Services are imported in the commands that need them, so that help comes at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated

import typer

from himl_cli.commands.groups import command, group
from himl_cli.commands.options import (
    ALL_RUNS,
    FilterOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    WorkspaceOptions,
    parse_pairs,
    split_list,
)
from himl_cli.commands.session import Session, open_session
from himl_cli.core.errors import BadUsage
from himl_cli.render.output import Format

if TYPE_CHECKING:
    from himl_cli.core.runs import Run

LISTED = 20
METRICS = "Metrics"

app = group("List, show, compare, follow, cancel, tag and delete runs.")


@command(app, "list")
def list_runs(filters: FilterOptions, where: WorkspaceOptions, talk: OutputOptions) -> None:
    """List runs, newest first.

    The last 20, unless --num_runs says otherwise.

    \b
      himl runs list --experiment train --status Failed
      himl runs list --num_runs all --json
    """
    from himl_cli.core.runs import RunQuery
    from himl_cli.render.runs import run_columns

    limit = None if filters.num_runs == ALL_RUNS else filters.num_runs or LISTED
    matching = " match" if filters.experiment or filters.statuses or filters.tags else ""
    with open_session(where, talk) as session:
        query = RunQuery(filters.experiment, filters.statuses, filters.tags, limit=limit)
        if filters.experiment is None:
            runs = session.workspace.runs(query)
        else:
            from himl_cli.services.runs.lookup import runs_of_experiment

            runs = runs_of_experiment(session.workspace, query, session.notify)
        session.output.table(
            runs, run_columns, quiet=lambda run: str(run.id), empty=f"No runs in {session.workspace.label}{matching}."
        )


@command(app, "show")
def show(selection: SelectionOptions, where: WorkspaceOptions, talk: OutputOptions, runs: RunArgs = None) -> None:
    """Show one run in full: outcome, tags, metrics, texts, trials or steps.

    Without a run: the one submitted last from this folder.

    \b
      himl runs show
      himl runs show train_1772366400_0a1b2c3d --json
    """
    from himl_cli.render.runs import run_view
    from himl_cli.services.runs.details import run_details
    from himl_cli.services.runs.lookup import find_runs, means_one_run

    wanted = selection.selection(runs)
    with open_session(where, talk) as session:
        found = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        details = [run_details(session.workspace, run) for run in found]
        session.output.result(
            details[0] if means_one_run(wanted) else details,
            human=lambda: "\n\n\n".join("\n".join(run_view(each)) for each in details),
            quiet=[each.run.id for each in details],
        )


@command(app, "aggregate")
def aggregate(
    selection: SelectionOptions,
    runs: RunArgs = None,
    child_arg: Annotated[
        str | None,
        typer.Option(
            "--child_arg",
            metavar="NAME",
            help="Name the columns by this tag or argument.  [default: what differs between them]",
            rich_help_panel=METRICS,
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option("--metrics", metavar="GLOB,...", help="Only metrics of these names.", rich_help_panel=METRICS),
    ] = None,
    no_stats: Annotated[
        bool, typer.Option("--no_stats", help="No mean, std, min, max and median.", rich_help_panel=METRICS)
    ] = False,
    output_csv: Annotated[
        str | None, typer.Option("--output_csv", metavar="FILE", help="The table as CSV.", rich_help_panel=METRICS)
    ] = None,
    output_parquet: Annotated[
        str | None,
        typer.Option(
            "--output_parquet", metavar="FILE", help="All points as Parquet, a row a point.", rich_help_panel=METRICS
        ),
    ] = None,
    plot: Annotated[
        str | None,
        typer.Option("--plot", metavar="FILE", help="Curves over all runs, .png or .svg.", rich_help_panel=METRICS),
    ] = None,
    *,
    where: WorkspaceOptions,  # last, so that help tells of them last
    talk: OutputOptions,
) -> None:
    """Metrics of many runs side by side, with statistics.

    A sweep, cross-validation or pipeline stands for its children. Also while they run.

    \b
      himl runs aggregate
      himl runs aggregate --run abc --metrics 'val/*' --plot curves.png
      himl runs aggregate --experiment train --num_runs 5 --output_csv seeds.csv
    """
    from pathlib import Path

    from himl_cli.commands.aggregate import Wishes, aggregate_runs

    paths = [None if name is None else Path(name) for name in (output_csv, output_parquet, plot)]
    wishes = Wishes(child_arg, split_list(metrics), not no_stats, *paths)
    wishes.check()
    wanted = selection.selection(runs)
    with open_session(where, talk) as session:
        aggregate_runs(session, wanted, wishes)


@command(app, "logs")
def logs(
    selection: SelectionOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    runs: RunArgs = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until the run has ended.", rich_help_panel="Log")
    ] = False,
    file: Annotated[
        str | None,
        typer.Option(
            "--file",
            metavar="NAME",
            help="Another log than the main one, e.g. std_log_process_1.txt.",
            rich_help_panel="Log",
        ),
    ] = None,
    attempt: Annotated[
        int | None,
        typer.Option(
            "--try",
            metavar="N",
            help="Of a job that was tried again: the Nth try's log.  [default: the last]",
            rich_help_panel="Log",
        ),
    ] = None,
) -> None:
    """Print the log of a run, also while it runs.

    The bytes are printed unchanged. Ctrl-C stops --follow, not the run.

    \b
      himl runs logs --follow
      himl runs logs latest --file std_log_process_1.txt
    """
    from himl_cli.services.runs.lookup import find_runs

    check_form(talk.format, attempt, follow=follow)
    wanted = selection.selection(runs, single="--follow" if follow else "")
    with open_session(where, talk) as session:
        found = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        print_logs(session, found, file, attempt, follow=follow)


@command(app, "cancel")
def cancel(selection: SelectionOptions, where: WorkspaceOptions, talk: OutputOptions, runs: RunArgs = None) -> None:
    """Stop runs.

    Name them: none is taken by default. A sweep or a pipeline stops with all that is below it; a trial stops alone.

    \b
      himl runs cancel latest
      himl runs cancel train_1772366400_0a1b2c3d_3
    """
    from himl_cli.render.runs import cancel_text
    from himl_cli.services.runs.changes import cancel_runs
    from himl_cli.services.runs.lookup import find_runs

    wanted = selection.selection(runs, explicit=True)
    with open_session(where, talk) as session:
        found = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        outcomes = cancel_runs(session.workspace, found)
        session.output.result(
            outcomes, human="\n".join(map(cancel_text, outcomes)), quiet=[each.id for each in outcomes if each.asked]
        )


@command(app, "tag")
def tag(
    selection: SelectionOptions,
    where: WorkspaceOptions,
    talk: OutputOptions,
    given: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN]... KEY=VALUE...", help="Run ids, and the tags to set.", show_default=False),
    ] = None,
) -> None:
    """Set tags on runs.

    Other tags stay. Name the runs: none is taken by default.

    \b
      himl runs tag train_1772366400_0a1b2c3d team=blue stage=final
      himl runs tag --experiment train --num_runs 5 keep=yes
    """
    from himl_cli.services.runs.changes import check_tags, tag_runs, tags_explained
    from himl_cli.services.runs.lookup import find_runs

    plain = [word for word in given or () if "=" not in word or "://" in word]
    tags = parse_pairs("himl runs tag RUN", [word for word in given or () if word not in plain])
    check_tags(tags)
    wanted = selection.selection(plain, explicit=True)
    with open_session(where, talk) as session:
        with tags_explained():
            found = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        tagged = tag_runs(session.workspace, found, tags)
        text = ", ".join(f"{key}={value}" for key, value in tags.items())
        session.output.result(
            tagged,
            human="\n".join(f"Tagged run '{run.id}': {text}" for run in tagged),
            quiet=[run.id for run in tagged],
        )


@command(app, "delete")
def delete(selection: SelectionOptions, where: WorkspaceOptions, talk: OutputOptions, runs: RunArgs = None) -> None:
    """Delete runs with all their files; asks first.

    Only runs that are kept on this machine; their children are deleted with them.

    \b
      himl runs delete train_1772366400_0a1b2c3d
      himl runs delete --experiment scratch --num_runs all --yes
    """
    from himl_cli.render.runs import deleted_text, deletion_text
    from himl_cli.services.runs.changes import check_deletable, delete_runs, runs_below
    from himl_cli.services.runs.lookup import find_runs

    wanted = selection.selection(runs, explicit=True)
    with open_session(where, talk) as session:
        doomed = find_runs(session.workspace, wanted, cwd=session.cwd, notify=session.notify)
        check_deletable(session.workspace, doomed)
        below = runs_below(session.workspace, doomed)
        session.output.insist(f"{deletion_text(doomed, below)}?")
        delete_runs(session.workspace, doomed)
        names = [run.id for run in doomed]
        session.output.result(
            {"deleted": names}, human="\n".join(deleted_text(run, below[run.id]) for run in doomed), quiet=names
        )


def check_form(form: Format, attempt: int | None, *, follow: bool) -> None:
    """Raises BadUsage for a JSON document that would have no end, and for a try that no job has."""
    if attempt is not None and attempt < 1:
        raise BadUsage(f"--try {attempt}: tries count from 1.")
    if follow and form is Format.json:
        raise BadUsage(
            "--follow and --json do not go together: a JSON document has an end.", hint="Leave one of them out."
        )


def print_logs(session: Session, runs: Sequence[Run], name: str | None, attempt: int | None, *, follow: bool) -> None:
    """Print the log of each of *runs*. Raises NotFound where one has none, Interrupted when *follow* is cut short."""
    from himl_cli.services.runs.logs import follow_log, read_log, watching

    if follow and len(runs) > 1:
        raise BadUsage(f"--follow takes one run, and {len(runs)} are meant.", hint="Give one run id.")
    if session.output.format is Format.json:
        _as_json(session, runs, name, attempt)
        return
    for run in runs:
        if len(runs) > 1:
            session.output.notice(f"==> {run.id} <==")
        read = follow_log if follow else read_log
        with watching(run.id) if follow else nullcontext():
            for piece in read(session.workspace, run.id, name, session.notify, attempt=attempt):
                session.output.write(piece)
                session.output.flush()


def _as_json(session: Session, runs: Sequence[Run], name: str | None, attempt: int | None) -> None:
    """Bytes that are no UTF-8 become the lone surrogates by which Python writes them."""
    from himl_cli.services.runs.logs import read_log

    logs = [b"".join(read_log(session.workspace, run.id, name, session.notify, attempt=attempt)) for run in runs]
    session.output.json(
        [{"run": run.id, "log": log.decode("utf-8", "surrogateescape")} for run, log in zip(runs, logs, strict=True)]
    )
