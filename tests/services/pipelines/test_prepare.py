"""From a pipeline's JSON file to steps that a workspace can run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import ClusterSpec, DataSpec, Entry, EntryKind, StepOutput
from himl_cli.services.submission.pipelines import PreparedPipeline, prepare_pipeline, with_named_datastores
from himl_cli.services.submission.request import SubmitRequest
from tests.support.running import write_files

ARGUMENTS = ["--splits", "splits", "--train_data_paths", "normalized_data/file.npy", "--label_paths", "label.npy"]
DEEPSEISMIC = {
    "type": "MpiStep",
    "name": "train step",
    "script": "train.py",
    "input_datareference_path": "normalized_data/",
    "input_datareference_name": "normalized_data_conditioned",
    "input_dataset_name": "normalizeddataconditioned",
    "source_directory": "train/",
    "arguments": ARGUMENTS,
    "requirements": "train/requirements.txt",
    "node_count": 1,
    "processes_per_node": 1,
    "base_image": "pytorch/pytorch",
}
PREPARE = {"type": "PythonScriptStep", "name": "prepare", "script": "prep.py", "source_directory": "prep", "output": "clean-data"}
TRAIN = {"type": "MpiStep", "script": "train.py", "source_directory": "train", "input_dataset_name": "clean-data", "processes_per_node": "2"}


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(project, {"prep/prep.py": "", "train/train.py": "", "train/lib/net.py": "", "train/requirements.txt": "numpy\n"})
    return project


def prepared(folder: Path, steps: dict[str, Any], env: dict[str, str] | None = None, creates_cluster: bool = False, **options: Any) -> PreparedPipeline:
    (folder / "pipeline.json").write_text(json.dumps(steps))
    return prepare_pipeline(SubmitRequest(**{"cwd": folder, "target": "pipeline.json", **options}), env or {}, creates_cluster=creates_cluster)


def test_the_example_of_deepseismics_documents(folder: Path) -> None:
    found = prepared(folder, {"step1": DEEPSEISMIC}, cluster="gpu", experiment="DEV-train-pipeline")
    (step,) = found.spec.steps
    job = step.job
    assert (step.key, step.name, found.spec.experiment, found.spec.cluster) == ("step1", "train step", "DEV-train-pipeline", "gpu")
    assert job.entry == Entry(EntryKind.script, "train.py")
    assert job.arguments == [*ARGUMENTS, "--input_data", "${{inputs.input_data}}"]
    assert (job.distribution, job.nodes, job.processes) == ("mpi", 1, 1)
    assert job.environment is not None
    assert job.environment.image == "pytorch/pytorch"
    assert "numpy" in job.environment.conda
    assert sorted(job.snapshot.files) == ["lib/net.py", "requirements.txt", "train.py"]
    assert job.inputs == [DataSpec("input_data", "normalized_data", mode="mount")]
    assert found.data["step1"].datastores == ["normalizeddataconditioned", "normalized_data_conditioned"]
    assert with_named_datastores(found).steps[0].job.inputs[0].datastore == "normalizeddataconditioned"


def test_steps_are_ordered_by_their_data(folder: Path) -> None:
    found = prepared(folder, {"step1": TRAIN, "step2": PREPARE, "step3": {**TRAIN, "output": "model"}})
    assert [step.key for step in found.spec.steps] == ["step2", "step1", "step3"]
    prepare, train, _ = found.spec.steps
    assert list(prepare.job.arguments) == ["--output", "${{outputs.clean_data}}"]
    assert prepare.job.outputs == [DataSpec("clean_data", "")]
    assert train.takes == {"input_data": StepOutput("step2", "clean_data")}
    assert list(train.job.arguments) == ["--input_data", "${{inputs.input_data}}"]
    assert (train.job.processes, prepare.job.processes, train.name) == (2, None, "step1")
    assert not found.data


def test_step_files_are_searched_beside_json_then_in_cwd(folder: Path) -> None:
    write_files(folder, {"jobs/prep/prep.py": ""})
    (folder / "jobs" / "pipeline.json").write_text(json.dumps({"step1": PREPARE, "step2": TRAIN}))
    steps = prepare_pipeline(SubmitRequest(cwd=folder, target="jobs/pipeline.json"), {}).spec.steps
    assert [step.job.snapshot.root for step in steps] == [folder / "jobs" / "prep", folder / "train"]


def test_what_is_passed_over_is_said(folder: Path) -> None:
    steps = {"step1": {**PREPARE, "node_count": 2}, "step2": {**TRAIN, "node_count": 3, "input_datareference_path": "x"}, "step3": {**PREPARE, "output": None}}
    remarks = "\n".join(prepared(folder, steps).remarks)
    assert "step1: passed over, since it has no meaning for this step: node_count." in remarks
    assert "step2: passed over, since it has no meaning for this step: input_datareference_path." in remarks
    assert "step2: one node here in place of 3." in remarks
    assert "step3 names no input" not in remarks  # step2, before it, makes nothing


def test_step_without_input_reads_output_of_previous_step(folder: Path) -> None:
    unnamed = {**TRAIN, "input_dataset_name": None}
    found = prepared(folder, {"step1": PREPARE, "step2": {**unnamed, "output": "model"}, "step3": unnamed, "step4": unnamed})
    takes = {step.key: dict(step.takes) for step in found.spec.steps}
    assert takes == {
        "step1": {},
        "step2": {"input_data": StepOutput("step1", "clean_data")},
        "step3": {"input_data": StepOutput("step2", "model")},
        "step4": {},
    }
    assert [list(step.job.arguments)[:2] for step in found.spec.steps[2:]] == [["--input_data", "${{inputs.input_data}}"], []]
    assert "step3 names no input, so it reads what step2, the step before it, makes (--input_data)." in found.remarks


def test_what_the_data_says_counts_before_the_order_in_the_file(folder: Path) -> None:
    reads_later = {**TRAIN, "input_dataset_name": "late", "output": "early"}
    found = prepared(folder, {"step1": reads_later, "step2": {**PREPARE, "output": "late"}, "step3": {**TRAIN, "input_dataset_name": "early"}})
    assert [(step.key, list(step.takes.values())) for step in found.spec.steps] == [
        ("step2", []),
        ("step1", [StepOutput("step2", "late")]),
        ("step3", [StepOutput("step1", "early")]),
    ]


def test_steps_run_one_after_another_as_they_stand_in_the_file(folder: Path) -> None:
    alone = {**PREPARE, "output": None}
    found = prepared(folder, {"step1": alone, "step2": PREPARE, "step3": alone, "step4": TRAIN})
    assert [(step.key, list(step.after)) for step in found.spec.steps] == [
        ("step1", []),
        ("step2", ["step1"]),
        ("step3", ["step2"]),
        ("step4", ["step2", "step3"]),
    ]


def test_options_that_count_reach_every_step(folder: Path) -> None:
    found = prepared(
        folder,
        {"step1": PREPARE, "step2": {**TRAIN, "requirements": "train/requirements.txt"}},
        cluster="gpu",
        environment="lab:3",
        env_vars={"A": "1"},
        tags={"team": "blue"},
        max_run_duration="2h",
    )
    first, second = (step.job for step in found.spec.steps)
    assert first.environment is not None
    assert second.environment is not None
    assert (first.environment.name, second.environment.name) == ("lab", "")
    assert all((job.env, job.tags["team"], job.max_seconds, job.cluster) == ({"A": "1"}, "blue", 7200.0, "gpu") for job in (first, second))
    assert found.spec.tags["team"] == "blue"


def test_a_setting_for_scripts_is_passed_over(folder: Path) -> None:
    found = prepared(folder, {"step1": PREPARE}, record_in="azure", num_nodes=4, typed=frozenset())
    assert "Passed over: record_in = azure. A pipeline file that runs here is recorded here alone." in found.remarks
    assert found.spec.steps[0].job.nodes == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ["a"]}, "--input does not count for a pipeline file"),
        ({"num_nodes": 2}, "--num_nodes does not count for a pipeline file."),
        ({"crossval": 3}, "--crossval does not count for a pipeline file."),
        ({"sdk": "v1"}, "--sdk does not count for a pipeline file."),
        ({"sweep": ("lr=1,2",)}, "--sweep does not count"),
        ({"arguments": ("--x",)}, "a pipeline file holds its own"),
        ({"module": "lab"}, "A file and -m MODULE were both given"),
        ({"target": "pipelin.json"}, "There is no file 'pipelin.json'"),
    ],
)
def test_options_that_do_not_count_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        prepared(folder, {"step1": PREPARE}, **options)


ENV = """\
BLOB_ACCOUNT_NAME=labstore
BLOB_CONTAINER_NAME='seismic'
BLOB_ACCOUNT_KEY=hunter2==
AML_COMPUTE_CLUSTER_NAME=gpu # ours
AML_COMPUTE_CLUSTER_MAX_NODES=4
"""


def test_the_dotenv_says_where_it_goes_and_where_data_lies(folder: Path) -> None:
    (folder / ".env").write_text(ENV)
    found = prepared(folder, {"step1": DEEPSEISMIC}, creates_cluster=True)
    assert found.spec.cluster == "gpu"
    assert found.remarks[0] == f"Goes to cluster 'gpu', by AML_COMPUTE_CLUSTER_NAME in '{folder / '.env'}'; --cluster local runs it here."
    assert found.cluster == ClusterSpec("gpu", "Standard_NC6", 0, 4)
    assert found.container is not None
    assert (found.container.account, found.container.container, found.container.key) == ("labstore", "seismic", "hunter2==")
    assert found.container.name == "normalizeddataconditioned"
    assert "hunter2" not in repr(found)


def test_variables_and_options_win_over_the_dotenv(folder: Path) -> None:
    (folder / ".env").write_text(ENV)
    set_here = {"AML_COMPUTE_CLUSTER_NAME": "other", "AML_COMPUTE_CLUSTER_SKU": "Standard_NC24"}
    by_variable = prepared(folder, {"step1": DEEPSEISMIC}, set_here, creates_cluster=True)
    assert by_variable.cluster == ClusterSpec("other", "Standard_NC24", 0, 4)
    assert "by the variable AML_COMPUTE_CLUSTER_NAME" in by_variable.remarks[0]
    assert prepared(folder, {"step1": DEEPSEISMIC}, set_here, cluster="third").spec.cluster == "third"
    here = prepared(folder, {"step1": DEEPSEISMIC}, set_here, cluster="local")
    assert (here.spec.cluster, here.container, here.cluster) == ("", None, None)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("AML_COMPUTE_CLUSTER_MAX_NODES=many", "AML_COMPUTE_CLUSTER_MAX_NODES cannot be 'many'"),
        (f"AML_COMPUTE_CLUSTER_MAX_NODES={'9' * 5000}", "AML_COMPUTE_CLUSTER_MAX_NODES: a cluster has 65,000 nodes at most."),
        ("AML_COMPUTE_CLUSTER_MIN_NODES=9", "AML_COMPUTE_CLUSTER_MIN_NODES is 9, and AML_COMPUTE_CLUSTER_MAX_NODES is 4"),
        ("BLOB_CONTAINER_NAME=", "BLOB_ACCOUNT_NAME is set, and BLOB_CONTAINER_NAME is not"),
        ("hunter3", "line 7: no NAME=value"),
    ],
)
def test_a_dotenv_that_cannot_be_used(folder: Path, lines: str, message: str) -> None:
    (folder / ".env").write_text(f"{ENV}#\n{lines}\n")
    with pytest.raises(BadUsage, match=message) as caught:
        prepared(folder, {"step1": DEEPSEISMIC}, creates_cluster=True)
    assert "hunter" not in str(caught.value) + caught.value.hint


def test_a_dotenv_may_say_that_it_runs_here(folder: Path) -> None:
    found = prepared(folder, {"step1": PREPARE}, {"AML_COMPUTE_CLUSTER_NAME": "local"})
    assert (found.spec.cluster, [text for text in found.remarks if "cluster" in text]) == ("", [])


def test_a_step_larger_than_the_cluster_that_is_to_be_made(folder: Path) -> None:
    (folder / ".env").write_text(ENV)
    with pytest.raises(BadUsage, match="AML_COMPUTE_CLUSTER_MAX_NODES is 4, and step2 has a node_count of 5"):
        prepared(folder, {"step1": DEEPSEISMIC, "step2": {**DEEPSEISMIC, "node_count": 5}}, creates_cluster=True)


@pytest.mark.parametrize("key", ["input_datareference_path", "input_dataset_name"])
def test_data_outside_of_a_datastore(folder: Path, key: str) -> None:
    with pytest.raises(BadUsage, match=f"step1: '{key}' '../../x' leaves the datastore."):
        prepared(folder, {"step1": {**PREPARE, key: "../../x"}})


def test_a_step_that_names_no_packages_gets_python_and_pip(folder: Path) -> None:
    found = prepared(folder, {"step1": PREPARE}, cluster="gpu")
    environment = found.spec.steps[0].job.environment
    assert environment is not None
    packages = environment.conda.partition("dependencies:")[2].split()
    assert sorted(word.partition("=")[0] for word in packages if word != "-") == ["pip", "python"]
    assert any(text.startswith("step1: Nothing says which packages it needs, so its environment is python=") for text in found.remarks)


def test_a_dotenv_of_something_else_is_passed_over(folder: Path) -> None:
    (folder.parent / ".env").write_text(ENV)
    (folder / ".env").write_text("not even a variable\n")
    assert prepared(folder, {"step1": DEEPSEISMIC}).spec.cluster == "gpu"


def test_the_files_of_a_step_are_sent_without_its_secrets(folder: Path) -> None:
    write_files(folder, {"prep/.env": "BLOB_ACCOUNT_KEY=x\n", "prep/.amlignore": "big\n", "prep/big/file": "x"})
    (step,) = prepared(folder, {"step1": PREPARE}).spec.steps
    assert sorted(step.job.snapshot.files) == [".amlignore", "prep.py"]
    write_files(folder, {"prep/.amlignore": "prep.py\n"})
    with pytest.raises(BadUsage, match=r"step1: 'script' 'prep\.py' is left out of the snapshot"):
        prepared(folder, {"step1": PREPARE})


def test_what_holds_for_several_steps_is_said_once(folder: Path) -> None:
    (folder / "requirements.txt").write_text("numpy\n")
    found = prepared(folder, {"step1": PREPARE, "step2": {**PREPARE, "output": "more"}}, cluster="gpu", requirements="requirements.txt")
    told = [text for text in found.remarks if "requirements.txt" in text]
    assert [text.partition(":")[0] for text in told] == ["step1, step2"]
