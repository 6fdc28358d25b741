"""`himl completion SHELL [--install]`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.render.completions import FILES
from tests.completions.shells import PATIENCE, SCRIPTS, variables
from tests.support.running import Himl
from tests.support.terminals import Terminal

HOMES = {"bash": ".bashrc", "zsh": ".zshrc"}
TYPED = {
    "himl runs list --format=j": "himl runs list --format=json",
    "himl runs list --status Completed,Fa": "--status Completed,Failed",
    "himl datastore upload my": "himl datastore upload my\\ data",
    "himl submit --snapshot_root=my": "--snapshot_root=my\\ data",
    "himl submit --snapshot_root ~/pla": "--snapshot_root ~/places",
}
"""What is typed before Tab, and what stands there after it."""
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def files_of(home: Path) -> dict[str, str]:
    """The text of each file that a shell or himl left in *home*, less what zsh keeps for itself."""
    return {
        path.relative_to(home).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(home.rglob("*"))
        if path.is_file() and not path.name.startswith((".zcompdump", "fish_variables")) and "/fish/conf.d" not in path.as_posix()
    }


@pytest.mark.parametrize("shell", FILES)
def test_it_prints_the_script(himl: Himl, shell: str) -> None:
    assert himl.ok("completion", shell).raw_stdout == (SCRIPTS / FILES[shell]).read_bytes()


def test_pwsh_is_powershell_and_case_does_not_matter(himl: Himl) -> None:
    assert himl.ok("completion", "pwsh").stdout == himl.ok("completion", "PowerShell").stdout


def test_as_json_the_script_is_a_field(himl: Himl) -> None:
    assert himl.ok("completion", "fish", "--json").json() == {"shell": "fish", "script": (SCRIPTS / FILES["fish"]).read_text(encoding="ascii")}


def test_an_unknown_shell_is_refused_with_those_there_are(himl: Himl) -> None:
    outcome = himl("completion", "tcsh")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "There is no completion for 'tcsh'." in outcome.stderr
    assert "Shells: bash, zsh, fish, powershell." in outcome.stderr


@POSIX
def test_fish_finds_its_script_by_itself(himl: Himl, home: Path, project: Path, require_program: Callable[[str], str]) -> None:
    done = himl.ok("completion", "fish", "--install", env={"XDG_CONFIG_HOME": str(home / "settings")})
    script = home / "settings" / "fish" / "completions" / "himl.fish"
    assert done.stdout == f"Wrote '{script}'.\nIt works in shells that are started from here on.\n"
    environment = variables(home) | {"XDG_CONFIG_HOME": str(home / "settings")}
    offered = subprocess.run([require_program("fish"), "-c", "complete -C 'himl runs sh'"], cwd=project, env=environment, capture_output=True, timeout=100)
    assert offered.stdout.startswith(b"show\t")


@POSIX
@pytest.mark.parametrize("shell", HOMES)
def test_after_a_yes_the_shell_completes(himl: Himl, home: Path, project: Path, shell: str, require_program: Callable[[str], str]) -> None:
    program = require_program(shell)
    (project / "my data").mkdir()
    (home / "places").mkdir()
    (home / HOMES[shell]).write_text("PS1='ready> '\n# the end without a line's end", encoding="utf-8")
    asking = Terminal([str(himl.program), "completion", shell, "--install"], cwd=project, env={"XDG_DATA_HOME": ""})
    asking.wait_for("[y/N]", PATIENCE)
    asking.type("y\n")
    assert asking.finish() == 0
    kept = files_of(home)
    himl.ok("completion", shell, "--install", "--yes", env={"XDG_DATA_HOME": ""})
    assert files_of(home) == kept
    assert kept[HOMES[shell]].startswith("PS1='ready> '\n# the end without a line's end\n")
    terminal = Terminal([program, "-i"], cwd=project, columns=200, env=variables(home) | {"XDG_DATA_HOME": ""})
    try:
        terminal.wait_for("ready> ", PATIENCE)
        for typed, shown in TYPED.items():
            terminal.type(f"\x15{typed}\t")
            terminal.wait_for(shown, PATIENCE)
        terminal.type("\x15himl runs sh\t--hel\t\r")
        terminal.wait_for("Usage: himl runs show", PATIENCE)
    finally:
        terminal.type("\x15exit\r")
        terminal.finish()


@POSIX
@pytest.mark.parametrize("shell", HOMES)
def test_where_nobody_is_asked_the_line_is_printed(himl: Himl, home: Path, shell: str, require_program: Callable[[str], str]) -> None:
    require_program(shell)
    done = himl.ok("completion", shell, "--install", env={"XDG_DATA_HOME": ""})
    assert HOMES[shell] not in files_of(home)
    told = himl.ok("completion", shell, "--install", "--json", env={"XDG_DATA_HOME": ""}).json()
    assert told["shell"] == shell
    assert [Path(name).is_file() for name in told["files"]] == [True]
    assert told["files"][0] in told["line"]
    assert done.stdout.splitlines() == [f"Wrote '{told['files'][0]}'.", f"To load it, add this line to '{home / HOMES[shell]}':", told["line"]]


@POSIX
def test_bash_with_bash_completion_needs_no_line(himl: Himl, home: Path) -> None:
    (home / ".bashrc").write_text("BASH_COMPLETION_VERSINFO=(2 11)\n", encoding="utf-8")
    told = himl.ok("completion", "bash", "--install", "--json", env={"BASH_COMPLETION_USER_DIR": str(home / "own")}).json()
    assert told == {"shell": "bash", "files": [str(home / "own" / "completions" / "himl")], "line": ""}


@POSIX
def test_zsh_that_has_the_folder_needs_no_line(himl: Himl, home: Path, require_program: Callable[[str], str]) -> None:
    require_program("zsh")
    (home / ".zshrc").write_text("fpath=(~/.zfunc $fpath)\nautoload -Uz compinit && compinit -u\n", encoding="utf-8")
    told = himl.ok("completion", "zsh", "--install", "--json").json()
    assert told == {"shell": "zsh", "files": [str(home / ".zfunc" / "_himl")], "line": ""}


def test_a_folder_that_cannot_be_written_is_one_line(himl: Himl, home: Path) -> None:
    (home / "taken").write_text("a file", encoding="utf-8")
    outcome = himl("completion", "fish", "--install", env={"XDG_CONFIG_HOME": str(home / "taken")})
    assert outcome.code == 1
    assert f"Cannot write '{home / 'taken' / 'fish' / 'completions' / 'himl.fish'}'" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_no_powershell_is_said(himl: Himl, tmp_path: Path) -> None:
    outcome = himl("completion", "powershell", "--install", env={"PATH": str(tmp_path)})
    assert outcome.code == 3
    assert "There is no PowerShell on PATH." in outcome.stderr
