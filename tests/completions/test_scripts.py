"""The scripts in `completions/`: what the program would print, in the syntax of their shells, with all of the program in them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from himl_cli.commands.completion import program_of
from himl_cli.core.command_shape import ParameterShape
from himl_cli.render.completions import FILES, completion_script, fish_quoted, option_row, posix_quoted
from tests.completions.shells import SCRIPTS
from tests.completions.written import AGAIN, outdated, program, shape

KIND = re.compile(r"(list\+)?(choice:[\w,.-]+|runs|experiments|folders|files(:\.\w+(,\.\w+)*)?)(\+(folders|files(:\.\w+(,\.\w+)*)?))*|")
NASTY = [
    "plain",
    "it's",
    'a "b"',
    "$HOME $(echo x) `echo y`",
    "back\\slash",
    "\\'",
    "''",
    "%s %d \\t",
    "*",
    "{a,b}",
    "~",
    "-n",
    ";|&<>",
    "#",
    "!x",
    "(a)",
    "[a]",
]
NEWER_THAN_3_2 = (r"declare -A", r"local -[An]\b", r"mapfile|readarray", r"\$\{\w+(,,|\^\^)", r"&>>", r";;&", r"\|&", r"\[-1\]", r"< <\(", r"coproc", r"@Q\}")
"""What Bash 3.2, the one of macOS, or a POSIX mode cannot read."""


def offered() -> Iterator[tuple[str, ParameterShape]]:
    for verb in program().walk():
        for option in verb.options:
            yield verb.words, option


def test_the_scripts_are_those_that_the_program_prints() -> None:
    assert not outdated(), AGAIN


@pytest.mark.parametrize("shell", FILES)
def test_no_table_is_forgotten(shell: str) -> None:
    assert not re.search("@[A-Z_]{2,}@", completion_script(program(), shell))
    assert completion_script(program(), shell).count("himl runs aggregate") == {"fish": 2}.get(shell, 1)


@pytest.mark.parametrize("shell", FILES)
def test_every_command_and_option_is_in_every_script(shell: str) -> None:
    text = completion_script(program(), shell)
    for command in shape().walk():
        assert f"'{command.words}'" in text
        for option in command.options:
            assert all(name in text for name in (*option.names, *option.off_names, *option.old_names)), option


def test_every_kind_and_row_is_one_that_the_engines_read() -> None:
    for words, option in offered():
        assert KIND.fullmatch(option.kind), (words, option)
        assert re.fullmatch(r"\+?--?\w+(\|--?\w+)*(=[\w+:,.-]*)?", option_row(option)), option_row(option)
        assert len(option.help) <= 100
    for verb in program().walk():
        assert all(KIND.fullmatch(argument.kind) for argument in verb.arguments), verb
        assert verb.summary or verb.words == "himl"


def test_choices_of_an_option_stand_in_its_help() -> None:
    """Those that help tells in words; `--experiment`, a name, and the like have none."""
    kinds = {(words, option.names[0]): option for words, option in offered()}
    helps = {(command.words, option.long_name): option.help + option.metavar for command in shape().walk() for option in command.options}
    checked = 0
    for key, option in kinds.items():
        for choice in re.findall(r"choice:([^+]*)", option.kind):
            assert all(word in helps[key] for word in choice.split(",")), (key, choice)
            checked += 1
    assert checked > 20


def test_the_options_that_take_runs_and_experiments() -> None:
    by_kind: dict[str, set[str]] = {}
    for _, option in offered():
        by_kind.setdefault(option.kind, set()).add(option.names[0])
    assert by_kind["list+runs"] == {"--run"}
    assert by_kind["runs"] == {"--resume", "--from"}
    assert by_kind["runs+files"] == {"--checkpoint"}
    assert by_kind["experiments"] == {"--experiment"}


def test_a_metavar_without_a_kind_is_refused() -> None:
    unknown = ParameterShape("MOON", names=("--moon",))
    with pytest.raises(KeyError, match="MOON"):
        program_of(replace(shape(), options=[unknown], children=()))
    with pytest.raises(KeyError, match="STAR"):
        program_of(replace(shape(), arguments=[ParameterShape("STAR")], children=()))


def test_bash_of_macos_could_read_the_script() -> None:
    text = (SCRIPTS / FILES["bash"]).read_text(encoding="ascii")
    for sign in NEWER_THAN_3_2:
        assert not re.search(sign, text), sign


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_finds_no_fault_with_its_script(shell: str, require_program: Callable[[str], str]) -> None:
    done = subprocess.run([require_program(shell), "-n", str(SCRIPTS / FILES[shell])], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(("shell", "quoted"), [("bash", posix_quoted), ("zsh", posix_quoted), ("fish", fish_quoted)])
def test_quoted_texts_come_out_as_they_were(shell: str, quoted: Callable[[str], str], require_program: Callable[[str], str]) -> None:
    line = f"printf '%s\\n' {' '.join(map(quoted, NASTY))}"
    done = subprocess.run([require_program(shell), "-c", line], capture_output=True, text=True, timeout=100)
    assert done.stdout.splitlines() == NASTY
