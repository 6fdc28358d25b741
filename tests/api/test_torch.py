"""The same with real PyTorch: ranks meet at the barrier of torch.distributed. Skipped, and said so, where PyTorch is not installed."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.ranks import local_ranks, run_ranks
from tests.support.runs import RecordedRuns

TORCH = importlib.util.find_spec("torch")
pytestmark = pytest.mark.skipif(TORCH is None, reason="NEEDS PyTorch (pip install torch) for its distributed barrier")

SET_UP = """
import datetime, pathlib, torch.distributed
torch.distributed.init_process_group("gloo", timeout=datetime.timedelta(seconds=240))
"""
MEET = """
first = said(lambda: himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1], "outputs/checkpoints/"))
second = said(lambda: himl_cli.download_from_datastore("local", "nope", sys.argv[1]))
came = pathlib.Path(sys.argv[1]).with_name("came")
if os.environ.get("RANK") == "1":
    time.sleep(1.5)
    came.touch()
himl_cli.torch_barrier()
say([first, second, came.exists()])
torch.distributed.destroy_process_group()
"""
SELF_STARTED = """
import subprocess
first = said(lambda: himl_cli.download_files_from_run_id("train_1_aa", sys.argv[1], "outputs/model.bin"))
if "LOCAL_RANK" not in os.environ:
    os.environ |= {"LOCAL_RANK": "0", "RANK": "0"}
    other = subprocess.Popen([sys.executable, "-c", os.environ["PROGRAM"], sys.argv[1]], env={**os.environ, "LOCAL_RANK": "1", "RANK": "1"})
"""


@pytest.fixture
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def with_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The processes find PyTorch where this one does."""
    assert TORCH is not None
    assert TORCH.origin is not None
    monkeypatch.setenv("PYTHONPATH", str(Path(TORCH.origin).parents[1]))


EXPECTED = [["last.ckpt"], ["NotThere", True, "No file in datastore 'local' starts with 'nope'."], True]


def test_ranks_meet_at_the_barrier_with_the_outcome_of_the_first(local_runs: RecordedRuns, tmp_path: Path, port: str) -> None:
    variables = local_ranks(2, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    assert run_ranks(SET_UP + MEET, tmp_path / "out", variables, cwd=local_runs.folder) == [[EXPECTED], [EXPECTED]]


def test_ranks_that_a_script_started_itself_meet_as_well(local_runs: RecordedRuns, tmp_path: Path, port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch Lightning's way: rank 0 is the script that was started by hand, and starts the other ranks itself."""
    from tests.api.ranks import SAY

    program = SELF_STARTED + SET_UP + MEET + "if os.environ['RANK'] == '0':\n    assert other.wait() == 0\n"
    monkeypatch.setenv("PROGRAM", SAY + program)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    expected = [["last.ckpt", "model.bin"], *EXPECTED[1:]]
    assert sorted(map(str, run_ranks(program, tmp_path / "out", [shared], cwd=local_runs.folder)[0])) == sorted(map(str, [expected, expected]))


def test_torchrun_starts_such_ranks(local_runs: RecordedRuns, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    lines = ["import himl_cli, torch.distributed as d, sys", "d.init_process_group('gloo')"]
    lines += [
        "himl_cli.download_files_from_run_id('train_1_aa', sys.argv[1])",
        "print('rank', d.get_rank(), himl_cli.is_local_rank_zero())",
        "d.destroy_process_group()",
    ]
    script.write_text("\n".join(lines))
    paths = os.pathsep.join([str(Path(__file__).parents[2]), os.environ["PYTHONPATH"]])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=local_runs.folder, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split("\n"))[1:] == ["rank 0 True", "rank 1 False"]
    assert (tmp_path / "out" / "outputs" / "model.bin").read_text() == "m" * 10
