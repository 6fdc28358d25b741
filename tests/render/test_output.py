"""Output and progress, in processes with real streams."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.terminals import Terminal

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")


def run(code: str, **options: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([sys.executable, "-c", f"from himl_cli.render.output import *\n{code}"], capture_output=True, input=options.get("input", "").encode())


def test_each_format_prints_its_form_alone() -> None:
    code = "Output(Format.{}).result([{{'id': 'a'}}], human='all about a', quiet=['a', 'b'])"
    assert run(code.format("human")).stdout.split(b"\n")[0].strip() == b"all about a"
    assert run(code.format("json")).stdout.strip() == b'[{"id": "a"}]'
    assert run(code.format("quiet")).stdout.split() == [b"a", b"b"]


def test_a_stream_that_takes_text_only_gets_text() -> None:
    """As standard output and error are in a notebook."""
    kernel = "import io, sys\nclass Text(io.TextIOBase):\n  encoding = 'utf-8'\n  write = lambda self, text: kept.append(text) or len(text)\nkept = []"
    code = f"{kernel}\nsaid, sys.stdout = sys.stdout, Text()\nOutput().lines(['zw\u00f6lf'])\nOutput().stream(b'log')\nprint(ascii(''.join(kept)), file=said)"
    assert run(code).stdout.strip() == b"'zw\\xf6lf\\nlog'"


def test_human_text_is_made_only_when_it_is_asked_for() -> None:
    assert run("Output(Format.json).result(1, human=lambda: 1 / 0)").stdout.strip() == b"1"


def test_odd_bytes_of_file_names_come_out_as_they_went_in() -> None:
    assert run("Output().lines(['caf\\udce9'])").stdout.strip() == b"caf\xe9"
    assert run("Output(Format.json).json(['caf\\udce9'])").stdout.strip() == b'["caf\\udce9"]'


def test_notices_go_to_stderr_without_secrets_and_not_when_quiet() -> None:
    done = run("Output().notice('see https://h/x?sig=abcdef\\nnow')")
    assert (done.stdout, done.stderr.split()) == (b"", [b"see", b"https://h/x?sig=***", b"now"])
    assert run("Output(Format.quiet).notice('hello')").stderr == b""


@pytest.mark.parametrize("format", ["human", "json", "quiet"])
def test_a_question_that_nobody_can_answer_is_an_error(format: str) -> None:
    done = run(f"try:\n    Output(Format.{format}).confirm('Delete?')\nexcept NeedsYes as err:\n    print(err.hint)", input="y\n")
    assert b"--yes" in done.stdout
    assert run(f"print(Output(Format.{format}, yes=True).confirm('Delete?'))").stdout.strip() == b"True"


EVENTS = """
import time
from himl_cli.core.events import Finished, Moved, Notice, Planned
from himl_cli.render.output import Format, Output
from himl_cli.render.progress import observing
with observing(Output(Format.{format})) as notify:
    notify(Planned(2, 2_000_000))
    notify(Moved("a", 1_000_000))
    notify(Finished("a"))
    notify(Notice("[b]one[/b] thing"))
    time.sleep(0.3)
"""


def test_progress_off_a_terminal_is_its_notices() -> None:
    done = subprocess.run([sys.executable, "-c", EVENTS.format(format="human")], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "[b]one[/b] thing\n")


@posix
@pytest.mark.parametrize(("format", "is_drawn"), [("human", True), ("json", False), ("quiet", False)])
def test_progress_on_a_terminal_is_a_bar_that_goes_away(tmp_path: Path, format: str, is_drawn: bool) -> None:
    terminal = Terminal([sys.executable, "-c", EVENTS.format(format=format)], cwd=tmp_path)
    assert terminal.finish() == 0
    assert ("1 file " in terminal.screen) is is_drawn
    assert ("[b]one[/b] thing" in terminal.screen) is (format != "quiet")


@posix
@pytest.mark.parametrize(("columns", "has_bar"), [(40, False), (80, True)])
def test_a_narrow_terminal_has_the_numbers_and_no_bar(tmp_path: Path, columns: int, has_bar: bool) -> None:
    terminal = Terminal([sys.executable, "-c", EVENTS.format(format="human")], cwd=tmp_path, columns=columns)
    assert terminal.finish() == 0
    drawn = [line for line in re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.screen).replace("\r", "\n").splitlines() if line.strip()]
    assert ("\u2501" in terminal.screen) is has_bar
    assert any("1.0/2.0 MB" in line for line in drawn)
    assert max(map(len, drawn)) <= columns


@posix
def test_control_characters_are_cleaned_only_for_terminals(tmp_path: Path) -> None:
    code = "from himl_cli.render.output import *\nfor how in (lambda o, n: o.table(n, (), quiet=str), lambda o, n: o.result(n, human='', quiet=n)):\n"
    code += "    how(Output(Format.quiet), ['ok\\x1b[31mred', 'two\\nlines'])"
    terminal = Terminal([sys.executable, "-c", code], cwd=tmp_path)
    assert terminal.finish() == 0
    assert terminal.screen == "ok [31mred\ntwo\\nlines\nok [31mred\ntwo lines\n"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == (b"ok\x1b[31mred\ntwo\\nlines\nok\x1b[31mred\ntwo\nlines\n")


@posix
def test_json_that_would_command_a_terminal_has_escapes_there(tmp_path: Path) -> None:
    code = "from himl_cli.render.output import *\nOutput(Format.json).json(['\\u202e\\x9b\\x1b\\x7fé'])"
    terminal = Terminal([sys.executable, "-c", code], cwd=tmp_path)
    assert terminal.finish() == 0
    assert terminal.screen == '[\n  "\\u202e\\u009b\\u001b\\u007fé"\n]\n'
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.decode() == '["\u202e\x9b\\u001b\x7fé"]\n'
