"""Draw the figures of the benchmark `scale` as SVG: for each subject, time and memory by size, on logarithmic axes
with the same ranges everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from html import escape

from benchmarks.raw import Raw

FIGURES = {
    "wall": ("time", {0.01: "10 ms", 0.1: "0.1 s", 1.0: "1 s", 10.0: "10 s", 100.0: "100 s"}),
    "memory": ("memory", {1e7: "10 MB", 1e8: "100 MB", 1e9: "1 GB"}),
}
"""The title and the marks of each axis."""
TITLES = {
    "blobs": "Find 1 of many blobs",
    "runs": "List runs",
    "points": "Show a run with many points",
    "trials": "Aggregate trials",
    "Slurm runs": "List open Slurm runs",
    "slides": "Montage of slides",
}
COLUMNS, WIDTH, MARGIN = 3, 780, 14
CELL = (WIDTH - 2 * MARGIN) / COLUMNS
# Space for the marks of the vertical axis, and the sizes of a panel.
LEFT, ACROSS, DOWN = 54, CELL - 54 - 18, 124
LINE, LEGEND = 17, 5
"""Height of a line of text, and lines of a legend."""
BETWEEN, BLOCK = 36, (LEGEND + 2) * LINE + 2 * (DOWN + 36)
OURS, OTHERS = ("#0b62c4", "#5aa9ff", "#0a2f66"), ("#c2500a", "#1f8a4c", "#8a4bd0")
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "M-3.6-3.6h7.2v7.2h-7.2z",
    "M0-4.6l4.6 8h-9.2z",
    "M0-5l4.4 5l-4.4 5l-4.4-5z",
    "M0 4.6l4.6-8h-9.2z",
)
NOTE = (
    "A line ends before the size at which",
    "the tool would take more than 60 s",
    "or 2 GB. Both axes are logarithmic.",
)


def by_subject(raw: Raw) -> dict[str, dict[int, str]]:
    """Return the scenarios of each subject by size. A scenario is like `1,000 blobs`."""
    found: dict[str, dict[int, str]] = {}
    for scenario in dict.fromkeys(one["scenario"] for one in raw.rounds):
        size, _, subject = scenario.partition(" ")
        found.setdefault(subject, {})[int(size.replace(",", ""))] = scenario
    return found


def draw(raw: Raw) -> str:
    subjects = by_subject(raw)
    height = 2 * MARGIN + math.ceil((len(subjects) + 1) / COLUMNS) * BLOCK - BETWEEN + 2 * LINE
    style = "text{font:13px system-ui,sans-serif;fill:#1f2328}.title{font-weight:600}.mark{font-size:12px;fill:#57606a}"
    lines = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">', f"<style>{style}</style>"]
    lines.append(f'<rect width="{WIDTH}" height="{height}" rx="6" fill="#fff"/>')
    for number, (subject, scenarios) in enumerate(subjects.items()):
        lines += _placed(number, [*_subject(raw, subject, scenarios)])
    lines += _placed(len(subjects), [_text(0, (row + 1) * LINE, line) for row, line in enumerate(NOTE)])
    return "\n".join([*lines, "</svg>", ""])


def _placed(number: int, lines: Sequence[str]) -> Iterator[str]:
    row, column = divmod(number, COLUMNS)
    yield f'<g transform="translate({MARGIN + column * CELL:.1f} {MARGIN + row * BLOCK:.1f})">'
    yield from lines
    yield "</g>"


def _subject(raw: Raw, subject: str, scenarios: dict[int, str]) -> Iterator[str]:
    """Yield the title, the legend and two panels."""
    looks = _looks(raw.candidates(*scenarios.values()))
    yield _text(0, LINE - 4, TITLES[subject], "title")
    for row, (name, (colour, shape)) in enumerate(looks.items()):
        yield f'<path d="{shape}" fill="{colour}" transform="translate(6 {(row + 2) * LINE - 9})"/>'
        yield _text(18, (row + 2) * LINE - 4, name)
    for panel, (figure, (title, marks)) in enumerate(FIGURES.items()):
        top = (LEGEND + 1) * LINE + 10 + panel * (DOWN + BETWEEN)
        yield f'<g transform="translate({LEFT} {top})">'
        yield from _panel(raw, figure, marks, scenarios, looks)
        yield _text(4, 13, title, "mark")
        yield "</g>"


def _looks(candidates: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return a colour and a shape for each candidate."""
    ours, others = iter(OURS), iter(OTHERS)
    return {
        name: (next(ours if name.startswith("himl") else others), SHAPES[number])
        for number, name in enumerate(candidates)
    }


def _panel(
    raw: Raw, figure: str, marks: dict[float, str], scenarios: dict[int, str], looks: dict[str, tuple[str, str]]
) -> Iterator[str]:
    low, high = min(marks) / 10**0.5, max(marks) * 10**0.5
    first, last = min(scenarios), max(scenarios)

    def across(size: float) -> float:
        return math.log(size / first) / math.log(last / first) * (ACROSS - 12) + 6 if last > first else 6

    def down(value: float) -> float:
        return DOWN * (1 - math.log(value / low) / math.log(high / low))

    yield f'<path d="M0 0V{DOWN}H{ACROSS:.1f}" fill="none" stroke="#8c959f"/>'
    for mark, text in marks.items():
        yield f'<path d="M0 {down(mark):.1f}H{ACROSS:.1f}" stroke="#e3e7eb"/>'
        yield _text(-6, down(mark) + 4, text, "mark", anchor="end")
    for size in scenarios:
        text = f"{size // 1_000_000}M" if size >= 1_000_000 else f"{size // 1000}k" if size >= 1000 else str(size)
        yield _text(across(size), DOWN + 15, text, "mark", anchor="middle")
    for name, (colour, shape) in looks.items():
        found = {size: raw.median(scenario, name, figure) for size, scenario in scenarios.items()}
        points = [(across(size), down(value)) for size, value in found.items() if value]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        yield f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
        for x, y in points:
            yield f'<path d="{shape}" fill="{colour}" transform="translate({x:.1f} {y:.1f})"/>'


def _text(x: float, y: float, text: str, kind: str = "", *, anchor: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'
