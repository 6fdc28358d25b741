"""What a job here comes to before anything is made: its command line, its folders, and what is refused then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import Event
from himl_cli.core.jobs import DataSpec, Draw, Entry, EntryKind, JobSpec, PipelineSpec, SearchRange, Snapshot, StepOutput, StepSpec, SweepSpec
from himl_cli.core.processes import ProcessLock
from himl_cli.workspaces.local.launch_request import LaunchRequest, job_command, resolve_folders, shown_command
from himl_cli.workspaces.local.sweep_plan import plan_pipeline, plan_sweep
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.running import write_files


def line(text: str, **more: Any) -> JobSpec:
    return JobSpec("exp", Entry(EntryKind.command, text), Snapshot(Path(), (), 0), **more)


def pass_over(event: Event) -> None:
    """Nobody listens."""


def test_arguments_stand_behind_the_line_for_bash_as_on_azure_ml(tmp_path: Path) -> None:
    spec = line("python a.py", arguments=["--data", "${{inputs.d}}", "it's", "--api_key", "sesame"])
    assert shown_command(spec) == """python a.py --data '${{inputs.d}}' 'it'"'"'s' --api_key '***'"""
    order = LaunchRequest(str(tmp_path), spec, "", {"d": "/my data"}, {})
    assert job_command(order)[1:] == ["-c", """python a.py --data '/my data' 'it'"'"'s' --api_key sesame"""]


def test_input_folder_that_cannot_be_quoted_is_refused(tmp_path: Path) -> None:
    spec = line("cat <<EOF\n${{inputs.d}}\nEOF", inputs=[DataSpec("d", "x", local=str(tmp_path))])
    resolve_folders(spec, tmp_path, "run", pass_over)
    (tmp_path / "my data").mkdir()
    with pytest.raises(BadUsage, match=r"stands behind .<<., where"):
        resolve_folders(line(spec.entry.target, inputs=[DataSpec("d", "x", local=str(tmp_path / "my data"))]), tmp_path, "run", pass_over)


def test_so_is_one_that_a_step_takes_from_another(tmp_path: Path) -> None:
    steps = [
        StepSpec("first", "First", line("true", outputs=[DataSpec("o", "")])),
        StepSpec("second", "Second", line("echo `ls ${{inputs.d}}`", inputs=[DataSpec("d", "")]), {"d": StepOutput("first", "o")}),
    ]
    spec = PipelineSpec("exp", steps)
    assert [job.place for job in plan_pipeline(tmp_path, spec, lambda name: tmp_path / "data", pass_over).jobs] == ["steps/0", "steps/0"]
    with pytest.raises(BadUsage, match=r"^second: .* stands behind .`., where"):
        plan_pipeline(tmp_path, spec, lambda name: tmp_path / "my data", pass_over)


@pytest.mark.parametrize(("name", "value", "message"), [("a=b", "1", "cannot be the name of a hyperparameter"), ("a", "b c", "stands behind .`., where")])
def test_hyperparameters_that_cannot_stand_where_they_are_named(tmp_path: Path, name: str, value: str, message: str) -> None:
    sweep = SweepSpec({name: SearchRange(Draw.choice, [1, value])}, "grid", 2)
    with pytest.raises(BadUsage, match=message):
        plan_sweep(tmp_path, line(f"echo `echo ${{{{search_space.{name}}}}}`", sweep=sweep), tmp_path, pass_over)


@pytest.mark.parametrize("name", ["..", "../..", "a/b", "/tmp", "C:", "a\\b"])
def test_the_name_of_a_datastore_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    default = tmp_path / "datastores" / "local"
    default.mkdir(parents=True)
    for data in ({"inputs": [DataSpec("d", "datastores", datastore=name)]}, {"outputs": [DataSpec("d", "esc", datastore=name)]}):
        with pytest.raises(BadUsage, match="cannot be the name of a datastore"):
            resolve_folders(line("true", **data), default, "run", pass_over)


def test_only_what_a_dead_start_left_is_removed(tmp_path: Path) -> None:
    """A start that goes on holds its mark; what has a log was on record, whatever has become of that."""
    workspace = LocalWorkspace(tmp_path / ".himl")
    workspace.make()
    for name in ("dead", "alive", "logged"):
        (workspace.folder / "runs" / name).mkdir()
        write_files(workspace.folder, {f"starting/{name}": "", f"runs/{name}/go": ""})
    (workspace.folder / "runs" / "logged" / "user_logs").mkdir()
    held = ProcessLock(workspace.folder / "starting" / "alive")
    assert held.take()
    workspace.prepare(pass_over)
    assert {path.name for path in (workspace.folder / "runs").iterdir()} == {"alive", "logged"}
    assert [path.name for path in (workspace.folder / "starting").iterdir()] == ["alive"]
    held.release()
