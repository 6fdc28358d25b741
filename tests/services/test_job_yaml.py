"""Tests of Azure ML's YAML as a local job: the effect of each key, refusals that name the key, and aliases that expand
to too much.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, StepOutput
from himl_cli.core.sweeps import Draw, EarlyStop, SearchRange, SweepSpec
from himl_cli.services.submission.job_yaml import PreparedDocument, changed_yaml, prepare_document
from himl_cli.services.submission.job_yaml_file import read_document
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.yaml_files import LARGEST_YAML, MOST_VALUES, parse_mapping
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import write_files

COMMAND: dict[str, Any] = {
    "type": "command",
    "command": "python fit.py",
    "code": "src",
    "environment": "azureml:lab@latest",
    "compute": "local",
}
SWEEP: dict[str, Any] = {
    "type": "sweep",
    "trial": {"command": "python fit.py --lr ${{search_space.lr}}", "code": "src", "environment": "azureml:lab@latest"},
    "search_space": {"lr": {"type": "choice", "values": [0.1, 0.2]}},
    "sampling_algorithm": "grid",
    "objective": {"goal": "Maximize", "primary_metric": "accuracy"},
    "limits": {"max_total_trials": 9, "max_concurrent_trials": 2, "trial_timeout": 60},
}
PATH = Path("job.yml")
MERGES = "a: &a0 {x: 1}\n" + "".join(f"k{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
ALIASES = "a: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9)
)
DEEP_BY_ALIASES = "a: &a0 1\n" + "".join(f"k{n}: &a{n} {'[' * 90}*a{n - 1}{']' * 90}\n" for n in range(1, 9))


@pytest.mark.parametrize(("text", "complaint"), [
    (MERGES, f"there are more than {MOST_VALUES:,} values"),
    (ALIASES, f"there are more than {MOST_VALUES:,} values"),
    (DEEP_BY_ALIASES, "more than 100 levels"),
    ("a: " + "[" * 300 + "]" * 300, "line 1: values have more than 100 levels"),
    ("a: 1\nb: &b {c: {d: *b}}", "line 2: the value contains itself"),
    ("a: " + "x" * LARGEST_YAML, "is too large for YAML: it has 524,291 characters"),
    ("a: 1\nb: " + "9" * 400, "line 2: the number is too long"),
    ("a: 1" + ":1" * 200 + ".5", "the number is too long"),
    ("a: !!bool maybe", "line 1: 'maybe' is not a valid bool"),
    ('a: 1\nb: "x\\ud800"', "line 2: the text contains half a surrogate pair"),
    ("a: &a {x: 1}\nb:\n  x: 1\n  x: 2\n  <<: *a\n", "line 4: the key 'x' occurs twice"),
    ("a: 1\nb:\n  <<: [1]\n", "line 3: only mappings can be merged"),
], ids=lambda value: value[:12])  # fmt: skip
def test_excessive_or_invalid_yaml_is_refused_quickly(text: str, complaint: str) -> None:
    with within(SECONDS), pytest.raises(BadUsage) as caught:
        parse_mapping(text, PATH)
    assert caught.value.hint
    assert len(str(caught.value)) < 300
    assert complaint in str(caught.value)


@pytest.mark.parametrize(("text", "meant"), [
    ("group:\n  one: &a {x: 1}\n  two: &b\n    <<: *a\n    x: 2\ntop:\n  <<: *b\n",
        {"group": {"one": {"x": 1}, "two": {"x": 2}}, "top": {"x": 2}}),
    ("a: &a {lr: 1}\nb: &b {lr: 2, y: 2}\nc:\n  <<: [*a, *b]\n",
        {"a": {"lr": 1}, "b": {"lr": 2, "y": 2}, "c": {"lr": 1, "y": 2}}),
    ('emoji: "\\ud83d\\ude00"\n', {"emoji": "\U0001f600"}),
    ("many: &m [" + "1, " * 999 + "1]\nall: [" + "*m, " * 9 + "*m]\n", {"many": [1] * 1000, "all": [[1] * 1000] * 10}),
], ids=lambda value: str(value)[:12])  # fmt: skip
def test_aliases_merges_and_long_values_are_read(text: str, meant: Any) -> None:
    assert parse_mapping(text, PATH) == meant
    parse_mapping("deep: " + "[" * 98 + "1" + "]" * 98, PATH)


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(
        project,
        {"src/fit.py": "", "data/a.csv": "", "parts/prep.yml": yaml.safe_dump(PREP), "parts/open.yml": "a: [\n"},
    )
    return project


def prepared(folder: Path, content: dict[str, Any], **options: Any) -> PreparedDocument:
    (folder / "job.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    return prepare_document(SubmitRequest(**{"cwd": folder, "target": "job.yml", **options}), {})


def job_of(folder: Path, content: dict[str, Any]) -> JobSpec:
    job = prepared(folder, content).job
    assert job is not None
    return job


def refusal(folder: Path, content: dict[str, Any], **options: Any) -> str:
    with pytest.raises(BadUsage) as caught:
        prepared(folder, content, **options)
    assert str(caught.value).startswith(
        ("'job.yml': ", "'parts/prep.yml': ", "'job.yml' is ", "--env_var ", "'parts/open.yml', ")
    )
    return f"{caught.value} {caught.value.hint}"


def test_command_job(folder: Path) -> None:
    content = {
        **COMMAND,
        "experiment_name": "digits",
        "display_name": "shown",
        "tags": {"n": "1", "team": "red"},
        "environment_variables": {"LR": "${{inputs.lr}}", "ON": True},
        "command": "python fit.py $[[--fast ${{inputs.lr}}]] ${{inputs.lr}} ${{inputs.raw}} ${{ outputs.o }} "
        "$[[--more ${{inputs.more}}]]",
        "inputs": {
            "lr": 0.1,
            "raw": {"type": "uri_folder", "path": "data"},
            "more": {"type": "string", "optional": True},
        },
        "outputs": {"o": {"type": "uri_folder"}},
        "distribution": {"type": "PyTorch", "process_count_per_instance": 2},
        "resources": {"instance_count": 3, "shm_size": "8g"},
        "limits": {"timeout": 90},
        "queue_settings": {"job_tier": "spot"},
    }
    found = prepared(folder, content, tags={"team": "blue"}, env_vars={"ON": "no"})
    job = found.job
    assert job is not None
    assert job.entry == Entry(EntryKind.command, "python fit.py --fast 0.1 0.1 ${{inputs.raw}} ${{ outputs.o }}")
    assert (job.experiment, job.display_name, job.tags["team"], job.tags["n"]) == ("digits", "shown", "blue", "1")
    assert job.env == {"LR": "0.1", "ON": "no"}
    assert job.inputs == [DataSpec("raw", "data", local=str(folder / "data"))]
    assert job.outputs == [DataSpec("o", "")]
    assert (job.processes, job.distribution, job.max_seconds, job.arguments) == (2, "pytorch", 90.0, ())
    assert (job.snapshot.root, list(job.snapshot.files)) == (folder / "src", ["fit.py"])
    assert (
        "Ignored, because the job runs on this machine: environment, queue_settings, resources.shm_size."
        in found.remarks
    )
    assert "'resources.instance_count': 1 node instead of 3 on this machine." in found.remarks


def test_aliases_and_places_of_data(folder: Path) -> None:
    variables = "environment_variables:\n  <<: *base\n  B: '3'\n"
    write_files(
        folder,
        {
            "job.yml": "tags: &base {A: '1', B: '2'}\ncommand: echo ${{inputs.n}}\n"
            f"{variables}inputs: {{n: &n 4, m: *n}}\n"
        },
    )
    found = prepare_document(SubmitRequest(cwd=folder, target="job.yml"), {})
    assert found.job is not None
    assert (found.job.entry.target, dict(found.job.env)) == ("echo 4", {"A": "1", "B": "3"})
    shown = parse_mapping(changed_yaml(found), PATH)
    assert (shown["environment_variables"], shown["inputs"]) == ({"A": "1", "B": "3"}, {"n": 4, "m": 4})
    for path, item in {
        "azureml:digits:3": DataSpec("x", "digits", version="3"),
        "azureml:digits@latest": DataSpec("x", "digits"),
        "azureml://registries/r/data/digits/versions/1": DataSpec("x", "azureml://registries/r/data/digits/versions/1"),
        "https://example.org/x.csv": DataSpec("x", "https://example.org/x.csv"),
        "azureml://datastores/workspaceblobstore/paths/raw/first/": DataSpec("x", "raw/first"),
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/lab/paths/raw": DataSpec(
            "x", "raw", datastore="lab"
        ),
    }.items():
        content = {**COMMAND, "command": "ls ${{inputs.x}}", "inputs": {"x": {"type": "uri_folder", "path": path}}}
        assert list(job_of(folder, content).inputs) == [item]


@pytest.mark.parametrize(("changes", "message"), [
    ({"comand": "x"}, "'comand' is an unknown key. Did you mean 'command'"),
    ({"command": None}, "'command' is missing"),
    ({"command": "ls ${{inputs.y}}"},
        "'command' has '${{inputs.y}}', which is an unknown placeholder. Use one of: none."),
    ({"command": "ls ${{parent.y}}"}, "'command' has '${{parent.y}}', which is an unknown placeholder"),
    ({"code": "git+https://ada:hunter2@example.org/lab"},
        "'code' 'git+https://***@example.org/lab' is not available on this machine."),
    ({"distribution": {"type": "tensorflow"}}, "'distribution.type' 'tensorflow' is not available on this machine."),
    ({"distribution": {"type": "mpi", "process_count_per_instance": 0}},
        "'distribution.process_count_per_instance' must be a positive integer"),
    ({"resources": {"instance_count": 10**200}}, "'resources.instance_count' must be at most 65,000"),
    ({"command": "echo a\0b"}, "'command' has the character NUL"),
    ({"command": "echo ${{inputs.a}}", "inputs": {"a": "a\0b"}}, "'inputs.a' has the character NUL"),
    ({"limits": {"timeout": "soon"}}, "'limits.timeout' must be a number"),
    ({"limits": 3}, "'limits' must contain keys and values"),
    ({"outputs": {"x": {"type": "uri_folder", "path": "https://example.org/x"}}},
        "'outputs.x.path' 'https://example.org/x' is not a folder of a datastore."),
    ({"inputs": {"x": {"type": "folder", "path": "data"}}}, "'inputs.x.type' cannot be 'folder'."),
    ({"inputs": {"a-b": 1}}, "'inputs.a-b' is not a valid key."),
    ({"inputs": {"x": {"type": "uri_folder"}}},
        "'inputs.x' has no value. Write one into the file, or add --set inputs.x.path=PATH"),
    ({"inputs": {"x": {"type": "string"}}},
        "'inputs.x' has no value. Write one into the file, or add --set inputs.x=VALUE"),
    ({"inputs": {"x": [1]}}, "'inputs.x' must be a plain value or a dataset."),
    ({"environment_variables": {"A": "${{inputs.x}}"}, "inputs": {"x": {"path": "data"}}},
        "'environment_variables.A' has '${{inputs.x}}'"),
])  # fmt: skip
def test_invalid_command_job_is_refused_by_key(folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(folder, {**COMMAND, **changes})


def test_compute_and_options_that_do_not_count(folder: Path) -> None:
    named = {**COMMAND, "compute": "azureml:gpu"}
    assert prepared(folder, named).goes_to_azure
    assert prepared(folder, named).content["compute"] == "azureml:gpu"
    assert prepared(folder, named, cluster="other").content["compute"] == "azureml:other"
    assert prepared(folder, named, cluster="local").job is not None
    assert prepared(folder, COMMAND, cluster="gpu").goes_to_azure
    nowhere = prepared(folder, {"command": "ls"})
    assert nowhere.job is not None
    assert nowhere.remarks == ["It names no compute, so it runs on this machine. To use Azure ML, add --cluster NAME."]
    for options in ({"checkpoint": "a.pt"}, {"in_place": True}, {"num_nodes": 2}, {"cluster": "gpu", "python": "x"}):
        name = [*options][-1]
        with pytest.raises(BadUsage, match=f"--{name} does not apply to a job's YAML") as caught:
            prepared(folder, COMMAND, typed=frozenset(options), **options)
        assert caught.value.hint == "Omit it, or use a key of 'job.yml', if there is one for it."
    (folder / "conda.yml").write_text("name: x\ndependencies: [python]\n")
    with pytest.raises(BadUsage, match=r"'conda\.yml' is not a job"):
        prepare_document(SubmitRequest(cwd=folder, target="conda.yml"), {})


def test_conda_files_are_sent_with_the_lines_of_files_that_they_name(folder: Path) -> None:
    conda = (
        "channels: [conda-forge]\ndependencies: [python=3.11, pip, {pip: [-r requirements.txt, -c limits.txt, -e .]}]\n"
    )
    write_files(folder, {
        "conda.yml": conda,
        "plain.yml": "dependencies: [pip, {pip: [-e git+https://example.org/x]}]\n",
        "requirements.txt": "numpy\n",
        "limits.txt": "numpy==1.26\n",
        "pyproject.toml": "[project]\nname = 'lab'\ndependencies = ['tqdm']\n",
    })  # fmt: skip
    steps = {
        name: {**COMMAND, "environment": {"image": "x", "conda_file": file}}
        for name, file in (("a", "conda.yml"), ("b", "plain.yml"))
    }
    document = prepared(folder, {"type": "pipeline", "compute": "azureml:gpu", "jobs": steps})
    jobs = yaml.safe_load(document.sent.text)["jobs"]
    pip = {"pip": ["numpy==1.26", "tqdm"]}
    assert jobs["a"]["environment"]["conda_file"] == {
        "channels": ["conda-forge"],
        "dependencies": ["python=3.11", "pip", pip],
    }
    assert yaml.safe_load(changed_yaml(document))["jobs"]["a"] == jobs["a"]
    assert "Not installed, because the job's code has its source: lab." in document.remarks
    (folder / "limits.txt").write_text("six==1.16\n")
    with pytest.raises(BadUsage, match="constraints on packages that it does not list: six"):
        prepared(folder, {"type": "pipeline", "compute": "azureml:gpu", "jobs": steps})


def test_dry_run_shows_changes_and_forward_slashes(folder: Path) -> None:
    written, found = "..\\code\\new", str(folder / "../code/new")
    content = {**COMMAND, "tags": {"a": "1"}, "code": written}
    shown = yaml.safe_load(
        changed_yaml(
            prepared(folder, content, cluster="gpu", experiment="digits", tags={"b": "2"}, env_vars={"API_KEY": "x"})
        )
    )
    assert (shown["compute"], shown["experiment_name"], shown["tags"]["a"], shown["tags"]["b"]) == (
        "azureml:gpu",
        "digits",
        "1",
        "2",
    )
    assert (shown["environment_variables"], shown["code"]) == ({"API_KEY": "***"}, found)
    steps = {
        "a.b": {**COMMAND, "code": written},
        "c": {**SWEEP, "trial": {**SWEEP["trial"], "code": written}},
        "d": {**COMMAND, "component": {"code": written}},
    }
    shown = yaml.safe_load(
        changed_yaml(prepared(folder, {"type": "pipeline", "compute": "azureml:gpu", "jobs": steps}))
    )["jobs"]
    assert (shown["a.b"]["code"], shown["c"]["trial"]["code"], shown["d"]["component"]["code"]) == (found,) * 3
    assert {**shown["a.b"], "code": written} == steps["a.b"]


def test_dry_run_has_absolute_paths_and_leaves_all_other_texts(folder: Path) -> None:
    environment = {"conda_file": "../env.yml", "build": {"path": "."}}
    others = {"code": "src", "path": "data"}
    content = {
        **PIPELINE,
        "inputs": {
            "raw": {"path": "data"},
            "path": "data",
            "kept": {"path": "azureml:raw:1"},
            "bound": {"path": "https://example.org/x"},
        },
        "settings": {"default_compute": "azureml:gpu"},
        "jobs": {
            "one": {"component": "parts/prep.yml", "environment_variables": others},
            "two": {"component": "file:parts/prep.yml", "inputs": {"path": "data", "raw": "${{parent.inputs.raw}}"}},
            "three": {"type": "sweep", "trial": "parts/prep.yml"},
            "four": {"type": "parallel", "task": {"code": "src", "environment": environment, "entry_script": "fit.py"}},
            "five": {
                "type": "automl",
                "training_data": {"path": "./data"},
                "environment": "azureml:lab:1",
                "component": "no_file",
            },
        },
        "tags": others,
    }
    shown = yaml.safe_load(changed_yaml(prepared(folder, content)))
    jobs = shown["jobs"]
    assert shown["inputs"] == {**content["inputs"], "raw": {"path": str(folder / "data")}}
    assert (jobs["one"]["component"], jobs["two"]["component"]) == (
        str(folder / "parts/prep.yml"),
        f"file:{folder / 'parts/prep.yml'}",
    )
    assert (
        jobs["one"]["environment_variables"],
        others.items() <= shown["tags"].items(),
        jobs["two"]["inputs"]["path"],
    ) == (others, True, "data")
    assert jobs["three"]["trial"] == str(folder / "parts/prep.yml")
    absolute = {"conda_file": str(folder / "../env.yml"), "build": {"path": str(folder)}}
    assert jobs["four"]["task"] == {"code": str(folder / "src"), "environment": absolute, "entry_script": "fit.py"}
    assert jobs["five"] == {**content["jobs"]["five"], "training_data": {"path": str(folder / "data")}}


@pytest.mark.parametrize(("key", "text", "place", "meant"), [
    ("compute", "azureml:gpu", ["compute"], "azureml:gpu"),
    ("display_name", "1.10", ["display_name"], "1.10"),
    ("tags.version", "1.10", ["tags", "version"], "1.10"),
    ("tags.a\\.b", "on", ["tags", "a.b"], "on"),
    ("environment_variables.ON", "true", ["environment_variables", "ON"], "true"),
    ("resources.instance_count", "3", ["resources", "instance_count"], 3),
    ("limits.timeout", "1.5", ["limits", "timeout"], 1.5),
    ("settings.force_rerun", "True", ["settings", "force_rerun"], True),
    ("inputs.lr", "0.10", ["inputs", "lr"], "0.10"),
    ("inputs.raw", "{type: uri_file, path: 'azureml:raw:1'}", ["inputs", "raw", "path"], "azureml:raw:1"),
    ("inputs.raw.path", "2024-01-01", ["inputs", "raw", "path"], "2024-01-01"),
    ("code", "./src", ["code"], "./src"),
    ("search_space.lr.values[0]", "0.5", ["search_space", "lr", "values"], [0.5, 0.2]),
    ("search_space.lr.values[-1]", "x", ["search_space", "lr", "values"], [0.1, "x"]),
    ("search_space.lr.values[2]", "0.3", ["search_space", "lr", "values"], [0.1, 0.2, 0.3]),
    ("search_space.lr.values.1", "0.3", ["search_space", "lr", "values"], [0.1, 0.3]),
    ("search_space.lr.values", "[1, 2]", ["search_space", "lr", "values"], [1, 2]),
    ("identity.user_assigned_identities[0].resource_id", "abc",
        ["identity", "user_assigned_identities", 0, "resource_id"], "abc"),
    ("command", "{ echo a; }", ["command"], "{ echo a; }"),
    ("description", "note: [this", ["description"], "note: [this"),
    ("environment.image", "python:3.11", ["environment", "image"], "python:3.11"),
    ("limits", "", ["limits"], None),
])  # fmt: skip
def test_set_changes_a_key_as_if_the_file_had_it(
    folder: Path, key: str, text: str, place: list[str | int], meant: Any
) -> None:
    content = {**SWEEP, "inputs": {"raw": {"type": "uri_folder", "path": "data"}}, "compute": "azureml:cpu"}
    (folder / "job.yml").write_text(yaml.safe_dump(content, sort_keys=False))
    found: Any = read_document(folder / "job.yml", "job.yml", {key: text}).root.content
    for name in place:
        found = found[name]
    assert found == meant


def test_set_counts_before_the_job_is_chosen_and_wrong_keys_are_refused(folder: Path) -> None:
    assert prepared(folder, COMMAND, set_values={"compute": "azureml:gpu"}).goes_to_azure
    changes = {"command": "python fit.py ${{inputs.n}}", "inputs.n": "0.10", "code": "./parts"}
    here = prepared(folder, {**COMMAND, "inputs": {"n": 3}}, set_values=changes)
    assert here.job is not None
    assert (here.job.entry.target, here.content["code"]) == ("python fit.py 0.10", str(folder / "parts"))
    for options, message in [
        ({"set_values": {"code.path": "x"}}, "--set code.path: 'src' in the file has no key 'path'."),
        ({"set_values": {"inputs[0]": "x"}}, "--set inputs[0]: there is no entry [0]."),
        ({"set_values": {"a..b": "x"}}, "--set: 'a..b' is not a key."),
        ({"set_values": {"a[x]": "x"}}, "--set: 'a[x]' is not a key."),
        ({"set_values": {"limits": "{a"}}, "'--set', line 1: "),
        ({"set_values": {"comand": "x"}}, "'job.yml': 'comand' is an unknown key. Did you mean 'command'"),
        ({"set_values": {"resources.instance_count": "two"}},
            "'job.yml': 'resources.instance_count' must be a positive integer"),
        ({"set_values": {"compute": "azureml:gpu"}, "cluster": "cpu"},
            "--cluster and --set compute cannot be combined."),
        ({"set_values": {"experiment_name": "a"}, "experiment": "b"},
            "--experiment and --set experiment_name cannot be combined."),
    ]:  # fmt: skip
        with pytest.raises(BadUsage) as caught:
            prepared(folder, {**COMMAND, "inputs": {"n": 3}}, **options)  # type: ignore[arg-type]
        assert message in f"{caught.value} {caught.value.hint}"


VIRTUAL = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/virtualclusters/vc"


def test_a_cluster_moves_all_steps_or_says_which_stay(folder: Path) -> None:
    inner = {
        "type": "pipeline",
        "inputs": {"where": {"type": "string"}},
        "jobs": {"a": {**TRAIN, "compute": "${{parent.inputs.where}}"}, "b": TRAIN},
    }
    write_files(folder, {"parts/inner.yml": yaml.safe_dump(inner), "parts/spark.yml": "type: spark\n"})
    steps = {
        "named": {**TRAIN, "compute": "azureml:own"},
        "bound": {**TRAIN, "compute": "${{parent.inputs.where}}"},
        "virtual": {**TRAIN, "compute": VIRTUAL},
        "parallel": {"type": "parallel", "compute": "azureml:own", "task": {}},
        "plain": TRAIN,
        "spark": {"type": "spark", "component": "parts/spark.yml", "compute": "azureml:pool"},
        "inner": {"type": "pipeline", "component": "parts/inner.yml", "inputs": {"where": "${{parent.inputs.where}}"}},
        "stored": {"type": "pipeline", "component": "azureml:inner:1"},
    }
    content = {"type": "pipeline", "compute": "azureml:cpu", "inputs": {"where": "own"}, "jobs": steps}
    said = (
        "Steps that keep the compute of the file, not '{}': spark (spark), inner.a, stored (steps of its "
        "stored pipeline that name their own)."
    )
    for cluster, compute in {
        "gpu": "azureml:gpu",
        "azureml:gpu": "azureml:gpu",
        VIRTUAL: f"azureml:{VIRTUAL}",
        "serverless": "serverless",
    }.items():
        found = prepared(folder, content, cluster=cluster)
        assert (found.content["settings"], "compute" in found.content) == ({"default_compute": compute}, False)
        assert {key: step["compute"] for key, step in found.content["jobs"].items() if "compute" in step} == {
            "spark": "azureml:pool"
        }
        assert found.remarks == [said.format(cluster)]
    kept = prepared(folder, content, cluster="gpu", set_values={"jobs.plain.compute": "azureml:big"})
    assert kept.content["jobs"]["plain"]["compute"] == "azureml:big"
    unmoved = prepared(folder, content)
    assert (unmoved.content["jobs"]["bound"]["compute"], unmoved.content["compute"], unmoved.remarks) == (
        "${{parent.inputs.where}}",
        "azureml:cpu",
        [],
    )
    for cluster, compute in {
        "gpu": "azureml:gpu",
        VIRTUAL: f"azureml:{VIRTUAL}",
        "serverless": "none",
        "local": "local",
    }.items():
        assert (
            prepared(folder, {**COMMAND, "compute": "azureml:cpu"}, cluster=cluster).content.get("compute", "none")
            == compute
        )


def test_variables_reach_each_step_or_the_steps_without_are_said(folder: Path) -> None:
    sweep, by_file = {**SWEEP, "trial": TRAIN}, {**SWEEP, "trial": "parts/prep.yml"}
    steps = {
        "plain": TRAIN,
        "sweep": sweep,
        "parallel": {"type": "parallel", "task": {}},
        "spark": {"type": "spark"},
        "file": by_file,
    }
    found = prepared(folder, {"type": "pipeline", "jobs": steps}, cluster="gpu", env_vars={"A": "1"})
    jobs = found.content["jobs"]
    assert [key for key, step in jobs.items() if "environment_variables" in step] == ["plain", "parallel"]
    assert (jobs["sweep"]["trial"]["environment_variables"], jobs["file"]["trial"]) == (
        {"A": "1"},
        str(folder / "parts/prep.yml"),
    )
    assert found.remarks == ["Steps that --env_var does not apply to: spark, file."]
    assert prepared(folder, {**COMMAND, "environment_variables": {"B": "2"}}, env_vars={"A": "1"}).content[
        "environment_variables"
    ] == {"B": "2", "A": "1"}
    assert "--env_var does not apply to this sweep job." in refusal(folder, by_file, cluster="gpu", env_vars={"A": "1"})


def test_a_files_name_is_the_display_name_or_said_to_be_ignored(folder: Path) -> None:
    for content in (COMMAND, {**COMMAND, "compute": "azureml:gpu"}):
        named = prepared(folder, {**content, "name": "mine"})
        assert (
            "The file's name 'mine' is the display name of the run, because himl gives each run an id of its own."
            in named.remarks
        )
        assert (named.content["display_name"], "name" in named.content) == ("mine", False)
        both = prepared(folder, {**content, "name": "mine", "display_name": "shown"})
        assert "The file's name 'mine' is ignored, because himl gives each run an id of its own." in both.remarks
        assert (both.content["display_name"], both.job and both.job.display_name) in (
            ("shown", "shown"),
            ("shown", None),
        )


@pytest.mark.parametrize(("content", "message"), [
    ({**COMMAND, "$schema": "https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json"},
        "'job.yml' is a component, not a job."),
    ({"type": "pipeline", "jobs": {}, "$schema": "../pipelineComponent.schema.json"},
        "'job.yml' is a component, not a job."),
    ({"name": "prep", "version": 1, "command": "ls"}, "'job.yml' is a component, not a job."),
    ({"type": "CommandComponent", "command": "ls"}, "'job.yml' is a component, not a job."),
    ({"type": "uri_folder", "$schema": "https://x/latest/data.schema.json"},
        "'job.yml' is not a job: its $schema is 'data'."),
    ({"$schema": "https://x/latest/environment.schema.json", "image": "x"},
        "'job.yml' is not a job: its $schema is 'environment'."),
    ({"type": "pipeline", "jobs": None}, "'job.yml': 'jobs' is missing."),
    ({"type": "pipeline", "jobs": {"a": None}}, "'job.yml': 'jobs.a' is empty."),
    ({"type": "pipeline", "jobs": {"a": {"component": "parts/open.yml"}}}, "'parts/open.yml', line 2: "),
])  # fmt: skip
def test_a_file_that_is_no_job_is_refused_as_what_it_is(folder: Path, content: dict[str, Any], message: str) -> None:
    for cluster in (None, "gpu"):
        assert message in refusal(folder, content, cluster=cluster)


def test_sweep_job(folder: Path) -> None:
    job = job_of(folder, SWEEP)
    assert job.entry.target == "python fit.py --lr ${{search_space.lr}}"
    assert job.max_seconds == 60
    assert job.sweep == SweepSpec({"lr": SearchRange(Draw.choice, [0.1, 0.2])}, "grid", 2, 2, "accuracy", "maximize")
    drawn = {
        **SWEEP,
        "search_space": {
            "lr": {"type": "loguniform", "min_value": -6, "max_value": -1},
            "n": {"type": "randint", "upper": 5},
        },
        "sampling_algorithm": {"type": "random", "seed": 7},
        "early_termination": {"type": "bandit", "slack_factor": 0.2, "evaluation_interval": 2, "delay_evaluation": 3},
    }
    sweep = job_of(folder, drawn).sweep
    assert sweep is not None
    assert dict(sweep.space) == {"lr": SearchRange(Draw.loguniform, [-6, -1]), "n": SearchRange(Draw.randint, (5,))}
    assert (sweep.sampling, sweep.seed, sweep.max_trials) == ("random", 7, 9)
    assert sweep.early_stop == EarlyStop("bandit", 2, 3, slack_factor=0.2)


@pytest.mark.parametrize(("changes", "message"), [
    ({"search_space": {"lr": {"type": "randint", "upper": "x"}}}, "'search_space.lr.upper' must be a number"),
    ({"search_space": {"lr": {"type": "uniform", "min_value": 1}}}, "'search_space.lr.max_value' is missing"),
    ({"search_space": {"lr": {"type": "gauss"}}}, "'search_space.lr.type' cannot be 'gauss'"),
    ({"search_space": {}}, "'search_space' is missing"),
    ({"sampling_algorithm": "best"}, "'sampling_algorithm' cannot be 'best'"),
    ({"sampling_algorithm": "bayesian", "early_termination": {"type": "median_stopping"}}, "cannot be combined"),
    ({"sampling_algorithm": {"type": "random", "rule": "sobol"}},
        "'sampling_algorithm.rule' cannot be 'sobol' on this machine"),
    ({"sampling_algorithm": "random", "limits": {}}, "'limits.max_total_trials' is missing"),
    ({"objective": {"goal": "minimize"}}, "'objective.primary_metric' is missing"),
    ({"limits": {"max_total_trials": 9, "trial_timeout": 0}},
        "'limits.trial_timeout' must be a number of seconds, not 0."),
    ({"early_termination": {"type": "bandit"}}, "'early_termination': bandit needs slack_factor or slack_amount"),
    ({"trial": {"command": "ls ${{search_space.x}}"}},
        "'trial.command' has '${{search_space.x}}', which is an unknown placeholder. Use one of: lr."),
])  # fmt: skip
def test_invalid_sweep_is_refused_by_key(folder: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refusal(folder, {**SWEEP, **changes})


TRAIN = {"command": "python fit.py ${{inputs.data}} ${{inputs.n}}", "code": "src", "environment": "azureml:lab@latest"}
PIPELINE: dict[str, Any] = {
    "type": "pipeline",
    "inputs": {"raw": {"type": "uri_folder", "path": "data"}, "n": 3},
    "outputs": {"model": {"type": "uri_folder", "path": "azureml://datastores/lab/paths/model"}},
    "jobs": {
        "train": {
            **TRAIN,
            "inputs": {"data": "${{parent.jobs.prep.outputs.clean}}", "n": "${{parent.inputs.n}}"},
            "outputs": {"m": "${{parent.outputs.model}}"},
        },
        "prep": {"component": "parts/prep.yml", "inputs": {"raw": "${{parent.inputs.raw}}"}, "display_name": "Prepare"},
    },
}
PREP: dict[str, Any] = {
    "type": "command",
    "name": "prep",
    "version": 1,
    "inputs": {
        "raw": {"type": "uri_folder"},
        "depth": {"type": "integer", "default": 2},
        "more": {"type": "string", "optional": True},
    },
    "outputs": {"clean": {"type": "uri_folder"}},
    "code": "../src",
    "command": "python fit.py ${{inputs.raw}} ${{inputs.depth}} ${{outputs.clean}} $[[--more ${{inputs.more}}]]",
    "environment": "azureml:lab@latest",
}
WRONG_KEYS = ("../x", "9", "é", "k" * 300)


def step(**changes: Any) -> dict[str, Any]:
    return {**PIPELINE, "jobs": {**PIPELINE["jobs"], "train": {**PIPELINE["jobs"]["train"], **changes}}}


def test_pipeline_of_inline_jobs_and_component_files(folder: Path) -> None:
    pipeline = prepared(folder, PIPELINE).pipeline
    assert pipeline is not None
    prep, train = pipeline.steps
    assert (prep.key, prep.name, train.key, train.name) == ("prep", "Prepare", "train", "train")
    assert prep.job.entry.target == "python fit.py ${{inputs.raw}} 2 ${{outputs.clean}}"
    assert list(prep.job.inputs) == [DataSpec("raw", "data", local=str(folder / "data"))]
    assert list(prep.job.outputs) == [DataSpec("clean", "")]
    assert prep.job.snapshot.root == train.job.snapshot.root == folder / "src"
    assert train.job.entry.target == "python fit.py ${{inputs.data}} 3"
    assert train.takes == {"data": StepOutput("prep", "clean")}
    assert list(train.job.outputs) == [DataSpec("m", "model", datastore="lab")]
    for_azure = {**PIPELINE, "settings": {"default_compute": "azureml:gpu"}}
    assert prepared(folder, step(compute="azureml:gpu")).goes_to_azure
    assert prepared(folder, for_azure).goes_to_azure
    assert prepared(folder, for_azure, cluster="local").pipeline is not None


def test_variables_of_a_component_step_are_those_of_an_inline_command(folder: Path) -> None:
    variables = {"ON": True, "OFF": False, "DEPTH": "${{inputs.depth}}", "RATE": 0.5}
    named = {
        "component": "parts/prep.yml",
        "inputs": {"raw": "${{parent.inputs.raw}}", "depth": 7},
        "environment_variables": variables,
    }
    inline = {**TRAIN, "command": "python fit.py", "inputs": {"depth": 7}, "environment_variables": variables}
    pipeline = prepared(folder, {**PIPELINE, "outputs": {}, "jobs": {"named": named, "inline": inline}}).pipeline
    assert pipeline is not None
    assert [step.job.env for step in pipeline.steps] == [
        {"ON": "true", "OFF": "false", "DEPTH": "7", "RATE": "0.5"}
    ] * 2
    named["environment_variables"] = {"DEPTH": "${{inputs.width}}"}
    assert "'jobs.named.environment_variables.DEPTH' has '${{inputs.width}}'" in refusal(
        folder, {**PIPELINE, "outputs": {}, "jobs": {"named": named}}
    )


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("key", ["tags:\n  t", "display_name", "description", "experiment_name"])
def test_a_value_that_yaml_reads_as_no_text_is_refused_with_its_quotes(folder: Path, key: str) -> None:
    (name,) = yaml.safe_load(f"{key}: x")
    for spelled in ("1.10", "NO", "on", "2024-01-01", "1_000"):
        (folder / "job.yml").write_text(f"command: echo\n{key}: {spelled}\n")
        with pytest.raises(BadUsage) as caught:
            prepare_document(SubmitRequest(cwd=folder, target="job.yml"), {})
        assert f"'job.yml': '{name}{'.t' if name == 'tags' else ''}' must be text, but YAML reads {spelled} as " in str(
            caught.value
        )
        assert caught.value.hint.endswith(f': "{spelled}"')
    (folder / "job.yml").write_text(f"command: echo\n{key}: '1.10'\n")
    assert prepare_document(SubmitRequest(cwd=folder, target="job.yml"), {}).job is not None


@pytest.mark.parametrize(("content", "message"), [
    (step(inputs={"data": "${{parent.jobs.perp.outputs.clean}}", "n": 1}),
        "'jobs.train.inputs.data' names the job 'perp', which does not exist."),
    (step(inputs={"data": "${{parent.jobs.prep.outputs.clear}}", "n": 1}),
        "names the output 'clear', which 'prep' does not have. Its outputs are: clean."),
    (step(inputs={"data": "${{parent.jobs.train.outputs.m}}", "n": 1}),
        "'jobs.train' creates a cycle: train <- train."),
    (step(inputs={"data": "${{parent.inputs.rwa}}", "n": 1}), "the inputs of the pipeline are: n, raw."),
    (step(inputs={"data": "x ${{parent.inputs.raw}}", "n": 1}), "which is not a valid binding"),
    (step(inputs={"n": 1}), "'jobs.train.command' has '${{inputs.data}}', which is an unknown placeholder"),
    (step(outputs={"m": "${{parent.outputs.nodel}}"}),
        "which is not an output of the pipeline. Its outputs are: model."),
    (step(type="sweep"), "'jobs.train.type' 'sweep' cannot be a step on this machine."),
    (step(type="spark", entry={"file": "a.py"}), "'jobs.train.type' 'spark' cannot be a step on this machine."),
    ({"type": "pipeline", "jobs": {"a": {"type": "parallel", "task": {}, "mini_batch_size": 1}}},
        "'jobs.a.type' 'parallel' cannot be a step"),
    ({"type": "pipeline", "jobs": {"a": {"type": "automl", "task": "classification"}}},
        "'jobs.a.type' 'automl' cannot be a step"),
    ({"type": "pipeline", "jobs": {"a": {"trial": TRAIN, "search_space": {}}}},
        "'jobs.a.type' 'sweep' cannot be a step"),
    ({"type": "pipeline", "jobs": {"a": {"component": {"type": "pipeline", "jobs": {}}}}},
        "'jobs.a.type' 'pipeline' cannot be a step"),
    (step(component="azureml:prep:1"), "'jobs.train.component' 'azureml:prep:1' is stored in Azure ML"),
    (step(component="parts/prep.yml", inputs={}), "'inputs.raw' has no value."),
    (step(component="parts/prep.yml", inputs={"raw": "x"}, limits={"timeout": -5}),
        "'jobs.train.limits.timeout' must be a number of seconds, not -5."),
    (step(display_name=True),
        "'jobs.train.display_name' must be text, but YAML reads true as bool True. Put it in quotes: "
        "display_name: \"true\""),
    ({"type": "pipeline", "jobs": {}}, "'jobs' is missing."),
    *(({**PIPELINE, "jobs": {key: TRAIN}}, f"'jobs.{key}' is not a valid key for a job.") for key in WRONG_KEYS),
    ({**PIPELINE, "jobs": {"prep": PREP, "Prep": PREP}}, "'jobs.Prep' and 'prep' differ only in capital letters."),
])  # fmt: skip
def test_invalid_pipeline_is_refused_by_key(folder: Path, content: dict[str, Any], message: str) -> None:
    assert message in refusal(folder, content)
