"""A script that could submit itself, run as it is: where its data and folders are outside of any job."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from himl_cli import submit_to_azure_if_needed
from tests.api.scripts import run_script, said, write_script
from tests.support.hi_ml_wheel import signature
from tests.support.running import Himl, write_files

ALL = """
say(inputs=info.input_datasets, outputs=info.output_datasets, run=info.run, azure=info.is_running_in_azure_ml, out=info.output_folder, logs=info.logs_folder)
"""


def test_the_signature_is_the_released_packages() -> None:
    parameters = inspect.signature(submit_to_azure_if_needed).parameters
    released = signature("submit_to_azure_if_needed")
    assert len(released) == 44
    assert [(name, each.default) for name, each in parameters.items()] == list(released.items())
    assert {each.kind for each in parameters.values()} == {inspect.Parameter.POSITIONAL_OR_KEYWORD}


def test_without_datasets_there_are_two_folders_and_nothing_else(project: Path) -> None:
    script = write_script(project, "train.py", 'compute_cluster_name="gpu"', ALL)
    folders = {"out": str(project / "outputs"), "logs": str(project / "logs")}
    assert said(script) == {"inputs": [], "outputs": [], "run": None, "azure": False, **folders}
    assert sorted(path.name for path in project.iterdir()) == ["logs", "outputs", "train.py"]


def test_datasets_that_are_nowhere_have_no_path(project: Path) -> None:
    script = write_script(project, "train.py", 'input_datasets=["a", "b"], output_datasets=["c"]', ALL)
    found = said(script)
    assert (found["inputs"], found["outputs"]) == ([None, None], [None])


def test_folders_here_are_used(project: Path, tmp_path: Path) -> None:
    call = f'input_datasets=[DatasetConfig("a", local_folder="data")], output_datasets=[DatasetConfig("b", local_folder={str(tmp_path / "made" / "b")!r})]'
    (project / "data").mkdir()
    found = said(write_script(project, "train.py", call, ALL))
    assert (found["inputs"], found["outputs"]) == (["data"], [str(tmp_path / "made" / "b")])
    assert (tmp_path / "made" / "b").is_dir()


def test_a_folder_that_is_not_there_is_given_with_a_warning(project: Path) -> None:
    done = run_script(write_script(project, "train.py", 'input_datasets=[DatasetConfig("a", local_folder="data")]', ALL))
    assert json.loads(done.stdout)["inputs"] == ["data"]
    assert "its local_folder 'data' does not exist" in done.stderr


def test_the_local_workspaces_datastore_is_looked_at(project: Path) -> None:
    stores = project / ".himl" / "datastores"
    write_files(stores, {"local/a/x": "1", "big/b/x": "2"})
    call = 'default_datastore="other", input_datasets=["a", DatasetConfig("b", datastore="big"), "b", "../local/a"], output_datasets=["c"]'
    folder = project / "deep"
    folder.mkdir()
    found = said(write_script(folder, "train.py", call, ALL))
    assert found["inputs"] == [str(stores / "local" / "a"), str(stores / "big" / "b"), None, None]
    assert found["outputs"] == [str(stores / "local" / "c")]
    assert (stores / "local" / "c").is_dir()


def test_an_output_that_must_not_exist_is_refused(project: Path) -> None:
    write_files(project / ".himl" / "datastores" / "local", {"c/x": "1"})
    after = "say(came=True)"
    done = run_script(write_script(project, "train.py", 'output_datasets=[DatasetConfig("c", overwrite_existing=False)]', after))
    assert done.returncode == 1
    assert "exists, and overwrite_existing=False was given" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("call", "arguments"), [("", ()), ("submit_to_azureml=False", ("--azureml",)), ('script_params=["--azureml"]', ("--AZUREML", "azureml"))]
)
def test_nothing_is_submitted_without_the_flag(project: Path, call: str, arguments: tuple[str, ...]) -> None:
    assert said(write_script(project, "train.py", call, "say(came=True)"), *arguments) == {"came": True}


def test_the_scripts_arguments_are_left_alone(project: Path) -> None:
    assert said(write_script(project, "train.py", "", "say(arguments=sys.argv[1:])"), "-n", "3") == {"arguments": ["-n", "3"]}


def test_a_folder_that_cannot_be_made_is_said(project: Path) -> None:
    (project / "outputs").write_text("a file")
    done = run_script(write_script(project, "train.py", "", "say(came=True)"))
    assert "Cannot make the folder" in done.stderr
    assert "DiskFailed" in done.stderr


def test_job_data_is_empty_outside_of_a_job(project: Path, himl: Himl) -> None:
    script = project / "look.py"
    script.write_text('from himl_cli.job import inputs, outputs\nprint(len(inputs()), dict(outputs()))\ninputs()["a"]\n')
    done = run_script(script)
    assert done.stdout.split() == ["0", "{}"]
    assert "No input 'a'; there are: none." in done.stderr
