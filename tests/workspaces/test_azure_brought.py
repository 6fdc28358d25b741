"""What the command of a job on a cluster does to bring files to their place, run by bash."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.jobs.body import copy_commands
from tests.support.folders import files_below
from tests.support.running import write_files

PLACE = "outputs/checkpoints/it's a file.ckpt"


@pytest.fixture
def node(tmp_path: Path, require_program: Callable[[str], str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts the command in a job's folder, the input being the folder `input` beside it."""
    return node_of(tmp_path, require_program("bash"), {PLACE: "${{inputs.himl_checkpoint}}/my $weights.ckpt"})


@pytest.fixture
def folder_node(tmp_path: Path, require_program: Callable[[str], str]) -> Callable[..., subprocess.Popen[str]]:
    """The same for all files of the input."""
    return node_of(tmp_path, require_program("bash"), {"outputs/check points/": "${{inputs.himl_checkpoint}}/"})


def node_of(tmp_path: Path, bash: str, brought: Mapping[str, str]) -> Callable[..., subprocess.Popen[str]]:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "input").mkdir()
    command = copy_commands(brought).replace("${{inputs.himl_checkpoint}}", (tmp_path / "input").as_posix())

    def start(**variables: str) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if "RANK" not in name} | variables
        return subprocess.Popen([bash, "-c", f"{command}echo begun"], cwd=work, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def test_the_file_lies_in_its_place_when_the_script_begins(node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "input" / "my $weights.ckpt").write_text("weights")
    out, err = node().communicate()
    assert (out, err) == ("begun\n", "")
    assert (tmp_path / "work" / PLACE).read_text() == "weights"
    assert [path.name for path in (tmp_path / "work" / PLACE).parent.iterdir()] == ["it's a file.ckpt"]


def test_what_an_earlier_try_left_stays(node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    (tmp_path / "input" / "my $weights.ckpt").write_text("weights")
    (tmp_path / "work" / PLACE).parent.mkdir(parents=True)
    (tmp_path / "work" / PLACE).write_text("reached")
    assert node().communicate()[0] == "begun\n"
    assert (tmp_path / "work" / PLACE).read_text() == "reached"


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"])
def test_other_ranks_of_the_node_wait_for_it(node: Callable[..., subprocess.Popen[str]], tmp_path: Path, variable: str) -> None:
    (tmp_path / "input" / "my $weights.ckpt").write_text("weights")
    ranks = [node(**{variable: str(number)}) for number in (2, 1, 0)]
    assert [rank.communicate()[0] for rank in ranks] == ["begun\n"] * 3
    assert (tmp_path / "work" / PLACE).read_text() == "weights"


def test_a_copy_that_fails_ends_the_job_with_a_word(node: Callable[..., subprocess.Popen[str]]) -> None:
    rank = node()
    out, err = rank.communicate()
    assert (rank.returncode, out) == (1, "")
    assert err.endswith(f"himl: cannot bring {PLACE}.\n")


def test_folder_copy_brings_all_files_and_keeps_existing_ones(folder_node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    names = [*(f"deep/shard {number}.pt" for number in range(30)), "it's $HOME.ckpt", ".metadata", "last.ckpt"]
    write_files(tmp_path / "input", dict.fromkeys(names, "weights"))
    write_files(tmp_path / "work/outputs/check points", {"last.ckpt": "reached"})
    ranks = [folder_node(LOCAL_RANK=str(number)) for number in (1, 0)]
    assert [rank.communicate() for rank in ranks] == [("begun\n", "")] * 2
    place = tmp_path / "work/outputs/check points"
    there = {path.relative_to(place).as_posix(): path.read_text() for path in files_below(place)}
    assert there == dict.fromkeys(names, "weights") | {"last.ckpt": "reached"}


def test_failed_folder_copy_ends_job_with_message(folder_node: Callable[..., subprocess.Popen[str]], tmp_path: Path) -> None:
    write_files(tmp_path, {"work/outputs/check points/deep": "a file where a folder is to be", "input/deep/a.pt": "weights"})
    for _ in range(2):
        rank = folder_node()
        out, err = rank.communicate()
        assert (rank.returncode, out) == (1, "")
        assert err.endswith("himl: cannot bring outputs/check points/.\n")
        shutil.rmtree(tmp_path / "input", ignore_errors=True)


def test_job_without_files_to_copy_has_no_copy_commands() -> None:
    assert copy_commands({}) == ""
