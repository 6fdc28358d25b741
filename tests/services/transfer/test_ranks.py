"""Processes with ranks, as launchers start them: one downloads, all end alike."""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from himl_cli.core.blobs import Failure, Refused, TransferResult
from himl_cli.core.errors import HimlError, NotFound
from himl_cli.core.processes import RANKS, local_rank
from himl_cli.services.transfer.ranks import IDLE_SECONDS, rank_zero_only
from tests.support.folders import meetings

ROOT = Path(__file__).parents[3]
RANK = """
import json, os, sys, time
from pathlib import Path
from himl_cli.core.errors import HimlError, NotFound
from himl_cli.services.transfer.ranks import rank_zero_only
from himl_cli.core.blobs import TransferResult
folder, plan = Path(sys.argv[1]), json.loads(sys.argv[2])
folder.mkdir(exist_ok=True)
if os.environ["LOCAL_RANK"] == "0":
    time.sleep(plan.get("late", 0))
(folder / f"ready-{os.environ['LOCAL_RANK']}").touch()
for step in plan["steps"]:
    def act():
        with open(folder / "acted", "a") as record:
            record.write(f"{os.environ['LOCAL_RANK']} {step['say']}\\n")
        time.sleep(step.get("sleep", 0))
        if step["say"] == "die":
            os._exit(9)
        if step["say"] == "fail":
            raise NotFound("nothing there", hint="look elsewhere")
        return TransferResult(files=len(step["say"]) + 100 * int(os.environ["LAUNCH"]))
    try:
        print(json.dumps(["ok", rank_zero_only(folder, step["key"], act, wait_seconds=plan.get("wait", 90)).files]))
    except HimlError as err:
        print(json.dumps([err.code, str(err), err.hint, err.exit_code]))
"""
LAUNCHER = """
import json, os, subprocess, sys, time
orders, size, pause, command = json.loads(sys.argv[1]), sys.argv[2], float(sys.argv[3]), sys.argv[4:]
for number, order in enumerate(orders):
    running = {}
    for rank in order:
        environment = {**os.environ, "LOCAL_RANK": str(rank), "RANK": str(rank), "LOCAL_WORLD_SIZE": size, "LAUNCH": str(number)}
        running[rank] = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        time.sleep(pause)
    said = {rank: [json.loads(line) for line in process.stdout.read().splitlines()] for rank, process in running.items()}
    for process in running.values():
        process.wait()
    print(json.dumps(said))
"""
"""Asks how ranks ended only when all have: one that was done before another one was started is known as long as nobody has asked."""

WRAPPER = 'export LOCAL_RANK="$SLURM_LOCALID"; "$@"; exit $?'
"""What scripts do under srun: hand the rank on under the name that PyTorch reads."""


def launch(
    folder: Path, order: Sequence[int], plan: Mapping[str, Any], pause: float = 0.0, variables: Mapping[str, str] = MappingProxyType({})
) -> dict[str, list[list[Any]]]:
    """What each rank said when ranks are started in *order* by a launcher of their own."""
    (said,) = launches(folder, [order], plan, pause, variables)
    return said


def launches(
    folder: Path, orders: Sequence[Sequence[int]], plan: Mapping[str, Any], pause: float = 0.0, variables: Mapping[str, str] = MappingProxyType({})
) -> list[dict[str, list[list[Any]]]]:
    """The same for one launcher that starts ranks again once all that it started before have ended; they are told the number of the LAUNCH."""
    command = [sys.executable, "-c", LAUNCHER, json.dumps(orders), "8", str(pause), sys.executable, "-c", RANK, str(folder), json.dumps(plan)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def acted(folder: Path) -> list[str]:
    return (folder / "acted").read_text().splitlines()


ORDERS_OF_EIGHT = [[*range(8)], [*reversed(range(8))], random.Random(3).sample(range(8), 8)]


@pytest.mark.parametrize("order", ORDERS_OF_EIGHT, ids=lambda order: "".join(map(str, order)))
def test_one_of_eight_ranks_acts_and_all_get_its_outcome(tmp_path: Path, order: list[int]) -> None:
    said = launch(tmp_path, order, {"steps": [{"say": "xyz", "key": "k", "sleep": 0.3}]})
    assert said == {str(rank): [["ok", 3]] for rank in range(8)}
    assert acted(tmp_path) == ["0 xyz"]


@pytest.mark.parametrize("order", [*itertools.permutations(range(3))], ids=lambda order: "".join(map(str, order)))
def test_every_order_of_three_ranks_also_when_they_come_late(tmp_path: Path, order: tuple[int, ...]) -> None:
    said = launch(tmp_path, order, {"steps": [{"say": "x", "key": "k"}]}, pause=0.25)
    assert (said, acted(tmp_path)) == ({str(rank): [["ok", 1]] for rank in range(3)}, ["0 x"])


def test_failure_of_rank_zero_is_raised_on_all_ranks(tmp_path: Path) -> None:
    said = launch(tmp_path, [1, 0, 2], {"steps": [{"say": "fail", "key": "k"}]})
    assert said == {str(rank): [["not_found", "nothing there", "look elsewhere", 3]] for rank in range(3)}


def test_ranks_do_not_wait_for_a_rank_0_that_died(tmp_path: Path) -> None:
    said = launch(tmp_path, [0, 1, 2], {"steps": [{"say": "die", "key": "k", "sleep": 0.5}]})
    assert said["0"] == []
    assert [(said[rank][0][0], "died" in said[rank][0][1], said[rank][0][3]) for rank in "12"] == [("failed", True, 1)] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="the wrapper is a shell script")
def test_ranks_meet_through_a_script_that_hands_the_rank_on(tmp_path: Path) -> None:
    launcher = LAUNCHER.replace('"LOCAL_RANK": str(rank)', '"SLURM_LOCALID": str(rank)')
    plan = json.dumps({"steps": [{"key": "k", "say": "wrapped"}]})
    command = [sys.executable, "-c", launcher, "[[2, 0, 1]]", "3", "0", "sh", "-c", WRAPPER, "sh", sys.executable, "-c", RANK, str(tmp_path), plan]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert json.loads(done.stdout) == {str(rank): [["ok", 7]] for rank in range(3)}, done.stderr
    assert acted(tmp_path) == ["0 wrapped"]


def test_the_wait_for_a_rank_0_that_never_begins_is_bounded(tmp_path: Path) -> None:
    said = launch(tmp_path, [1], {"steps": [{"say": "x", "key": "k"}], "wait": 0.5})
    assert "did not begin within" in said["1"][0][1]
    assert "local rank 1 (LOCAL_RANK)" in said["1"][0][1]
    assert "One launcher has to start all ranks" in said["1"][0][2]


def test_later_call_does_not_reuse_outcome_of_earlier_call(tmp_path: Path) -> None:
    for rank in "01":
        rank_zero_only(tmp_path, "k", TransferResult, environment={"LOCAL_RANK": rank})
    with pytest.raises(HimlError, match=r"local rank 1 \(LOCAL_RANK\)\.$"):
        rank_zero_only(tmp_path, "k", TransferResult, environment={"LOCAL_RANK": "1"}, wait_seconds=0.1)


def test_calls_in_sequence_go_together_by_their_number(tmp_path: Path) -> None:
    steps = [{"say": "x", "key": "k"}, {"say": "fail", "key": "k"}, {"say": "xyz", "key": "other"}, {"say": "xx", "key": "k", "sleep": 0.3}]
    said = launch(tmp_path, [2, 0, 1], {"steps": steps})
    assert {json.dumps([line[:2] for line in lines]) for lines in said.values()} == {
        json.dumps([["ok", 1], ["not_found", "nothing there"], ["ok", 3], ["ok", 2]])
    }
    assert acted(tmp_path) == ["0 x", "0 fail", "0 xyz", "0 xx"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS /proc to know the launcher")
@pytest.mark.parametrize("variables", [{}, {"TORCHELASTIC_RUN_ID": "nightly"}, {"AZUREML_RUN_ID": "job_1"}])
def test_the_outcome_of_an_earlier_launch_does_not_count(tmp_path: Path, variables: dict[str, str]) -> None:
    launch(tmp_path, [0], {"steps": [{"say": "x", "key": "k"}]}, variables=variables)  # rank 1 died before it came to this
    said = launch(tmp_path, [1, 0], {"steps": [{"say": "xyz", "key": "k"}]}, pause=0.5, variables=variables)
    assert (said, acted(tmp_path)) == ({"1": [["ok", 3]], "0": [["ok", 3]]}, ["0 x", "0 xyz"])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS /proc to know when a rank began")
@pytest.mark.parametrize(("again", "variables"), [([1, 0, 2], {}), ([2, 1, 0], {}), ([0, 1, 2], {}), ([1, 0, 2], {"SLURM_LOCALID": "0"})])
def test_second_launch_of_launcher_gets_its_own_outcome(tmp_path: Path, again: list[int], variables: dict[str, str]) -> None:
    """Rank 1 of the first launch died before it came to this. The launcher may itself be a rank, as a batch script of SLURM is."""
    said = launches(tmp_path, [[0, 2], again], {"steps": [{"say": "x", "key": "k"}]}, pause=0.3, variables=variables)
    assert said == [{rank: [["ok", 1]] for rank in "02"}, {rank: [["ok", 101]] for rank in "012"}]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="NEEDS /proc to know when a rank began")
def test_late_rank_acts_itself_and_other_late_ranks_follow(tmp_path: Path) -> None:
    """Nothing tells it from the first rank of another launch, so it takes no outcome that may be that of an earlier one."""
    said = launches(tmp_path, [[0], [2], [1]], {"steps": [{"say": "x", "key": "k"}], "wait": 0.3})
    assert said == [{"0": [["ok", 1]]}, {"2": [["ok", 101]]}, {"1": [["ok", 201]]}]
    assert acted(tmp_path) == ["0 x", "2 x", "1 x"]
    assert launches(tmp_path / "again", [[0], [2, 1, 3]], {"steps": [{"say": "x", "key": "k", "sleep": 1}], "wait": 0.3})[1] == {
        rank: [["ok", 101]] for rank in "123"
    }
    assert len(acted(tmp_path / "again")) == 2


@contextmanager
def began(folder: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    rank_zero_only(folder, "k", TransferResult, environment={**environment, "LOCAL_RANK": "0"})
    yield next(meetings().iterdir())


def test_a_result_is_taken_over_whole(tmp_path: Path) -> None:
    result = TransferResult(1, 2, 3.5, 4, 5, ("d",), (Refused("r\udcff", "why"),), (Failure("f", "m", "integrity_failed"),))
    environment = {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    assert rank_zero_only(tmp_path, "k", lambda: result, environment=environment) == result
    assert rank_zero_only(tmp_path, "k", TransferResult, environment={**environment, "LOCAL_RANK": "1"}) == result


def test_rank_0_gets_no_other_seconds_than_the_others(tmp_path: Path) -> None:
    seconds = [rank_zero_only(tmp_path, "k", lambda: TransferResult(seconds=0.04996), environment={"LOCAL_RANK": rank}).seconds for rank in "01"]
    assert seconds == [0.05, 0.05]


def test_what_old_launches_left_is_removed_unless_it_is_in_use(tmp_path: Path) -> None:
    with began(tmp_path, {"MASTER_PORT": "1"}) as old:
        long_ago = time.time() - IDLE_SECONDS - 60
        for path in (*old.rglob("*"), old):
            os.utime(path, (long_ago, long_ago))
        rank_zero_only(tmp_path, "k", TransferResult, environment={"MASTER_PORT": "2", "LOCAL_RANK": "0"})
        rank_zero_only(tmp_path, "k", TransferResult, environment={"MASTER_PORT": "3", "LOCAL_RANK": "0"})
        left = {*meetings().iterdir()}
    assert (old in left, len(left)) == (False, 2)


@pytest.mark.parametrize("variable", RANKS)
def test_each_launchers_variable_tells_the_rank(tmp_path: Path, variable: str) -> None:
    assert rank_zero_only(tmp_path, "k", lambda: TransferResult(files=1), environment={variable: "0"}).files == 1
    assert rank_zero_only(tmp_path, "k", lambda: TransferResult(files=2), environment={variable: "3"}).files == 1


@pytest.mark.parametrize("environment", [{}, {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, {"LOCAL_RANK": "none"}, {"RANK": "3"}])
def test_a_process_that_is_alone_just_acts(tmp_path: Path, environment: dict[str, str]) -> None:
    assert local_rank(environment) is None
    assert rank_zero_only(tmp_path / "out", "k", lambda: TransferResult(files=5), environment=environment).files == 5
    assert not (tmp_path / "out").exists()


def test_a_rank_0_that_failed_raises_its_own_error(tmp_path: Path) -> None:
    def fail() -> TransferResult:
        raise NotFound("nothing there", hint="look")

    with pytest.raises(NotFound, match="nothing there"):
        rank_zero_only(tmp_path, "k", fail, environment={"LOCAL_RANK": "0"})
    with pytest.raises(HimlError, match="nothing there") as caught:
        rank_zero_only(tmp_path, "k", fail, environment={"LOCAL_RANK": "1"})
    assert (caught.value.code, caught.value.exit_code, caught.value.hint) == ("not_found", 3, "look")
