"""The output of transfers and lists of files."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from himl_cli.core.blobs import TransferResult, causes
from himl_cli.core.text import named, utc_text
from himl_cli.render.output import (
    Column,
    Format,
    Output,
    duration_text,
    local_time,
    shown_path,
    size_text,
)

FAILED_FILES_SHOWN = 50  # --json has all of them

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
