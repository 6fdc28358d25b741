"""Tests of the requests that submit a job: whole bodies against golden files, and how bash on a node reads the
command.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.core.events import ignore
from himl_cli.core.jobs import DataSpec, Entry, EntryKind, EnvironmentSpec, JobSpec, PipelineSpec, Snapshot, StepSpec
from himl_cli.workspaces.azure.jobs.command_line import command_line, copy_commands
from himl_cli.workspaces.azure.jobs.job_submission import azure_run_id
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure_jobs import (
    CONDA,
    PREPARE,
    SWEEPS,
    cluster_spec,
    pipeline_of,
    prepare,
    snapshot_of,
    step_job,
    train,
)
from tests.support.documents import check_golden
from tests.support.folders import files_below
from tests.support.running import write_files

IMAGE = "docker.io/base:1"
GIT = {
    "build_source_repository": "https://git/x.git",
    "build_branch": "main",
    "build_source_id": "c0ffee",
    "build_source_dirty": "true",
}
SSH, TIER = "ssh-ed25519 AAAA ada@lab", {"AISuperComputer": {"slaTier": "Premium", "priority": 1}}
ELSEWHERE = [
    ("azureml://registries/azureml/environments/sklearn-1.5/versions/30", None),
    ("AzureML-sklearn-1.0", None),
    ("AzureML-sklearn-1.0", "3"),
]
ODD_CONDA = (
    "name: é漢\nvariables: {A: 'yes', B: ''}\ndependencies: [python=3.11, {pip: ['x>=1 ; y == \"z\"', 'long "
    + "long " * 20
    + "']}]\n"
)
COMMANDS: dict[str, dict[str, Any]] = {
    "plain": {"shm_size": ""},
    "module": {"entry": Entry(EntryKind.module, "lab.train"), "arguments": ["--x", "a b", "it's", "$HOME", "é漢", ""],
        "python": "uv run"},
    "shell": {"entry": Entry(EntryKind.shell, "-run.sh"), "description": "a: b # c\nd"},
    "line": {"entry": Entry(EntryKind.command, "python a.py --in ${{inputs.a}} && ls"),
        "inputs": [DataSpec("a", "scans")]},
    "ranks": {"nodes": 2, "processes": 4, "distribution": "pytorch", "cluster": "gpu-cluster"},
    "ranks by default": {"distribution": "pytorch"},
    "mpi": {"nodes": 2, "distribution": "mpi", "processes": 2},
    "serverless": {"cluster": "serverless", "instance_type": "Standard_NC6", "nodes": 2},
    "spot": {"cluster": "serverless", "job_tier": "spot"},
    "names": {"display_name": "shown", "description": "what it is", "tags": {"team": "blue", "empty": "", **GIT},
        "env": {"EMPTY": "", "N": "01", "T": "yes"}},
    "clean git": {"tags": {"build_source_dirty": "", "build_branch": "x"}},
    "inputs": {
        "inputs": [
            DataSpec("asset", "pictures", version="1", mode="mount"),
            DataSpec("latest", "pictures", target="/data/pictures"),
            DataSpec("one", "one"),
            DataSpec("table", "table", mode="mount"),
            DataSpec("folder", "a/b", datastore="second", is_folder=True),
        ],
        "arguments": ["--in=${{ inputs.asset }}/a b", "${{inputs.latest}}"],
    },
    "outputs": {
        "outputs": [DataSpec("o", "trained"), DataSpec("p", "kept/x", datastore="second", mode="upload"),
            DataSpec("q", "one")],
        "arguments": ["--o=${{ outputs.o }}/x"],
    },
    "user": {"identity": "user"},
    "managed": {"identity": "managed"},
    "services": {"services": {"vscode": "", "jupyterlab": "", "tensorboard": "outputs/tb", "ssh": SSH}},
    "services of several nodes": {"services": {"vscode": "", "ssh": SSH}, "nodes": 2, "distribution": "mpi"},
    "resources": {"resource_properties": TIER, "docker_args": ["--ipc=host", "--env A='b c'"],
        "instance_type": "gpu-large"},
    "a short limit": {"max_seconds": 0.4},
    "a long limit": {"max_seconds": 129600.0, "brought": {"ckpt/": "${{inputs.a}}/x y", "b.txt": "${{inputs.a}}/b.txt"},
        "inputs": [DataSpec("a", "pictures")]},
    "environment by name": {"environment": EnvironmentSpec("torch")},
    "environment by version": {"environment": EnvironmentSpec("torch", "1")},
    "curated environment": {"environment": EnvironmentSpec("AzureML-sklearn-1.0", "latest")},
    "environment of a registry": {
        "environment": EnvironmentSpec("azureml://registries/azureml/environments/sklearn-1.5/versions/30")
    },
    "image alone": {"environment": EnvironmentSpec(image=IMAGE)},
    "odd conda": {"environment": EnvironmentSpec(image=IMAGE, conda=ODD_CONDA)},
    "context by address": {"environment": EnvironmentSpec(context="https://example.com/a.git#x:y",
        dockerfile="docker/Dockerfile")},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded(azure: StagedWorkspace) -> None:
    azure.add_datastore("second")
    for datastore, name in {"workspaceblobstore": "pictures/1.png", "second": "a/b/c.txt"}.items():
        azure.put_blob(datastore, name, b"x")
    azure.put_blob("workspaceblobstore", "one.txt", b"x")
    azure.put_blob("workspaceblobstore", "scans/1.png", b"x")
    azure.add_data("pictures", "azureml://datastores/workspaceblobstore/paths/pictures/")
    azure.add_data("one", "azureml://datastores/workspaceblobstore/paths/one.txt", kind="uri_file")
    azure.add_data("table", "azureml://datastores/workspaceblobstore/paths/pictures/", kind="mltable")
    azure.add_environment("torch")


def bodies(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """Return the bodies of PUT requests since the last call, by URL. Generated ids are replaced."""
    seen = azure.stage.log.find(r"^PUT management.*/(jobs|environments|components|data)/")
    azure.stage.log.clear()
    found: dict[str, Any] = {}
    texts = [
        _plain(azure, json.dumps([f"{one.path}?{one.query}", json.loads(one.body)], sort_keys=True), run_id)
        for one in seen
    ]
    for address, body in map(json.loads, sorted(texts)):
        found[f"{address} #{len(found)}" if address in found else address] = body
    return found


def _plain(azure: StagedWorkspace, text: str, run_id: str) -> str:
    for given, plain in {azure.state.path: "WORKSPACE", run_id: "RUN", azure.state.storage.host: "STORAGE"}.items():
        text = text.replace(given, plain)
    text = re.sub(r"STORAGE/[^/]+/", "STORAGE/CONTAINER/", text)
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", text)


def test_command_jobs(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    found = {}
    for name, fields in COMMANDS.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, **fields), notify=ignore).id)
    wheel = project.parent / "own-1.0-py3-none-any.whl"
    wheel.write_bytes(b"PK wheel")
    built = {
        "wheels": EnvironmentSpec(
            image=IMAGE, conda="dependencies:\n- pip:\n  - ./own-1.0-py3-none-any.whl\n", wheels=[wheel]
        ),
        "wheels alone": EnvironmentSpec(image=IMAGE, wheels=[wheel]),
        "context": EnvironmentSpec(
            context=snapshot_of(project.parent / "context", {"Dockerfile": "FROM x\n", "own": "y"})
        ),
        "context, another file": EnvironmentSpec(
            context=snapshot_of(project.parent / "context", {"d/Own": "FROM x\n"}), dockerfile="d/Own"
        ),
    }
    for name, environment in built.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, environment=environment), notify=ignore).id)
    check_golden("bodies/command.json", found)


def test_sweeps(workspace: AzureWorkspace, azure: StagedWorkspace, project: Path) -> None:
    found = {}
    for name, fields in SWEEPS.items():
        found[name] = bodies(azure, workspace.submit(cluster_spec(project, **fields), notify=ignore).id)
    check_golden("bodies/sweep.json", found)


def pipelines(root: Path) -> Mapping[str, PipelineSpec]:
    every: dict[str, Any] = {
        "distribution": "mpi",
        "processes": 2,
        "nodes": 2,
        "shm_size": "3g",
        "docker_args": ["--ipc=host", "-v"],
        "max_seconds": 600.0,
    }
    every |= {"identity": "managed", "env": {"N": "01", "E": "", "T": "yes"}, "cluster": "gpu-cluster"}
    ranks: dict[str, Any] = {
        "distribution": "pytorch",
        "identity": "user",
        "environment": EnvironmentSpec("torch", "1"),
    }
    outside = [
        DataSpec("whole", "/", datastore="second"),
        DataSpec("f", "a/b", datastore="second", mode="mount"),
        DataSpec("p", "pictures"),
        DataSpec("t", "table"),
    ]
    alone = StepSpec("B.c", "alone", step_job(root / "b", "print(2)"), waits_for=["step1"])
    silent = StepSpec("9", "", step_job(root / "c", "print(3)", inputs=outside), waits_for=["B.c"])
    named = prepare(root, PREPARE, outputs=[DataSpec("numbers", "", datastore="second", mode="upload")])
    names: dict[str, Any] = {
        "display_name": "shown",
        "description": "a: b # c",
        "tags": {"k": "v", **GIT},
        "default_datastore": "second",
    }
    return {
        "two steps": pipeline_of(prepare(root), train(root)),
        "every field": pipeline_of(prepare(root, **ranks), train(root, **every), **names),
        "order alone, data from outside": pipeline_of(prepare(root), alone, silent),
        "places of outputs": pipeline_of(named, replace(train(root), name=named.name)),
        "environments of Azure ML": pipeline_of(
            *(
                replace(prepare(root, PREPARE, environment=EnvironmentSpec(name, version)), key=f"s{n}")
                for n, (name, version) in enumerate(ELSEWHERE)
            )
        ),
        "serverless": pipeline_of(prepare(root, cluster="serverless"), cluster="serverless"),
        "no compute of all": pipeline_of(prepare(root), cluster=""),
        "odd words": pipeline_of(
            prepare(
                root,
                arguments=["${{outputs.numbers}}", "a b", "é漢", "it's"],
                environment=EnvironmentSpec(image=IMAGE, conda=CONDA),
            )
        ),
    }


def test_pipelines(workspace: AzureWorkspace, azure: StagedWorkspace, tmp_path: Path) -> None:
    found = {}
    for name, spec in pipelines(tmp_path).items():
        found[name] = bodies(azure, workspace.submit_pipeline(spec, notify=ignore).id)
    check_golden("bodies/pipeline.json", found)


ODD = [
    "",
    " ",
    "a b",
    "it's",
    'say "x"',
    "$HOME",
    "`ls`",
    "$(ls)",
    "*",
    "~",
    "a\nb",
    "\\",
    "!x",
    "é漢🙂",
    "-x",
    "--",
    "#no",
    "a;b&c|d",
    "${x}",
    "{a,b}",
]


def spec_of(arguments: Sequence[str], *, kind: EntryKind = EntryKind.script, target: str = "train.py") -> JobSpec:
    inputs, outputs = [DataSpec("one", "pictures")], [DataSpec("out", "trained")]
    entry, snapshot = Entry(kind, target), Snapshot(Path("."), (), 0)
    return JobSpec("e", entry, snapshot, arguments=arguments, inputs=inputs, outputs=outputs)


def seen_by_script(text: str, folder: Path, bash: str) -> list[str]:
    """Return the arguments of `python` in the command, after the service has filled in the placeholders."""
    filled = text.replace("${{inputs.one}}", "/in/one").replace("${{outputs.out}}", "/out")
    program = folder / "python"
    program.write_text('#!/bin/sh\nfor one in "$@"; do printf \'%s\\0\' "$one"; done\n')
    program.chmod(0o755)
    said = subprocess.run([bash, "-c", f"PATH={folder}:$PATH; {filled}"], check=True, capture_output=True).stdout
    return said.decode().split("\0")[:-1]


def test_bash_gives_the_script_each_argument_as_it_was(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    arguments = [
        *ODD,
        "${{inputs.one}}",
        "--in=${{ inputs.one }}/a b",
        "it's ${{outputs.out}}:${{inputs.one}}",
        "${{x}}",
    ]
    filled = [*ODD, "/in/one", "--in=/in/one/a b", "it's /out:/in/one", "${{x}}"]
    assert seen_by_script(command_line(spec_of(arguments)), tmp_path, require_program("bash")) == ["train.py", *filled]


def laid_out(target: str, folder: Path, bash: str, ranks: int = 1) -> list[tuple[int, str]]:
    """Return the exit codes and outputs of ranks that start together in *folder*.

    They have an input whose files are in `given files`.
    """
    given = folder / "given files"
    given.mkdir(exist_ok=True)
    (given / "a.txt").write_text("A")
    spec = replace(
        spec_of(["${{inputs.one}}/a.txt"], kind=EntryKind.shell, target="show.sh"),
        inputs=[DataSpec("one", "pictures", target=target)],
    )
    (folder / "show.sh").write_text('cat "$1" "$AZURE_ML_INPUT_one/a.txt"; echo " $AZURE_ML_INPUT_one"')
    text = command_line(spec).replace("${{inputs.one}}", str(given))
    started = [
        subprocess.Popen([bash, "-c", text], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(ranks)
    ]
    ended = [(one.communicate()[0], one.returncode) for one in started]
    assert sorted(path.name for path in given.iterdir()) == ["a.txt"]
    return [(code, said) for said, code in ended]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.parametrize("target", ["deep/er/data/", "a b/it's $HOME", "-x", "{absolute}/deep/data"])
def test_input_is_linked_at_its_target_for_all_ranks(
    tmp_path: Path, require_program: Callable[[str], str], target: str
) -> None:
    folder = tmp_path / "wd"
    folder.mkdir()
    target = target.replace("{absolute}", str(tmp_path))
    said = f"AA {folder / target if target != '-x' else f'{folder}/./-x'}\n"
    assert laid_out(target, folder, require_program("bash"), ranks=4) == [(0, said)] * 4
    assert laid_out(target, folder, require_program("bash")) == [(0, said)]
    assert (folder / target).is_symlink()


def test_occupied_input_target_is_left_and_ends_the_job(tmp_path: Path, require_program: Callable[[str], str]) -> None:
    folder, file, dangling = tmp_path / "folder", tmp_path / "file", tmp_path / "dangling"
    folder.mkdir()
    file.touch()
    dangling.symlink_to(tmp_path / "gone")
    for target in (folder, file, dangling):
        before = target.lstat().st_ino, target.lstat().st_mtime_ns
        ((code, said),) = laid_out(str(target), tmp_path, require_program("bash"))
        assert (code, said) == (1, f"himl: cannot link input one to {target}: the path exists or is not writable.\n")
        assert (target.lstat().st_ino, target.lstat().st_mtime_ns) == before


def test_targets_that_cannot_be_links_are_refused() -> None:
    reasons = {
        "/data /data/deep": "one is inside the other",
        "./train.py": "the snapshot has files there",
        "x/..": "target=. is invalid",
        "outputs/in": "would be results",
    }
    for targets, why in reasons.items():
        inputs = [DataSpec(f"k{number}", "pictures", target=target) for number, target in enumerate(targets.split())]
        with pytest.raises(BadUsage, match=why):
            command_line(replace(spec_of([]), inputs=inputs, snapshot=Snapshot(Path("."), ("train.py", "lib/a.py"), 0)))


def test_names_of_jobs_are_those_that_the_service_takes() -> None:
    for experiment in ("train", "_train", "___", "9lives", "x" * 400):
        made = azure_run_id(experiment)
        assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_-]{0,254}", made)
        assert re.fullmatch(r"\w+_\d+_[0-9a-f]{8}", made)
        assert azure_run_id(experiment) != made


def node_of(tmp_path: Path, bash: str, brought: Mapping[str, str]) -> Callable[..., subprocess.Popen[str]]:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "input").mkdir()
    command = copy_commands(brought).replace("${{inputs.himl_checkpoint}}", (tmp_path / "input").as_posix())

    def start(**variables: str) -> subprocess.Popen[str]:
        env = {name: value for name, value in os.environ.items() if "RANK" not in name} | variables
        return subprocess.Popen(
            [bash, "-c", f"{command}echo begun"],
            cwd=work,
            env=env,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return start


@pytest.mark.large("takes long, and other tests run its branches")
def test_brought_files_and_folders_lie_in_place_for_all_ranks(
    tmp_path: Path, require_program: Callable[[str], str]
) -> None:
    folder = tmp_path / "work/outputs/check points"
    place = tmp_path / "work/outputs/it's a file.ckpt"
    given = "${{inputs.himl_checkpoint}}"
    start = node_of(
        tmp_path,
        require_program("bash"),
        {"outputs/it's a file.ckpt": f"{given}/my $weights.ckpt", "outputs/check points/": f"{given}/all/"},
    )
    names = ["deep/shard 1.pt", "deep/shard 2.pt", "it's $HOME.ckpt", ".metadata", "last.ckpt"]
    write_files(tmp_path / "input", {"my $weights.ckpt": "weights"})
    write_files(tmp_path / "input/all", dict.fromkeys(names, "weights"))
    write_files(folder, {"last.ckpt": "reached"})
    ranks = [
        start(**{variable: str(number)})
        for number, variable in enumerate(["OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK", "LOCAL_RANK"])
    ]
    assert [rank.communicate() for rank in ranks] == [("begun\n", "")] * 3
    assert (place.read_text(), sorted(path.name for path in place.parent.iterdir())) == (
        "weights",
        ["check points", place.name],
    )
    files = {path.relative_to(folder).as_posix(): path.read_text() for path in files_below(folder)}
    assert files == dict.fromkeys(names, "weights") | {"last.ckpt": "reached"}
    place.write_text("reached")
    assert start().communicate() == ("begun\n", "")
    assert place.read_text() == "reached", "by an earlier try, and stays"
    shutil.rmtree(folder / "deep")
    write_files(folder, {"deep": "a file where a folder is to be"})
    for _ in range(2):
        rank = start()
        out, err = rank.communicate()
        assert (rank.returncode, out) == (1, "")
        assert err.endswith("himl: cannot copy to outputs/check points/.\n")
        shutil.rmtree(tmp_path / "input/all", ignore_errors=True)
    assert copy_commands({}) == ""
