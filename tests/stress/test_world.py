"""Cases in a real world: a folder and a home of their own, and what fails outside of what they judge."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from stress.__main__ import main
from stress.faults.found import final_files, left_parts, wrong_blobs
from stress.records import Case, Outcome, Result, parse_record, read_records
from stress.sampling import dice_for
from stress.worker import run_case
from stress.world import World
from tests.servers.azureml.faults import Status
from tests.servers.azureml.stage import Stage
from tests.support.forked_himl import PROGRAM, forked
from tests.support.running import write_files

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def world(stage: Stage, tmp_path: Path) -> World:
    return World(stage, tmp_path / "world", forked(PROGRAM))


def test_each_case_has_own_folder_and_home_removed_afterwards(world: World) -> None:
    seen: list[Path] = []

    def run(world: World, dice: random.Random) -> Result:
        world.stage.faults.add(Status(503), times=None)
        done = world.himl("--version", cwd=world.folder, env=world.environment())
        seen.extend([world.folder, world.home])
        assert all(Path(value).is_relative_to(world.folder) for name, value in world.environment().items() if name in ("HOME", "TMPDIR", "XDG_CACHE_HOME"))
        return Result(Outcome.survived, done.code, dice.random())

    records = [run_case(world, Case("part/cell/00", run), 8) for _ in range(2)]
    assert [record.result.code for record in records] == [0, 0]
    assert [record.result.seconds for record in records] == [dice_for(8, "part/cell/00").random()] * 2
    assert len(set(seen)) == 4
    assert not any(path.exists() for path in seen)
    assert not world.stage.faults.meet("GET management.azure.com/").actions


def test_harness_error_counts_as_lost_and_hides_machine_paths(world: World) -> None:
    def run(world: World, dice: random.Random) -> Result:
        raise RuntimeError(f"no such thing in {world.folder}/x")

    result = run_case(world, Case("part/cell/00", run), 8).result
    assert (result.outcome, result.code) == (Outcome.lost, None)
    assert result.why.startswith("harness: RuntimeError in test_world.py:")
    assert result.why.endswith(": no such thing in …/x")


def test_ids_of_one_run_are_left_out(world: World) -> None:
    state = world.stage.workspace().state
    text = world.tidy(f"{PROJECT}/x {state.storage.host} {state.group} {state.subscription}")
    assert text == "himl/x ….blob.core.windows.net … …"


def test_what_is_shared_is_made_once(world: World) -> None:
    made = [world.lasting("dice", lambda _: random.random()) for _ in range(2)]
    assert made[0] == made[1]


def test_blobs_are_compared_by_bytes_and_stored_md5(world: World) -> None:
    storage = world.stage.workspace().state.storage
    storage.make_container("made")
    wanted = {"a.bin": b"a" * 100, "sub/b.bin": b""}
    storage.put_all("made", {f"case/{name}": content for name, content in wanted.items()})
    assert wrong_blobs(storage, "made", "case/", wanted, is_done=True) == []
    assert wrong_blobs(storage, "made", "case/", {**wanted, "c.bin": b"c"}, is_done=True) == ["'c.bin' is lacking"]
    storage.put("made", "case/a.bin", b"a" * 99 + b"b")
    storage.put("made", "case/sub/b.bin", b"", md5=False)
    first, second = wrong_blobs(storage, "made", "case/", wanted, is_done=False)
    assert first == "'a.bin' has 100 bytes of 100, other ones from byte 99 on"
    assert second == "'sub/b.bin' is stored with another MD5 than that of its bytes, or with none"


def test_final_names_are_all_but_parts(tmp_path: Path) -> None:
    write_files(tmp_path, {"a.bin": "a", "sub/b.bin": "b", "sub/.b.bin.himl-part": "x"})
    assert final_files(tmp_path) == {"a.bin": b"a", "sub/b.bin": b"b"}
    assert left_parts(tmp_path) == ["'.b.bin.himl-part' is left"]


def test_a_case_is_run_by_a_worker_and_told_whole(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--case", "faults/list/truncate/00", "--seed", "9", "--workers", "1"])
    first, case, last = capsys.readouterr().out.splitlines()
    assert code == 0, case
    assert (first, last) == ("seed 9", "1 injected: 1 survived, 0 reported, 0 lost")
    told = parse_record(case)
    assert told.id == "faults/list/truncate/00"
    assert (told.result.code, told.result.hits, told.result.again) == (0, 1, 0)
    assert told.result.facts == {"met": "Truncate(96) at pages, 1 after 0", "cache": "warm", "draws": 1}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("--only", "fault"), "There is no part 'fault'; there are: faults, kills, "), (("--case", "faults/tb"), "There is no case 'faults/tb'; there are ")],
)
def test_what_there_is_not_is_refused(capsys: pytest.CaptureFixture[str], arguments: tuple[str, str], said: str) -> None:
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(said)


def test_zero_minutes_start_no_case_and_print_message(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["--seed", "4", "--minutes", "0", "--results", str(tmp_path)]) == 0
    assert "cases were not begun: the time was over." in capsys.readouterr().out
    meta, records = read_records(tmp_path / "faults.jsonl")
    assert (meta["seed"], meta["full"], records) == (4, False, [])
