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
    Bundle,
    FilterOptions,
    OutputOptions,
    RunArgs,
    SelectionOptions,
    WorkspaceOptions,
    option,
    parse_list,
    parse_pairs,
)
from himl_cli.commands.session import Session, open_session
from himl_cli.core.errors import BadUsage
from himl_cli.render.output import Format

if TYPE_CHECKING:
    from himl_cli.core.runs import Run, RunSelection

LISTED = 20

app = group("List, show, compare, follow, cancel, tag and delete runs.")


@command(app, "list")
def list_runs(filters: FilterOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions) -> None:
    """List runs, newest first.

    The last 20, unless --num_runs says otherwise.

    \b
      himl runs list --experiment train --status Failed
      himl runs list --num_runs all --json
    """
    from himl_cli.core.runs import RunQuery
    from himl_cli.render.run_views import run_columns

    limit = None if filters.num_runs == ALL_RUNS else filters.num_runs or LISTED
    query = RunQuery(filters.experiment, filters.status, filters.tags, limit=limit)
    matching = " match" if filters.experiment or filters.status or filters.tags else ""
    with open_session(workspace_opts, output_opts) as session:
        if filters.experiment is None:
            runs = session.workspace.runs(query)
        else:
            from himl_cli.services.runs.lookup import runs_of_experiment

            runs = runs_of_experiment(session.workspace, query, session.notify)
        empty = f"No runs in {session.workspace.label}{matching}."
        session.output.table(runs, run_columns, quiet=lambda run: str(run.id), empty=empty)


@command(app, "show")
def show(
    selection: SelectionOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, runs: RunArgs = None
) -> None:
    """Show one run in full: outcome, tags, metrics, texts, trials or steps.

    Without a run: the one submitted last from this folder.

    \b
      himl runs show
      himl runs show train_1772366400_0a1b2c3d --json
    """
    from himl_cli.render.run_views import run_view
    from himl_cli.services.runs.details import run_details
    from himl_cli.services.runs.lookup import means_one_run

    selected = selection.selection(runs)
    with open_session(workspace_opts, output_opts) as session:
        details = [run_details(session.workspace, run) for run in _find(session, selected)]
        session.output.result(
            details[0] if means_one_run(selected) else details,
            human=lambda: "\n\n\n".join("\n".join(run_view(each)) for each in details),
            quiet=[each.run.id for each in details],
        )


class MetricOptions(Bundle, panel="Metrics"):
    """Which metrics, and the files that they are written to."""

    child_arg: str | None = option(
        "Name the columns by this tag or argument.  [default: what differs between them]", "NAME"
    )
    metrics: Sequence[str] = option("Only metrics of these names.", "GLOB,...", many=True, parse=parse_list)
    no_stats: bool = option("No mean, std, min, max and median.", default=False)
    output_csv: str | None = option("The table as CSV.", "FILE")
    output_parquet: str | None = option("All points as Parquet, a row a point.", "FILE")
    plot: str | None = option("Curves over all runs, .png or .svg.", "FILE")


@command(app, "aggregate")
def aggregate(
    selection: SelectionOptions,
    metrics: MetricOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Metrics of many runs side by side, with statistics.

    A sweep, cross-validation or pipeline stands for its children. Also while they run.

    \b
      himl runs aggregate
      himl runs aggregate --run abc --metrics 'val/*' --plot curves.png
      himl runs aggregate --experiment train --num_runs 5 --output_csv seeds.csv
    """
    from himl_cli.commands.aggregate import aggregate_runs, checked_files

    files = checked_files(metrics)
    selected = selection.selection(runs)
    with open_session(workspace_opts, output_opts) as session:
        aggregate_runs(session, selected, metrics, files)


class LogOptions(Bundle, panel="Log"):
    """Which log."""

    follow: bool = option("Go on until the run has ended.", default=False)
    file: str | None = option("Another log than the main one, e.g. std_log_process_1.txt.", "NAME")
    attempt: int | None = option(
        "Of a job that was tried again: the Nth try's log.  [default: the last]",
        "N",
        names=("--try",),
        kind=int | None,
    )

    def validate(self) -> None:
        if self.attempt is not None and self.attempt < 1:
            raise BadUsage(f"--try {self.attempt}: tries count from 1.")


@command(app, "logs")
def logs(
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    log: LogOptions,
    runs: RunArgs = None,
) -> None:
    """Print the log of a run, also while it runs.

    The bytes are printed unchanged. Ctrl-C stops --follow, not the run.

    \b
      himl runs logs --follow
      himl runs logs latest --file std_log_process_1.txt
    """
    if log.follow and output_opts.format is Format.json:
        raise BadUsage(
            "--follow and --json do not go together: a JSON document has an end.", hint="Leave one of them out."
        )
    selected = selection.selection(runs, single="--follow" if log.follow else "")
    with open_session(workspace_opts, output_opts) as session:
        _print_logs(session, _find(session, selected), log)


@command(app, "cancel")
def cancel(
    selection: SelectionOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, runs: RunArgs = None
) -> None:
    """Stop runs.

    Name them: none is taken by default. A sweep or a pipeline stops with all that is below it; a trial stops alone.

    \b
      himl runs cancel latest
      himl runs cancel train_1772366400_0a1b2c3d_3
    """
    from himl_cli.render.run_views import cancel_text
    from himl_cli.services.runs.changes import cancel_runs

    selected = selection.selection(runs, explicit=True)
    with open_session(workspace_opts, output_opts) as session:
        outcomes = cancel_runs(session.workspace, _find(session, selected))
        session.output.result(
            outcomes, human="\n".join(map(cancel_text, outcomes)), quiet=[each.id for each in outcomes if each.asked]
        )


@command(app, "tag")
def tag(
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
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

    plain = [word for word in given or () if "=" not in word or "://" in word]
    tags = parse_pairs("himl runs tag RUN", [word for word in given or () if word not in plain])
    check_tags(tags)
    selected = selection.selection(plain, explicit=True)
    with open_session(workspace_opts, output_opts) as session:
        with tags_explained():
            found = _find(session, selected)
        tagged = tag_runs(session.workspace, found, tags)
        text = ", ".join(f"{key}={value}" for key, value in tags.items())
        lines = [f"Tagged run '{run.id}': {text}" for run in tagged]
        session.output.result(tagged, human="\n".join(lines), quiet=[run.id for run in tagged])


@command(app, "delete")
def delete(
    selection: SelectionOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, runs: RunArgs = None
) -> None:
    """Delete runs with all their files; asks first.

    Only runs that are kept on this machine; their children are deleted with them.

    \b
      himl runs delete train_1772366400_0a1b2c3d
      himl runs delete --experiment scratch --num_runs all --yes
    """
    from himl_cli.render.output import Declined
    from himl_cli.render.run_views import deletion_question
    from himl_cli.services.runs.changes import check_deletable, delete_runs, runs_below

    selected = selection.selection(runs, explicit=True)
    with open_session(workspace_opts, output_opts) as session:
        found = _find(session, selected)
        check_deletable(session.workspace, found)
        below = runs_below(session.workspace, found)
        if not session.output.confirm(deletion_question(found, below)):
            raise Declined("Nothing was done.")
        delete_runs(session.workspace, found)
        also = {run.id: f" and its {below[run.id]}" if below[run.id] else "" for run in found}
        lines = [f"Deleted run '{run.id}'{also[run.id]}." for run in found]
        names = [run.id for run in found]
        session.output.result({"deleted": names}, human="\n".join(lines), quiet=names)


def _find(session: Session, selected: RunSelection) -> list[Run]:
    """The runs that are selected. Raises RunNotFound, NotFound, and what the workspace raises."""
    from himl_cli.services.runs.lookup import find_runs

    return [*find_runs(session.workspace, selected, cwd=session.cwd, notify=session.notify)]


def _print_logs(session: Session, runs: Sequence[Run], log: LogOptions) -> None:
    """Print the log of each of *runs*: bytes as they are, or in a JSON document, where bytes that are no UTF-8 become
    the lone surrogates by which Python writes them. Raises NotFound where one has none, Interrupted when --follow is
    cut short."""
    from himl_cli.services.runs.logs import follow_log, read_log, watching

    if log.follow and len(runs) > 1:
        raise BadUsage(f"--follow takes one run, and {len(runs)} are meant.", hint="Give one run id.")
    workspace, output, read = session.workspace, session.output, follow_log if log.follow else read_log
    if output.format is Format.json:
        texts = [b"".join(read(workspace, run.id, log.file, session.notify, attempt=log.attempt)) for run in runs]
        pairs = zip(runs, texts, strict=True)
        output.json([{"run": run.id, "log": text.decode("utf-8", "surrogateescape")} for run, text in pairs])
        return
    for run in runs:
        if len(runs) > 1:
            output.notice(f"==> {run.id} <==")
        with watching(run.id) if log.follow else nullcontext():
            for piece in read(workspace, run.id, log.file, session.notify, attempt=log.attempt):
                output.write(piece)
                output.flush()
