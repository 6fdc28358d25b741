"""What `himl submit` says while and after it works."""

from __future__ import annotations

from himl_cli.core.jobs import SnapshotReport
from himl_cli.core.runs import Run
from himl_cli.render.durations import duration_text, size_text
from himl_cli.render.output import Output


def say_snapshot(output: Output, report: SnapshotReport | None) -> None:
    """How much is sent; of much, what makes it so large and where to leave it out."""
    if report is None:
        return
    count = len(report.snapshot.files)
    output.notice(f"Snapshot of '{report.snapshot.root}': {count:,} file{'s' * (count != 1)}, {size_text(report.snapshot.size)}.")
    if report.is_large:
        root = report.snapshot.root
        largest = ", ".join(f"{name} ({size_text(size)}{', a link' if (root / name).is_symlink() else ''})" for name, size in report.largest())
        output.notice(f"warning: that is much to copy. Largest: {largest}. Leave out what the job does not need in '{root / report.ignore_file}'.")


def say_submitted(output: Output, run: Run) -> None:
    output.notice(f"Run {run.id} (experiment {run.experiment}) in {run.workspace}.")


def say_left_running(output: Output, run: Run) -> None:
    """The result of a submit that does not wait: the run, and how to watch it."""
    output.result(run, human=run.id, quiet=run.id)
    output.notice(f"Watch it with 'himl runs logs --follow {run.id}', stop it with 'himl runs cancel {run.id}'.")


def say_ended(output: Output, run: Run, rest: tuple[str, bytes] | None) -> None:
    """The result of a submit that waited; *rest* is the name and the end of a log that was not shown yet."""
    if rest is not None:
        output.notice(f"The last lines of {rest[0]}:")
        output.talk(rest[1])
    output.result(run, human="", quiet=run.id)
    if run.exit_code == 0:
        output.notice(f"{run.status.value} in {duration_text(run.duration)}. Details: himl runs show {run.id}")
        output.notice(f"Results: himl download {run.id}")
