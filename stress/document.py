"""Write docs/reliability.md from the raw results and stress/reliability.md.in, for `scripts/generate`.

The template has the prose, with names in braces for figures and tables: `{faults.lost}`. `{ranks.orders:sum.orders}`
covers only cases with `orders` as the second part of their ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stress.records import SHOWN, Outcome, PartResults, Record, read_parts

RESULTS, TEMPLATE = Path(__file__).with_name("results"), Path(__file__).with_name("reliability.md.in")
NOTHING, HEAD = "–", "survived / reported / lost"
COLUMN, ROW = 0, 1  # of a cell
FIGURES = re.compile(
    r"(list|plan)_many_.*|(memory|handles)_(first|last).*|(?!list_few|plan_few|put).*_seconds|seconds_each|longest_wait"
)
"""The facts of cases of load that the page shows."""
_PLACE = re.compile(r"\{([a-z_]+)(?:\.(?:([a-z_]+):)?([a-z_.]+))?\}")


def value_of(part: PartResults, column: str, name: str) -> str:
    """The value of *name*, only for cases of *column* if there is one."""
    records = [one for one in part.records if column in ("", one.id.split("/")[1])]
    if name in Outcome.__members__:
        return figure(sum(record.result.outcome is Outcome[name] for record in records))
    return (
        figure(sum(_values(records, name.removeprefix("sum.")))) if name.startswith("sum.") else _VALUES[name](records)
    )


_VALUES: Mapping[str, Callable[[Sequence[Record]], str]] = {
    "codes": lambda records: codes(records),
    "longest": lambda records: duration(max(record.result.seconds for record in records)),
    "table": lambda records: matrix(records),
    "by_group": lambda records: summed(records, ("group", "targets"), COLUMN, ["examples"]),
    "by_channel": lambda records: summed(records, ("channel", "commands"), ROW, ["marks", "files", "processes"]),
    "by_attack": lambda records: summed(
        records, ("attack", "servers"), COLUMN, ["sent"], ["threads", "handles", "growth_mib", "own_longest_wait"]
    ),
    "figures": lambda records: figures_of(records),
}


def render(results: Path, template: Path = TEMPLATE) -> str:
    parts = read_parts(results)
    whole: Mapping[str, Callable[[Sequence[PartResults]], str]] = {
        "verdict": verdict,
        "mended": mended,
        "runs": runs,
        "machines": machines,
        "seed": lambda parts: ", ".join(dict.fromkeys(str(part.meta["seed"]) for part in parts)),
    }

    def value(place: re.Match[str]) -> str:
        part, column, name = place.groups("")
        if not name and part in whole:
            return whole[part](list(parts.values()))
        return value_of(parts[part], column, name)

    return _PLACE.sub(value, template.read_text(encoding="utf-8"))


def verdict(parts: Sequence[PartResults]) -> str:
    records = [(part.meta["seed"], record) for part in parts for record in part.records]
    counts = Counter(record.result.outcome for _, record in records)
    injected = len(records) - counts[Outcome.not_met]
    ends = (
        f"{counts[Outcome.survived]:,} completed normally, and {counts[Outcome.reported]:,} ended with a "
        "documented exit code and one line."
    )
    said = [f"**Nothing was lost in the last run of each case.** Of {injected:,} cases, {ends}"]
    if counts[Outcome.lost]:
        said = [f"**{counts[Outcome.lost]:,} of {injected:,} cases lost something.** Of the others, {ends}", ""]
        losses = [(seed, one.id, " ".join(one.result.why.split())) for seed, one in records if one.is_lost]
        said += [
            f"- `{case_id}`: {why} (`python -m stress --case {case_id} --seed {seed}`)" for seed, case_id, why in losses
        ]
    if counts[Outcome.not_met]:
        said += [
            "",
            f"In {counts[Outcome.not_met]:,} further cases the fault did not occur. They are counted separately.",
        ]
    if samples := [part.meta["part"] for part in parts if not part.meta["full"]]:
        said += ["", f"**These parts are samples, not full runs**: {', '.join(samples)}."]
    return "\n".join(said)


def mended(parts: Sequence[PartResults]) -> str:
    lost = {one.id for part in parts for one in part.records if one.is_lost}
    pairs = (pair for part in parts for pair in part.meta.get("mended", {}).items() if pair[0] not in lost)
    found = Counter((case_id.rpartition("/")[0], _commit(told)) for case_id, told in pairs)
    if not found:
        return "No case was lost in the first run and repeated."
    cells = [f"{count} of `{cell}` ({commit})" for (cell, commit), count in found.items()]
    cases = "one case" if found.total() == 1 else f"{found.total()} cases"
    return f"The first run lost {cases}, which ran again (on the commit in brackets): {', '.join(cells)}."


def runs(parts: Sequence[PartResults]) -> str:
    lines = []
    for part in parts:
        begun = part.meta["started"][: len("2026-01-01T00:00")].replace("T", " ")
        took = duration(part.meta["seconds"]) + (", resumed" if "went_on" in part.meta else "")
        lines.append(
            [part.meta["part"], figure(len(part.records)), *_ends(part.records), _commit(part.meta), begun, took]
        )
    return table(["part", "cases", HEAD, "not met", "commit", "started (UTC)", "time"], lines)


def machines(parts: Sequence[PartResults]) -> str:
    where: dict[str, list[str]] = {}
    for part in parts:
        machine, versions = (
            part.meta["machine"],
            ", ".join(f"{name} {version}" for name, version in sorted(part.meta["versions"].items())),
        )
        facts = (
            f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, "
            f"{machine['disk']}, {machine['system']}"
        )
        where.setdefault(f"{facts}; {versions}", []).append(part.meta["part"])
    return "\n".join(
        f"- {place}" if len(where) == 1 else f"- {', '.join(names)}: {place}" for place, names in where.items()
    )


def codes(records: Sequence[Record]) -> str:
    """`4` (12), `5` (340)."""
    counts = Counter(
        one.result.code for one in records if one.result.outcome is Outcome.reported and one.result.code is not None
    )
    return ", ".join(f"`{code}` ({count:,})" for code, count in sorted(counts.items())) or "none"


def duration(seconds: float) -> str:
    """12.3 s, 35 min, 2 h 5 min."""
    minutes = round(seconds / 60)
    return (
        f"{seconds:.1f} s"
        if seconds < 100
        else f"{minutes} min"
        if minutes < 100
        else f"{minutes // 60} h {minutes % 60} min"
    )


def _commit(meta: Mapping[str, Any]) -> str:
    pairs = zip([meta, *meta.get("went_on", [])], meta.get("went_on", []), strict=False)
    later = [
        f", from case {one['after'] + 1:,} on {_commit(one)}"
        for before, one in pairs
        if one["commit"] != before["commit"]
    ]
    return f"{meta['commit'][:10]}{' and changes' if meta['dirty'] else ''}{''.join(later)}"


def matrix(records: Sequence[Record]) -> str:
    """Rows by the third part of the ids, columns by the second, with survived / reported / lost per cell, and the
    sums.
    """
    cells = _by_cell(records)
    columns, rows = (sorted(set(names)) for names in zip(*cells, strict=True))
    lines = [
        [
            row,
            *(_ends(cells.get((column, row), []))[0] for column in columns),
            _ends([one for one in records if _cell(one)[1] == row])[0],
        ]
        for row in rows
    ]
    sums = [
        "sum",
        *(_ends([one for one in records if _cell(one)[0] == column])[0] for column in columns),
        _ends(records)[0],
    ]
    return table(["", *columns, "sum"], [*lines, sums])


def summed(
    records: Sequence[Record], heads: tuple[str, str], by: int, sums: Sequence[str], peaks: Sequence[str] = ()
) -> str:
    """A line per column or row (*by*) of the cells, with their number, the totals of the facts *sums*, the maxima of
    *peaks*, and the outcomes.
    """

    def line(name: str, alike: Sequence[Record]) -> list[str]:
        merges: list[tuple[str, Callable[[Sequence[Any]], Any]]] = [
            *((name, sum) for name in sums),
            *((name, max) for name in peaks),
        ]
        figures = [figure(merge(values)) if (values := _values(alike, name)) else NOTHING for name, merge in merges]
        return [name, figure(len({_cell(one) for one in alike})), *figures, _ends(alike)[0]]

    names = sorted({_cell(one)[by] for one in records})
    lines = [line(name, [one for one in records if _cell(one)[by] == name]) for name in names]
    titles = [*heads, *map(_title, sums), *(f"max {_title(name)}" for name in peaks), HEAD]
    return table(titles, [*lines, line("sum", records)])


def figures_of(records: Sequence[Record]) -> str:
    """A line per case with the FIGURES among its facts."""
    lines = []
    for record in records:
        words = [
            figure(int(word)) if word.isdecimal() and len(word) > 3 else word
            for word in record.id.removesuffix("/00").split("/")[1:]
        ]
        facts = [
            f"{_title(name)}: {figure(value)}"
            for name, value in sorted(record.result.facts.items())
            if FIGURES.fullmatch(name)
        ]
        lines.append([" ".join(words), "; ".join(facts), _ends([record])[0]])
    return table(["case", "figures", HEAD], lines)


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table with numeric columns, except the first, aligned to the right."""
    rows = [[text.replace("\n", " ").replace("|", "\\|") for text in line] for line in lines]
    marks = [
        "---:" if number and not any(sign.isalpha() for row in rows for sign in row[number]) else "---"
        for number in range(len(head))
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [list(head), marks, *rows])


def _title(name: str) -> str:
    return name.replace("_mib", " in MiB").replace("_", " ")


def figure(value: Any) -> str:
    if isinstance(value, float):
        value = round(value, 2 if abs(value) < 100 else None)
    return f"{value:,}" if isinstance(value, (int, float)) else str(value)


def _values(records: Iterable[Record], name: str) -> list[Any]:
    return [record.result.facts[name] for record in records if name in record.result.facts]


def _cell(record: Record) -> tuple[str, str]:
    _, column, *row = record.id.split("/")
    return column, "/".join(row[:-1])


def _by_cell(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    cells: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        cells.setdefault(_cell(record), []).append(record)
    return cells


def _ends(records: Sequence[Record]) -> tuple[str, str]:
    """The numbers of survived / reported / lost cases, and of those not met."""
    counts = Counter(record.result.outcome for record in records)
    return " / ".join(
        f"{counts[outcome]:,}" for outcome in SHOWN
    ) if records else NOTHING, f"{counts[Outcome.not_met]:,}"
