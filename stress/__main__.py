"""`python -m stress`: a sample of all cases, or (`--full`) all of them; the exit code is 1 where anything was lost."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from stress.crew import Crew, WorkerFailed
from stress.mended import run_mended
from stress.plan import PARTS, Part, cases_by_id, parts_named, seconds_for
from stress.records import Record, RecordFile, lost
from stress.report import lost_lines, table, totals
from tests.support.machine import ROOT, machine, source, versions

RESULTS, SAMPLED = Path(__file__).with_name("results"), ROOT / ".cache" / "stress"
SEEDS = 1_000_000
WORKERS, MINUTES = 8, 15.0
SAID_EACH = 30.0
FAILED, USAGE, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what *arguments* (default: those of the process) say; the exit code."""
    args = _parser().parse_args(arguments)
    try:
        parts, seed = parts_named(args.only), secrets.randbelow(SEEDS) if args.seed is None else args.seed
        _check_cases(args.case)
        if args.mended:
            return FAILED if lost(run_mended(args.results or RESULTS, args.workers)) else 0
    except ValueError as e:
        print(e, file=sys.stderr)
        return USAGE
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="himl-stress-", ignore_cleanup_errors=True) as folder:
        crew = Crew(Path(folder), seed, args.workers)
        try:
            records = _run_cases(crew, args.case, seed) if args.case else _run_parts(crew, parts, seed, args)
        except WorkerFailed as e:
            print(f"A worker could not begin:\n{e}", file=sys.stderr)
            return FAILED
        except KeyboardInterrupt:
            return INTERRUPTED
    return FAILED if lost(records) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m stress", description="Stress for himl: cases drawn by a seed, run on the double of Azure ML, and judged.")
    parser.add_argument("--full", action="store_true", help="all cases, not a sample")
    parser.add_argument("--seed", type=int, help="what the cases are drawn from (default: drawn, and printed)")
    parser.add_argument("--only", nargs="+", default=[], metavar="PART", help=f"these parts ({', '.join(part.name for part in PARTS)})")
    parser.add_argument("--case", nargs="+", default=[], metavar="ID", help="these cases, told in full; nothing is written")
    parser.add_argument("--go_on", action="store_true", help="with --full --only PART and its seed: what is missing of a run that was ended")
    parser.add_argument("--mended", action="store_true", help="those that were lost in the last full run, again; they keep what was lost")
    parser.add_argument("--results", type=Path, metavar="FOLDER", help="where the raw results go (default: .cache/stress, with --full stress/results)")
    parser.add_argument("--workers", type=_count, default=WORKERS, metavar="N", help=f"how many cases at a time (default {WORKERS})")
    parser.add_argument("--minutes", type=float, help=f"begin no case after so many (default {MINUTES:.0f}, with --full as long as it takes)")
    return parser


def _count(text: str) -> int:
    """A number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"takes a number from 1 on, got '{text}'")
    return int(text)


def _check_cases(ids: Sequence[str]) -> None:
    known = cases_by_id()
    for case_id in ids:
        if case_id not in known:
            raise ValueError(f"There is no case '{case_id}'; there are {len(known):,} from '{next(iter(known))}' on.")


def _run_cases(crew: Crew, ids: Sequence[str], seed: int) -> list[Record]:
    """Run single cases, each told when it is over."""
    records: list[Record] = []

    def tell(record: Record) -> None:
        records.append(record)
        print(record.as_line(), *(f"{line}\n" for line in lost_lines([record], seed)), sep="", end="", flush=True)

    crew.run(ids, tell)
    print(totals(records))
    return records


def _run_parts(crew: Crew, parts: Sequence[Part], seed: int, args: argparse.Namespace) -> list[Record]:
    """Run each part after the other, write its file and print what came of it."""
    minutes = args.minutes if args.minutes is not None else None if args.full else MINUTES
    end = None if minutes is None else time.monotonic() + minutes * 60
    records: list[Record] = []
    for number, part in enumerate(parts):
        now = time.monotonic()
        deadline = None if end is None else now + seconds_for(part, parts[number:], max(0.0, end - now))
        records += _run_part(crew, part, seed, args, deadline)
    return records


def _run_part(crew: Crew, part: Part, seed: int, args: argparse.Namespace, deadline: float | None) -> list[Record]:
    folder = args.results or (RESULTS if args.full else SAMPLED)
    file = RecordFile.to_go_on(folder / f"{part.name}.jsonl", source()) if args.go_on else RecordFile(folder, _meta(part, seed, full=args.full))
    records, known = list(file.records), {record.id for record in file.records}
    cases = [case.id for case in part.chosen(file.seed, full=args.full) if case.id not in known]
    print(f"{part.title}: {len(cases):,} cases", flush=True)
    begun = said = time.monotonic()

    def tell(record: Record) -> None:
        nonlocal said
        records.append(record)
        file.add(record)
        for line in lost_lines([record], seed):
            print(line, flush=True)
        if time.monotonic() - said > SAID_EACH:
            said = time.monotonic()
            print(f"{len(records) - len(known):,} of {len(cases):,} after {said - begun:.0f} s", flush=True)

    left = crew.run(cases, tell, deadline, part.at_once)
    file.finish(time.monotonic() - begun, full=args.full and not left)
    print("\n".join(["", *table(records), "", totals(records)]))
    if left:
        print(f"{len(left):,} cases were not begun: the time was over.")
    print(f"{time.monotonic() - begun:.0f} s; raw results: {file.path}\n", flush=True)
    return records


def _meta(part: Part, seed: int, *, full: bool) -> dict[str, Any]:
    command = f"scripts/stress{' --full' if full else ''} --seed {seed}"
    started = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    about = {"machine": machine(Path(tempfile.gettempdir())), "versions": versions()}
    return {"part": part.name, "full": False, "seed": seed, "command": command, "started": started, **source(), **about}


if __name__ == "__main__":
    sys.exit(main())
