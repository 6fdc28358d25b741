"""Tests of `himl runs list --watch` and `himl runs show --watch`, in terminals and through a pipe, while runs grow
locally and on the double of Azure ML.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest

from himl_cli.render.watch import sparkline
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl
from tests.support.runs import posix
from tests.support.terminals import Terminal

SCRIPT = r"""
import os, sys, time
from himl_cli import RUN_CONTEXT
print("\x1b[31mred\x1b[0m bell\a \x1b]0;title\a end" + "!" * 300)
print("10%\r20%\r100%", flush=True)
for step in range(5):
    RUN_CONTEXT.log("val/loss", 1 / (1 + step), step=step)
    RUN_CONTEXT.log("odd\x1b[5mname\n", float("nan") if step == 4 else step, step=step)
RUN_CONTEXT.flush()
while not os.path.exists(sys.argv[1]):
    time.sleep(0.02)
RUN_CONTEXT.log("val/loss", 0.125, step=5)
print("done")
sys.exit(int(sys.argv[2]))
"""
OTHER_WIDTH = pytest.mark.large("watches jobs of several seconds at another width")
FINAL = "\x1b[?1049l"
"""The sequence after which a terminal shows its own lines again."""


@pytest.fixture
def go(project: Path, tmp_path: Path) -> Path:
    """Write the script to the project. It continues once the returned file exists."""
    (project / "train.py").write_text(SCRIPT)
    return tmp_path / "go"


def submitted(himl: Himl, go: Path, code: int = 0, options: Sequence[str] = ()) -> str:
    return himl.ok("submit", "train.py", "--no_wait", "-q", *options, "--", str(go), str(code)).stdout.strip()


def plain(text: str) -> str:
    shown = re.sub(r"\x1b\[[0-?]*[ -/]*[@-~]", "", text)
    assert all(sign.isprintable() or sign == "\n" for sign in shown), ascii(shown)
    return shown


def watching(himl: Himl, columns: int, *arguments: str) -> Terminal:
    return Terminal(
        [str(himl.program), *arguments, "--watch"], cwd=himl.folder, columns=columns, env={"PYTHONIOENCODING": "utf-8"}
    )


@posix
@pytest.mark.usefixtures("known_disk")  # elsewhere a list reads metrics every two minutes
@pytest.mark.parametrize("columns", [pytest.param(60, marks=OTHER_WIDTH), pytest.param(80, marks=OTHER_WIDTH), 200])
def test_terminal_shows_a_run_until_it_ends(himl: Himl, go: Path, columns: int) -> None:
    run_id = submitted(himl, go)
    terminals = [watching(himl, columns, "runs", "show", run_id), watching(himl, columns, "runs", "list")]
    terminals[0].wait_for("100%")
    for terminal in terminals:
        terminal.wait_for("Running")
    if columns > 60:
        terminals[1].wait_for("odd [5mname")
    go.touch()
    assert [terminal.finish() for terminal in terminals] == [0, 0]
    screens = [plain(terminal.screen.rpartition(FINAL)[2]) for terminal in terminals]
    assert all(len(line) <= columns for screen in screens for line in screen.splitlines())
    assert re.search(rf"^{run_id}  Completed after \S+", screens[0])
    assert re.search(r"^val/loss +0\.125 +5 +█[▁-▇]*▁$", screens[0], re.MULTILINE)
    assert re.search(r"^odd \[5mname +NaN +4 +▁▃▆█ ?$", screens[0], re.MULTILINE)
    assert "red bell end!!!" in re.sub(" +", " ", screens[0])
    assert screens[0].splitlines()[-2:] == ["100%", "done"]
    assert re.search(rf"^{run_id} .*Completed", screens[1], re.MULTILINE)
    assert ("val/loss 0.125 " in screens[1]) is (columns == 200)


@pytest.mark.large("takes long, and other tests run its branches")
def test_pipe_gets_a_line_for_each_change_and_the_exit_code_of_the_run(himl: Himl, go: Path) -> None:
    run_id = submitted(himl, go, code=3)
    shown, listed = (
        himl.start("runs", *words, "--watch") for words in (("show", run_id), ("list", "--experiment", "train"))
    )
    assert shown.stdout is not None
    first = shown.stdout.readline().decode()
    go.touch()
    for process in (shown, listed):
        out, err = process.communicate(timeout=100)
        text = (first if process is shown else "") + out.decode()
        rows = [line.split("\t") for line in text.splitlines() if plain(line.replace("\t", ""))]
        assert {tuple(row[1:2]) for row in rows} == {(run_id,)}
        assert [row[3] for row in rows if row[2] == "status"][-1] == "Failed"
        assert [row[3] for row in rows if row[2] == "val/loss"][-1] == "0.125"
        assert (process.returncode, run_id in err.decode()) == (1, True)
    again = himl("runs", "show", run_id, "--watch")
    assert (again.code, "exit code 3" in again.stderr) == (1, True)
    assert himl("runs", "list", "--watch").code == 0  # because no run is in progress


@pytest.mark.large("runs many trials")
@posix
@pytest.mark.parametrize("columns", [0, 60, pytest.param(200, marks=OTHER_WIDTH)])
def test_sweep_shows_progress_and_ctrl_c_stops_watching_only(himl: Himl, go: Path, columns: int) -> None:
    run_id = submitted(himl, go, options=["--sweep", "lr=0.1,0.2,0.3", "--max_concurrent", "3"])
    for words in (("list",), ("show", run_id)):
        if columns:
            terminal = watching(himl, columns, "runs", *words)
            terminal.wait_for("0/3")
            terminal.wait_for("Running")
            terminal.interrupt()
            code, text = terminal.finish(), terminal.screen.rpartition(FINAL)[2]
        else:
            process = himl.start("runs", *words, "--watch")
            assert process.stdout is not None
            while b"0/3" not in process.stdout.readline():
                assert process.poll() is None
            os.kill(process.pid, signal.SIGINT)
            text, code = process.communicate(timeout=100)[1].decode(), process.returncode
        assert (code, f"himl runs cancel {run_id}" in plain(text).replace("\n", "")) == (130, True)
    go.touch()
    outcome = himl("runs", "show", run_id, "--watch")
    assert (outcome.code, "3/3" in outcome.stdout) == (0, True)


@posix
def test_submit_shows_trials_on_a_terminal_and_ctrl_c_cancels_them(himl: Himl, go: Path) -> None:
    for is_interrupted in (True, False):
        command = [
            str(himl.program),
            "submit",
            "train.py",
            "--sweep",
            "lr=0.1,0.2",
            "--max_concurrent",
            "2",
            "--",
            str(go),
            "0",
        ]
        terminal = Terminal(command, cwd=himl.folder, columns=100, env={"PYTHONIOENCODING": "utf-8"})
        terminal.wait_for("0/2 ended: 2 Running")
        if is_interrupted:
            terminal.interrupt()
        else:
            go.touch()
        code, text = terminal.finish(), plain(terminal.screen.rpartition(FINAL)[2])
        status = "2 Canceled" if is_interrupted else "2 Completed"
        assert (code, f"2/2 ended: {status}" in text, "was canceled." in text) == (
            130 * is_interrupted,
            True,
            is_interrupted,
        ), text
        assert is_interrupted or text.count("val/loss") == 1, text


def test_runs_of_azure_are_watched_to_their_end(himl: Himl, azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    azure.write_config(project)
    run = azure.add_run("train_1_aa", "train", status="Running")
    azure.add_metric(run, "val/loss", [0.5, 0.25])
    watchers = [himl.start("runs", *words, "--watch") for words in (("show", "train_1_aa"), ("list",))]
    for watcher in watchers:
        assert watcher.stdout is not None
        while b"val/loss\t0.25\n" not in watcher.stdout.readline():
            assert watcher.poll() is None
    azure.add_metric(run, "val/loss", [0.125], steps=[2])
    run.ended, run.status = run.started, "Failed"
    for watcher in watchers:
        out, _ = watcher.communicate(timeout=100)
        last = {row[2]: row[3] for row in (line.split("\t") for line in out.decode().splitlines()) if len(row) == 4}
        assert (last["status"], last["val/loss"]) == ("Failed", "0.125")
        assert watcher.returncode == 1


@pytest.mark.parametrize("arguments", [("list", "--json"), ("show", "a", "-q"), ("show", "a,b")])
def test_what_cannot_be_watched_is_refused(himl: Himl, arguments: Sequence[str]) -> None:
    outcome = himl("runs", *arguments, "--watch")
    assert (outcome.code, "--watch" in outcome.stderr) == (2, True)


def test_sparkline_shows_the_course_of_any_numbers() -> None:
    many = [float(number) for number in range(1000)]
    assert [sparkline(values, 8) for values in ([], [1.0], many)] == [
        "",
        sparkline([5.0], 8),
        "".join(sorted(sparkline(many, 8))),
    ]
    assert len({*sparkline(many, 8)}) == 8
    assert sparkline([float("nan"), 0.0, float("inf"), 1.0], 8)[0::2] == "  "
    assert len(sparkline([-1e308, 1e308, 0.0], 8)) == 3
