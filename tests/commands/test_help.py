"""Help: what it shows, and what it must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from himl_cli.app import COMMANDS, app
from himl_cli.commands.completion import app_shape
from tests.support.forked_himl import PROGRAM, forked
from tests.support.running import Himl
from tests.support.terminals import Terminal

HEAVY = ["rich", "pydantic", "msgspec", "azure", "mlflow", "tensorboard", "importlib.metadata", "sqlite3", "asyncio", "numpy", "PIL", "tifffile", "openslide"]
ASK = """
import sys
from himl_cli.app import main
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
loaded = [name for name in {heavy!r} if name in sys.modules]
print("LOADED", loaded, file=sys.stderr)
"""


@pytest.fixture
def himl(started_himl: Himl) -> Himl:
    """Every command is really started once, here."""
    return started_himl


@pytest.mark.parametrize(
    "command", [[], ["submit"], ["runs", "list"], ["tb"], ["checkpoint", "fetch"], ["download"], ["montage"], ["doctor"], ["workspace", "show"], ["init"]]
)
def test_help_loads_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", ASK.format(heavy=HEAVY), *command, "--help"], capture_output=True, text=True)
    assert done.stderr.strip() == "LOADED []"
    assert done.stdout.startswith("Usage: himl")


def test_top_level_help_names_every_command_in_groups(himl: Himl) -> None:
    text = himl.ok("--help").stdout
    assert all(f"\n  {name} " in text for name in COMMANDS)
    assert "\nJobs and runs:\n" in text
    assert "\nFiles:\n" in text
    assert "\nSet-up:\n" in text


def test_h_is_help(himl: Himl) -> None:
    assert himl.ok("-h").stdout == himl.ok("--help").stdout
    assert himl.ok("runs", "show", "-h").stdout == himl.ok("runs", "show", "--help").stdout


EVERY = [each.path[1:] for each in app_shape(typer.main.get_command(app)).walk()]


@pytest.mark.parametrize("columns", [60, 80])
@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_help_fits_the_terminal(project: Path, path: tuple[str, ...], columns: int) -> None:
    """Examples, which keep their lines, have 80 columns at most."""
    text = Himl(PROGRAM, project, forked(PROGRAM)).ok(*path, "--help", env={"COLUMNS": str(columns)}).stdout
    assert text.startswith(f"Usage: {' '.join(['himl', *path])} [OPTIONS]")
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line for line in lines if len(line) > columns and not (line.startswith("    ") and "himl " in line)] == []


def test_a_wide_terminal_has_the_help_of_80_columns(himl: Himl) -> None:
    assert himl.ok("submit", "--help", env={"COLUMNS": "200"}).stdout == himl.ok("submit", "--help").stdout


@pytest.mark.parametrize("command", [["runs", "show"], ["runs", "list"], ["submit"], ["doctor"], ["workspace", "show"]])
def test_help_is_in_groups_with_underscores_and_fits_80_columns(himl: Himl, command: list[str]) -> None:
    text = himl.ok(*command, "--help").stdout
    assert "\nWorkspace:\n" in text
    assert "\nOutput:\n" in text
    assert "--config_file" in text
    assert "--config-file" not in text
    assert max(len(line) for line in text.splitlines()) <= 80


def test_old_names_of_options_are_not_shown(himl: Himl) -> None:
    text = himl.ok("runs", "show", "--help").stdout
    assert "--run_ids" not in text
    assert "--experiment_name" not in text


def test_examples_keep_their_lines(himl: Himl) -> None:
    assert "\n    himl runs list --experiment train --status Failed\n    himl runs list --num_runs all --json\n" in himl.ok("runs", "list", "--help").stdout


def test_no_arguments_show_help_on_stderr_and_exit_with_2(himl: Himl) -> None:
    for arguments in ([], ["runs"]):
        outcome = himl(*arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert outcome.stderr.startswith("Usage: himl")


def test_settings_files_are_not_read_for_help(himl: Himl, project: Path) -> None:
    (project / "himl.toml").write_text("this is = = no TOML")
    assert himl.ok("submit", "--help").stdout.startswith("Usage: himl submit")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.parametrize(("env", "is_bold"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_headings_are_bold_on_a_terminal_that_wants_it(himl: Himl, env: dict[str, str], is_bold: bool) -> None:
    terminal = Terminal([str(himl.program), "runs", "--help"], cwd=himl.folder, env=env)
    assert terminal.finish() == 0
    assert ("\x1b[1mCommands\x1b[0m" in terminal.screen) is is_bold
    assert ("\x1b" in terminal.screen) is is_bold


@pytest.mark.parametrize("arguments", [("--help",), ("runs", "--help"), ("submit", "--help")])
def test_headings_are_plain_in_a_pipe(himl: Himl, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]) -> None:
    monkeypatch.delenv("NO_COLOR")
    assert "\x1b" not in himl.ok(*arguments, env={"FORCE_COLOR": "1"}).stdout
