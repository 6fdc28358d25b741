"""`from himl_cli import cli`: a tool of one's own, run as a program, has himl's options, formats, errors and exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.api.scripts import run_script
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
FOUND: list[tuple[list[str], list[str]]] = [
    (["--run", "train_1_aa"], ["train_1_aa"]),
    (["--run", "train_1_aa,child_a"], ["train_1_aa", "child_a"]),
    (["--run=train_1_aa", "--run", "train_2_bb"], ["train_1_aa", "train_2_bb"]),
    (["--run_ids", "train_1_aa", "--run-recovery-ids", "train:child_a"], ["train_1_aa", "child_a"]),
    (["--run", "latest"], ["train_2_bb"]),
    (["--run", "train_1_aa", "--children"], ["child_a", "child_b"]),
    ([], ["child_a"]),
    (["--latest_run_file", "other.txt"], ["train_1_aa"]),
    (["--latest-run-file", "other.txt"], ["train_1_aa"]),
    (["--experiment", "train"], ["train_2_bb"]),
    (["--experiment_name", "train", "--num-runs", "2"], ["train_2_bb", "train_1_aa"]),
    (["--experiment", "train", "--num_runs", "all", "--tags", "team=blue"], ["train_1_aa"]),
    (["--experiment", "train", "--status", "completed,queued"], ["train_1_aa"]),
    (["--run", "train_1_aa", "--workspace", "local"], ["train_1_aa"]),
    (["--run", "train_1_aa", "-w", ".himl"], ["train_1_aa"]),
]
REFUSED: list[tuple[list[str], int, str]] = [
    (["--run", "nope"], 3, "error: No run 'nope' in local workspace"),
    (["--run", "train_1_aa", "--experiment", "train"], 2, "error: Two selections at once: --run and --experiment."),
    (["--num_runs", "2"], 2, "error: --num_runs selects among the runs of an experiment."),
    (["--experiment", "train", "--num_runs", "few"], 2, "error: --num_runs takes a whole number from 1, or 'all', got 'few'."),
    (["--experiment", ""], 2, "error: --experiment got an empty value."),
    (["--run", "train_1_aa", "--config_path", "nowhere.json"], 3, "error: There is no file 'nowhere.json'."),
    (["-w", "local", "--config_file", "config.json"], 2, "error: Two workspaces at once: --workspace and --config_file."),
    (["--run", "train_1_aa", "--quiet", "--format", "human"], 0, ""),
    (["--run", "train_1_aa", "-q", "--json"], 2, '{"error": {"code": "usage"'),
]


@pytest.fixture
def tool(project: Path, local_runs: RecordedRuns) -> Path:
    """A tool in a folder with recorded runs."""
    (project / "most_recent_run.txt").write_text("train:child_a\n")
    (project / "other.txt").write_text("train_1_aa\n")
    return written(project, BY_TYPER)


def written(folder: Path, text: str) -> Path:
    path = folder / "tool.py"
    path.write_text(text)
    return path


def said(tool: Path, *arguments: str) -> str:
    done = run_script(tool, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize(("arguments", "found"), FOUND, ids=[" ".join(case[0]) for case in FOUND])
def test_the_runs_that_himls_options_mean_are_found(tool: Path, arguments: list[str], found: list[str]) -> None:
    assert said(tool, "-q", *arguments).split() == found


@pytest.mark.parametrize(("arguments", "code", "message"), REFUSED, ids=[" ".join(case[0]) for case in REFUSED])
def test_what_cannot_be_is_one_line_a_hint_and_himls_exit_code(tool: Path, arguments: list[str], code: int, message: str) -> None:
    done = run_script(tool, *arguments)
    lines = done.stderr.splitlines()
    assert done.returncode == code
    assert done.stderr.startswith(message)
    assert bool(done.stdout) is (code == 0)
    assert all(line.startswith("hint: ") for line in lines[1:])


def test_rows_come_in_the_form_that_is_asked_for(tool: Path) -> None:
    assert said(tool, "--run", "train_1_aa,train_2_bb") == "run\tloss\ntrain_1_aa\t[1.0, 0.5]\ntrain_2_bb\t\n"
    assert json.loads(said(tool, "--run", "child_a", "--json")) == [{"run": "child_a", "loss": 0.25}]
    assert said(tool, "--run", "child_a", "--format=quiet") == "child_a\n"


def test_verbose_is_a_debug_log_and_a_traceback(tool: Path) -> None:
    found = run_script(tool, "--run", "train_1_aa", "-v")
    assert (found.returncode, "DEBUG himl_cli." in found.stderr) == (0, True)
    refused = run_script(tool, "--run", "nope", "--verbose")
    assert refused.returncode == 3
    assert "Traceback" in refused.stderr
    assert "\nerror: No run 'nope'" in refused.stderr


def test_help_has_himls_options_under_todays_names(tool: Path) -> None:
    text = said(tool, "--help")
    assert "The losses of runs." in text
    assert all(name in text for name in ("--run ", "--num_runs N", "--latest_run_file PATH", "--config_file PATH", "-w", "--json", "Which runs:", "Output:"))
    assert not [name for name in ("--num-runs", "--run_ids", "--experiment_name", "--config_path") if name in text]


def test_an_option_that_is_unknown_or_lacks_its_value_is_exit_2(tool: Path) -> None:
    for arguments in (["--bogus"], ["--num-runs"], ["--format", "xml"]):
        done = run_script(tool, *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert arguments[0] in done.stderr or arguments[0].replace("-", "_").replace("__", "--") in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(tool: Path) -> None:
    with subprocess.Popen([sys.executable, str(tool), "--run", "train_1_aa"], cwd=tool.parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        said = running.stderr.read()
    assert (running.returncode, said) == (141, b"")


AROUND = {
    "typer": "import typer\nfrom himl_cli import cli\napp = cli.app()\n@cli.command(app)\ndef tool() -> None:\n    {body}\ncli.main(app)\n",
    "without_typer": "import typer\nfrom himl_cli import cli\nwith cli.errors():\n    {body}\n",
}
INTERRUPTED = """
class Name:
    def __set_name__(self, owner, name):
        raise KeyboardInterrupt

class made:
    name = Name()
"""
"""Ctrl-C while a class is made: Python 3.10 and 3.11 raise RuntimeError then."""


@pytest.mark.parametrize("kind", AROUND)
@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("raise KeyboardInterrupt", 130, "error: Interrupted.\n"),
        ("from interrupted import made", 130, "error: Interrupted.\n"),
        ("raise typer.Abort", 1, "error: Aborted.\n"),
        ("raise SystemExit(7)", 7, ""),
        ("cli.Runs().find(explicit=True)", 2, "error: Say which run is meant."),
        ("cli.Runs().find()", 3, "error: No workspace: "),
        ("print('data'); raise SystemExit", 0, ""),
    ],
)
def test_how_a_tool_ends(project: Path, kind: str, body: str, code: int, message: str) -> None:
    (project / "interrupted.py").write_text(INTERRUPTED, encoding="utf-8")
    done = run_script(written(project, AROUND[kind].format(body=body)))
    assert (done.returncode, done.stderr.startswith(message)) == (code, True), done.stderr
    assert bool(done.stderr) is bool(message)


@pytest.mark.parametrize("kind", AROUND)
def test_a_bug_of_the_tool_keeps_its_traceback(project: Path, kind: str) -> None:
    done = run_script(written(project, AROUND[kind].format(body="{}['key']")))
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert done.stderr.endswith("KeyError: 'key'\n")


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


def test_several_commands_are_a_group(project: Path) -> None:
    tool = written(project, SEVERAL)
    assert [said(tool, command, "--parallel", "3") for command in ("show_all", "show-all")] == ["3 2 None\n"] * 2
    text = said(tool, "-h")
    assert "Tools of the lab." in text
    assert "show_all" in text
    assert "Ask." in text
    unknown = run_script(tool, "show_al")
    assert (unknown.returncode, unknown.stderr.splitlines()[0]) == (2, "error: No such command 'show_al'. Did you mean 'show_all'?")
    nothing = run_script(tool)
    assert (nothing.returncode, nothing.stdout, nothing.stderr.startswith("Usage: tool.py")) == (2, "", True)


def test_talk_asks_says_and_prints(project: Path) -> None:
    tool = written(project, SEVERAL)
    done = run_script(tool, "other", "--yes")
    assert (done.stdout, done.stderr) == ("yes\n", "a notice\n")
    assert (said(tool, "other", "--yes", "-q"), json.loads(run_script(tool, "other", "--yes", "--json").stdout)) == ("y\n", {"is": True})
    refused = run_script(tool, "other")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "error: Really? There is nobody to answer here." in refused.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
def test_rows_are_a_table_that_fits_the_terminal(project: Path) -> None:
    rows = [{"run": "train_1_aa", "val/loss": 0.123456789, "tags": ["a", "b"]}, {"run": "train_2_bb", "val/loss": None, "text": "long " * 30}]
    tool = written(project, AROUND["without_typer"].format(body=f"cli.Talk().rows({rows!r})"))
    terminal = Terminal([sys.executable, str(tool)], cwd=project, columns=60, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    head, first, second = terminal.screen.splitlines()
    assert (head.split(), first.split()) == (["RUN", "VAL/LOSS", "TAGS", "TEXT"], ["train_1_aa", "0.123457", '["a",', '"b"]'])
    assert second.startswith("train_2_bb ")
    assert second.endswith("…")
    assert max(map(len, (head, first, second))) <= 60
