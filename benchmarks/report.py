"""docs/performance.md: `benchmarks/performance.md.in` with the figures of the raw results in its placeholders.

`python -m benchmarks.report` writes it; with `--check` it only says whether the document is what the results make. A placeholder is `{{NAME ARGUMENT | ...}}`;
`PLACEHOLDERS` has what there is. A figure that was not taken is rendered as `not measured`.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks import tables
from benchmarks.aims import AIMS, Aim, Verdict, judge, median
from benchmarks.raw import Raw, RawError, read_raw
from benchmarks.tables import NOT_MEASURED, Results

TEMPLATE, RESULTS = Path(__file__).with_name("performance.md.in"), Path(__file__).with_name("results")
DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"
PLACEHOLDER = re.compile(r"\{\{(\w+)([^{}]*)\}\}")
NO_CAUSE = "The cause is not known."


class ReportError(Exception):
    """A placeholder that there is none of, or with the wrong arguments; the text names it."""


def render(results: Path, template: Path = TEMPLATE) -> str:
    """The document that the raw files in the folder *results* make. Raises RawError, ReportError."""
    return _filled(template.read_text(encoding="utf-8"), read_results(results))


def read_results(folder: Path) -> Results:
    """By benchmark. Raises RawError."""
    found: dict[str, Raw] = {}
    for path in sorted(folder.glob("*.jsonl")):
        raw = read_raw(path)
        if raw.bench != path.stem:
            raise RawError(f"'{path.name}' holds the figures of '{raw.bench}'")
        raw.meta["digest"] = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        found[raw.bench] = raw
    return found


def verdicts(results: Results) -> list[Verdict]:
    return [judge(aim, results) for aim in AIMS]


def verdict_lines(folder: Path) -> list[str]:
    """A line for each aim of which something was measured."""
    results = read_results(folder)
    return ["", *(f"{_judged(one):18} {_value(one):>9}  {one.aim.bench}: {one.aim.text}" for one in verdicts(results) if one.aim.bench in results)]


def _filled(text: str, results: Results) -> str:
    def value(found: re.Match[str]) -> str:
        name, arguments = found[1], [part.strip() for part in found[2].split("|")] if found[2].strip() else []
        if name not in PLACEHOLDERS:
            raise ReportError(f"There is no placeholder '{name}'; there are {', '.join(PLACEHOLDERS)}.")
        try:
            return PLACEHOLDERS[name](results, *arguments)
        except TypeError as e:
            raise ReportError(f"'{found[0]}': wrong arguments") from e

    return PLACEHOLDER.sub(value, text)


def _aims(results: Results, bench: str = "") -> str:
    """A row for each aim, of one benchmark or of all."""
    rows = [
        [*([] if bench else [f"`{one.aim.bench}`"]), one.aim.text, _value(one), _judged(one)]
        for one in verdicts(results)
        if not bench or one.aim.bench == bench
    ]
    return tables.table([*([] if bench else ["benchmark"]), "aim", "here", ""], rows)


def _missed(results: Results) -> str:
    """Each aim that is missed, with its cause."""
    missed = [one for one in verdicts(results) if one.value is not None and not one.is_kept]
    lines = [f"- **{_sentence(one.aim)}** Here: {_value(one)}. {_filled(one.aim.cause or NO_CAUSE, results)}" for one in missed]
    return "\n".join(lines) if lines else "None."


def _not_judged(results: Results) -> str:
    """Each aim for which a figure is lacking, and which."""
    lines = [f"- {_sentence(one.aim)} Lacking: {one.why}." for one in verdicts(results) if one.value is None]
    return "\n".join(lines) if lines else "None."


def _count_aims(results: Results, which: str) -> str:
    """How many aims there are: `all`, `kept`, `missed` or `lacking`."""
    judged = verdicts(results)
    counts = {"all": len(judged), "kept": sum(one.is_kept for one in judged), "lacking": sum(one.value is None for one in judged)}
    return str({**counts, "missed": counts["all"] - counts["kept"] - counts["lacking"]}[which])


def _sentence(aim: Aim) -> str:
    return f"{aim.bench}, {aim.text}."


def _judged(verdict: Verdict) -> str:
    return "not judged" if verdict.value is None else "kept" if verdict.is_kept else "**missed**"


def _value(verdict: Verdict) -> str:
    aim, value = verdict.aim, verdict.value
    if value is None:
        return NOT_MEASURED
    if aim.denominator:
        return f"{value:.3f}" if aim.figure == "bytes" and value < 2 else f"{value:.2f}" if value < 10 else f"{value:.1f}"
    return f"{'+' if aim.minus and value >= 0 else ''}{tables.shown(aim.figure, value)}"


def _figure(figure: str) -> Callable[..., str]:
    def one(results: Results, bench: str, scenario: str, candidate: str) -> str:
        value = median(results[bench], scenario, candidate, figure) if bench in results else None
        return NOT_MEASURED if value is None else tables.shown(figure, value)

    return one


def _ratio(results: Results, figure: str, bench: str, scenario: str, above: str, below: str) -> str:
    if bench not in results:
        return NOT_MEASURED
    first, second = (median(results[bench], scenario, candidate, figure) for candidate in (above, below))
    return NOT_MEASURED if first is None or second is None else f"{first / second:.2f}"


PLACEHOLDERS: Mapping[str, Callable[..., str]] = {
    "machine": tables.machines,
    "versions": tables.versions,
    "runs": tables.runs,
    "left_out": tables.left_out,
    "table": tables.scenario,
    "matrix": tables.matrix,
    "facts": tables.facts,
    "aims": _aims,
    "count": _count_aims,
    "missed": _missed,
    "not_judged": _not_judged,
    "ratio": _ratio,
    **{figure: _figure(figure) for figure in ("wall", "cpu", "memory", "requests", "bytes")},
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document, or say whether it is what it should be; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description="Render docs/performance.md from benchmarks/results.")
    parser.add_argument("--check", action="store_true", help="write nothing; 1 where the document differs from its results")
    args = parser.parse_args(arguments)
    try:
        text = render(RESULTS)
    except (RawError, ReportError) as e:
        print(e, file=sys.stderr)
        return 1
    if not args.check:
        DOCUMENT.write_text(text, encoding="utf-8")
    elif not DOCUMENT.exists() or DOCUMENT.read_bytes() != text.encode():
        print("docs/performance.md is not what benchmarks/results make. To write it anew: python -m benchmarks.report", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
