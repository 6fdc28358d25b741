"""The examples for hi-ml's users do what they say: here, in a job here, and on Azure ML."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import joblib
import pytest

from himl_cli import fetch_run
from tests.api.scripts import run_script
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl

EXAMPLES = Path(__file__).parents[2] / "examples" / "hi_ml"
PAGE = Path(__file__).parents[2] / "docs" / "examples" / "hi_ml.md"
BELOW_30 = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
LINE = ", ".join(map(str, BELOW_30))
LINES = "\n".join(map(str, BELOW_30))
ACCURATE = "Accuracy on the test set: 0.97"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """A copy of the examples to run in."""
    return shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def lab(azure_environment: StagedWorkspace, examples: Path) -> StagedWorkspace:
    """A workspace with the cluster and the datastore that the examples name, where jobs run; its config.json is in the examples' folder."""
    azure_environment.add_compute("cpu-cluster")
    azure_environment.add_datastore("himldatasets")
    azure_environment.write_config(examples)
    azure_environment.run_jobs()
    return azure_environment


def run(example: Path, script: str, *arguments: str) -> str:
    """What the script printed; it must end with 0."""
    done = run_script(example / script, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("limit", "primes"), [("30", LINE), ("2", ""), ("3", "2"), ("0", ""), ("-4", "")])
@pytest.mark.parametrize("number", [1, 2])
def test_primes_here(examples: Path, number: int, limit: str, primes: str) -> None:
    assert run(examples / f"example_{number}", "sample.py", "-n", limit) == f"{primes}\n"


def test_primes_in_a_job_here(examples: Path, himl: Himl) -> None:
    example = examples / "example_2"
    assert himl.ok("submit", "sample.py", "--", "-n", "30", cwd=example).stdout == f"{LINE}\n"
    assert run(example, "results.py") == f"{LINE}\n\n"


def test_primes_on_azure_ml(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_2"
    out = run(example, "sample.py", "-n", "30", "--azureml")
    assert LINE in out.splitlines()
    (submitted,) = lab.state.runs.values()
    assert (example / "most_recent_run.txt").read_text().strip() == f"sample:{submitted.run_id}"
    assert run(example, "results.py") == f"{LINE}\n\n"


def test_an_output_file_here(examples: Path, himl: Himl) -> None:
    example = examples / "example_3"
    assert "10 primes written" in run(example, "sample.py", "-n", "30")
    assert (example / "outputs" / "primes.txt").read_text() == LINES
    himl.ok("submit", "sample.py", "--", "-n", "30", cwd=example)
    assert run(example, "results.py") == f"{LINES}\n"


def test_an_output_file_on_azure_ml(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_3"
    run(example, "sample.py", "-n", "30", "-o", "primes.txt", "--azureml")
    assert not (example / "outputs").exists()
    assert run(example, "results.py") == f"{LINES}\n"


def test_an_output_dataset_here(examples: Path, himl: Himl) -> None:
    example = examples / "example_4"
    run(example, "sample.py", "-n", "30")
    assert (example / "outputs" / "himl_sample4_output" / "primes.txt").read_text() == LINES
    (example / ".himl" / "datastores" / "himldatasets").mkdir(parents=True)
    himl.ok("submit", "sample.py", "--output", "himl_sample4_output,datastore=himldatasets", "--", "-n", "30", cwd=example)
    assert run(example, "results.py") == f"{LINES}\n"


def test_an_output_dataset_on_azure_ml(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_4"
    run(example, "sample.py", "-n", "30", "--azureml")
    assert lab.get_blob("himldatasets", "himl_sample4_output/primes.txt").decode() == LINES
    assert run(example, "results.py") == f"{LINES}\n"


def test_input_files_in_the_snapshot(examples: Path, himl: Himl) -> None:
    example = examples / "example_5"
    run(example, "inputs.py")
    assert sorted(path.name for path in (example / "dataset").iterdir()) == ["X.csv", "Y.csv"]
    assert ACCURATE in run(example, "sample.py")
    assert joblib.load(example / "outputs" / "model.joblib").kernel == "linear"
    assert ACCURATE in himl.ok("submit", "sample.py", cwd=example).stdout


def test_input_files_in_the_snapshot_on_azure_ml(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_5"
    run(example, "inputs.py")
    assert ACCURATE in run(example, "sample.py", "--azureml")
    (submitted,) = lab.state.runs
    assert "outputs/model.joblib" in lab.artifacts(submitted)


def test_a_dataset_that_another_script_writes_here(examples: Path) -> None:
    example = examples / "example_6"
    run(example, "inputs.py")
    assert ACCURATE in run(example, "sample.py", "--kernel", "linear")


def test_a_dataset_that_another_job_writes_on_azure_ml(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_6"
    run(example, "inputs.py", "--azureml")
    assert lab.blob_names("himldatasets", "himl_sample6_input") == ["himl_sample6_input/X.csv", "himl_sample6_input/Y.csv"]
    assert not (example / "dataset").exists()
    assert ACCURATE in run(example, "sample.py", "--azureml")
    assert ACCURATE in run(example, "sample.py")  # here, with the dataset downloaded


def test_a_dataset_that_is_uploaded(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_7"
    run(example, "inputs_via_upload.py")
    assert lab.blob_names("himldatasets", "himl_sample7_input") == ["himl_sample7_input/X.csv", "himl_sample7_input/Y.csv"]
    assert ACCURATE in run(example, "sample.py", "--azureml")


def test_a_dataset_that_is_uploaded_here(examples: Path, himl: Himl) -> None:
    example = examples / "example_7"
    (example / ".himl" / "datastores" / "himldatasets").mkdir(parents=True)
    run(example, "inputs_via_upload.py")
    shutil.rmtree(example / "dataset")
    assert ACCURATE in run(example, "sample.py")


def test_metrics_of_a_job_here(examples: Path, himl: Himl, monkeypatch: pytest.MonkeyPatch) -> None:
    example = examples / "example_8"
    (example / ".himl" / "datastores" / "himldatasets").mkdir(parents=True)
    shutil.copy(examples / "example_7" / "inputs_via_upload.py", example)
    run(example, "inputs_via_upload.py")
    run_id = himl.ok("submit", "sample.py", "--input", "himl_sample7_input,datastore=himldatasets", "-q", "--", "--penalty", "0.5", cwd=example).stdout.strip()
    monkeypatch.chdir(example)
    metrics = fetch_run(None, run_id).get_metrics()
    assert metrics["Penalty"] == 0.5
    assert metrics["Accuracy"] == pytest.approx(0.97, abs=0.03)


def test_the_search_that_the_page_shows_runs_here(examples: Path, himl: Himl) -> None:
    (examples / ".himl" / "datastores" / "himldatasets").mkdir(parents=True)
    run(examples / "example_7", "inputs_via_upload.py")
    (line,) = re.findall(r"^himl (submit sample\.py .*--sweep.*)$", PAGE.read_text(encoding="utf-8").replace("\\\n", " "), flags=re.MULTILINE)
    done = himl.ok(*shlex.split(line), "-q", cwd=examples / "example_8")
    trials = himl.ok("runs", "show", done.stdout.strip(), "--children", "--json", cwd=examples / "example_8").json()
    assert [trial["status"] for trial in trials] == ["Completed"] * 6


def test_a_search_for_hyperparameters_on_azure_ml(lab: StagedWorkspace, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(examples / "example_7", "inputs_via_upload.py")
    script = examples / "example_8" / "sample.py"
    assert "MAX_TOTAL_TRIALS_ARG: 12" in script.read_text()
    script.write_text(script.read_text().replace("MAX_TOTAL_TRIALS_ARG: 12", "MAX_TOTAL_TRIALS_ARG: 3"))
    run(examples / "example_8", "sample.py", "--azureml")
    (sweep,) = [one for one in lab.state.runs.values() if one.parent_id is None]
    monkeypatch.chdir(examples)
    trials = [*fetch_run(None, sweep.run_id).get_children()]
    assert len(trials) == 3
    for trial in trials:
        values, metrics = json.loads(trial.tags["hyperparameters"]), trial.get_metrics()
        assert (metrics["Kernel type"], metrics["Penalty"]) == (values["kernel"], values["penalty"])
    accuracy = {trial.id: trial.get_metrics()["Accuracy"] for trial in trials}
    assert accuracy[sweep.properties["best_child_run_id"]] == max(accuracy.values())
