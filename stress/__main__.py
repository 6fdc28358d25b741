"""Run a sample of all cases, or all of them with `--full`, by `python -m stress`. The exit code is 1 if any is lost."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from pathlib import Path

from stress.document import matrix
from stress.plan import PARTS, Crew, Part, WorkerFailed, cases_by_id
from stress.records import SHOWN, Outcome, Record, RecordFile, lost
from tests.support.machine import ROOT, machine, source, versions

RESULTS, SAMPLED = Path(__file__).with_name("results"), ROOT / ".cache" / "stress"
WORKERS, MINUTES = 8, 15.0
SECONDS_BETWEEN_LINES = 30.0
StartCrew = Callable[[int], Crew]  # with workers for cases of this seed


def main(arguments: Sequence[str] | None = None) -> int:
    args = _parser().parse_args(arguments)
    args.seed = secrets.randbelow(1_000_000) if args.seed is None else args.seed
    with tempfile.TemporaryDirectory(prefix="himl-stress-", ignore_cleanup_errors=True) as folder:

        def crew(seed: int) -> Crew:
            return Crew(Path(tempfile.mkdtemp(dir=folder)), seed, args.workers)

        try:
            if unknown := [name for name in args.only if name not in {part.name for part in PARTS}]:
                raise ValueError(
                    f"There is no part '{unknown[0]}'; there are: {', '.join(part.name for part in PARTS)}."
                )
            known = cases_by_id() if args.case else {}
            if unknown := [case_id for case_id in args.case if case_id not in known]:
                raise ValueError(
                    f"There is no case '{unknown[0]}'; there are {len(known):,} from '{next(iter(known))}' on."
                )
            print(f"seed {args.seed}", flush=True)
            records = _run_cases(crew(args.seed), args.case, args.seed) if args.case else _run_parts(crew, args)
        except ValueError as e:
            print(e, file=sys.stderr)
            return 2
        except WorkerFailed as e:
            print(f"A worker could not begin:\n{e}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return int(bool(lost(records)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m stress",
        description="Stress for himl: cases drawn by a seed, run on the double of Azure ML, and judged.",
    )
    parser.add_argument("--full", action="store_true", help="all cases, not a sample")
    parser.add_argument("--seed", type=int, help="what the cases are drawn from (default: drawn, and printed)")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="PART", help=f"these parts ({', '.join(part.name for part in PARTS)})"
    )
    parser.add_argument(
        "--case", nargs="+", default=[], metavar="ID", help="these cases, told in full; nothing is written"
    )
    parser.add_argument(
        "--go_on",
        action="store_true",
        help="with --full: what is missing of a run that was ended, or what the last one lost, again",
    )
    parser.add_argument(
        "--results",
        type=Path,
        metavar="FOLDER",
        help="where the raw results go (default: .cache/stress, with --full stress/results)",
    )
    parser.add_argument(
        "--workers", type=int, default=WORKERS, metavar="N", help=f"how many cases at a time (default {WORKERS})"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"begin no case after so many (default {MINUTES:.0f}, with --full as long as it takes)",
    )
    return parser


def _run_cases(crew: Crew, ids: Sequence[str], seed: int) -> list[Record]:
    records: list[Record] = []

    def tell(record: Record) -> None:
        records.append(record)
        print(record.as_line(), *(f"{line}\n" for line in lost_lines([record], seed)), sep="", end="", flush=True)

    crew.run(ids, tell)
    print(totals(records))
    return records


def _run_parts(crew: StartCrew, args: argparse.Namespace) -> list[Record]:
    parts = [part for part in PARTS if not args.only or part.name in args.only]
    minutes = args.minutes if args.minutes is not None else None if args.full else MINUTES
    end = None if minutes is None else time.monotonic() + minutes * 60
    records: list[Record] = []
    for number, part in enumerate(parts):
        now, share = time.monotonic(), part.share / sum(one.share for one in parts[number:])
        records += _run_part(crew, part, args, None if end is None else now + max(0.0, end - now) * share)
    return records


def _run_part(crew: StartCrew, part: Part, args: argparse.Namespace, deadline: float | None) -> list[Record]:
    folder = args.results or (RESULTS if args.full else SAMPLED)
    if args.go_on:
        file = RecordFile.to_go_on(folder, part.name, source(), (case.id for case in part.cases()))
    else:
        command = f"scripts/stress{' --full' if args.full else ''} --seed {args.seed}"
        started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        about = {"machine": machine(Path(tempfile.gettempdir())), "versions": versions(), **source()}
        file = RecordFile(
            folder,
            {"part": part.name, "full": False, "seed": args.seed, "command": command, "started": started, **about},
        )
    seed, known = file.meta["seed"], {record.id for record in file.records}
    cases = [case.id for case in part.chosen(seed, full=args.full) if case.id not in known]
    print(f"{part.title}: {len(cases):,} cases", flush=True)
    begun = said = time.monotonic()

    def tell(record: Record) -> None:
        nonlocal said
        file.add(record)
        for line in lost_lines([record], seed):
            print(line, flush=True)
        if time.monotonic() - said > SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print(f"{len(file.records) - len(known):,} of {len(cases):,} after {said - begun:.0f} s", flush=True)

    left = crew(seed).run(cases, tell, deadline, part.at_once)
    path = file.finish(time.monotonic() - begun, full=args.full and not left)
    for why in sorted(
        {record.result.why for record in file.records if record.result.outcome is Outcome.not_met and record.result.why}
    ):
        print(f"NOT MET: {why}")
    print("", *([matrix(file.records), ""] if file.records else []), totals(file.records), sep="\n")
    if left:
        print(f"{len(left):,} cases were not begun: the time was over.")
    print(f"{time.monotonic() - begun:.0f} s; raw results: {path}\n", flush=True)
    return file.records


def totals(records: Sequence[Record]) -> str:
    """One line with the number of cases and their outcomes. Cases without a fault do not count as injected."""
    counts = Counter(record.result.outcome for record in records)
    said = ", ".join(f"{counts[outcome]:,} {outcome.value}" for outcome in SHOWN)
    not_met = counts[Outcome.not_met]
    return f"{len(records) - not_met:,} injected: {said}" + (
        f"; {not_met:,} cases in which it was not met" if not_met else ""
    )


def lost_lines(records: Sequence[Record], seed: int) -> list[str]:
    lines = []
    for record in lost(records):
        lines += [
            f"LOST {record.id}: {record.result.why}",
            *(f"     {name}: {value}" for name, value in record.result.facts.items()),
        ]
        lines.append(f"     python -m stress --case {record.id} --seed {seed}")
    return lines


if __name__ == "__main__":
    sys.exit(main())
