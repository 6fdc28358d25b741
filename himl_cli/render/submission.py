"""What `himl submit` says while and after it works."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.jobs import SnapshotReport, secrets_text
from himl_cli.core.redaction import MASK
from himl_cli.core.runs import Run, RunStatus, SweepView
from himl_cli.core.sweeps import MANY
from himl_cli.render.durations import duration_text, size_text
from himl_cli.render.output import Format, Output
from himl_cli.render.places import shown_path
from himl_cli.render.trials_view import best_lines


def say_prepared(output: Output, remarks: Sequence[str], report: SnapshotReport | None) -> None:
    """What was decided for the user, and how much is sent."""
    for remark in remarks:
        output.notice(remark)
    say_snapshot(output, report)


def say_all_prepared(output: Output, remarks: Sequence[str], reports: Sequence[SnapshotReport]) -> None:
    """As `say_prepared`, of several jobs, which send a snapshot each."""
    say_prepared(output, remarks, None)
    for report in reports:
        say_snapshot(output, report)


def say_snapshot(output: Output, report: SnapshotReport | None) -> None:
    """How much is sent; of much, what makes it so large and where to leave it out."""
    if report is None:
        return
    count = len(report.snapshot.files)
    output.notice(
        f"Snapshot of '{report.snapshot.root}': {count:,} file{'s' * (count != 1)}, {size_text(report.snapshot.size)}."
    )
    if report.downloads:
        folders = ", ".join(f"'{folder}'" for folder in report.downloads)
        output.notice(f"Left out, since himl downloaded it: {folders}. Data that the job needs is named by --input.")
    if report.secrets:
        output.notice(secrets_text(report.secrets))
    if report.is_large:
        root = report.snapshot.root
        largest = ", ".join(
            f"{name} ({size_text(size)}{', a link' if (root / name).is_symlink() else ''})"
            for name, size in report.largest()
        )
        ignore_file = root / report.ignore_file
        made = "" if ignore_file.exists() else ", a file to make: one name or pattern a line"
        output.notice(
            f"warning: that is much to copy. Largest: {largest}. Leave out what the job does not need in "
            f"'{ignore_file}'{made}."
        )


def say_submitted(output: Output, run: Run) -> None:
    output.notice(f"Run {run.id} (experiment {run.experiment}) in {run.workspace}.")


def say_resumed(output: Output, run: Run) -> None:
    output.notice(f"Going on with run {run.id} (experiment {run.experiment}) in {run.workspace}.")


def say_recorded(output: Output, run: Run, twin: Run) -> None:
    """That the job runs here, and where else it is seen."""
    output.notice(
        f"Run {run.id} (experiment {run.experiment}) in {run.workspace}, recorded in "
        f"{twin.workspace}.{f' Studio: {twin.url}' if twin.url else ''}"
    )


def say_sent(output: Output, run: Run, *, waits: bool, follows: bool) -> None:
    """That the job is on its way: run id, experiment and its page in Studio; how to go on where it is not waited for.

    That is the result, on stdout, unless a log is to follow there, or the run is printed when it has ended.
    """
    lines = [run.id, f"Experiment  {run.experiment}", *([f"Studio      {run.url}"] if run.url else [])]
    if not waits:
        output.result(run, human="\n".join(lines), quiet=run.id)
        output.notice(f"Watch it with 'himl runs logs --follow {run.id}', stop it with 'himl runs cancel {run.id}'.")
    elif follows or output.format is not Format.human:
        output.notice(
            f"Run {run.id} (experiment {run.experiment}) in {run.workspace}.{f' Studio: {run.url}' if run.url else ''}"
        )
    else:
        output.lines(lines)


def say_job_yaml(output: Output, text: str, wheels: Sequence[str] = ()) -> None:
    """The job's YAML; in JSON as the text of one field. *wheels* are files that an image made of the YAML alone would
    lack."""
    for wheel in wheels:
        output.notice(
            f"'{wheel}' is put into the image by himl submit; an image that is made of this YAML alone lacks it."
        )
    if MASK in text:
        output.notice(f"Secrets are shown as {MASK}: put them back before you use this.")
    output.result({"job_yaml": text}, human=text.rstrip("\n"), quiet=text.rstrip("\n"))


def say_left_running(output: Output, run: Run) -> None:
    """The result of a submit that does not wait: the run, and how to watch it."""
    output.result(run, human=run.id, quiet=run.id)
    output.notice(f"Watch it with 'himl runs logs --follow {run.id}', stop it with 'himl runs cancel {run.id}'.")


def say_unfinished(output: Output, run: Run) -> None:
    """The result of a submit whose waiting broke off: the run as it was sent, for programs alone; what happened is told
    as an error."""
    output.result(run, human="", quiet=run.id)


def say_without_values(output: Output, sweep: SweepView | None) -> None:
    """That the trials cannot be compared, where none of them logged the metric for that."""
    if sweep is not None and sweep.metric and not any(trial.value is not None for trial in sweep.trials):
        output.notice(
            f"No trial logged '{sweep.metric}', which they are compared by; --primary_metric names another one."
        )


def say_unkept(output: Output, files: Sequence[Path]) -> None:
    """How many *files* of a job are no part of its results, and where they lie."""
    if files:
        count, where = len(files), os.path.commonpath(files)
        words = "files outside outputs/ and logs/ were" if count > 1 else "file outside outputs/ and logs/ was"
        output.notice(f"{count:,} {words} not kept with the results: '{shown_path(where)}'.")


def say_ended(output: Output, run: Run, rest: tuple[str, bytes] | None, sweep: SweepView | None = None) -> None:
    """The result of a submit that waited; *rest* is the name and the end of a log that was not shown yet, *sweep* are
    the trials of a run that has some."""
    if rest is not None and rest[1].strip():
        output.notice(f"The last lines of {rest[0]}:")
        output.talk(rest[1])
    output.result(run, human=lambda: "\n".join(best_lines(sweep)) if sweep else "", quiet=run.id)
    if run.status is RunStatus.completed:
        output.notice(f"{run.status.value} in {duration_text(run.duration)}. Details: himl runs show {run.id}")
    if sweep is not None:
        output.notice(f"All metrics side by side: himl runs aggregate {run.id}")
    if run.status is RunStatus.completed:
        output.notice(f"Results: himl download {run.id}{' --children' if MANY in run.tags else ''}")
