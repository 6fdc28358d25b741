"""Pipelines that run here, by the installed program: steps in order, data from one to the next, what a failing step leaves."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import Himl, until, write_files
from tests.support.sweeps import KEEPER, NOTING, children, kill, lines, log_of, notes_folder, pids, show

POSIX = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX, /proc")

PREPARE = """
import sys
from pathlib import Path
count, output = int(sys.argv[sys.argv.index("--count") + 1]), sys.argv[sys.argv.index("--output") + 1]
(Path(output) / "numbers.txt").write_text(" ".join(map(str, range(count))))
"""
TRAIN = """
import os, sys
from pathlib import Path
numbers = Path(sys.argv[sys.argv.index("--input_data") + 1], "numbers.txt").read_text().split()
(Path(sys.argv[sys.argv.index("--output") + 1]) / f"sum-{os.environ.get('RANK', '')}.txt").write_text(str(sum(map(int, numbers))))
"""


def step(script: str, **more: Any) -> dict[str, Any]:
    return {"type": "PythonScriptStep", "name": script.removesuffix(".py"), "script": script, "arguments": [], "source_directory": ".", **more}


def write_pipeline(project: Path, scripts: Mapping[str, str], *steps: dict[str, Any]) -> None:
    document = {f"step{number}": each for number, each in enumerate(steps, 1)}
    write_files(project, {**scripts, "pipe.json": json.dumps(document)})


def submit(himl: Himl, *options: str, code: int = 0, **env: str) -> str:
    done = himl("submit", "pipe.json", "-q", *options, env=env)
    assert done.code == code, done.stderr
    return str(himl.ok("runs", "list", "-q", "--num_runs", "1").stdout.strip())


def test_data_passes_from_step_to_step(himl: Himl, project: Path) -> None:
    write_pipeline(
        project,
        {"prepare.py": PREPARE, "train.py": TRAIN},
        step("prepare.py", arguments=["--count", "5"], output="numbers"),
        step("train.py", type="MpiStep", input_datareference_name="numbers", processes_per_node=2, node_count=1, output="model"),
    )
    parent = submit(himl)
    found = children(himl, parent)
    assert [(run["id"], run["display_name"], run["status"]) for run in found] == [
        (f"{parent}_step1", "prepare", "Completed"),
        (f"{parent}_step2", "train", "Completed"),
    ]
    assert [(run["tags"]["himl.step"], run["tags"]["himl.after"]) for run in found] == [("step1", ""), ("step2", "step1")]
    place = project / ".himl/datastores/local/azureml" / f"{parent}_step2" / "model"
    assert {path.name: path.read_text() for path in place.iterdir()} == {"sum-0.txt": "10", "sum-1.txt": "10"}
    assert show(himl, parent)["tags"]["himl.many"] == "pipeline"
    assert [line.split(" ", 1)[1].split(" after ")[0] for line in log_of(project, parent).splitlines()] == [
        "2 steps",
        f"step 'prepare' (step1): started, {parent}_step1",
        "step 'prepare' (step1): completed",
        f"step 'train' (step2): started, {parent}_step2",
        "step 'train' (step2): completed",
        "completed",
    ]


def test_each_step_runs_the_files_that_were_submitted(himl: Himl, project: Path) -> None:
    """Also where a step before it has changed the project meanwhile."""
    scripts = {
        "one/first.py": "import os, pathlib\npathlib.Path(os.environ['TWO']).write_text('raise SystemExit(1)')\n",
        "two/second.py": "print('as submitted')\n",
    }
    write_pipeline(project, scripts, step("first.py", source_directory="one"), step("second.py", source_directory="two"))
    parent = submit(himl, TWO=str(project / "two/second.py"))
    assert log_of(project, f"{parent}_step2") == "as submitted\n"


def test_a_failing_step_stops_the_rest(himl: Himl, project: Path) -> None:
    scripts = {"good.py": "", "bad.py": "print('no such luck'); raise SystemExit(7)"}
    write_pipeline(project, scripts, step("good.py"), step("bad.py"), step("good.py", name="last"), step("good.py", name="very last"))
    done = himl("submit", "pipe.json")
    assert done.code == 1
    assert "step2: no such luck" in done.stdout
    run = himl.ok("runs", "show", "latest", "--json").json()
    assert (run["status"], run["exit_code"], run["reason"]) == ("Failed", 7, "step 'bad' (step2) failed: exit code 7; not started: step3, step4")
    assert [each["status"] for each in children(himl, run["id"])] == ["Completed", "Failed"]


@POSIX
@pytest.mark.parametrize("target", ["pipeline", "step"])
def test_canceling_the_pipeline_or_a_step_stops_all(himl: Himl, project: Path, tmp_path: Path, target: str) -> None:
    write_pipeline(project, {"train.py": NOTING}, step("train.py", name="a"), step("train.py", name="b"))
    notes = notes_folder(tmp_path, holds=True)
    himl.ok("submit", "pipe.json", "--no_wait", env={"NOTES": str(notes)})
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 1)
    himl.ok("runs", "cancel", parent if target == "pipeline" else f"{parent}_step1")
    until(lambda: not pids(project, KEEPER))
    run = show(himl, parent)
    assert (run["status"], [each["status"] for each in children(himl, parent)]) == ("Canceled", ["Canceled"])
    assert run["reason"] == ("canceled" if target == "pipeline" else "step 'a' (step1) was canceled; not started: step2")


@POSIX
def test_resume_after_killed_keeper_runs_only_missing_steps(himl: Himl, project: Path, tmp_path: Path) -> None:
    """Its running step ends by itself; steps that are completed are not run again."""
    write_pipeline(project, {"train.py": NOTING}, *(step("train.py", name=name) for name in "abc"))
    notes = notes_folder(tmp_path, holds=True)
    env = {"NOTES": str(notes)}
    himl.ok("submit", "pipe.json", "--no_wait", env=env)
    parent = himl.ok("runs", "list", "-q").stdout.strip()
    until(lambda: len(lines(notes / "starts")) == 1)
    kill(project, KEEPER)
    (notes / "hold").unlink()
    himl.ok("submit", "--resume", parent, env=env)
    assert show(himl, parent)["status"] == "Completed"
    assert lines(notes / "ends") == [f"{parent}_step{number}" for number in (1, 2, 3)]


def test_resume_of_pipeline_runs_failed_step_and_later_ones(himl: Himl, project: Path, tmp_path: Path) -> None:
    broken = NOTING + "\nif (notes / 'broken').exists() and name.endswith('step2'): raise SystemExit(4)\n"
    write_pipeline(project, {"train.py": broken}, *(step("train.py", name=name) for name in "abc"))
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    parent = submit(himl, code=1, NOTES=str(notes))
    (notes / "broken").unlink()
    himl.ok("submit", "--resume", parent, env={"NOTES": str(notes)})
    assert lines(notes / "ends") == [f"{parent}_step{number}" for number in (1, 2, 2, 3)]
    assert "resumed: 2 of 3 steps are left" in log_of(project, parent)


def test_a_finished_step_whose_output_is_gone_runs_again(himl: Himl, project: Path, tmp_path: Path) -> None:
    """Those that nothing left to do reads from do not."""
    makes = NOTING + "\nimport sys\nif '--output' in sys.argv: Path(sys.argv[-1], 'made.txt').write_text('1')\n"
    reads = NOTING + "\nimport sys\nassert not (notes / 'broken').exists()\nprint(Path(sys.argv[2], 'made.txt').read_text())\n"
    chain = (step("makes.py", output="first"), step("makes.py", output="second"), step("reads.py", input_dataset_name="second"))
    write_pipeline(project, {"makes.py": makes, "reads.py": reads}, *chain)
    notes = notes_folder(tmp_path)
    (notes / "broken").touch()
    parent = submit(himl, code=1, NOTES=str(notes))
    (notes / "broken").unlink()
    for folder in (project / ".himl" / "datastores" / "local" / "azureml").iterdir():
        shutil.rmtree(folder)
    himl.ok("submit", "--resume", parent, env={"NOTES": str(notes)})
    assert show(himl, parent)["status"] == "Completed"
    assert "step 'makes' (step2) runs again: step3 reads its output, and '" in log_of(project, parent)
    assert [run["status"] for run in children(himl, parent)] == ["Completed"] * 3


LINE = f"""cat ${{{{inputs.data}}}}/x.txt && cat "${{{{inputs.data}}}}/x.txt" && {shlex.quote(sys.executable)} -c 'print(3)' > ${{{{outputs.out}}}}/made.txt"""


def test_a_command_line_for_bash(himl: Himl, project: Path, tmp_path: Path) -> None:
    """Folders with blanks in their names stay one word, in quotes or not."""
    write_files(tmp_path / "my data", {"x.txt": "content"})
    job = {
        "type": "command",
        "command": LINE,
        "code": ".",
        "environment": "azureml:env@latest",
        "inputs": {"data": {"type": "uri_folder", "path": str(tmp_path / "my data")}},
        "outputs": {"out": {"type": "uri_folder"}},
        "compute": "local",
    }
    write_files(project, {"job.yml": json.dumps(job)})
    himl.ok("submit", "job.yml")
    run = himl.ok("runs", "show", "latest", "--json").json()["id"]
    assert log_of(project, run) == "contentcontent"
    assert (project / f".himl/datastores/local/azureml/{run}/out/made.txt").read_text() == "3\n"


def test_the_command_line_of_a_sweep_gets_its_values(himl: Himl, project: Path) -> None:
    job = {
        "type": "sweep",
        "trial": {"command": "echo ${{search_space.word}} '${{search_space.word}}'", "environment": "azureml:env@latest", "code": "."},
        "compute": "local",
        "search_space": {"word": {"type": "choice", "values": ["a b", "it's"]}},
        "sampling_algorithm": "grid",
        "objective": {"goal": "minimize", "primary_metric": "loss"},
        "limits": {"max_total_trials": 2},
    }
    write_files(project, {"job.yml": json.dumps(job)})
    himl.ok("submit", "job.yml")
    run = himl.ok("runs", "show", "latest", "--json").json()["id"]
    assert [log_of(project, f"{run}_{number}") for number in (0, 1)] == ["a b a b\n", "it's it's\n"]
