"""Tests of sweeps and pipelines: options and JSON files, refusals that name the step and key, and messages before they
start.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import ClusterSpec, DataSpec, Entry, EntryKind, StepOutput
from himl_cli.core.json_text import Spelled
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.services.submission.pipeline_file import read_pipeline
from himl_cli.services.submission.pipelines import PreparedPipeline, prepare_pipeline, with_named_datastores
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.submission.sweeps import check_sweep, copies_remarks, requested_sweep, sweep_remarks, sweep_text
from tests.support.hostile_texts import SECONDS, within
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
PREPARE = {
    "type": "PythonScriptStep",
    "name": "prepare",
    "script": "prep.py",
    "source_directory": "prep",
    "output": "clean-data",
}
TRAIN = {
    "type": "MpiStep",
    "script": "train.py",
    "source_directory": "train",
    "input_dataset_name": "clean-data",
    "processes_per_node": "2",
}
ENV = """\
BLOB_ACCOUNT_NAME=labstore
BLOB_CONTAINER_NAME='seismic'
BLOB_ACCOUNT_KEY=hunter2==
AML_COMPUTE_CLUSTER_NAME=gpu # ours
AML_COMPUTE_CLUSTER_MAX_NODES=4
"""


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(
        project,
        {
            "prep/prep.py": "",
            "train/train.py": "",
            "train/lib/net.py": "",
            "train/requirements.txt": "numpy\n",
            "train/notes.txt": "",
        },
    )
    return project


def prepared(
    folder: Path, steps: object, env: dict[str, str] | None = None, creates_cluster: bool = False, **options: Any
) -> PreparedPipeline:
    (folder / "p.json").write_text(steps if isinstance(steps, str) else json.dumps(steps), encoding="utf-8")
    return prepare_pipeline(
        SubmitRequest(**{"cwd": folder, "target": "p.json", **options}), env or {}, creates_cluster=creates_cluster
    )


def refused(folder: Path, steps: object, **options: Any) -> BadUsage:
    with pytest.raises(BadUsage) as caught:
        prepared(folder, steps, **options)
    assert "\n" not in str(caught.value)
    assert "hunter" not in str(caught.value) + caught.value.hint
    return caught.value


def test_example_of_deepseismics_documents(folder: Path) -> None:
    found = prepared(folder, {"step1": DEEPSEISMIC}, cluster="gpu", experiment="DEV-train-pipeline")
    (step,) = found.spec.steps
    job = step.job
    assert (step.key, step.name, found.spec.experiment, found.spec.cluster) == (
        "step1",
        "train step",
        "DEV-train-pipeline",
        "gpu",
    )
    assert job.entry == Entry(EntryKind.script, "train.py")
    assert job.arguments == [*ARGUMENTS, "--input_data", "${{inputs.input_data}}"]
    assert (job.distribution, job.nodes, job.processes) == ("mpi", 1, 1)
    assert job.environment is not None
    assert job.environment.image == "pytorch/pytorch"
    assert "numpy" in job.environment.conda
    assert sorted(job.snapshot.files) == ["lib/net.py", "notes.txt", "requirements.txt", "train.py"]
    assert job.inputs == [DataSpec("input_data", "normalized_data", mode="mount")]
    assert found.data["step1"].datastores == ["normalizeddataconditioned", "normalized_data_conditioned"]
    assert with_named_datastores(found).steps[0].job.inputs[0].datastore == "normalizeddataconditioned"


@pytest.mark.parametrize(
    ("script", "argument"),
    [("('--input',)", "--input"), ('"--input_data" or "--input"', "--input_data"), ("", "--input_data")],
)
def test_argument_of_the_input_is_the_one_that_the_script_has(folder: Path, script: str, argument: str) -> None:
    """DeepSeismic's document names `--input_data`, and its program passes `--input`."""
    write_files(folder, {"train/train.py": script})
    found = prepared(folder, {"step1": DEEPSEISMIC}, cluster="gpu")
    assert found.spec.steps[0].job.arguments[-2:] == [argument, "${{inputs.input_data}}"]
    assert [remark for remark in found.remarks if "--input" in remark] == [
        "step1: the input is --input, as 'train.py' has no --input_data."
    ] * (argument == "--input")


def test_steps_are_ordered_by_their_data_or_their_place(folder: Path) -> None:
    found = prepared(folder, {"step1": TRAIN, "step2": PREPARE, "step3": {**TRAIN, "output": "model"}})
    assert [step.key for step in found.spec.steps] == ["step2", "step1", "step3"]
    prepare, train, _ = found.spec.steps
    assert list(prepare.job.arguments) == ["--output", "${{outputs.clean_data}}"]
    assert prepare.job.outputs == [DataSpec("clean_data", "")]
    assert train.takes == {"input_data": StepOutput("step2", "clean_data")}
    assert list(train.job.arguments) == ["--input_data", "${{inputs.input_data}}"]
    assert (train.job.processes, prepare.job.processes, train.name) == (2, None, "step1")
    assert not found.data
    reads_later = {**TRAIN, "input_dataset_name": "late", "output": "early"}
    chain = prepared(
        folder,
        {
            "step1": reads_later,
            "step2": {**PREPARE, "output": "late"},
            "step3": {**TRAIN, "input_dataset_name": "early"},
        },
    )
    takes = [(step.key, list(step.takes.values())) for step in chain.spec.steps]
    assert takes == [("step2", []), ("step1", [StepOutput("step2", "late")]), ("step3", [StepOutput("step1", "early")])]
    alone, unnamed = {**PREPARE, "output": None}, {**TRAIN, "input_dataset_name": None}
    found = prepared(folder, {"step1": alone, "step2": PREPARE, "step3": alone, "step4": TRAIN})
    after = [(step.key, list(step.after)) for step in found.spec.steps]
    assert after == [("step1", []), ("step2", ["step1"]), ("step3", ["step2"]), ("step4", ["step2", "step3"])]
    found = prepared(
        folder, {"step1": PREPARE, "step2": {**unnamed, "output": "model"}, "step3": unnamed, "step4": unnamed}
    )
    clean, model = {"input_data": StepOutput("step1", "clean_data")}, {"input_data": StepOutput("step2", "model")}
    assert {step.key: dict(step.takes) for step in found.spec.steps} == {
        "step1": {},
        "step2": clean,
        "step3": model,
        "step4": {},
    }
    assert [list(step.job.arguments)[:2] for step in found.spec.steps[2:]] == [
        ["--input_data", "${{inputs.input_data}}"],
        [],
    ]
    assert "step3 names no input, so it reads the output of step2, the step before it." in found.remarks


def test_step_files_are_those_beside_json_or_in_cwd_but_secrets(folder: Path) -> None:
    write_files(folder, {"jobs/prep/prep.py": "", "jobs/p.json": json.dumps({"step1": PREPARE, "step2": TRAIN})})
    steps = prepare_pipeline(SubmitRequest(cwd=folder, target="jobs/p.json"), {}).spec.steps
    assert [step.job.snapshot.root for step in steps] == [folder / "jobs" / "prep", folder / "train"]
    write_files(folder, {"prep/.env": "BLOB_ACCOUNT_KEY=x\n", "prep/.amlignore": "big\n", "prep/big/file": "x"})
    (step,) = prepared(folder, {"step1": PREPARE}).spec.steps
    assert sorted(step.job.snapshot.files) == [".amlignore", "prep.py"]
    write_files(folder, {"prep/.amlignore": "prep.py\n"})
    assert "step1: 'script' 'prep.py' is excluded from the snapshot" in str(refused(folder, {"step1": PREPARE}))


def test_ignored_fields_are_told_and_options_reach_every_step(folder: Path) -> None:
    steps = {
        "step1": {**PREPARE, "node_count": 2},
        "step2": {**TRAIN, "node_count": 3, "input_datareference_path": "x"},
        "step3": {**PREPARE, "output": None},
    }
    found = prepared(folder, steps, record_in="azure", num_nodes=4, typed=frozenset())
    remarks = "\n".join(found.remarks)
    assert "step1: ignored, because it does not apply to this step: node_count." in remarks
    assert "step2: ignored, because it does not apply to this step: input_datareference_path." in remarks
    assert "step2: 1 node instead of 3 on this machine." in remarks
    assert "step3 names no input" not in remarks  # step2, before it, has no output
    assert (
        "Ignored: record_in = azure. himl records local runs of a pipeline file in the local workspace only."
        in found.remarks
    )
    assert found.spec.steps[0].job.nodes == 1
    options: dict[str, Any] = {"env_vars": {"A": "1"}, "tags": {"team": "blue"}, "max_run_duration": "2h"}
    steps = {"step1": PREPARE, "step2": {**TRAIN, "requirements": "train/requirements.txt"}}
    found = prepared(folder, steps, cluster="gpu", environment="lab:3", **options)
    jobs = [step.job for step in found.spec.steps]
    assert [job.environment.name for job in jobs if job.environment] == ["lab", ""]
    (folder / "uv.lock").write_text("version = 1\npackage = []\n")
    locked = [step.job.environment for step in prepared(folder, steps, cluster="gpu", lock="uv.lock").spec.steps]
    assert ["numpy" in spec.conda for spec in locked if spec] == [False, True], (
        "a step's own requirements count before the lock"
    )
    assert all(
        (job.env, job.tags["team"], job.max_seconds, job.cluster) == ({"A": "1"}, "blue", 7200.0, "gpu") for job in jobs
    )
    assert found.spec.tags["team"] == "blue"


@pytest.mark.parametrize(("options", "message"), [
    ({"inputs": ["a"]}, "--input does not apply to a pipeline file"),
    ({"arguments": ("--x",)}, "Arguments after '--' do not apply to a pipeline file"),
    ({"module": "lab"}, "A file and -m MODULE cannot be combined"),
    ({"target": "pipelin.json"}, "There is no file 'pipelin.json'"),
])  # fmt: skip
def test_options_that_no_pipeline_takes_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    assert message in str(refused(folder, {"step1": PREPARE}, **options))


def test_dotenv_names_cluster_and_data_unless_options_do(folder: Path) -> None:
    (folder / ".env").write_text(ENV)
    found = prepared(folder, {"step1": DEEPSEISMIC}, creates_cluster=True)
    assert found.spec.cluster == "gpu"
    assert (
        found.remarks[0]
        == f"Cluster: 'gpu', from AML_COMPUTE_CLUSTER_NAME in '{folder / '.env'}'. To use this machine, add "
        "--cluster local."
    )
    assert found.cluster == ClusterSpec("gpu", "Standard_NC6", 0, 4)
    assert found.container is not None
    assert (found.container.account, found.container.container, found.container.key) == (
        "labstore",
        "seismic",
        "hunter2==",
    )
    assert found.container.name == "normalizeddataconditioned"
    assert "hunter2" not in repr(found)
    variables = {"AML_COMPUTE_CLUSTER_NAME": "other", "AML_COMPUTE_CLUSTER_SKU": "Standard_NC24"}
    by_variable = prepared(folder, {"step1": DEEPSEISMIC}, variables, creates_cluster=True)
    assert by_variable.cluster == ClusterSpec("other", "Standard_NC24", 0, 4)
    assert "from the variable AML_COMPUTE_CLUSTER_NAME" in by_variable.remarks[0]
    assert prepared(folder, {"step1": DEEPSEISMIC}, variables, cluster="third").spec.cluster == "third"
    local = prepared(folder, {"step1": DEEPSEISMIC}, variables, cluster="local")
    assert (local.spec.cluster, local.container, local.cluster) == ("", None, None)
    local = prepared(folder, {"step1": PREPARE}, {"AML_COMPUTE_CLUSTER_NAME": "local"})
    assert (local.spec.cluster, [text for text in local.remarks if "cluster" in text]) == ("", [])
    (folder.parent / ".env").write_text(ENV)
    (folder / ".env").write_text("not even a variable\n")
    assert prepared(folder, {"step1": DEEPSEISMIC}).spec.cluster == "gpu"


@pytest.mark.parametrize(("lines", "message"), [
    ("AML_COMPUTE_CLUSTER_MAX_NODES=many", "AML_COMPUTE_CLUSTER_MAX_NODES cannot be 'many'"),
    (f"AML_COMPUTE_CLUSTER_MAX_NODES={'9' * 5000}",
        "AML_COMPUTE_CLUSTER_MAX_NODES: a cluster has at most 65,000 nodes."),
    ("AML_COMPUTE_CLUSTER_MIN_NODES=9", "AML_COMPUTE_CLUSTER_MIN_NODES is 9, but AML_COMPUTE_CLUSTER_MAX_NODES is 4"),
    ("BLOB_CONTAINER_NAME=", "BLOB_ACCOUNT_NAME is set, but BLOB_CONTAINER_NAME is not"),
    ("hunter3 and more", "line 7: not NAME=value"),
    ("", "AML_COMPUTE_CLUSTER_MAX_NODES is 4, but step2 has a node_count of 5"),
], ids=lambda value: value[:40])  # fmt: skip
def test_unusable_dotenv_is_refused(folder: Path, lines: str, message: str) -> None:
    (folder / ".env").write_text(f"{ENV}#\n{lines}\n")
    steps = {"step1": DEEPSEISMIC, "step2": {**DEEPSEISMIC, "node_count": 1 if lines else 5}}
    assert message in str(refused(folder, steps, creates_cluster=True))


def test_environment_of_steps(folder: Path) -> None:
    found = prepared(folder, {"step1": PREPARE}, cluster="gpu")
    environment = found.spec.steps[0].job.environment
    assert environment is not None
    packages = environment.conda.partition("dependencies:")[2].split()
    assert sorted(word.partition("=")[0] for word in packages if word != "-") == ["pip", "python"]
    assert any(
        text.startswith("step1: No file lists its packages, so its environment has only python=")
        for text in found.remarks
    )
    (folder / "requirements.txt").write_text("numpy\n")
    found = prepared(
        folder,
        {"step1": PREPARE, "step2": {**PREPARE, "output": "more"}},
        cluster="gpu",
        requirements="requirements.txt",
    )
    assert [text.partition(":")[0] for text in found.remarks if "requirements.txt" in text] == ["step1, step2"]


@pytest.mark.parametrize(("content", "message"), [
    ('{"step1": {,}', "'p.json', line 1, column 12: "),
    ("{}", "'p.json' contains no steps."),
    ({"train": PREPARE}, "'train' is not a valid key of a step"),
    ({"step1": "x"}, "'p.json', step1: must be an object, not a text."),
    (f'{{"step1": {{"node_count": {"1" * 5000}}}}}', "'p.json': it contains a number that is too long."),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_file_that_is_no_pipeline_is_refused(folder: Path, content: object, message: str) -> None:
    assert message in str(refused(folder, content))


@pytest.mark.parametrize(("fields", "message", "hint"), [
    ({"type": "MPIStep"}, "'type' cannot be 'MPIStep'.", "'MpiStep'"),
    ({"script": None}, "'script' is missing.", "source_directory"),
    ({"scripts": "a.py"}, "'scripts' is not a field of a step.", "'script'"),
    ({"name": 3}, "'name' must be text, not a number.", ""),
    ({"script": "lib/nett.py"}, "'script' 'lib/nett.py' is not in ", "'lib/net.py'"),
    ({"script": "../train.py"}, "'script' '../train.py' is outside source_directory 'train'.", ""),
    ({"script": "notes.txt"}, "'script' 'notes.txt' is not a .py script.", ""),
    ({"source_directory": "trian"}, "'source_directory' 'trian' does not exist.", "'train'"),
    ({"source_directory": "p.json"}, "'source_directory' 'p.json' is not a folder.", ""),
    ({"requirements": "train/requirement.txt"}, "'requirements' 'train/requirement.txt' is not a file.",
        "'train/requirements.txt'"),
    ({"node_count": 65_001}, "'node_count' must be at most 65,000, not 65,001.", ""),
    ({"processes_per_node": 10**400}, "'processes_per_node' must be at most 1,024.", ""),
    ({"processes_per_node": True}, "'processes_per_node' must be a positive integer", ""),
    ({"arguments": "--a 'b"}, "'arguments' has an unclosed quote.", ""),
    ({"name": "a\0b"}, "'name' has the character NUL", ""),
    ({"arguments": {"a": 1}}, "'arguments' must be a list or a text, not an object.", ""),
    ({"arguments": ["a", ["b"]]}, "'arguments' contains a list.", ""),
    ({"arguments": ["${{inputs.a}}"]}, "'arguments' '${{inputs.a}}' names no input", ""),
    ({"output": "a", "input_dataset_name": "a"}, "'input_dataset_name' names 'a', the step's own output.", ""),
    ({"input_dataset_name": "../../x"}, "'input_dataset_name' '../../x' is outside the datastore.", ""),
    ({"input_datareference_path": "../../x"}, "'input_datareference_path' '../../x' is outside the datastore.", ""),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_invalid_field_is_refused(folder: Path, fields: dict[str, Any], message: str, hint: str) -> None:
    step = {"type": "PythonScriptStep", "script": "train.py", "source_directory": "train"}
    error = refused(folder, {"step7": {**step, **fields}})
    assert (message in str(error), "step7: " in str(error), hint in error.hint) == (True, True, True)


def test_steps_that_contradict_each_other_are_refused(folder: Path) -> None:
    def step(**fields: str) -> dict[str, str]:
        return {**PREPARE, "output": "", **fields}

    cycle = {f"step{n}": step(output=f"o{n}", input_datareference_name=f"o{n % 3 + 1}") for n in (1, 2, 3)}
    both = {
        "step1": step(output="a"),
        "step2": step(output="b"),
        "step3": step(input_datareference_name="a", input_dataset_name="b"),
    }
    for steps, message in (
        (cycle, "step1: 'input_datareference_name' creates a cycle: step1 <- step2 <- step3 <- step1."),
        ({"step1": step(output="a"), "step2": step(output="a")}, "step2: 'output' 'a' is already an output of step1."),
        (
            {"step1": step(output="a-b"), "step2": step(output="a b")},
            "step2: 'output' 'a b' and 'a-b' have the same variable name.",
        ),
        (both, "step3: 'input_dataset_name' 'b' and 'input_datareference_name' 'a' are two outputs."),
    ):
        assert message in str(refused(folder, steps))


def test_values_and_duplicate_keys_among_thousands(folder: Path) -> None:
    fields = {
        **PREPARE,
        "arguments": ["--lr", 0.1, "--on", True, "--n", 3, "é"],
        "node_count": "2",
        "processes_per_node": " 4 ",
        "requirements": None,
    }
    unnamed = {**PREPARE, "name": None, "arguments": "--name 'a b' -v"}
    (folder / "p.json").write_bytes(
        b"\xef\xbb\xbf" + json.dumps({"step1": {**fields, "output_path": "/tmp/x"}, "step2": unnamed}).encode()
    )
    first, second = read_pipeline(folder / "p.json", "p.json").steps
    assert first.arguments == ["--lr", "0.1", "--on", "True", "--n", "3", "é"]
    assert (first.node_count, first.processes_per_node, first.requirements, first.passed_over) == (
        2,
        4,
        "",
        ["output_path"],
    )
    assert (second.arguments, second.name) == (["--name", "a b", "-v"], "step2")
    path = folder / "p.json"
    path.write_text("{" + "".join(f'"step{number}": 1, ' for number in range(50_000)) + '"step7": 2}')
    with within(SECONDS), pytest.raises(BadUsage, match="the key 'step7' occurs twice"):
        read_pipeline(path, "p.json")


def sweep(*specs: str, on_azure: bool = False, **options: Any) -> SweepSpec:
    found = requested_sweep(
        SubmitRequest(**{"cwd": Path(), "cluster": "gpu" if on_azure else None, "sweep": specs, **options})
    )
    assert found is not None
    return found


def refusal(*specs: str, on_azure: bool = False, **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        sweep(*specs, on_azure=on_azure, **options)
    return f"{caught.value} | {caught.value.hint}"


@pytest.mark.parametrize(("spec", "draw", "values"), [
    ("1, 2 ,-3", Draw.choice, (1, 2, -3)),
    ("1e-3,.5,2.", Draw.choice, (Spelled("1e-3"), Spelled(".5"), Spelled("2."))),
    ("""1,0.1,"3.10",'1e5',2.50""", Draw.choice, (1, 0.1, "3.10", "1e5", Spelled("2.50"))),
    ("(64,32),[1, (2,3)],\"(4)\"", Draw.choice, ("(64,32)", "[1, (2,3)]", "(4)")),
    ('64 32,it\'s,"say ""a, b"""', Draw.choice, ("64 32", "it's", 'say "a, b"')),
    ("007,true,nan,1_000,1e999," + "9" * 5000, Draw.choice, ("007", "true", "nan", "1_000", "1e999", "9" * 5000)),
    ('"64,32",128', Draw.choice, ("64,32", 128)),
    ("uniform(high=1,low=0)", Draw.uniform, (0, 1)),
    ("lognormal(0,0.5)", Draw.lognormal, (0, 0.5)),
    ("randint(10)", Draw.randint, (10,)),
    ("quniform(16,128,16)", Draw.quniform, (16, 128, 16)),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_spec_means_search_range(spec: str, draw: Draw, values: tuple[str | float, ...]) -> None:
    space = sweep(f"x={spec}", max_trials=5).space["x"]
    assert space == SearchRange(draw, values)
    assert [(type(value), str(value)) for value in space.values] == [(type(value), str(value)) for value in values]


@pytest.mark.parametrize(("spec", "message"), [
    ("x=uniform(1)", "uniform takes 2 arguments: low, high. | Write uniform(low,high)"),
    ("x=randint()", "randint takes 1 argument: n."),
    ("x=choice()", "the list is empty"),
    ("x=1,2,", "a value is empty"),
    ("x=1,2,1", "the value 1 occurs twice"),
    ("x=unifrom(0,1)", "no distribution 'unifrom'. | Did you mean 'uniform'?"),
    ("x=uniform(0,1),3", "neither a list nor a distribution"),
    ("x=uniform(1,1)", "low must be less than high"),
    ("x=uniform(a,1)", "low must be a number, not 'a'"),
    ("x=uniform(0,hgih=1)", "unknown 'hgih'. | Did you mean 'high'?"),
    ("x=normal(0,0)", "sigma must be greater than 0"),
    ("x=randint(0)", "n must be a positive integer"),
    ("x=quniform(0,1,0)", "q, the step, must be greater than 0"),
    (f"x=randint({'9' * 400})", "must be a number, not '"),
    ("x", "no values"),
    ("a b=1,2", "'a b' is not a valid name of a hyperparameter"),
    ("x=(64,32)",
        "a list must not have brackets. | Write --sweep x=64,32, or for a single value --sweep 'x=\"(64,32)\"'"),
    ("x=swich(true)", "no distribution 'swich'. | Did you mean 'switch'?"),
    ("x=switch(maybe)",
        "'maybe' is no value of a switch. | Use true (--x), false (no argument), or an option such as --no-x."),
    ("x=words(it's)", "a quote in 'it's' is not closed"),
    ('x="",1', "a value is empty"),
    ("lr=[0.1,0.2]", "a list must not have brackets. | Write --sweep lr=0.1,0.2"),
    ("password=abc,def", "looks like a secret"),
], ids=lambda value: value[:30])  # fmt: skip
def test_invalid_spec_is_refused(spec: str, message: str) -> None:
    assert message in refusal(spec, max_trials=3)


def test_hyperparameters_folds_and_seeds_are_counted_quickly() -> None:
    assert list(sweep("--lr=1,2", "model.depth=3").space) == ["lr", "model.depth"]
    assert "'lr' occurs twice" in refusal("lr=1,2", "--lr=3")
    assert sweep("token_count=1,2").max_trials == 2
    assert sweep(crossval=2, crossval_arg="key").max_trials == 2
    grid = sweep("lr=0.1,0.01", "depth=1,2,3", max_concurrent=50)
    assert (grid.sampling, grid.max_trials, grid.max_concurrent, grid.kind) == ("grid", 6, 6, "sweep")
    assert sweep("lr=0.1,0.01", max_trials=50).max_trials == 2
    assert sweep("lr=0.1,0.01", max_trials=1).max_trials == 1
    drawn = sweep("lr=uniform(0,1)", "depth=1,2", max_trials=7)
    assert (drawn.sampling, drawn.max_trials, drawn.seed) == ("random", 7, None)
    assert sweep("lr=0.1,0.01", sampling="random(seed=7)", max_trials=9).max_trials == 9
    assert (sweep("lr=1,2", sampling="bayesian(seed=3)", max_trials=4).seed) == 3
    splits = sweep(crossval=5)
    assert splits.space == {"crossval_index": SearchRange(Draw.choice, (0, 1, 2, 3, 4))}
    assert (splits.sampling, splits.max_trials, splits.kind) == ("grid", 5, "crossval")
    assert list(sweep(crossval=2, crossval_arg="--fold").space) == ["fold"]
    seeds = sweep(different_seeds=3, seed_arg="seed")
    assert (seeds.space, seeds.kind) == ({"seed": SearchRange(Draw.choice, (0, 1, 2))}, "seeds")
    assert "--crossval must be at least 2, not 1." in refusal(crossval=1)
    assert "--different_seeds must be at least 1, not 0." in refusal(different_seeds=0)
    assert "--crossval_arg 'a b' is not a valid name of an argument." in refusal(crossval=3, crossval_arg="a b")
    for option in ("crossval", "different_seeds"):
        for on_azure, most in ((False, 100_000), (True, 1000)):
            message = refusal(on_azure=on_azure, **{option: 10**18})
            assert message.startswith("The sweep has 1,000,000,000,000,000,000 trials. ")
            assert message.endswith(f"| Use --{option} {most} at most.")
    assert sweep(different_seeds=100_000).max_trials == 100_000
    texts = [str(number) for number in range(50_000)]
    assert "the value 7 occurs twice" in refusal(f"x={','.join([*texts, '7'])}")


@pytest.mark.parametrize(("options", "message"), [
    ({"sampling": "bayes"}, "no sampling 'bayes'. | Did you mean 'bayesian'?"),
    ({"sampling": "random(7)"}, "Write --sampling 'random(seed=7)'"),
    ({"sampling": "random(sede=7)"}, "Did you mean 'seed'?"),
    ({"sampling": "random(seed=x)"}, "seed must be an integer"),
    ({"sampling": "grid"}, "needs lists of values, but 'lr' is drawn from uniform"),
    ({"sampling": "random"}, "--sampling random needs a number of trials. | Add --max_trials N"),
    ({"max_trials": 0}, "--max_trials must be at least 1, not 0."),
    ({"max_trials": 10**7}, "The limit on this machine is 100,000"),
    ({"max_trials": 5, "goal": "minimise"}, "--goal cannot be 'minimise'"),
    ({"max_trials": 5, "primary_metric": " "}, "--primary_metric is empty"),
    ({"max_trials": 5, "sampling": "bayesian", "early_stop": "median"}, "cannot be combined"),
    ({"max_trials": 5, "max_failures": -1}, "--max_failures must be 0 or a positive integer, not -1. | With 0,"),
    ({"max_trials": 5, "max_failures": 1, "cluster": "slurm:gpu"}, "--max_failures 1 does not apply to an array"),
    ({"max_trials": 200, "max_concurrent": 101, "on_azure": True},
        "--max_concurrent 101: the limit on Azure ML is 100."),
])  # fmt: skip
def test_invalid_search_options_are_refused(options: dict[str, Any], message: str) -> None:
    assert message in refusal("lr=uniform(0,1)", **options)


def test_limits_of_azure_and_specs_built_in_code() -> None:
    assert "cannot draw 'lr' from normal" in refusal("lr=normal(0,1)", sampling="bayesian", max_trials=3)
    assert sweep("lr=uniform(0,1)", max_trials=1000, on_azure=True).max_trials == 1000
    assert sweep("lr=uniform(0,1)", max_trials=100, max_concurrent=500, on_azure=True).max_concurrent == 100
    assert sweep("lr=uniform(0,1)", max_trials=200, on_azure=True).max_concurrent is None
    many = ",".join(map(str, range(50)))
    assert "The sweep has 2,500 trials" in refusal(f"a={many}", f"b={many}", on_azure=True)
    wrong = {
        "low must be less than high": SweepSpec({"x": SearchRange(Draw.uniform, (1, 0))}, "random", 3),
        "not both": SweepSpec(
            {"x": SearchRange(Draw.choice, (1,))}, early_stop=EarlyStop("bandit", slack_factor=1, slack_amount=1)
        ),
        "search space is empty": SweepSpec({}),
        "must not mix numbers and words": SweepSpec({"x": SearchRange(Draw.choice, (True, 1))}, "bayesian", 2),
    }
    for message, spec in wrong.items():
        with pytest.raises(BadUsage, match=message):
            check_sweep(spec, on_azure="must not mix" in message)
    check_sweep(SweepSpec({"x": SearchRange(Draw.choice, (True, False))}, "bayesian", 2), on_azure=True)


@pytest.mark.parametrize(("spec", "sampling", "message"), [
    ("lr=loguniform(-9,-2)", "bayesian", "on Azure ML cannot draw 'lr' from loguniform"),
    ("lr=quniform(0,1,0.1)", "random", "q of quniform must be an integer, not 0.1. | List the values"),
    ("lr=quniform(0.5,10,1)", "bayesian", "quniform needs integers. | Use uniform(low,high)."),
    ("lr=quniform(0,200001,2)", "bayesian", "at most 100,000 steps"),
    ("lr=1,a", "bayesian", "a list must not mix numbers and words"),
    ("lr=quniform(0.5,10,2.0)", "random", ""),
    ("lr=1,a", "random", ""),
    ("lr=quniform(0,200000,2)", "bayesian", ""),
    ("lr=1,0.5", "bayesian", ""),
])  # fmt: skip
def test_search_spaces_that_azure_takes_or_refuses(spec: str, sampling: str, message: str) -> None:
    if message:
        assert message in refusal(spec, sampling=sampling, max_trials=3, on_azure=True)
    assert sweep(spec, sampling=sampling, max_trials=3, on_azure=not message).max_trials == 3


@pytest.mark.parametrize(("text", "message"), [
    ("bandit", "bandit needs slack_factor or slack_amount, but has neither."),
    ("bandit(slack_factor=0.1,slack_amount=1)", "bandit needs slack_factor or slack_amount, not both."),
    ("bandit(slack_factor=0)", "the slack must be greater than 0"),
    ("bandti(slack_factor=0.1)", "Did you mean 'bandit'?"),
    ("bandit(slack_factor=x)", "slack_factor must be a number, not 'x'"),
    ("bandit(0.1)", "Write --early_stop 'bandit(slack_factor=0.1)'"),
    ("median(evaluation_interval=0)", "evaluation_interval must be at least 1"),
    ("median(delay_evaluation=-1)", "delay_evaluation must not be negative"),
    ("truncation(truncation_percentage=100)", "truncation_percentage must be from 1 to 99"),
])  # fmt: skip
def test_invalid_early_stop_is_refused(text: str, message: str) -> None:
    assert message in refusal("lr=1,2", early_stop=text)


def test_sweep_is_told_in_lines() -> None:
    assert (
        sweep_text(sweep("lr=0.10,0.01", 'layers="64,32",128'))
        == 'lr=0.10,0.01 layers="64,32",128, grid, 4 trials, minimize val/loss'
    )
    options: dict[str, Any] = {
        "max_trials": 1,
        "goal": "maximize",
        "primary_metric": "acc",
        "early_stop": "median(delay_evaluation=3)",
    }
    text = sweep_text(sweep("x=normal(0,0.5)", sampling="random(seed=7)", **options))
    assert text == "x=normal(0,0.5), random(seed=7), 1 trial, maximize acc, median(delay_evaluation=3)"
    assert "… (20 values), grid, 20 trials" in sweep_text(sweep(f"x={','.join(map(str, range(20)))}"))
    (_, repeated) = sweep_remarks(sweep("x=1,2", sampling="random", max_trials=5), ())
    assert (
        repeated == "warning: there are 2 combinations, so some of the 5 trials are identical. To run each once, use "
        "--sampling grid."
    )
    assert len(sweep_remarks(sweep("x=1,2", sampling="random", max_trials=2), ())) == 1
    assert "himl skips 3 of 4 combinations (--max_trials 1)." in sweep_remarks(
        sweep("a=1,2", "b=1,2", max_trials=1), ()
    )
    assert len(sweep_remarks(sweep("a=1,2", "b=1,2", max_trials=4), ())) == 1
    for arguments, warns in (
        (("--lr", "0.1"), True),
        (("--lr=3",), True),
        (("--lr", "${{search_space.lr}}"), False),
        (("--lrx", "1"), False),
    ):
        assert (
            any(
                "--lr is already among the script's arguments" in remark
                for remark in sweep_remarks(sweep("lr=1,2"), arguments)
            )
            is warns
        )
    alone, many = SubmitRequest(cwd=Path(), different_seeds=300), sweep(different_seeds=300)
    assert copies_remarks(many, 300_000_000, alone) == []  # a copy lasts as long as its trial
    (copies,) = copies_remarks(replace(many, max_concurrent=4), 300_000_000, alone)
    assert "up to 4 x 300.0 MB, about 1.5 GB of disk" in copies
    for at_once in (replace(alone, gpus=1), replace(alone, cluster="slurm:gpu")):
        assert "up to 300 x 300.0 MB, about 90.3 GB of disk" in copies_remarks(many, 300_000_000, at_once)[0]
    (_, shown) = sweep_remarks(sweep("lr=loguniform(-9,-2)", max_trials=3), ())
    assert shown == "lr: 0.000123 to 0.135, because the arguments of loguniform are exponents of e, as in Azure ML."
    (_, warned) = sweep_remarks(sweep("lr=loguniform(0.0001,0.1)", max_trials=3), ())
    assert warned.startswith("warning: lr: 1 to 1.11,")
    assert warned.endswith("For values from 0.0001 to 0.1: --sweep 'lr=loguniform(-9.21,-2.303)'")
    (_, stepped) = sweep_remarks(sweep("lr=qloguniform(0.1,1,0.5)", max_trials=3), ())
    assert stepped.endswith("--sweep 'lr=qloguniform(-2.303,0,0.5)'")
