"""What came of the cases, in print."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from stress.records import Outcome, Record, lost

NOT_MET = Outcome.not_met


def table(records: Sequence[Record]) -> list[str]:
    """A row for each fault (or whatever stands third in the ids), a column for what stands second: survived/reported/lost, and +N not met."""
    cells: dict[tuple[str, str], Counter[Outcome]] = {}
    for record in records:
        _, column, *row = record.id.split("/")
        cells.setdefault(("/".join(row[:-1]), column), Counter())[record.result.outcome] += 1
    rows, columns = list(dict.fromkeys(row for row, _ in cells)), sorted({column for _, column in cells})
    texts = [["", *columns]] + [[row, *(_counted(cells.get((row, column))) for column in columns)] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return ["  ".join([line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:], strict=True))]).rstrip() for line in texts]


def totals(records: Sequence[Record]) -> str:
    """One line: how many cases, and how they ended. Those in which nothing went wrong are no part of what was injected."""
    counts = Counter(record.result.outcome for record in records)
    injected = len(records) - counts[NOT_MET]
    said = ", ".join(f"{counts[outcome]:,} {outcome.value}" for outcome in (Outcome.survived, Outcome.reported, Outcome.lost))
    return f"{injected:,} injected: {said}" + (f"; {counts[NOT_MET]:,} cases in which it was not met" if counts[NOT_MET] else "")


def lost_lines(records: Sequence[Record], seed: int) -> list[str]:
    """What was lost, why, and the command that shows it again."""
    lines = []
    for record in lost(records):
        lines += [f"LOST {record.id}: {record.result.why}", *(f"     {name}: {value}" for name, value in record.result.facts.items())]
        lines.append(f"     python -m stress --case {record.id} --seed {seed}")
    return lines


def _counted(counts: Counter[Outcome] | None) -> str:
    if counts is None:
        return "-"
    text = "/".join(str(counts[outcome]) for outcome in (Outcome.survived, Outcome.reported, Outcome.lost))
    return f"{text} +{counts[NOT_MET]}" if counts[NOT_MET] else text
