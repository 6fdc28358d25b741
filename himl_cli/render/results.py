"""The output of commands about jobs, transfers, checkpoints, slides, setup and checks. Results go to stdout, remarks to
stderr."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from himl_cli.core.blobs import TransferResult, causes
from himl_cli.core.errors import HimlError
from himl_cli.core.jobs import SnapshotReport, secrets_text
from himl_cli.core.logged import SweepView
from himl_cli.core.montage import CellOutcome, MontageResult, WrittenFile
from himl_cli.core.redaction import MASK, mask_arguments, mask_line, redact
from himl_cli.core.runs import (
    MLFLOW_ADDRESS,
    FetchedCheckpoint,
    LinkedCheckpoint,
    PushedCheckpoints,
    Run,
    RunStatus,
    run_form,
)
from himl_cli.core.sweeps import MANY
from himl_cli.core.text import named, utc_text
from himl_cli.core.tiles import TiledSlide, TilesResult
from himl_cli.core.workspaces import Check, CheckState, SetUp, WorkspaceFacts
from himl_cli.render.forms import json_form, number_text
from himl_cli.render.output import (
    Column,
    Format,
    Output,
    duration_text,
    folded,
    local_time,
    one_line,
    shown_path,
    size_text,
    styled,
    width,
)
from himl_cli.render.run_views import best_lines

FAILED_FILES_SHOWN, FAILED_SLIDES_SHOWN = 50, 20  # --json has all of them
STYLES = {CheckState.passed: "green", CheckState.failed: "red", CheckState.note: "yellow", CheckState.skipped: "dim"}
STATE_WIDTH, NAME_WIDTH = 8, 17


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


def print_run(output: Output, run: Run, lead: str = "Run", twin: Run | None = None, url: str | None = None) -> None:
    """Print the run, its experiment and its workspace. *twin* is its record in another workspace, *url* its page."""
    also = f", recorded in {twin.workspace}" if twin is not None else ""
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
    unkept: Sequence[tuple[str, Path]] = (),
) -> None:
    """Print the result of a submit that waited. *rest* is the name and the end of a log that was not shown yet, *sweep*
    the trials of the run, *unkept* the names and paths of files that are not part of its results."""
    output.end_line()
    if rest is not None and rest[1].strip():
        output.notice(f"The last lines of {rest[0]}:")
        output.talk(rest[1])
    output.result(run, human=lambda: "\n".join(best_lines(sweep)) if sweep else "", quiet=run.id)
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
    if unkept:
        count, names = len(unkept), [name for name, _ in unkept]
        where = shown_path(os.path.commonpath([path for _, path in unkept]))
        folder = os.path.commonpath([os.path.dirname(name) for name in names])
        glob = names[0] if len(set(names)) == 1 else f"{folder}/**" if folder else "**"
        what, verb = ("1 new file", "is") if count == 1 else (f"{count:,} new files", "are")
        output.notice(
            f"{what} outside outputs/ and logs/ {verb} not part of the results: '{where}'. To keep such files, add "
            f"--keep {shlex.quote(glob)}"
        )


def print_settings(
    output: Output, values: Mapping[str, Any], sources: Mapping[str, str], azure: Sequence[tuple[str, str, str]] = ()
) -> None:
    """Print one row per option: name, value, and its source (`command line`, an environment variable, `FILE:LINE` or
    `default`), then those of *azure*, as `azure.KEY`."""
    rows = [
        {"option": name, "value": shown_value(name, value), "source": sources.get(name, "default")}
        for name, value in sorted(values.items())
        if name != "target"
    ]
    rows += [{"option": f"azure.{key}", "value": redact(value), "source": source} for key, value, source in azure]
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
    if isinstance(value, (list, tuple)):
        return ", ".join(mask_line(each) if is_command_line else mask_arguments([each])[0] for each in map(str, value))
    # ssh_key is the name of a file, although it sounds like a secret
    if is_command_line or name == "ssh_key":
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

FILE_COLUMNS = (
    Column("NAME", lambda file: file["name"], folds=30),
    Column(
        "SIZE", lambda file: size_text(file["size"]), plain=lambda file: str(file["size"]), rank=1, least=8, right=True
    ),
    Column(
        "MODIFIED",
        lambda file: local_time(file["modified"]),
        plain=lambda file: utc_text(file["modified"]) if file["modified"] else "",
        rank=2,
        least=12,
    ),
)
FILE_OF_RUN_COLUMNS = (Column("RUN", lambda file: file["run"], rank=3, least=20), *FILE_COLUMNS)


def print_transfer(
    output: Output, result: TransferResult, verb: str, places: Sequence[str], *, inside: str = "", nothing: str = ""
) -> None:
    """Print the summary of a transfer to *places* (*inside* names their contents) on stdout, or *nothing* if there were
    no files. Raises the error of the transfer, if any.

    Incomplete files are listed on stderr if the error cannot name them all.
    """
    # Other formats have them in the document, or omit them
    is_listed = output.format is Format.human and not result.is_told_by_problem
    for line in _left(result) if is_listed else ():
        output.notice(line)
    is_nothing = result.is_empty and nothing
    output.result(
        {**result.as_record(), "places": list(places)},
        human=lambda: nothing if is_nothing else summary(result, verb, places, inside),
        quiet=() if is_nothing else places,
    )
    problem = result.problem(is_listed=is_listed)
    if problem is not None:
        raise problem


def summary(result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> str:
    """One line: `Downloaded 3 files (1.2 MB) to 'outputs/run_1' in 0.4s; 5 already complete.`"""
    where = f" to '{places[0]}'" if len(places) == 1 else f" to {len(places)} folders"
    where += f" ({inside})" if inside else ""
    files = f"{result.files:,} file{'s' * (result.files != 1)}"
    said = [f"{verb} {files} ({size_text(result.bytes)}){where} in {duration_text(result.seconds)}"]
    differ = "not replaced because it differs" if len(result.differing) == 1 else "not replaced because they differ"
    counts = (
        (result.skipped, "already complete"),
        (result.unverified, "not verifiable"),
        (len(result.differing), differ),
        (len(result.refused), "left out"),
        (len(result.failed), "failed"),
    )
    return "; ".join([*said, *(f"{count:,} {words}" for count, words in counts if count)]) + "."


def _left(result: TransferResult) -> Iterable[str]:
    lines = [f"differs, not replaced: {name}" for name in result.differing]
    lines += [f"left out: {one.name}: {one.reason}" for one in result.refused]
    lines += [
        f"failed: {alike[0].name}: {alike[0].message}"
        if len(alike) == 1
        else f"failed: {named([one.name for one in alike])}: {cause}"
        for cause, alike in causes(result.failed).items()
    ]
    yield from lines[:FAILED_FILES_SHOWN]
    if len(lines) > FAILED_FILES_SHOWN:
        yield f"... and {len(lines) - FAILED_FILES_SHOWN:,} more. For all of them, add --json."


def print_fetched_checkpoint(output: Output, fetched: FetchedCheckpoint, digest: Callable[[], str | None]) -> None:
    """Print the path on stdout and its source on stderr, so that `"$(himl checkpoint fetch RUN)"` is the path. *digest*
    returns the MD5 in hex digits."""
    what = f"'{fetched.names[0]}'" if len(fetched.names) == 1 else f"{len(fetched.names):,} files"
    where = f"of run '{fetched.run.id}'" if fetched.run is not None else f"from {fetched.address}"
    if fetched.status == "complete":
        said = f"{what} {where} {'is' if len(fetched.names) == 1 else 'are'} already complete on this machine."
    else:
        said = f"Fetched {what} {where} ({size_text(fetched.size)}) in {duration_text(fetched.seconds)}."
    if fetched.status != "local":
        output.notice(f"{said}{' The service has no MD5 to compare.' if fetched.unverified else ''}")
    document = {
        "path": fetched.shown,
        "status": fetched.status,
        "run": fetched.run.id if fetched.run is not None else None,
        "address": fetched.address or None,
        "names": list(fetched.names),
        "size": fetched.size,
        "md5": digest() if output.format is Format.json else None,
        "verified": not fetched.unverified if fetched.status == "fetched" else None,
        "epoch": fetched.epoch,
        "metric": fetched.metric or None,
        "value": fetched.value,
    }
    output.result(document, human=fetched.shown, quiet=fetched.shown)


def print_pushed_checkpoints(output: Output, pushed: PushedCheckpoints) -> None:
    """Print the new run's id on stdout. Name its workspace, and how jobs start from it, on stderr."""
    run, count, same = pushed.run, len(pushed.names), len(pushed.unchanged)
    if same == count:
        output.notice(
            f"warning: {'The file is' if count == 1 else 'All files are'} the same as in run {pushed.source.id}."
        )
    elif same:
        output.notice(f"himl also pushed unchanged files: {named(pushed.unchanged)}.")
    data = {
        **run_form(run),
        "from": pushed.source.id,
        "files": list(pushed.names),
        "unchanged": list(pushed.unchanged),
        "checkpoint": pushed.start,
    }
    output.result(data, human=run.id, quiet=run.id)
    print_run(output, run, f"{count:,} file{'s' * (count != 1)} in run", url=run.url)
    output.notice(f"Start from it: himl submit SCRIPT --checkpoint {pushed.start}")


def print_checkpoint_url(output: Output, linked: LinkedCheckpoint, days: float) -> None:
    """Print the link, which no other output shows, and its expiry, with a remark if it is valid for fewer than
    *days*."""
    link = linked.link
    data = {"url": link.url, "expires": link.expires, "run": linked.run.id, "name": linked.name}
    output.result(data, human=link.url, quiet=link.url)
    output.notice(
        f"Everyone with this link can read '{linked.name}' of run {linked.run.id} until "
        f"{link.expires:%Y-%m-%d %H:%M} UTC."
    )
    # The validity of a link begins a quarter of an hour before its creation
    if link.expires < datetime.now(timezone.utc) + timedelta(days=days, minutes=-16):
        output.notice(
            f"The link is valid for less than {days:g} day{'s' * (days != 1)}. Longer links require the key of the "
            "storage account."
        )


def print_montage(output: Output, result: MontageResult, files: Sequence[WrittenFile]) -> None:
    """Print the files, their contents and the duration on stdout, and unreadable slides on stderr at the end."""
    data = {
        "files": [{"path": str(file.path), "bytes": file.bytes, **_sides(file.size)} for file in files],
        **_sides(result.size),
        "columns": result.columns,
        "rows": result.rows,
        "slides": len(result.cells),
        "failed": [_cell(cell, "reason") for cell in result.failed],
        "failed_masks": [_cell(cell, "mask", "reason") for cell in result.troubled if cell.is_ok],
        "remarks": [_cell(cell, "remark") for cell in result.cells if cell.remark],
        "seconds": round(result.seconds, 3),
    }
    output.result(
        data,
        human=lambda: "\n".join([*_file_lines(files), _montage_summary(result)]),
        quiet=[str(file.path) for file in files],
    )
    if output.format is Format.human:
        output.flush()
        for line in failed_lines(result.troubled):
            output.notice(line)
        if len(result.failed) == len(result.cells):
            output.notice("himl could not read any slide. Paths in a CSV are relative to its folder.")


def print_tiles(output: Output, result: TilesResult) -> None:
    """Print the list of tiles, their number and the duration on stdout, and failed slides on stderr at the end."""
    names = ("folder", "level", "backend", "tiles", "is_resumed", "reason")
    tiles, total, failed = sum(slide.tiles for slide in result.slides), len(result.slides), len(result.failed)
    resumed = sum(slide.is_resumed for slide in result.slides)
    data = {
        "dataset": str(result.dataset),
        "tiles": tiles,
        "slides": [{**_cell(slide, *names), **_sides(slide.size)} for slide in result.slides],
        "failed": failed,
        "seconds": round(result.seconds, 3),
    }
    parts = {
        f"{tiles:,} tile{'s' * (tiles != 1)} of {total - failed:,} slide{'s' * (total - failed != 1)}": True,
        f"{resumed:,} of them already complete": resumed,
        f"{failed:,} not read": failed,
    }
    human = f"{one_line(str(result.dataset))}  {', '.join(filter(parts.get, parts))}; {duration_text(result.seconds)}."
    output.result(data, human=human, quiet=[str(result.dataset)])
    if output.format is Format.human:
        output.flush()
        for line in failed_lines(result.failed, result.record.name):
            output.notice(line)
        if failed == total:
            output.notice("himl could not read any slide. Paths in a CSV are relative to its folder.")


def failed_lines(slides: Sequence[CellOutcome | TiledSlide], record: str = "montage.csv") -> Iterator[str]:
    """Each reason for unreadable slides, with their ids. *record* is the file with all of them."""
    alike: dict[tuple[bool, str], list[str]] = {}
    for slide in slides:
        reason = slide.reason.removeprefix("mask: ") if slide.is_ok else slide.reason
        alike.setdefault((slide.is_ok, reason), []).append(slide.slide_id)
    for (is_ok, reason), ids in list(alike.items())[:FAILED_SLIDES_SHOWN]:
        yield f"{'mask not read' if is_ok else 'not read'}: {named(ids)}: {reason}"
    rest = list(alike.values())[FAILED_SLIDES_SHOWN:]
    if rest:
        yield f"... and {sum(map(len, rest)):,} more, for other reasons. {record} lists all of them."


def _file_lines(files: Sequence[WrittenFile]) -> Iterator[str]:
    """Aligned lines such as `outputs/montage.png  60,000 x 33,750  1.4 GB`."""
    rows = [
        (one_line(str(file.path)), f"{file.size[0]:,} x {file.size[1]:,}" if file.size else "", size_text(file.bytes))
        for file in files
    ]
    widths = [max(len(row[place]) for row in rows) for place in range(3)]
    for path, pixels, size in rows:
        yield f"{path.ljust(widths[0])}  {pixels.rjust(widths[1])}  {size.rjust(widths[2])}"


def _montage_summary(result: MontageResult) -> str:
    """The summary, such as `197 of 200 slides in 20 columns and 10 rows, 3 not read; 15s.`"""
    total, failed = len(result.cells), len(result.failed)
    shown = f"{total:,} slide{'s' * (total != 1)}" if not failed else f"{total - failed:,} of {total:,} slides"
    masks = len(result.troubled) - failed
    columns = f"{result.columns:,} column{'s' * (result.columns != 1)}"
    rows = f"{result.rows:,} row{'s' * (result.rows != 1)}"
    parts = {
        f"{shown} in {columns} and {rows}": True,
        f"{failed:,} not read": failed,
        f"{masks:,} without {'its mask' if masks == 1 else 'their masks'}": masks,
    }
    return f"{', '.join(filter(parts.get, parts))}; {duration_text(result.seconds)}."


def _sides(size: tuple[int, int] | None) -> dict[str, int | None]:
    return {"width": size[0] if size else None, "height": size[1] if size else None}


def _cell(cell: CellOutcome | TiledSlide, *names: str) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in ("slide_id", "image", *names)}


ARCHIVE_COLUMNS = (
    Column("TYPE", lambda row: row["type"]),
    Column("NAME", lambda row: row["name"], folds=30),
    Column("ID", lambda row: row["id"], rank=1, least=24),
    Column("ELEMENTS", lambda row: "" if row["elements"] is None else str(row["elements"]), rank=2, right=True),
    Column("UPDATED", lambda row: (row["updated"] or "")[:16].replace("T", " "), rank=3, least=16),
)


def print_annotations(output: Output, name: str, rows: Sequence[Mapping[str, Any]], problem: HimlError | None) -> None:
    """Print the outcome for the annotation *name* of each slide, with failures on stderr. Raises *problem*."""
    for row in rows if len(rows) > 1 and output.format is Format.human else ():
        if row["reason"]:
            output.notice(f"{row['slide_id']}: {row['reason']}")
    counts = Counter(row["status"] for row in rows)
    parts = [
        f"{counts[status]:,} {status}" for status in ("uploaded", "replaced", "unchanged", "failed") if counts[status]
    ]
    output.result(
        {"name": name, "slides": rows},
        human="" if counts["failed"] == len(rows) else f"Annotation '{name}': {', '.join(parts)}.",
        quiet=[row["annotation_id"] for row in rows if row["annotation_id"]],
    )
    if problem is not None:
        raise problem


def print_checks(output: Output, checks: Iterable[Check]) -> Sequence[Check]:
    """Print each check when it is complete (JSON: an array at the end, quiet: the names of failed checks), and return
    all."""
    made: list[Check] = []
    for check in checks:
        made.append(replace(check, message=redact(one_line(check.message)), remedy=redact(one_line(check.remedy))))
        if output.format is Format.human:
            output.lines(check_lines(made[-1]))
    if output.format is Format.json:
        output.json(made)
    elif output.format is Format.quiet:
        output.lines(dict.fromkeys(check.name for check in made if check.state is CheckState.failed))
    return made


def check_lines(check: Check) -> Iterator[str]:
    """The state, name and message of a check. A terminal folds the message, a narrow one below the name. Otherwise it
    is one line with tabs."""
    if not sys.stdout.isatty():
        yield "\t".join(filter(None, (check.state.value, check.name, check.message, check.remedy)))
        return
    is_wide = width() >= 60
    indent = STATE_WIDTH + NAME_WIDTH if is_wide else 2
    head = styled(check.state.value.ljust(STATE_WIDTH), STYLES[check.state]) + check.name
    lines = [line for text in (check.message, check.remedy) for line in folded(text, width() - indent)]
    if is_wide:
        head += " " * (NAME_WIDTH - len(check.name)) + lines.pop(0)
    yield from (head.rstrip(), *(" " * indent + line for line in lines))


def print_set_up(output: Output, done: SetUp, folder: Path) -> None:
    """Print the files of the setup, or only paths when quiet. The next step goes to stderr."""
    output.result(
        done,
        human=lambda: "\n".join(_set_up_lines(done, folder)),
        quiet=[str(file.path) for file in done.files if file.is_new],
    )
    if any(file.is_private for file in done.files):
        output.notice(
            "himl.private.toml contains credentials. Keep it out of version control. himl excludes it from jobs."
        )
    output.notice("Next: himl doctor")


def _set_up_lines(done: SetUp, folder: Path) -> Iterator[str]:
    """The lines of the setup, folded on a terminal."""

    def shown(path: Path) -> str:
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)

    def item(text: str, indent: str = "") -> str:
        line = one_line(text)
        lines = folded(line, width() - len(indent) - 2) if sys.stdout.isatty() else [line]
        return indent + f"\n{indent}  ".join(lines)

    for file in done.files:
        verb = "Wrote" if file.is_new else "Already there:"
        yield item(f"{verb} {shown(file.path)}{': ' if file.keys else ''}{', '.join(file.keys)}")
    if len(done.read) > 1:
        yield item(f"Read {', '.join(map(shown, done.read))}")
    if done.left_out:
        yield "Left out:"
        yield from (item(f"{left.name}: {left.why}", "  ") for left in done.left_out)


def workspace_view(facts: WorkspaceFacts) -> Iterator[str]:
    """The name and source of the workspace, then one line per fact. Values are never folded, so that they can be
    copied."""
    yield styled(one_line(facts.label), "bold")
    for name, value in {"read from": facts.source, **facts.facts}.items():
        first, *rest = name.split("_")
        title = " ".join([first.capitalize(), *(word.upper() if word in ("id", "url") else word for word in rest)])
        if value:
            yield f"  {styled(title.ljust(17), 'dim')}  {one_line(value)}"


def row_columns(rows: Sequence[Mapping[str, object]]) -> list[Column]:
    """One column per key, in order of first appearance. In a narrow terminal, later columns shrink first."""

    def column(rank: int, name: str) -> Column:
        return Column(
            name.replace("_", " ").upper(),
            lambda row: _cell_text(row.get(name), for_people=True),
            lambda row: _cell_text(row.get(name)),
            rank=rank,
            right=all(isinstance(row.get(name), (int, float, type(None))) for row in rows),
        )

    return [column(rank, name) for rank, name in enumerate(dict.fromkeys(name for row in rows for name in row))]


def first_value(row: Mapping[str, object]) -> str:
    return _cell_text(next(iter(row.values()), None))


def _cell_text(value: object, *, for_people: bool = False) -> str:
    """Text unchanged, None as an empty text, all else as JSON. *for_people* limits floats to six digits. Raises
    TypeError for values that JSON does not have."""
    form = json_form(value)
    if isinstance(form, float) and for_people:
        return number_text(form)
    return "" if form is None else form if isinstance(form, str) else json.dumps(form, ensure_ascii=False)
