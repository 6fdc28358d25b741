"""Tests of `from himl_cli import cli`: a user's own tool, run as a program, has himl's options, formats, errors and
exit codes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
import typer
import typer.main
from typer.testing import CliRunner

from himl_cli import cli
from tests.api.scripts import run_script
from tests.support.running import write_files
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

BY_TYPER = """
from himl_cli import cli

app = cli.app("The losses of runs.")

@cli.command(app)
def losses(runs: cli.Runs, place: cli.Place, talk: cli.Talk) -> None:
    talk.rows({"run": run.id, "loss": run.get_metrics("loss").get("loss")} for run in runs.find(place))

cli.main(app)
"""
FOUND: dict[str, list[str]] = {
    "--run_ids train_1_aa --run-recovery-ids train:child_a": ["train_1_aa", "child_a"],
    "--run train_1_aa --children": ["child_a", "child_b"],
    "": ["child_a"],
    "--latest-run-file other.txt": ["train_1_aa"],
    "--experiment_name train --num-runs 2": ["train_2_bb", "train_1_aa"],
    "--experiment train --num_runs all --tags team=blue --status completed,queued": ["train_1_aa"],
}
REFUSED: dict[str, tuple[int, str]] = {
    "--run nope": (3, "error: No run 'nope' in local workspace"),
    "--run train_1_aa --experiment train": (2, "error: --run and --experiment cannot be combined."),
    "-w local --config_file config.json": (2, "error: --workspace and --config_file cannot be combined."),
    "--run train_1_aa -q --json": (2, '{"error": {"code": "usage"'),
    "--bogus": (2, "error: No such option '--bogus'."),
    "--format xml": (2, "error: --format must be human, json or quiet, not 'xml'."),
}


@pytest.fixture
def tool(project: Path, local_runs: RecordedRuns) -> Path:
    (project / "most_recent_run.txt").write_text("train:child_a\n")
    (project / "other.txt").write_text("train_1_aa\n")
    return written(project, BY_TYPER)


def written(folder: Path, text: str) -> Path:
    path = folder / "tool.py"
    path.write_text(text)
    return path


def said(tool: Path, *arguments: str) -> str:
    done = run_script(tool, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.large("starts a tool many times")
def test_tool_has_himls_options_formats_errors_and_help(tool: Path) -> None:
    for options, wanted in FOUND.items():
        assert said(tool, "-q", *options.split()).split() == wanted
    for options, (code, message) in REFUSED.items():
        done = run_script(tool, *options.split())
        assert (done.returncode, done.stdout, done.stderr[: len(message)]) == (code, "", message)
        assert all(line.startswith("hint: ") for line in done.stderr.splitlines()[1:])
    assert said(tool, "--run", "train_1_aa,train_2_bb") == "run\tloss\ntrain_1_aa\t[1.0, 0.5]\ntrain_2_bb\t\n"
    assert json.loads(said(tool, "--run", "child_a", "--json")) == [{"run": "child_a", "loss": 0.25}]
    assert said(tool, "--run", "child_a", "--format=quiet") == "child_a\n"
    found = run_script(tool, "--run", "train_1_aa", "-v")
    assert (found.returncode, "DEBUG himl_cli." in found.stderr) == (0, True)
    refused = run_script(tool, "--run", "nope", "--verbose")
    assert (refused.returncode, "Traceback" in refused.stderr, "\nerror: No run 'nope'" in refused.stderr) == (
        3,
        True,
        True,
    )
    text = said(tool, "--help")
    assert "The losses of runs." in text
    assert all(
        name in text
        for name in (
            "--run ",
            "--num_runs N",
            "--latest_run_file PATH",
            "--config_file PATH",
            "-w",
            "--json",
            "Runs:",
            "Output:",
        )
    )
    assert not [name for name in ("--num-runs", "--run_ids", "--experiment_name", "--config_path") if name in text]


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(tool: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(tool), "--run", "train_1_aa"],
        cwd=tool.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (141, b"")


AROUND = {
    "typer": "import typer\nfrom himl_cli import cli\napp = cli.app()\n@cli.command(app)\ndef tool() -> None:\n"
    "    {body}\ncli.main(app)\n",
    "without_typer": "import typer\nfrom himl_cli import cli\nwith cli.errors():\n    {body}\n",
}
INTERRUPTED = """
class Name:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class made:
    name = Name()
"""
"""Ctrl-C while a class is created. Python 3.10 and 3.11 raise RuntimeError in that case."""
INTERRUPTED_WAIT = """
import threading

class Lock:
    def __init__(self):
        lock = threading.Lock()
        self.acquire, self.free = lock.acquire, lock.release

    __enter__ = lambda self: self.acquire()
    __exit__ = lambda self, *error: self.free()

    def release(self):
        self.free()
        raise KeyboardInterrupt

with (waited := threading.Condition(Lock())):
    waited.wait(1)
"""
"""Ctrl-C just after the wait of a condition released its lock: leaving the condition raises RuntimeError."""


@pytest.mark.large("starts a tool many times")
@pytest.mark.parametrize("kind", AROUND)
def test_how_a_tool_ends(project: Path, kind: str) -> None:
    write_files(project, {"interrupted.py": INTERRUPTED, "waiting.py": INTERRUPTED_WAIT})
    for body, (code, message) in {
        "raise KeyboardInterrupt": (130, "error: Interrupted.\n"),
        "from interrupted import made": (130, "error: Interrupted.\n"),
        "import waiting": (130, "error: Interrupted.\n"),
        "raise typer.Abort": (1, "error: Aborted.\n"),
        "raise SystemExit(7)": (7, ""),
        "cli.Runs().find(explicit=True)": (2, "error: No run was given."),
        "cli.Runs().find()": (3, "error: No workspace: "),
        "print('data'); raise SystemExit": (0, ""),
    }.items():
        done = run_script(written(project, AROUND[kind].format(body=body)))
        assert (done.returncode, done.stderr.startswith(message), bool(done.stderr)) == (code, True, bool(message)), (
            body,
            done.stderr,
        )
    done = run_script(written(project, AROUND[kind].format(body="{}['key']")))
    assert (done.returncode, done.stderr.startswith("Traceback"), done.stderr.endswith("KeyError: 'key'\n")) == (
        1,
        True,
        True,
    )


INTERRUPTED_AT_OPTIONS = """
import typer
from himl_cli import cli

def interrupt(value: str) -> str:
    raise KeyboardInterrupt

app = cli.app()

@cli.command(app)
def tool(name: str = typer.Option("", callback=interrupt)) -> None:
    pass

cli.main(app)
"""


def test_an_interruption_while_options_are_read_is_reported(project: Path) -> None:
    done = run_script(written(project, INTERRUPTED_AT_OPTIONS))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: Interrupted.\n")


IN_A_DESTRUCTOR = """
import signal
import time
from himl_cli import cli

class Held:
    def __del__(self) -> None:
        {body}

app = cli.app()

@cli.command(app)
def tool() -> None:
    Held()
    time.sleep({seconds})
    print("goes on")

cli.main(app)
"""
SLOW = """
import threading
import time
start = threading.Thread.start
def slow(thread: threading.Thread) -> None:
    start(thread)
    time.sleep(0.1)
threading.Thread.start = slow
"""
"""A machine that takes long to start a thread."""


def test_an_interruption_in_a_destructor_is_not_ignored(project: Path) -> None:
    done = run_script(written(project, IN_A_DESTRUCTOR.format(body="signal.raise_signal(signal.SIGINT)", seconds=600)))
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: Interrupted.\n")
    done = run_script(
        written(project, SLOW + IN_A_DESTRUCTOR.format(body="signal.raise_signal(signal.SIGINT)", seconds=20))
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: Interrupted.\n")
    done = run_script(written(project, IN_A_DESTRUCTOR.format(body="signal.raise_signal(signal.SIGINT)", seconds=0)))
    assert (done.returncode, done.stderr) in {(0, ""), (130, "error: Interrupted.\n")}, "0 if it came too late"
    done = run_script(written(project, IN_A_DESTRUCTOR.format(body="raise ValueError", seconds=0)))
    assert (done.returncode, done.stdout) == (0, "goes on\n")
    assert "ValueError" in done.stderr


@pytest.mark.parametrize("own", [True, False])
def test_log_of_a_tool_is_its_own(project: Path, own: bool) -> None:
    setup = "import logging\n" + own * "logging.basicConfig(format='mine: %(message)s')\n"
    body = "logging.warning('of the tool')"
    expected = r"mine: of the tool\n" if own else r"[-0-9]+ [:,0-9]+ WARNING root: of the tool\n"
    without = run_script(written(project, setup + AROUND["without_typer"].format(body=body)))
    talking = (
        BY_TYPER.partition("@cli.command")[0]
        + f"@cli.command(app)\ndef tool(talk: cli.Talk) -> None:\n    {body}\ncli.main(app)\n"
    )
    for done in (without, run_script(written(project, setup + talking))):
        assert re.fullmatch(expected, done.stderr), done.stderr


SEVERAL = """
from himl_cli import cli

app = cli.app("Tools of the lab.")

@cli.command(app)
def show_all(place: cli.Place, parallel: int = 1, workers: int = 2, config_path: str = "") -> None:
    "Show the numbers."
    print(parallel, workers, place.config_file)

@cli.command(app, "other")
def unused(talk: cli.Talk) -> None:
    "Ask."
    talk.notice("a notice")
    talk.result({"is": talk.confirm("Really?")}, human="yes", quiet="y")

cli.main(app)
"""


def test_several_commands_are_a_group_and_ask(project: Path) -> None:
    tool = written(project, SEVERAL)
    assert [said(tool, command, "--parallel", "3") for command in ("show_all", "show-all")] == ["3 2 None\n"] * 2
    text = said(tool, "-h")
    assert "Tools of the lab." in text
    assert "show_all" in text
    assert "Ask." in text
    unknown = run_script(tool, "show_al")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (
        2,
        "error: No such command 'show_al'. Did you mean 'show_all'?",
    )
    nothing = run_script(tool)
    assert (nothing.returncode, nothing.stdout, nothing.stderr.startswith("Usage: tool.py")) == (2, "", True)
    done = run_script(tool, "other", "--yes")
    assert (done.stdout, done.stderr) == ("yes\n", "a notice\n")
    assert (said(tool, "other", "--yes", "-q"), json.loads(run_script(tool, "other", "--yes", "--json").stdout)) == (
        "y\n",
        {"is": True},
    )
    refused = run_script(tool, "other")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error: Really? This needs confirmation, and there is no terminal." in refused.stderr


INTERRUPTED_AT_A_QUESTION = """
import signal
import threading
from himl_cli import cli

app = cli.app()

@cli.command(app)
def tool(talk: cli.Talk) -> None:
    threading.Timer(0.5, lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT)).start()
    talk.confirm("Really?")

cli.main(app)
"""
"""A signal to another thread does not end the main thread's read. Neither does a signal that arrives just before
that read.
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_an_interruption_just_before_the_answer_is_read_is_not_lost(project: Path) -> None:
    terminal = Terminal(
        [sys.executable, str(written(project, INTERRUPTED_AT_A_QUESTION))], cwd=project, env={"NO_COLOR": "1"}
    )
    assert (terminal.finish(), terminal.screen) == (130, "Really? [y/N] error: Interrupted.\n")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_rows_are_a_table_that_fits_the_terminal(project: Path) -> None:
    rows = [
        {"run": "train_1_aa", "val/loss": 0.123456789, "tags": ["a", "b"]},
        {"run": "train_2_bb", "val/loss": None, "text": "long " * 30},
    ]
    tool = written(project, AROUND["without_typer"].format(body=f"cli.Talk().rows({rows!r})"))
    terminal = Terminal([sys.executable, str(tool)], cwd=project, columns=60, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    head, first, second = terminal.screen.splitlines()
    assert (head.split(), first.split()) == (
        ["RUN", "VAL/LOSS", "TAGS", "TEXT"],
        ["train_1_aa", "0.123457", '["a",', '"b"]'],
    )
    assert second.startswith("train_2_bb ")
    assert second.endswith("…")
    assert max(map(len, (head, first, second))) <= 60


def test_typers_runner_sees_what_a_user_sees(local_runs: RecordedRuns) -> None:
    app = cli.app()

    @cli.command(app)
    def tool(runs: cli.Runs, talk: cli.Talk, named: cli.RunArguments = None) -> None:
        talk.rows(({"run": run.id} for run in runs.find(named=named)), empty="None.")

    assert cli.Place().open().get_run("train_1_aa").tags == {"team": "blue"}
    found = CliRunner().invoke(app, ["train_2_bb", "--run", "train_1_aa"])
    assert (found.exit_code, found.stdout) == (0, "run\ntrain_2_bb\ntrain_1_aa\n")
    missing = CliRunner().invoke(app, ["nope", "--json"])
    assert (missing.exit_code, missing.stdout) == (3, "")
    assert json.loads(missing.stderr)["error"]["code"] == "run_not_found"

    def of_its_own(run: str, runs: cli.Runs) -> None: ...

    def twice(ours: cli.Talk, theirs: cli.Talk) -> None: ...

    said = (
        "of_its_own(): 'run' is declared twice: 'runs: Runs' already has an option of that name. Rename the "
        "parameter 'run'."
    )
    with pytest.raises(ValueError, match=re.escape(said)):
        cli.command(cli.app())(of_its_own)
    with pytest.raises(ValueError, match=re.escape("already has an option of that name. Omit 'theirs: Talk'.")):
        cli.command(cli.app())(twice)


def test_plain_typer_takes_single_options_and_bundles(local_runs: RecordedRuns) -> None:
    def bundled(runs: cli.Runs) -> None:
        typer.echo(" ".join(run.id for run in runs.find()))

    wrong, right = typer.Typer(), typer.Typer()
    wrong.command()(bundled)
    with pytest.raises(
        RuntimeError, match=r"himl_cli\.cli\.Runs, which needs @cli\.command\(app\) in place of @app\.command\(\)"
    ):
        CliRunner().invoke(wrong, ["train_1_aa"], catch_exceptions=False)
    cli.command(right)(bundled)
    assert CliRunner().invoke(right, ["--run-ids", "train_1_aa"]).stdout == "train_1_aa\n"
    app = typer.Typer()

    @app.command()
    def tool(
        run: cli.RunOption = None,
        experiment: cli.ExperimentOption = None,
        num_runs: cli.NumRunsOption = None,
        tags: cli.TagsOption = None,
        status: cli.StatusOption = None,
        latest_run_file: cli.LatestRunFileOption = None,
        workspace: cli.WorkspaceOption = None,
        config_file: cli.ConfigFileOption = None,
        loud: Annotated[bool, typer.Option("--loud")] = False,
    ) -> None:
        runs = cli.Runs(run, experiment, num_runs, tags, status, latest_run_file).find(
            cli.Place(workspace, config_file)
        )
        typer.echo(" ".join(each.id.upper() if loud else each.id for each in runs))

    every = [
        "--experiment",
        "train",
        "--num_runs",
        "2",
        "--status",
        "failed",
        "--tags",
        "team=red",
        "--workspace",
        "local",
        "--loud",
    ]
    assert CliRunner().invoke(app, every).stdout == "TRAIN_2_BB\n"
    assert CliRunner().invoke(app, ["--run", "train_1_aa,child_a"]).stdout == "train_1_aa child_a\n"


@pytest.mark.usefixtures("unmeasured")
def test_the_import_is_light() -> None:
    heavy = [
        "rich",
        "azure",
        "msgspec",
        "yaml",
        "sqlite3",
        "asyncio",
        "mlflow",
        "pydantic",
        "himl_cli.app",
        "himl_cli.api.workspace",
    ]
    program = f"from himl_cli import cli; import sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "[]\n"
