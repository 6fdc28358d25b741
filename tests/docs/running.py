"""Runs the blocks of a chain in sequence. Each block starts in the folder and with the variables of the block before
it.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from importlib import import_module
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import yaml
from rich.text import Text

from docs.tools.terminal import settled
from tests.docs.blocks import PRELUDES, ROOT, Block
from tests.docs.worlds import FILES, SHORTER, World
from tests.support.running import PROGRAM, Himl
from tests.support.terminals import Terminal

PATIENCE = 240
TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
OF_THE_SHELL = ("_", "SHLVL", "PWD", "OLDPWD")
ANY = "…"
NEAR = 0.2
PROMPT = "$ "
PLAIN = re.compile(r"""himl (?:'[^']*'|"[^"$`\\]*"|[^|&;<>()$`*?~{}\[\]\\'"#]|(?<!\s)#)*(?:\s#.*)?""")
"""A command of himl without shell syntax."""
PLACES = (
    (re.compile(r"\b[A-Za-z]\w*?_\d{10}_[0-9a-f]{8}"), "ID"),
    (re.compile(r"^[0-9a-f]{5,8}(?=  )", re.MULTILINE), "ID"),  # the short form in tables
    (re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"), "TIME"),
    (re.compile(r"\b\d\d:\d\d\b"), "CLOCK"),
    (re.compile(r"\b(?:\d+m \d\ds|\d+(?:\.\d+)? ?s)(?=[.\s]|$)"), "DURATION"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:B|KB|MB)\b"), "SIZE"),
    (re.compile(r"'/[^']*'"), "PATH"),
)
NUMBER = re.compile(r"-?\d+\.\d+")
"""Ids, times, durations, sizes and paths in outputs may differ. Decimal numbers may differ by a fifth."""


@dataclass
class Chain:
    """A running world: `folder` and `variables` are those after the last block. *scratch* is for files outside the
    world.
    """

    world: World
    scratch: Path

    def __post_init__(self) -> None:
        self.folder = self.world.folder
        self.variables: Mapping[str, str] = self.world.variables

    def run(self, block: Block) -> None:
        """Run a block. Raises AssertionError with its output if it does not do what it should."""
        if path := block.value("file"):
            (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / path).write_text(block.body, encoding="utf-8")
        elif block.kind == "python":
            self._python(block)
        if block.kind in ("sh", "console"):
            self._commands(block)
        elif block.kind != "python":
            self._settings(block)

    def _commands(self, block: Block) -> None:
        if block.has("shows"):
            for command, lines in commands_of(block.body):
                printed = self._in_terminal(block, command)
                assert not (wrong := differences(lines, printed)), f"{block.where}: {wrong}\n{printed}"
            return
        for script in (self.folder / "train.py", self.folder / "examples" / "train.py"):
            if (
                "himl submit" in block.body
                and script.is_file()
                and script.read_bytes() == (ROOT / "examples" / "train.py").read_bytes()
            ):
                # Blocks that show output must really train.
                shutil.copy(FILES / "train.py", script)
        prelude = (PRELUDES / f"{block.value('prelude')}.sh").read_text() if block.value("prelude") else ""
        body = "\n".join(command for command, _ in commands_of(block.body)) if block.kind == "console" else block.body
        lines = [line for line in body.replace("\\\n", " ").splitlines() if line.strip() and not line.startswith("#")]
        if until := block.value("until"):
            for line in lines:
                self._shell(block, prelude + line, until)
        elif answer := block.value("answer"):
            for line in lines:
                self._in_terminal(block, prelude + line, answer)
        elif not prelude and all(PLAIN.fullmatch(line) for line in lines):
            self._in_process(block, lines)
        else:
            self._shell(block, prelude + body)

    def _in_process(self, block: Block, lines: Sequence[str]) -> None:
        himl, changed = (
            Himl(PROGRAM, self.folder, in_process=True),
            {name: text for name, text in self.variables.items() if os.environ.get(name) != text},
        )
        for number, line in enumerate(lines, 1):
            done = himl(*shlex.split(self._named(line, SHORTER), comments=True)[1:], env=changed)
            assert done.code == int((number == len(lines) and block.value("exit")) or 0), (
                f"{block.where}: {line} gave {done.code}:\n{done.stdout}{done.stderr}"
            )

    def _shell(self, block: Block, script: str, until: str = "") -> None:
        state = self.scratch / "state"
        said, code = _said(["bash", "-c", self._script(script, state, SHORTER)], self.folder, self.variables, until)
        assert code == int(block.value("exit") or 0), f"{block.where} ended with {code}:\n{script}\n{said}"
        self._take(state)

    def _script(self, script: str, state: Path, shorter: Mapping[str, str] | None = None) -> str:
        # `head` may exit before all output is printed.
        options = "-aeu" if "| head" in script else "-aeuo pipefail"
        return f"trap 'env -0 > {shlex.quote(str(state))}' EXIT\nset {options}\n{self._named(script, shorter)}\n"

    def _named(self, script: str, shorter: Mapping[str, str] | None = None) -> str:
        """Replace the placeholders of this world in *script*."""
        names = {**(shorter or {}), **self.world.names}
        pattern = (
            "|".join(rf"(?<![\w-]){re.escape(name)}(?!\w)" for name in sorted(names, key=len, reverse=True)) or r"(?!)"
        )
        lines = (
            line if line.lstrip().startswith("#") else re.sub(pattern, lambda found: names[found[0]], line)
            for line in script.splitlines()
        )
        return "\n".join(lines)

    def _take(self, state: Path) -> None:
        found = dict(entry.split("=", 1) for entry in os.fsdecode(state.read_bytes()).split("\0") if "=" in entry)
        self.folder = Path(found["PWD"])
        self.variables = {name: value for name, value in found.items() if name not in OF_THE_SHELL}

    def _in_terminal(self, block: Block, command: str, answer: str = "") -> str:
        state = self.scratch / "state"
        terminal = Terminal(["bash", "-c", self._script(command, state)], cwd=self.folder, env=self.variables)
        if answer:
            terminal.type(f"{answer}\n")
        code = terminal.finish(PATIENCE)
        assert code == int(block.value("exit") or 0), f"{block.where}: {command} ended with {code}:\n{terminal.screen}"
        self._take(state)
        return terminal.screen

    def _python(self, block: Block) -> None:
        prelude = PRELUDES / f"{block.value('prelude')}.py"
        script = self.folder / "block.py"
        script.write_text(
            (prelude.read_text(encoding="utf-8") if block.value("prelude") else "") + block.body, encoding="utf-8"
        )
        # The vendor's package emits warnings during its import, so only warnings of the block itself count.
        for more in ([], ["--azureml"])[: 1 + block.has("azureml")]:
            said, code = _said(
                [sys.executable, "-W", "error:::__main__", script.name, *more], self.folder, self.variables
            )
            assert code == int(block.value("exit") or 0), f"{block.where} ended with {code}:\n{said}"
        if block.has("azureml"):
            assert self.world.azure is not None
            experiment, _, run = (self.folder / "most_recent_run.txt").read_text().strip().partition(":")
            assert experiment == "block", block.where
            self.world.azure.wait_for(run, "Completed")

    def _settings(self, block: Block) -> None:
        if block.kind == "json":
            json.loads(block.body)
        elif block.kind == "yaml":
            yaml.safe_load(block.body)
        elif "submit" in TOML.loads(block.body):
            folder = self.scratch / f"settings_{block.line}"
            folder.mkdir(exist_ok=True)
            (folder / "himl.toml").write_text(block.body, encoding="utf-8")
            said, code = _said(["himl", "submit", "--show_settings"], folder, self.variables)
            assert code == 0, f"{block.where} ended with {code}:\n{said}"


def _said(command: list[str], folder: Path, variables: Mapping[str, str], until: str = "") -> tuple[str, int]:
    """Run a command and return its output and exit code. After the command has printed *until*, check that its server
    answers, and send Ctrl-C.
    """
    with subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        timer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        timer.start()
        said = b""
        for line in process.stdout:
            said += line
            if until and until.encode() in line:
                _ask(line.decode())
                os.killpg(process.pid, signal.SIGINT)
        code = process.wait()
        timer.cancel()
    return said.decode("utf-8", "replace"), code


def _ask(line: str) -> None:
    deadline = time.monotonic() + PATIENCE
    for address in re.findall(r"http://\S+", line):
        while True:
            try:
                with build_opener(ProxyHandler({})).open(address, timeout=PATIENCE) as answer:
                    assert answer.status == HTTPStatus.OK
                break
            except OSError:
                assert time.monotonic() < deadline, f"nobody answers at {address}"
                time.sleep(0.05)


def commands_of(body: str) -> list[tuple[str, list[str]]]:
    """The commands of a console block, each with its shown output."""
    found: list[tuple[str, list[str]]] = []
    for line in body.splitlines():
        if line.startswith(PROMPT):
            found.append((line.removeprefix(PROMPT), []))
        else:
            found[-1][1].append(line)
    return found


def differences(shown: Sequence[str], screen: str) -> str:
    """Describe the first difference between *shown* and *screen*. Empty if there is none or no line is shown."""
    printed = [Text.from_ansi(line).plain for line in settled(screen)]
    wanted, got = ([_words(line) for line in lines if line.strip()] for lines in (shown, printed))
    if not wanted or _agree(wanted, got):
        return ""
    reached = [count for count in range(len(wanted)) if _agree([*wanted[:count], [ANY]], got)][-1]
    if wanted[reached] == [ANY]:
        return "more is printed than is shown"
    return f"'{' '.join(wanted[reached])}' is not printed where it is shown, or more is printed behind it"


def _agree(wanted: Sequence[Sequence[str]], got: Sequence[Sequence[str]]) -> bool:
    if not wanted:
        return not got
    if wanted[0] == [ANY]:
        return any(_agree(wanted[1:], got[count:]) for count in range(len(got) + 1))
    return bool(got) and _same(wanted[0], got[0]) and _agree(wanted[1:], got[1:])


def _same(one: Sequence[str], other: Sequence[str]) -> bool:
    pairs = [(left, right) for left, right in zip(one, other, strict=False) if left != right]
    numbers = [
        (float(left), float(right)) for left, right in pairs if NUMBER.fullmatch(left) and NUMBER.fullmatch(right)
    ]
    are_near = all(abs(left - right) <= NEAR * max(abs(left), abs(right)) for left, right in numbers)
    return len(one) == len(other) and len(pairs) == len(numbers) and are_near


def _words(line: str) -> list[str]:
    for pattern, word in PLACES:
        line = pattern.sub(word, line)
    return line.split()
