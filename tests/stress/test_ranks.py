"""What the judge of ranks lets pass, what it sees, and what is drawn for it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from stress.ranks.cases import A_CELL, WAYS, rank_cases
from stress.ranks.judge import ended_early, judge_launch, moved_otherwise
from stress.ranks.launching import Launch, Launcher, RankEnd
from stress.ranks.orders import ALL, CASES
from stress.ranks.starting import RANKS, orders
from stress.records import Outcome
from tests.support.machine import ROOT

DONE = "Downloaded 3 files.\n"
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the stress of ranks is Linux's")


def launch(*ends: tuple[int | None, str, str, float]) -> Launch:
    """One whose ranks, all started at second 100, ended so: code, stdout, stderr, seconds later."""
    return Launch({rank: RankEnd(1, 100.0, 100.0 + seconds, code, stdout, stderr) for rank, (code, stdout, stderr, seconds) in enumerate(ends)})


def test_agreeing_ranks_count_as_survived_failed_as_reported() -> None:
    assert judge_launch(launch((0, DONE, "", 1), (0, DONE, "waits", 2)), []).outcome is Outcome.survived
    assert judge_launch(launch((5, "", "no", 1), (5, "", "no", 2)), [], documented={0, 5}).outcome is Outcome.reported
    assert judge_launch(launch((-9, "", "", 1), (1, "", "died", 2)), [], documented={1}, but={0}).outcome is Outcome.reported


@pytest.mark.parametrize(
    ("ends", "problems", "said"),
    [
        ([(0, DONE, "", 1), (None, "", "", 0)], [], "ranks [1] do not end"),
        ([(0, DONE, "", 1), (1, "", "no", 1)], [], "the ranks end with different codes: 0: 0 ((nothing on stderr)); 1: 1 (no)"),
        ([(1, "", "no", 1), (1, "", "no", 1)], [], "exit code 1, documented: 0: no"),
        ([(0, DONE, "", 1), (0, "Downloaded 2 files.\n", "", 1)], [], f"the ranks say different things: 0: {DONE!r}; 1: 'Downloaded 2 files.\\n'"),
        ([(0, DONE, "", 1), (0, DONE, "Traceback (most recent call last):\nKeyError", 1)], [], "a failure that himl does not know: KeyError"),
        ([(0, DONE, "", 1), (0, DONE, "", 1)], ["'a' is lacking"], "exit code 0, but 'a' is lacking"),
        ([(0, DONE, "", 1), (0, DONE, "", 32)], [], "the last rank ended 31 s after rank 0, or after it was started"),
        ([(0, DONE, "", 120), (0, DONE, "", 121)], [], "the last rank ended 121 s after it was started"),
    ],
)
def test_all_else_is_lost(ends: list[tuple[int | None, str, str, float]], problems: list[str], said: str) -> None:
    verdict = judge_launch(launch(*ends), problems)
    assert (verdict.outcome, verdict.why) == (Outcome.lost, said)


def test_rank_that_ends_before_all_bytes_arrive_is_reported() -> None:
    early = launch((0, DONE, "", 5), (0, DONE, "", 2), (-9, "", "", 1))
    assert ended_early(early, 104.5) == ["rank 1 ended 2.50 s before all bytes were there"]
    assert ended_early(early, 104.5, but={1}) == []


def test_each_byte_is_moved_once_and_no_other() -> None:
    assert moved_otherwise({"a": 3, "b": 1}, {"a": 3, "b": 1}) == []
    assert moved_otherwise({"a": 3, "b": 1}, {"a": 6, "c": 2}) == [
        "'a': 6 bytes were moved of 3",
        "'b': 0 bytes were moved of 1",
        "'c': 2 bytes were moved of 0",
    ]


def test_all_rank_orders_run_and_rank_0_has_each_place_per_cell() -> None:
    assert ALL % CASES == 0
    parts = [order for number in (0, 1, CASES - 1) for order in orders(number * (ALL // CASES), ALL // CASES)]
    assert len(set(parts)) == len(parts) == 3 * ALL // CASES
    assert {tuple(sorted(order)) for order in parts} == {tuple(range(RANKS))}
    assert (parts[0], parts[-1]) == (tuple(range(RANKS)), tuple(reversed(range(RANKS))))
    cells = Counter(case.cell for case in rank_cases())
    assert set(cells.values()) == {A_CELL, CASES}
    assert len(cells) == 2 * len(WAYS) + 1
    assert A_CELL % RANKS == 0


@linux
def test_orders_are_run_by_forks_that_meet(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "stress.ranks.starting", str(tmp_path), "4711", "2"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=100).stdout)
    assert (told["orders"], told["wrong"]) == (2, [])


@linux
def test_a_launcher_starts_ranks_again_and_tells_how_each_ended(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "said", ["sh", "-c", 'echo "$LOCAL_RANK of $LOCAL_WORLD_SIZE"; exit "$LOCAL_RANK"'], cwd=tmp_path, env={}, reaps=True)
    try:
        for steps in ([(1, 0.0), (0, 0.05)], [(0, 0.0), (1, 0.0)]):
            ends = launcher.launch(steps, 20).ends
            assert {rank: (end.code, end.stdout) for rank, end in ends.items()} == {0: (0, "0 of 2\n"), 1: (1, "1 of 2\n")}
    finally:
        launcher.close()


@linux
def test_a_rank_that_hangs_is_told_as_one_that_did_not_end(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path / "said", ["sh", "-c", '[ "$LOCAL_RANK" = 0 ] || exec sleep 100'], cwd=tmp_path, env={}, reaps=False)
    try:
        assert [end.code for _, end in sorted(launcher.launch([(0, 0.0), (1, 0.0)], 0.5).ends.items())] == [0, None]
    finally:
        launcher.close()
