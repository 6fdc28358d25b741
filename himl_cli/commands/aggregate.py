"""What `himl runs aggregate` does with its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import GOAL, PRIMARY_METRIC, STOPPED_EARLY
from himl_cli.render.aggregate import document, tab_lines, table_lines
from himl_cli.render.output import Format
from himl_cli.services.runs.aggregate import (
    ChosenRuns,
    Statistics,
    aggregate,
    check_file,
    check_parquet,
    choose_runs,
    statistics_of,
    write_csv,
    write_parquet,
)

if TYPE_CHECKING:
    from himl_cli.commands.session import Session
    from himl_cli.core.results import Aggregation
    from himl_cli.core.runs import RunSelection

NAMED = 5


@dataclass(frozen=True)
class Wishes:
    """What is to become of what the runs logged."""

    child_arg: str | None = None
    globs: Sequence[str] = ()
    has_statistics: bool = True
    csv: Path | None = None
    parquet: Path | None = None
    plot: Path | None = None

    def check(self) -> None:
        """Raises BadUsage for what cannot be written, before anything is read."""
        for option, path in (("--output_csv", self.csv), ("--output_parquet", self.parquet), ("--plot", self.plot)):
            if path is not None:
                check_file(option, path)
        named = [path.absolute() for path in (self.csv, self.parquet, self.plot) if path is not None]
        if len(set(named)) < len(named):
            raise BadUsage(
                f"Two results cannot go to one file: '{max(named, key=named.count)}'.", hint="Name one for each."
            )
        if self.parquet is not None:
            check_parquet()
        if self.plot is not None:
            from himl_cli.render.aggregate import check_plots

            check_plots(self.plot)


def aggregate_runs(session: Session, selection: RunSelection, wishes: Wishes) -> None:
    """Read the runs, show them side by side, and write the files asked for."""
    chosen = choose_runs(session.workspace, selection, cwd=session.cwd, notify=session.notify)
    whole = session.output.format is Format.json or wishes.parquet is not None or wishes.plot is not None
    found = aggregate(session.workspace, chosen.runs, child_arg=wishes.child_arg, globs=wishes.globs, whole=whole)
    if not found.metrics:
        _say_nothing_logged(session, found, wishes)
    statistics = (
        statistics_of(found)
        if wishes.has_statistics and (len(found.children) > 1 or session.output.format is Format.json)
        else None
    )
    _show(session, found, statistics)
    _write(session, found, statistics, wishes, chosen)
    _tell(session, found, chosen)


def _say_nothing_logged(session: Session, found: Aggregation, wishes: Wishes) -> None:
    """Raises NotFound where metrics were asked for by name and there are others."""
    if wishes.globs:
        others = aggregate(session.workspace, [child.run for child in found.children]).metrics
        if others:
            named = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
            raise NotFound(
                f"None of {len(found.children)} runs logged a metric like {' or '.join(wishes.globs)}.",
                hint=f"There are: {named}.",
            )
    session.output.notice(
        "No metrics were logged yet."
        if any(not child.run.status.is_final for child in found.children)
        else "No metrics were logged."
    )


def _show(session: Session, found: Aggregation, statistics: dict[str, Statistics] | None) -> None:
    output = session.output
    if output.format is Format.json:
        output.json(document(found, statistics), is_form=True)
    elif output.format is Format.quiet:
        output.result(None, human="", quiet=[child.run.id for child in found.children])
    elif output.is_terminal:
        output.lines(table_lines(found, statistics) if found.metrics else [])
    else:
        output.lines(tab_lines(found, statistics))


def _write(
    session: Session, found: Aggregation, statistics: dict[str, Statistics] | None, wishes: Wishes, chosen: ChosenRuns
) -> None:
    if wishes.csv is not None:
        write_csv(found, statistics, wishes.csv)
        session.output.notice(f"Wrote {wishes.csv}.")
    if wishes.parquet is not None:
        write_parquet(found, wishes.parquet)
        session.output.notice(f"Wrote {wishes.parquet}.")
    if wishes.plot is not None:
        from himl_cli.render.aggregate import save_plots

        tags = chosen.parent.tags if chosen.parent else {}
        paths = save_plots(found, wishes.plot, primary=tags.get(PRIMARY_METRIC), goal=tags.get(GOAL) or "minimize")
        session.output.notice(
            f"Drew {', '.join(map(str, paths))}." if paths else "Nothing to draw: there are no numbers."
        )


def _tell(session: Session, found: Aggregation, chosen: ChosenRuns) -> None:
    """What the table may hide: runs that did not complete, a run that stands alone."""
    if len(found.children) == 1 and chosen.parent is None:
        session.output.notice(f"Run '{found.children[0].run.id}' has no children: it stands alone.")
    stopped = [
        child for child in found.children if child.run.status is RunStatus.canceled and STOPPED_EARLY in child.run.tags
    ]
    ended = [
        child
        for child in found.children
        if child.run.status.is_final and child.run.status is not RunStatus.completed and child not in stopped
    ]
    if stopped:
        session.output.notice(
            f"{len(stopped)} of {len(found.children)} runs were stopped early. What they logged counts."
        )
    if ended:
        named = ", ".join(f"{child.label} ({child.run.status.value})" for child in ended[:NAMED]) + (
            ", …" if len(ended) > NAMED else ""
        )
        session.output.notice(
            f"{len(ended)} of {len(found.children)} runs did not complete: {named}. What they logged counts."
        )
    going_on = sum(1 for child in found.children if not child.run.status.is_final)
    if going_on:
        session.output.notice(f"{going_on} of {len(found.children)} runs have not ended yet.")
