"""Cases that were lost, run again once what was wrong is mended.

The new record stands in the place of the old one, and the part's meta line keeps what it was: `"mended": {ID: {"why": …, "commit": …, "dirty": …}}`, with the
commit of the later run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stress.crew import Crew
from stress.records import Outcome, Record, lost, read_records, write_records
from stress.report import lost_lines
from tests.support.machine import source


def run_mended(results: Path, workers: int) -> list[Record]:
    """Run the lost cases of all files in *results* again, by their seeds; all that were run. Raises ValueError for a file that is not whole."""
    return [record for path in sorted(results.glob("*.jsonl")) for record in _again(path, workers)]


def _again(path: Path, workers: int) -> Sequence[Record]:
    meta, records = read_records(path)
    before = {record.id: record for record in lost(records)}
    if not before:
        return []
    print(f"{meta['part']}: {len(before):,} cases again, seed {meta['seed']}", flush=True)
    found: list[Record] = []
    with tempfile.TemporaryDirectory(prefix="himl-stress-", ignore_cleanup_errors=True) as folder:
        Crew(Path(folder), meta["seed"], workers).run([*before], found.append)
    for line in lost_lines(found, meta["seed"]):
        print(line, flush=True)
    now = {record.id: record for record in found}
    write_records(path, with_mended(meta, before, now, source()), [now.get(record.id, record) for record in records])
    return found


def with_mended(meta: dict[str, Any], before: dict[str, Record], now: dict[str, Record], commit: dict[str, Any]) -> dict[str, Any]:
    """The meta line with those that are lost no more; of one that is mended a second time the first reason stays."""
    known: dict[str, Any] = dict(meta.get("mended", {}))
    for case_id, record in now.items():
        if record.result.outcome is not Outcome.lost:
            known[case_id] = {"why": known.get(case_id, {}).get("why", before[case_id].result.why), **commit}
    return {**meta, "mended": known}
