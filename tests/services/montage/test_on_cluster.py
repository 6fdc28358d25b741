"""A montage on a cluster as a job: its command, its data, what is sent, its environment. No request is made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from himl_cli import __version__
from himl_cli.core.errors import BadUsage, NotFound
from himl_cli.core.jobs import DataSpec, Entry, EntryKind
from himl_cli.services.montage.cluster import ClusterMontage, check_data, prepare_montage
from himl_cli.services.submission.request import PreparedJob, SubmitRequest
from himl_cli.workspaces.local.file_blobs import DatastoreFolder
from himl_cli.workspaces.local.run_store import Database
from tests.support.clients import WHEEL, write_record, write_wheel
from tests.support.running import write_files


@pytest.fixture
def sent(tmp_path: Path) -> Path:
    """The empty folder that what is sent goes to."""
    folder = tmp_path / "sent"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def from_an_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if himl had been installed from an index, where others can have it too."""
    monkeypatch.syspath_prepend(write_record(tmp_path / "installed", None))


def prepared(cwd: Path, sent: Path, dataset: str = "slides", **options: Any) -> PreparedJob:
    own = {name: options.pop(name) for name in ("image_glob", "options", "lists", "datastore") if name in options}
    return prepare_montage(ClusterMontage(job=SubmitRequest(cwd=cwd, cluster="cpu", **options), dataset=dataset, **own), sent)


def files(job: PreparedJob) -> dict[str, str]:
    """What the job's snapshot holds."""
    snapshot = job.spec.snapshot
    return {name: (snapshot.root / name).read_text(encoding="utf-8") for name in snapshot.files}


def test_the_job_is_the_same_command_on_mounted_data(project: Path, sent: Path) -> None:
    job = prepared(project, sent, options=["--width=500"], image_glob="**/*.tiff", datastore="lab", display_name="Overview", shm_size="2G").spec
    assert job.entry == Entry(EntryKind.module, "himl_cli")
    assert job.arguments == ["montage", "${{inputs.slides}}", "--image_glob=**/*.tiff", "--width=500", "--output_path=outputs"]
    assert job.inputs == [DataSpec("slides", "slides", datastore="lab", mode="mount", is_folder=True)]
    assert (job.cluster, job.experiment, job.display_name, job.shm_size, job.sdk) == ("cpu", "montage", "Overview", "2g", "v2")


@pytest.mark.parametrize(
    ("dataset", "name", "version", "argument"),
    [
        ("slides/scans/", "slides/scans", None, "${{inputs.slides}}"),
        ("tiles:3", "tiles", "3", "${{inputs.slides}}"),
        ("slides/dataset.csv", "slides", None, "${{inputs.slides}}/dataset.csv"),
        ("tiles:3/lists.CSV", "tiles", "3", "${{inputs.slides}}/lists.CSV"),
        ("tiles:3/deep", "tiles:3/deep", None, "${{inputs.slides}}"),
        ("a b", "a b", None, "${{inputs.slides}}"),
    ],
)
def test_what_names_the_data(project: Path, sent: Path, dataset: str, name: str, version: str | None, argument: str) -> None:
    job = prepared(project, sent, dataset).spec
    assert job.inputs == [DataSpec("slides", name, version, mode="mount")]
    assert job.arguments[1] == argument


@pytest.mark.parametrize(
    ("dataset", "name", "is_folder"),
    [("slides", "slides", True), ("/slides/a", "slides/a", True), ("./slides", "slides", True), ("tiles:3", "tiles", False), ("tiles:3/", "tiles:3", True)],
)
def test_name_is_datastore_folder_unless_it_has_version(project: Path, sent: Path, dataset: str, name: str, is_folder: bool) -> None:
    (found,) = prepared(project, sent, dataset, datastore="lab").spec.inputs
    assert (found.name, found.version, found.is_folder) == (name, None if is_folder else "3", is_folder)


SLIDES_THERE = "Upload the folder of the slides: himl datastore upload FOLDER slides --datastore NAME; then name 'slides' and --datastore NAME."


@pytest.mark.parametrize("dataset", ["here", "here/deep", "./here", "here/list.csv"])
def test_data_of_this_machine_is_refused(project: Path, sent: Path, dataset: str) -> None:
    write_files(project, {"here/deep/a.tif": "a", "here/list.csv": "a"})
    with pytest.raises(BadUsage, match="lies on this machine, where cluster 'cpu' cannot see it") as caught:
        prepared(project, sent, dataset)
    assert caught.value.hint.startswith("Upload it: himl datastore upload ")


@pytest.mark.parametrize("dataset", [".", "..", "/", "~", "list.csv", "my list.txt", "here/a.tif"])
def test_nobody_is_told_to_upload_a_home_or_a_disk(project: Path, sent: Path, dataset: str) -> None:
    write_files(project, {"here/a.tif": "a", "list.csv": "a", "my list.txt": "a"})
    with pytest.raises(BadUsage, match="lies on this machine") as caught:
        prepared(project, sent, dataset)
    assert caught.value.hint == SLIDES_THERE


@pytest.mark.parametrize("dataset", ["./gone", "../gone", "/gone/slides", "~/gone", "C:\\slides"])
def test_a_path_that_is_not_there_is_told_so(project: Path, sent: Path, dataset: str) -> None:
    with pytest.raises(NotFound) as caught:
        prepared(project, sent, dataset)
    assert str(caught.value) == f"There is no '{dataset}' here, and on a cluster DATASET is a folder of a datastore."
    assert "himl montage FOLDER --datastore NAME --cluster cpu" in caught.value.hint


def test_the_way_out_can_be_typed_as_it_is_said(project: Path, sent: Path) -> None:
    write_files(project, {"my slides/list.csv": "a"})
    with pytest.raises(BadUsage) as caught:
        prepared(project, sent, "my slides/list.csv")
    assert (
        caught.value.hint == "Upload it: himl datastore upload 'my slides' 'my slides' --datastore NAME; then name 'my slides/list.csv' and --datastore NAME."
    )


def test_uploaded_folder_is_read_from_named_datastore(project: Path, sent: Path) -> None:
    write_files(project, {"slides/a.tif": "a"})
    assert prepared(project, sent, datastore="lab").spec.inputs == [DataSpec("slides", "slides", datastore="lab", mode="mount", is_folder=True)]


@pytest.mark.parametrize("dataset", [".x/..", "list.csv", "/"])
def test_data_that_is_no_folder_of_a_datastore_is_refused(project: Path, sent: Path, dataset: str) -> None:
    with pytest.raises(BadUsage):
        prepared(project, sent, dataset, datastore="lab")


def test_lists_are_sent_and_nothing_else(project: Path, sent: Path) -> None:
    write_files(project, {"train.py": "", "ids/my list.CSV": "slide_id\na\n"})
    job = prepared(project, sent, lists={"--include_by_slide_id": Path("ids/my list.CSV")})
    assert files(job) == {"include_by_slide_id.csv": "slide_id\na\n"}
    assert job.spec.arguments[-1] == "--include_by_slide_id=include_by_slide_id.csv"
    assert job.report is None


def test_snapshot_without_lists_holds_command_file(project: Path, sent: Path) -> None:
    """A job needs at least one file."""
    write_files(project, {"train.py": ""})
    job = prepared(project, sent, options=["--level=0"])
    assert files(job) == {"command.txt": f"himl {shlex.join(job.spec.arguments)}\n"}


@pytest.mark.parametrize("name", ["gone.txt", "folder"])
def test_a_list_that_is_not_there_is_refused(project: Path, sent: Path, name: str) -> None:
    (project / "folder").mkdir()
    with pytest.raises(BadUsage, match=f"--exclude_by_slide_id: there is no file '{name}'"):
        prepared(project, sent, lists={"--exclude_by_slide_id": Path(name)})


@pytest.mark.parametrize(
    ("content", "said"), [(b"\n \n", "'ids.txt' has no ids, so that no slide remains"), (b"slide_id\n", "has no ids"), (b"a\xe9\n", "is not UTF-8 text")]
)
def test_a_list_that_the_job_would_refuse_is_refused(project: Path, sent: Path, content: bytes, said: str) -> None:
    write_files(project, {"ids.txt": content})
    with pytest.raises(BadUsage, match=said):
        prepared(project, sent, lists={"--include_by_slide_id": Path("ids.txt")})


def test_an_empty_list_excludes_nothing_and_is_sent(project: Path, sent: Path) -> None:
    write_files(project, {"ids.txt": ""})
    assert files(prepared(project, sent, lists={"--exclude_by_slide_id": Path("ids.txt")})) == {"exclude_by_slide_id.txt": ""}


@pytest.mark.parametrize(("dataset", "glob", "said"), [("slides/list.csv", "*.tif", "is a CSV"), ("slides", "../*", "leaves the folder")])
def test_a_pattern_that_the_job_would_refuse_is_refused(project: Path, sent: Path, dataset: str, glob: str, said: str) -> None:
    with pytest.raises(BadUsage, match=said):
        prepared(project, sent, dataset, image_glob=glob)


def test_a_csv_is_looked_for_where_its_datastore_is_known(tmp_path: Path) -> None:
    database = Database(tmp_path / "workspace.db", create=True)
    write_files(tmp_path / "data", {"slides/list.csv": "a", "slides/list.csv.old": "a"})

    def check(dataset: str, datastore: str | None = "lab") -> None:
        asked = ClusterMontage(job=SubmitRequest(cwd=tmp_path, cluster="cpu"), dataset=dataset, datastore=datastore)
        check_data(asked, lambda name: DatastoreFolder(tmp_path / "data", name, database))

    check("slides/list.csv")
    check("/slides/")
    check("elsewhere/list.csv", None)
    with pytest.raises(NotFound, match=r"There is no file 'slides/lists[.]csv' in datastore 'lab'") as caught:
        check("slides/lists.csv")
    assert caught.value.hint == "Did you mean 'slides/list.csv'?"
    with pytest.raises(NotFound, match=r"There is no file 'gone/list[.]csv' in datastore 'lab'"):
        check("gone/list.csv")
    database.close()


def dependencies(job: PreparedJob) -> str:
    assert job.spec.environment is not None
    return job.spec.environment.conda


def test_default_environment_installs_this_himl_version(project: Path, sent: Path) -> None:
    """A conda file of the project is not used unless it is named."""
    write_files(project, {"environment.yml": "dependencies:\n- python=3.9\n- pandas\n"})
    job = prepared(project, sent)
    assert f"himl-cli[montage]=={__version__}" in dependencies(job)
    assert "pandas" not in dependencies(job)
    assert [remark for remark in job.remarks if f"himl-cli[montage]=={__version__}" in remark and "--private_wheel" in remark]


def test_a_himl_from_an_address_comes_from_there(project: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = {"url": "https://me:pat@example.org/himl_cli.whl?sig=c2VjcmV0", "archive_info": {}}
    monkeypatch.syspath_prepend(write_record(tmp_path / "address", json.dumps(record)))
    job = prepared(project, sent)
    assert "- himl-cli[montage] @ https://example.org/himl_cli.whl\n" in dependencies(job)
    assert [remark for remark in job.remarks if "himl-cli[montage] @ https://example.org/himl_cli.whl, which pip has to find" in remark]


def test_a_himl_of_this_machine_needs_a_wheel(project: Path, sent: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(write_record(tmp_path / "folder", json.dumps({"url": project.as_uri(), "dir_info": {}})))
    with pytest.raises(BadUsage, match="from where no other machine can install it") as caught:
        prepared(project, sent)
    assert "--private_wheel FILE" in caught.value.hint


def test_a_wheel_of_himl_takes_the_place_of_the_version(project: Path, sent: Path) -> None:
    write_wheel(project)
    job = prepared(project, sent, private_wheel=WHEEL)
    assert [line.strip(" -'\"") for line in dependencies(job).splitlines()[-2:]] == ["himl-cli[montage]", WHEEL]
    assert job.spec.environment is not None
    assert [path.name for path in job.spec.environment.wheels] == [WHEEL]
    assert files(job).keys() == {"command.txt"}


@pytest.mark.parametrize(("package", "warnings"), [("himl-cli[montage]", 0), ("numpy", 1)])
def test_a_conda_file_counts_alone_and_is_to_hold_himl(project: Path, sent: Path, package: str, warnings: int) -> None:
    write_files(project, {"own.yml": f"dependencies:\n- python=3.12\n- pip:\n  - {package}\n"})
    job = prepared(project, sent, conda_env=["own.yml"])
    assert "python=3.12" in dependencies(job)
    assert __version__ not in dependencies(job)
    assert len(lacking(job.remarks)) == warnings


def lacking(remarks: Sequence[str]) -> list[str]:
    return [remark for remark in remarks if "lacks himl-cli" in remark]


def test_values_that_submit_refuses_are_refused(project: Path, sent: Path) -> None:
    with pytest.raises(BadUsage, match="--shm_size 'much' is no size"):
        prepared(project, sent, shm_size="much")
