"""Markdown of records: tables of outcomes by what stands in their ids, and of the figures in their facts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stress.records import Outcome, Record

SHOWN = (Outcome.survived, Outcome.reported, Outcome.lost)
NOTHING, SUM, NOT_MET = "–", "sum", "not met"

Cells = Mapping[tuple[str, str], Counter[Outcome]]


def matrix(records: Sequence[Record], corner: str) -> str:
    """Rows by what stands third in the ids, columns by what stands second, each cell survived / reported / lost; the sums, and what was not met."""
    cells = _by_cell(records)
    columns, rows = ([*dict.fromkeys(sorted(names))] for names in zip(*cells, strict=True))
    lines = [[row, *(_counted(cells.get((column, row))) for column in columns), *_sums(cells, row=row)] for row in rows]
    sums = [SUM, *(_sums(cells, column=column)[0] for column in columns), *_sums(cells)]
    return table([corner, *columns, SUM, NOT_MET], [*lines, sums])


def listed(records: Sequence[Record], *, heads: tuple[str, str], sums: Sequence[str] = (), peaks: Sequence[str] = ()) -> str:
    """A line for each cell: what stands second and third in its ids, the facts *sums* added up, the largest of each of *peaks*, survived / reported / lost."""
    cells, groups = _by_cell(records), _grouped(records)
    lines = [[*cell, *_figures(groups[cell], sums, peaks), _counted(cells[cell]), _not_met(cells[cell])] for cell in cells]
    whole = [SUM, "", *_figures(records, sums, peaks), *_sums(cells)]
    return table([*heads, *map(worded, sums), *(f"most {worded(name)}" for name in peaks), "survived / reported / lost", NOT_MET], [*lines, whole])


def figures_of(records: Sequence[Record]) -> str:
    """A line for each fact of each case, by the ids of the cases and the facts' names."""
    lines = [[_title(record), worded(name), figure(value)] for record in records for name, value in sorted(_flat(record.result.facts))]
    firsts = ["" if number and lines[number - 1][0] == line[0] else line[0] for number, line in enumerate(lines)]
    return table(["case", "figure", "value"], [[first, *line[1:]] for first, line in zip(firsts, lines, strict=True)])


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table whose columns but the first stand to the right where they hold nothing but figures."""
    rows = [[_escaped(text) for text in line] for line in lines]
    marks = ["---:" if number and all(_is_figure(row[number]) for row in rows) else "---" for number in range(len(head))]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), marks, *rows])


def total(records: Iterable[Record], name: str) -> int | float:
    """The sum of a fact. Raises ValueError where no case has it, or one has something else than a number."""
    values = _values(records, name)
    if not values:
        raise ValueError(f"no case has the fact '{name}'")
    if not all(isinstance(value, (int, float)) for value in values):
        raise ValueError(f"the fact '{name}' is not a number in each case")
    whole: int | float = sum(values)
    return whole


def figure(value: Any) -> str:
    """A value as readers like it: 12,345 or 0.25; texts as they are."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{round(value, 2 if abs(value) < 100 else None):,}"
    return ", ".join(map(figure, value)) if isinstance(value, (list, tuple)) else str(value)


def worded(name: str) -> str:
    return name.replace("_", " ")


def _figures(records: Sequence[Record], sums: Sequence[str], peaks: Sequence[str]) -> list[str]:
    """The sums and the largest values of facts; NOTHING of a fact that no case has, as where one hangs."""
    return [figure(merge(values)) if (values := _values(records, name)) else NOTHING for names, merge in ((sums, sum), (peaks, max)) for name in names]


def _values(records: Iterable[Record], name: str) -> list[Any]:
    return [record.result.facts[name] for record in records if name in record.result.facts]


def _by_cell(records: Iterable[Record]) -> dict[tuple[str, str], Counter[Outcome]]:
    """How the cases of each column and row ended."""
    return {cell: Counter(record.result.outcome for record in alike) for cell, alike in _grouped(records).items()}


def _grouped(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        _, column, *row = record.id.split("/")
        groups.setdefault((column, "/".join(row[:-1])), []).append(record)
    return groups


def _sums(cells: Cells, *, column: str | None = None, row: str | None = None) -> list[str]:
    """The outcomes and the number of those not met, over all cells that have this column and row (None: any)."""
    chosen = [counts for (one, other), counts in cells.items() if column in (None, one) and row in (None, other)]
    counts = sum(chosen, Counter[Outcome]())
    return [_counted(counts), _not_met(counts)]


def _counted(counts: Counter[Outcome] | None) -> str:
    return NOTHING if counts is None else " / ".join(f"{counts[outcome]:,}" for outcome in SHOWN)


def _not_met(counts: Counter[Outcome]) -> str:
    return f"{counts[Outcome.not_met]:,}"


def _title(record: Record) -> str:
    """The id without the name of its part, and without a number that only says that it is the first."""
    _, *words = record.id.split("/")
    shown = words[:-1] if words[-1].strip("0") == "" and len(words) > 1 else words
    return " ".join(figure(int(word)) if word.isdecimal() and len(word) > 3 else word for word in shown)


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values; those of facts in facts by both names."""
    for name, value in facts.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", one) for inner, one in _flat(value))
        else:
            yield name, value


def _escaped(text: str) -> str:
    return text.replace("\n", " ").replace("|", "\\|")


def _is_figure(text: str) -> bool:
    return not any(sign.isalpha() for sign in text)
