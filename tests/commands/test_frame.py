"""The frame around all commands: names, spellings, script arguments, streams."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import himl_cli
from tests.support.running import Himl
from tests.support.runs import RecordedRuns

STOPPED = "error: Interrupted.\n"


@pytest.fixture
def himl(started_himl: Himl) -> Himl:
    return started_himl


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("first_1_aa", experiment="first")
    runs.add("second_2_bb", experiment="second")
    return runs


def test_version(himl: Himl) -> None:
    assert himl.ok("--version").stdout == f"himl {himl_cli.__version__}\n"


def test_python_m_is_the_same_program(project: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "himl_cli", "--version"], capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stdout) == (0, f"himl {himl_cli.__version__}\n")


@pytest.mark.skipif(os.name != "posix", reason="Windows has no such end by a signal")
@pytest.mark.parametrize(
    ("moment", "code", "said"),
    [
        ("atexit.register(interrupt)", -signal.SIGINT, ""),
        (
            "sys.setprofile(lambda frame, event, of: frame.f_code.co_name == 'stand_in_for_closed_streams' and event == 'call' and interrupt())",
            130,
            STOPPED,
        ),
        ("sys.setprofile(lambda frame, event, of: frame.f_code.co_name == 'run_at_edge' and event == 'return' and interrupt())", 130, STOPPED),
    ],
    ids=["when it is through", "before the edge", "behind the edge"],
)
def test_ctrl_c_at_the_very_begin_or_end_is_no_traceback(project: Path, moment: str, code: int, said: str) -> None:
    interrupt = "interrupt = lambda: (sys.setprofile(None), signal.raise_signal(signal.SIGINT))"
    script = f"import atexit, signal, sys\nfrom himl_cli.__main__ import main\n{interrupt}\n{moment}\nmain()"
    done = subprocess.run([sys.executable, "-c", script, "--version"], capture_output=True, text=True, cwd=project)
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("option", ["--num_runs", "--num-runs"])
def test_dash_and_underscore_are_alike(himl: Himl, option: str) -> None:
    assert himl.ok("runs", "list", option, "1", "-q").stdout == "second_2_bb\n"
    assert himl.ok("runs", "list", f"{option}=1", "-q").stdout == "second_2_bb\n"


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("option", ["--run", "--run_ids", "--run-ids", "--run_recovery_ids"])
def test_old_names_of_options_still_work(himl: Himl, option: str) -> None:
    assert himl.ok("runs", "show", option, "first_1_aa", "-q").stdout == "first_1_aa\n"


@pytest.mark.usefixtures("recorded")
def test_experiment_name_is_experiment(himl: Himl) -> None:
    assert himl.ok("runs", "show", "--experiment_name", "first", "-q").stdout == "first_1_aa\n"


@pytest.mark.usefixtures("recorded")
def test_lists_are_repeated_or_comma_separated(himl: Himl) -> None:
    both = "first_1_aa\nsecond_2_bb\n"
    assert himl.ok("runs", "show", "--run", "first_1_aa", "--run", "second_2_bb", "-q").stdout == both
    assert himl.ok("runs", "show", "--run", "first_1_aa,second_2_bb", "-q").stdout == both
    assert himl.ok("runs", "show", "first_1_aa", "second_2_bb", "-q").stdout == both


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("form", [["--json"], ["--format", "json"], ["--format=json"]])
def test_json_is_one_document_on_stdout(himl: Himl, form: list[str]) -> None:
    outcome = himl.ok("runs", "list", *form)
    assert [run["id"] for run in outcome.json()] == ["second_2_bb", "first_1_aa"]
    assert outcome.stderr == ""


@pytest.mark.usefixtures("recorded")
@pytest.mark.parametrize("arguments", ["runs show first_1_aa", "--help", "--version", "runs --help", "runs list --help"])
def test_a_reader_that_leaves_is_no_error(himl: Himl, arguments: str) -> None:
    running = himl.start(*arguments.split())
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.close()
    said = running.stderr.read()
    running.stderr.close()
    assert (running.wait(60), said) == (141, b"")


def test_words_outside_the_terminals_encoding_are_escaped(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("odd_3_cc", display_name="größe")
    outcome = himl("runs", "list", "--num_runs", "1", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    assert outcome.code == 0
    assert rb"gr\xf6\xdfe" in outcome.raw_stdout


def test_control_characters_in_names_cannot_reach_the_terminal(himl: Himl, recorded: RecordedRuns) -> None:
    recorded.add("odd_3_cc", display_name="a\x1b[31m\tb\nc")
    lines = himl.ok("runs", "list", "--num_runs", "1").stdout.splitlines()
    assert len(lines) == 2
    assert lines[1].split("\t")[2] == "a [31m b c"
