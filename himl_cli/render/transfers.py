"""The outcome of a transfer and lists of files, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from himl_cli.core.blobs import TransferResult, causes, named
from himl_cli.render.durations import duration_text, local_time, size_text
from himl_cli.render.json_form import utc_text
from himl_cli.render.output import Format, Output
from himl_cli.render.tables import Column

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


def say_transferred(
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
    data: dict[str, Any] = {**result.as_record(), "places": list(places)}
    is_nothing = result.is_empty and nothing
    output.result(
        data,
        human=lambda: nothing if is_nothing else summary(result, verb, places, inside),
        quiet=() if is_nothing else places,
    )
    return is_listed


def summary(result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> str:
    """One line: `Downloaded 3 files (1.2 MB) to 'outputs/run_1' in 0.4s; 5 were complete already.`"""
    where = f" to '{places[0]}'" if len(places) == 1 else f" to {len(places)} folders"
    where += f" ({inside})" if inside else ""
    said = [f"{verb} {_files(result.files)} ({size_text(result.bytes)}){where} in {duration_text(result.seconds)}"]
    differ = "left because it differs" if len(result.differing) == 1 else "left because they differ"
    for count, words in (
        (result.skipped, "complete already"),
        (result.unverified, "not verifiable"),
        (len(result.differing), differ),
    ):
        if count:
            said.append(f"{count:,} {words}")
    for count, words in ((len(result.refused), "left out"), (len(result.failed), "failed")):
        if count:
            said.append(f"{count:,} {words}")
    return "; ".join(said) + "."


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


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
