"""What is drawn for a command that is killed, and what the judge lets pass."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from stress.faults.judge import Ended, Verdict
from stress.kills.cases import A_CELL, BEYOND, COMMANDS, SIGNALS, draw, is_waited_for, kill_cases
from stress.kills.commands import count_temporary, unsound
from stress.kills.judge import documented, judge_first, judge_then
from stress.kills.local_run import FIELDS, LOG, METRICS, OUTPUTS, wrong_metrics, wrong_run
from stress.kills.victims import ALL, GROUP, HIML, SHIM, SUPERVISOR, Struck, heeding_interrupts
from stress.records import Outcome
from tests.support.running import write_files

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the cases need /proc")
KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
DONE, INTERRUPTED = Ended(0, "", ""), Ended(130, "", "error: Interrupted.\n")
TRACEBACK = 'Traceback (most recent call last):\n  File "{}", line 1, in <module>\nKeyboardInterrupt\n'
REPORTED = Verdict(Outcome.reported)


def struck(number: signal.Signals, victim: str = HIML) -> list[Struck]:
    return [Struck(number, victim, 0.1)]


def test_each_signal_is_tried_at_each_command_equally_often() -> None:
    cases = kill_cases()
    assert len({case.id for case in cases}) == len(cases) == len(SIGNALS) * len(COMMANDS) * A_CELL
    assert {case.cell for case in cases} == {f"kills/{command}/{number.name}" for command in COMMANDS for number in SIGNALS}


def test_kill_moments_are_uniform_and_tenth_get_second_signal() -> None:
    drawn = [draw(TERM, (HIML, GROUP), 2.0, random.Random(number)) for number in range(1000)]
    moments = [blows[0].after for blows in drawn]
    assert max(moments) <= BEYOND * 2.0
    assert all(150 < sum(low <= moment / (BEYOND * 2.0) < low + 0.2 for moment in moments) < 250 for low in (0, 0.2, 0.4, 0.6, 0.8))
    assert 60 < sum(len(blows) == 2 for blows in drawn) < 140
    assert {blows[0].order[0] for blows in drawn} == {HIML, GROUP}
    assert draw(TERM, (HIML,), 2.0, random.Random(5)) == draw(TERM, (HIML,), 2.0, random.Random(5))


@pytest.mark.parametrize(
    ("number", "victim", "codes"),
    [
        (KILL, HIML, {0, -9}),
        (TERM, GROUP, {0, -15, 130}),
        (INT, HIML, {0, -2, 130}),
        (KILL, SUPERVISOR, {0, 1}),
        (INT, SHIM, {0, 1}),
        (TERM, ALL, {0, 1, -15, 130}),
    ],
)
def test_what_a_signal_may_lead_to(number: signal.Signals, victim: str, codes: set[int]) -> None:
    assert documented(struck(number, victim)) == codes


@pytest.mark.parametrize("code", [-2, 1])
def test_ctrl_c_during_interpreter_start_may_end_in_traceback(code: int) -> None:
    said = f"Fatal Python error: init_import_site: no\n{TRACEBACK}" if code == 1 else TRACEBACK
    ended = Ended(code, "", said.format("/usr/lib/python3.11/site.py"))
    assert judge_first(ended, struck(INT), [], []).outcome is Outcome.reported
    assert judge_first(ended, struck(TERM), [], []).outcome is Outcome.lost


@pytest.mark.parametrize(
    ("ended", "number", "orphans", "problems", "said"),
    [
        (None, KILL, [], [], "hangs"),
        (Ended(-2, "", TRACEBACK.format("x/himl_cli/app.py")), INT, [], [], "exit code -2 with a traceback: KeyboardInterrupt"),
        (Ended(130, "", TRACEBACK.format("site.py")), INT, [], [], "exit code 130 with a traceback: KeyboardInterrupt"),
        (Ended(0, "", "Exception ignored in: x"), INT, [], [], "exit code 0 with a traceback: Exception ignored in: x"),
        (Ended(1, "", "error: no"), TERM, [], [], "exit code 1, documented: -15, 0, 130: error: no"),
        (INTERRUPTED, KILL, [], [], "exit code 130, documented: -9, 0: error: Interrupted."),
        (INTERRUPTED, INT, ["7 python x"], [], "exit code 130, but 1 processes go on: 7 python x"),
        (Ended(-9, "", ""), KILL, [], ["'a' has 1 bytes of 2"], "exit code -9, but 'a' has 1 bytes of 2"),
        (Ended(130, "", " "), INT, [], [], "exit code 130 without a word"),
    ],
)
def test_all_else_is_lost(ended: Ended | None, number: signal.Signals, orphans: list[str], problems: list[str], said: str) -> None:
    verdict = judge_first(ended, struck(number), orphans, problems)
    assert (verdict.outcome, verdict.why) == (Outcome.lost, said)


@pytest.mark.parametrize(
    ("ended", "orphans", "problems", "said"),
    [
        (None, [], [], "the next call does not end"),
        (INTERRUPTED, [], [], "the next call: exit code 130: error: Interrupted."),
        (Ended(0, "", "Another himl is writing to 'x'; waiting for it.\n"), [], [], "the next call waits: Another himl is writing to 'x'; waiting for it."),
        (DONE, [], ["'a' is lacking"], "the next call: 'a' is lacking"),
        (DONE, ["7 x"], [], "after the next call 1 processes go on: 7 x"),
    ],
)
def test_what_the_next_call_cannot_put_right_is_lost(ended: Ended | None, orphans: list[str], problems: list[str], said: str) -> None:
    verdict = judge_then(REPORTED, ended, orphans, problems)
    assert (verdict.outcome, verdict.why) == (Outcome.lost, said)
    assert judge_then(REPORTED, DONE, [], []) == REPORTED


def test_only_command_ended_by_itself_counts_as_waited_for() -> None:
    """A command that died of a signal or got a second one did not wait for its work."""
    assert is_waited_for(INTERRUPTED, struck(INT))
    assert not is_waited_for(Ended(-9, "", ""), struck(KILL))
    assert not is_waited_for(INTERRUPTED, struck(INT) * 2)


@pytest.mark.parametrize("lost", [0, 5, 19])
def test_metrics_may_end_early_but_have_no_gap(lost: int) -> None:
    rows = [(name, step, value) for name, values in METRICS.items() for step, value in enumerate(values)]
    assert wrong_metrics(rows, is_whole=True) == []
    assert wrong_metrics(rows[:-1], is_whole=False) == []
    assert wrong_metrics(rows[:-1], is_whole=True) == ["metric 'accuracy' has 19 rows of 20"]
    gap = [row for row in rows if row[:2] != ("loss", lost)] if lost < 19 else [(name, step, value + (name == "loss")) for name, step, value in rows]
    assert wrong_metrics(gap, is_whole=False) == [f"metric 'loss' has {19 if lost < 19 else 20} rows of 20, other ones than were logged"]


def test_a_completed_run_has_all_of_its_files_and_its_log(tmp_path: Path) -> None:
    run: dict[str, Any] = dict.fromkeys(FIELDS, "x") | {"id": "r", "status": "Completed", "exit_code": 0}
    write_files(tmp_path / "runs" / "r", {"user_logs/std_log.txt": LOG, "job.json": "{}"})
    write_files(tmp_path / "runs" / "r" / "code" / "outputs", dict(OUTPUTS))
    with closing(sqlite3.connect(tmp_path / "workspace.db")) as database, database:
        database.execute("CREATE TABLE metrics (run, name, step, value)")
        rows = [("r", name, step, value) for name, values in METRICS.items() for step, value in enumerate(values)]
        database.executemany("INSERT INTO metrics VALUES (?, ?, ?, ?)", rows)
    assert wrong_run(tmp_path, run) == []
    assert wrong_run(tmp_path, run | {"status": "Running"}) == ["a run that nothing works at is Running"]
    assert wrong_run(tmp_path, run | {"status": "Failed", "reason": ""}) == ["a run failed, and its record does not say why"]
    write_files(tmp_path / "runs" / "r", {"user_logs/std_log.txt": LOG[:-1], "job.json": json.dumps({"a": 1})[:-1]})
    (tmp_path / "runs/r/code/outputs/part_00.bin").unlink()
    assert wrong_run(tmp_path, run) == [
        "'part_00.bin' is lacking",
        f"the log of a completed run has {len(LOG) - 1} bytes of {len(LOG)}",
        "'job.json' of a run is no JSON",
    ]


def test_what_only_a_call_under_way_needs_is_counted(tmp_path: Path) -> None:
    write_files(tmp_path, {".himl-lock": "", "a": "", ".a.himl-part": "", "job.json.part": "", "sub/.latest.x81": ""})
    assert count_temporary(tmp_path) == 3


def test_a_damaged_database_is_seen_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "transfers" / "here" / "state.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE files (name TEXT)")
        database.execute("CREATE INDEX names ON files (name)")
        database.executemany("INSERT INTO files VALUES (?)", [(str(number) * 50,) for number in range(500)])
    assert unsound(tmp_path, tmp_path / "copies") == []
    content = bytearray(path.read_bytes())
    content[-3000:-2000] = bytes(1000)
    path.write_bytes(content)
    assert unsound(tmp_path, tmp_path / "copies") == ["'transfers/here/state.db' is damaged"]
    assert path.read_bytes() == content


def test_what_is_started_heeds_ctrl_c_though_the_worker_does_not() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heeding_interrupts():
            process = subprocess.Popen(["sleep", "60"])
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
