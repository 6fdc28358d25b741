"""The output of `himl submit`: the snapshot, the submitted job and its end, job files, settings. Results go to stdout,
remarks to stderr. Each function shows one moment of a job,
and they share little code."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from himl_cli.core.jobs import SnapshotReport, secrets_text
from himl_cli.core.logged import SweepView
from himl_cli.core.redaction import MASK, mask_arguments, mask_line, redact
from himl_cli.core.runs import (
    MLFLOW_ADDRESS,
    Run,
    RunStatus,
)
from himl_cli.core.sweeps import MANY
from himl_cli.render.output import (
    Column,
    Format,
    Output,
    duration_text,
    shown_path,
    size_text,
)
from himl_cli.render.run_views import best_lines


def print_prepared(output: Output, remarks: Sequence[str], *reports: SnapshotReport | None) -> None:
    """Print remarks on automatic choices, and the size of each job's snapshot. For a large one, name its largest parts
    and the ignore file."""
    for remark in remarks:
        output.notice(remark)
    listed = [report for report in reports if report is not None]
    secrets = dict.fromkeys(
        name if len(listed) == 1 else f"{report.snapshot.root.name}/{name}"
        for report in listed
        for name in report.secrets
    )
    for report in listed:
        root, count = report.snapshot.root, len(report.snapshot.files)
        output.notice(f"Snapshot of '{root}': {count:,} file{'s' * (count != 1)}, {size_text(report.snapshot.size)}.")
        if report.is_large:
            largest = ", ".join(
                f"{name} ({size_text(size)}{', a link' if (root / name).is_symlink() else ''})"
                for name, size in report.largest()
            )
            ignore_file = root / report.ignore_file
            made = "" if ignore_file.exists() else " (a new file with one name or pattern per line)"
            output.notice(
                f"warning: The snapshot is large. Largest: {largest}. List what the job does not need in "
                f"'{ignore_file}'{made}."
            )
    if secrets:
        output.notice(secrets_text([*secrets]))


def print_run(output: Output, run: Run, lead: str = "Run", mirrored: Run | None = None, url: str | None = None) -> None:
    """Print the run, its experiment and its workspace. *mirrored* is its mirror, *url* its page."""
    also = f", recorded in {mirrored.workspace}" if mirrored is not None else ""
    studio = f" Studio: {url}" if url else ""
    output.notice(f"{lead} {run.id} (experiment {run.experiment}) in {run.workspace}{also}.{studio}")


def print_sent(output: Output, run: Run, *, waits: bool, follows: bool) -> None:
    """Report the submitted job: run id, experiment and Studio page. If himl does not wait for it, say how to watch it.

    This is the result, on stdout, unless a log follows on stdout, or the run is printed at its end.
    """
    lines = [run.id, f"Experiment  {run.experiment}", *([f"Studio      {run.url}"] if run.url else [])]
    if not waits:
        print_left_running(output, run, "\n".join(lines))
    elif follows or output.format is not Format.human:
        print_run(output, run, url=run.url)
    else:
        output.lines(lines)


def print_job_file(
    output: Output,
    text: str,
    beside: Sequence[str] = (),
    *reports: SnapshotReport | None,
    name: str = "job_yaml",
) -> None:
    """Print the job's YAML or batch script, in JSON as the field *name*. *beside* are files that an image from the YAML
    alone would lack. A comment names the files that himl leaves out of the *reports*, and that the Azure CLI sends."""
    for report in filter(None, reports):
        if names := [*report.others, *report.secrets]:
            listed = ", ".join(map(repr, names))
            text = (
                f"# 'himl submit' does not send all of '{report.snapshot.root}'. Before you use 'az ml job create', "
                f"list in its .amlignore: {listed}\n{text}"
            )
    for file in beside:
        output.notice(f"himl submit adds '{file}' to the image. An image from this YAML alone lacks it.")
    if MASK in text:
        output.notice(f"Secrets are shown as {MASK}. Put them back before you use this.")
    output.result({name: text}, human=text.rstrip("\n"), quiet=text.rstrip("\n"))


def print_left_running(output: Output, run: Run, text: str = "") -> None:
    """Print the result of a submit that does not wait: *text* in the human format, else the run's id, and how to watch
    the run."""
    output.result(run, human=text or run.id, quiet=run.id)
    output.notice(f"To watch it, run 'himl runs logs --follow {run.id}'. To stop it, run 'himl runs cancel {run.id}'.")


def print_ended(
    output: Output,
    run: Run,
    rest: tuple[str, bytes] | None,
    sweep: SweepView | None = None,
    unkept: Callable[[], Sequence[tuple[str, Path]]] = tuple,
    *,
    is_watched: bool = False,
) -> None:
    """Print the result of a submit that waited. *rest* is the name and the end of a log that was not shown yet, *sweep*
    the trials of the run, *unkept* lists the names and paths of files that are not part of its results. *is_watched*: a
    screen showed the table of trials."""
    output.end_line()
    if rest is not None and rest[1].strip():
        output.notice(f"The last lines of {rest[0]}:")
        output.talk(rest[1])
    has_table = sweep is not None and not is_watched
    output.result(run, human=lambda: "\n".join(best_lines(sweep)) if sweep and has_table else "", quiet=run.id)
    if run.status is RunStatus.completed:
        output.notice(f"{run.status.value} in {duration_text(run.duration)}. Details: himl runs show {run.id}")
        if run.reason:
            output.notice(f"{run.reason[0].upper()}{run.reason[1:]}.")
    if sweep is not None:
        output.notice(f"Compare all metrics: himl runs aggregate {run.id}")
    if run.status is RunStatus.completed:
        output.notice(f"Results: himl download {run.id}{' --children' if MANY in run.tags else ''}")
    if address := run.tags.get(MLFLOW_ADDRESS):
        output.notice(
            f"The script started MLflow runs at '{address}', which himl does not record. To record them, remove that "
            "address from the script."
        )
    if output.format is not Format.quiet and (files := unkept()):
        count, names = len(files), [name for name, _ in files]
        where = shown_path(os.path.commonpath([path for _, path in files]))
        folder = os.path.commonpath([os.path.dirname(name) for name in names])
        glob = names[0] if len(set(names)) == 1 else f"{folder}/**" if folder else "**"
        what, verb = ("1 new file", "is") if count == 1 else (f"{count:,} new files", "are")
        output.notice(
            f"{what} outside outputs/ and logs/ {verb} not part of the results: '{where}'. To keep such files, add "
            f"--keep {shlex.quote(glob)}"
        )


def print_settings(
    output: Output, values: Mapping[str, Any], sources: Mapping[str, str], others: Sequence[tuple[str, str, str]] = ()
) -> None:
    """Print one row per option: name, value, and its source (`command line`, an environment variable, `FILE:LINE` or
    `default`), then *others*: key, value and source."""
    rows = [
        {"option": name, "value": shown_value(name, value), "source": sources.get(name, "default")}
        for name, value in sorted(values.items())
        if name != "target"
    ]
    rows += [{"option": key, "value": redact(value), "source": source} for key, value, source in others]
    output.table(
        rows,
        [
            Column("Option", lambda row: row["option"]),
            Column("Value", lambda row: row["value"], folds=12),
            Column("From", lambda row: row["source"]),
        ],
        quiet=lambda row: f"{row['option']}={row['value']}",
    )


def shown_value(name: str, value: Any) -> str:
    """A value as the user would type it, or an empty text if it is not set."""
    is_command_line = name in ("docker_args", "command")  # contain several arguments
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Enum):  # as Typer 0.29 gives it
        value = value.value
    if isinstance(value, (list, tuple)):
        return ", ".join(mask_line(each) if is_command_line else mask_arguments([each])[0] for each in map(str, value))
    # ssh_key is the name of a file, although it sounds like a secret
    if is_command_line or name == "ssh_key":
        return mask_line(str(value))
    return mask_arguments([f"{name}={value}"])[0].partition("=")[2]
