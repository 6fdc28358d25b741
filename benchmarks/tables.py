"""Markdown tables of raw figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.aims import median, values
from benchmarks.raw import FIGURES, Raw

Results = Mapping[str, Raw]
NOT_MEASURED = "not measured"
NOTHING = "–"
TITLES = {"wall": "wall", "cpu": "CPU", "memory": "peak memory", "requests": "requests", "bytes": "bytes"}


def shown(figure: str, value: float) -> str:
    """With its unit: `2.10 ms`, `41 ms`, `1.83 s`, `108 MB`, `24,251,520`."""
    if figure in ("wall", "cpu"):
        milliseconds = value * 1000
        return f"{value:,.2f} s" if abs(value) >= 1 else f"{milliseconds:.0f} ms" if abs(milliseconds) >= 10 else f"{milliseconds:.2f} ms"
    return f"{value / 1e6:,.0f} MB" if figure == "memory" else f"{value:,.0f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scenario(results: Results, bench: str, name: str, baseline: str = "") -> str:
    """A row a candidate: rounds, the median of each figure that was taken, the extremes of the time; and the times of *baseline* (default: the first one)."""
    raw = results.get(bench)
    candidates = candidates_of(raw, name) if raw else []
    if raw is None or not candidates:
        return f"{name}: {NOT_MEASURED}."
    figures = [figure for figure in FIGURES if any(values(raw, name, candidate, figure) for candidate in candidates)]
    titles = [name, "rounds", *(title for figure in figures for title in _titles(figure)), f"times {baseline or candidates[0]}"]
    rows = [[candidate, *_row(raw, name, candidate, figures), _times(raw, name, candidate, baseline or candidates[0], figures[0])] for candidate in candidates]
    return table(titles, rows)


def candidates_of(raw: Raw, name: str) -> list[str]:
    return list(dict.fromkeys(one.candidate for one in raw.rounds if one.scenario == name))


def _titles(figure: str) -> list[str]:
    return ["wall", "least to most"] if figure == "wall" else [TITLES[figure]]


def _row(raw: Raw, name: str, candidate: str, figures: Sequence[str]) -> list[str]:
    cells = [str(len([one for one in raw.rounds if one.scenario == name and one.candidate == candidate]))]
    for figure in figures:
        found = values(raw, name, candidate, figure)
        middle = median(raw, name, candidate, figure)
        cells.append(NOTHING if middle is None else shown(figure, middle))
        if figure == "wall":
            cells.append(f"{shown(figure, min(found))} to {shown(figure, max(found))}" if len(found) > 1 else NOTHING)
    return cells


def _times(raw: Raw, name: str, candidate: str, baseline: str, figure: str) -> str:
    own, unit = median(raw, name, candidate, figure), median(raw, name, baseline, figure)
    return NOTHING if own is None or not unit else f"{own / unit:.2f}"


def matrix(results: Results, bench: str, *names: str) -> str:
    """A row a candidate, a column a scenario: medians of wall and, in brackets, processor time; last the most memory of all."""
    raw = results.get(bench)
    if raw is None:
        return f"{bench}: {NOT_MEASURED}."
    candidates = list(dict.fromkeys(candidate for name in names for candidate in candidates_of(raw, name)))
    rows = []
    for candidate in candidates:
        peaks = [peak for name in names if (peak := median(raw, name, candidate, "memory")) is not None]
        rows.append([candidate, *(_both(raw, name, candidate) for name in names), shown("memory", max(peaks)) if peaks else NOTHING])
    return table(["wall (CPU)", *names, "peak memory"], rows)


def _both(raw: Raw, name: str, candidate: str) -> str:
    wall, cpu = median(raw, name, candidate, "wall"), median(raw, name, candidate, "cpu")
    if wall is None:
        return NOTHING
    return shown("wall", wall) if cpu is None else f"{shown('wall', wall)} ({shown('cpu', cpu)})"


def facts(results: Results, bench: str, *names: str) -> str:
    """A row a candidate, a column for each thing that is so or not."""
    raw = results.get(bench)
    if raw is None or not raw.facts:
        return f"{bench}: {NOT_MEASURED}."
    found = {(one.scenario, one.candidate): one.value for one in raw.facts}
    candidates = list(dict.fromkeys(one.candidate for one in raw.facts if one.scenario in names))
    return table(["", *names], [[candidate, *(_said(found.get((name, candidate))) for name in names)] for candidate in candidates])


def _said(value: bool | int | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,}" if not isinstance(value, bool) else "yes" if value else "**no**"


def machines(results: Results) -> str:
    """The machine of all results; where they were not made on one, each with what was measured on it."""
    found: dict[str, list[str]] = {}
    for bench, raw in results.items():
        found.setdefault(_machine(raw.meta["machine"]), []).append(f"`{bench}`")
    if len(found) > 1:
        return "; ".join(f"{machine} ({', '.join(benches)})" for machine, benches in found.items())
    return next(iter(found), NOT_MEASURED)


def _machine(about: Mapping[str, object]) -> str:
    return f"{about['cpu']}, {about['cores']} cores, {about['memory_gib']} GiB of memory, {about['disk']}, {about['system']}"


def versions(results: Results) -> str:
    """himl's own environment, then the peers; a name with several versions where the results do not agree."""
    found: dict[str, dict[str, None]] = {}
    for raw in results.values():
        for name, version in {**raw.meta["versions"], **raw.meta["peers"]}.items():
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found[name])}" for name in sorted(found, key=str.lower)) or NOT_MEASURED


def runs(results: Results) -> str:
    """A row a benchmark: its command, when, how long, of which commit, and the first digits of its raw file's SHA-256."""
    rows = []
    for bench, raw in results.items():
        meta = raw.meta
        commit = f"{meta['commit'][:12]}{' and changes' if meta['dirty'] else ''}"
        rows.append(
            [f"[{bench}](../benchmarks/results/{bench}.jsonl)", f"`{meta['command']}`", meta["started"], f"{meta['seconds']:,.0f} s", commit, meta["digest"]]
        )
    return table(["raw figures", "command", "begun", "took", "commit", "SHA-256"], rows) if rows else NOT_MEASURED


def left_out(results: Results) -> str:
    """A line for each candidate that could not be had."""
    lines = [f"- `{bench}`: {name}: {why}." for bench, raw in results.items() for name, why in raw.meta["missing"].items()]
    return "\n".join(lines) if lines else "None: every peer was measured."
