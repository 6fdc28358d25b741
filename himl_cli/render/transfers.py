"""The outcome of a transfer and lists of files, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta, timezone

from himl_cli.core.blobs import TransferResult, causes, named
from himl_cli.core.checkpoints import FetchedCheckpoint, LinkedCheckpoint, PushedCheckpoints
from himl_cli.render.job_output import print_run
from himl_cli.render.json import run_form, utc_text
from himl_cli.render.output import Format, Output
from himl_cli.render.tables import Column
from himl_cli.render.terminal import duration_text, local_time, size_text

LISTED = 50

FILE_COLUMNS = (
    Column("NAME", lambda file: file.name, folds=30),
    Column("SIZE", lambda file: size_text(file.size), plain=lambda file: str(file.size), rank=1, least=8, right=True),
    Column(
        "MODIFIED",
        lambda file: local_time(file.modified),
        plain=lambda file: utc_text(file.modified) if file.modified else "",
        rank=2,
        least=12,
    ),
)
FILE_OF_RUN_COLUMNS = (Column("RUN", lambda file: file.run, rank=3, least=20), *FILE_COLUMNS)


def print_transfer(
    output: Output, result: TransferResult, verb: str, places: Sequence[str], inside: str = "", nothing: str = ""
) -> bool:
    """The summary of a transfer to *places* (in what *inside* says) on stdout, or *nothing* where there was nothing to
    move.

    What is not as it was asked for is listed on stderr where the error that follows cannot name it all; True when it
    was.
    """
    # The others have it in the document, or did not ask
    is_listed = output.format is Format.human and not result.is_told_by_problem
    if is_listed:
        for line in _left(result):
            output.notice(line)
    is_nothing = result.is_empty and nothing
    output.result(
        {**result.as_record(), "places": list(places)},
        human=lambda: nothing if is_nothing else summary(result, verb, places, inside),
        quiet=() if is_nothing else places,
    )
    return is_listed


def summary(result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> str:
    """One line: `Downloaded 3 files (1.2 MB) to 'outputs/run_1' in 0.4s; 5 were complete already.`"""
    where = f" to '{places[0]}'" if len(places) == 1 else f" to {len(places)} folders"
    where += f" ({inside})" if inside else ""
    files = f"{result.files:,} file{'s' * (result.files != 1)}"
    said = [f"{verb} {files} ({size_text(result.bytes)}){where} in {duration_text(result.seconds)}"]
    differ = "left because it differs" if len(result.differing) == 1 else "left because they differ"
    counts = (
        (result.skipped, "complete already"),
        (result.unverified, "not verifiable"),
        (len(result.differing), differ),
        (len(result.refused), "left out"),
        (len(result.failed), "failed"),
    )
    return "; ".join([*said, *(f"{count:,} {words}" for count, words in counts if count)]) + "."


def _left(result: TransferResult) -> Iterable[str]:
    lines = [f"differs, left as it is: {name}" for name in result.differing]
    lines += [f"left out: {one.name}: {one.reason}" for one in result.refused]
    for cause, alike in causes(result.failed).items():
        first = alike[0]
        lines.append(
            f"failed: {first.name}: {first.message}"
            if len(alike) == 1
            else f"failed: {named([one.name for one in alike])}: {cause}"
        )
    yield from lines[:LISTED]
    if len(lines) > LISTED:
        yield f"... and {len(lines) - LISTED:,} more; --json lists them all."


def print_fetched_checkpoint(output: Output, fetched: FetchedCheckpoint, digest: Callable[[], str | None]) -> None:
    """The path alone on stdout, where it came from on stderr: `"$(himl checkpoint fetch RUN)"` is the path. *digest*
    gives the MD5 in hex digits."""
    what = f"'{fetched.names[0]}'" if len(fetched.names) == 1 else f"{len(fetched.names):,} files"
    where = f"of run '{fetched.run.id}'" if fetched.run is not None else f"from {fetched.address}"
    if fetched.status == "complete":
        said = f"{what} {where} {'is' if len(fetched.names) == 1 else 'are'} complete here already."
    else:
        said = f"Fetched {what} {where} ({size_text(fetched.size)}) in {duration_text(fetched.seconds)}."
    if fetched.status != "local":
        output.notice(f"{said}{' No MD5 is on record to check it by.' if fetched.unverified else ''}")
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
    """The new run's id, alone on stdout; where it is, and how jobs start from it."""
    run, count, same = pushed.run, len(pushed.names), len(pushed.unchanged)
    if same == count:
        output.notice(
            f"warning: {'the file is' if count == 1 else 'all files are'} as run {pushed.source.id} has "
            f"{'it' if count == 1 else 'them'}."
        )
    elif same:
        output.notice(f"Unchanged, and pushed all the same: {named(pushed.unchanged)}.")
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


NEARLY = timedelta(minutes=16)
"""Links begin a quarter of an hour before they are made."""


def print_checkpoint_url(output: Output, linked: LinkedCheckpoint, days: float) -> None:
    """The link, which is nowhere else to be seen; how long it is good, and that it is for fewer than *days* where it
    is."""
    link = linked.link
    data = {"url": link.url, "expires": link.expires, "run": linked.run.id, "name": linked.name}
    output.result(data, human=link.url, quiet=link.url)
    output.notice(
        f"Whoever has this link can read '{linked.name}' of run {linked.run.id} until "
        f"{link.expires:%Y-%m-%d %H:%M} UTC."
    )
    if link.expires < datetime.now(timezone.utc) + timedelta(days=days) - NEARLY:
        output.notice(
            f"That is less than the {days:g} day{'s' * (days != 1)} asked for: without the storage account's key no "
            "link is good for longer."
        )
