"""Distributed scripts: one rank of a node downloads, the others get its outcome. Real processes; no PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from himl_cli import is_local_rank_zero, torch_barrier
from himl_cli.core.processes import RANKS
from tests.api.ranks import SAY, local_ranks, run_ranks
from tests.support.folders import meetings
from tests.support.runs import RecordedRuns

DOWNLOAD = """
say(said(lambda: himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1], "outputs/checkpoints/")))
"""
NOTHING = """
say(said(lambda: himl_cli.download_from_datastore("local", "nope", sys.argv[1])))
"""
WITHOUT_WORKSPACE = """
if os.environ["LOCAL_RANK"] != "0":
    os.chdir("/")
"""
SELF_STARTED = """
import subprocess
def download(prefix):
    say(said(lambda: himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1], prefix)))
download("outputs/checkpoints/")
if "LOCAL_RANK" not in os.environ:
    ranks = [subprocess.Popen([sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1]], env={**os.environ, "LOCAL_RANK": str(rank)}) for rank in (1, 2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
"""


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0]])
def test_one_rank_downloads_and_all_have_the_files(local_runs: RecordedRuns, tmp_path: Path, order: list[int]) -> None:
    variables = [local_ranks(3, MASTER_PORT="29500")[rank] for rank in order]
    said = run_ranks(DOWNLOAD, tmp_path / "out", variables, cwd=local_runs.folder)
    assert said == [[["last.ckpt"]]] * 3
    (outcome,) = meetings().rglob("outcome-1")
    assert json.loads(outcome.read_text())["result"]["files"] == 1
    assert {path.name for path in outcome.parent.iterdir()} >= {"0-1", "1-1", "2-1"}


def test_only_the_rank_that_downloads_needs_the_workspace(local_runs: RecordedRuns, tmp_path: Path) -> None:
    said = run_ranks(WITHOUT_WORKSPACE + DOWNLOAD, tmp_path / "out", local_ranks(2), cwd=local_runs.folder)
    assert said == [[["last.ckpt"]]] * 2


def test_an_error_is_the_same_for_all_ranks(local_runs: RecordedRuns, tmp_path: Path) -> None:
    said = run_ranks(NOTHING, tmp_path / "out", local_ranks(3), cwd=local_runs.folder)
    assert said == [[["NotThere", True, "No file in datastore 'local' starts with 'nope'."]]] * 3


@pytest.mark.parametrize("variables", [{}, {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "RANK": "1"}, {"SLURM_LOCALID": "0"}])
def test_self_started_ranks_do_not_wait_for_earlier_downloads(
    local_runs: RecordedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """As PyTorch Lightning does it, also under MPI and SLURM: a script without LOCAL_RANK starts itself again with LOCAL_RANK 1, 2, …"""
    monkeypatch.setenv("PROGRAM", SAY + SELF_STARTED)
    said = run_ranks(SELF_STARTED, tmp_path / "out", [variables], cwd=local_runs.folder)
    assert said == [[["last.ckpt"]] * 3]


def test_torchrun_ranks_wait_for_rank_0_despite_earlier_download(local_runs: RecordedRuns, tmp_path: Path) -> None:
    """A notebook fetched the files, lost them, and starts torchrun."""
    out = tmp_path / "out"
    (first,) = run_ranks(DOWNLOAD + "say(os.environ['HIML_DONE_BEFORE_RANKS'])", out, [{}], cwd=local_runs.folder)
    (out / "outputs" / "checkpoints" / "last.ckpt").unlink()
    variables = local_ranks(2, TORCHELASTIC_RUN_ID="r", HIML_DONE_BEFORE_RANKS=str(first[1]))
    variables[0]["LATE"] = "1"
    late = "if 'LATE' in os.environ:\n    time.sleep(1)\n"
    assert run_ranks(late + DOWNLOAD, out, variables, cwd=local_runs.folder) == [[["last.ckpt"]]] * 2


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, True),
        ({"RANK": "0"}, True),
        ({"RANK": "3"}, False),
        ({"RANK": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, True),
        ({"RANK": "0", "LOCAL_RANK": "1"}, False),
        *(({name: "0"}, True) for name in RANKS),
        *(({name: "2"}, False) for name in RANKS),
    ],
)
def test_which_process_is_local_rank_zero(variables: dict[str, str], expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert is_local_rank_zero() is expected


def test_without_pytorch_the_barrier_is_no_wait_and_no_import() -> None:
    torch_barrier()
    assert "torch" not in sys.modules


AT_BARRIER = """
from pathlib import Path
from himl_cli.core.errors import NotFound
from himl_cli.core.blobs import TransferResult
from himl_cli.services.transfer.ranks import rank_zero_then_barrier
me, size, place, met = os.environ["ME"], int(os.environ["SIZE"]), Path(os.environ["BARRIER"]), 0
def barrier():
    global met
    met += 1
    (place / f"{met}-{me}").touch()
    deadline = time.monotonic() + 90
    while len([*place.glob(f"{met}-*")]) < size:
        assert time.monotonic() < deadline
        time.sleep(0.01)
for number, call in enumerate(json.loads(os.environ["CALLS"])):
    def act():
        time.sleep(0.2)
        say("acted")
        if call == "fail":
            raise NotFound("nothing there", hint="look elsewhere")
        return TransferResult(files=len(call))
    try:
        say(rank_zero_then_barrier(Path(sys.argv[1]), f"call {number % 2}", act, barrier).files)
    except himl_cli.HimlError as err:
        say([type(err).__name__, err.code, str(err), err.hint])
"""


def at_barrier(folder: Path, calls: Sequence[str], variables: Sequence[Mapping[str, str]]) -> list[list[object]]:
    """What each rank did and got, in a launch where ranks meet at a barrier made of files; a process for each of *variables*."""
    place = Path(tempfile.mkdtemp(dir=folder.parent))
    shared = {"SIZE": str(len(variables)), "BARRIER": str(place), "CALLS": json.dumps(calls)}
    return run_ranks(AT_BARRIER, folder, [{**own, **shared, "ME": str(number)} for number, own in enumerate(variables)], cwd=folder.parent)


FAILED = ["NotFound", "not_found", "nothing there", "look elsewhere"]


def test_barrier_shares_outcome_of_acting_rank_for_each_call(tmp_path: Path) -> None:
    got = at_barrier(tmp_path / "out", ["x", "fail", "xxx"], local_ranks(3, MASTER_PORT="1"))
    assert got == [["acted", 1, "acted", FAILED, "acted", 3], [1, FAILED, 3], [1, FAILED, 3]]


def test_outcome_of_earlier_launch_with_same_name_is_ignored(tmp_path: Path) -> None:
    out = tmp_path / "out"
    at_barrier(out, ["xxx", "xxx"], local_ranks(2, MASTER_PORT="1"))
    assert at_barrier(out, ["fail", "x"], local_ranks(2, MASTER_PORT="1"))[1] == [FAILED, 1]


def test_unwritable_outcome_is_not_replaced_by_old_one(tmp_path: Path) -> None:
    out, variables = tmp_path / "out", local_ranks(2, MASTER_PORT="1")
    at_barrier(out, ["xxx"], variables)
    (old,) = meetings().rglob("outcome-1")
    old.with_name("outcome-1.part").mkdir()
    first, second = at_barrier(out, ["x"], variables)
    assert "Cannot tell the other ranks" in str(first)
    assert "left no word" in str(second)


def test_ranks_without_rank_variables_each_act_and_still_meet(tmp_path: Path) -> None:
    assert at_barrier(tmp_path / "out", ["xx"], [{}, {}]) == [["acted", 2], ["acted", 2]]


def test_ranks_without_a_cache_act_each_and_still_meet(tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("")
    variables = [{**rank, "XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache), "HOME": str(cache)} for rank in local_ranks(2)]
    assert at_barrier(tmp_path / "out", ["xx"], variables) == [["acted", 2], ["acted", 2]]


MULTI_NODE = [
    ({}, {}),
    ({"AZ_BATCHAI_MPI_MASTER_NODE": "localhost", "OMPI_COMM_WORLD_RANK": "0"}, {}),
    ({"AZ_BATCH_MASTER_NODE": "10.0.0.4:6000", "OMPI_COMM_WORLD_RANK": "1"}, {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6000", "NODE_RANK": "1"}),
    ({"AZ_BATCH_MASTER_NODE": "10.0.0.4"}, {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}),
    ({"AZ_BATCHAI_MPI_MASTER_NODE": "node0", "MASTER_PORT": "7"}, {"MASTER_ADDR": "node0", "MASTER_PORT": "7"}),
    ({"AZ_BATCHAI_MPI_MASTER_NODE": "localhost", "MASTER_IP": "10.0.0.5"}, {"MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "6105"}),
]
PROGRAM = """
import himl_cli, json, os
himl_cli.set_environment_variables_for_multi_node()
print(json.dumps({name: os.environ[name] for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK") if name in os.environ}))
"""


@pytest.mark.parametrize(("variables", "expected"), MULTI_NODE)
def test_the_variables_of_several_nodes_follow_hi_mls_rule(variables: dict[str, str], expected: dict[str, str]) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], env={**os.environ, **variables}, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


def test_a_master_node_of_another_form_is_refused() -> None:
    program = "import himl_cli\ntry: himl_cli.set_environment_variables_for_multi_node()\nexcept ValueError as err: print(err)"
    env = {**os.environ, "AZ_BATCH_MASTER_NODE": "a:1:2"}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, check=True)
    assert done.stdout == "AZ_BATCH_MASTER_NODE is 'a:1:2', which is neither a host nor host:port.\n"
