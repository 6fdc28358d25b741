"""Real shells that load the completion scripts and report the candidates for Tab."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.support.running import PROGRAM
from tests.support.terminals import Terminal

SCRIPTS = Path(__file__).parents[2] / "completions"
PATIENCE = 100.0

BASH = """
PS1='ready> '
bind 'set bell-style none'
. '{script}'
told=0
probe() {{
    _himl
    printf '%s\\n' "${{COMPREPLY[@]}}" >"$TOLD/part"
    told=$((told + 1))
    mv "$TOLD/part" "$TOLD/$told"
}}
complete -F probe himl
"""
ZSH = """
PS1='ready> '
unsetopt zle_bracketed_paste beep
autoload -Uz compinit && compinit -u -D
. '{script}'
typeset -i told=0
compadd() {{
    local -a offered
    if [[ " $* " == *' '-[AOD]* ]]; then
        builtin compadd "$@"
        return
    fi
    builtin compadd -A offered "$@"
    (( $#offered )) && print -rl -- "${{offered[@]}}" >>"$TOLD/part"
    builtin compadd "$@"
}}
probe() {{
    : >"$TOLD/part"
    _main_complete
    compstate[insert]= compstate[list]=
    (( told += 1 ))
    mv "$TOLD/part" "$TOLD/$told"
}}
zle -C probe complete-word probe
bindkey '^I' probe
bindkey '^U' kill-whole-line
"""
FISH = """
source '{script}'
for line in $argv
    complete -C $line
    echo '<end>'
end
"""


def variables(home: Path) -> dict[str, str]:
    """The shells' variables: the installed himl first on PATH, a separate home, and a language that every machine
    has.
    """
    return {
        "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "LC_ALL": "C",
        "HISTFILE": os.devnull,
    }


class TypedShell:
    """Bash or zsh in a terminal. Its Tab key writes the candidates to files below *folder*."""

    def __init__(self, command: Sequence[str], start: str, *, cwd: Path, folder: Path) -> None:
        self._folder = folder
        self._asked = 0
        (folder / "start").write_text(start, encoding="utf-8")
        self.terminal = Terminal(command, cwd=cwd, columns=200, env=variables(folder) | {"TOLD": str(folder)})
        self.terminal.type(f". '{folder}/start'\r")
        self.terminal.wait_for("ready> ", PATIENCE)

    def offers(self, lines: Sequence[str]) -> list[list[str]]:
        return [self._offers(line) for line in lines]

    def _offers(self, line: str) -> list[str]:
        self._asked += 1
        self.terminal.type(f"\x15{line}\t")
        told = self._folder / str(self._asked)
        deadline = time.monotonic() + PATIENCE
        while not told.exists():
            assert time.monotonic() < deadline, f"nothing came of Tab after '{line}':\n{self.terminal.screen[-2000:]}"
            time.sleep(0.01)
        return [name for name in told.read_text(encoding="utf-8").splitlines() if name]

    def close(self) -> None:
        self.terminal.type("\x15exit\r")
        self.terminal.finish()


class Fish:
    """Fish, which can print its candidates."""

    def __init__(self, program: str, script: Path, *, cwd: Path, folder: Path) -> None:
        self._program, self._cwd, self._folder = program, cwd, folder
        self._start = FISH.format(script=script)

    def offers(self, lines: Sequence[str]) -> list[list[str]]:
        command = [self._program, "--no-config", "-c", self._start, *lines]
        done = subprocess.run(
            command, cwd=self._cwd, env=os.environ | variables(self._folder), capture_output=True, timeout=PATIENCE * 2
        )
        assert done.stderr == b"", done.stderr.decode()
        parts = done.stdout.decode().split("<end>\n")
        assert parts.pop() == ""
        return [[row.split("\t")[0] for row in part.splitlines()] for part in parts]

    def close(self) -> None:
        pass


def started(shell: str, program: str, script: Path, *, cwd: Path, folder: Path) -> TypedShell | Fish:
    if shell == "fish":
        return Fish(program, script, cwd=cwd, folder=folder)
    command = [program, "--norc", "--noprofile", "-i"] if shell == "bash" else [program, "-f", "-i"]
    return TypedShell(command, (BASH if shell == "bash" else ZSH).format(script=script), cwd=cwd, folder=folder)


def values(offered: Sequence[str]) -> set[str]:
    """The part of each candidate that extends a word: without the preceding `--option=` and list, which only some
    shells repeat, and without a trailing `/`.
    """
    return {re.sub(r"^--[^=]*=", "", name).rpartition(",")[2].removesuffix("/") for name in offered}
