"""Runs on other machines that were submitted from here, found without naming the machine."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.folders import contents
from tests.support.running import PROGRAM, Himl, Outcome, until, write_files
from tests.support.runs import RecordedRuns
from tests.support.spreading import STARTS_SSH
from tests.support.ssh import SshServer

pytestmark = pytest.mark.large(STARTS_SSH)

SCRIPT = """
import sys, time
from pathlib import Path
from himl_cli import RUN_CONTEXT
RUN_CONTEXT.log("loss", 0.5)
Path("outputs/checkpoints").mkdir(parents=True, exist_ok=True)
Path("outputs/checkpoints/last.ckpt").write_text("weights")
print("from there", flush=True)
while "--wait" in sys.argv and not Path("go").exists():
    time.sleep(0.05)
"""
TO_BOX = ("submit", "train.py", "--cluster", "ssh:box")


def states(himl: Himl, *words: str) -> dict[str, str]:
    """The runs and their states once the machine answers as soon as a list awaits."""
    listed: list[Outcome] = []

    def is_current() -> bool:
        listed.append(himl("runs", "list", "--json", *words))
        return "last seen" not in listed[-1].stderr

    until(is_current, lambda: listed[-1].stderr)
    return {run["id"]: run["status"] for run in listed[-1].json()}


def completed(project: Path, question: str, *words: str) -> list[str]:
    return subprocess.run(
        [PROGRAM, "--complete", question, *words], cwd=project, check=True, capture_output=True, text=True
    ).stdout.split()


def test_runs_elsewhere_are_found_by_every_command(box: SshServer, himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": SCRIPT, "here.py": "print('here')"})
    here = himl("submit", "here.py", "--json").json()["id"]
    run = himl(*TO_BOX, "--wait", "--json").json()["id"]
    assert (project / "most_recent_run.txt").read_text() == f"train:{run}\n"
    digits = run.split("_")[-1]
    for words in (["latest"], [run], [digits], [run[:-2]], [], ["--experiment", "train"]):
        assert himl("runs", "show", "--json", *words).json()["id"] == run, words
    assert himl("runs", "logs", digits).stdout == "from there\n"
    assert states(himl) == {run: "Completed", here: "Completed"}
    assert [*states(himl, "--num_runs", "1")] == [run]
    assert [*states(himl, "--experiment", "train", "--status", "Completed")] == [run]
    assert states(himl, "--status", "Failed") == {}
    assert [*states(himl, "--where", "loss < 1")] == [run]
    assert [*states(himl, "-w", "local")] == [here]
    assert "loss" in himl("runs", "aggregate", run, here).stdout
    assert himl("runs", "tag", digits, "team=red").code == 0
    assert [*states(himl, "--tags", "team=red")] == [run]
    assert himl("download", run).code == 0
    assert "outputs/checkpoints/last.ckpt" in contents(project / "outputs" / run)
    assert himl("checkpoint", "fetch", run).code == 0
    assert completed(project, "runs=train_") == [run]
    assert {*completed(project, "experiments=")} == {"here", "train"}
    assert completed(project, "runs=", "-w", "ssh:box") == [run, "latest"]
    assert completed(project, "experiments=", "--workspace=ssh:box") == ["train"]
    assert completed(project, "runs=", "-w", "ssh:box:elsewhere") == ["latest"]
    assert himl("runs", "cancel", digits).code == 0
    assert himl("runs", "delete", digits, "--yes").code == 0
    assert (himl("runs", "show", run).code, [*states(himl)]) == (3, [here])
    assert himl("runs", "list", "-q", "-w", "ssh:box").stdout == ""


def test_trials_elsewhere_are_found(box: SshServer, himl: Himl, project: Path) -> None:
    write_files(project, {"train.py": SCRIPT})
    sweep = himl(*TO_BOX, "--sweep", "lr=0.1,0.2", "--wait", "--json").json()["id"]
    children = [run["id"] for run in himl("runs", "show", sweep, "--json").json()["children"]]
    assert len(children) == 2
    for child in children:
        assert himl("runs", "show", child, "--json").json()["parent"] == sweep
    assert himl("runs", "logs", children[0]).stdout == "from there\n"


def test_a_run_with_an_id_of_mlflow_is_found(box: SshServer, himl: Himl, project: Path) -> None:
    """It has no pointer. A machine with a pointer has it."""
    write_files(project, {"train.py": "print('from there')"})
    himl(*TO_BOX, "--wait")
    own, other = "0123456789abcdef" * 2, "f" * 32
    RecordedRuns(box.home).add(own, files={"user_logs/std_log.txt": "by MLflow"})
    assert himl("runs", "show", own, "--json").json()["workspace"] == "ssh:box"
    assert himl("runs", "logs", own).stdout == "by MLflow"
    assert himl("runs", "tag", own, "a=b").code == 0
    unknown = himl("runs", "show", other)
    assert (unknown.code, f"'{other}'" in unknown.stderr) == (3, True), unknown.stderr


def test_runs_of_a_machine_that_cannot_be_reached(box: SshServer, himl: Himl, project: Path) -> None:
    """They stay in the list as they were last seen, and whether they run is unknown. A silent machine is left after
    some seconds.
    """
    write_files(project, {"train.py": SCRIPT})
    ended, left = (himl(*TO_BOX, "--json", *more).json()["id"] for more in (["--wait"], ["--", "--wait"]))
    deleted = himl(*TO_BOX, "--wait", "--json").json()["id"]
    assert states(himl) == {ended: "Completed", left: "Running", deleted: "Completed"}
    settings = box.settings.read_text()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for port in (str(silent.getsockname()[1]), "1"):
            box.forget()
            box.settings.write_text(settings.replace(str(box.port), port))
            listed = himl("runs", "list", "--json")
            found = {run["id"]: run for run in listed.json()}
            assert (found[ended]["status"], found[ended]["reason"]) == ("Completed", "")
            assert found[left]["reason"].startswith("unknown: himl cannot reach 'box', and last saw the run on ")
            assert "are shown as they were last seen" in listed.stderr
        shown = himl("runs", "show", left)
        assert (shown.code, "ssh cannot connect to 'box'" in shown.stderr) == (5, True), shown.stderr
        assert himl("runs", "delete", ended, "--pointer_only").code == 0
        assert himl("runs", "list", "-q").stdout.split() == [deleted, left]
    box.settings.write_text(settings)
    assert himl("runs", "delete", deleted, "--yes", "-w", "ssh:box").code == 0
    assert states(himl) == {left: "Running"}
    (box.home / ".himl" / "runs" / left / "code" / "go").touch()
    assert himl("runs", "logs", "--follow", left).code == 0
    assert states(himl) == {left: "Completed"}
    assert himl("runs", "show", ended, "-w", "ssh:box").code == 0  # only its pointer was deleted
