"""Tests of distributed scripts: one rank per node downloads, and the others get its result.

They use real processes, and PyTorch if it is installed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from himl_cli import is_local_rank_zero, set_environment_variables_for_multi_node, torch_barrier
from himl_cli.core.ports import free_port
from himl_cli.core.ranks import RANKS
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
    ranks = [subprocess.Popen([sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1]],
        env={**os.environ, "LOCAL_RANK": str(rank)}) for rank in (1, 2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
"""


def test_one_rank_downloads_and_all_have_its_outcome(local_runs: RecordedRuns, tmp_path: Path) -> None:
    variables = local_ranks(3, MASTER_PORT="29500")[::-1]
    said = run_ranks(WITHOUT_WORKSPACE + DOWNLOAD + NOTHING, tmp_path / "out", variables, cwd=local_runs.folder)
    assert said == [[["last.ckpt"], ["NotThere", True, "No file in datastore 'local' starts with 'nope'."]]] * 3
    (outcome,) = [path for path in meetings().rglob("outcome-1") if '"files"' in path.read_text()]
    assert json.loads(outcome.read_text())["result"]["files"] == 1
    assert {path.name for path in outcome.parent.iterdir()} >= {"0-1", "1-1", "2-1"}


@pytest.mark.parametrize(
    "variables", [{}, {"OMPI_COMM_WORLD_LOCAL_RANK": "0", "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "RANK": "1"}]
)
def test_self_started_ranks_do_not_wait_for_earlier_downloads(
    local_runs: RecordedRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """As in PyTorch Lightning, including under MPI and Slurm, a script without LOCAL_RANK restarts itself with
    LOCAL_RANK 1, 2, …
    """
    monkeypatch.setenv("PROGRAM", SAY + SELF_STARTED)
    said = run_ranks(SELF_STARTED, tmp_path / "out", [variables], cwd=local_runs.folder)
    assert said == [[["last.ckpt"]] * 3]


@pytest.mark.large("takes long, and other tests run its branches")
def test_torchrun_ranks_wait_for_rank_0_despite_earlier_download(local_runs: RecordedRuns, tmp_path: Path) -> None:
    """A notebook downloads the files, loses them, and then starts torchrun."""
    out = tmp_path / "out"
    (first,) = run_ranks(DOWNLOAD + "say(os.environ['HIML_DONE_BEFORE_RANKS'])", out, [{}], cwd=local_runs.folder)
    (out / "outputs" / "checkpoints" / "last.ckpt").unlink()
    variables = local_ranks(2, TORCHELASTIC_RUN_ID="r", HIML_DONE_BEFORE_RANKS=str(first[1]))
    variables[0]["LATE"] = "1"
    late = "if 'LATE' in os.environ:\n    time.sleep(0.5)\n"
    assert run_ranks(late + DOWNLOAD, out, variables, cwd=local_runs.folder) == [[["last.ckpt"]]] * 2


def test_which_process_is_local_rank_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[dict[str, str], bool]] = [
        *(({name: number}, number == "0") for name in RANKS for number in ("0", "2")),
        *(
            ({}, True),
            ({"RANK": "3"}, False),
            ({"RANK": "3", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}, True),
            ({"RANK": "0", "LOCAL_RANK": "1"}, False),
        ),
    ]
    for variables, expected in cases:
        with monkeypatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            assert is_local_rank_zero() is expected
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
    """Run a process per entry of *variables*, in a launch whose ranks meet at a barrier made of files.

    Return what each rank did and got.
    """
    place = Path(tempfile.mkdtemp(dir=folder.parent))
    shared = {"SIZE": str(len(variables)), "BARRIER": str(place), "CALLS": json.dumps(calls)}
    return run_ranks(
        AT_BARRIER,
        folder,
        [{**own, **shared, "ME": str(number)} for number, own in enumerate(variables)],
        cwd=folder.parent,
    )


FAILED = ["NotFound", "not_found", "nothing there", "look elsewhere"]


def test_barrier_shares_outcome_of_acting_rank_for_each_call(tmp_path: Path) -> None:
    got = at_barrier(tmp_path / "out", ["x", "fail", "xxx"], local_ranks(3, MASTER_PORT="1"))
    assert got == [["acted", 1, "acted", FAILED, "acted", 3], [1, FAILED, 3], [1, FAILED, 3]]


@pytest.mark.large("starts several ranks")
def test_outcome_of_earlier_launch_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    out, variables = tmp_path / "out", local_ranks(2, MASTER_PORT="1")
    at_barrier(out, ["xxx", "xxx"], variables)
    assert at_barrier(out, ["fail", "x"], variables)[1] == [FAILED, 1]
    for old in meetings().rglob("outcome-*"):
        old.with_name(f"{old.name}.part").mkdir()
    first, second = at_barrier(out, ["x"], variables)
    assert "Cannot share the result with the other ranks" in str(first)
    assert "left no result" in str(second)


def test_ranks_without_a_cache_or_variables_act_each_and_still_meet(tmp_path: Path) -> None:
    cache = tmp_path / "file"
    cache.write_text("")
    without = [
        {**rank, "XDG_CACHE_HOME": str(cache), "LOCALAPPDATA": str(cache), "HOME": str(cache)}
        for rank in local_ranks(2)
    ]
    for variables in (without, [dict[str, str](), {}]):
        assert at_barrier(tmp_path / "out", ["xx"], variables) == [["acted", 2], ["acted", 2]]


MULTI_NODE = [
    ({}, {}),
    ({"AZ_BATCHAI_MPI_MASTER_NODE": "localhost", "OMPI_COMM_WORLD_RANK": "0"}, {}),
    (
        {"AZ_BATCH_MASTER_NODE": "10.0.0.4:6000", "OMPI_COMM_WORLD_RANK": "1"},
        {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6000", "NODE_RANK": "1"},
    ),
    ({"AZ_BATCH_MASTER_NODE": "10.0.0.4"}, {"MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}),
    ({"AZ_BATCHAI_MPI_MASTER_NODE": "node0", "MASTER_PORT": "7"}, {"MASTER_ADDR": "node0", "MASTER_PORT": "7"}),
    (
        {"AZ_BATCHAI_MPI_MASTER_NODE": "localhost", "MASTER_IP": "10.0.0.5"},
        {"MASTER_ADDR": "10.0.0.5", "MASTER_PORT": "6105"},
    ),
]


def test_variables_of_several_nodes_follow_the_rule_of_hi_ml(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")
    for variables, expected in MULTI_NODE:
        with monkeypatch.context() as patch:
            for name in names:
                patch.setenv(name, "")  # so that monkeypatch restores it
                patch.delenv(name)
            for name, value in variables.items():
                patch.setenv(name, value)
            set_environment_variables_for_multi_node()
            assert {name: os.environ[name] for name in names if name in os.environ} == expected
    monkeypatch.setenv("AZ_BATCH_MASTER_NODE", "a:1:2")
    with pytest.raises(ValueError, match=r"^AZ_BATCH_MASTER_NODE must be a host or host:port, not 'a:1:2'\.$"):
        set_environment_variables_for_multi_node()


MEET = """
import datetime, pathlib, torch.distributed
torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=240))
first = said(lambda: himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1], "outputs/checkpoints/"))
second = said(lambda: himl_cli.download_from_datastore("local", "nope", sys.argv[1]))
came = pathlib.Path(sys.argv[1]).with_name("came")
if os.environ.get("RANK") == "1":
    time.sleep(0.3)
    came.touch()
himl_cli.torch_barrier()
say([first, second, came.exists()])
torch.distributed.destroy_process_group()
"""


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> str:
    """A free port. The processes import PyTorch from the same place as this one."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        pytest.skip("NEEDS PyTorch (pip install torch) for its distributed barrier")
    monkeypatch.setenv("PYTHONPATH", str(Path(torch.origin).parents[1]))
    return str(free_port("127.0.0.1"))


def test_ranks_of_torch_meet_at_the_barrier(local_runs: RecordedRuns, tmp_path: Path, port: str) -> None:
    met = [["last.ckpt"], ["NotThere", True, "No file in datastore 'local' starts with 'nope'."], True]
    variables = local_ranks(2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert run_ranks(MEET, tmp_path / "out", variables, cwd=local_runs.folder) == [[met], [met]]
