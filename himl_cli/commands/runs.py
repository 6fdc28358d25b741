"""`himl runs`: list, show, compare and change runs.

Commands import the services that they use, to keep help fast.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from himl_cli.commands.groups import HimlCommand, before_double_dash, command, subcommands
from himl_cli.commands.options import (
    ALL_RUNS,
    EXPERIMENT_OPTION,
    GOAL_OPTION,
    STATUS,
    TAGS,
    AskingOptions,
    ListOptions,
    ListOutputOptions,
    OutputOptions,
    PagedOptions,
    RunArgs,
    SelectionOptions,
    TableOptions,
    WorkspaceOptions,
    option,
    parse_count,
    parse_folder,
    parse_list,
    parse_pairs,
    parse_since,
)
from himl_cli.commands.session import For, Session, open_session
from himl_cli.core.errors import BadUsage, NotFound, StoppedWatching
from himl_cli.core.text import non_blank
from himl_cli.render.output import Declined, Format, Output, one_line

if TYPE_CHECKING:
    from himl_cli.core.logged import Aggregation
    from himl_cli.core.runs import Run, RunQuery, RunSelection, RunService
    from himl_cli.services.runs.find import ListRequest

SSH_ARGUMENTS = "himl.ssh_arguments"
"""The key of a context's `meta` for the words after `--`."""
CSV, PARQUET, PLOT = "--output_csv", "--output_parquet", "--plot"

app = subcommands("List, show, compare, follow, cancel, tag, archive, export and delete runs.")


@command(app, "list")
def list_runs(
    *,
    experiment: str | None = EXPERIMENT_OPTION,
    num_runs: int | None = option(
        "Number of runs, or all.  [default: 20]", "N", names=("--num_runs", "-n"), parse=parse_count
    ),
    tags: Mapping[str, str] = TAGS,
    status: Sequence[Any] = STATUS,
    archived: bool = option("Only archived runs, which himl otherwise omits.", default=False),
    watch: bool = option("Show progress and last metrics until all runs end.", default=False),
    list_opts: ListOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: ListOutputOptions,
) -> None:
    """List runs, newest first.

    The default is the newest 20 runs. --sort and --where take names of metrics, parameters and arguments. --where
    takes MLflow's search grammar. Ctrl-C stops --watch, not the runs.

    \b
      himl runs list --experiment train --status Failed
      himl runs list --num_runs all --json
      himl runs list --sort val/loss --metrics 'val/*' --params
      himl runs list --since 2d --where 'lr < 0.1 and status = completed'
      himl runs list --watch
    """
    from himl_cli.core.runs import RunQuery

    limit, request = None if num_runs == ALL_RUNS else num_runs or 20, list_opts.request()
    query = RunQuery(experiment, status, tags, limit=limit, archived=archived, children=archived, since=list_opts.since)
    if watch:
        _check_watch(output_opts)
        if not request.is_empty:
            excluded = "--metrics, --params, --sort, --where, --best or --size"
            raise BadUsage(f"--watch cannot be combined with {excluded}.", hint="Omit one of them.")
    with open_session(workspace_opts, output_opts) as session:
        from himl_cli.services.runs.find import matching_runs

        if watch and (watched := list(matching_runs(session.workspace, query, session.notify))):
            return _watch_list(session, watched, lambda: list(matching_runs(session.workspace, query)))
        matching = " match" if replace(query, limit=None) != RunQuery() or not request.is_empty else ""
        _print_runs(session, query, request, f"No runs in {session.workspace.label}{matching}.")


def _print_runs(session: Session, query: RunQuery, request: ListRequest, empty: str) -> None:
    """Print the runs. Programs that get JSON or ids receive them without values that they did not request."""
    from himl_cli.core.logged import ListedRuns
    from himl_cli.core.runs import short_ids
    from himl_cli.render.run_views import listed_form, run_columns
    from himl_cli.services.runs.find import list_runs, matching_runs, primary_metrics
    from himl_cli.services.runs.lookup import near_experiment

    listed, output = ListedRuns([]), session.output
    runs: Iterable[Run] = matching_runs(session.workspace, query, session.notify) if request.is_empty else ()
    if not request.is_empty:
        listed = list_runs(session.workspace, query, request, session.notify)
        runs = listed.runs
    if output.format is Format.human and not listed.metrics:
        runs = [*runs]
        if not runs and query.experiment:
            empty = f"{empty} {near_experiment(session.workspace, query.experiment)}".strip()
        found = primary_metrics(session.workspace, runs)
        given = {run_id: each.parameters for run_id, each in listed.results.items()}
        values = {run_id: replace(each, parameters=given.get(run_id, {})) for run_id, each in found.results.items()}
        listed = replace(listed, results={**listed.results, **values}, metrics=found.metrics)
    if output.format is Format.human and output.is_terminal:
        runs = [*runs]
        listed = replace(listed, short_ids=short_ids([run.id for run in runs], session.workspace.known_ids()))
    output.table(
        runs,
        partial(run_columns, listed=listed),
        quiet=lambda run: str(run.id),
        empty=empty,
        form=partial(listed_form, listed),
    )


@command(app, "show")
def show(
    *,
    machine: bool = option("Add a table of CPU, memory and GPU use.", default=False, panel="Details"),
    environment: bool = option("Add the interpreter, packages, machine and changes of the code.", default=False),
    watch: bool = option("Show progress, metrics and log until the run ends.", default=False),
    primary_metric: str | None = option("Rank the trials of a sweep by this metric.", "NAME", parse=non_blank),
    goal: Any = GOAL_OPTION,
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Show the details of runs.

    Details are the status, tags, metrics, texts, trials and steps. The default is the last run submitted from this
    folder. --json prints an object for one run, else an array. Ctrl-C stops --watch, not the run.

    \b
      himl runs show
      himl runs show train_1772366400_0a1b2c3d --json
      himl runs show latest --machine
      himl runs show latest --environment
      himl runs show latest --watch
      himl runs show SWEEP --primary_metric val/loss --goal minimize
    """
    from himl_cli.render.run_views import print_runs
    from himl_cli.services.runs.lookup import details_of, means_one_run, ranked_anew, run_details
    from himl_cli.services.runs.outcome import log_of_failure

    is_ranked = primary_metric is not None or goal is not None
    if watch:
        _check_watch(output_opts)
        given = {"--machine": machine, "--environment": environment, "--primary_metric or --goal": is_ranked}
        if any(given.values()):
            raise BadUsage(
                f"{next(filter(given.get, given))} and --watch cannot be combined.",
                hint="Omit one of them. --watch shows the machine in one line.",
            )
    selected = selection.selection(runs, single="--watch" if watch else "")
    with open_session(workspace_opts, output_opts) as session:
        if watch:
            return _watch_run(session, _find(session, selected))
        is_one, workspace = means_one_run(selected), session.workspace
        ask = partial(
            run_details,
            workspace,
            has_machine=is_one or machine,
            by_node=machine,
            has_environment=environment,
            rank=partial(ranked_anew, workspace, primary_metric, goal, session.notify) if is_ranked else None,
        )
        found, is_plain = _find(session, selected), not (machine or environment or is_ranked)
        details = details_of(workspace, found, ask, session.notify if is_plain else None)
        if is_one and output_opts.format is Format.human:
            details = [replace(each, log=log_of_failure(workspace, each.run, session.cwd)) for each in details]
        print_runs(session.output, details, is_one=is_one, machine=machine, environment=environment)


@command(app, "diff")
def diff(
    *,
    code: bool = option("Print changed files as a unified diff.", default=False, panel="Comparison"),
    workspace_opts: WorkspaceOptions,
    output_opts: PagedOptions,
    runs: RunArgs = None,
) -> None:
    """Show the differences between two runs.

    himl compares arguments, parameters, metrics, tags, packages, machines and code. One run is compared
    with the run before it in its experiment. The default is the last run submitted from this folder. A dot (.) is the
    working tree, which only has code.

    \b
      himl runs diff
      himl runs diff train_1772366400_0a1b2c3d .
      himl runs diff latest --code
    """
    from himl_cli.core.runs import RunSelection
    from himl_cli.render.run_views import diff_view
    from himl_cli.services.run_diff import WORKING_TREE, diff_runs, run_before

    names = [*(runs or ())]
    if len(names) > 2 or names[:1] == [WORKING_TREE]:
        hint = "For example: himl runs diff latest ."
        raise BadUsage("diff takes a run, and another run or '.', in this order.", hint=hint)
    with open_session(workspace_opts, output_opts) as session:
        found = [_find(session, RunSelection(runs=[name]))[0] for name in names if name != WORKING_TREE]
        found = found or _find(session, RunSelection())
        pair: list[Run | None] = [*found, None] if WORKING_TREE in names else [*found]
        if len(pair) < 2:
            pair.insert(0, run_before(session.workspace, found[0]))
        first, second = pair
        assert first is not None
        shown = diff_runs(session.workspace, first, second, session.cwd, session.notify, has_text=code)
    session.output.result(
        shown,
        human=lambda: "\n".join(diff_view(shown, has_text=code)),
        quiet=[each.name for each in shown.code or ()],
        is_long=code,
    )


@command(app, "code")
def code(
    *,
    output_dir: Path | None = option(
        "Save the files in a new or empty folder.",
        "DIR",
        names=("--output_dir", "-o"),
        kind=str | None,
        parse=parse_folder,
        panel="Destination",
    ),
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """List the code that a run was submitted with, or save it.

    The default is the last run submitted from this folder. On Azure ML, himl downloads the code asset of the job.

    \b
      himl runs code
      himl runs code latest --output_dir code_of_latest
    """
    from himl_cli.core.runs import RunSelection
    from himl_cli.render.file_views import FILE_COLUMNS
    from himl_cli.services.run_diff import code_of, save_code
    from himl_cli.services.transfer.plan import Filters, list_files

    if len(runs or ()) > 1:
        raise BadUsage(f"code takes one run, not {len(runs or ())}.")
    with open_session(workspace_opts, output_opts) as session:
        (run,) = _find(session, RunSelection(runs=runs or ()))
        store = code_of(session.workspace, run)
        if output_dir is None:
            files = list_files(store, Filters(), run=run.id)
            return session.output.table(files, FILE_COLUMNS, quiet=lambda file: str(file["name"]), empty="No files.")
        saved = save_code(store, output_dir)
    text = f"Saved {saved} file{'s' * (saved != 1)} of the code of run '{run.id}' in '{output_dir}'."
    session.output.result({"folder": str(output_dir), "files": saved}, human=lambda: text, quiet=[str(output_dir)])


def _check_watch(output_opts: OutputOptions) -> None:
    """Check that the output format allows --watch. Raises BadUsage."""
    if output_opts.format is not Format.human:
        raise BadUsage(
            f"--watch and --{output_opts.format.value} cannot be combined.",
            hint="Omit one of them. Without a terminal, --watch prints a line for each change.",
        )


def _watch_list(session: Session, runs: Sequence[Run], newest: Callable[[], Sequence[Run]]) -> None:
    """Show the runs until all end. Raises JobFailed if runs did not complete, StoppedWatching."""
    from himl_cli.core.logged import WatchedRuns
    from himl_cli.render.watch import list_frame, view
    from himl_cli.services.runs.watch import raise_for_failed, watch_runs

    watched = WatchedRuns(runs)
    try:
        with view(session.output, list_frame) as shown:
            for pause in watch_runs(session.workspace, watched, shown.notify, newest=newest):
                shown.show(watched, pause)
    except KeyboardInterrupt as err:
        running = [run.id for run in watched.runs if not run.status.is_final]
        raise StoppedWatching(
            f"Stopped watching. {len(running)} run{'s continue' if len(running) != 1 else ' continues'}.",
            hint=f"To cancel one: himl runs cancel {running[0]}" if running else "",
        ) from err
    raise_for_failed(watched)


def _watch_run(session: Session, found: Sequence[Run]) -> None:
    """Show a run until it ends. Raises JobFailed like `submit --wait`, StoppedWatching."""
    from himl_cli.core.logged import WatchedRuns
    from himl_cli.render.watch import run_frame, view
    from himl_cli.services.runs.follow import watching
    from himl_cli.services.runs.outcome import raise_unless_completed
    from himl_cli.services.runs.watch import watch_runs

    if len(found) > 1:
        raise BadUsage(f"--watch takes one run, not {len(found)}.", hint="Name one run, or: himl runs list --watch")
    workspace, watched = session.workspace, WatchedRuns(found)
    with watching(found[0].id):
        with view(session.output, run_frame) as shown:
            for pause in watch_runs(workspace, watched, shown.notify):
                shown.show(watched, pause)
        ended = watched.runs[0]
        raise_unless_completed(workspace, ended, watched.sweep, cwd=session.cwd)


@command(app, "aggregate")
def aggregate(
    *,
    child_arg: str | None = option(
        "Tag or argument that names the columns.  [default: their differences]", "NAME", panel="Metrics"
    ),
    metrics: Sequence[str] = option("Only metrics with these names.", "GLOB,...", many=True, parse=parse_list),
    system: bool = option("Metrics of the machine (system/...), alone or with --metrics.", default=False),
    stats: bool | None = option(
        "Show mean, std, min, max and median.  [default: for runs that are no search]",
        kind=bool | None,
        names=("--stats/--no_stats",),
    ),
    output_csv: str | None = option("Save the table as CSV.", "FILE"),
    output_parquet: str | None = option("Save all points as Parquet, one per row.", "FILE"),
    plot: str | None = option("Save curves over all runs as .png or .svg.", "FILE"),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: TableOptions,
    runs: RunArgs = None,
) -> None:
    """Compare metrics of many runs, with statistics.

    For a sweep, cross-validation or pipeline, himl compares its child runs. Trials of a search are sorted by the
    primary metric, the best one (*) first. Runs may be in progress.

    \b
      himl runs aggregate
      himl runs aggregate --run abc --metrics 'val/*' --plot curves.png
      himl runs aggregate --experiment train --num_runs 5 --output_csv seeds.csv
    """
    from himl_cli.core.logged import SYSTEM
    from himl_cli.services.runs.aggregate import aggregate as aggregated
    from himl_cli.services.runs.aggregate import choose_runs, statistics_of

    metrics = [*metrics, *([f"{SYSTEM}*"] if system else [])]
    given = {CSV: output_csv, PARQUET: output_parquet, PLOT: plot}
    files = {name: Path(path) for name, path in given.items() if path is not None}
    _check_files(files)
    selected = selection.selection(runs)
    with open_session(workspace_opts, output_opts) as session:
        output, workspace = session.output, session.workspace
        chosen, parent = choose_runs(workspace, selected, cwd=session.cwd, notify=session.notify)
        whole = output.format is Format.json or PARQUET in files or PLOT in files
        found = aggregated(workspace, chosen, child_arg=child_arg, globs=metrics, whole=whole, parent=parent)
        others = aggregated(workspace, chosen).metrics if metrics and not found.metrics else ()
        if others:
            raise NotFound(
                f"No metric matches {' or '.join(map(repr, metrics))}.",
                hint=f"Metrics: {_listed(others)}.",
            )
        is_repeated = found.search is None and len(found.children) > 1
        has_statistics = (is_repeated or output.format is Format.json) if stats is None else stats
        statistics = statistics_of(found) if has_statistics else None
        _print_metrics(output, found, statistics)
        _write_files(output, found, statistics, files)
        if len(found.children) == 1 and parent is None:
            output.notice(f"Run '{found.children[0].run.id}' has no child runs.")
        _print_incomplete(output, found)


def _check_files(files: Mapping[str, Path]) -> None:
    """Check the files to write before reading metrics. Raises BadUsage."""
    from himl_cli.render.aggregation import check_plots
    from himl_cli.services.runs.aggregate import check_file, check_parquet

    for name, path in files.items():
        check_file(name, path)
    paths = [path.absolute() for path in files.values()]
    if len(set(paths)) < len(paths):
        raise BadUsage(
            f"Two results cannot have the same file '{max(paths, key=paths.count)}'.", hint="Name one for each."
        )
    if PARQUET in files:
        check_parquet()
    if PLOT in files:
        check_plots(files[PLOT])


def _print_metrics(output: Output, found: Aggregation, statistics: Mapping[str, Any] | None) -> None:
    from himl_cli.render.aggregation import cells, document, table_lines

    if not found.metrics:
        has_ended = all(child.run.status.is_final for child in found.children)
        output.notice("No metrics." if has_ended else "No metrics yet.")
    if output.format is Format.json:
        output.json(document(found, statistics), is_form=True)
    elif output.format is Format.quiet:
        output.result(None, human="", quiet=[child.run.id for child in found.children])
    elif not output.draws_tables:
        output.cells(cells(found.ranked, statistics))
    elif found.metrics:
        output.lines(table_lines(found.ranked, statistics))


def _write_files(
    output: Output,
    found: Aggregation,
    statistics: Mapping[str, Any] | None,
    files: Mapping[str, Path],
) -> None:
    from himl_cli.render.aggregation import save_plots
    from himl_cli.services.runs.aggregate import write_csv, write_parquet

    for name, path in files.items():
        said = f"Wrote {path}."
        if name == CSV:
            write_csv(found.ranked, statistics, path)
        elif name == PARQUET:
            write_parquet(found, path)
        else:
            paths = save_plots(found, path)
            if not paths:
                raise NotFound(f"The runs have no values to draw, so there is no '{path}'.")
            said = f"Wrote {', '.join(map(str, paths))}."
        output.notice(said)


def _print_incomplete(output: Output, found: Aggregation) -> None:
    """Print how many runs did not complete, which the table may hide."""
    from himl_cli.core.runs import RunStatus
    from himl_cli.core.sweeps import STOPPED_EARLY

    total = len(found.children)
    ended = [each for each in found.children if each.run.status in (RunStatus.failed, RunStatus.canceled)]
    stopped = [each for each in ended if each.run.status is RunStatus.canceled and STOPPED_EARLY in each.run.tags]
    named = [f"{child.label} ({child.run.status.value})" for child in ended if child not in stopped]
    running = sum(not child.run.status.is_final for child in found.children)
    remarks = {
        f"{len(stopped)} of {total} runs were stopped early. Their metrics count.": stopped,
        f"{len(named)} of {total} runs did not complete: {_listed(named)}. Their metrics count.": named,
        f"{running} of {total} runs are still in progress.": running,
    }
    for remark in filter(remarks.get, remarks):
        output.notice(remark)


def _listed(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


@command(app, "logs")
def logs(
    *,
    follow: bool = option("Print new lines until the run ends.", default=False, names=("--follow", "-f"), panel="Log"),
    tail: int | None = option("Print the last N lines, and with --follow new ones.", "N", kind=int | None),
    since: datetime | None = option(
        "Print what was written in the last 30m, 2h or 7d, or since a date.", "TIME", kind=str | None, parse=parse_since
    ),
    file: str | None = option("Log file to print, such as std_log_process_1.txt.", "NAME"),
    attempt: int | None = option(
        "Log of the Nth attempt.  [default: the last]",
        "N",
        names=("--try",),
        kind=int | None,
    ),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Print the log of a run, even of one in progress.

    himl prints the bytes unchanged. Ctrl-C stops --follow, not the run. --since prints whole lines, and up to ten
    seconds more. It needs times that himl noted during the job, or lines that begin with a time.

    \b
      himl runs logs --follow --tail 20
      himl runs logs latest --file std_log_process_1.txt
    """
    from himl_cli.services.runs.follow import follow_log, watching
    from himl_cli.services.runs.logs import read_log, since_start, tail_start

    for name, number in {"--try": attempt, "--tail": tail}.items():
        if number is not None and number < 1:
            raise BadUsage(f"{name} must be a positive integer, not {number}.")
    if follow and output_opts.format is Format.json:
        raise BadUsage("--follow and --json cannot be combined.", hint="Omit one of them.")
    selected = selection.selection(runs, single="--follow" if follow else "")
    with open_session(workspace_opts, output_opts) as session:
        found, output = _find(session, selected), session.output
        if follow and len(found) > 1:
            raise BadUsage(f"--follow takes one run, not {len(found)}.", hint="Name one run.")

        def read(run_id: str) -> Iterable[bytes]:
            workspace, start = session.workspace, 0
            if tail is not None:
                start = tail_start(workspace, run_id, file, lines=tail, attempt=attempt)
            if since is not None:
                begin = since_start(workspace, run_id, file, since=since, attempt=attempt, notify=session.notify)
                start = max(start, begin)
            read_on = follow_log if follow else read_log
            return read_on(workspace, run_id, file, session.notify, start=start, attempt=attempt)

        if output.format is Format.json:
            # surrogateescape keeps bytes that are not UTF-8.
            texts = [(run.id, b"".join(read(run.id))) for run in found]
            return output.json([{"run": run, "log": text.decode("utf-8", "surrogateescape")} for run, text in texts])
        for run in found:
            if len(found) > 1:
                output.notice(f"==> {run.id} <==")
            with watching(run.id) if follow else nullcontext():
                for piece in read(run.id):
                    output.write(piece, flush=True)


class AttachCommand(HimlCommand):
    """Removes the words after `--` before parsing: they are for ssh."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = before_double_dash(args)
        ctx.meta[SSH_ARGUMENTS] = tuple(args[len(own) + 1 :])
        return super().parse_args(ctx, own)


@command(app, "attach", cls=AttachCommand)
def attach(
    ctx: typer.Context,
    *,
    service: str | None = option(
        "Name or kind of a service: vscode, jupyterlab, ssh, ...", "NAME", parse=non_blank, panel="Services"
    ),
    node: int = option("Node of the services, from 0.", "N", default=0),
    open_browser: bool = option("Open the services in the browser.", default=False, names=("--open",)),
    ssh: bool = option("Log in with ssh. Write its options and command after --.", default=False),
    stdio: bool = option("Act as the ProxyCommand of ssh, scp or rsync.", default=False),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Show the addresses of a running job's services.

    Services are VS Code, JupyterLab, TensorBoard and SSH. himl waits until they are ready. Azure ML starts them for
    jobs with --vscode, --jupyter or --ssh_key. Ctrl-C stops the waiting, not the run.

    \b
      himl runs attach
      himl runs attach latest --service jupyterlab --open
      himl runs attach latest --ssh
      himl runs attach latest --ssh -- -L 8888:localhost:8888 nvidia-smi
    """
    from himl_cli.services.runs.attach import await_services, cloud_of, own_command, ssh_command
    from himl_cli.services.runs.follow import watching

    more = ctx.meta[SSH_ARGUMENTS]
    if more and not ssh:
        raise BadUsage(f"'{more[0]}' after -- is an argument for ssh.", hint="Add --ssh before the --.")
    if ssh + stdio + (service is not None) > 1 or (open_browser and (ssh or stdio)):
        raise BadUsage("Only one of --ssh, --stdio and --service or --open is allowed.")
    selected = selection.selection(runs, single="attach")
    with open_session(workspace_opts, output_opts) as session:
        found, output = _find(session, selected), session.output
        if len(found) > 1:
            raise BadUsage(f"attach takes one run, not {len(found)}.", hint="Name one run.")
        (run,), wanted = found, "ssh" if ssh or stdio else service or ""
        home = cloud_of(session.workspace, run)
        with watching(run.id):
            services = await_services(home, run, session.notify, node=node, wanted=wanted)
        if stdio:
            return home.tunnel(services[0], partial(os.read, 0, 1 << 16), partial(output.write, flush=True))
        if ssh:
            places = zip(("--workspace", "--config_file"), workspace_opts.names, strict=True)
            where = [word for name, value in places if value is not None for word in (name, value)]
            proxy = own_command(run, node, where)
            raise typer.Exit(subprocess.call(ssh_command(home, run, services[0], proxy, more)))
        _print_services(output, run, services, open_browser=open_browser)


def _print_services(output: Output, run: Run, services: Sequence[RunService], *, open_browser: bool) -> None:
    from himl_cli.commands.web import open_url
    from himl_cli.render.run_views import SERVICE_COLUMNS

    output.table(services, SERVICE_COLUMNS, quiet=lambda each: each.url or each.proxy)
    for each in services:
        if each.is_failed:
            output.notice(f"{each.name} failed: {each.error or each.status}")
        elif each.is_ssh:
            node = f" --node {each.node}" if each.node else ""
            output.notice(f"To log in: himl runs attach {run.id}{node} --ssh")
        elif open_browser and each.url.startswith(("https://", "vscode://")):
            open_url(output, each.url)


@command(app, "cancel")
def cancel(
    *,
    force: bool = option("Also cancel runs that may have ended.", default=False, panel="Cancellation"),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Cancel runs.

    Name the runs explicitly. Canceling a sweep or pipeline cancels its child runs. Canceling a trial does not cancel
    the sweep. If it is unknown whether a run is in progress, himl exits with 2. --force then requests it to stop, and
    records it as canceled.

    \b
      himl runs cancel latest
      himl runs cancel train_1772366400_0a1b2c3d_3
    """
    from himl_cli.render.run_views import cancel_text
    from himl_cli.services.runs.changes import cancel_runs

    selected = selection.selection(runs, explicit=True)
    with open_session(workspace_opts, output_opts) as session:
        outcomes = cancel_runs(session.workspace, _find(session, selected), force=force)
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
        typer.Argument(metavar="[RUN]... KEY=VALUE...", help="Run ids and tags.", show_default=False),
    ] = None,
) -> None:
    """Set tags on runs. KEY= removes a tag.

    Other tags do not change. Name the runs explicitly.

    \b
      himl runs tag train_1772366400_0a1b2c3d team=blue stage=final
      himl runs tag train_1772366400_0a1b2c3d stage=
      himl runs tag --experiment train --num_runs 5 keep=yes
    """
    from himl_cli.services.runs.changes import change_all, check_tags, tags_explained

    plain = [word for word in given or () if "=" not in word or "://" in word]
    tags = parse_pairs("himl runs tag RUN", [word for word in given or () if word not in plain])
    check_tags(tags)
    selected = selection.selection(plain, explicit=True)
    with open_session(workspace_opts, output_opts) as session:
        with tags_explained():
            found = _find(session, selected)
        workspace, changes = session.workspace, {key: value or None for key, value in tags.items()}
        tagged = change_all(workspace, lambda run: workspace.tag(run.id, changes), found)
        text = one_line(", ".join(f"{key}={value}" if value else f"{key} removed" for key, value in tags.items()))
        lines = [f"Tagged run '{run.id}': {text}" for run in tagged]
        session.output.result(tagged, human="\n".join(lines), quiet=[run.id for run in tagged])


@command(app, "archive")
def archive(
    selection: SelectionOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, runs: RunArgs = None
) -> None:
    """Hide runs from lists, and keep their files.

    Lists and --experiment skip archived runs. To find them, use their ids or himl runs list --archived. Studio hides
    archived runs of Azure ML. Name the runs explicitly.

    \b
      himl runs archive train_1772366400_0a1b2c3d
      himl runs archive --experiment scratch --num_runs all
    """
    _archive(selection.selection(runs, explicit=True), workspace_opts, output_opts)


@command(app, "restore")
def restore(
    selection: SelectionOptions, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, runs: RunArgs = None
) -> None:
    """Show archived runs in lists again.

    --experiment and latest select archived runs. Name the runs explicitly.

    \b
      himl runs restore train_1772366400_0a1b2c3d
      himl runs restore --experiment scratch --num_runs all
    """
    _archive(selection.selection(runs, explicit=True, archived=True), workspace_opts, output_opts, restore=True)


def _archive(
    selected: RunSelection, workspace_opts: WorkspaceOptions, output_opts: OutputOptions, *, restore: bool = False
) -> None:
    from himl_cli.services.runs.changes import change_all

    with open_session(workspace_opts, output_opts) as session:
        workspace = session.workspace
        found = change_all(workspace, lambda run: workspace.archive(run.id, restore=restore), _find(session, selected))
        lines = [f"{'Restored' if restore else 'Archived'} run '{run.id}'." for run in found]
        session.output.result(found, human="\n".join(lines), quiet=[run.id for run in found])


@command(app, "export")
def export(
    *,
    to: str | None = option("New .zip file or folder.  [required]", "FILE.zip|DIR", panel="Archive"),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
    runs: RunArgs = None,
) -> None:
    """Write runs to an archive that himl can import elsewhere.

    The archive contains the records, metrics, code and files of runs. It includes child runs and environments. It has
    checksums, and metadata as an RO-Crate. Secrets in arguments are masked.

    \b
      himl runs export latest --to run.zip
      himl runs export --experiment train --num_runs 5 --to runs/
    """
    from himl_cli.services.runs.archive import export_runs

    selected = selection.selection(runs)
    if to is None:
        raise BadUsage("export needs a target.", hint="For example: himl runs export latest --to run.zip")
    with open_session(workspace_opts, output_opts) as session:
        found = _find(session, selected)
        written = export_runs(session.workspace, found, Path(to), session.notify)
    line = f"Wrote {len(written)} run{'s' * (len(written) != 1)} to '{to}'."
    session.output.result(written, human=line, quiet=[to])


@command(app, "import")
def import_archive(
    archive: Annotated[str, typer.Argument(metavar="FILE.zip|DIR", help="Archive of 'himl runs export'.")],
    workspace_opts: WorkspaceOptions,
    output_opts: OutputOptions,
) -> None:
    """Record the runs of an archive in the local workspace.

    himl checks all files before it records a run. The runs keep their ids.

    \b
      himl runs import run.zip
    """
    from himl_cli.services.runs.archive import import_runs
    from himl_cli.workspaces.base import FolderWorkspace

    with open_session(workspace_opts, output_opts, For.jobs) as session:
        workspace = session.workspace
        if not isinstance(workspace, FolderWorkspace):
            raise BadUsage("Runs can be imported to local workspaces only.", hint="Add --workspace local")
        found = import_runs(workspace, Path(archive), session.notify)
    lines = [f"Imported run '{run.id}'." for run in found]
    session.output.result(found, human="\n".join(lines), quiet=[run.id for run in found])


@command(app, "delete")
def delete(
    *,
    outputs: bool = option("Also delete registered output data on Azure ML.", default=False, panel="Deletion"),
    force: bool = option("Also delete runs that may be in progress.", default=False, panel="Deletion"),
    pointer_only: bool = option("Forget runs on a machine by SSH. They stay there.", default=False, panel="Deletion"),
    selection: SelectionOptions,
    workspace_opts: WorkspaceOptions,
    output_opts: AskingOptions,
    runs: RunArgs = None,
) -> None:
    """Delete runs with all files and child runs, after a confirmation.

    himl lists everything that it will delete, and asks. On Azure ML, it deletes the files first. To complete an
    interrupted deletion, repeat the command for the remaining runs. In a local workspace, the next deletion of any
    run also completes it. Name the runs explicitly. himl deletes no run in progress (exit code 2). Without --force, it
    also deletes none that another machine may still execute.

    \b
      himl runs delete train_1772366400_0a1b2c3d
      himl runs delete latest --outputs
      himl runs delete --experiment scratch --num_runs all --yes
    """
    from himl_cli.render.run_views import deletion_form, deletion_list, deletion_question, deletion_text
    from himl_cli.services.runs.changes import children_text
    from himl_cli.services.runs.deletion import delete_rests, delete_runs, footprints_of, forget_runs

    selected = selection.selection(runs, explicit=True)
    if pointer_only:
        with open_session(workspace_opts, output_opts) as session:
            names = forget_runs(session.workspace, selected.runs)
            forgotten = "\n".join(f"himl forgot run '{name}', which stays on its machine." for name in names)
            session.output.result(deletion_form([], []) | {"deleted": names}, human=forgotten, quiet=names)
        return
    with open_session(workspace_opts, output_opts) as session:
        output, rests = session.output, delete_rests(session.workspace, selected.runs)
        others = replace(selected, runs=[name for name in selected.runs if name not in rests])
        runs_left = _find(session, others) if others.runs or not rests else []
        found = footprints_of(session.workspace, runs_left, outputs=outputs, force=force)
        children = [children_text(each) for each in found]
        for each in () if output.yes else found:
            for line in deletion_list(each, outputs=outputs):
                output.notice(line)
        if found and not output.confirm(deletion_question(found, children)):
            raise Declined("himl deleted nothing.")
        archived = delete_runs(session.workspace, found, session.notify, force=force)
        pairs = zip(found, children, strict=True)
        lines = [f"Deleted the remaining files of run '{name}'." for name in rests]
        lines += [deletion_text(each, also, is_archived=each.run.id in archived) for each, also in pairs]
        names = [*rests, *(each.run.id for each in found)]
        output.result(deletion_form(found, archived) | {"deleted": names}, human="\n".join(lines), quiet=names)


def _find(session: Session, selected: RunSelection) -> list[Run]:
    from himl_cli.services.runs.lookup import find_runs

    return [*find_runs(session.workspace, selected, cwd=session.cwd, notify=session.notify)]
