"""The outcome of a transfer and lists of files, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from himl_cli.render.durations import duration_text, local_time, size_text
from himl_cli.render.json_form import utc_text
from himl_cli.render.output import Format, Output
from himl_cli.render.tables import Column

if TYPE_CHECKING:
    from himl_cli.core.transfers import TransferResult

LISTED = 50

FILE_COLUMNS = (
    Column("NAME", lambda file: file.name),
    Column("SIZE", lambda file: size_text(file.size), plain=lambda file: str(file.size), rank=1, right=True),
    Column("MODIFIED", lambda file: local_time(file.modified), plain=lambda file: utc_text(file.modified) if file.modified else "", rank=2, least=12),
)
FILE_OF_RUN_COLUMNS = (Column("RUN", lambda file: file.run, rank=3, least=20), *FILE_COLUMNS)


def say_transferred(output: Output, result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> None:
    """The summary of a transfer to *places* (in what *inside* says), on stdout; what is not as it was asked for, on stderr."""
    if output.format is Format.human:  # the others have it in the document, or did not ask
        for line in _left(result):
            output.notice(line)
    data: dict[str, Any] = {**result.as_record(), "places": list(places)}
    output.result(data, human=lambda: summary(result, verb, places, inside), quiet=places)


def summary(result: TransferResult, verb: str, places: Sequence[str], inside: str = "") -> str:
    """One line: `Downloaded 3 files (1.2 MB) to 'outputs/run_1' in 0.4s; 5 were complete already.`"""
    where = f" to '{places[0]}'" if len(places) == 1 else f" to {len(places)} folders"
    where += f" ({inside})" if inside else ""
    said = [f"{verb} {_files(result.files)} ({size_text(result.bytes)}){where} in {duration_text(result.seconds)}"]
    for count, words in ((result.skipped, "complete already"), (result.unverified, "not verifiable"), (len(result.differing), "left because they differ")):
        if count:
            said.append(f"{count:,} {words}")
    for count, words in ((len(result.refused), "left out"), (len(result.failed), "failed")):
        if count:
            said.append(f"{count:,} {words}")
    return "; ".join(said) + "."


def _left(result: TransferResult) -> Iterable[str]:
    lines = [f"differs, left as it is: {name}" for name in result.differing]
    lines += [f"left out: {one.name}: {one.reason}" for one in result.refused]
    lines += [f"failed: {one.name}: {one.message}" for one in result.failed]
    yield from lines[:LISTED]
    if len(lines) > LISTED:
        yield f"... and {len(lines) - LISTED:,} more; --json lists them all."


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"
