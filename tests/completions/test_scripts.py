"""The scripts in `completions/` have valid syntax and contain the whole program. Also `himl completion SHELL
[--install]`.
"""

from __future__ import annotations

import codecs
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from himl_cli.commands.completion import program_of
from himl_cli.commands.table import COMMANDS
from himl_cli.core.command_shape import ParameterShape
from himl_cli.render.completions import (
    SCRIPT_FILES,
    completion_script,
    fish_quoted,
    option_row,
    posix_quoted,
    powershell_quoted,
)
from himl_cli.services.completion_files import ASK_POWERSHELL, MARK, POWERSHELL_LINE, place_of
from scripts.completions import program, shape
from tests.completions.shells import PATIENCE, SCRIPTS, variables
from tests.conftest import lacking
from tests.support.azure import write_program
from tests.support.processes import MARK as LEFT
from tests.support.processes import processes_marked
from tests.support.running import Himl, write_files
from tests.support.runs import RecordedRuns, posix
from tests.support.terminals import Terminal

KIND = re.compile(
    r"(list\+)?(choice:[\w,.-]+|runs|experiments|folders|files(:\.\w+(,\.\w+)*)?)(\+(clusters|machines|"
    r"folders|files(:\.\w+(,\.\w+)*)?))*|"
)
TEXTS = ["plain", "it's", 'a "b"', "$HOME $(echo x) `echo y`", "back\\slash", "\\'", "''", "%s %d \\t", "*"]
TEXTS += ["{a,b}", "~", "-n", ";|&<>", "#", "!x", "(a)", "[a]"]
NEWER_THAN_3_2 = (
    r"declare -A",
    r"local -[An]\b",
    r"mapfile|readarray",
    r"\$\{\w+(,,|\^\^)",
    r"&>>",
    r";;&",
    r"\|&",
    r"\[-1\]",
    r"< <\(",
    r"coproc",
    r"@Q\}",
)
"""Syntax that Bash 3.2 (the version of macOS) or POSIX mode cannot parse."""
ASK = """
. '{script}'
$answers = @()
foreach ($line in $env:LINES_TO_ASK -split "`n") {{
    $found = TabExpansion2 -inputScript $line -cursorColumn $line.Length
    $answers += , @($found.CompletionMatches | ForEach-Object {{ $_.CompletionText }})
}}
ConvertTo-Json -Compress -Depth 4 @($answers)
"""
OFFERS = {
    "himl ": set(COMMANDS),
    "himl runs sh": {"show"},
    "himl runs list --format ": {"human", "json", "quiet"},
    "himl runs list --format=j": {"--format=json"},
    "himl runs show train": {"train_1_aa", "train_2_bb"},
    "himl runs list --experiment ": {"train"},
}
HOMES = {"bash": ".bashrc", "zsh": ".zshrc"}
TYPED = {
    "himl runs list --format=j": "himl runs list --format=json",
    "himl datastore upload my": "himl datastore upload my\\ data",
    "himl submit --snapshot_root ~/pla": "--snapshot_root ~/places",
}
"""The text before Tab, and the text after it."""
POWERSHELL = """
import os, sys
told = os.environ["PROFILE_TO_TELL"].encode("utf-8" if "OutputEncoding" in sys.argv[-1] else "latin-1")
sys.stdout.buffer.write(told + b"\\r\\n")
"""
"""Prints the location of its profile, in the machine's code page unless UTF-8 is requested."""


def test_every_command_and_option_is_in_every_script() -> None:
    for shell in SCRIPT_FILES:
        text = completion_script(program(), shell)
        assert text.isascii()
        assert not re.search("@[A-Z_]{2,}@", text)
        assert text.count("himl runs aggregate") == {"fish": 2}.get(shell, 1)
        for command in shape().walk():
            assert f"'{command.words}'" in text
            for option in command.options:
                assert all(name in text for name in (*option.names, *option.off_names, *option.old_names)), option
    for verb in program().walk():
        assert all(KIND.fullmatch(each.kind) for each in (*verb.arguments, *verb.options)), verb
        assert verb.summary or verb.words == "himl"
        for option in verb.options:
            assert re.fullmatch(r"\+?--?\w+(\|--?\w+)*(=[\w+:,.-]*)?", option_row(option)), option_row(option)
            assert len(option.help) <= 100
    text = (SCRIPTS / SCRIPT_FILES["bash"]).read_text(encoding="ascii")
    for sign in NEWER_THAN_3_2:
        assert not re.search(sign, text), sign
    unknown = ParameterShape("MOON", names=("--moon",))
    with pytest.raises(KeyError, match="MOON"):
        program_of(replace(shape(), options=[unknown], children=()))
    with pytest.raises(KeyError, match="STAR"):
        program_of(replace(shape(), arguments=[ParameterShape("STAR")], children=()))


def parsed(text: str) -> Any:
    """The syntax tree of a PowerShell text. The imports are dynamic, since the packages' stubs need a newer syntax
    than 3.10.
    """
    try:
        tree_sitter, grammar = import_module("tree_sitter"), import_module("tree_sitter_powershell")
    except ImportError:
        lacking("the packages tree-sitter and tree-sitter-powershell")
    return tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(text.encode("utf-8")).root_node


def nodes(root: Any) -> Iterator[Any]:
    yield root
    for child in root.children:
        yield from nodes(child)


def faults(text: str) -> list[str]:
    return [
        f"{node.start_point[0] + 1}: {node.type}"
        for node in nodes(parsed(text))
        if node.type == "ERROR" or node.is_missing
    ]


def test_shells_read_their_scripts_and_quoted_texts(require_program: Callable[[str], str]) -> None:
    for shell, quoted in [("bash", posix_quoted), ("zsh", posix_quoted), ("fish", fish_quoted)]:
        done = subprocess.run(
            [require_program(shell), "-n", str(SCRIPTS / SCRIPT_FILES[shell])],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (done.returncode, done.stderr) == (0, "")
        line = f"printf '%s\\n' {' '.join(map(quoted, TEXTS))}"
        done = subprocess.run([require_program(shell), "-c", line], capture_output=True, text=True, timeout=100)
        assert done.stdout.splitlines() == TEXTS
    assert faults((SCRIPTS / "himl.ps1").read_text(encoding="ascii")) == []
    assert faults(POWERSHELL_LINE) == faults(ASK_POWERSHELL) == []
    assert faults("$table = @{ 'a' = @('b', 'c' }")
    for text in (
        "plain",
        "it's",
        "''",
        'a "b"',
        "$HOME $(Get-Date)",
        "`n",
        "@(1)",
        "# no comment",
        "a;b|c",
        "{",
        "}",
        ")",
    ):
        strings = [
            node.text.decode()
            for node in nodes(parsed(f"$a = @({powershell_quoted(text)}, 'end')"))
            if node.type == "verbatim_string_characters"
        ]
        assert [string[1:-1].replace("''", "'") for string in strings] == [text, "end"]


def test_powershell_offers_the_same(tmp_path: Path) -> None:
    program = shutil.which("pwsh") or shutil.which("powershell")
    if program is None:
        pytest.skip("NEEDS the program 'pwsh', which no package of Debian has")
    recorded = RecordedRuns(tmp_path)
    for name in ("train_1_aa", "train_2_bb"):
        recorded.add(name)
    environment = os.environ | variables(tmp_path) | {"LINES_TO_ASK": "\n".join(OFFERS)}
    command = [program, "-NoProfile", "-NonInteractive", "-Command", ASK.format(script=SCRIPTS / "himl.ps1")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.stderr == ""
    assert dict(zip(OFFERS, map(set, json.loads(done.stdout)), strict=True)) == OFFERS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def files_of(home: Path) -> dict[str, str]:
    """The text of each file that a shell or himl wrote to *home*, except zsh's own files."""
    return {
        path.relative_to(home).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(home.rglob("*"))
        if path.is_file()
        and not path.name.startswith((".zcompdump", "fish_variables"))
        and "/fish/conf.d" not in path.as_posix()
    }


@posix
@pytest.mark.parametrize("shell", HOMES)
def test_after_a_yes_the_shell_completes(
    himl: Himl, home: Path, project: Path, shell: str, require_program: Callable[[str], str]
) -> None:
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


@posix
def test_shell_that_loads_the_folder_needs_no_line(
    himl: Himl, home: Path, require_program: Callable[[str], str]
) -> None:
    (home / ".bashrc").write_text("BASH_COMPLETION_VERSINFO=(2 11)\n", encoding="utf-8")
    written = himl.ok(
        "completion", "bash", "--install", "--json", env={"BASH_COMPLETION_USER_DIR": str(home / "own")}
    ).json()
    assert written == {"shell": "bash", "files": [str(home / "own" / "completions" / "himl")], "line": ""}
    zsh = require_program("zsh")
    (home / ".zshrc").write_text("fpath=(~/.zfunc $fpath)\nautoload -Uz compinit && compinit -u\n", encoding="utf-8")
    # The first start takes long on a slow machine, since zsh notes all functions.
    subprocess.run([zsh, "-i", "-c", "exit"], stdin=subprocess.DEVNULL, capture_output=True, timeout=PATIENCE)
    assert (home / ".zcompdump").exists()
    written = himl.ok("completion", "zsh", "--install", "--json").json()
    assert written == {"shell": "zsh", "files": [str(home / ".zfunc" / "_himl")], "line": ""}


def test_completion_prints_the_script_or_why_not(himl: Himl, home: Path, tmp_path: Path) -> None:
    for shell, name in SCRIPT_FILES.items():
        assert himl.ok("completion", shell).raw_stdout == (SCRIPTS / name).read_bytes()
    assert himl.ok("completion", "pwsh").stdout == himl.ok("completion", "PowerShell").stdout
    assert himl.ok("completion", "fish", "--json").json() == {
        "shell": "fish",
        "script": (SCRIPTS / SCRIPT_FILES["fish"]).read_text(encoding="ascii"),
    }
    outcome = himl("completion", "tcsh")
    assert (outcome.code, outcome.stdout) == (2, "")
    assert "Unknown shell 'tcsh'." in outcome.stderr
    assert "Shells: bash, zsh, fish, powershell." in outcome.stderr
    (home / "taken").write_text("a file", encoding="utf-8")
    outcome = himl("completion", "fish", "--install", env={"XDG_CONFIG_HOME": str(home / "taken")})
    assert outcome.code == 1
    assert f"Cannot write '{home / 'taken' / 'fish' / 'completions' / 'himl.fish'}'" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    outcome = himl("completion", "powershell", "--install", env={"PATH": str(tmp_path)})
    assert outcome.code == 3
    assert "There is no PowerShell on PATH." in outcome.stderr
    programs = write_program(tmp_path / "programs", "pwsh", "")
    outcome = himl("completion", "powershell", "--install", env={"PATH": str(programs)})
    assert (outcome.code, outcome.stdout) == (3, "")
    assert outcome.stderr.startswith(
        "error: PowerShell does not print the path of its $PROFILE.\n"
        "hint: To load it from your $PROFILE, print the script"
    )


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="names of files are text there")
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_home_folder_that_is_not_utf_8_is_written(
    himl: Himl, tmp_path: Path, shell: str, require_program: Callable[[str], str]
) -> None:
    require_program(shell)
    home = tmp_path / os.fsdecode(b"h\xfc")
    home.mkdir()
    env = {"HOME": str(home), "XDG_DATA_HOME": ""}
    first, second, printed = himl.ok("completion", shell, "--install", env=env).raw_stdout.splitlines()
    assert (first[:7], second) == (b"Wrote '", os.fsencode(f"To load it, add this line to '{home / HOMES[shell]}':"))
    assert not (home / HOMES[shell]).exists()
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
    # The longer values are for a slow machine, where the shell starts later.
    for patience in (2.0, 20.0, 60.0):
        assert place_of(shell, os.environ, patience=patience).start_file == home / f".{shell}rc"
        if (tmp_path / "started").exists():
            break
    assert (tmp_path / "started").exists()
    assert processes_marked(mark, patience=60.0) == []


@pytest.mark.parametrize(
    ("mark", "encoding", "newline", "end"),
    [
        (codecs.BOM_UTF16_LE, "utf-16-le", "\r\n", "\r\n"),
        (codecs.BOM_UTF16_BE, "utf-16-be", "\n", ""),
        (codecs.BOM_UTF8, "utf-8", "\r\n", ""),
        (b"", "cp1252", "\r\n", ""),
    ],
)
def test_line_is_added_in_the_encoding_of_the_profile(
    himl: Himl, tmp_path: Path, mark: bytes, encoding: str, newline: str, end: str
) -> None:
    profile = tmp_path / "Jürgen" / "PowerShell" / "profile.ps1"
    text = f"# für mich{newline}Set-Alias ll ls{end}"
    write_files(profile.parent, {"profile.ps1": mark + text.encode(encoding)})
    script = profile.with_name("himl-completion.ps1")
    env = {"PATH": str(write_program(tmp_path / "programs", "powershell", POWERSHELL)), "PROFILE_TO_TELL": str(profile)}
    for written in ([str(script), str(profile)], [str(script)]):
        done = himl.ok("completion", "powershell", "--install", "--yes", "--json", env=env)
        assert done.json() == {"shell": "powershell", "files": written, "line": ""}
    assert "Register-ArgumentCompleter" in script.read_text(encoding="ascii")
    wanted = f"{text}{'' if end else newline}{POWERSHELL_LINE}{newline}"
    assert profile.read_bytes() == mark + wanted.encode(encoding)
