"""azureml-core and its HyperDrive, unmodified, read from and write to the double, submit jobs and sweeps that run in
it, and agree with `himl`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from himl_cli import get_workspace
from tests.azure import lab as world
from tests.azure.conftest import Hear
from tests.azure.lab import Heard, Lab, Visits, digests, fill, inside, ready, run_pipeline, visit
from tests.azureml_double.stage import Stage
from tests.support.client_calls import variables_of_machine
from tests.support.clients import AZUREML_CORE, HIML_V1
from tests.support.running import PROGRAM, Himl, write_files

# The first use of a client builds its environment.
pytestmark = pytest.mark.timeout(1800)
RECORDED = """
import pathlib
from himl_cli import RUN_CONTEXT as run
for step, loss in enumerate((1.0, 0.5, 0.25)):
    run.log("loss", loss, step=step)
run.log("once", 3)
run.log_table("table", {"epoch": [1, 2], "accuracy": [0.7, 0.8]})
pathlib.Path("outputs/model.bin").write_text("weights")
print("trained")
"""
RECORD = (
    "submit",
    "train.py",
    "--record_in",
    "azure",
    "--experiment",
    world.EXPERIMENT,
    "--display_name",
    "by himl",
    "--tag",
    "team=blue",
    "-q",
)


def made_by_himl(lab: Lab, folder: Path, files: dict[str, str], *arguments: str) -> str:
    """The id of the run that `himl` recorded in a project with *files*."""
    folder.mkdir()
    write_files(folder, files)
    lab.azure.write_config(folder)
    himl = Himl(PROGRAM, folder)
    return himl.ok(*arguments, env={**variables_of_machine(folder / "home"), **lab.azure.environment()}).stdout.strip()


@pytest.fixture(scope="module")
def visits(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visits]:
    shared_stage.clear()
    folder = tmp_path_factory.mktemp("azureml_core")
    with shared_stage.own_workspaces():
        labs = {name: fill(shared_stage.workspace()) for name in ("read", "write")}
        labs["in_job"] = replace(fill(shared_stage.workspace()), job=world.RUNNING)
        labs["submit"] = ready(shared_stage.workspace())
        labs["metrics"] = world.add_odd_metrics(shared_stage.workspace())
        labs["pipeline"] = run_pipeline(shared_stage.workspace(), folder / "piped")
        labs["written"] = world.written_by_himl(shared_stage.workspace(), folder / "logged")
        recorded = Lab(shared_stage.workspace(), function="written")
        labs["recorded"] = replace(
            recorded, variables={"LAB_RUN": made_by_himl(recorded, folder / "trained", {"train.py": RECORDED}, *RECORD)}
        )
        pushed = Lab(shared_stage.workspace())
        pushed.azure.put_artifact(pushed.azure.add_run("train_1_aa", "train"), "outputs/checkpoints/last.ckpt", b"old")
        files = {"new/last.ckpt": "new", "new/part/weights.pt": "weights"}
        run_id = made_by_himl(
            pushed, folder / "changed", files, "checkpoint", "push", "new", "--from", "train_1_aa", "--tag", "team=blue"
        )
        labs["pushed"] = replace(pushed, variables={"LAB_RUN": run_id})
        drives = {
            "hyperdrive_submit": ready(shared_stage.workspace()),
            "hyperdrive_swept": world.add_swept(shared_stage.workspace()),
        }
        yield visit(shared_stage, AZUREML_CORE, labs, folder) | visit(shared_stage, HIML_V1, drives, folder)


def test_it_reads_workspace_runs_metrics_and_files_as_himl(hear: Hear) -> None:
    read = hear("read")
    said, state = read.said, read.azure.state
    assert said["workspace"] == {"id": state.path, "location": "eastus"}
    assert (said["experiments"], said["experiment"]) == ([world.EXPERIMENT, "other"], world.EXPERIMENT)
    assert said["datastores"] == sorted(state.datastores)
    assert said["default"] == read.json("workspace", "show")[0]["facts"]["default_datastore"]
    assert said["container"] == state.default_datastore.container

    def ids(*options: str) -> list[str]:
        return [run["id"] for run in read.json("runs", "list", "--experiment", world.EXPERIMENT, *options)]

    listed = read.json("runs", "list", "--experiment", world.EXPERIMENT)
    assert read.said["runs"] == [
        {"id": run["id"], "status": run["status"], "tags": run["tags"], "name": run["display_name"]} for run in listed
    ]
    assert [run["id"] for run in listed] == list(world.ROOTS)
    assert read.said["tagged"] == ids("--tags", "kind=best") == [world.ROOTS[0], world.BEST]
    assert read.said["failed"] == ids("--status", "Failed") == [world.FAILED]
    assert (read.said["has_tag"], read.said["by_property"], read.said["hyperdrive"]) == (
        [world.BEST],
        [world.SWEEP],
        [world.SWEEP],
    )
    assert read.said["children"] == read.said["tree"] == list(world.TRIALS)
    assert sorted(child["id"] for child in read.json("runs", "show", "--run", world.SWEEP)["children"]) == list(
        world.TRIALS
    )
    assert read.said["with_children"] == sorted([*world.ROOTS, *world.TRIALS])
    assert read.said["metrics"] == {
        world.BEST: {"loss": world.LOSS, "val/dice": 0.75},
        world.TRIALS[0]: {"accuracy": 0.5},
        world.TRIALS[1]: {"accuracy": 0.6},
    }
    ours = {
        metric["name"]: (metric["value"], metric["count"])
        for metric in read.json("runs", "show", "--run", world.BEST)["metrics"]
    }
    assert ours == {"loss": (world.LOSS[-1], len(world.LOSS)), "val/dice": (0.75, 1)}
    files = read.downloads(world.BEST)
    assert files == digests(world.FILES)
    assert read.said["files"] == sorted(files)
    assert read.said["all"] == {name: digest for name, digest in files.items() if name.startswith("outputs/")}
    assert read.said["one"] == {"model.bin": files["outputs/model.bin"]}
    assert read.said["details"] == [world.BEST, "Completed", "cpu-cluster"]
    assert read.said["logs"] == ["system_logs/lifecycler/lifecycler.log", "user_logs/std_log.txt"]


def test_himl_shows_the_run_that_it_wrote_and_files_it_moved(hear: Hear, project: Path) -> None:
    wrote = hear("write")
    said = wrote.said
    ours = wrote.json("runs", "show", "--run", said["id"])
    assert (ours["status"], ours["display_name"], ours["experiment"]) == (said["status"], "written", "by_hand")
    assert ours["tags"] == said["tags"] == {"kind": "by hand", "note": "a b"}
    assert said["properties"]["origin"] == "azureml-core"
    assert [child["id"] for child in ours["children"]] == said["children"] == [said["child"]]
    assert said["metrics"] == {"loss": world.LOSS, "sizes": [1, 2, 3], "row": {"a": 1, "b": 2.5}, "word": "yes"}
    metrics = {
        metric["name"]: (metric["value"], metric["count"]) for metric in ours["metrics"] if metric["run"] == said["id"]
    }
    assert (metrics["loss"], metrics["sizes"]) == ((0.25, 3), (3, 3))
    files, content = wrote.downloads(said["id"]), b"\x00\x01" * 5000
    assert files == digests({"outputs/model.bin": content, "outputs/folder/model.bin": content})
    assert said["files"] == sorted(files)
    experiments = wrote.azure.state.experiments
    assert wrote.said["experiments"] == [world.EXPERIMENT, "other"]
    assert (experiments["archived"].archived is not None, "deleted" in experiments) == (True, False)
    assert wrote.said["moved"] == digests({"from/core/sub/a.txt": b"a"})
    assert wrote.azure.blob_names("workspaceblobstore", "from/") == ["from/core/sub/a.txt"]
    wrote.himl.ok("datastore", "download", "from/core/", project / "data", env=wrote.azure.environment())
    assert (project / "data" / "from" / "core" / "sub" / "a.txt").read_bytes() == b"a"


def test_its_jobs_run_once_sent_and_log_with_their_token(hear: Hear) -> None:
    inner = hear("in_job")
    assert inner.said == {"id": world.RUNNING, "experiment": world.EXPERIMENT, "status": "Running"}
    ours = inner.json("runs", "show", "--run", world.RUNNING)
    assert ours["tags"] == {"kind": "best", "by": "azureml-core"}
    assert [(metric["name"], metric["value"]) for metric in ours["metrics"]] == [("inside", 1.0)]
    sent = hear("submit")
    said, azure = sent.said, sent.azure
    assert [(run["status"], run["tags"]["from"]) for run in said["runs"]] == [("Completed", "core")] * 2
    assert said["log"] == "trained well\n"
    assert azure.get_blob("workspaceblobstore", "sent/by/core/made.txt") == b"made"
    assert list(azure.state.assets["data"]["made_by_core"]) == ["1", "2"]
    assert len(set(said["snapshots"])) == len(azure.state.snapshots) == 1
    assert said["wheels"][0] == said["wheels"][1]
    assert azure.state.storage.get("azureml", said["wheels"][0].partition("/azureml/")[2])[:2] == b"PK"


def test_it_reads_and_runs_sweeps_by_hyperdrive(hear: Hear) -> None:
    driven = hear("hyperdrive_swept").said
    assert driven["values"] == {trial: {"lr": rate} for trial, rate in zip(world.SWEPT, world.RATES, strict=True)}
    assert driven["best"] == world.SWEPT[2]
    assert driven["ordered"] == [
        [world.SWEPT[2], 0.875, "Failed"],
        [world.SWEPT[1], 0.75, "Completed"],
        [world.SWEPT[0], 0.5, "Completed"],
    ]
    assert driven["metrics"][world.SWEPT[0]] == {"accuracy": [0.25, 0.5], "loss": 1.0}
    sent = hear("hyperdrive_submit")
    sweep, canceled = sent.said["ids"]
    assert (sent.said["statuses"], canceled, sent.said["from"]) == (["Completed", "Canceled"], "chosen", "hyperdrive")
    points = [{"--kernel": kernel, "C": c} for kernel in ("linear", "a 'b'") for c in (1, 0.5)]
    assert sent.said["values"] == {f"{sweep}_{index}": point for index, point in enumerate(points)}
    logs = {run_id: sent.azure.artifacts(run_id)["user_logs/std_log.txt"].decode() for run_id in sent.said["values"]}
    assert logs == {
        key: f"trained --fixed a b --kernel {point['--kernel']} --C {point['C']} {key}\n"
        for key, point in sent.said["values"].items()
    }


def test_it_reads_pipelines_pushed_checkpoints_and_recorded_runs(hear: Hear, visits: Visits) -> None:
    piped, run_id = hear("pipeline"), visits["pipeline"][0].variables["LAB_PIPELINE"]
    said, runs = piped.said, piped.azure.state.runs
    assert (said["run"]["status"], said["run"]["type"], said["run"]["name"]) == (
        "Completed",
        "azureml.PipelineRun",
        "both",
    )
    assert {name: step["id"] for name, step in said["steps"].items()} == {
        runs[child].display_name: child for child in runs[run_id].children
    }
    assert {(step["type"], step["parent"], step["status"]) for step in said["steps"].values()} == {
        ("azureml.StepRun", run_id, "Completed")
    }
    assert said["details"] == dict.fromkeys(("step1 makes", "step2 reads"), run_id)
    assert all("user_logs/std_log.txt" in step["files"] for step in said["steps"].values())
    said = hear("pushed").said
    assert (said["status"], said["name"], said["experiment"]) == (
        "Completed",
        "changed checkpoints of train_1_aa",
        "train",
    )
    assert said["tags"].items() >= {"himl.checkpoint_from": "train_1_aa", "team": "blue"}.items()
    assert said["names"] == ["outputs/checkpoints/last.ckpt", "outputs/checkpoints/part/weights.pt"]
    assert said["files"] == {"outputs/checkpoints/last.ckpt": "new", "outputs/checkpoints/part/weights.pt": "weights"}
    said = hear("recorded").said
    read, recorded = said["himl"]["by himl"], visits["recorded"][0].variables["LAB_RUN"]
    assert (read["id"], read["status"], read["error"], read["tags"]["team"], said["model"]) == (
        recorded,
        "Completed",
        None,
        "blue",
        "weights",
    )
    assert read["metrics"] == {
        "loss": [1.0, 0.5, 0.25],
        "once": 3.0,
        "table/epoch": [1.0, 2.0],
        "table/accuracy": [0.7, 0.8],
    }
    assert read["files"] == ["logged/table.jsonl", "outputs/model.bin", "user_logs/std_log.txt"]


def test_it_reads_of_himl_what_it_would_have_written(hear: Hear, visits: Visits, tmp_path: Path) -> None:
    heard, ours_of_himl = hear("written"), json.loads(visits["written"][0].variables["BY_HIML"])
    said = heard.said
    ours, theirs = said["himl"]["by himl"], said["core"]
    (image,) = [name for name in ours["files"] if name.startswith("curve_")]
    assert ours["metrics"].pop("curve") == f"aml://artifactId/ExperimentRun/dcid.{ours_of_himl['id']}/{image}"
    assert theirs["metrics"].pop("curve").startswith(f"aml://artifactId/ExperimentRun/dcid.{theirs['id']}/curve_")
    assert ours["metrics"] == theirs["metrics"]
    assert typed(ours["metrics"]) == typed(theirs["metrics"])
    assert len(ours["metrics"]) == 11
    assert as_himl_names(theirs["metrics"]) == ours_of_himl["metrics"]
    with inside(heard.azure, tmp_path / "in"):
        assert get_workspace().get_run(theirs["id"]).get_metrics() == ours_of_himl["metrics"]
    assert (ours["id"], ours["status"], ours["error"], said["model"]) == (
        ours_of_himl["id"],
        "Completed",
        None,
        "weights",
    )
    assert ours["files"] == sorted([image, "outputs/model.bin"])
    assert ours["tags"] == ours_of_himl["tags"]
    failed = said["himl"]["failed"]
    assert (failed["status"], failed["error"]) == (theirs["status"], theirs["error"]) == ("Failed", "no memory left")


def as_himl_names(metrics: dict[str, Any]) -> dict[str, Any]:
    """Name the results of azureml-core's `get_metrics` as himl does: each column of a table has a separate name."""
    columns = {
        f"{name}/{column}": content
        for name, value in metrics.items()
        if isinstance(value, dict)
        for column, content in value.items()
    }
    return columns | {name: value for name, value in metrics.items() if not isinstance(value, dict)}


def typed(value: Any) -> Any:
    """Add types to *value*, since 1, 1.0 and True are equal."""
    if isinstance(value, dict):
        return {name: typed(item) for name, item in value.items()}
    return [typed(item) for item in value] if isinstance(value, list) else type(value).__name__


def children_of(heard: Heard) -> dict[str, Any]:
    return {child["id"]: child for child in heard.json("runs", "aggregate", world.SWEEP)["children"]}


def test_himl_aggregates_what_it_reads_of_the_trials(hear: Hear) -> None:
    heard = hear("metrics")
    theirs, ours = heard.said, children_of(heard)
    first, mine = theirs[f"{world.SWEEP}_0"], ours[f"{world.SWEEP}_0"]
    assert {*first} == {*mine["series"], *mine["texts"], *mine["tables"], *mine["images"], *mine["lists"]}
    assert first["fruit"] == {"size": [3.5, 1.0], "count": [2.0, 4.0]}
    assert mine["tables"]["fruit"] == [{"size": 3.5, "count": 2.0}, {"size": 1.0, "count": 4.0}]
    assert (first["word"], mine["texts"]["word"][0]["value"]) == ("yes", "yes")
    assert first["plot"].endswith(f"/{mine['images']['plot'][0]}")
    for name, series in mine["series"].items():
        expected = first[name] if isinstance(first[name], list) else [first[name]]
        assert sorted(repr(float(one)) for one in series["values"]) == sorted(repr(float(one)) for one in expected), (
            name
        )
    for number in (1, 2, 3):
        assert {*theirs[f"{world.SWEEP}_{number}"]} == {*ours[f"{world.SWEEP}_{number}"]["last"]}
    assert heard.azure.requests(f"{heard.azure.state.name}.*get-history-bulk.* 404")
    heard.azure.state.bulk_history = True
    assert children_of(heard) == ours
    assert heard.azure.requests(f"{heard.azure.state.name}.*get-history-bulk.* 200")
