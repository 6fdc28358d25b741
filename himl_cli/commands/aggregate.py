"""What `himl runs aggregate` does with its options."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import GOAL, PRIMARY_METRIC, STOPPED_EARLY
from himl_cli.render.aggregation import check_plots, document, save_plots, tab_lines, table_lines
from himl_cli.render.output import Format
from himl_cli.services.runs.aggregate import (
    aggregate,
    check_file,
    check_parquet,
    choose_runs,
    statistics_of,
    write_csv,
    write_parquet,
)

if TYPE_CHECKING:
    from himl_cli.commands.runs import MetricOptions
    from himl_cli.commands.session import Session
    from himl_cli.core.results import Aggregation
    from himl_cli.core.runs import RunSelection
    from himl_cli.render.output import Output

NAMED = 5
CSV, PARQUET, PLOT = "--output_csv", "--output_parquet", "--plot"


def checked_files(options: MetricOptions) -> Mapping[str, Path]:
    """The files to write, by option. Raises BadUsage for what cannot be written, before anything is read."""
    names = {CSV: options.output_csv, PARQUET: options.output_parquet, PLOT: options.plot}
    files = {option: Path(name) for option, name in names.items() if name is not None}
    for option, path in files.items():
        check_file(option, path)
    paths = [path.absolute() for path in files.values()]
    if len(set(paths)) < len(paths):
        raise BadUsage(
            f"Two results cannot go to one file: '{max(paths, key=paths.count)}'.", hint="Name one for each."
        )
    if PARQUET in files:
        check_parquet()
    if PLOT in files:
        check_plots(files[PLOT])
    return files


def aggregate_runs(
    session: Session, selection: RunSelection, options: MetricOptions, files: Mapping[str, Path]
) -> None:
    """Read the runs, show them side by side, and write the files asked for. Raises NotFound where metrics were asked
    for by name and there are others."""
    output, workspace = session.output, session.workspace
    chosen = choose_runs(workspace, selection, cwd=session.cwd, notify=session.notify)
    whole = output.format is Format.json or PARQUET in files or PLOT in files
    found = aggregate(workspace, chosen.runs, child_arg=options.child_arg, globs=options.metrics, whole=whole)
    if not found.metrics:
        others = aggregate(workspace, [child.run for child in found.children]).metrics if options.metrics else ()
        if others:
            raise NotFound(
                f"None of {len(found.children)} runs logged a metric like {' or '.join(options.metrics)}.",
                hint=f"There are: {_listed(others)}.",
            )
        has_ended = all(child.run.status.is_final for child in found.children)
        output.notice("No metrics were logged." if has_ended else "No metrics were logged yet.")
    has_statistics = not options.no_stats and (len(found.children) > 1 or output.format is Format.json)
    statistics = statistics_of(found) if has_statistics else None
    if output.format is Format.json:
        output.json(document(found, statistics), is_form=True)
    elif output.format is Format.quiet:
        output.result(None, human="", quiet=[child.run.id for child in found.children])
    elif output.is_terminal:
        output.lines(table_lines(found, statistics) if found.metrics else [])
    else:
        output.lines(tab_lines(found, statistics))
    if CSV in files:
        write_csv(found, statistics, files[CSV])
        output.notice(f"Wrote {files[CSV]}.")
    if PARQUET in files:
        write_parquet(found, files[PARQUET])
        output.notice(f"Wrote {files[PARQUET]}.")
    if PLOT in files:
        tags = chosen.parent.tags if chosen.parent else {}
        paths = save_plots(found, files[PLOT], primary=tags.get(PRIMARY_METRIC), goal=tags.get(GOAL) or "minimize")
        output.notice(f"Drew {', '.join(map(str, paths))}." if paths else "Nothing to draw: there are no numbers.")
    if len(found.children) == 1 and chosen.parent is None:
        output.notice(f"Run '{found.children[0].run.id}' has no children: it stands alone.")
    _print_incomplete(output, found)


def _print_incomplete(output: Output, found: Aggregation) -> None:
    """The runs that did not complete, which the table may hide."""
    total, children = len(found.children), found.children
    stopped = [
        child for child in children if child.run.status is RunStatus.canceled and STOPPED_EARLY in child.run.tags
    ]
    ended = [
        child
        for child in children
        if child.run.status.is_final and child.run.status is not RunStatus.completed and child not in stopped
    ]
    running = sum(1 for child in children if not child.run.status.is_final)
    if stopped:
        output.notice(f"{len(stopped)} of {total} runs were stopped early. What they logged counts.")
    if ended:
        named = _listed([f"{child.label} ({child.run.status.value})" for child in ended])
        output.notice(f"{len(ended)} of {total} runs did not complete: {named}. What they logged counts.")
    if running:
        output.notice(f"{running} of {total} runs have not ended yet.")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:NAMED]) + (", …" if len(names) > NAMED else "")
