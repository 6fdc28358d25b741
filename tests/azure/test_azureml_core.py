"""azureml-core, unmodified, reads the double and writes to it, and agrees with `himl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.azure.conftest import Heard, Visit
from tests.azure.lab import BEST, EXPERIMENT, FAILED, FILES, LOSS, ROOTS, RUNNING, SWEEP, TRIALS, Lab, digests, digests_below
from tests.support.clients import AZUREML_CORE
from tests.support.running import Himl

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment


@pytest.fixture(scope="module")
def reading(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZUREML_CORE, "azureml_core_read")


@pytest.fixture(scope="module")
def writing(visit: Visit) -> tuple[Lab, Any]:
    return visit(AZUREML_CORE, "azureml_core_write")


@pytest.fixture
def read(reading: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(reading, himl, project)


@pytest.fixture
def wrote(writing: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
    return Heard.of(writing, himl, project)


def test_it_finds_the_workspace_and_its_experiments(read: Heard) -> None:
    assert read.said["workspace"] == {"id": read.lab.azure.state.path, "location": "eastus"}
    assert read.said["experiments"] == [EXPERIMENT, "other"]
    assert read.said["experiment"] == EXPERIMENT


def test_it_lists_the_runs_that_himl_lists(read: Heard) -> None:
    listed = read.json("runs", "list", "--experiment", EXPERIMENT)
    assert read.said["runs"] == [{"id": run["id"], "status": run["status"], "tags": run["tags"], "name": run["display_name"]} for run in listed]
    assert [run["id"] for run in listed] == list(ROOTS)


def test_it_filters_as_himl_does(read: Heard) -> None:
    tagged = read.json("runs", "list", "--experiment", EXPERIMENT, "--tags", "kind=best")
    assert read.said["tagged"] == [run["id"] for run in tagged] == [ROOTS[0], BEST]
    failed = read.json("runs", "list", "--experiment", EXPERIMENT, "--status", "Failed")
    assert read.said["failed"] == [run["id"] for run in failed] == [FAILED]
    assert read.said["has_tag"] == [BEST]
    assert read.said["by_property"] == read.said["hyperdrive"] == [SWEEP]


def test_it_finds_the_children_that_himl_finds(read: Heard) -> None:
    assert read.said["children"] == read.said["tree"] == list(TRIALS)
    assert sorted(child["id"] for child in read.json("runs", "show", "--run", SWEEP)["children"]) == list(TRIALS)
    assert read.said["with_children"] == sorted([*ROOTS, *TRIALS])


def test_it_reads_the_metrics_that_himl_reads(read: Heard) -> None:
    assert read.said["metrics"] == {BEST: {"loss": LOSS, "val/dice": 0.75}, TRIALS[0]: {"accuracy": 0.5}, TRIALS[1]: {"accuracy": 0.6}}
    ours = {metric["name"]: (metric["value"], metric["count"]) for metric in read.json("runs", "show", "--run", BEST)["metrics"]}
    assert ours == {"loss": (LOSS[-1], len(LOSS)), "val/dice": (0.75, 1)}


def test_it_downloads_the_bytes_that_himl_downloads(read: Heard, project: Path) -> None:
    read.downloads("--run", BEST, "--output_dir", project / "out")
    ours = digests_below(project / "out" / BEST)
    assert ours == digests(FILES)
    assert read.said["files"] == sorted(ours)
    assert read.said["all"] == {name: digest for name, digest in ours.items() if name.startswith("outputs/")}
    assert read.said["one"] == {"model.bin": ours["outputs/model.bin"]}


def test_it_sees_the_details_and_the_logs(read: Heard) -> None:
    assert read.said["details"] == {"runId": BEST, "status": "Completed", "target": "cpu-cluster"}
    assert read.said["logs"] == ["system_logs/lifecycler/lifecycler.log", "user_logs/std_log.txt"]


def test_it_lists_the_datastores_that_himl_knows(read: Heard) -> None:
    assert sorted(read.said["datastores"]) == sorted(read.lab.azure.state.datastores)
    assert read.said["default"] == read.json("workspace", "show")[0]["facts"]["default_datastore"]
    named = read.himl("datastore", "list", "--datastore", "nope", env=read.lab.azure.environment())
    assert named.code == 3
    assert [name for name in read.said["datastores"] if name not in named.stderr.replace("\n", "")] == []
    assert read.said["container"] == read.lab.azure.state.default_datastore.container


def test_himl_shows_the_run_that_it_wrote(wrote: Heard) -> None:
    said = wrote.said
    ours = wrote.json("runs", "show", "--run", said["id"])
    assert (ours["status"], ours["display_name"], ours["experiment"]) == (said["status"], "written", "by_hand")
    assert ours["tags"] == said["tags"] == {"kind": "by hand", "note": "a b"}
    assert said["properties"]["origin"] == "azureml-core"
    assert [child["id"] for child in ours["children"]] == said["children"] == [said["child"]]


def test_it_archives_and_deletes_experiments(wrote: Heard) -> None:
    assert wrote.said["experiments"] == [EXPERIMENT, "other"]
    assert wrote.lab.azure.state.experiments["archived"].archived is not None
    assert "deleted" not in wrote.lab.azure.state.experiments


def test_himl_shows_the_metrics_that_it_logged(wrote: Heard) -> None:
    assert wrote.said["metrics"] == {"loss": LOSS, "sizes": [1, 2, 3], "row": {"a": 1, "b": 2.5}, "word": "yes"}
    shown = wrote.json("runs", "show", "--run", wrote.said["id"])["metrics"]
    ours = {metric["name"]: (metric["value"], metric["count"]) for metric in shown if metric["run"] == wrote.said["id"]}
    assert ours["loss"] == (0.25, 3)
    assert ours["sizes"] == (3, 3)


def test_himl_downloads_the_files_that_it_uploaded(wrote: Heard, project: Path) -> None:
    wrote.downloads("--run", wrote.said["id"], "--output_dir", project / "out")
    content = b"\x00\x01" * 5000
    ours = digests_below(project / "out" / wrote.said["id"])
    assert ours == digests({"outputs/model.bin": content, "outputs/folder/model.bin": content})
    assert wrote.said["files"] == sorted(ours)


def test_what_it_moves_through_a_datastore_is_there_for_himl(wrote: Heard, project: Path) -> None:
    assert wrote.said["moved"] == digests({"from/core/sub/a.txt": b"a"})
    store = wrote.lab.azure
    assert store.blob_names("workspaceblobstore", "from/") == ["from/core/sub/a.txt"]
    done = wrote.himl("datastore", "download", "from/core/", project / "data", env=store.environment())
    assert done.code == 0, done.stderr
    assert digests_below(project / "data") == wrote.said["moved"]


def test_azureml_core_in_job_finds_run_and_logs_with_run_token(visit: Visit, himl: Himl, project: Path) -> None:
    inside = Heard(*visit(AZUREML_CORE, "azureml_core_job", RUNNING), himl)
    inside.lab.azure.write_config(project)
    assert inside.said == {"id": RUNNING, "experiment": EXPERIMENT, "status": "Running"}
    ours = inside.json("runs", "show", "--run", RUNNING)
    assert ours["tags"] == {"kind": "best", "by": "azureml-core"}
    assert [(metric["name"], metric["value"]) for metric in ours["metrics"]] == [("inside", 1.0)]
