"""Tests of the examples for hi-ml's users, which run directly, in a local job, and on Azure ML."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from himl_cli import fetch_run
from tests.api.scripts import run_script
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.running import Himl

EXAMPLES = Path(__file__).parents[2] / "examples" / "hi_ml"
BELOW_30 = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29]
LINE = ", ".join(map(str, BELOW_30))
LINES = "\n".join(map(str, BELOW_30))
TRAINING = [f"example_{number}" for number in (5, 6, 7, 8)]
SKLEARN = ("sklearn.svm", "sklearn.model_selection")
ACCURATE = "Accuracy on the test set: 0.97"


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    return shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def lab(azure_environment: StagedWorkspace, examples: Path) -> StagedWorkspace:
    """A workspace that runs jobs, with the cluster and the datastore that the examples name.

    Its config.json is in the examples' folder.
    """
    azure_environment.add_compute("cpu-cluster")
    azure_environment.add_datastore("himldatasets")
    azure_environment.write_config(examples)
    azure_environment.run_jobs()
    return azure_environment


def run(example: Path, script: str, *arguments: str) -> str:
    done = run_script(example / script, *arguments, modules=SKLEARN if example.name in TRAINING else ())
    assert done.returncode == 0, done.stderr
    return done.stdout


RESULTS = {2: f"{LINE}\n\n", 3: f"{LINES}\n", 4: f"{LINES}\n"}
OUTPUT = ("--output", "himl_sample4_output,datastore=himldatasets")


@pytest.mark.large("takes long, and other tests run its branches")
def test_primes_here(examples: Path, himl: Himl) -> None:
    for number in (1, 2):
        for limit, primes in {"30": LINE, "-4": ""}.items():
            assert run(examples / f"example_{number}", "sample.py", "-n", limit) == f"{primes}\n"
    for number, place in {3: "", 4: "himl_sample4_output"}.items():
        run(examples / f"example_{number}", "sample.py", "-n", "30")
        assert (examples / f"example_{number}" / "outputs" / place / "primes.txt").read_text() == LINES
    example = examples / "example_4"
    (example / ".himl" / "datastores" / "himldatasets").mkdir(parents=True)
    himl.ok("submit", "sample.py", *OUTPUT, "--", "-n", "30", cwd=example)
    assert run(example, "results.py") == RESULTS[4]


@pytest.mark.large("runs an example")
@pytest.mark.parametrize("number", RESULTS)
def test_primes_on_azure_ml(lab: StagedWorkspace, examples: Path, number: int) -> None:
    example = examples / f"example_{number}"
    run(example, "sample.py", "-n", "30", "--azureml")
    (submitted,) = lab.state.runs.values()
    assert (example / "most_recent_run.txt").read_text().strip() == f"sample:{submitted.run_id}"
    assert not (example / "outputs").exists()
    assert run(example, "results.py") == RESULTS[number]
    assert number != 4 or lab.get_blob("himldatasets", "himl_sample4_output/primes.txt").decode() == LINES


@pytest.mark.large("trains with scikit-learn")
def test_input_files_in_the_snapshot(lab: StagedWorkspace, examples: Path) -> None:
    example = examples / "example_5"
    run(example, "inputs.py")
    assert sorted(path.name for path in (example / "dataset").iterdir()) == ["X.csv", "Y.csv"]
    assert ACCURATE in run(example, "sample.py", "--azureml")
    (submitted,) = lab.state.runs
    assert "outputs/model.joblib" in lab.artifacts(submitted)


@pytest.mark.large("trains with scikit-learn")
def test_a_dataset_that_another_script_writes(lab: StagedWorkspace, examples: Path) -> None:
    import joblib  # late, since it imports NumPy

    example = examples / "example_6"
    run(example, "inputs.py", "--azureml")
    assert lab.blob_names("himldatasets", "himl_sample6_input") == [
        "himl_sample6_input/X.csv",
        "himl_sample6_input/Y.csv",
    ]
    assert not (example / "dataset").exists()
    assert ACCURATE in run(example, "sample.py")  # locally, with a downloaded dataset
    assert joblib.load(example / "outputs" / "model.joblib").kernel == "linear"


@pytest.mark.large("trains with scikit-learn")
def test_search_on_azure_ml_reads_uploaded_dataset(
    lab: StagedWorkspace, examples: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(examples / "example_7", "inputs_via_upload.py")
    assert lab.blob_names("himldatasets", "himl_sample7_input") == [
        "himl_sample7_input/X.csv",
        "himl_sample7_input/Y.csv",
    ]
    assert ACCURATE in run(examples / "example_7", "sample.py", "--azureml")
    lab.state.runs.clear()
    script = examples / "example_8" / "sample.py"
    assert "MAX_TOTAL_TRIALS_ARG: 12" in script.read_text()
    script.write_text(script.read_text().replace("MAX_TOTAL_TRIALS_ARG: 12", "MAX_TOTAL_TRIALS_ARG: 2"))
    run(examples / "example_8", "sample.py", "--azureml")
    (sweep,) = [one for one in lab.state.runs.values() if one.parent_id is None]
    monkeypatch.chdir(examples)
    trials = [*fetch_run(None, sweep.run_id).get_children()]
    assert len(trials) == 2
    for trial in trials:
        values, metrics = json.loads(trial.tags["hyperparameters"]), trial.get_metrics()
        assert (metrics["Kernel type"], metrics["Penalty"]) == (values["kernel"], values["penalty"])
    accuracy = {trial.id: trial.get_metrics()["Accuracy"] for trial in trials}
    assert accuracy[sweep.properties["best_child_run_id"]] == max(accuracy.values())
