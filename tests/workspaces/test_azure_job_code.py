"""Tests of a job's code, the build context of its image, and its data and outputs."""

from __future__ import annotations

import hashlib
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from himl_cli.core.errors import BadUsage, HimlError, NotAllowed, NotFound, ServiceFailed
from himl_cli.core.events import Event, Finished, Moved, Notice, Planned, ignore
from himl_cli.core.jobs import DataSpec, EnvironmentSpec, Snapshot
from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.jobs.assets import JobCode, JobEnvironment, fingerprint
from himl_cli.workspaces.azure.jobs.data_assets import JobData, resolve_inputs, resolve_outputs
from himl_cli.workspaces.azure.storage.datastores import Datastores
from himl_cli.workspaces.azure.workspace import AzureWorkspace
from tests.azureml_double.faults import Page, Reset, ResetUpload, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Right
from tests.support.azure import DEFAULT, connected, set_all
from tests.support.azure_jobs import cluster_spec, ensured
from tests.support.running import write_files

FILES: dict[str, str | bytes] = {
    "train.py": "print(1)\n",
    "lab/model.py": "x = 1\n",
    "lab/__init__.py": b"",
    "größe ü #1.txt": "ß",
}
LARGE = 9 << 20  # more than himl sends in one request


def write_code(folder: Path, files: dict[str, str | bytes]) -> Snapshot:
    write_files(folder, files)
    return Snapshot(folder, sorted(files), sum((folder / name).stat().st_size for name in files))


@pytest.fixture
def code(tmp_path: Path) -> Snapshot:
    return write_code(tmp_path / "my-code", FILES)


def registered(azure: StagedWorkspace) -> list[dict[str, object]]:
    return [properties for versions in azure.state.assets["codes"].values() for properties in versions.values()]


def uploaded(azure: StagedWorkspace) -> dict[str, bytes]:
    """Return the files of the only registered code, by their names in the snapshot."""
    (properties,) = registered(azure)
    container, _, folder = str(properties["codeUri"]).split(":443/")[1].partition("/")
    storage = azure.state.storage
    return {
        blob.name.removeprefix(f"{folder}/"): storage.get(container, blob.name)
        for blob in storage.list(container, f"{folder}/")
    }


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {name: (snapshot.root / name).read_bytes() for name in snapshot.files}


def found(connection: Connection, snapshot: Snapshot) -> str:
    """Return the id of the snapshot's code version, or an empty string."""
    code = JobCode(connection, snapshot)
    code.find()
    return code.id


@pytest.mark.large("takes long, and other tests run its branches")
def test_new_code_is_uploaded_and_registered(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    events: list[Event] = []
    asset = ensured(connection, code, events.append)
    (properties,) = registered(azure)
    assert not asset.is_cached
    assert asset.id.lower().startswith(f"{azure.state.path}/codes/".lower())
    assert asset.id.endswith("/versions/1")
    assert str(properties["codeUri"]).endswith("/my-code")
    assert properties["properties"] == {"hash_sha256": fingerprint(code)[0], "hash_version": "202208"}
    assert uploaded(azure) == contents(code)
    assert Planned(len(FILES), code.size) in events
    assert Counter(event.name for event in events if isinstance(event, Finished)) == Counter(FILES.keys())
    assert sum(event.bytes for event in events if isinstance(event, Moved)) == code.size
    assert len(stage.log.find(r"management\.azure\.com")) == 3


def test_uploaded_code_is_found_again(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    assert (found(connection, code), registered(azure), stage.log.find("startPendingUpload")) == ("", [], [])
    first = ensured(connection, code, ignore)
    stage.log.clear()
    second = ensured(connection, code, ignore)
    assert (second.id, second.is_cached) == (first.id, True)
    assert stage.log.all() == []
    JobCode(connection, code).forget()  # as if another user had uploaded it
    assert found(connection, code) == ensured(connection, code, ignore).id == first.id
    assert [seen.method for seen in stage.log.find(r"management\.azure\.com")] == ["GET"]
    assert len(registered(azure)) == 1
    JobCode(connection, code).forget()
    registered(azure)[0]["provisioningState"] = "Failed"
    assert found(connection, code) == ""


def test_cached_code_upload_is_not_reused_for_another_account(
    azure: StagedWorkspace,
    project: Path,
    connection: Connection,
    code: Snapshot,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = ensured(connection, code, ignore)
    set_all(monkeypatch, azure.environment(azure.add_principal()))
    stage.log.clear()
    with connected(azure, project) as other:
        assert ensured(other, code, ignore).id == first.id
    assert len(stage.log.find("GET .*hash=")) == 1


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_moment_of_trouble_is_survived(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    faults: dict[str, Status | Reset | ResetUpload] = {
        "GET [^ ]*/codes/": Status(429, retry_after=0.1),
        "POST [^ ]*/startPendingUpload": Status(503),
        "PUT [^ ]*blob[^ ]*train.py": ResetUpload(),
        "PUT [^ ]*/codes/": Reset(),
    }
    for step, fault in faults.items():
        stage.faults.add(fault, step)
    stage.faults.add(Status(409, code="UserError", message="It exists."), "PUT [^ ]*/codes/", skip=1)
    assert not ensured(connection, code, ignore).is_cached, "a registration that was carried out unheard counts"
    assert uploaded(azure) == contents(code)
    assert [len(stage.log.find(step)) for step in faults] == [3, 2, 2, 2]


def test_after_a_refusal_of_the_sas_the_identity_uploads(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    for number, name in enumerate(("KeyBasedAuthenticationNotPermitted", "AuthenticationFailed")):
        stage.faults.only(Status(403, code=name), r"PUT .*\.blob\..*sig=", times=None)
        (code.root / "train.py").write_text(f"print({number})\n")
        ensured(connection, code)
    assert len(registered(azure)) == 2
    azure.state.principal.rights.discard(Right.STORAGE_WRITE)
    (code.root / "train.py").write_text("print(3)\n")
    with pytest.raises(NotAllowed, match="your own sign-in") as caught:
        ensured(connection, code)
    assert "Storage Blob Data Contributor" in caught.value.hint
    assert len(registered(azure)) == 2


def test_a_refusal_registers_nothing(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    for step in ("POST [^ ]*/startPendingUpload", "PUT [^ ]*blob[^ ]*model.py", "PUT [^ ]*/codes/"):
        stage.faults.only(Status(400, code="Nope", message="Not so."), step, times=None)
        with pytest.raises(ServiceFailed):
            ensured(connection, code, ignore)
        assert registered(azure) == []
    stage.faults.clear()
    assert not ensured(connection, code, ignore).is_cached


@pytest.mark.large("takes long, and other tests run its branches")
def test_file_that_changes_while_it_is_sent_is_not_registered(
    azure: StagedWorkspace, connection: Connection, tmp_path: Path
) -> None:
    large = bytes(LARGE)
    snapshot = write_code(tmp_path / "code", {"weights.bin": large, **FILES})

    def write(event: Event) -> None:
        if event == Finished("train.py"):
            (snapshot.root / "train.py").write_text("print(2)\n")
            os.utime(snapshot.root / "train.py", (1, 1))

    with pytest.raises(HimlError, match=r"'train\.py' changed during the upload of the code"):
        ensured(connection, snapshot, write)
    assert registered(azure) == []


def test_file_that_changes_before_it_is_sent_is_not_registered(
    azure: StagedWorkspace, connection: Connection, code: Snapshot
) -> None:
    job_code = JobCode(connection, code)
    job_code.find()
    assert job_code.id == ""
    for is_gone in (False, True):
        (code.root / "train.py").write_text("print('other')\n")
        if is_gone:
            (code.root / "train.py").unlink()
        with pytest.raises(HimlError, match=r"'train\.py' changed during the upload of the code") as caught:
            job_code.make(ignore)
        assert "himl started no job" in str(caught.value)
    assert registered(azure) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names are bytes on Linux only")
def test_code_with_invalid_file_name_is_refused_before_upload(
    stage: Stage, connection: Connection, tmp_path: Path
) -> None:
    reasons = {"notes.": "drops the dot", "a\nb": "control character", os.fsdecode(b"bad\xff.py"): "not Unicode text"}
    for number, (name, why) in enumerate(reasons.items()):
        snapshot = write_code(tmp_path / str(number), {name: "x", "train.py": ""})
        with pytest.raises(BadUsage, match=why):
            ensured(connection, snapshot, ignore)
    with pytest.raises(BadUsage, match="contains no files"):
        ensured(connection, Snapshot(tmp_path, (), 0), ignore)
    assert not stage.log.find("startPendingUpload")


def test_code_folder_with_special_characters_is_renamed_to_code(
    azure: StagedWorkspace, connection: Connection, tmp_path: Path
) -> None:
    ensured(connection, write_code(tmp_path / "größe 1", FILES), ignore)
    (properties,) = registered(azure)
    assert str(properties["codeUri"]).endswith("/code")


def test_the_signature_is_never_told(
    stage: Stage, azure: StagedWorkspace, connection: Connection, code: Snapshot, caplog: pytest.LogCaptureFixture
) -> None:
    stage.faults.add(Status(403, code="AuthorizationFailure", message="No."), "PUT [^ ]*blob[^ ]*train.py", times=None)
    with caplog.at_level(logging.DEBUG), pytest.raises(HimlError) as caught:
        ensured(connection, code, ignore)
    assert caplog.text
    assert "sig=" not in f"{caplog.text} {caught.value} {caught.value.hint}".replace("sig=***", "")


def test_code_hash_covers_names_sizes_and_contents(tmp_path: Path) -> None:
    snapshot = write_code(tmp_path, {"b.py": "22", "A.py": "1", "a/é": ""})
    hashed = "3" + "#A.py#1" + "#a/é#0" + "#b.py#2" + "1" + "22"
    assert fingerprint(snapshot)[0] == hashlib.sha256(hashed.encode()).hexdigest()


WHEEL = "lab_own-1.0-py3-none-any.whl"


def with_wheel(folder: Path, content: bytes = b"PK wheel", conda: bool = True) -> EnvironmentSpec:
    wheel = folder.parent / "wheels" / WHEEL
    wheel.parent.mkdir(exist_ok=True)
    wheel.write_bytes(content)
    text = f"dependencies:\n- python=3.11\n- pip:\n  - ./{WHEEL}\n" if conda else ""
    return EnvironmentSpec(image="docker.io/base:1", conda=text, wheels=[wheel])


def registered_wheels(azure: StagedWorkspace, run_id: str) -> dict[str, Any]:
    """Return the registered environment of the run."""
    job = azure.state.runs[run_id].job
    assert job is not None
    name, version = job["environmentId"].rpartition("/environments/")[2].split("/versions/")
    return dict(azure.state.assets["environments"][name][version])


def context_files(azure: StagedWorkspace, environment: dict[str, Any]) -> dict[str, bytes]:
    """Return the files in the build context of the image, by name."""
    container = azure.state.datastores[DEFAULT].container
    place, _, prefix = environment["build"]["contextUri"].partition(f"/{container}/")
    assert place == f"https://{azure.state.storage.host}"
    return {name.removeprefix(prefix): azure.get_blob(DEFAULT, name) for name in azure.blob_names(DEFAULT, prefix)}


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_image_is_built_from_a_folder_that_has_the_wheel(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    run = workspace.submit(
        cluster_spec(project, environment=replace(with_wheel(project), limits="six==1.16\n")), notify=ignore
    )
    environment = registered_wheels(azure, run.id)
    files = context_files(azure, environment)
    assert environment["build"]["dockerfilePath"] == "Dockerfile"
    assert sorted(files) == ["Dockerfile", "conda.yml", "constraints.txt", WHEEL]
    assert (files[WHEEL], files["constraints.txt"]) == (b"PK wheel", b"six==1.16\n")
    recipe = [shlex.split(line) for line in files["Dockerfile"].decode().splitlines()]
    assert recipe[0] == ["FROM", "docker.io/base:1"]
    (copied_to,) = [line[2] for line in recipe if line[0] == "COPY"]
    (created,) = [line for line in recipe if line[:2] == ["RUN", "conda"]]
    assert created[created.index("--file") + 1] == f"{copied_to.rstrip('/')}/conda.yml"
    assert yaml.safe_load(files["conda.yml"])["dependencies"][1] == {"pip": [f"./{WHEEL}"]}


@pytest.mark.large("takes long, and other tests run its branches")
def test_the_same_wheel_is_sent_once_and_another_one_again(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    first = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=ignore)
    azure.stage.log.clear()
    events: list[Event] = []
    second = workspace.submit(cluster_spec(project, environment=with_wheel(project)), notify=events.append)
    assert azure.requests("^PUT (?!.*/jobs/)") == []
    assert any("environment is unchanged" in event.text for event in events if isinstance(event, Notice))
    third = workspace.submit(cluster_spec(project, environment=with_wheel(project, b"PK another")), notify=ignore)
    ids = [(azure.state.runs[run.id].job or {})["environmentId"] for run in (first, second, third)]
    assert ids[0] == ids[1] != ids[2]
    assert context_files(azure, registered_wheels(azure, third.id))[WHEEL] == b"PK another"
    alone = workspace.submit(cluster_spec(project, environment=with_wheel(project, conda=False)), notify=ignore)
    files = context_files(azure, registered_wheels(azure, alone.id))
    assert sorted(files) == ["Dockerfile", WHEEL]
    assert (
        "RUN python -m pip install --no-cache-dir /himl-environment/*.whl" in files["Dockerfile"].decode().splitlines()
    )


def test_a_docker_context_beyond_the_limits_is_named_before_it_is_sent(
    azure: StagedWorkspace, connection: Connection, tmp_path: Path
) -> None:
    told: list[tuple[str, bool]] = []

    def note(event: Event) -> None:
        if isinstance(event, Notice):
            told.append((event.text, bool(azure.requests(f"PUT .*himl-environments/.*/{len(told)}_"))))

    folders: list[dict[str, str | bytes]] = [
        {"0_a": bytes(1 << 20), "0_b": "x"},
        {f"1_{number}": "" for number in range(101)},
        {"2_a": bytes(1 << 20)},
    ]
    for number, files in enumerate(folders):
        spec = EnvironmentSpec(context=write_code(tmp_path / str(number), files))
        JobEnvironment(connection, Datastores(connection), spec).upload(note)
    rule = "Azure ML may refuse more than 100 files or 1 MB."
    assert told == [
        (f"The Docker context has {what}. {rule}", False) for what in ("2 files with 1.0 MB", "101 files with 0.0 MB")
    ]


def test_a_workspace_without_a_place_for_wheels_is_told_so(
    workspace: AzureWorkspace, azure: StagedWorkspace, project: Path
) -> None:
    environment = with_wheel(project)
    azure.stage.faults.add(
        Status(409, code="AccountIsDisabled", message="The account is disabled."), r"PUT .*\.whl", times=None
    )
    with pytest.raises(HimlError, match="AccountIsDisabled"):
        workspace.submit(cluster_spec(project, environment=environment), notify=ignore)
    blobs = azure.state.datastores.pop("workspaceblobstore")
    azure.add_datastore("other", is_default=True, container=blobs.container)
    for kind in ("", "AzureFile"):
        if kind:
            azure.add_datastore("workspaceblobstore", kind=kind)
        with pytest.raises(
            BadUsage, match="himl stores the files of an image in the datastore 'workspaceblobstore'"
        ) as caught:
            workspace.submit(cluster_spec(project, environment=environment), notify=ignore)
        assert "--environment" in caught.value.hint
    environment.wheels[0].unlink()
    azure.stage.log.clear()
    with pytest.raises(BadUsage, match=WHEEL):
        workspace.submit(cluster_spec(project, environment=environment), notify=ignore)
    assert azure.requests(r"^(PUT|POST) (?!login\.)") == []
    assert not azure.state.runs


class Resolver:
    """The two functions on one workspace. It records their notices."""

    def __init__(self, connection: Connection, default: str | None = None) -> None:
        self.connection = connection
        self.default = default
        self.events: list[Event] = []

    def inputs(self, *items: DataSpec) -> dict[str, JobData]:
        return resolve_inputs(self.connection, Datastores(self.connection), items, self.default, self.events.append)

    def outputs(self, *items: DataSpec, are_of_trials: bool = False) -> dict[str, JobData]:
        given = (self.connection, Datastores(self.connection), items, self.default, self.events.append)
        return resolve_outputs(*given, are_of_trials=are_of_trials)

    @property
    def notices(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, Notice)]


@pytest.fixture
def resolve(connection: Connection) -> Resolver:
    return Resolver(connection)


def register(
    azure: StagedWorkspace, name: str, versions: Sequence[str] = ("1",), *, kind: str = "uri_folder", uri: str = ""
) -> None:
    """Register versions of a data asset as another user would. The last one is the latest."""
    state = azure.state
    place = (
        uri
        or f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}/"
        f"datastores/{DEFAULT}/paths/{name}/"
    )
    for version in versions:
        given: dict[str, Any] = {
            "description": None,
            "tags": {},
            "properties": {},
            "isArchived": False,
            "dataType": kind,
            "dataUri": place,
        }
        state.assets["data"].setdefault(name, {})[version] = {**given, "_created": "2026-01-01T00:00:00.0000000+00:00"}


def data_id(azure: StagedWorkspace, name: str, version: str) -> str:
    return f"{azure.state.path}/data/{name}/versions/{version}"


def test_a_registered_name_is_resolved_by_one_request(stage: Stage, azure: StagedWorkspace, resolve: Resolver) -> None:
    register(azure, "mnist", ["1", "2", "10"])
    for version, meant in {None: "10", "latest": "10", "2": "2"}.items():
        path = data_id(azure, "mnist", meant)
        stage.log.clear()
        assert resolve.inputs(DataSpec("train", "mnist", version, local="/nowhere")) == {
            "train": JobData(path, "download")
        }
        assert len(stage.log.find(r"management\.azure\.com")) == 1
        assert (
            resolve.inputs(DataSpec("k", "mnist", version, datastore=DEFAULT, mode="mount", target="/data"))["k"].mode
            == "ro_mount"
        )
    assert resolve.notices == []
    stage.faults.add(Page('{"id": 1}', content_type="application/json"), "/data/", times=None)
    for version in ("latest", "2"):
        with pytest.raises(ServiceFailed, match="is invalid: himl cannot read"):
            resolve.inputs(DataSpec("k", "mnist", version))


@pytest.mark.large("takes long, and other tests run its branches")
def test_an_unknown_version_names_those_there_are(azure: StagedWorkspace, resolve: Resolver) -> None:
    register(azure, "mnist", ["1", "2", "v3"])
    with pytest.raises(
        NotFound, match=r"Input 'k': The data asset 'mnist' of workspace .* has no version '7'. It has: v3, 2, 1"
    ):
        resolve.inputs(DataSpec("k", "mnist", "7"))
    register(azure, "mnist", [str(number) for number in range(1, 41)])
    with pytest.raises(NotFound, match=r"It has: 40, 39, .*, 31, …\."):
        resolve.inputs(DataSpec("k", "mnist", "77"))
    with pytest.raises(NotFound) as caught:
        resolve.inputs(DataSpec("k", "mnits"))
    assert caught.value.hint == "Did you mean 'mnist'?"


def test_unregistered_name_with_version_is_not_used_as_folder(azure: StagedWorkspace, resolve: Resolver) -> None:
    azure.put_blob(DEFAULT, "mnist/a", b"1")
    register(azure, "mnist2")
    with pytest.raises(NotFound, match=r"unknown data asset 'mnist' in workspace .*, in any version") as caught:
        resolve.inputs(DataSpec("k", "mnist", "1"))
    assert "'mnist2'" in caught.value.hint
    register(azure, "web", uri="https://example.org/data.csv?sig=secret", kind="uri_file")
    resolve.inputs(DataSpec("k", "web", datastore="lake"))
    assert "https://example.org/data.csv'" in resolve.notices[0]
    assert "secret" not in resolve.notices[0]


def test_an_output_is_a_folder_that_is_registered_at_the_end(stage: Stage, resolve: Resolver) -> None:
    given = resolve.outputs(DataSpec("OUTPUT_0", "predictions"), DataSpec("up", "maps", mode="upload"))
    assert given == {
        "OUTPUT_0": JobData(f"azureml://datastores/{DEFAULT}/paths/predictions/", "rw_mount", asset_name="predictions"),
        "up": JobData(f"azureml://datastores/{DEFAULT}/paths/maps/", "upload", asset_name="maps"),
    }
    assert len(stage.log.find(r"management\.azure\.com.*/data/(predictions|maps)\?")) == 2
    assert len(stage.log.find(r"management\.azure\.com")) == 3
    assert resolve.notices == []
    store = "workspacefilestore"
    assert (
        resolve.outputs(DataSpec("k", "maps", datastore=store))["k"].path == f"azureml://datastores/{store}/paths/maps/"
    )
    resolve.default = store
    assert resolve.outputs(DataSpec("k", "maps"))["k"].path == f"azureml://datastores/{store}/paths/maps/"
    nested = JobData(f"azureml://datastores/{store}/paths/team/maps/", "rw_mount", asset_name=None)
    assert resolve.outputs(DataSpec("k", "team/maps"))["k"] == nested
    assert resolve.notices == [
        "Output 'k': 'team/maps' is not a valid name of a data asset, so Azure ML will not register the folder."
    ]


def test_each_trial_has_a_folder_of_its_own_for_an_output(resolve: Resolver) -> None:
    assert resolve.outputs(are_of_trials=True) == {}
    assert resolve.notices == []
    paths = {"maps": "maps/${{name}}/", "of/${{name}}/maps": "of/${{name}}/maps/"}
    given = resolve.outputs(*(DataSpec(name, name) for name in paths), are_of_trials=True)
    assert given == {
        name: JobData(f"azureml://datastores/{DEFAULT}/paths/{path}", "rw_mount") for name, path in paths.items()
    }
    assert resolve.notices[-1] == (
        "Each trial writes its outputs to its own folder, NAME/<run id>. "
        "Azure ML does not register them as data assets."
    )


def test_an_output_that_must_be_new_and_is_not_is_refused(azure: StagedWorkspace, resolve: Resolver) -> None:
    register(azure, "maps", ["3"])
    azure.put_blob(DEFAULT, "plans/deep/a", b"1")
    there = {
        "maps": r"the data asset 'maps' exists \(version 3\)",
        "plans": f"the folder 'plans' of datastore '{DEFAULT}' exists",
    }
    for name, what in there.items():
        with pytest.raises(BadUsage, match=f"Output 'k': {what}, but overwrite=false requires a new one"):
            resolve.outputs(DataSpec("k", name, overwrite=False))
        assert resolve.outputs(DataSpec("k", name))["k"].asset_name == name
    register(azure, "mnist", kind="uri_file")
    register(azure, "table", kind="mltable")
    register(azure, "preds")
    given = resolve.outputs(*(DataSpec(name, name) for name in ("mnist", "table", "preds", "new")))
    assert {key: one.asset_name for key, one in given.items()} == {
        "mnist": None,
        "table": None,
        "preds": "preds",
        "new": "new",
    }
    sentence = (
        "Output '{0}': the data asset '{0}' is of type {1}, not uri_folder, so Azure ML will not register the folder."
    )
    assert resolve.notices == [sentence.format("mnist", "uri_file"), sentence.format("table", "mltable")]


@pytest.mark.large("takes long, and other tests run its branches")
def test_a_folder_of_the_default_datastore_is_registered(
    stage: Stage, azure: StagedWorkspace, resolve: Resolver, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    azure.put_blob(DEFAULT, "scans/deep/a.png", b"1")
    path = data_id(azure, "scans", "1")
    assert resolve.inputs(DataSpec("a", "scans"), DataSpec("b", "scans", mode="mount")) == {
        "a": JobData(path, "download"),
        "b": JobData(path, "ro_mount"),
    }
    kept = azure.state.assets["data"]["scans"]["1"]
    assert (kept["dataType"], kept["dataUri"].partition("/datastores/")[2]) == ("uri_folder", f"{DEFAULT}/paths/scans/")
    assert resolve.notices == [
        f"Input 'a': registered the folder 'scans' of datastore '{DEFAULT}' as data asset 'scans'."
    ]
    assert Resolver(resolve.connection).inputs(DataSpec("k", "scans")) == {"k": JobData(path, "download")}
    assert len(stage.log.find("PUT .*/data/")) == 1
    assert all("maxresults=1" in look.query for look in stage.log.find("comp=list")), "a large folder is not listed"
    assert "sig=" not in caplog.text.replace("sig=***", "")


def test_folder_input_ignores_registered_data_of_same_name(
    stage: Stage, azure: StagedWorkspace, resolve: Resolver
) -> None:
    azure.put_blobs(DEFAULT, {"scans/a": b"1", "mixed/a": b"1", "new/a": b"1", "scans:3/a": b"1"})
    for name in ("scans", "gone"):
        azure.add_data(name, f"azureml://datastores/{DEFAULT}/paths/mixed/")
    names = ("scans", "new", "scans:3")
    given = resolve.inputs(*(DataSpec(name, name, datastore=DEFAULT, mode="mount", is_folder=True) for name in names))
    assert given == {name: JobData(f"azureml://datastores/{DEFAULT}/paths/{name}/", "ro_mount") for name in names}
    assert (resolve.notices, stage.log.find("/data/")) == ([], [])
    for store, words in {
        DEFAULT: f"the folder 'gone' does not exist in datastore '{DEFAULT}'",
        "nowhere": "No datastore 'nowhere'",
    }.items():
        with pytest.raises(NotFound, match=words) as caught:
            resolve.inputs(DataSpec("k", "gone", datastore=store, is_folder=True))
        assert DEFAULT in f"{caught.value} {caught.value.hint}"


def test_addresses_of_data_are_sent_as_files_or_folders(azure: StagedWorkspace, resolve: Resolver) -> None:
    """himl checks blobs of the workspace's datastores. The service mounts file shares and OneLake, which himl cannot
    read.
    """
    for name, kind in (("share", "AzureFile"), ("lake", "OneLake")):
        azure.add_datastore(name, kind=kind)
    azure.put_blobs(DEFAULT, {"scans/a.png": b"1", "table": b"1", "v1.0/a": b"1"})
    register(azure, "iris", ["1", "2"], kind="uri_file")
    state = azure.state
    long = f"azureml://subscriptions/{state.subscription}/resourcegroups/{state.group}/workspaces/{state.name}"
    blobs = f"https://{state.storage.host}/{state.datastores[DEFAULT].container}"
    known = {
        f"azureml://datastores/{DEFAULT}/paths/scans": "uri_folder",
        f"azureml://datastores/{DEFAULT}/paths/v1.0": "uri_folder",
        f"azureml://datastores/{DEFAULT}/paths/table": "uri_file",
        f"azureml://datastores/{DEFAULT}": "uri_folder",
        f"{long}/datastores/{DEFAULT}/paths/scans/a.png": "uri_file",
        f"{blobs}/scans/": "uri_folder",
        f"{blobs}/table": "uri_file",
    }
    for address, kind in known.items():
        assert resolve.inputs(DataSpec("k", address))["k"] == JobData(address, "download", kind)
    for address in (f"azureml:/{state.path}", long, f"azureml://locations/westeurope/workspaces/{state.workspace_id}"):
        for version in ("versions/2", "labels/latest"):
            assert resolve.inputs(DataSpec("k", f"{address}/data/iris/{version}"))["k"] == JobData(
                data_id(azure, "iris", "2"), "download", "uri_file"
            )
    assert resolve.notices == []
    unchecked = {
        "azureml://datastores/share/paths/scans": "uri_folder",
        "azureml://datastores/lake/paths/Files/a.parquet": "uri_file",
        "azureml://registries/shared/data/iris/versions/1.0": "uri_folder",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/data/iris/versions/1": "uri_folder",
        "azureml://subscriptions/s/resourcegroups/g/workspaces/w/datastores/d/paths/x": "uri_folder",
        "https://other.blob.core.windows.net/c/x.csv": "uri_file",
        "https://example.org/x.csv?v=1": "uri_file",
        "wasbs://c@other.blob.core.windows.net/x": "uri_folder",
        "abfss://c@other.dfs.core.windows.net/x/": "uri_folder",
    }
    for address, kind in unchecked.items():
        assert resolve.inputs(DataSpec("k", address, mode="mount"))["k"] == JobData(address, "ro_mount", kind)
        assert f"himl does not check whether '{address}' exists" in resolve.notices[-1]
    assert resolve.inputs(DataSpec("k", "scans", datastore="share"))["k"] == JobData(
        "azureml://datastores/share/paths/scans/", "download"
    )
    assert "himl does not check" in resolve.notices[-1]
    assert list(azure.state.assets["data"]) == ["iris"]
    for address, error, words in (
        (f"azureml://datastores/{DEFAULT}/paths/nothing", NotFound, "is neither a file nor a folder"),
        ("azureml://datastores/nowhere/paths/x", NotFound, "No datastore 'nowhere'"),
        (f"{long}/data/nothing/versions/1", NotFound, "does not exist"),
        (f"{long}/data/iris/versions/9", NotFound, "It has: 2, 1"),
        (f"{blobs}/table?sp=r&sig=abcdefghij", BadUsage, "contains a secret"),
    ):
        with pytest.raises(error, match=words) as caught:
            resolve.inputs(DataSpec("k", address))
        assert "abcdefghij" not in f"{caught.value}{caught.value.hint}"


def test_a_folder_of_another_datastore_is_found_there(azure: StagedWorkspace, resolve: Resolver) -> None:
    azure.add_datastore("lake", kind="AzureDataLakeGen2", account=azure.state.second_storage)
    azure.put_blobs("lake", {"scans/a.png": b"1", "maps/a.png": b"1"})
    resolve.inputs(DataSpec("k", "scans", datastore="lake"))
    resolve.default = "lake"
    resolve.inputs(DataSpec("k", "maps"))
    for name in ("scans", "maps"):
        assert azure.state.assets["data"][name]["1"]["dataUri"].endswith(f"/datastores/lake/paths/{name}/")
    register(azure, "maps")
    assert resolve.inputs(DataSpec("k", "maps", datastore="lake"))["k"].path == data_id(azure, "maps", "1")
    said = f"Input 'k': the data asset 'maps' is registered in datastore '{DEFAULT}'. himl ignored 'datastore=lake'."
    assert resolve.notices[-1] == said


def test_a_name_that_goes_on_is_another_folder(azure: StagedWorkspace, resolve: Resolver) -> None:
    azure.put_blobs(DEFAULT, {"scans2/a": b"1", "scans": b"1", "team/scans/a.png": b"1"})
    with pytest.raises(
        NotFound,
        match=f"Input 'k': unknown data asset 'scans' in workspace .*, and no such folder in its datastore '{DEFAULT}'",
    ) as caught:
        resolve.inputs(DataSpec("k", "scans"))
    assert f"himl datastore upload FOLDER scans --datastore {DEFAULT}" in caught.value.hint
    assert resolve.inputs(DataSpec("k", "team/scans/"))["k"] == JobData(
        f"azureml://datastores/{DEFAULT}/paths/team/scans/", "download"
    )
    assert azure.state.assets["data"] == {}, "no asset can have that name: it is used as it is"


def test_folder_registered_concurrently_is_used_as_data_asset(
    stage: Stage, azure: StagedWorkspace, resolve: Resolver
) -> None:
    azure.put_blob(DEFAULT, "scans/a", b"1")
    register(azure, "scans", ["1", "2"])
    stage.faults.add(Status(404, code="UserError", message="It is not there yet."), "GET .*/data/scans")
    stage.faults.add(Status(409, code="UserError", message="It exists."), "PUT .*/data/scans/")
    assert resolve.inputs(DataSpec("k", "scans"))["k"].path == data_id(azure, "scans", "2")


def test_an_empty_page_is_not_an_empty_folder(stage: Stage, azure: StagedWorkspace, resolve: Resolver) -> None:
    azure.put_blob(DEFAULT, "scans/a", b"1")
    empty = (
        '<?xml version="1.0"?><EnumerationResults><Blobs></Blobs><NextMarker>scanr</NextMarker></EnumerationResults>'
    )
    stage.faults.add(Page(empty, content_type="application/xml"), "comp=list")
    assert resolve.inputs(DataSpec("k", "scans"))["k"].path == data_id(azure, "scans", "1")
    assert len(stage.log.find("comp=list")) == 2


def test_what_is_no_folder_of_a_datastore_is_refused_unasked(stage: Stage, resolve: Resolver) -> None:
    for name, why in {
        "": "names no dataset",
        "/": "names no dataset",
        "../up": "outside the datastore",
        "a/../../b": "outside",
    }.items():
        for resolved in (resolve.inputs, resolve.outputs):
            with pytest.raises(BadUsage, match=why):
                resolved(DataSpec("k", name, local="/data"))
    assert not stage.log.find(r"management\.azure\.com")
