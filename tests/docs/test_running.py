"""A block that does not do what it says is noticed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import yaml

from tests.docs import worlds
from tests.docs.blocks import read
from tests.docs.program import STARTED, program
from tests.docs.running import Chain
from tests.docs.shown import commands_of, differences
from tests.docs.worlds import World
from tests.support.forked_himl import PROGRAM
from tests.support.running import Himl

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the blocks are for bash")

SHOWN = ["Run train_1795254201_4b2e6fd8 (experiment train)", "…", "loss 0.512  1.2 KB", "Completed in 2.9s."]
SCREEN = "Run train_1700000000_00c0ffee (experiment train)\nepoch 1\nloss   0.53  700 B\nCompleted in 1m 02s.\n"


@pytest.fixture
def chain(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Chain:
    """A chain in an empty folder; NAME stands for a word."""
    monkeypatch.setenv("PATH", f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / "scratch").mkdir()
    return Chain(World(project, worlds.variables(), {"NAME": "value"}), tmp_path / "scratch")


def run(chain: Chain, *fences: str) -> None:
    """Run fences with the words of their markers, `exit=2 ```sh ...`."""
    for fence in fences:
        words, _, rest = fence.partition("```")
        (block,) = read("page.md", f"<!-- run: {' '.join(['here', *words.split()])} -->\n```{rest}\n```\n").blocks
        chain.run(block)


@pytest.mark.parametrize(
    ("screen", "wrong"),
    [
        (SCREEN, ""),
        (SCREEN.replace("0.53", "0.7"), "'loss 0.512 SIZE' is not printed"),
        (SCREEN.replace("loss   0.53  700 B\n", ""), "'loss 0.512 SIZE' is not printed"),
        (SCREEN.replace("experiment train", "experiment other"), "'Run ID (experiment train)' is not printed"),
        (SCREEN + "one more\n", "'Completed in DURATION.' is not printed where it is shown, or more is printed behind it"),
    ],
)
def test_what_is_printed_is_compared(screen: str, wrong: str) -> None:
    found = differences(SHOWN, screen)
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_commands_of_a_console_are_followed_by_what_they_show() -> None:
    assert commands_of("$ himl a\none\n\n$ himl b\n") == [("himl a", ["one", ""]), ("himl b", [])]


def test_folder_variables_and_files_are_handed_on(chain: Chain) -> None:
    fences = ("```sh\nmkdir a\ncd a\nword='NAME  NAMES'", "file=b/note.txt ```python\nprint(1)", "```sh\n[ \"$word\" = 'value  NAMES' ]\ngrep 1 b/note.txt")
    run(chain, *fences)
    assert chain.folder.name == "a"


@pytest.mark.parametrize(
    "fence",
    [
        "```sh\nfalse\ntrue",
        "```sh\nfalse | cat",
        "```sh\necho $nothing",
        "exit=2 ```sh\nexit 3",
        "shows ```console\n$ echo one\ntwo",
        "shows ```console\n$ echo one; exit 2\none",
        "```console\n$ false",
        "```python\nimport warnings\nwarnings.warn('old')",
        "```python\nraise SystemExit(3)",
        "```json\n{1: 2}",
        "```yaml\na: [",
        "```toml\na = ",
        "answer=y ```sh\nread word; [ $word = n ]",
        "until=up ```sh\npython -c 'import signal, time; signal.signal(2, lambda *_: exit(3)); print(\"up\", flush=True); time.sleep(60)'",
    ],
)
def test_a_block_that_fails_is_noticed(chain: Chain, fence: str) -> None:
    with pytest.raises((AssertionError, ValueError, yaml.YAMLError)) as caught:
        run(chain, fence)
    assert "page.md" in str(caught.value) or not isinstance(caught.value, AssertionError)


def test_endless_command_is_ended_after_expected_output(chain: Chain) -> None:
    endless = "import signal, sys, time; signal.signal(2, lambda *_: sys.exit()); print('up', flush=True); time.sleep(60)"
    run(chain, f'until=up ```sh\npython -c "{endless}"', "answer=y ```sh\nread word; [ $word = y ]", "exit=2 ```sh\nexit 2")


def test_settings_are_given_to_himl(chain: Chain) -> None:
    run(chain, '```toml\n[submit]\ncluster = "gpu"')
    with pytest.raises(AssertionError, match="clustr"):
        run(chain, '```toml\n[submit]\nclustr = "gpu"')


def test_the_fast_program_is_as_the_installed_one(himl: Himl, tmp_path: Path) -> None:
    with program(tmp_path / "p") as folder:
        fast = Himl(folder / "himl", himl.folder)
        for arguments in (["runs", "show", "gone"], ["--version"], ["runs", "list", "--json"], ["submit", "é b.py"]):
            wanted = himl(*arguments)
            for variables in ({}, {STARTED: "1"}):
                made = fast(*arguments, env=variables)
                assert (made.code, made.raw_stdout, made.raw_stderr) == (wanted.code, wanted.raw_stdout, wanted.raw_stderr)
