"""The harness of `stress/`: cases are drawn, run and recorded, none is lost on the way to `docs/reliability.md`, and
what its judges let pass and see.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage, DiskFailed
from stress import attacks, endpoint, killed, kills, runs, slides
from stress.__main__ import lost_lines, main, totals
from stress.accounting import UNRELATED, Job, Lab
from stress.apart import RANKS, orders, start_ranks
from stress.bombs import bomb_problems
from stress.fuzz import trying
from stress.fuzz.cases import TARGETS
from stress.fuzz.strategies import Target
from stress.load import Figures, growth_wrong, wrong_answers, wrong_listing, wrong_submissions
from stress.names import Blob, changes, file_problems, is_named, places_of, raw_signs, tree_of
from stress.plan import PARTS, dice_for, pass_over_interrupts, run_case, sample
from stress.ranks import ORDERS, PARTS_OF_ORDERS, Launch, Launcher, RankEnd, ended_early, judge_launch, moved_otherwise
from stress.records import Case, Outcome, Record, RecordFile, Result, parse_record, read_parts, write_part
from stress.secrets.cases import DOCUMENTED, verdict
from stress.secrets.searching import CACHE, Marks, Search, watching
from stress.site import Site
from stress.world import (
    SPAWN,
    Ended,
    Gauge,
    Measured,
    Verdict,
    World,
    differences,
    file_differences,
    judge,
    judge_again,
    lost,
    wrong_blobs,
)
from tests.azureml_double.faults import Status
from tests.azureml_double.stage import Stage
from tests.support import power_cuts
from tests.support.running import until, write_files
from tests.support.runs import RecordedRuns
from tests.support.slides import KINDS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="stress runs on Linux")
SURVIVED, FAILED, NOT_MET = (
    Result(Outcome.survived, 0, 0.5, 2, 0),
    Result(Outcome.reported, 5, 6.0, 5, 0),
    Result(Outcome.not_met, 0, 0.4),
)
LOST = Result(Outcome.lost, 0, 1.234, 1, None, "exit code 0, but 'x|y' is lacking", {"met": "FlipByte(at=1)"})
ENDS = {"tb/flip/01": LOST, "list/reset/00": SURVIVED, "list/reset/01": FAILED, "list/reset/02": NOT_MET}
RECORDS = [Record(f"faults/{case_id}", result) for case_id, result in ENDS.items()]
META = {"part": "faults", "full": False, "seed": 8, "commit": "abc", "dirty": False}


@pytest.fixture(scope="module", autouse=True)
def no_tracker_is_left() -> Iterator[None]:
    """The process that `multiprocessing` starts beside others would stay until this one ends."""
    yield
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@pytest.fixture
def world(stage: Stage, tmp_path: Path) -> World:
    return World(stage, tmp_path / "world")


def test_runs_keep_their_cases_and_go_on_when_ended(tmp_path: Path) -> None:
    write_part(tmp_path, {**META, "part": "names"}, [])
    file = RecordFile(tmp_path, META)
    for number, record in enumerate(RECORDS):
        file.add(record)
        assert len(file.path.read_text().splitlines()) == 2 + number
    file.finish(12.34, full=True)
    parts = read_parts(tmp_path)
    read_again = [parse_record(json.loads(record.as_line())) for record in sorted(RECORDS, key=lambda one: one.id)]
    assert parts["faults"] == ({**META, "kind": "meta", "full": True, "seconds": 12.3}, read_again)
    assert (list(parts), file.path.exists()) == (["faults", "names"], False)
    for why in ("later", LOST.why):  # of what was lost the first reason is kept, while the case is run again
        again = RecordFile.to_go_on(tmp_path, "faults", {"commit": "def", "dirty": False})
        assert again.meta["mended"] == {"faults/tb/flip/01": {"why": LOST.why, "commit": "def", "dirty": False}}
        assert {record.id for record in again.records} == {record.id for record in RECORDS[1:]}
        again.add(replace(RECORDS[0], result=replace(LOST, why=why)))
        again.finish(5.0, full=True)
        assert lost_lines(read_parts(tmp_path)["faults"][1], 8)[0] == f"LOST faults/tb/flip/01: {why}"
    ended = RecordFile(tmp_path, META)
    ended.add(RECORDS[0])
    file = RecordFile.to_go_on(tmp_path, "faults", {"commit": "def", "dirty": True})
    file.add(RECORDS[1])
    file.finish(2.0, full=True)
    meta, records = read_parts(tmp_path)["faults"]
    assert (meta["commit"], meta["went_on"], len(records)) == ("abc", [{"commit": "def", "dirty": True, "after": 1}], 2)
    more = RecordFile.to_go_on(
        tmp_path, "faults", {"commit": "ghi", "dirty": False}, [*(record.id for record in RECORDS), "faults/tb/new/00"]
    )
    assert (more.meta["went_on"][1], "seconds" in more.meta) == ({"commit": "ghi", "dirty": False, "after": 2}, False)
    assert totals(RECORDS) == "3 injected: 1 survived, 1 reported, 1 lost; 1 cases in which it was not met"
    command = "     python -m stress --case faults/tb/flip/01 --seed 8"
    assert lost_lines(RECORDS, 8) == [f"LOST faults/tb/flip/01: {LOST.why}", "     met: FlipByte(at=1)", command]


def test_sample_has_each_cell_and_follows_from_seed() -> None:
    for part in PARTS:
        cases = part.cases()
        assert len({case.id for case in cases}) == len(cases) > 0
        assert {case.id.partition("/")[0] for case in cases} == {part.name}
        cells = {case.cell for case in cases}
        assert cells > part.large
        assert {case.cell for case in part.chosen(8, full=False)} == cells - part.large
        assert [case.id for case in part.chosen(8, full=True)] == [case.id for case in cases]
    ids = [[case.id for case in sample(cases, seed, 3)] for seed in range(9)]
    assert ids[8] == [case.id for case in sample(cases, 8, 3)]
    numbers = [dice_for(8, "a"), dice_for(8, "a"), dice_for(9, "a"), dice_for(8, "b")]
    one, same, *others = [dice.random() for dice in numbers]
    assert (one == same, one in others) == (True, False)
    assert set(TARGETS) == set(trying.TARGETS)


def test_case_has_own_folder_and_a_broken_one_is_lost(world: World) -> None:
    seen: set[Path] = set()

    def run(world: World, dice: random.Random) -> Result:
        world.stage.faults.add(Status(503), times=None)
        done = world.himl("--version", cwd=world.folder, env=world.environment())
        seen.update([world.folder, world.home])
        return Result(Outcome.survived, done.code, dice.random())

    def fail(world: World, dice: random.Random) -> Result:
        raise RuntimeError(f"no such thing in {world.folder}/x")

    records = [run_case(world, Case("part/cell/00", run), 8) for _ in range(2)]
    assert [(one.result.code, one.result.seconds) for one in records] == [(0, dice_for(8, "part/cell/00").random())] * 2
    assert (len(seen), any(path.exists() for path in seen)) == (4, False)
    assert not world.stage.faults.meet("GET management.azure.com/").actions
    result = run_case(world, Case("part/cell/00", fail), 8).result
    assert (result.outcome, result.why.startswith("harness: RuntimeError in test_stress.py:")) == (Outcome.lost, True)
    assert result.why.endswith(": no such thing in …/x")
    assert [world.told(found, DONE, 0.1, 0).outcome for found in (REPORTED, lost("'a' is lacking"))] == [
        Outcome.not_met,
        Outcome.lost,
    ]


def test_single_case_is_run_by_a_worker(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--case", "faults/list/truncate/00", "--seed", "9", "--workers", "1"]) == 0
    first, case, last = capsys.readouterr().out.splitlines()
    assert (first, last) == ("seed 9", "1 injected: 1 survived, 0 reported, 0 lost")
    result = parse_record(json.loads(case)).result
    assert (result.code, result.hits, result.again) == (0, 1, 0)
    assert result.facts == {"met": "Truncate(96) at pages, 1 after 0", "cache": "warm", "draws": 1}
    assert main(["--seed", "4", "--minutes", "0", "--results", str(tmp_path)]) == 0
    assert "cases were not begun: the time was over." in capsys.readouterr().out
    assert {name: (meta["seed"], meta["full"], cases) for name, (meta, cases) in read_parts(tmp_path).items()} == {
        part.name: (4, False, []) for part in PARTS
    }
    assert main(["--only", "fault"]) == main(["--case", "faults/tb"]) == 2
    assert capsys.readouterr().err.startswith("There is no part 'fault'; there are: faults, kills, ")


def test_fuzzing_lets_documented_refusals_pass_alone() -> None:
    def refuse(text: str) -> None:
        if text != "take":
            raise {
                "refuse": BadUsage("It is no text.", hint="Give another."),
                "badly": DiskFailed("No disk."),
                "": BadUsage(""),
            }.get(text, KeyError(text))

    said = [
        trying.Trial(Target("a/b", st.text, refuse)).complaint(text).partition(":")[0]
        for text in ("take", "refuse", "badly", "", "fail")
    ]
    assert said == ["", "", "DiskFailed outside of himl", "BadUsage in 1 lines", "KeyError outside of himl"]
    assert (
        trying.Trial(Target("a/b", st.text, lambda text: warnings.warn(text, FutureWarning, stacklevel=1))).complaint(
            "odd"
        )
        == "warns: odd"
    )


def test_fuzzing_ends_endless_code_and_finds_smallest_example() -> None:
    def spin() -> None:
        while time.process_time() < 3600:
            with suppress(Exception):
                continue

    with pytest.raises(trying.TooLong), trying.within(0.1):
        spin()

    def parse(number: int) -> None:
        if number > 700:
            raise ValueError("too much")

    target = Target("a/b", lambda: st.integers(0, 10_000), parse)
    found = trying.Trial(target).run(5, 100)
    assert (found.why[-5:], trying.Trial(target).run(5, 100)) == (": 701", found)
    assert trying.Trial(replace(target, run=abs)).run(5, 100).why == ""


def test_all_orders_of_ranks_are_run(tmp_path: Path) -> None:
    size = ORDERS // PARTS_OF_ORDERS
    parts = [order for number in (0, 1, PARTS_OF_ORDERS - 1) for order in orders(number * size, size)]
    assert (len(set(parts)), ORDERS % PARTS_OF_ORDERS, parts[0], parts[-1]) == (
        3 * size,
        0,
        tuple(range(RANKS)),
        tuple(reversed(range(RANKS))),
    )
    with SPAWN.Pool(1) as pool:
        done, _, wrong = pool.apply(start_ranks, (tmp_path, 4711, 2))
    assert (done, wrong) == (2, [])


def test_launcher_tells_how_each_rank_ended(tmp_path: Path) -> None:
    script = '[ "$LOCAL_RANK" = 2 ] && exec sleep 100; echo "$LOCAL_RANK of $LOCAL_WORLD_SIZE"; exit "$LOCAL_RANK"'
    launcher = Launcher(tmp_path / "said", ["sh", "-c", script], cwd=tmp_path, env={}, reaps=True)
    try:
        for steps in ([(1, 0.0), (0, 0.05)], [(0, 0.0), (1, 0.0)]):
            ends = launcher.launch(steps, 20).ends
            assert {rank: (end.code, end.stdout) for rank, end in ends.items()} == {
                0: (0, "0 of 2\n"),
                1: (1, "1 of 2\n"),
            }
        assert launcher.launch([(2, 0.0)], 0.1).ends[2].code is None
    finally:
        launcher.close()


def test_secret_is_found_in_each_form_and_by_its_shape() -> None:
    marks = Marks()
    marks.add("password", "p/w+d=ä?secret")
    forms = [
        b"p/w+d=\xc3\xa4?secret",
        b"p%2Fw%2Bd%3D%C3%A4%3Fsecret",
        b"p%2fw%2bd%3d%c3%a4%3fsecret",
        b"p/w+d=\\u00e4?secret",
        b"p\\/w+d=\\u00e4?secret",
    ]
    forms += [
        b"dXNlcjpwL3crZD3DpD9zZWNyZXQ=",
        b"cC93K2Q9w6Q_c2VjcmV0",
        b"dXAvdytkPcOkP3NlY3JldA",
    ]  # after 'user:', urlsafe, after 'u'
    assert [marks.found(b"before " + form + b" after") for form in forms] == [["password"]] * len(forms)
    assert marks.found(b"https://h/c?sig=***&pw=*** p/w+d=?secre eyJ.eyJ.x") == []
    token = b"eyJhbGciOiAibm9uZSIsICJ0eXAiOiAiSldUIn0.eyJhdWQiOiAiYSIsICJzdWIiOiAiYiJ9.c2lnbmF0dXJl"
    assert marks.found(b"Bearer " + token) == ["token"]


def test_arguments_and_variables_of_a_process_are_seen() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()", "--key=own"]
    with (
        watching("SEARCHED=own") as watcher,
        subprocess.Popen(command, stdin=subprocess.PIPE, env={"SEARCHED": "own", "MORE": "x"}),
    ):
        until(lambda: any(b"--key=own" in arguments for shown in watcher.take() for arguments in shown.arguments))
        (shown,) = watcher.take()
    assert (shown.variables["MORE"], shown.is_job, "key" in shown.program) == (b"x", False, False)


def test_killed_command_heeds_ctrl_c_though_worker_does_not() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pass_over_interrupts()
        process = subprocess.Popen(["sleep", "60"])
        signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT


KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
WANTED = {"a.bin": b"0123456789" * 1000, "sub/b.bin": b"", "c.bin": b"cc"}
DONE, REFUSED, CODES = (
    Ended(0, "Downloaded 3 files.\n", ""),
    Ended(5, "", "himl: The service did not answer.\n"),
    frozenset({0, 5}),
)
BUG = "error: This is a bug in himl: KeyError: 'x'"
TRACEBACK = 'Traceback (most recent call last):\n  File "{}", line 1, in <module>\nKeyboardInterrupt\n'
REPORTED = Verdict(Outcome.reported)


def test_files_may_lack_or_grow_only_after_a_failure(tmp_path: Path) -> None:
    for is_done in (True, False):
        assert differences(WANTED, dict(WANTED), is_done=is_done) == []
        for name, content, said in (
            (
                "a.bin",
                WANTED["a.bin"][:500] + b"?" + WANTED["a.bin"][501:],
                "'a.bin' has 10,000 bytes of 10,000, other ones from byte 500 on",
            ),
            ("sub/b.bin", b"\0", "'sub/b.bin' has 1 bytes of 0, other ones from byte 0 on"),
            ("a.bin.tmp", b"", "'a.bin.tmp' should not be there"),
        ):
            assert differences(WANTED, {**WANTED, name: content}, is_done=is_done) == [said]
    assert differences(WANTED, {"c.bin": b"cc"}, is_done=False) == []
    assert differences(WANTED, {"c.bin": b"cc"}, is_done=True) == ["'a.bin' is lacking", "'sub/b.bin' is lacking"]
    begun = {"a.bin": WANTED["a.bin"][:10]}
    assert differences(WANTED, begun, is_done=False, grows=True) == []
    assert len(differences(WANTED, begun, is_done=True, grows=True)) == 3
    assert len(differences(WANTED, {"a.bin": b"012345678x"}, is_done=False, grows=True)) == 1
    write_files(tmp_path, {"a.bin": b"a", "sub/.b.himl-part": b"x"})
    assert file_differences({"a.bin": b"a"}, tmp_path, is_done=False) == []
    assert file_differences({"a.bin": b"a"}, tmp_path, is_done=True) == ["'.b.himl-part' is left"]
    write_files(tmp_path, {"b.himl-part": b""})
    assert file_differences({"a.bin": b"a"}, tmp_path, is_done=False) == ["'b.himl-part' should not be there"]


def test_blobs_are_compared_by_bytes_and_stored_md5(stage: Stage) -> None:
    storage = stage.workspace().state.storage
    storage.make_container("made")
    storage.put_all("made", {"case/a.bin": b"a" * 100, "case/b.bin": b""})
    wanted = {"a.bin": b"a" * 100, "b.bin": b""}
    assert wrong_blobs(storage, "made", "case/", wanted, is_done=True) == []
    assert wrong_blobs(storage, "made", "case/", {**wanted, "c.bin": b"c"}, is_done=True) == ["'c.bin' is lacking"]
    storage.put("made", "case/a.bin", b"a" * 99 + b"b")
    storage.put("made", "case/b.bin", b"", md5=False)
    assert wrong_blobs(storage, "made", "case/", wanted, is_done=False) == [
        "'a.bin' has 100 bytes of 100, other ones from byte 99 on",
        "'b.bin' is stored with another MD5 than that of its bytes, or with none",
    ]


def test_any_other_end_of_a_call_is_lost() -> None:
    def why(ended: Ended | None, *problems: str, orphans: Sequence[str] = ()) -> str:
        return judge(ended, CODES, problems, orphans=orphans).why

    assert [judge(each, CODES, []).outcome.value for each in (DONE, REFUSED)] == ["survived", "reported"]
    assert judge(Ended(5, "2 of 3 files", "himl: failed"), CODES, [], prints=True) == REPORTED
    assert why(None) == "hangs"
    assert why(Ended(0, "", TRACEBACK)) == "exit code 0, a failure that himl does not know: KeyboardInterrupt"
    assert why(Ended(5, "", BUG)) == f"exit code 5, a failure that himl does not know: {BUG}"
    assert why(Ended(1, "", "himl: failed")) == "exit code 1, documented: 0, 5: himl: failed"
    assert why(DONE, "'a.bin' is lacking") == "exit code 0, but 'a.bin' is lacking"
    assert why(REFUSED, "'a.bin' has 1 byte") == "exit code 5, but 'a.bin' has 1 byte"
    assert why(REFUSED, orphans=["7 python x"]) == "exit code 5, but 1 processes go on: 7 python x"
    assert why(Ended(5, "outputs/x", "himl: failed")) == "exit code 5, and yet on stdout: 'outputs/x'"
    assert why(Ended(5, "", " \n")) == "exit code 5 without a word"
    assert judge_again(REPORTED, DONE, []) == REPORTED

    def why_again(ended: Ended | None, *problems: str, orphans: Sequence[str] = ()) -> str:
        verdict = judge_again(REPORTED, ended, problems, orphans)
        assert verdict.is_lost
        return verdict.why

    assert why_again(None) == "the next call hangs"
    assert why_again(REFUSED) == "the next call: exit code 5: himl: The service did not answer."
    assert (
        why_again(Ended(0, "", "Another himl writes 'x'. Waiting for it."))
        == "the next call waits: Another himl writes 'x'. Waiting for it."
    )
    assert why_again(DONE, "'a.bin' is lacking") == "the next call: 'a.bin' is lacking"
    assert why_again(DONE, orphans=["7 x"]) == "after the next call 1 processes go on: 7 x"


def test_ctrl_c_before_himl_starts_may_end_in_traceback() -> None:
    for code, text in ((-2, ""), (1, "Fatal Python error: init_import_site: no\n")):
        ended = Ended(code, "", text + TRACEBACK.format("/usr/lib/python3.11/site.py"))
        assert kills.judge_first(ended, [kills.Struck(INT, killed.HIML, 0.1)], [], []) == REPORTED
        assert kills.judge_first(ended, [kills.Struck(TERM, killed.HIML, 0.1)], [], []).is_lost
        assert kills.judge_first(
            Ended(code, "", ended.stderr + "x/himl_cli/app.py"), [kills.Struck(INT, killed.HIML, 0.1)], [], []
        ).is_lost
    ignored = Ended(
        0, "done", "Failed checking if argv[0] is an import path entry\n" + TRACEBACK.format("<frozen zipimport>")
    )
    assert kills.judge_first(ignored, [kills.Struck(INT, killed.HIML, 0.1)], [], []).outcome is Outcome.survived
    for ended, number, problems in (
        (ignored, TERM, []),
        (ignored, INT, ["'a' is lacking"]),
        (replace(ignored, stderr=TRACEBACK.format("x.py")), INT, []),
    ):
        assert kills.judge_first(ended, [kills.Struck(number, killed.HIML, 0.1)], [], problems).is_lost
    wanted = {
        (KILL, killed.HIML): {0, -9},
        (INT, killed.HIML): {0, -2, 130},
        (KILL, killed.SUPERVISOR): {0, 1},
        (TERM, killed.ALL): {0, 1, -15, 130},
    }
    assert {key: kills.documented([kills.Struck(*key, 0.1)]) for key in wanted} == wanted


def test_completed_local_run_has_all_files_log_and_metrics(tmp_path: Path) -> None:
    run: dict[str, Any] = dict.fromkeys(kills.FIELDS, "x") | {"id": "r", "status": "Completed", "exit_code": 0}
    write_files(tmp_path / "runs" / "r", {"user_logs/std_log.txt": kills.LOG, "job.json": "{}"})
    write_files(tmp_path / "runs" / "r" / "code" / "outputs", dict(kills.OUTPUTS))
    rows = [(name, step, value) for name, values in kills.METRICS.items() for step, value in enumerate(values)]
    with closing(sqlite3.connect(tmp_path / "workspace.db")) as database, database:
        database.execute("CREATE TABLE metrics (run, name, step, value)")
        database.executemany("INSERT INTO metrics VALUES ('r', ?, ?, ?)", rows)
    assert kills.wrong_run(tmp_path, run) == []
    assert kills.wrong_run(tmp_path, run | {"status": "Running"}) == ["a run that nothing works at is Running"]
    assert kills.wrong_run(tmp_path, run | {"status": "Failed", "reason": ""}) == [
        "a run failed, and its record does not say why"
    ]
    write_files(tmp_path / "runs" / "r", {"user_logs/std_log.txt": kills.LOG[:-1], "job.json": "{"})
    (tmp_path / "runs/r/code/outputs/part_00.bin").unlink()
    log = f"the log of a completed run has {len(kills.LOG) - 1} bytes of {len(kills.LOG)}"
    assert kills.wrong_run(tmp_path, run) == ["'part_00.bin' is lacking", log, "'job.json' of a run is no JSON"]
    assert kills.wrong_metrics(rows[:-1], is_whole=False) == []
    assert kills.wrong_metrics(rows[:-1], is_whole=True) == ["metric 'accuracy' has 19 rows of 20"]
    gap = [row for row in rows if row[:2] != ("loss", 5)]
    assert kills.wrong_metrics(gap, is_whole=False) == ["metric 'loss' has 19 rows of 20, other ones than were logged"]


def test_half_deleted_run_and_leftover_rows_are_seen(world: World) -> None:
    with world.fresh():
        world.begin_with(None)
        deleted = runs.Deleted(world, random.Random(1))
        assert (len(deleted.recorded()[0]), deleted.recorded()[1], deleted.leftovers()) == (36, [], 0)
        done = world.himl("runs", "delete", "doomed_3", "--yes", cwd=world.project, env=deleted.env)
        assert (done.code, deleted.first(Ended(-9, "", ""))) == (0, [])
        assert deleted.facts() == {"deleted": 1}
        with deleted.database() as database, database:
            database.execute("INSERT INTO tags VALUES ('doomed_3', 'team', 'red')")
            database.execute("DELETE FROM runs WHERE id = 'doomed_5'")
        folder = world.project / ".himl" / "runs"
        (folder / "doomed_4" / "code" / "outputs" / "part_007.bin").unlink()
        gone = [
            "tags of 'doomed_3', which is deleted",
            "parameters of 'doomed_5', which is deleted",
            "metrics of 'doomed_5', which is deleted",
        ]
        gone += ["tags of 'doomed_5', which is deleted", "'doomed_4' is listed with 200 files of 201, or others"]
        gone += [f"'doomed_5_child_{number}' is listed, and its parent is gone" for number in (0, 1)]
        assert sorted(deleted.recorded()[1]) == sorted(gone)
        assert deleted.leftovers() == 1
        assert "the folder of 'doomed_5' is left" in deleted.then(DONE)


def test_slides_beside_a_damaged_one_are_compared(tmp_path: Path) -> None:
    names = [f"{kind}{KINDS[kind].suffix}" for kind in slides.SOUND]
    victim, other = tmp_path / "slides" / names[0], names[1]
    files = {
        f"{name}/{file}": f"{name} {file}" for name in names for file in ("0.png", "overview.jpg", "himl_tiles.json")
    }
    lists = ["slide_id,image\n" + "".join(f"{name},{name}/0.png\n" for name in some) for some in (names, names[1:])]
    wanted = {name: text.encode() for name, text in (files | {"dataset.csv": lists[0]}).items()}
    record = "slide_id,status,reason\n" + "".join(f"{name},ok,\n" for name in names)
    page = "overview/index.html"
    failed = {"slides.csv": record.replace("ok,", "failed,it is empty", 1), "dataset.csv": lists[1], page: "failed"}
    sound = {name: text for name, text in files.items() if not name.startswith(names[0])}

    def state(**changes: str) -> tuple[str, list[str]]:
        shutil.rmtree(tmp_path / "outputs", ignore_errors=True)
        write_files(
            tmp_path / "outputs",
            {**sound, **failed, **{name.replace("_csv", ".csv"): text for name, text in changes.items()}},
        )
        return slides.state_after("tiles", tmp_path / "outputs", victim, wanted)

    assert state() == ("it is empty", [])
    assert state(**{page: "another reason"}) == ("it is empty", [])
    del failed[page]
    assert state() == ("it is empty", ["the overview page is lacking"])
    failed[page] = "failed"
    assert state(**{f"{other}/0.png": "x"})[1] == [
        f"'{other}/0.png' has 1 bytes of {len(files[f'{other}/0.png'])}, other ones from byte 0 on"
    ]
    assert state(**{f"{names[0]}/0.png": "x"})[1] == [f"'{names[0]}' has 1 files of 0"]
    assert state(slides_csv=record.replace(f"{other},ok,", f"{other},failed,no"))[1] == [
        f"'{other}' failed: no",
        f"'{names[0]}' has 0 files of 2",
    ]
    assert state(slides_csv="\n".join(record.splitlines()[:-1]))[1][0] == "8 slides of 9 are listed"


def test_what_a_power_cut_damages_is_seen(tmp_path: Path) -> None:
    wanted = {"fetched/a": b"abc", "outputs/b.png": b"b"}
    write_files(tmp_path, {"fetched/a": "", "fetched/.a.himl-part": "a"})
    assert power_cuts.problems(tmp_path, [], wanted) == ["'fetched/a' has 0 bytes, not its content"]
    (tmp_path / "fetched" / "a").unlink()
    assert power_cuts.problems(tmp_path, ["submit", "fetch"], wanted) == [
        "'fetched/a' is missing",
        "the completed runs are {}",
    ]
    folder = tmp_path / ".himl" / "runs" / "r"
    write_files(
        folder, {"job.json": '{"laid": true}', **{f"code/{name}": text for name, text in power_cuts.CODE.items()}}
    )
    for status, damaged, wrong in (
        ("Running", "train.py", "the staged 'train.py' is incomplete"),
        ("Completed", "outputs/model.bin", "a completed run has no model"),
    ):
        with closing(sqlite3.connect(tmp_path / ".himl" / "workspace.db")) as connection, connection:
            connection.executescript(
                f"DROP TABLE IF EXISTS runs; CREATE TABLE runs AS SELECT 'r' AS id, '{status}' AS status"
            )
        assert power_cuts.problems(tmp_path, [], {}) == ([] if status == "Running" else [wrong])
        write_files(folder / "code", {damaged: ""})
        assert power_cuts.problems(tmp_path, [], {}) == [wrong]


def test_damaged_state_and_leftovers_of_a_call_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "transfers" / "here" / "state.db"
    path.parent.mkdir(parents=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE files (name TEXT)")
        database.execute("CREATE INDEX names ON files (name)")
        database.executemany("INSERT INTO files VALUES (?)", [(str(number) * 50,) for number in range(500)])
    assert kills.unsound(tmp_path, tmp_path / "copies") == []
    content = bytearray(path.read_bytes())
    content[-3000:-2000] = bytes(1000)
    path.write_bytes(content)
    assert kills.unsound(tmp_path, tmp_path / "copies") == ["'transfers/here/state.db' is damaged"]
    assert path.read_bytes() == content
    write_files(tmp_path, {".himl-lock": "", "a": "", ".a.himl-part": "", "job.json.part": "", "sub/.latest.x81": ""})
    assert killed.count_temporary(tmp_path) == 3


def ranks(*ends: tuple[int | None, str, str, float]) -> Launch:
    """A launch whose ranks, all started at second 100, ended so: code, stdout, stderr, seconds later."""
    return Launch(
        {
            rank: RankEnd(1, 100.0, 100.0 + seconds, code, stdout, stderr)
            for rank, (code, stdout, stderr, seconds) in enumerate(ends)
        }
    )


def test_ranks_have_to_agree() -> None:
    wrong: list[tuple[list[tuple[int | None, str, str, float]], list[str], str]] = [
        ([(0, "3", "", 1), (None, "", "", 0)], [], "ranks [1] do not end"),
        (
            [(0, "3", "", 1), (1, "", "no", 1)],
            [],
            "the ranks end with different codes: 0: 0 ((nothing on stderr)); 1: 1 (no)",
        ),
        ([(0, "3", "", 1), (0, "2", "", 1)], [], "the ranks say different things: 0: '3'; 1: '2'"),
        ([(0, "3", "", 1), (0, "3", "", 1)], ["'a' is lacking"], "exit code 0, but 'a' is lacking"),
        ([(0, "3", "", 1), (0, "3", "", 32)], [], "the last rank ended 31 s after rank 0, or after it was started"),
        ([(0, "3", "", 120), (0, "3", "", 121)], [], "the last rank ended 121 s after it was started"),
    ]
    for ends, problems, said in wrong:
        assert judge_launch(ranks(*ends), problems) == Verdict(Outcome.lost, said)
    assert judge_launch(ranks((0, "3", "", 1), (0, "3", "waits", 2)), []).outcome is Outcome.survived
    assert judge_launch(ranks((-9, "", "", 1), (1, "", "died", 2)), [], documented={1}, but={0}) == REPORTED
    differing = ranks((0, "3", "", 1), (0, "0", "", 2))
    differing.ends[1].started = 104.0
    assert judge_launch(differing, [], there=103.9).outcome is Outcome.survived
    assert judge_launch(differing, [], there=104.1).why.startswith("the ranks say different things: ")
    early = ranks((0, "3", "", 5), (0, "3", "", 2), (-9, "", "", 1))
    assert ended_early(early, 104.5) == ["rank 1 ended 2.50 s before all bytes were there"]
    assert ended_early(early, 104.5, but={1}) == []
    assert moved_otherwise({"a": 3, "b": 1}, {"a": 3, "b": 1}) == []
    assert moved_otherwise({"a": 3}, {"a": 6, "c": 2}) == [
        "'a': 6 bytes were moved of 3",
        "'c': 2 bytes were moved of 0",
    ]


def test_hostile_names_are_exact_absent_or_named(tmp_path: Path) -> None:
    blobs, must = [Blob("plain/one.bin", b"1"), Blob("../escaped", b"2")], {"plain/one.bin"}
    for number, (files, said, problem) in enumerate(
        [
            ({"out/plain/one.bin": b"1"}, "left out: '../escaped'", None),
            ({"out/plain/one.bin": b"1"}, "nothing", "'../escaped' is neither there nor named"),
            ({"out/plain/one.bin": b"other"}, "'../escaped'", "'plain/one.bin' is lacking"),
            (
                {"out/plain/one.bin": b"1", "out/escaped": b"2"},
                "'../escaped'",
                "'escaped' should not be there, or not so (file)",
            ),
            (
                {"out/plain/one.bin": b"1", "out/sub/.himl-transfer.db": b""},
                "'../escaped'",
                "'sub/.himl-transfer.db' should not be there, or not so (file)",
            ),
        ]
    ):
        write_files(tmp_path / str(number), files)
        places = places_of(tree_of(tmp_path / str(number)), "out")
        problems = file_problems(blobs, places, said, refused={"../escaped"}, must=must)
        assert problem in problems if problem else problems == []
        if not problem:
            assert file_problems(blobs, places, said, refused=must, must=set()) == ["'plain/one.bin' is there"]
        elif "named" in problem:  # of a long list, the last ones are told by their number
            assert file_problems(blobs, places, said, refused=set(), must=set(), counted=1) == []


def test_changes_are_seen_without_following_links(tmp_path: Path) -> None:
    write_files(tmp_path, {"a": b"1", "b": b"1"})
    before = tree_of(tmp_path)
    write_files(tmp_path, {"a": b"2", "c/d": b"1"})
    (tmp_path / "b").unlink()
    (tmp_path / "link").symlink_to("nowhere")
    assert changes(before, tree_of(tmp_path)) == [
        "'b' is gone",
        "'c' is new (folder)",
        "'c/d' is new (file)",
        "'link' is new (link)",
        "'a' was changed",
    ]
    assert is_named("a\x1b[2J\nb", "left out: a [2J b: it contains control characters")
    assert is_named("x" * 300, f"left out: {'x' * 100}...")
    assert not is_named("../escaped", "left out: escaped")
    assert raw_signs("a\n\x9b\u202e\té") == ["'\\t'", "'\\u202e'", "'\\x9b'"]


def test_bomb_is_refused_in_a_line_within_bounds() -> None:
    def problems(
        stderr: str = "error: too deep\nhint: do not\n", stdout: str = "", cpu: float = 0.3, memory: int = 90
    ) -> int:
        return len(bomb_problems(Measured(Ended(2, stdout, stderr), cpu, 1, memory)))

    assert (problems(), problems(cpu=5.1), problems(memory=600), problems(stdout="half")) == (0, 1, 1, 1)
    assert (
        problems("error: too deep\nTraceback\n"),
        problems(f"error: {'x' * 5000}\n"),
        problems("error: \x1b[31m\n"),
    ) == (1, 1, 1)


def test_secret_search_allows_own_files_and_sas_in_cache(tmp_path: Path) -> None:
    marks, home, own, search = Marks(), tmp_path / "home", tmp_path / "himl.private.toml", Search()
    marks.add("password", "p/w+d=ä?secret")
    marks.add("signature", "abcdefghijklmnop")
    (home / CACHE).mkdir(parents=True, mode=0o700)
    (home / CACHE).chmod(0o700)
    for name, text in (("link", "sig=abcdefghijklmnop"), ("key", "")):
        (home / CACHE / name).write_text(text)
        (home / CACHE / name).chmod(0o600)
    own.write_text("p/w+d=ä?secret")
    search.look_at_files(tmp_path, home, marks, {own})
    assert (search.leaks, search.files) == ([], 2)
    (home / CACHE / "link").chmod(0o640)
    (home / CACHE / "key").write_text("p/w+d=ä?secret")
    (tmp_path / "workspace.db").write_bytes("\0p/w+d=ä?secret\0".encode())
    search.look_at_files(tmp_path, home, marks, {own})
    key = f"password in the file {Path('home', *CACHE.parts[:2])}/…/key"
    assert sorted(search.leaks) == ["mode 640 of link", key, "password in the file workspace.db"]

    def outcome(code: int = 0, stderr: str = "", *leaks: str) -> str:
        return verdict(Ended(code, "", stderr), Search([*leaks]), DOCUMENTED).outcome.value

    assert (outcome(), outcome(5, "error: no\n")) == ("survived", "reported")
    assert (outcome(0, "", "password in stderr"), outcome(1, BUG), outcome(-9)) == ("lost", "lost", "lost")


def test_record_that_strangers_changed_is_told() -> None:
    def wrong(
        steps: int = 2,
        more: str = "kept",
        tags: tuple[str, ...] = ("right_7", "git"),
        runs: int = 1,
        status: str = "Running",
    ) -> int:
        kept = endpoint.Kept(range(steps), frozenset({"kept", more}), dict.fromkeys(tags, "x"), runs, status)
        return len(endpoint.wrong_record(kept, 2, frozenset({"right_7"}), is_submitted=False))

    worse = [
        wrong(1),
        wrong(more="intruder_1"),
        wrong(tags=("right_7", "intruder_1")),
        wrong(tags=("git",)),
        wrong(tags=("right_7", "right_8")),
        wrong(runs=2),
    ]
    assert (wrong(), worse, wrong(status="Failed")) == (0, [1] * 6, 1)
    kept = endpoint.Kept([0, 1], frozenset({"kept"}), {}, 1, "Completed")
    assert endpoint.wrong_record(kept, 2, frozenset(), is_submitted=True) == ["the last value of the job is lacking"]
    watch = attacks.Watch(endpoint.Target(1, "job", Gauge(1), "x", Path(), Path()))
    watch.waits = [0.1]
    assert attacks.wrong_figures(watch) == []
    watch.threads, watch.handles, watch.growth, watch.waits = (
        attacks.THREADS + 1,
        attacks.THREADS + 1,
        attacks.GROWTH + 1,
        [61.0],
    )
    assert len(attacks.wrong_figures(watch)) == 4
    replies = (b"", b"HTTP/1.1 401 x\r\n\r\n<html>", b"HTTP/1.1 501 x\r\n\r\n")
    assert [(attacks.status_of(reply), attacks.is_told_in_json(reply)) for reply in replies] == [
        (0, True),
        (401, False),
        (501, True),
    ]


def test_wrong_lists_answers_and_growth_of_many_are_seen(tmp_path: Path) -> None:
    assert wrong_listing(Ended(0, "x/a\nx/b\n", ""), 60.0, ["a", "b"], "list") == []
    assert wrong_listing(Ended(0, "x/b\nx/a\n", ""), 60.0, ["a", "b"], "list") == [
        "list of 2 has 'x/b' out of its place"
    ]
    assert wrong_listing(Ended(0, "x/a\n", ""), 151.0, ["a", "b"], "list") == [
        "list of 2 takes 151 MiB, over 150",
        "list of 2 has 1 lines",
    ]
    assert wrong_listing(Ended(5, "", "error: no"), 60.0, ["a"], "list") == ["list of 1: exit code 5: error: no"]
    assert (len(growth_wrong([10, 15], 4.0)), growth_wrong([10, 13], 4.0)) == (1, [])
    ids = ["a_1", "b_2", "c_3"]
    runs = [{"id": run_id} for run_id in ids[::-1]]
    answers = {"list": runs, "show": runs[1], "latest": runs[0], "tagged": [runs[1]], "aggregate": ids}
    assert wrong_answers(ids, "b_2", answers) == []
    for name, other in {
        "list": runs[::-1],
        "show": runs[0],
        "latest": runs[1],
        "tagged": runs,
        "aggregate": ids[:2],
    }.items():
        assert len(wrong_answers(ids, "b_2", {**answers, name: other})) == 1
    listed = {run_id: {"status": "Completed"} for run_id in ids}
    assert wrong_submissions({"b_2", "c_3"}, ["a_1"], {**listed, "c_3": {"status": "Failed"}}, 2) == [
        "1 are not Completed, as c_3"
    ]
    assert Figures([40.0, 70.0, *[72.0, 72.3] * 9], [30.0, 32.0, *[32.0, 33.0] * 9]).wrong() == []
    assert len(Figures([70.0 + number for number in range(25)], [30.0 + number for number in range(25)]).wrong()) == 2


def test_other_states_and_lost_jobs_on_a_site_are_seen(world: World, tmp_path: Path) -> None:
    line = f"7|{UNRELATED}|PENDING|gpu|lab|1:00|BeginTime"
    write_files(tmp_path, {"bin/squeue": f"#!/bin/sh\necho 'CLUSTER: c1'\necho '{line}'\n"})
    (tmp_path / "bin" / "squeue").chmod(0o755)
    with world.fresh():
        lab = Lab(world, Site(tmp_path, tmp_path, {"c1": ["n1"], "c2": ["n2"]}))
        RecordedRuns(lab.folder).add("run_1", reason="done")
        assert (lab.jobs(""), lab.jobs("run_1")) == ([Job(cluster, *line.split("|")) for cluster in ("c1", "c2")], [])
        for lab.unrelated in (2, 3):
            lab.check_unrelated()
        assert lab.problems == ["1 unrelated jobs of another number or cluster are gone"]
        lab.expect("run_1", "Queued", "then")
        assert lab.problems[1:] == ["then the run is Completed (done) in place of Queued"] * 2
