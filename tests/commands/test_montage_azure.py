"""`himl montage` of slides in a datastore, here and as a job: the double of Azure ML runs the jobs, Azurite holds the slides."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers.azureml.faults import Stall, Status
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import DEFAULT
from tests.support.clients import WHEEL, write_wheel
from tests.support.folders import contents
from tests.support.montages import four_slides, rows_of
from tests.support.running import Himl, write_files

WIDTH = "--width=600"
CLUSTER = ("--cluster", "cpu-cluster", "--private_wheel", WHEEL)
MADE = ("montage.png", "montage.jpg")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    """A folder of four slides, one of them in a subfolder, and a list of two of them."""
    folder = four_slides(tmp_path / "original")
    (folder / "dataset.csv").write_text("image,slide_id,label\nb.svs,B,two\na.tiff,A,one\nmore/d.tiff,D,four\n")
    return folder


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path, slides: Path) -> StagedWorkspace:
    """A workspace with the slides in the folder `scans` of its default datastore, and a project that names it."""
    azure_environment.write_config(project)
    write_wheel(project)
    azure_environment.put_blobs(DEFAULT, {f"scans/{name}": content for name, content in contents(slides).items()})
    return azure_environment


@pytest.fixture
def running(lab: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """As `lab`, and the jobs are run."""
    with lab.run_jobs():
        yield lab


def same(folder: Path, other: Path) -> bool:
    """Whether two montages are alike, byte by byte."""
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in MADE)


def asked_for(azure: StagedWorkspace) -> list[str]:
    """The slides whose bytes were asked for."""
    return sorted({line.partition("?")[0].partition("/scans/")[2].partition(" ")[0] for line in azure.requests(r"GET .*/scans/")})


def test_datastore_slides_give_same_montage_as_local_ones(himl: Himl, lab: StagedWorkspace, project: Path, slides: Path) -> None:
    """Only the files that the dataset names are downloaded."""
    himl.ok("montage", "scans", "--datastore", DEFAULT, WIDTH, "--output_path", "there")
    himl.ok("montage", slides, WIDTH, "--output_path", "here")
    assert same(project / "there", project / "here")
    assert [row["image"] for row in rows_of(project / "there")] == ["b.svs", "a.tiff", "more/d.tiff"]
    assert asked_for(lab) == ["a.tiff", "b.svs", "dataset.csv", "more/d.tiff"]


def test_a_cache_that_holds_one_slide_makes_the_same_montage(himl: Himl, lab: StagedWorkspace, project: Path, slides: Path) -> None:
    command = ("montage", "scans", "--datastore", DEFAULT, WIDTH, "--layout", "hi-ml")
    himl.ok(*command, "--output_path", "there", env={"HIML_SLIDE_CACHE_GB": "0"})
    himl.ok("montage", slides, WIDTH, "--layout", "hi-ml", "--output_path", "here")
    assert same(project / "there", project / "here")
    assert [path.name for path in (Path.home() / "xdg_cache_home" / "himl" / "slides").rglob("*.tiff")] == []


def test_a_slide_that_cannot_be_brought_is_a_failed_one(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    lab.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/scans/a\.tiff", times=None)
    lab.put_blob(DEFAULT, "scans/list.csv", b"image,slide_id\na.tiff,A\n../other.tiff,O\ngone.tiff,G\nb.svs,B\n")
    made = himl("montage", "scans/list.csv", "--datastore", DEFAULT, WIDTH, "--strict")
    assert made.code == 1
    label = f"folder 'scans' of datastore '{DEFAULT}'"
    reasons = {row["slide_id"]: row["reason"] for row in rows_of(project / "outputs")}
    assert reasons == {"A": "it lies in the archive tier", "O": f"it leads out of {label}", "G": f"there is no such file in {label}", "B": ""}
    assert "it lies in the archive tier" in made.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("scans", "--datastore", "nowhere"), 3, DEFAULT),
        (("scan", "--datastore", DEFAULT), 3, "Did you mean 'scans'?"),
        (("scans/gone.csv", "--datastore", DEFAULT), 3, "There is no file 'scans/gone.csv'"),
        (("../scans", "--datastore", DEFAULT), 2, "leads out of the store"),
        (("scans", "--datastore", DEFAULT, "--image_glob", "*.ndpi"), 2, "--image_glob '*.ndpi' matches no file in folder 'scans' of datastore"),
    ],
)
def test_data_that_is_not_there_is_told_and_nothing_is_made(
    himl: Himl, lab: StagedWorkspace, project: Path, arguments: tuple[str, ...], code: int, said: str
) -> None:
    outcome = himl("montage", *arguments)
    assert (outcome.code, said in outcome.stderr) == (code, True), outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (project / "outputs").exists()


def test_refused_slide_downloads_keep_earlier_montage(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    write_files(project, {"outputs/montage.png": "of before"})
    lab.stage.faults.add(Status(403, code="AuthorizationFailure", message="Not from here."), r"GET .*/scans/.*(tiff|svs)", times=None)
    outcome = himl("montage", "scans", "--datastore", DEFAULT, WIDTH)
    assert (outcome.code, "None of the 3 slides came from datastore" in outcome.stderr) == (4, True), outcome.stderr
    assert {path.name: path.read_text() for path in (project / "outputs").iterdir()} == {"montage.png": "of before"}


def test_a_limit_that_is_no_number_is_refused(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    outcome = himl("montage", "scans", "--datastore", DEFAULT, env={"HIML_SLIDE_CACHE_GB": "some"})
    assert (outcome.code, "HIML_SLIDE_CACHE_GB cannot be 'some'" in outcome.stderr) == (2, True)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
def test_ctrl_c_while_slides_come_leaves_nothing(started_himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    lab.stage.faults.add(Stall(240, after=1000), r"GET .*/scans/.*(tiff|svs)", times=None)
    process = started_himl.start("montage", "scans", "--datastore", DEFAULT, WIDTH)
    while not lab.requests(r"GET .*/scans/b"):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=100)
    assert (process.returncode, b"Traceback" in said) == (130, False), said
    assert not (project / "outputs").exists()
    assert [path.name for path in (Path.home() / "xdg_cache_home" / "himl" / "slides").rglob("*") if path.suffix in (".tiff", ".svs")] == []


def test_a_local_datastore_is_read_where_it_lies(himl: Himl, project: Path, slides: Path) -> None:
    write_files(project / ".himl" / "datastores" / "lab" / "scans", contents(slides))
    himl.ok("montage", "scans", "--datastore", "lab", WIDTH, "--output_path", "there", "--workspace", "local")
    himl.ok("montage", slides, WIDTH, "--output_path", "here")
    assert same(project / "there", project / "here")
    assert not (Path.home() / "xdg_cache_home" / "himl" / "slides").exists()


def submitted(himl: Himl, *arguments: str | Path) -> str:
    """The id of a run that was waited for and completed."""
    return himl.ok("montage", *arguments, *CLUSTER, WIDTH, "--wait", "-q").stdout.strip()


def downloaded(himl: Himl, run_id: str) -> Path:
    """The folder of the montage that himl downloads from the run."""
    himl.ok("download", run_id)
    return himl.folder / "outputs" / run_id / "outputs"


def test_a_job_makes_the_montage_that_is_made_here(himl: Himl, running: StagedWorkspace, project: Path, slides: Path) -> None:
    """Its data is a CSV of a datastore."""
    run_id = submitted(himl, "scans/dataset.csv", "--datastore", DEFAULT)
    himl.ok("montage", slides / "dataset.csv", WIDTH, "--output_path", "here")
    made = downloaded(himl, run_id)
    assert same(made, project / "here")
    assert [row["slide_id"] for row in rows_of(made)] == ["B", "A", "D"]
    shown = himl.ok("runs", "show", run_id, "--json").json()
    assert (shown["experiment"], shown["status"]) == ("montage", "Completed")


def test_a_job_takes_the_lists_and_the_options_along(himl: Himl, running: StagedWorkspace, project: Path, slides: Path) -> None:
    """Its data is a dataset that is registered."""
    write_files(project, {"ids/some.txt": "a.tiff\nd.tiff\n", "train.py": "print('not sent')"})
    options = ("--exclude_by_slide_id", "ids/some.txt", "--image_glob", "**/*.[tps]*", "--layout", "hi-ml", "--level", "auto", "--image_format", "png,jpg")
    running.add_data("digitised", f"azureml://datastores/{DEFAULT}/paths/scans", version="3")
    run_id = submitted(himl, "digitised:3", *options, "--display_name", "Those two")
    himl.ok("montage", slides, WIDTH, *options, "--output_path", "here")
    made = downloaded(himl, run_id)
    assert same(made, project / "here")
    assert [row["image"] for row in rows_of(made)] == [row["image"] for row in rows_of(project / "here")]
    assert himl.ok("runs", "show", run_id, "--json").json()["display_name"] == "Those two"


def test_a_job_is_sent_no_width_where_none_was_given(himl: Himl, running: StagedWorkspace, slides: Path) -> None:
    run_id = himl.ok("montage", "scans/dataset.csv", "--datastore", DEFAULT, *CLUSTER, "--wait", "-q").stdout.strip()
    himl.ok("montage", slides / "dataset.csv", "--output_path", "here")
    assert same(downloaded(himl, run_id), himl.folder / "here")
    command = himl.ok("runs", "show", run_id).stdout
    assert ("--layout=fit" in command, "--width" in command) == (True, False), command


def test_datastore_option_selects_folder_over_data_asset_name(himl: Himl, running: StagedWorkspace) -> None:
    running.put_blob(DEFAULT, "other/z.svs", running.get_blob(DEFAULT, "scans/b.svs"))
    running.add_data("other", f"azureml://datastores/{DEFAULT}/paths/scans")
    run_id = submitted(himl, "other", "--datastore", DEFAULT)
    assert [row["image"] for row in rows_of(downloaded(himl, run_id))] == ["z.svs"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scans", "--datastore", "nowhere"), DEFAULT),
        (("scan", "--datastore", DEFAULT), "no folder 'scan' in datastore"),
        (("scans/gone.csv", "--datastore", DEFAULT), "There is no file 'scans/gone.csv'"),
    ],
)
def test_missing_slide_data_fails_before_any_upload(himl: Himl, lab: StagedWorkspace, arguments: tuple[str, ...], said: str) -> None:
    lab.add_data("scans", f"azureml://datastores/{DEFAULT}/paths/scans")
    outcome = himl("montage", *arguments, *CLUSTER)
    assert (outcome.code, said in outcome.stderr, "Environment of the job" in outcome.stderr) == (3, True, False), outcome.stderr
    assert lab.requests(r"PUT ") == []


def test_strict_job_with_broken_slide_fails_but_keeps_montage(himl: Himl, running: StagedWorkspace) -> None:
    running.put_blob(DEFAULT, "broken/a.tiff", b"no slide at all")
    running.put_blob(DEFAULT, "broken/b.svs", running.get_blob(DEFAULT, "scans/b.svs"))
    failed = himl("montage", "broken", "--datastore", DEFAULT, *CLUSTER, WIDTH, "--strict", "--wait", "-q")
    assert failed.code == 1
    run_id = failed.stdout.strip()
    assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Failed"
    made = downloaded(himl, run_id)
    assert (made / "montage.png").is_file()
    assert [row["status"] for row in rows_of(made)] == ["failed", "ok"]


def test_without_wait_the_run_is_named_and_goes_on(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    with lab.run_jobs(hold=True):
        run_id = himl.ok("montage", "scans", "--datastore", DEFAULT, *CLUSTER, "-q").stdout.strip()
        assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Queued"
        assert run_id in (project / "most_recent_run.txt").read_text()
        himl.ok("runs", "cancel", run_id)
    assert not (project / "outputs").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("scans",), "'scans' lies on this machine, where cluster 'cpu-cluster' cannot see it"),
        (("scans", "--datastore", DEFAULT, "--output_path", "elsewhere"), "--output_path is for a montage that is made here"),
        (("scans", "--datastore", DEFAULT, "--include_by_slide_id", "gone.txt"), "--include_by_slide_id"),
        (("scans", "--datastore", DEFAULT, "--conda_env", "gone.yml"), "gone.yml"),
        (("scans", "--datastore", DEFAULT, "--shm_size", "much"), "--shm_size 'much' is no size"),
        (("scans", "--datastore", DEFAULT, "--width", "0"), "--width"),
    ],
)
def test_what_no_job_could_do_is_refused_before_anything_is_sent(
    himl: Himl, lab: StagedWorkspace, project: Path, arguments: tuple[str, ...], said: str
) -> None:
    write_files(project, {"scans/a.tiff": "a"})
    outcome = himl("montage", *arguments, *CLUSTER)
    assert (outcome.code, said in outcome.stderr) == (2, True), outcome.stderr
    assert lab.requests(r"(PUT|POST) ") == []


def test_the_cluster_called_local_is_this_machine(himl: Himl, project: Path, slides: Path) -> None:
    himl.ok("montage", slides, WIDTH, "--cluster", "local")
    assert (project / "outputs" / "montage.png").is_file()
