"""Tests of `himl montage` on slides in a datastore, locally and as a job.

The double of Azure ML runs the jobs, and Azurite stores the slides.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.azureml_double.faults import Stall, Status
from tests.azureml_double.seeding import StagedWorkspace
from tests.support.azure import DEFAULT
from tests.support.clients import WHEEL, write_wheel
from tests.support.folders import contents
from tests.support.montages import four_slides, rows_of
from tests.support.running import Himl, until, write_files

WIDTH = "--width=600"
CLUSTER = ("--cluster", "cpu-cluster", "--private_wheel", WHEEL)


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
    with lab.run_jobs():
        yield lab


def same(folder: Path, other: Path) -> bool:
    return all((folder / name).read_bytes() == (other / name).read_bytes() for name in ("montage.png", "montage.jpg"))


def kept_slides() -> list[str]:
    return [
        path.name
        for path in (Path.home() / "xdg_cache_home" / "himl" / "slides").rglob("*")
        if path.suffix in (".tiff", ".svs")
    ]


def test_datastore_slides_give_same_montage_as_local_ones(
    himl: Himl, lab: StagedWorkspace, project: Path, slides: Path
) -> None:
    """himl downloads only the files that the dataset names, even if the cache has space for only one of them at a
    time.
    """
    write_files(project / ".himl" / "datastores" / "lab" / "scans", contents(slides))
    himl.ok("montage", slides, WIDTH, "--output_path", "here")
    himl.ok("montage", "scans", "--datastore", "lab", WIDTH, "--output_path", "local", "--workspace", "local")
    assert not (Path.home() / "xdg_cache_home" / "himl" / "slides").exists(), "it is read where it lies"
    himl.ok("montage", "scans", "--datastore", DEFAULT, WIDTH, "--output_path", "there")
    assert same(project / "there", project / "here")
    assert same(project / "local", project / "here")
    assert [row["image"] for row in rows_of(project / "there")] == ["b.svs", "a.tiff", "more/d.tiff"]
    requests = {
        line.partition("?")[0].partition("/scans/")[2].partition(" ")[0] for line in lab.requests(r"GET .*/scans/")
    }
    assert sorted(requests) == ["a.tiff", "b.svs", "dataset.csv", "more/d.tiff"]
    himl.ok(
        "montage",
        "scans",
        "--datastore",
        DEFAULT,
        WIDTH,
        "--layout",
        "hi-ml",
        "--output_path",
        "tight",
        env={"HIML_SLIDE_CACHE_GB": "0"},
    )
    himl.ok("montage", slides, WIDTH, "--layout", "hi-ml", "--output_path", "here")
    assert same(project / "tight", project / "here")
    assert kept_slides() == []


def test_slides_that_cannot_be_brought_are_failed_ones(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    lab.stage.faults.add(Status(409, code="BlobArchived", message="archived"), r"GET .*/scans/a\.tiff", times=None)
    lab.put_blob(DEFAULT, "scans/list.csv", b"image,slide_id\na.tiff,A\n../other.tiff,O\ngone.tiff,G\nb.svs,B\n")
    made = himl("montage", "scans/list.csv", "--datastore", DEFAULT, WIDTH, "--strict")
    assert made.code == 1
    label = f"folder 'scans' of datastore '{DEFAULT}'"
    reasons = {row["slide_id"]: row["reason"] for row in rows_of(project / "outputs")}
    assert reasons == {
        "A": "it is in the archive tier",
        "O": f"it leads out of {label}",
        "G": f"there is no such file in {label}",
        "B": "",
    }
    assert "it is in the archive tier" in made.stderr
    before = contents(project / "outputs")
    refused = himl("montage", "scans", "--datastore", DEFAULT, env={"HIML_SLIDE_CACHE_GB": "some"})
    assert (refused.code, "HIML_SLIDE_CACHE_GB cannot be 'some'" in refused.stderr) == (2, True)
    lab.stage.faults.clear()
    lab.stage.faults.add(
        Status(403, code="AuthorizationFailure", message="Not from here."), r"GET .*/scans/.*(tiff|svs)", times=None
    )
    outcome = himl("montage", "scans", "--datastore", DEFAULT, WIDTH)
    assert (outcome.code, "None of the 3 slides could be fetched from datastore" in outcome.stderr) == (4, True), (
        outcome.stderr
    )
    assert contents(project / "outputs") == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are other ones there")
def test_ctrl_c_while_slides_come_leaves_nothing(started_himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    lab.stage.faults.add(Stall(240, after=1000), r"GET .*/scans/.*(tiff|svs)", times=None)
    with started_himl.start("montage", "scans", "--datastore", DEFAULT, WIDTH) as process:
        until(lambda: lab.requests(r"GET .*/scans/b") or process.poll() is not None)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=100)
    assert (process.returncode, b"Traceback" in said) == (130, False), said
    assert not (project / "outputs").exists()
    assert kept_slides() == []


def downloaded(himl: Himl, run_id: str) -> Path:
    himl.ok("download", run_id)
    return himl.folder / "outputs" / run_id / "outputs"


def test_a_job_takes_the_lists_and_the_options_along(
    himl: Himl, running: StagedWorkspace, project: Path, slides: Path
) -> None:
    """The job makes the same montage as a local command.

    Its data is a registered dataset or a CSV file of that dataset.
    """
    write_files(project, {"ids/some.txt": "a.tiff\nd.tiff\n", "train.py": "print('not sent')"})
    options = (
        "--exclude_by_slide_id",
        "ids/some.txt",
        "--image_glob",
        "**/*.[tps]*",
        "--layout",
        "hi-ml",
        "--level",
        "auto",
        "--image_format",
        "png,jpg",
    )
    running.add_data("digitised", f"azureml://datastores/{DEFAULT}/paths/scans", version="3")
    run_id = himl.ok(
        "montage", "digitised:3", *options, "--display_name", "Those two", *CLUSTER, WIDTH, "--wait", "-q"
    ).stdout.strip()
    himl.ok("montage", slides, WIDTH, *options, "--output_path", "here")
    made = downloaded(himl, run_id)
    assert same(made, project / "here")
    assert [row["image"] for row in rows_of(made)] == [row["image"] for row in rows_of(project / "here")]
    assert himl.ok("runs", "show", run_id, "--json").json()["display_name"] == "Those two"


def test_strict_job_with_broken_slide_fails_but_keeps_montage(himl: Himl, running: StagedWorkspace) -> None:
    """`--datastore` selects a folder over a dataset of the same name. The job gets no width if none was given."""
    running.put_blob(DEFAULT, "broken/a.tiff", b"no slide at all")
    running.put_blob(DEFAULT, "broken/b.svs", running.get_blob(DEFAULT, "scans/b.svs"))
    running.add_data("broken", f"azureml://datastores/{DEFAULT}/paths/scans")
    failed = himl("montage", "broken", "--datastore", DEFAULT, *CLUSTER, "--strict", "--wait", "-q")
    assert failed.code == 1
    run_id = failed.stdout.strip()
    shown, text = himl.ok("runs", "show", run_id, "--json").json(), himl.ok("runs", "show", run_id).stdout
    assert (shown["experiment"], shown["status"]) == ("montage", "Failed")
    assert ("--layout=fit" in text, "--level=1" in text, "--width" in text) == (True, True, False), text
    made = downloaded(himl, run_id)
    assert (made / "montage.png").is_file()
    assert [(row["image"], row["status"]) for row in rows_of(made)] == [("a.tiff", "failed"), ("b.svs", "ok")]


def test_without_wait_the_run_is_named_and_goes_on(himl: Himl, lab: StagedWorkspace, project: Path) -> None:
    with lab.run_jobs(hold=True):
        run_id = himl.ok("montage", "scans", "--datastore", DEFAULT, *CLUSTER, "-q").stdout.strip()
        assert himl.ok("runs", "show", run_id, "--json").json()["status"] == "Queued"
        assert run_id in (project / "most_recent_run.txt").read_text()
        himl.ok("runs", "cancel", run_id)
    assert not (project / "outputs").exists()


def test_what_no_job_could_do_is_refused_before_anything_is_sent(
    himl: Himl, lab: StagedWorkspace, project: Path
) -> None:
    lab.add_data("scans", f"azureml://datastores/{DEFAULT}/paths/scans")
    for dataset, datastore, said in (
        ("scans", "nowhere", DEFAULT),
        ("scan", DEFAULT, "the folder 'scan' does not exist in datastore"),
        ("scans/gone.csv", DEFAULT, "There is no file 'scans/gone.csv'"),
    ):
        outcome = himl("montage", dataset, "--datastore", datastore, *CLUSTER)
        assert (outcome.code, said in outcome.stderr, "Environment of the job" in outcome.stderr) == (3, True, False), (
            outcome.stderr
        )
    write_files(project, {"scans/a.tiff": "a"})
    for arguments, said in (
        (("scans",), "'scans' is on this machine, which cluster 'cpu-cluster' cannot access"),
        (("scans", "--datastore", DEFAULT, "--output_path", "elsewhere"), "--output_path is only for local use"),
        (("scans", "--datastore", DEFAULT, "--conda_env", "gone.yml"), "gone.yml"),
    ):
        outcome = himl("montage", *arguments, *CLUSTER)
        assert (outcome.code, said in outcome.stderr) == (2, True), outcome.stderr
    assert lab.requests(r"PUT ") == []
