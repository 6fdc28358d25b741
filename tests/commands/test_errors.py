"""Every failure is one line and a hint on stderr, with the right exit code, and nothing on stdout."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import typer.main

from himl_cli.app import app
from himl_cli.commands.completion import app_shape
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns

CASES: list[tuple[list[str], int, str]] = [
    (["dowload"], 2, "No such command 'dowload'. Did you mean 'download'?"),
    (["frobnicate"], 2, "No such command 'frobnicate'."),
    (["--bogus"], 2, "No such option '--bogus'."),
    (["runs", "lsit"], 2, "No such command 'lsit'. Did you mean 'list'?"),
    (["runs", "list", "--experimnt", "x"], 2, "No such option '--experimnt'. Did you mean '--experiment'?"),
    (["runs", "list", "--experiment"], 2, "Option '--experiment' requires an argument."),
    (["runs", "list", "--format", "xml"], 2, "Invalid value for '--format': 'xml' is not one of 'human', 'json', 'quiet'."),
    (["runs", "list", "--json", "--quiet"], 2, "Two output formats at once: json and quiet."),
    (["runs", "list", "--num_runs", "0"], 2, "--num_runs takes a whole number from 1, or 'all', got '0'."),
    (["runs", "list", "--num_runs", "-3"], 2, "--num_runs takes a whole number from 1, or 'all', got '-3'."),
    (["runs", "list", "--num_runs", "many"], 2, "--num_runs takes a whole number from 1, or 'all', got 'many'."),
    (["runs", "list", "--tags", "team"], 2, "--tags takes KEY=VALUE, got 'team'."),
    (["runs", "list", "--tags", "=blue"], 2, "--tags takes KEY=VALUE, got '=blue'."),
    (["runs", "list", "--status", "runing"], 2, "There is no status 'runing'."),
    (["runs", "list", "--workspace", "nowhere"], 3, "There is no workspace at"),
    (["runs", "list", "-w", "a", "--config_file", "b.json"], 2, "Two workspaces at once: --workspace and --config_file."),
    (["runs", "show", "nope"], 3, "No run 'nope' in local workspace"),
    (["runs", "show", "a:b:c"], 2, "'a:b:c' is no run."),
    (["runs", "show", "other:train_1_aa"], 3, "Run 'train_1_aa' belongs to experiment 'train', not 'other'."),
    (["runs", "show", "https://ml.azure.com/experiments"], 2, "is no address of a run."),
    (["runs", "show", "--run", "train_1_aa", "--experiment", "train"], 2, "Two selections at once: --run and --experiment."),
    (["runs", "show", "train_1_aa", "--latest_run_file", "x"], 2, "Two selections at once: --run and --latest_run_file."),
    (["runs", "show", "train_1_aa", "--tags", "a=b"], 2, "--tags selects among the runs of an experiment."),
    (["runs", "show", "--num_runs", "2"], 2, "--num_runs selects among the runs of an experiment."),
    (["runs", "show", "--experiment", "trian"], 3, "No run of an experiment 'trian' in local workspace"),
    (["runs", "show", "--experiment", "train", "--status", "queued"], 3, "No run of experiment 'train' is Queued."),
    (["runs", "show", "--experiment", ""], 2, "--experiment got an empty value."),
    (["runs", "show", "--run", ""], 2, "--run got an empty value."),
    (["runs", "cancel", ""], 2, "RUN got an empty value."),
    (["runs", "show", "--latest_run_file", "nope.txt"], 3, "There is no file"),
    (["runs", "show"], 3, "No run was named, and there is no most_recent_run.txt in"),
    (["runs", "show", "train_1_aa", "--children"], 3, "No children: train_1_aa."),
    (["runs", "cancel"], 2, "Say which run is meant."),
    (["runs", "tag", "a=b"], 2, "Say which run is meant."),
    (["runs", "tag", "train_1_aa"], 2, "No tag was given."),
    (["runs", "tag", "train_1_aa", "=v"], 2, "takes KEY=VALUE, got '=v'."),
    (["runs", "delete", "train_1_aa"], 2, "There is nobody to answer here."),
    (["runs", "delete"], 2, "Say which run is meant."),
    (["runs", "logs", "train_1_aa"], 3, "Run 'train_1_aa' ended without a log."),
    (["runs", "logs", "train_1_aa", "failed_2_bb", "--follow"], 2, "--follow takes one run, and 2 are meant."),
    (["runs", "logs", "failed_2_bb", "--file", "std_lg.txt"], 3, "Run 'failed_2_bb' has no log 'std_lg.txt'."),
    (["logs"], 2, "No such command 'logs'. Did you mean 'himl runs logs'?"),
    (["ls"], 2, "No such command 'ls'. Did you mean 'himl runs list' or 'himl datastore list'?"),
]


@pytest.fixture(autouse=True)
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    runs.add("failed_2_bb", files={"user_logs/std_log.txt": "hello\n"})
    return runs


def test_a_script_in_place_of_a_command_is_shown_its_command(himl: Himl) -> None:
    assert himl("train.py").stderr == "error: No such command 'train.py'.\nhint: To run a script: himl submit train.py\n"
    assert himl("runs", "train.py").stderr.endswith("hint: See 'himl runs --help'.\n")


@pytest.mark.parametrize(("arguments", "code", "message"), CASES, ids=[" ".join(case[0]) for case in CASES])
def test_a_failure_is_one_line_and_an_exit_code(himl: Himl, arguments: list[str], code: int, message: str) -> None:
    outcome = himl(*arguments)
    lines = outcome.stderr.splitlines()
    assert (outcome.code, outcome.stdout) == (code, "")
    assert lines[0].startswith('{"error"' if "--json" in arguments else "error: ")
    assert message in lines[0]
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert len(lines) <= 2


@pytest.mark.parametrize(("arguments", "code", "message"), CASES[::4], ids=[" ".join(case[0]) for case in CASES[::4]])
def test_with_json_a_failure_is_one_object_on_stderr(himl: Himl, arguments: list[str], code: int, message: str) -> None:
    outcome = himl(*arguments, "--format", "json")
    assert outcome.stdout == ""
    assert outcome.code in (code, 2)
    assert set(outcome.error_json()) == {"code", "message", "hint"}


def test_an_unknown_run_names_near_ones(himl: Himl) -> None:
    outcome = himl("runs", "show", "train_1_ab", "--json")
    assert (outcome.code, outcome.error_json()["code"]) == (3, "run_not_found")
    assert "train_1_aa" in outcome.error_json()["hint"]


def test_no_workspace_is_exit_3_with_what_to_do(himl: Himl, tmp_path: Path) -> None:
    outcome = himl("runs", "list", cwd=tmp_path)
    assert outcome.code == 3
    assert "himl submit" in outcome.stderr.splitlines()[1]


def test_a_damaged_record_is_named(himl: Himl, project: Path) -> None:
    write_files(project, {"other/.himl/workspace.db": b"this is no database, " * 100})
    outcome = himl("runs", "list", "--workspace", "other")
    assert outcome.code == 1
    assert "workspace.db' is damaged" in outcome.stderr


def test_damaged_column_name_is_damage(project: Path, recorded: RecordedRuns) -> None:
    path = project / ".himl" / "workspace.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.write_bytes(path.read_bytes().replace(b"display_name", b"\x80isplay_name"))
    outcome = _himl(project, "runs", "list")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "workspace.db' is damaged: it holds what himl does not write." in outcome.stderr.splitlines()[0]


@pytest.mark.usefixtures("recorded")
def test_a_bug_is_one_line_and_its_traceback_comes_with_verbose(project: Path) -> None:
    """A library that fails in its own way stands for whatever nobody thought of."""
    write_files(project, {"libraries/sqlite3.py": "raise ValueError('exploded')"})
    short = _himl(project, "runs", "list", libraries="libraries")
    assert short.returncode == 1
    assert short.stderr.splitlines()[0].startswith("error: This is a bug in himl: ValueError: exploded")
    assert "Traceback" not in short.stderr
    assert "Traceback" in _himl(project, "runs", "list", "--verbose", libraries="libraries").stderr


def test_a_status_that_no_version_writes_is_damage(project: Path, recorded: RecordedRuns) -> None:
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as connection, connection:
        connection.execute("UPDATE runs SET status = 'Exploded'")
    outcome = _himl(project, "runs", "list")
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert "workspace.db' is damaged" in outcome.stderr.splitlines()[0]


def _himl(folder: Path, *arguments: str, libraries: str = "") -> subprocess.CompletedProcess[str]:
    """What comes of a real start, with the modules in *libraries* before all others."""
    environment = {**os.environ, "PYTHONPATH": str(folder / libraries)} if libraries else None
    return subprocess.run([sys.executable, "-m", "himl_cli", *arguments], cwd=folder, capture_output=True, text=True, env=environment)


UNKNOWN = [
    (["submit", "train.py", "--epochs", "5"], "--epochs", "himl submit train.py -- --epochs 5"),
    (["submit", "--epochs", "5", "train.py"], "--epochs", "himl submit train.py -- --epochs 5"),
    (["submit", "train.py", "--experiment", "e", "--lr=0.1", "--tag", "a=b"], "--lr", "himl submit train.py --experiment e --tag a=b -- --lr=0.1"),
    (["submit", "train.py", "--name", "two words", "--", "--rest"], "--name", "himl submit train.py -- --name 'two words' --rest"),
]


@pytest.mark.parametrize(("arguments", "option", "meant"), UNKNOWN, ids=[meant for _, _, meant in UNKNOWN])
def test_unknown_submit_option_hints_at_script_args_after_dashes(himl: Himl, project: Path, arguments: list[str], option: str, meant: str) -> None:
    (project / "train.py").write_text("")
    outcome = himl(*arguments)
    assert outcome.code == 2
    assert outcome.stderr.splitlines()[0] == f"error: No such option '{option}'."
    assert outcome.stderr.splitlines()[1].endswith(f"Arguments of the script stand after --: {meant}")


def test_second_submit_target_hints_at_script_args_after_dashes(himl: Himl, project: Path) -> None:
    (project / "train.py").write_text("")
    outcome = himl("submit", "train.py", "extra")
    assert outcome.code == 2
    assert "himl submit train.py -- extra" in outcome.stderr


def test_secrets_are_masked_in_errors(himl: Himl) -> None:
    outcome = himl("runs", "show", "https://store.blob.core.windows.net/x?sv=1&sig=abcdefSECRET%3D")
    assert outcome.code == 2
    assert "SECRET" not in outcome.stderr
    assert "sig=***" in outcome.stderr


def test_runs_in_read_only_folder_can_be_read_but_not_tagged(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    read_only(project)
    assert himl.ok("runs", "list", "-q").stdout == "failed_2_bb\ntrain_1_aa\n"
    assert himl.ok("runs", "show", "train_1_aa", "-q").stdout == "train_1_aa\n"
    outcome = himl("runs", "tag", "train_1_aa", "a=b")
    assert (outcome.code, outcome.stdout) == (1, "")
    assert "Cannot write" in outcome.stderr


@pytest.mark.skipif(os.name == "nt", reason="Windows does not delete a folder that somebody is in")
def test_a_current_folder_that_was_deleted_is_said(himl: Himl, project: Path) -> None:
    done = subprocess.run(["sh", "-c", f'mkdir gone && cd gone && rmdir ../gone && "{himl.program}" runs list'], cwd=project, capture_output=True, text=True)
    assert (done.returncode, "current folder" in done.stderr) == (1, True)


def commands_with(*options: str) -> list[list[str]]:
    """The commands that have all of *options*; `runs tag` with the tag that it needs."""
    found: list[list[str]] = []
    below = [app_shape(typer.main.get_command(app))]
    for each in below:
        below += each.children
        if {*options} <= {name for option in each.options for name in option.names}:
            found.append([*each.path[1:], *(["a=b"] if each.path[-1] == "tag" else [])])
    return found


WITHOUT_A_WORKSPACE = [
    *(([*command, "--run", "a", "--experiment", "b"], "Two selections at once: --run and --experiment.") for command in commands_with("--run", "--experiment")),
    *(([*command, "--num_runs", "2"], "--num_runs selects among the runs of an experiment.") for command in commands_with("--run", "--num_runs")),
    *(([*command, "--run", "a:b:c"], "'a:b:c' is no run.") for command in commands_with("--run")),
    *(([*command, "x", "y", "--workers", "0"], "--workers takes") for command in commands_with("--workers", "--include")),
    *(([*command, "--include", "[b-a]"], "Not a glob: [b-a]") for command in commands_with("--run", "--include")),
    (["download", "a", "--experiment", "b"], "Two selections at once: --run and --experiment."),
    (["download", "a", "b", "--flat"], "--flat takes one run, and 2 are meant."),
    (["tb", "--tags", "a=b", "c=d"], "--tags selects among the runs of an experiment."),
    (["runs", "cancel"], "Say which run is meant."),
    (["runs", "tag", "a=b"], "Say which run is meant."),
    (["runs", "delete"], "Say which run is meant."),
    (["runs", "logs", "a", "b", "--follow"], "--follow takes one run, and 2 are meant."),
    (["runs", "logs", "a", "--follow", "--json"], "--follow and --json do not go together"),
    (["datastore", "upload", ".", "../x"], "'../x' leads out of the store."),
    (["datastore", "list", "--include", "[b-a]"], "Not a glob: [b-a]"),
    (["checkpoint", "push", "x", "--from", "a:b:c"], "'a:b:c' is no run."),
    (["submit", "--resume", "a:b:c"], "'a:b:c' is no run."),
    (["submit", "--resume", "a", "--max_concurrent", "0"], "--max_concurrent 0: at least 1 is needed."),
]


@pytest.mark.parametrize(("arguments", "said"), WITHOUT_A_WORKSPACE, ids=[" ".join(arguments) for arguments, _ in WITHOUT_A_WORKSPACE])
def test_usage_errors_are_reported_before_missing_workspace(himl: Himl, tmp_path: Path, arguments: list[str], said: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    outcome = himl(*arguments, cwd=empty)
    assert (outcome.code, outcome.stdout, list(empty.iterdir())) == (2, "", [])
    assert said in (outcome.error_json()["message"] if "--json" in arguments else outcome.stderr)
