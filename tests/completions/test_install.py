"""`himl completion SHELL --install` among files and folders that are not plain UTF-8, and a shell that does not answer."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from himl_cli.services.completion_files import MARK, POWERSHELL_LINE, place_of
from tests.support.azure import write_program
from tests.support.processes import MARK as LEFT
from tests.support.processes import processes_marked
from tests.support.running import Himl, Outcome

POWERSHELL = """
import os, sys
told = os.environ["PROFILE_TO_TELL"].encode("utf-8" if "OutputEncoding" in sys.argv[-1] else "latin-1")
sys.stdout.buffer.write(told + b"\\r\\n")
"""
"""Tells where its profile is: in the machine's code page, unless it is asked for UTF-8."""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    """The profile that `powershell` tells; its folder has a name beyond ASCII."""
    return tmp_path / "Jürgen" / "PowerShell" / "profile.ps1"


@pytest.fixture
def install(himl: Himl, tmp_path: Path, profile: Path) -> Callable[[], Outcome]:
    programs = write_program(tmp_path / "programs", "powershell", POWERSHELL)
    return lambda: himl.ok("completion", "powershell", "--install", "--yes", "--json", env={"PATH": str(programs), "PROFILE_TO_TELL": str(profile)})


def test_a_folder_beyond_ascii_is_the_one_that_powershell_means(install: Callable[[], Outcome], profile: Path) -> None:
    script = profile.with_name("himl-completion.ps1")
    assert install().json() == {"shell": "powershell", "files": [str(script), str(profile)], "line": ""}
    assert profile.read_bytes() == f"{POWERSHELL_LINE}{os.linesep}".encode("ascii")
    assert "Register-ArgumentCompleter" in script.read_text(encoding="ascii")


@pytest.mark.parametrize("newline", ["\r\n", "\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize(
    ("mark", "encoding"),
    [(codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"), (codecs.BOM_UTF8, "utf-8"), (b"", "utf-8"), (b"", "cp1252")],
    ids=["utf-16-le", "utf-16-be", "utf-8 with a mark", "utf-8", "a code page"],
)
@pytest.mark.parametrize("is_ended", [True, False], ids=["ended", "not ended"])
def test_the_line_is_added_in_the_encoding_of_the_profile(
    install: Callable[[], Outcome], profile: Path, mark: bytes, encoding: str, newline: str, is_ended: bool
) -> None:
    text = f"# für mich{newline}Set-Alias ll ls{newline if is_ended else ''}"
    profile.parent.mkdir(parents=True)
    profile.write_bytes(mark + text.encode(encoding))
    for _ in range(2):
        assert install().json()["line"] == ""
    wanted = f"{text}{'' if is_ended else newline}{POWERSHELL_LINE}{newline}"
    assert profile.read_bytes() == mark + wanted.encode(encoding)


def test_a_powershell_that_says_nothing_is_said(himl: Himl, tmp_path: Path) -> None:
    programs = write_program(tmp_path / "programs", "pwsh", "")
    outcome = himl("completion", "powershell", "--install", env={"PATH": str(programs)})
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith("error: PowerShell does not say where its $PROFILE is.\nhint: 'himl completion powershell' prints the script")


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_home_folder_that_is_no_utf_8_is_written_as_it_is(himl: Himl, tmp_path: Path, shell: str, require_program: Callable[[str], str]) -> None:
    require_program(shell)
    home = tmp_path / os.fsdecode(b"h\xfc")
    home.mkdir()
    env = {"HOME": str(home), "XDG_DATA_HOME": ""}
    printed = himl.ok("completion", shell, "--install", env=env).raw_stdout.splitlines()[-1]
    told = himl.ok("completion", shell, "--install", "--yes", "--json", env=env).json()
    assert (told["line"], len(told["files"])) == ("", 2)
    assert (home / f".{shell}rc").read_bytes() == printed + b"\n"
    assert os.fsencode(told["files"][0]) in printed
    assert printed.endswith(MARK.encode())


@pytest.mark.skipif(sys.platform == "win32", reason="start files of POSIX shells")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_unresponsive_shell_is_ended_with_its_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: str, require_program: Callable[[str], str]
) -> None:
    require_program(shell)
    home, mark = tmp_path / "home", str(tmp_path)
    (home / f".{shell}rc").write_text(f"echo $$ > '{tmp_path}/started'\nsleep 77\n", encoding="utf-8")
    monkeypatch.setenv(LEFT, mark)
    for patience in (2.0, 20.0, 60.0):  # the longer ones for a machine on which the shell has not come so far by then
        assert place_of(shell, os.environ, patience=patience).start_file == home / f".{shell}rc"
        if (tmp_path / "started").exists():
            break
    assert (tmp_path / "started").exists()
    assert processes_marked(mark, patience=60.0) == []
