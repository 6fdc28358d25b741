"""What `himl submit` says while and after it works."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import SnapshotReport, secrets_text
from himl_cli.core.redaction import MASK, mask_arguments, mask_line, redact
from himl_cli.core.runs import Run, RunStatus, SweepView
from himl_cli.core.sweeps import MANY
from himl_cli.render.output import Format, Output
from himl_cli.render.run_views import best_lines
from himl_cli.render.tables import Column
from himl_cli.render.terminal import duration_text, shown_path, size_text


def print_prepared(output: Output, remarks: Sequence[str], *reports: SnapshotReport | None) -> None:
    """Remarks on what was decided for the user, and how much each job sends."""
    for remark in remarks:
        output.notice(remark)
    for report in reports:
        if report is not None:
            print_snapshot(output, report)


def print_snapshot(output: Output, report: SnapshotReport) -> None:
    """How much is sent; of much, what makes it so large and where to leave it out."""
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


def print_run(output: Output, run: Run, lead: str = "Run", twin: Run | None = None, url: str | None = None) -> None:
    """The run, its experiment and its workspace; *twin* is the same run where it is recorded, *url* its page."""
    also = f", recorded in {twin.workspace}" if twin is not None else ""
    studio = f" Studio: {url}" if url else ""
    output.notice(f"{lead} {run.id} (experiment {run.experiment}) in {run.workspace}{also}.{studio}")


def print_sent(output: Output, run: Run, *, waits: bool, follows: bool) -> None:
    """That the job is on its way: run id, experiment and its page in Studio; how to go on where it is not waited for.

    That is the result, on stdout, unless a log is to follow there, or the run is printed when it has ended.
    """
    lines = [run.id, f"Experiment  {run.experiment}", *([f"Studio      {run.url}"] if run.url else [])]
    if not waits:
        print_left_running(output, run, "\n".join(lines))
    elif follows or output.format is not Format.human:
        print_run(output, run, url=run.url)
    else:
        output.lines(lines)


def print_job_yaml(output: Output, text: str, wheels: Sequence[str] = ()) -> None:
    """The job's YAML; in JSON as the text of one field. *wheels* are files that an image made of the YAML alone would
    lack."""
    for wheel in wheels:
        output.notice(
            f"'{wheel}' is put into the image by himl submit; an image that is made of this YAML alone lacks it."
        )
    if MASK in text:
        output.notice(f"Secrets are shown as {MASK}: put them back before you use this.")
    output.result({"job_yaml": text}, human=text.rstrip("\n"), quiet=text.rstrip("\n"))


def print_left_running(output: Output, run: Run, text: str = "") -> None:
    """The result of a submit that does not wait: the run (for people *text*, else its id), and how to watch it."""
    output.result(run, human=text or run.id, quiet=run.id)
    output.notice(f"Watch it with 'himl runs logs --follow {run.id}', stop it with 'himl runs cancel {run.id}'.")


def print_without_values(output: Output, sweep: SweepView | None) -> None:
    """That the trials cannot be compared, where none of them logged the metric for that."""
    if sweep is not None and sweep.metric and not any(trial.value is not None for trial in sweep.trials):
        output.notice(
            f"No trial logged '{sweep.metric}', which they are compared by; --primary_metric names another one."
        )


def print_unkept(output: Output, files: Sequence[Path]) -> None:
    """How many *files* of a job are no part of its results, and where they lie."""
    if files:
        count, where = len(files), os.path.commonpath(files)
        words = "files outside outputs/ and logs/ were" if count > 1 else "file outside outputs/ and logs/ was"
        output.notice(f"{count:,} {words} not kept with the results: '{shown_path(where)}'.")


def print_ended(output: Output, run: Run, rest: tuple[str, bytes] | None, sweep: SweepView | None = None) -> None:
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


COMMAND_LINES = ("docker_args", "command")
"""Options whose values are several arguments each."""
PUBLIC = ("ssh_key",)
"""Options that are called like secrets, and take the name of a file."""


def print_settings(
    output: Output, values: Mapping[str, Any], sources: Mapping[str, str], azure: Sequence[tuple[str, str, str]] = ()
) -> None:
    """A row an option: name, value, and `command line`, a variable, `FILE:LINE` or `default`; then those of *azure*, as
    `azure.KEY`."""
    rows = [
        {"option": name, "value": shown_value(name, value), "source": sources.get(name, "default")}
        for name, value in sorted(values.items())
        if name != "target"
    ]
    rows += [{"option": f"azure.{key}", "value": redact(value), "source": source} for key, value, source in azure]
    columns = [
        Column("Option", lambda row: row["option"]),
        Column("Value", lambda row: row["value"], folds=12),
        Column("From", lambda row: row["source"]),
    ]
    output.table(rows, columns, quiet=lambda row: f"{row['option']}={row['value']}")


def shown_value(name: str, value: Any) -> str:
    """A value as it would be typed; empty when nothing is set."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ", ".join(
            mask_line(str(each)) if name in COMMAND_LINES else mask_arguments([str(each)])[0] for each in value
        )
    if name in (*COMMAND_LINES, *PUBLIC):
        return mask_line(str(value))
    return mask_arguments([f"{name}={value}"])[0].partition("=")[2]


SYNCED_COLUMNS = (
    Column("RUN", lambda synced: synced.run, rank=1, least=20),
    Column(
        "EVENT FILES", lambda synced: f"{synced.files:,}", plain=lambda synced: str(synced.files), rank=2, right=True
    ),
    Column(
        "NEW",
        lambda synced: size_text(synced.new_bytes),
        plain=lambda synced: str(synced.new_bytes),
        rank=2,
        least=8,
        right=True,
    ),
    Column("FOLDER", lambda synced: shown_path(str(synced.folder)), plain=lambda synced: str(synced.folder)),
)
