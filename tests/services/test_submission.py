"""Tests of preparing a job from options, without running or submitting it, and of datasets of local jobs, from folders
or an Azure ML workspace.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage, HimlError, NotFound, ServiceFailed, TransferIncomplete
from himl_cli.core.events import Event, Finished, Moved, Notice, Planned, ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, JobSpec, Snapshot
from himl_cli.core.runs import friendly_experiment
from himl_cli.core.text import parse_duration
from himl_cli.services.submission.data import bring_dataset, bring_inputs, parse_data
from himl_cli.services.submission.prepare import prepare_job
from himl_cli.services.submission.request import SubmitRequest, check_size, choose_experiment, find_python
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from himl_cli.workspaces.resolve import open_address
from tests.azureml_double.faults import Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.support.azure import DEFAULT, opened
from tests.support.folders import contents
from tests.support.running import write_files
from tests.support.web import FileServer


@pytest.fixture
def local(project: Path) -> SubmitRequest:
    """A local job."""
    write_files(project, {"pyproject.toml": "", "src/train.py": "", "run.sh": "", "notes.txt": ""})
    return SubmitRequest(cwd=project, target="src/train.py")


@pytest.fixture
def cluster(project: Path) -> SubmitRequest:
    """A job for a cluster, in a registered environment."""
    write_files(
        project,
        {
            "pyproject.toml": "",
            "train.py": "",
            "lab/__init__.py": "",
            "lab/fit.py": "",
            "environment.yml": "dependencies: [python=3.11]\n",
        },
    )
    return SubmitRequest(cwd=project, target="train.py", cluster="gpu", environment="lab:3")


@pytest.mark.parametrize(("change", "message"), [
    ({"target": None}, "Nothing to run"),
    ({"module": "a.b"}, "cannot be combined"),
    ({"target": "src/trian.py"}, "no script 'src/trian.py'"),
    ({"target": "notes.txt"}, "neither a .py nor a .sh"),
    *(({"target": None, "module": name}, "is not a module name") for name in ("train.py!", "train.py", "src/train",
        "a..b", "-x")),
    ({"num_nodes": 2}, "one node"),
    ({"processes_per_node": 0}, "at least 1"),
    ({"distribution": "horovod"}, "horovod"),
    ({"python": "no-such-python"}, "no-such-python"),
    ({"max_run_duration": "fast"}, "'fast' is not a duration"),
    ({"snapshot_root": "nowhere"}, "'nowhere' is not a folder"),
    ({"snapshot_root": "lib"}, "outside the snapshot root"),
    ({"ignored_folders": ["src"]}, "excluded from the snapshot"),
    ({"experiment": " "}, "experiment's name is empty"),
    ({"experiment_from_branch": True}, "no git branch"),
])  # fmt: skip
def test_bad_input_is_named_before_anything_is_written(
    local: SubmitRequest, project: Path, change: dict[str, Any], message: str
) -> None:
    (project / "lib").mkdir()
    before = sorted(project.rglob("*"))
    with pytest.raises(BadUsage, match=message) as caught:
        prepare_job(replace(local, **change))
    assert sorted(project.rglob("*")) == before
    assert change != {"target": "src/trian.py"} or "'src/train.py'" in caught.value.hint


def test_git_facts_become_tags_without_secrets(
    local: SubmitRequest, project: Path, git: Callable[..., str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    git(project, "init", "-q")
    git(project, "checkout", "-qb", "ada/new-loss")
    git(project, "add", ".")
    git(project, "commit", "-qm", "First model")
    git(project, "remote", "add", "origin", "https://ada:hunter2@example.org/lab.git")
    (project / "run.sh").write_text("changed")
    spec = prepare_job(
        replace(local, build={"build_branch": "ci"}, tags={"team": "blue"}, experiment_from_branch=True)
    ).spec
    wanted = {
        "build_branch": "ci",
        "build_source_author": "Ada",
        "build_source_message": "First model",
        "build_source_dirty": "true",
        "team": "blue",
    }
    assert wanted.items() <= spec.tags.items()
    assert spec.tags["build_source_id"] == git(project, "rev-parse", "HEAD").strip()
    assert spec.tags["build_source_repository"] == "https://***@example.org/lab.git"
    assert "hunter2" not in caplog.text, "the remote's password reached the log"
    assert spec.experiment == "ada_new-loss"
    build = {
        "build_source_repository": "https://gitlab-ci-token:marked-secret@example.org/lab.git",
        "build_source_message": "password=marked-secret",
    }
    arguments = (
        "--api_key",
        "abc123",
        "--password=hunter2",
        "https://x.blob.core.windows.net/c?sv=1&sig=SIGNATURE",
        "--epochs",
        "3",
    )
    tags = prepare_job(replace(local, build=build, arguments=arguments)).spec.tags
    assert "--epochs 3" in tags["command_line"]
    assert not [secret for secret in ("abc123", "hunter2", "SIGNATURE", "marked-secret") if secret in str(tags)]


@pytest.mark.large("takes long, and other tests run its branches")
def test_checkout_is_dirty_clean_or_unknown(
    local: SubmitRequest, project: Path, git: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Untracked files count if they are in the snapshot. A job in place has none, so that there all count but
    himl's.
    """
    write_files(tmp_path / "lib", {"net.py": ""})
    write_files(project, {".gitignore": "*.bin\n"})
    for root in (tmp_path / "lib", project):
        git(root, "init", "-q")
        git(root, "add", ".")
        git(root, "commit", "-qm", "First")
    git(project, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "lib"), "lib")
    if os.name != "nt":
        (project / "linked").symlink_to("lib")
        git(project, "add", "linked")
    git(project, "commit", "-qm", "Submodule")

    def dirty(**options: Any) -> str | None:
        return prepare_job(replace(local, **options)).spec.tags.get("build_source_dirty")

    def both() -> tuple[str | None, str | None]:
        return dirty(), dirty(in_place=True)

    assert both() == ("false", "false")
    write_files(project, {"most_recent_run.txt": "", "outputs/a": "", ".himl/.gitignore": "*", "data.bin": ""})
    assert both() == ("false", "false"), "files of himl, and ignored ones"
    write_files(project, {"raw/own.txt": ""})
    assert (dirty(ignored_folders=("raw",)), *both()) == ("false", "true", "true")
    assert dirty(tags={"build_source_dirty": "false"}) == "false", "the user's tag"
    shutil.rmtree(project / "raw")
    write_files(project, {".amlignore": "", "lib/.amlignore": ""})
    git(project, "add", ".amlignore")
    git(project, "commit", "-qm", "List")
    git(project / "lib", "add", ".")
    assert both() == ("true", "true"), "a changed submodule, and an ignored file that the job gets"
    git(project / "lib", "commit", "-qm", "Second")
    (project / "data.bin").unlink()
    assert both() == ("true", "true"), "a moved submodule"
    git(project, "commit", "-qam", "Moved")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "lib/.git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "none"))
    assert both() == ("false", "false"), "variables of a hook"
    real = shutil.which("git")
    for word, known in (("status", {"build_source_id"}), ("ls-files", {"build_source_id"})):
        (tmp_path / "git").write_text(f'#!/bin/sh\ncase "$*" in *{word}*) exit 1;; esac\nexec {real} "$@"\n')
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        assert dirty() is None or os.name == "nt", f"without an answer to git {word}"
        assert known <= {*prepare_job(local).spec.tags}


def test_durations_sizes_inputs_and_outputs() -> None:
    assert [parse_duration(text) for text in ("30s", "30m", "2h", "1.5d", "1h30m", "2 hours", "2H", "1 min 5 sec")] == [
        30,
        1800,
        7200,
        129600,
        5400,
        7200,
        7200,
        65,
    ]
    with pytest.raises(BadUsage, match="'0s' must be positive"):
        parse_duration("0s")
    for text in ("", "5", "h", "-1h", "1w", "1hx", "1h30"):
        with pytest.raises(BadUsage, match="is not a duration"):
            parse_duration(text)
    assert [check_size("--shm_size", text) for text in ("100g", "512M", " 64k ", "1b")] == ["100g", "512m", "64k", "1b"]
    for text in ("100", "0g", "1.5g"):
        with pytest.raises(BadUsage, match=f"'{text}' is not a size"):
            check_size("--shm_size", text)
    assert parse_data(
        "input", ["mnist", "train=folder/sub:3,datastore=d,mode=mount,target=/data", "local_one=x,local=../data"]
    ) == [
        DataSpec("INPUT_0", "mnist"),
        DataSpec("train", "folder/sub", "3", datastore="d", mode="mount", target="/data"),
        DataSpec("local_one", "x", local="../data"),
    ]
    resource = (
        "subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w/data/n/versions/1"
    )
    for text, name, version in (
        ("azureml:mnist:1", "mnist", "1"),
        ("azureml:mnist", "mnist", None),
        ("azureml:mnist@latest", "mnist", "latest"),
        ("mnist@latest", "mnist", "latest"),
        ("azureml:mnist@tested", "mnist", "tested"),
        ("azureml://datastores/d/paths/a/b.csv", "azureml://datastores/d/paths/a/b.csv", None),
        ("azureml://registries/r/data/n/versions/1", "azureml://registries/r/data/n/versions/1", None),
        ("https://example.org/x.csv?a=b:c", "https://example.org/x.csv?a=b:c", None),
        ("wasbs://c@a.blob.core.windows.net/p", "wasbs://c@a.blob.core.windows.net/p", None),
        (f"/{resource}", f"azureml://{resource}", None),
        (f"azureml:/{resource}", f"azureml://{resource}", None),
    ):
        expected = [DataSpec("INPUT_0", name, version), DataSpec("k", name, version, mode="mount")]
        assert parse_data("input", [text, f"k={text},mode=mount"]) == expected
    assert parse_data("output", ["azureml:preds", "m=azureml://datastores/d/paths/a/b"]) == [
        DataSpec("OUTPUT_0", "preds"),
        DataSpec("m", "a/b", datastore="d"),
    ]
    assert parse_data("output", ["preds", "model=m,mode=upload,overwrite=false"]) == [
        DataSpec("OUTPUT_0", "preds"),
        DataSpec("model", "m", mode="upload", overwrite=False),
    ]
    wrong = {
        "1a=x": "is not a valid key",
        "a=x,mod=mount": "unknown 'mod'",
        "a=x,mode=copy": "mode cannot be 'copy'",
        "a=x,local=": "has no value",
    }
    wrong |= {
        "azureml:": "the name is missing",
        "azureml:./x": "is a path",
        "azureml://datastores/d/paths/x,datastore=e": "which datastore= cannot change",
    }
    for text, message in {**wrong, "a=": "the name is missing", "a=x,target=./": "target=."}.items():
        with pytest.raises(BadUsage, match=message):
            parse_data("input", [text])
    versioned = "an output cannot have a version"
    for texts, message in (
        (["a=x:latest"], versioned),
        (["azureml:x:1"], versioned),
        (["a=x", "a=y"], "key 'a'"),
        (["https://example.org/x"], "an output is a folder of a datastore"),
    ):
        with pytest.raises(BadUsage, match=message):
            parse_data("output", texts)


def test_experiment_names_become_those_of_azure(cluster: SubmitRequest) -> None:
    names = {name: name for name in ("a-b", "ok_1", "9", "A" * 256)}
    names |= {
        "a-b  c": "a-b_c",
        "x.y/z": "x_y_z",
        "größe": "gr_e",
        "實驗": "experiment",
        "_-a": "a",
        "a" * 300: "a" * 256,
    }
    assert {name: friendly_experiment(name) for name in names} == names
    assert choose_experiment(None, "src/my-train.py", from_branch=False, git={}) == ("my-train", [])
    job = prepare_job(replace(cluster, experiment="ada/new-loss"))
    assert job.spec.experiment == "ada_new-loss"
    assert job.remarks[0].startswith("The experiment is called 'ada_new-loss'")
    assert prepare_job(replace(cluster, experiment="plain")).remarks == []
    assert prepare_job(replace(cluster, experiment="__mine", cluster=None, typed=frozenset())).spec.experiment == "mine"


def test_active_environment_is_preferred_but_not_a_tools(tmp_path: Path) -> None:
    write_files(
        tmp_path,
        {"venv/bin/python": "#!/bin/sh\n", "tool/bin/python": "", "tool/uv-receipt.toml": "", "usr/python3": ""},
    )
    for name in ("venv/bin/python", "tool/bin/python", "usr/python3"):
        (tmp_path / name).chmod(0o755)
    assert find_python(None, {"VIRTUAL_ENV": str(tmp_path / "venv")}, Path(sys.prefix)) == str(
        tmp_path / "venv" / "bin" / "python"
    )
    assert find_python(None, {"PATH": str(tmp_path / "usr")}, tmp_path / "tool") == str(tmp_path / "usr" / "python3")


@pytest.mark.parametrize(("options", "distribution", "processes"), [
    ({}, "mpi", 1),
    ({"no_mpi_single_node": True}, "", None),
    ({"processes_per_node": 4}, "pytorch", 4),
    ({"num_nodes": 2}, "mpi", 1),
    ({"num_nodes": 2, "processes_per_node": 4, "distribution": "mpi"}, "mpi", 4),
    ({"distribution": "pytorch", "no_mpi_single_node": True}, "pytorch", 1),
])  # fmt: skip
def test_distribution_and_processes(
    cluster: SubmitRequest, options: dict[str, Any], distribution: str, processes: int | None
) -> None:
    spec = prepare_job(replace(cluster, **options)).spec
    assert (spec.distribution, spec.processes, spec.nodes) == (distribution, processes, options.get("num_nodes", 1))


@pytest.mark.parametrize(("change", "message"), [
    ({"in_place": True}, "--in_place applies to local jobs only"),
    ({"cluster": " "}, "--cluster got an empty value"),
    ({"identity": "me"}, "--identity cannot be 'me'"),
    ({"record_in": "azur"}, "--record_in cannot be 'azur'"),
    ({"display_name": "x" * 257}, "--display_name has 257 characters. Azure ML allows 256"),
    ({"tags": {"k" * 101: "v"}}, "has 101 characters. Azure ML allows 100"),
    ({"tags": {f"k{n}": "v" for n in range(60)}}, "Azure ML allows 50"),
    ({"inputs": ["x=,local=data"]}, "a cluster cannot read"),
    ({"arguments": ("--in", "${{inputs.train}}")}, "names no input; there are: none"),
], ids=lambda value: str(value)[:30])  # fmt: skip
def test_impossible_cluster_job_is_refused(cluster: SubmitRequest, change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadUsage) as caught:
        prepare_job(replace(cluster, **change))
    assert message in str(caught.value)


def test_settings_count_at_their_place_and_long_tags_are_cut(cluster: SubmitRequest) -> None:
    there = prepare_job(replace(cluster, in_place=True, python="gone", record_in="azure", typed=frozenset({"cluster"})))
    assert (there.spec.in_place, there.spec.python, there.remarks) == (False, "", [])
    here = prepare_job(
        replace(
            cluster, cluster="local", num_nodes=4, shm_size="1g", conda_env=("gone.yml",), typed=frozenset({"shm_size"})
        )
    )
    assert (here.spec.cluster, here.spec.nodes, here.spec.environment) == ("", 1, None)
    assert here.remarks == ["Ignored, because the job runs on this machine: --shm_size, num_nodes = 4."]
    both = replace(cluster, conda_env=("environment.yml",))
    for option, name in (("environment", "lab"), ("conda_env", "")):
        environment = prepare_job(replace(both, typed=frozenset({option}))).spec.environment
        assert environment is not None
        assert environment.name == name
    (cluster.cwd / "uv.lock").write_text("version = 1\npackage = []\n")
    locked = prepare_job(
        replace(cluster, conda_env=("gone.yml",), requirements="gone.txt", lock="uv.lock", typed=frozenset({"lock"}))
    )
    assert "and 0 packages of 'uv.lock'." in locked.remarks[0]
    with pytest.raises(BadUsage, match="cannot be combined"):
        prepare_job(replace(both, typed=frozenset()))
    tags = prepare_job(replace(cluster, arguments=("x" * 2000,), build={"build_source_message": "m" * 3000})).spec.tags
    assert (len(tags["command_line"]), len(tags["build_source_message"])) == (1000, 1000)
    assert tags["command_line"].endswith("…")


FILES = {"a.png": b"1", "deep/b.png": b"22", "größe ü.txt": "ß".encode()}
SCANS = DataSpec("k", "scans")


@pytest.fixture
def workspace(azure_environment: StagedWorkspace, project: Path) -> Iterator[AzureWorkspace]:
    with opened(azure_environment, project) as opened_workspace:
        yield opened_workspace


@pytest.fixture
def here(project: Path) -> LocalWorkspace:
    write_files(project, {".himl/datastores/local/mnist/a": "1", ".himl/datastores/disk/cifar/a": "1"})
    return LocalWorkspace(project / ".himl")


def put(azure: StagedWorkspace, name: str, files: dict[str, bytes] | None = None, *, datastore: str = DEFAULT) -> None:
    azure.put_blobs(datastore, {f"{name}/{file}": content for file, content in (files or FILES).items()})


def register(azure: StagedWorkspace, name: str, path: str, version: str = "1", *, kind: str = "uri_folder") -> None:
    uri = f"azureml://datastores/{DEFAULT}/paths/{path}"
    asset = {
        "dataType": kind,
        "dataUri": uri,
        "isArchived": False,
        "properties": {},
        "_created": "2026-01-01T00:00:00.0000000+00:00",
    }
    azure.state.assets["data"].setdefault(name, {})[version] = asset


def job_with(*inputs: DataSpec, default: str | None = None) -> JobSpec:
    return JobSpec(
        "lab", Entry(EntryKind.script, "train.py"), Snapshot(Path(), (), 0), inputs=inputs, default_datastore=default
    )


def no_azure() -> None:
    raise AssertionError("Azure is not asked for what is here")


def notices(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Notice)]


def test_local_folders_datastores_and_files_of_the_web_need_no_azure(here: LocalWorkspace, web: FileServer) -> None:
    spec = job_with(
        DataSpec("a", "mnist"),
        DataSpec("b", "cifar", datastore="disk"),
        DataSpec("c", "x", local="somewhere"),
        DataSpec("d", "mnist", "3"),
    )
    assert bring_inputs(spec, here, no_azure, ignore) == spec
    web.put("/data/iris.csv", b"5.1\n")
    (item,) = bring_inputs(
        job_with(DataSpec("k", f"{web('/data/iris.csv')}?v=1")), here, no_azure, ignore, open_address
    ).inputs
    assert (Path(str(item.local)).name, Path(str(item.local)).read_bytes()) == ("iris.csv", b"5.1\n")
    missing = job_with(DataSpec("a", "nothing"), default="lake")
    assert bring_inputs(missing, here, lambda: None, ignore) == missing
    for name in ("../up", "/etc"):
        with pytest.raises(BadUsage, match="outside the datastore"):
            bring_inputs(job_with(DataSpec("k", name)), here, no_azure, ignore)


def test_cache_follows_the_dataset(stage: Stage, azure_environment: StagedWorkspace, workspace: AzureWorkspace) -> None:
    """Files that change or disappear in the dataset do so in the cache, so that no job trains on deleted files.

    himl does not download the others again.
    """
    put(azure_environment, "scans")
    events: list[Event] = []
    folder = bring_dataset(workspace, DataSpec("k", "scans", mode="mount"), None, events.append)
    assert sum(event.files for event in events if isinstance(event, Planned)) == len(FILES)
    assert len([event for event in events if isinstance(event, Finished)]) == len(FILES)
    assert notices(events) == [
        "Input 'k': himl downloads the dataset, because it cannot mount it on this machine.",
        f"Input 'k': downloading dataset 'scans' of {azure_environment.label} to '{folder}'.",
    ]
    if sys.platform != "win32":
        assert (folder.parent.parent.name, folder.parent.parent.stat().st_mode & 0o777) == ("datasets", 0o700), (
            "the cache is the user's alone"
        )
    stage.log.clear()
    events.clear()
    assert bring_dataset(workspace, SCANS, None, events.append) == folder
    assert not stage.log.find(r"GET [^ ]*/scans/")
    assert not [event for event in events if isinstance(event, Moved)]
    assert contents(folder) == FILES
    where = azure_environment.state.datastores[DEFAULT]
    where.storage.client.get_blob_client(where.container, "scans/deep/b.png").delete_blob()
    azure_environment.put_blob(DEFAULT, "scans/a.png", b"other")
    assert bring_dataset(workspace, SCANS, None, ignore) == folder
    assert contents(folder) == {"a.png": b"other", "größe ü.txt": "ß".encode()}
    assert not (folder / "deep").exists()
    azure_environment.put_blob(DEFAULT, "scans//abs.png", b"below the folder")
    bring_dataset(workspace, SCANS, None, ignore)
    where.storage.client.get_blob_client(where.container, "scans/a.png").delete_blob()
    assert contents(bring_dataset(workspace, SCANS, None, ignore)) == {
        "abs.png": b"below the folder",
        "größe ü.txt": "ß".encode(),
    }


def test_dataset_of_one_file_other_version_or_target_folder(
    azure_environment: StagedWorkspace,
    workspace: AzureWorkspace,
    here: LocalWorkspace,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put(azure_environment, "tables", {"labels.csv": b"a,b\n", "other.csv": b""})
    register(azure_environment, "labels", "tables/labels.csv", kind="uri_file")
    path = bring_dataset(workspace, DataSpec("k", "labels"), None, ignore)
    assert (path.name, path.read_bytes()) == ("labels.csv", b"a,b\n")
    assert [one.name for one in path.parent.iterdir()] == ["labels.csv"]
    address = f"azureml://datastores/{DEFAULT}/paths/tables"
    assert bring_dataset(workspace, DataSpec("k", f"{address}/labels.csv"), None, ignore).read_bytes() == b"a,b\n"
    assert sorted(contents(bring_dataset(workspace, DataSpec("k", address), None, ignore))) == [
        "labels.csv",
        "other.csv",
    ]
    state = azure_environment.state
    link = state.storage.blob_link(state.datastores[DEFAULT].container, "tables/labels.csv", permissions="r")
    for one, azure in ((link, no_azure), (link.partition("?")[0], lambda: workspace)):
        (item,) = bring_inputs(job_with(DataSpec("k", one)), here, azure, ignore, open_address).inputs
        assert Path(str(item.local)).read_bytes() == b"a,b\n"
    with pytest.raises(BadUsage, match="himl cannot read 'azureml://registries/r/data/n/versions/1'"):
        bring_dataset(workspace, DataSpec("k", "azureml://registries/r/data/n/versions/1"), None, ignore)
    register(azure_environment, "labels", "tables/", "2", kind="mltable")
    latest = bring_dataset(workspace, DataSpec("k", "labels"), None, ignore)
    assert (contents(latest), latest == path.parent) == ({"labels.csv": b"a,b\n", "other.csv": b""}, False)
    register(azure_environment, "labels", "tables/", "3", kind="mltable")
    assert bring_dataset(workspace, DataSpec("k", "labels", "3"), None, ignore) != latest
    with pytest.raises(NotFound, match=r"Input 'k': .* has no version '7'. It has: "):
        bring_dataset(workspace, DataSpec("k", "labels", "7"), None, ignore)
    monkeypatch.chdir(project)
    put(azure_environment, "scans")
    write_files(project, {"data/scans/mine.txt": "mine", "data/a.png": "mine"})
    folder = bring_dataset(workspace, DataSpec("k", "scans", target="data/scans"), None, ignore)
    assert folder == project / "data" / "scans"
    assert {name: body for name, body in contents(folder).items() if not name.startswith(".himl")} == {
        **FILES,
        "mine.txt": b"mine",
    }
    with pytest.raises(
        TransferIncomplete, match=r"'.*data' has other versions of files of dataset 'scans': 'a\.png'"
    ) as caught:
        bring_dataset(workspace, DataSpec("k", "scans", target=str(project / "data")), None, ignore)
    assert "target=" in caught.value.hint
    assert (project / "data" / "a.png").read_bytes() == b"mine"


def test_missing_dataset_and_service_errors(
    here: LocalWorkspace, azure_environment: StagedWorkspace, workspace: AzureWorkspace, stage: Stage
) -> None:
    with pytest.raises(
        NotFound,
        match=f"Input 'k': unknown data asset 'scans' in workspace .*, and no such folder in its datastore '{DEFAULT}'",
    ):
        bring_inputs(job_with(SCANS), here, lambda: workspace, ignore)
    with pytest.raises(HimlError, match="No datastore 'no such store'"):
        bring_dataset(workspace, SCANS, "no such store", ignore)
    register(azure_environment, "scans", "nothing/")
    with pytest.raises(NotFound, match="dataset 'scans' has no files"):
        bring_dataset(workspace, SCANS, None, ignore)
    photos = DataSpec("k", "photos")
    put(azure_environment, "photos")
    stage.faults.add(Status(503), "GET [^ ]*/photos/", times=2)
    folder = bring_dataset(workspace, photos, None, ignore)
    assert contents(folder) == FILES
    azure_environment.put_blob(DEFAULT, "photos/new.png", b"n")
    stage.faults.add(Status(400, code="Nope", message="Not so."), "GET [^ ]*/photos/new", times=None)
    with pytest.raises(ServiceFailed, match=r"new\.png"):
        bring_dataset(workspace, photos, None, ignore)
    assert contents(folder) == FILES
