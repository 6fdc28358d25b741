"""`himl --complete`, which completion scripts ask at each Tab: what it says, what it loads, and that it never fails."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from himl_cli.commands.complete import AZURE_OPTIONS
from himl_cli.commands.groups import HIML_OLD_NAMES
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl
from tests.support.runs import RecordedRuns

LOADED = """
import json, sys
sys.argv = ["himl", "--complete", *sys.argv[1:]]
from himl_cli.__main__ import main
main()
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""
HEAVY = {
    "typer",
    "rich",
    "azure",
    "msgspec",
    "yaml",
    "socket",
    "ssl",
    "asyncio",
    "subprocess",
    "importlib.metadata",
    "himl_cli.app",
    "himl_cli.workspaces.resolve",
}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    made = RecordedRuns(project)
    for name in ("train_1_aa", "train_2_bb", "digits_3_cc"):
        made.add(name, experiment=name.partition("_")[0])
    return made


def told(himl: Himl, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> list[str]:
    outcome = himl("--complete", *arguments, cwd=cwd, env=env)
    assert (outcome.code, outcome.stderr) == (0, "")
    return outcome.stdout.splitlines()


@pytest.mark.usefixtures("recorded")
def test_runs_and_experiments_of_the_nearest_workspace(started_himl: Himl, project: Path) -> None:
    (project / "deep" / "er").mkdir(parents=True)
    assert told(started_himl, "runs=") == ["digits_3_cc", "train_2_bb", "train_1_aa", "latest"]
    assert told(started_himl, "runs=tr", "himl", "runs", "show", "tr", cwd=project / "deep" / "er") == ["train_2_bb", "train_1_aa"]
    assert told(started_himl, "experiments=", "himl", "runs", "list", "--experiment", "") == ["digits", "train"]


@pytest.mark.usefixtures("recorded")
def test_what_stands_in_the_line_is_not_told_again(himl: Himl) -> None:
    assert told(himl, "runs=", "himl", "runs", "show", "train_1_aa", "latest", "") == ["digits_3_cc", "train_2_bb"]
    assert told(himl, "runs=tr", "himl", "download", "--run=digits_3_cc,train_2_bb,tr") == ["train_1_aa"]
    assert told(himl, "runs=train_2_bb", "himl", "download", "train_2_bb") == ["train_2_bb"]


@pytest.mark.parametrize("words", [["-w", "{}"], ["-w{}"], ["--workspace", "{}"], ["--workspace={}"], ["-w", "{}/.himl"]])
@pytest.mark.usefixtures("recorded")
def test_a_workspace_that_the_line_names_is_the_one(himl: Himl, tmp_path: Path, words: list[str]) -> None:
    RecordedRuns(tmp_path / "the other").add("else_1_ee")
    line = ["himl", "runs", "show", *(word.format(tmp_path / "the other") for word in words), "el"]
    assert told(himl, "runs=el", *line) == ["else_1_ee"]


@pytest.mark.usefixtures("recorded")
def test_a_workspace_of_azure_ml_has_no_names_here(himl: Himl) -> None:
    azure = (["--config_file", "x/config.json"], ["--config-file=c.json"], ["--config_path", "c.json"], ["-w", "config.json"], ["--workspace", "~/c.json"])
    for words in azure:
        assert told(himl, "runs=tr", "himl", "runs", "show", *words, "tr") == [], words
    assert told(himl, "runs=tr", "himl", "submit", "train.py", "--", "--config_file", "c.json", "tr") == ["train_2_bb", "train_1_aa"]


def test_the_names_of_the_option_for_azure_ml_are_all_known() -> None:
    assert set(AZURE_OPTIONS) == {"config_file", *(old for old, today in HIML_OLD_NAMES.items() if today == "config_file")}


NONSENSE = [
    [],
    [""],
    ["runs"],
    ["="],
    ["trials="],
    ["runs=\x1b[31m"],
    ["runs=", "himl", "-w"],
    ["runs=", "-w", "~nobody-of-that-name/x"],
    ["runs=", "-w", "/dev/null"],
]


@pytest.mark.parametrize("arguments", NONSENSE)
def test_it_never_fails_and_makes_nothing(himl: Himl, project: Path, arguments: list[str]) -> None:
    assert set(told(himl, *arguments)) <= {"latest"}
    assert not list(project.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="file names there are no bytes")
def test_half_a_character_is_answered_with_nothing(himl: Himl, recorded: RecordedRuns) -> None:
    assert recorded.folder == himl.folder
    assert told(himl, "runs=\udcff") == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")
@pytest.mark.usefixtures("recorded")
def test_a_reader_that_left_is_no_failure(started_himl: Himl, project: Path) -> None:
    for how in (">&-", "| true"):
        line = f'"{started_himl.program}" --complete runs= {how}; echo "${{PIPESTATUS[0]}}"'
        done = subprocess.run(["bash", "-c", line], cwd=project, capture_output=True, text=True, timeout=100)
        assert (done.stdout, done.stderr) == ("0\n", ""), how


@pytest.mark.usefixtures("recorded")
def test_nothing_heavy_is_loaded(project: Path) -> None:
    done = subprocess.run([sys.executable, "-c", LOADED, "runs="], cwd=project, capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "latest"
    assert HEAVY & set(json.loads(done.stderr)) == set()


def test_a_configured_azure_ml_workspace_is_not_asked(himl: Himl, recorded: RecordedRuns, project: Path, azure_environment: StagedWorkspace) -> None:
    assert recorded.folder == project
    azure_environment.write_config(project)
    azure_environment.stage.log.clear()
    assert told(himl, "runs=tr", "himl", "runs", "show", "tr") == ["train_2_bb", "train_1_aa"]
    assert told(himl, "experiments=") == ["digits", "train"]
    assert not azure_environment.requests()


def test_of_very_many_runs_the_newest_are_offered(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add_many(100_000)
    offered = told(himl, "runs=many_")
    assert [int(name.rpartition("_")[2], 16) for name in offered] == list(range(99_999, 99_799, -1))
