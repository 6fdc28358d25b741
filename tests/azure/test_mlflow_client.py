"""MLflow's client with azureml-mlflow, unmodified, reads from and logs to the double, and agrees with `himl`. Also
filters and pages of runs, and the table of routes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from docs.tools.route_table import all_routes, documented
from tests.azure import lab as world
from tests.azure.conftest import Hear
from tests.azure.lab import Visits, digests, fill, visit
from tests.azureml_double.frame import ServiceError
from tests.azureml_double.history_query import RunQuery, page_of
from tests.azureml_double.stage import Stage
from tests.azureml_double.state import Experiment, Run
from tests.support.clients import AZUREML_MLFLOW

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)
STATUSES = {
    "Running": "RUNNING",
    "Completed": "FINISHED",
    "Failed": "FAILED",
    "Canceled": "KILLED",
    "Queued": "SCHEDULED",
}


@pytest.fixture(scope="module")
def visits(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visits]:
    shared_stage.clear()
    folder = tmp_path_factory.mktemp("mlflow")
    with shared_stage.own_workspaces():
        labs = {name: fill(shared_stage.workspace()) for name in ("read", "write")}
        labs["in_job"] = replace(fill(shared_stage.workspace()), job=world.RUNNING)
        labs["swept"] = world.add_swept(shared_stage.workspace())
        labs["written"] = world.written_by_himl(shared_stage.workspace(), folder / "logged")
        yield visit(shared_stage, AZUREML_MLFLOW, labs, folder)


def test_it_reads_runs_curves_and_files_as_himl(hear: Hear) -> None:
    read = hear("read")
    theirs = {run["id"]: (run["status"], run["name"], run["tags"]) for run in read.said["runs"]}
    listed = read.json("runs", "list", "--experiment", world.EXPERIMENT)
    assert (
        [run["id"] for run in listed]
        == [run["id"] for run in read.said["runs"] if run["id"] not in world.TRIALS]
        == list(world.ROOTS)
    )
    assert {
        run["id"]: (STATUSES[run["status"]], run["display_name"], run["tags"]) for run in listed
    }.items() <= theirs.items()
    assert set(theirs) == {*world.ROOTS, *world.TRIALS}
    assert read.said["tagged"] == [run["id"] for run in listed if run["tags"].get("kind") == "best"]
    assert (read.said["by_metric"], read.said["by_status"]) == (list(reversed(world.TRIALS)), [world.FAILED])
    assert (read.said["children"], read.said["two"]) == (list(world.TRIALS), [world.BEST, world.FAILED])
    ours, best = read.json("runs", "show", "--run", world.BEST), read.said["run"]
    assert (best["id"], best["status"], best["name"]) == (ours["id"], "FINISHED", ours["display_name"])
    assert (best["tags"], best["params"]) == (ours["tags"], ours["parameters"])
    assert (
        best["metrics"]
        == {metric["name"]: metric["value"] for metric in ours["metrics"]}
        == {"loss": world.LOSS[-1], "val/dice": 0.75}
    )
    assert (read.said["experiment"], read.said["experiments"]) == (ours["experiment"], [world.EXPERIMENT, "other"])
    assert read.said["loss"] == [[step, value] for step, value in enumerate(world.LOSS)]
    files = read.downloads(world.BEST)
    assert read.said["files"] == sorted(files) == sorted(world.FILES)
    assert read.said["downloaded"] == {
        name: digest for name, digest in files.items() if name.startswith(("outputs/", "odd names/"))
    }


def test_himl_shows_what_it_logged_and_made(hear: Hear) -> None:
    wrote = hear("write")
    ours = wrote.json("runs", "show", "--run", world.RUNNING)
    assert ours["tags"] == {"kind": "best", "by": "mlflow", "note": "größer"}
    assert (ours["status"], ours["parameters"]) == ("Running", {"lr": "0.1", "layers": "3"})
    assert [(metric["name"], metric["step"], metric["count"]) for metric in ours["metrics"]] == [("loss", 3, 4)]
    expected = {
        "outputs/model #1 ü.bin": b"\x00" * 100_000,
        "reports/deep/a.txt": b"deep\n",
        "user_logs/std_log.txt": b"epoch 0\n",
    }
    assert wrote.downloads(world.RUNNING) == digests(expected)
    ours = wrote.json("runs", "show", "--run", wrote.said["parent"])
    assert (ours["status"], ours["display_name"], ours["parameters"]) == ("Completed", "by mlflow", {"a": "1"})
    assert [(child["id"], child["status"], child["display_name"]) for child in ours["children"]] == [
        (wrote.said["nested"], "Completed", "nested")
    ]
    assert {(metric["name"], metric["value"], metric["step"]) for metric in ours["metrics"]} == {
        ("x", 1.5, 7),
        ("y", 2.0, 0),
    }
    assert list(wrote.downloads(wrote.said["nested"])) == ["config.json"]
    inner = hear("in_job")
    assert inner.said == world.RUNNING
    ours = inner.json("runs", "show", "--run", world.RUNNING)
    assert (ours["status"], ours["parameters"]) == ("Running", {"p": "1"})
    assert [(metric["name"], metric["value"]) for metric in ours["metrics"]] == [("inside", 2.0)]
    assert inner.downloads(world.RUNNING)["note.txt"] == digests({"": b"hello\n"})[""]


def test_it_reads_trials_and_what_himl_wrote(hear: Hear, visits: Visits) -> None:
    said = hear("swept").said
    assert [trial[0] for trial in said["trials"]] == [world.SWEPT[2], world.SWEPT[1], world.SWEPT[0]]
    assert said["trials"][1] == [world.SWEPT[1], {"lr": 0.25}, {"accuracy": 0.75, "loss": 0.5}, "FINISHED"]
    assert said["curves"][world.SWEPT[0]] == [[0, 0.25], [1, 0.5]]
    written, run_id = hear("written").said, json.loads(visits["written"][0].variables["BY_HIML"])["id"]
    assert (written["status"], written["loss"], written["params"]) == (
        "FINISHED",
        [[0, 1.0], [1, 0.5], [2, 0.25]],
        {"lr": "0.1"},
    )
    assert written["files"] == ["outputs/model.bin"]
    assert written["tags"]["run_recovery_id"] == f"{world.EXPERIMENT}:{run_id}"


MEANINGLESS = [
    *(
        "Status eq",
        "(Status eq Running",
        "Status eq Running)",
        "Colour eq red",
        'Tags/kind eq "a" b',
        "CreatedUtc gt yesterday",
        "contains(Status, 'x')",
    ),
]


def found_by(text: str | None, order: str = "CreatedUtc asc", token: str | None = None) -> int:
    begun = datetime(2026, 3, 1, tzinfo=timezone.utc)
    given = {
        "status": "Completed",
        "created": begun,
        "started": begun,
        "ended": None,
        "number": 1,
        "parent_id": None,
        "tags": {"kind": "best"},
    }
    run = Run(
        run_id="a",
        experiment=Experiment("lungs"),
        display_name="a",
        user_name="Ada",
        data_container_id="dcid.a",
        **given,  # type: ignore[arg-type]
    )
    return len(page_of([run], RunQuery(text, order, token=token), limit=10).runs)


def test_filters_and_orders_without_a_meaning_are_refused() -> None:
    """The clients, and himl at random in tests/workspaces/test_azure_run_lists.py, cover those with a meaning."""
    assert found_by(None) == found_by('Tags/kind eq "best"') == 1
    for text in MEANINGLESS:
        with pytest.raises(ServiceError, match="Invalid filter") as refused:
            found_by(text)
        assert refused.value.status == 400
    for order in ("Colour desc", "RunId down"):
        with pytest.raises(ServiceError, match="Invalid order"):
            found_by(None, order)
    with pytest.raises(ServiceError, match="continuation token"):
        found_by(None, token="%%%")


def test_document_lists_exactly_the_routes_of_the_double() -> None:
    lines = documented().splitlines()[2:]
    named = [re.sub(r"\\\|", "|", line).split(" | ")[0].removeprefix("| ") for line in lines]
    assert sorted(named) == sorted(all_routes()), "renew it: scripts/generate routes"
