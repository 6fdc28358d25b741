"""MLflow's client with azureml-mlflow, unmodified, reads the double and logs to it, and agrees with `himl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.azure.conftest import Heard, Visit
from tests.azure.lab import BEST, EXPERIMENT, FAILED, FILES, LOSS, ROOTS, RUNNING, TRIALS, Lab, digests, digests_below
from tests.support.clients import AZUREML_MLFLOW
from tests.support.running import Himl

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment
STATUSES = {"Running": "RUNNING", "Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED", "Queued": "SCHEDULED"}


@pytest.fixture(scope="module")
def reading(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZUREML_MLFLOW, "mlflow_read")


@pytest.fixture(scope="module")
def writing(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZUREML_MLFLOW, "mlflow_write")


@pytest.fixture
def read(reading: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(reading, himl, project)


@pytest.fixture
def wrote(writing: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(writing, himl, project)


def test_it_lists_the_runs_that_himl_lists(read: Heard) -> None:
    theirs = {run["id"]: (run["status"], run["name"], run["tags"]) for run in read.said["runs"]}
    listed = read.json("runs", "list", "--experiment", EXPERIMENT)
    assert [run["id"] for run in listed] == [run["id"] for run in read.said["runs"] if run["id"] not in TRIALS] == list(ROOTS)
    assert {run["id"]: (STATUSES[run["status"]], run["display_name"], run["tags"]) for run in listed}.items() <= theirs.items()
    assert set(theirs) == {*ROOTS, *TRIALS}


def test_it_filters_and_orders(read: Heard) -> None:
    tagged = read.json("runs", "list", "--experiment", EXPERIMENT, "--tags", "kind=best")
    assert read.said["tagged"] == [run["id"] for run in tagged]
    assert read.said["by_metric"] == list(reversed(TRIALS))
    assert read.said["by_status"] == [FAILED]
    assert read.said["children"] == list(TRIALS)
    assert read.said["two"] == [BEST, FAILED]


def test_it_shows_the_run_that_himl_shows(read: Heard) -> None:
    ours, theirs = read.json("runs", "show", "--run", BEST), read.said["run"]
    assert (theirs["id"], theirs["status"], theirs["name"]) == (ours["id"], "FINISHED", ours["display_name"])
    assert (theirs["tags"], theirs["params"]) == (ours["tags"], ours["parameters"])
    assert theirs["metrics"] == {metric["name"]: metric["value"] for metric in ours["metrics"]} == {"loss": LOSS[-1], "val/dice": 0.75}
    assert read.said["experiment"] == ours["experiment"]
    assert read.said["experiments"] == [EXPERIMENT, "other"]


def test_it_reads_a_whole_curve(read: Heard) -> None:
    assert read.said["loss"] == [[step, value] for step, value in enumerate(LOSS)]


def test_it_lists_and_downloads_the_files_that_himl_downloads(read: Heard, project: Path) -> None:
    read.downloads("--run", BEST, "--output_dir", project / "out")
    ours = digests_below(project / "out" / BEST)
    assert read.said["files"] == sorted(ours) == sorted(FILES)
    assert read.said["downloaded"] == {name: digest for name, digest in ours.items() if name.startswith(("outputs/", "odd names/"))}


def test_himl_shows_what_it_logged_to_a_run(wrote: Heard) -> None:
    ours = wrote.json("runs", "show", "--run", RUNNING)
    assert ours["tags"] == {"kind": "best", "by": "mlflow", "note": "größer"}
    assert ours["parameters"] == {"lr": "0.1", "layers": "3"}
    assert [(metric["name"], metric["step"], metric["count"]) for metric in ours["metrics"]] == [("loss", 3, 4)]
    assert ours["status"] == "Running"


def test_himl_downloads_what_it_logged_as_artifacts(wrote: Heard, project: Path) -> None:
    wrote.downloads("--run", RUNNING, "--output_dir", project / "out")
    expected = {"outputs/model #1 ü.bin": b"\x00" * 100_000, "reports/deep/a.txt": b"deep\n", "user_logs/std_log.txt": b"epoch 0\n"}
    assert digests_below(project / "out" / RUNNING) == digests(expected)


def test_himl_finds_the_runs_that_it_made(wrote: Heard, project: Path) -> None:
    ours = wrote.json("runs", "show", "--run", wrote.said["parent"])
    assert (ours["status"], ours["display_name"], ours["parameters"]) == ("Completed", "by mlflow", {"a": "1"})
    assert [(child["id"], child["status"], child["display_name"]) for child in ours["children"]] == [(wrote.said["nested"], "Completed", "nested")]
    assert {(metric["name"], metric["value"], metric["step"]) for metric in ours["metrics"]} == {("x", 1.5, 7), ("y", 2.0, 0)}
    wrote.downloads("--run", wrote.said["nested"], "--output_dir", project / "out")
    assert list(digests_below(project / "out" / wrote.said["nested"])) == ["config.json"]


def test_inside_a_job_it_attaches_to_its_run_and_does_not_end_it(visit: Visit, himl: Himl, project: Path) -> None:
    inside = Heard(*visit(AZUREML_MLFLOW, "mlflow_job", RUNNING), himl)
    inside.lab.azure.write_config(project)
    assert inside.said == {"id": RUNNING}
    ours = inside.json("runs", "show", "--run", RUNNING)
    assert (ours["status"], ours["parameters"]) == ("Running", {"p": "1"})
    assert [(metric["name"], metric["value"]) for metric in ours["metrics"]] == [("inside", 2.0)]
    inside.downloads("--run", RUNNING, "--output_dir", project / "out")
    assert digests_below(project / "out" / RUNNING)["note.txt"] == digests({"": b"hello\n"})[""]
