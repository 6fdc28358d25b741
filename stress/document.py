"""`python -m stress.document` writes docs/reliability.md from the raw results and stress/reliability.md.in; with `--check` it compares.

The template has the prose, and a name in braces wherever a figure or a table goes: `{faults.lost}`; `{faults.tb:lost}` is of the cases whose ids
have `tb` in the second place alone, `{faults.-tb:lost}` of the others.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten
from typing import Any

from stress.records import Outcome, Record, lost, read_records
from stress.tables import figure, figures_of, listed, matrix, table, total
from tests.support.machine import ROOT

RESULTS, TEMPLATE = Path(__file__).with_name("results"), Path(__file__).with_name("reliability.md.in")
DOCUMENT = ROOT / "docs" / "reliability.md"
DIFFERENT = 1
SHOWN_OF_A_COMMIT, SHOWN_OF_A_REASON = 10, 200
SECONDS_SHOWN, MINUTES_SHOWN = 100, 100
_PLACE = re.compile(r"\{([a-z_]+(?:\.(?:-?[a-z_]+:)?[a-z_.]+)?)\}")


@dataclass(frozen=True)
class PartResults:
    """What came of one part: the meta line of its file and its cases."""

    meta: Mapping[str, Any]
    records: Sequence[Record]

    @property
    def name(self) -> str:
        return str(self.meta["part"])

    @property
    def injected(self) -> Sequence[Record]:
        """The cases in which there was something to withstand."""
        return [record for record in self.records if record.result.outcome is not Outcome.not_met]

    def of(self, column: str) -> PartResults:
        """The cases of one column. Raises ValueError where there is none."""
        records = [record for record in self.records if record.id.split("/")[1] == column]
        if not records:
            raise ValueError(f"it has no cases of '{column}'")
        return PartResults(self.meta, records)

    def without(self, column: str) -> PartResults:
        return PartResults(self.meta, [record for record in self.records if record.id.split("/")[1] != column])

    def value(self, name: str) -> str:
        """What stands for *name* in the template. Raises ValueError for a name that there is not, or a fact that no case has."""
        column, _, inner = name.partition(":")
        if inner:
            return (self.without(column[1:]) if column.startswith("-") else self.of(column)).value(inner)
        known = {outcome.name: outcome for outcome in Outcome}
        if name in known:
            return figure(sum(record.result.outcome is known[name] for record in self.records))
        if name.startswith("sum."):
            return figure(total(self.records, name.removeprefix("sum.")))
        if name not in _VALUES:
            raise ValueError(f"a part has no '{name}'")
        return str(_VALUES[name](self))


_VALUES: Mapping[str, Callable[[PartResults], object]] = {
    "cases": lambda part: figure(len(part.records)),
    "injected": lambda part: figure(len(part.injected)),
    "took": lambda part: duration(part.meta["seconds"]) + (" since it went on" if "went_on" in part.meta else ""),
    "seed": lambda part: part.meta["seed"],
    "command": lambda part: part.meta["command"],
    "codes": lambda part: codes(part.records),
    "longest": lambda part: duration(max(record.result.seconds for record in part.records)),
    "by_command": lambda part: matrix(part.records, ""),
    "by_target": lambda part: listed(part.records, heads=("group", "target"), sums=["examples"]),
    "by_channel": lambda part: listed(part.records, heads=("command", "channel"), sums=["marks", "files", "processes"]),
    "by_attack": lambda part: listed(part.records, heads=("attack", "server"), sums=["sent"], peaks=["threads", "handles", "growth_mib", "own_longest_wait"]),
    "figures": lambda part: figures_of(part.records),
}


def read_parts(results: Path) -> dict[str, PartResults]:
    """The parts that have a file in *results*, by their names. Raises ValueError where there is none, or one that is not whole."""
    parts = [PartResults(*read_records(path)) for path in sorted(results.glob("*.jsonl"))]
    if not parts:
        raise ValueError(f"There are no raw results in '{results.name}': 'scripts/stress --full' makes them.")
    return {part.name: part for part in parts}


def render(results: Path, template: Path = TEMPLATE) -> str:
    """The document of the raw results in *results*. Raises ValueError where they lack what the template asks for."""
    parts = read_parts(results)
    whole = {
        "verdict": lambda: verdict(list(parts.values())),
        "mended": lambda: mended(list(parts.values())),
        "runs": lambda: runs(list(parts.values())),
        "machines": lambda: machines(list(parts.values())),
        "seed": lambda: ", ".join(dict.fromkeys(part.value("seed") for part in parts.values())),
    }

    def value(place: re.Match[str]) -> str:
        part, _, name = place[1].partition(".")
        if not name and part in whole:
            return whole[part]()
        if part not in parts:
            raise ValueError(f"The document needs '{place[1]}', and there are no results of a part '{part}': 'scripts/stress --full' makes them.")
        try:
            return parts[part].value(name)
        except ValueError as e:
            raise ValueError(f"The document needs '{place[1]}', but {e}.") from e

    return _PLACE.sub(value, template.read_text(encoding="utf-8"))


def verdict(parts: Sequence[PartResults]) -> str:
    """How it ended in all: first what was lost, each with its reason and the command that shows it again."""
    records = [record for part in parts for record in part.records]
    counts = Counter(record.result.outcome for record in records)
    injected = len(records) - counts[Outcome.not_met]
    ends = f"{counts[Outcome.survived]:,} ended as if nothing had been, {counts[Outcome.reported]:,} with a documented exit code and its line, nothing lost."
    if counts[Outcome.lost]:
        seeds = {part.name: part.meta["seed"] for part in parts}
        said = [f"**{counts[Outcome.lost]:,} of {injected:,} cases lost something.** Of the others, {ends}", ""]
        said += [
            f"- `{one.id}`: {' '.join(one.result.why.split())} (`python -m stress --case {one.id} --seed {seeds[one.id.partition('/')[0]]}`)"
            for one in lost(records)
        ]
    else:
        said = [f"**Nothing was lost.** Of {injected:,} cases, {ends}"]
    if counts[Outcome.not_met]:
        said += ["", f"In {counts[Outcome.not_met]:,} further cases what was to go wrong did not come about; they are counted apart."]
    if samples := [part.name for part in parts if not part.meta["full"]]:
        said += ["", f"**Not all of it was run**: {', '.join(samples)}."]
    return "\n".join(said)


def mended(parts: Sequence[PartResults]) -> str:
    """The cases that were lost at first and run again after a mend: what was lost, and the commit that was right."""
    again = [(case_id, told) for part in parts for case_id, told in part.meta.get("mended", {}).items()]
    if not again:
        return "No case was lost at first and run again."
    return "\n".join(
        ["These were lost in the first run, and run again once the cause was mended:", ""]
        + [f"- `{case_id}`, right with commit {_commit(told)}. It said: `{_as_code(told['why'])}`" for case_id, told in again]
    )


def _as_code(why: str) -> str:
    return shorten(" ".join(why.replace("`", "'").split()), SHOWN_OF_A_REASON)


def runs(parts: Sequence[PartResults]) -> str:
    """A line for each part: what was run, when, of which commit, and how long it took."""
    lines = [[part.name, part.value("cases"), f"`{part.value('command')}`", _commit(part.meta), _begun(part.meta), part.value("took")] for part in parts]
    return table(["part", "cases", "command", "commit", "begun (UTC)", "took"], lines)


def machines(parts: Sequence[PartResults]) -> str:
    """A list of the machines, each with its versions and the parts that ran there; all of them on one is the usual case."""
    where: dict[str, list[str]] = {}
    for part in parts:
        where.setdefault(_place(part.meta["machine"], part.meta["versions"]), []).append(part.name)
    return "\n".join(f"- {place}" if len(where) == 1 else f"- {', '.join(names)}: {place}" for place, names in where.items())


def codes(records: Sequence[Record]) -> str:
    """The exit codes of what was reported, and how often each came: `4` (12), `5` (340)."""
    counts = Counter(record.result.code for record in records if record.result.outcome is Outcome.reported)
    known = sorted((code, count) for code, count in counts.items() if code is not None)
    return ", ".join(f"`{code}` ({count:,})" for code, count in known) or "none"


def duration(seconds: float) -> str:
    """12.3 s, 35 min, 2 h 5 min."""
    if seconds < SECONDS_SHOWN:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < MINUTES_SHOWN else f"{minutes // 60} h {minutes % 60} min"


def _commit(meta: Mapping[str, Any]) -> str:
    """The commit; where a run was ended and went on, those of the cases from there on."""
    later = [f", from case {one['after'] + 1:,} on {_commit(one)}" for one in meta.get("went_on", [])]
    return f"{meta['commit'][:SHOWN_OF_A_COMMIT]}{' and changes' if meta['dirty'] else ''}{''.join(later)}"


def _begun(meta: Mapping[str, Any]) -> str:
    return str(meta["started"])[: len("2026-01-01T00:00")].replace("T", " ")


def _place(machine: Mapping[str, Any], versions: Mapping[str, Any]) -> str:
    facts = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gib']} GiB of memory, {machine['disk']}, {machine['system']}"
    return f"{facts}; {', '.join(f'{name} {version}' for name, version in sorted(versions.items()))}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the document, or compare it; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m stress.document", description="The document of the raw results of stress.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 where the document is not what the results give")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="where the raw results are (default: stress/results)")
    parser.add_argument("--output", type=Path, default=DOCUMENT, metavar="FILE", help="the document (default: docs/reliability.md)")
    args = parser.parse_args(arguments)
    try:
        text = render(args.results)
    except ValueError as e:
        print(e, file=sys.stderr)
        return DIFFERENT
    if not args.check:
        args.output.write_text(text, encoding="utf-8", newline="\n")
    elif not args.output.is_file() or args.output.read_text(encoding="utf-8") != text:
        print(f"'{args.output.name}' is not what the raw results give; 'python -m stress.document' writes it.", file=sys.stderr)
        return DIFFERENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
