"""Render docs/performance.md from `performance.md.in` and the raw results, and the picture of one benchmark.

`scripts/generate` writes them. A placeholder is `{{NAME ARGUMENT | ...}}`, and `PLACEHOLDERS` lists the names. A
missing figure is rendered as `not measured`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.aims import AIMS, GROWTH, Verdict, judge
from benchmarks.figure import by_subject, draw
from benchmarks.raw import FIGURES, Raw, Results, read_results

HERE, DOCS = Path(__file__).parent, Path(__file__).parent.parent / "docs"
RESULTS = HERE / "results"
PICTURE = DOCS / "pictures" / "scale.svg"
PAGE = DOCS / "performance.md"
PLACEHOLDER = re.compile(r"\{\{(\w+)([^{}]*)\}\}")
NO_CAUSE = "The cause is unknown."
NOT_MEASURED, NOTHING = "not measured", "–"
TITLES = {
    "wall": ["wall", "minimum to maximum"],
    "cpu": ["CPU"],
    "memory": ["peak memory"],
    "requests": ["requests"],
    "bytes": ["bytes"],
    "operations": ["calls of the file system"],
}


def shown(figure: str, value: float | None, lacking: str = NOTHING) -> str:
    """Format *value* with its unit: `2.10 ms`, `41 ms`, `1.83 s`, `108 MB`, `24,251,520`."""
    if value is None:
        return lacking
    if figure in ("wall", "cpu"):
        milliseconds = value * 1000
        return (
            f"{value:,.2f} s"
            if abs(value) >= 1
            else f"{milliseconds:.0f} ms"
            if abs(milliseconds) >= 10
            else f"{milliseconds:.2f} ms"
        )
    if figure == GROWTH:
        return f"{value / 1e6:+.2f} MB"
    return f"{value / 1e6:,.0f} MB" if figure == "memory" else f"{value:,.0f}"


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def scenario(raw: Raw, name: str, baseline: str = "") -> str:
    """Render a row per candidate: rounds, the median of each figure, the range of the time, and the ratio to
    *baseline* (default: the first candidate).
    """
    candidates = raw.candidates(name)
    unit_of = baseline or candidates[0]
    figures = [figure for figure in FIGURES if any(raw.values(name, candidate, figure) for candidate in candidates)]
    rows = []
    for candidate in candidates:
        cells = [candidate, str(len(raw.rounds_of(name, candidate)))]
        for figure in figures:
            found = raw.values(name, candidate, figure)
            cells.append(shown(figure, raw.median(name, candidate, figure)))
            if figure == "wall":
                cells.append(
                    f"{shown(figure, min(found))} to {shown(figure, max(found))}" if len(found) > 1 else NOTHING
                )
        own, unit = (raw.median(name, one, figures[0]) for one in (candidate, unit_of))
        rows.append([*cells, NOTHING if own is None or not unit else f"{own / unit:.2f}"])
    return table(
        [name, "rounds", *(title for figure in figures for title in TITLES[figure]), f"relative to {unit_of}"], rows
    )


def rows(results: Results, *places: str) -> str:
    """Render several scenarios in one table, with a row per candidate. A place is BENCH/SCENARIO, or
    BENCH/SCENARIO/BASELINE of the ratio.
    """
    split = [place.split("/", 2) for place in places]
    figures = [
        figure
        for figure in FIGURES
        if any(figure in one for bench, name, *_ in split for one in results[bench].rounds if one["scenario"] == name)
    ]
    lines = []
    for bench, name, *baseline in split:
        raw = results[bench]
        candidates = raw.candidates(name)
        for number, candidate in enumerate(candidates):
            values = [shown(figure, raw.median(name, candidate, figure)) for figure in figures]
            compared = next(figure for figure in figures if raw.values(name, candidate, figure))
            own, unit = (
                raw.median(name, one, compared) for one in (candidate, baseline[0] if baseline else candidates[0])
            )
            ratio = NOTHING if own is None or not unit else f"{own / unit:.2f}"
            lines.append(["" if number else name, candidate, str(len(raw.rounds_of(name, candidate))), *values, ratio])
    return table(["scenario", "candidate", "rounds", *(TITLES[figure][0] for figure in figures), "ratio"], lines)


def matrix(raw: Raw, *names: str) -> str:
    """Render a row per candidate and a column per scenario or fact: medians of wall and, in brackets, processor
    time, and the peak of all scenarios.
    """
    facts = {one["scenario"] for one in raw.facts}
    measured, stated = ([name for name in names if (name in facts) == is_fact] for is_fact in (False, True))
    lines = []
    for candidate in raw.candidates(*measured):
        row, peaks = [candidate], list[float]()
        for name in measured:
            wall, cpu, memory = (raw.median(name, candidate, figure) for figure in ("wall", "cpu", "memory"))
            row.append(
                shown("wall", wall) if wall is None or cpu is None else f"{shown('wall', wall)} ({shown('cpu', cpu)})"
            )
            peaks += [memory] if memory is not None else []
        lines.append(
            [*row, shown("memory", max(peaks, default=None)), *(_fact(raw.fact(name, candidate)) for name in stated)]
        )
    return table(["wall (CPU)", *measured, "peak memory", *stated], lines)


def counts(raw: Raw, *names: str) -> str:
    """Render a row per candidate and a column per fact."""
    lines = [[candidate, *(_fact(raw.fact(name, candidate)) for name in names)] for candidate in raw.candidates(*names)]
    return table(["", *names], lines)


def _fact(value: bool | int | None) -> str:
    return NOTHING if value is None else ("yes" if value else "**no**") if isinstance(value, bool) else f"{value:,}"


def growth(raw: Raw) -> str:
    """Render the medians of time and memory by size, with a row for the sizes of each subject, and one per
    candidate.
    """
    rows = []
    for subject, scenarios in by_subject(raw).items():
        rows.append([f"**{subject}**", *(f"{size:,}" for size in scenarios)])
        for candidate in raw.candidates(*scenarios.values()):
            figures = [
                [raw.median(scenario, candidate, figure) for figure in ("wall", "memory")]
                for scenario in scenarios.values()
            ]
            rows.append(
                [
                    candidate,
                    *(
                        NOTHING if wall is None else f"{shown('wall', wall)}, {shown('memory', memory)}"
                        for wall, memory in figures
                    ),
                ]
            )
    longest = max(map(len, rows))
    return table(
        ["", *(f"size {number}" for number in range(1, longest))],
        [[*row, *[""] * (longest - len(row))] for row in rows],
    )


def soaked(raw: Raw) -> str:
    """Render a row per program: its resident memory, the growth of that without files, and its
    open handles and their growth.
    """
    (name,) = {one["scenario"] for one in raw.rounds}
    lines = []
    for candidate in raw.candidates(name):
        memory, spread = raw.growth(name, candidate, "bytes")
        handles, apart = raw.growth(name, candidate, "operations")
        held = raw.median(name, candidate, "operations")
        grown = f"{memory / 1e6:+.2f} ± {spread / 1e6:.2f} MB"
        lines.append(
            [
                candidate,
                shown("memory", raw.median(name, candidate, "memory")),
                grown,
                f"{held:.0f}",
                f"{handles:+.1f} ± {apart:.1f}",
            ]
        )
    return table([name, "peak memory", "growth per hour", "open handles", "growth per hour"], lines)


def lasted(raw: Raw) -> str:
    """Render the time that the rounds cover."""
    walls = [one["wall"] for one in raw.rounds]
    return f"{(max(walls) - min(walls)) / 60:.0f} minutes"


def machines(results: Results) -> str:
    """Name the machine of all results. If there are several machines, list the benchmarks of each."""
    found: dict[str, list[str]] = {}
    for bench, raw in results.items():
        name = "{cpu}, {cores} cores, {memory_gib} GiB of memory, {disk}, {system}".format(**raw.meta["machine"])
        found.setdefault(name, []).append(f"`{bench}`")
    return "; ".join(
        f"{machine} ({', '.join(benches)})" if len(found) > 1 else machine for machine, benches in found.items()
    )


def versions(results: Results, *parts: str) -> str:
    """List the versions in himl's environment and of its peers (or only of *parts*). A name gets several versions if
    the results differ.
    """
    found: dict[str, dict[str, None]] = {}
    for raw in results.values():
        for name, version in (
            (name, version) for part in parts or ("versions", "peers") for name, version in raw.meta[part].items()
        ):
            found.setdefault(name, {})[version] = None
    return ", ".join(f"{name} {' and '.join(found[name])}" for name in sorted(found, key=str.lower))


def runs(results: Results) -> str:
    """Render a row per benchmark: command, start, duration, the time of a start of Python before and after it, commit,
    and the first digits of the SHA-256 of its raw file.
    """
    rows = []
    for bench, raw in results.items():
        meta, link = raw.meta, f"[{bench}](../benchmarks/results/{bench}.jsonl)"
        commit = f"{meta['commit'][:12]}{' and changes' if meta['dirty'] else ''}"
        starts = ", ".join(shown("wall", value) for value in meta.get("starts", ())) or NOTHING
        time = f"{meta['seconds']:,.0f} s"
        rows.append([link, f"`{meta['command']}`", meta["started"], time, starts, commit, meta["digest"]])
    return table(["raw figures", "command", "started", "time", "`import typer`", "commit", "SHA-256"], rows)


def _lines(lines: Iterable[str], nothing: str = "None.") -> str:
    return "\n".join(lines) or nothing


def left_out(results: Results) -> str:
    every = [(bench, *one) for bench, raw in results.items() for one in raw.meta["missing"].items()]
    return _lines((f"- `{bench}`: {name}: {why}." for bench, name, why in every), "None: all tools were measured.")


def render(results: Path) -> str:
    """Return the text of PAGE with the figures of the raw files in the folder *results*, which must have all
    benchmarks.
    """
    return _filled((HERE / f"{PAGE.name}.in").read_text(encoding="utf-8"), read_results(results))


def pages(results: Path) -> dict[Path, str]:
    """Return the text of the page, and of the picture, by its path."""
    return {PAGE: render(results), PICTURE: draw(read_results(results)["scale"])}


def verdicts(results: Results) -> list[Verdict]:
    return [judge(aim, results[aim.bench]) for aim in AIMS if aim.bench in results]


def verdict_lines(folder: Path) -> list[str]:
    return [
        "",
        *(
            f"{_judged(one):18} {_value(one):>9}  {one.aim.bench}: {one.aim.text}"
            for one in verdicts(read_results(folder))
        ),
    ]


def _filled(text: str, results: Results) -> str:
    def value(found: re.Match[str]) -> str:
        arguments = [part.strip() for part in found[2].split("|")] if found[2].strip() else []
        return PLACEHOLDERS[found[1]](results, *arguments)

    return PLACEHOLDER.sub(value, text)


def _judged(verdict: Verdict) -> str:
    return "not judged" if verdict.value is None else "met" if verdict.is_kept else "**missed**"


def _aims(results: Results, bench: str = "") -> str:
    rows = [
        [f"`{one.aim.bench}`", one.aim.text, _value(one), _judged(one)]
        for one in verdicts(results)
        if bench in ("", one.aim.bench)
    ]
    first = 1 if bench else 0
    return table(["benchmark", "aim", "measured", ""][first:], [row[first:] for row in rows])


def _missed(results: Results) -> str:
    missed = [one for one in verdicts(results) if one.value is not None and not one.is_kept]
    return _lines(
        f"- **{one.aim.bench}, {one.aim.text}.** Measured: {_value(one)}. {_filled(one.aim.cause or NO_CAUSE, results)}"
        for one in missed
    )


def _count_aims(results: Results, which: str) -> str:
    judged = verdicts(results)
    counts = {
        "all": len(judged),
        "kept": sum(one.is_kept for one in judged),
        "lacking": sum(one.value is None for one in judged),
    }
    return str({**counts, "missed": counts["all"] - counts["kept"] - counts["lacking"]}[which])


def _value(verdict: Verdict) -> str:
    aim, value = verdict.aim, verdict.value
    if value is None:
        return NOT_MEASURED
    if aim.denominator:
        return (
            f"{value:.3f}" if aim.figure == "bytes" and value < 2 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
        )
    return f"{'+' if aim.minus and value >= 0 else ''}{shown(aim.figure, value)}"


def _figure(figure: str) -> Callable[..., str]:
    return lambda results, bench, *place: shown(figure, results[bench].median(*place, figure), NOT_MEASURED)


def _of_bench(render: Callable[..., str]) -> Callable[..., str]:
    return lambda results, bench, *names: render(results[bench], *names)


def _ratio(results: Results, figure: str, bench: str, scenario: str, above: str, below: str) -> str:
    first, second = (results[bench].median(scenario, candidate, figure) for candidate in (above, below))
    return NOT_MEASURED if first is None or second is None else f"{first / second:.2f}"


PLACEHOLDERS: Mapping[str, Callable[..., str]] = {
    "machine": machines,
    "versions": versions,
    "runs": runs,
    "left_out": left_out,
    "table": _of_bench(scenario),
    "matrix": _of_bench(matrix),
    "counts": _of_bench(counts),
    "rows": rows,
    "growth": _of_bench(growth),
    "soaked": lambda results, bench: soaked(results[bench]),
    "lasted": lambda results, bench: lasted(results[bench]) if bench in results else NOT_MEASURED,
    "aims": _aims,
    "count": _count_aims,
    "missed": _missed,
    "ratio": _ratio,
    **{figure: _figure(figure) for figure in FIGURES},
}
