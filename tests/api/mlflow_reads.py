"""Calls of MLflow's client on a workspace of himl.

Each function runs in its own process, with the oldest and the newest MLflow.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

TRAINED, FAILED, OTHER, SWEEP = "train_1_aa", "train_2_bb", "other_3_cc", "hunt_4_dd"
TRIALS = [f"{SWEEP}_0", f"{SWEEP}_1"]
LOSS = [1.0, math.inf, 0.5]
FILES = {
    "outputs/model.bin": b"m" * 10,
    "outputs/odd names/grün 50%41.txt": "größer\n".encode(),
    "outputs/odd names/no. #1?.txt": b"1",
}
FILES |= {"user_logs/std_log.txt": b"hello\n"}


def error_of(call: Any, *arguments: Any, **options: Any) -> tuple[str, str]:
    """Return the code and the message of the error that the call raises."""
    try:
        call(*arguments, **options)
    except MlflowException as error:
        return str(error.error_code), str(error.message)
    raise AssertionError(f"{call.__name__} raised nothing")


def client_of(uri: str) -> MlflowClient:
    mlflow.set_tracking_uri(uri)
    return MlflowClient()


def search(uri: str) -> str:
    """Search experiments and runs by every kind of filter that MLflow has, with orders and pages."""
    client = client_of(uri)
    numbers = {each.name: each.experiment_id for each in client.search_experiments()}
    assert set(numbers) == {"train", "other", "tuning"}, numbers
    assert [
        each.name for each in client.search_experiments(filter_string="name LIKE 't%'", order_by=["name DESC"])
    ] == ["tuning", "train"]
    assert len(client.search_experiments(max_results=None)) == 3
    first = client.search_experiments(max_results=2, order_by=["name"])
    assert [
        each.name for each in client.search_experiments(max_results=2, order_by=["name"], page_token=first.token)
    ] == ["tuning"]
    assert client.search_experiments(view_type=ViewType.DELETED_ONLY) == []
    assert (client.get_experiment(numbers["other"]).name, client.get_experiment_by_name("none")) == ("other", None)
    every = [*numbers.values()]

    def ids(text: str = "", *order: str, **options: Any) -> list[str]:
        return [run.info.run_id for run in client.search_runs(every, text, order_by=[*order], **options)]

    assert (
        ids()
        == ids("", "start_time DESC")
        == ids(max_results=None)
        == [*reversed(TRIALS), SWEEP, OTHER, FAILED, TRAINED]
    ), "the newest first"
    for text, found in (
        ("metrics.loss < 0.9", [TRAINED]),
        ("metrics.`val/dice` >= 0.5", [TRIALS[1]]),
        ("params.lr = '0.1' and tags.team = 'blue'", [TRAINED]),
        ("tags.team != 'blue' and tags.team LIKE '%e%'", [FAILED]),
        ("attributes.status = 'FAILED'", [FAILED]),
        ("attributes.run_name ILIKE 'FIR%'", [TRAINED]),
        (f"tags.`mlflow.parentRunId` = '{SWEEP}'", [*reversed(TRIALS)]),
        (f"attributes.run_id IN ('{OTHER}', 'nope')", [OTHER]),
        ("metrics.loss > 7", []),
    ):
        assert ids(text) == found, text
    assert ids(f"tags.`mlflow.parentRunId` = '{SWEEP}'", "metrics.`val/dice` ASC") == TRIALS
    assert ids("tags.team LIKE '%'", "params.lr DESC", "start_time ASC") == [TRAINED, FAILED, OTHER]
    assert ids(run_view_type=ViewType.DELETED_ONLY) == []
    page = client.search_runs(every, max_results=4)
    assert ([*ids(max_results=4)], ids(max_results=4, page_token=page.token)) == ([*ids()[:4]], ids()[4:])
    assert error_of(ids, "metrics.loss ~ 1")[0] == "INVALID_PARAMETER_VALUE"
    for call in (ids, client.search_experiments):
        assert error_of(call, max_results=0)[1] == "'max_results' must be a positive integer, not 0."
    table = mlflow.search_runs(experiment_names=["train"], filter_string="metrics.loss < 0.9")
    assert (table["run_id"].tolist(), table["metrics.loss"].tolist()) == ([TRAINED], [0.5])
    return str(mlflow.__version__)


def read_runs(uri: str) -> None:
    client = client_of(uri)
    run = client.get_run(TRAINED)
    assert (run.info.run_name, run.info.status, run.info.lifecycle_stage) == ("first", "FINISHED", "active")
    assert run.info.end_time - run.info.start_time == 65_000
    assert (run.data.metrics, run.data.params) == ({"loss": 0.5, "acc": 0.75}, {"lr": "0.1", "note": "größer"})
    assert (run.data.tags["team"], "himl.reason" in run.data.tags) == ("blue", False)
    assert [(point.step, point.value) for point in client.get_metric_history(TRAINED, "loss")] == [
        (1, 1.0),
        (2, math.inf),
        (3, 0.5),
    ]
    assert client.get_metric_history(TRAINED, "none") == []
    times = [point.timestamp for point in client.get_metric_history(TRAINED, "loss")]
    assert times == sorted(times)
    assert run.info.start_time <= times[0] <= times[-1] <= run.info.end_time
    failed = client.get_run(FAILED)
    assert (failed.info.status, failed.data.tags["himl.reason"], failed.data.metrics) == ("FAILED", "exit code 3", {})
    sweep, trial = client.get_run(SWEEP), client.get_run(TRIALS[0])
    assert (sweep.data.metrics, trial.data.metrics) == ({}, {"val/dice": 0.25}), "values of trials are not the sweep's"
    assert (sweep.data.tags.get("mlflow.parentRunId"), trial.data.tags["mlflow.parentRunId"]) == (None, SWEEP)
    code, text = error_of(client.get_run, "train_1_ab")
    assert (code, "No run 'train_1_ab'" in text, TRAINED in text) == ("RESOURCE_DOES_NOT_EXIST", True, True), text
    for call, arguments, words in (
        (client.get_run, ["train_1_ab"], "Run with id=train_1_ab not found"),
        (client.get_metric_history, ["nope", "loss"], "Run with id=nope not found"),
        (client.list_artifacts, ["nope"], "Run with id=nope not found"),
        (client.delete_tag, [TRAINED, "nope"], f"No tag with name: nope in run with id {TRAINED}"),
        (client.get_experiment, ["5"], "No Experiment with id=5 exists"),
        (client.get_logged_model, ["m-5"], "Logged model with ID 'm-5' not found"),
        (client.get_trace, ["tr-5"], "tr-5"),
        (client.get_registered_model, ["nope"], ""),
        (client.get_model_version, ["nope", "1"], ""),
    ):
        code, text = error_of(call, *arguments)
        assert (code, words in text) == ("RESOURCE_DOES_NOT_EXIST", True), (call, text)
    assert client.search_registered_models() == []


def read_files(uri: str) -> None:
    client = client_of(uri)
    assert [(each.path, each.is_dir, each.file_size) for each in client.list_artifacts(TRAINED)] == [
        ("outputs", True, None),
        ("user_logs", True, None),
    ]
    assert [(each.path, each.is_dir, each.file_size) for each in client.list_artifacts(TRAINED, "outputs")] == [
        ("outputs/model.bin", False, 10),
        ("outputs/odd names", True, None),
    ]
    assert (
        client.list_artifacts(TRAINED, "user_logs/std_log.txt")
        == client.list_artifacts(TRAINED, "none")
        == client.list_artifacts(OTHER)
        == []
    )
    Path("to").mkdir()
    for name, content in FILES.items():
        # MLflow cuts off the rest of such names, in any kind of workspace.
        if "#" in name:
            continue
        assert Path(client.download_artifacts(TRAINED, name, "to")).read_bytes() == content, name
    whole = Path(mlflow.artifacts.download_artifacts(f"runs:/{TRAINED}/", dst_path="whole"))
    assert {
        path.relative_to(whole).as_posix(): path.read_bytes() for path in whole.rglob("*") if path.is_file()
    } == FILES
    part = Path(mlflow.artifacts.download_artifacts(f"runs:/{TRAINED}/outputs/odd names", dst_path="part"))
    assert sorted(path.name for path in part.iterdir()) == ["grün 50%41.txt", "no. #1?.txt"]
    assert mlflow.artifacts.load_text(f"runs:/{TRAINED}/user_logs/std_log.txt") == "hello\n"
    source = client.get_run(TRAINED).info.artifact_uri.replace("?", "/outputs?")
    assert sorted(
        path.name for path in Path(mlflow.artifacts.download_artifacts(source, dst_path="odd")).rglob("*.*")
    ) == [
        "grün 50%41.txt",
        "model.bin",
        "no. #1?.txt",
    ]
    code, text = error_of(client.download_artifacts, TRAINED, "outputs/none.bin")
    assert (code, "none.bin" in text) == ("RESOURCE_DOES_NOT_EXIST", True), text


def state(client: MlflowClient) -> Any:
    """Return all experiments, runs and files."""
    experiments = client.search_experiments()
    runs = client.search_runs([each.experiment_id for each in experiments])
    return (
        [dict(each) for each in experiments],
        [run.to_dictionary() for run in runs],
        [client.list_artifacts(run.info.run_id) for run in runs],
    )


def refuse(uri: str) -> None:
    """All calls that write are refused with himl's message, and change nothing."""
    client = client_of(uri)
    before = state(client)
    number = client.get_experiment_by_name("train").experiment_id
    Path("model.txt").write_text("x")
    for call, *arguments in (
        (mlflow.start_run,),
        (mlflow.set_experiment, "new"),
        (client.create_run, number),
        (client.log_metric, TRAINED, "loss", 9.0),
        (client.log_batch, TRAINED, [Metric("loss", 9.0, 1, 1)], [Param("lr", "9")], [RunTag("team", "green")]),
        (client.log_param, TRAINED, "new", 1),
        (client.log_inputs, TRAINED, []),
        (client.log_artifact, TRAINED, "model.txt"),
        (client.log_artifacts, TRAINED, "."),
        (client.log_text, TRAINED, "x", "outputs/x.txt"),
        (client.set_terminated, FAILED, "FINISHED"),
        (client.update_run, TRAINED, "FAILED"),
        (client.restore_run, TRAINED),
        (client.set_tag, TRAINED, "mlflow.parentRunId", SWEEP),
        (client.delete_tag, TRAINED, "mlflow.runName"),
        (client.delete_tag, TRIALS[0], "mlflow.parentRunId"),
        (client.create_experiment, "new"),
        (client.delete_experiment, number),
        (client.restore_experiment, number),
        (client.rename_experiment, number, "new"),
        (client.set_experiment_tag, number, "a", "b"),
        (client.create_registered_model, "new"),
        (client.create_model_version, "new", f"runs:/{TRAINED}/outputs"),
        (mlflow.register_model, f"runs:/{TRAINED}/outputs", "new"),
    ):
        code, text = error_of(call, *arguments)
        assert (code, "MLflow cannot " in text, "they are read-only in MLflow" in text) == (
            "PERMISSION_DENIED",
            True,
            True,
        ), (call, code, text)
    assert state(client) == before


def change_tags(uri: str) -> None:
    client = client_of(uri)
    client.set_tag(TRAINED, "team", "green ü")
    client.set_tag(TRAINED, "mlflow.note.content", "**good**")
    client.set_tag(FAILED, "gone", "soon")
    client.delete_tag(FAILED, "gone")
    client.log_batch(FAILED, tags=[RunTag("a", "1"), RunTag("b", "2")])
    tags = {
        run.info.run_id: run.data.tags
        for run in client.search_runs([client.get_experiment_by_name("train").experiment_id])
    }
    assert (tags[TRAINED]["team"], tags[TRAINED]["mlflow.note.content"]) == ("green ü", "**good**")
    assert {"a": "1", "b": "2", "team": "red"}.items() <= tags[FAILED].items()
    assert "gone" not in tags[FAILED]
    assert error_of(client.set_tag, "nope", "a", "b")[0] == "RESOURCE_DOES_NOT_EXIST"
    renames = (client.set_tag, [TRAINED, "mlflow.runName", "größer"]), (client.update_run, [TRAINED, None, "last"])
    for call, arguments in renames:
        call(*arguments)
        run = client.get_run(TRAINED)
        assert {run.info.run_name, run.data.tags["mlflow.runName"]} == {arguments[-1]}, "the name of the record"
    for name in ("b", ""):
        assert error_of(client.set_tag, "nope", "mlflow.runName", name)[0] == "RESOURCE_DOES_NOT_EXIST"


def delete(uri: str, is_local: str) -> None:
    """Deleting a sweep deletes its trials, which may also be deleted explicitly. Runs in Azure ML are not deleted."""
    client = client_of(uri)
    before = state(client)
    if not is_local:
        code, text = error_of(client.delete_run, SWEEP)
        assert (code, f"Run '{SWEEP}' is in " in text, f"himl runs delete {SWEEP}" in text) == (
            "PERMISSION_DENIED",
            True,
            True,
        ), text
        assert state(client) == before
        return
    with ThreadPoolExecutor() as pool:
        list(pool.map(client.delete_run, (SWEEP, *TRIALS)))  # as MLflow's page does for all selected rows
    for trial in TRIALS:
        # MLflow's page requests the run afterwards.
        assert client.get_run(trial).info.lifecycle_stage == "deleted"
    assert {path.name for path in Path(".himl/runs").iterdir()} == {TRAINED, FAILED, OTHER}
    assert error_of(client.delete_run, "nope")[0] == "RESOURCE_DOES_NOT_EXIST"
    assert [run["info"]["run_id"] for run in state(client)[1]] == [
        run["info"]["run_id"] for run in before[1] if SWEEP not in run["info"]["run_id"]
    ]


def open_places(places: Mapping[str, list[str]]) -> None:
    """Check which runs each URI shows."""
    for uri, expected in places.items():
        client = client_of(uri)
        found = [
            run.info.run_id for run in client.search_runs([each.experiment_id for each in client.search_experiments()])
        ]
        assert sorted(found) == sorted(expected), uri
        if expected:
            assert (
                mlflow.artifacts.load_text(
                    f"runs:/{TRAINED if TRAINED in expected else expected[0]}/user_logs/std_log.txt"
                )
                == "hello\n"
            ), uri


def miss_places(wrong: Mapping[str, tuple[str, str]]) -> None:
    """Check the code and the message of the error for each URI without a workspace."""
    for uri, (code, part) in wrong.items():
        found, text = error_of(client_of, uri)
        assert (found, part in text) == (code, True), (uri, found, text)


def load_models(uri: str) -> None:
    """Load the models that a job registered by versions and aliases, and their files."""
    # This import warns, so that no test module may import it.
    import mlflow.pyfunc

    client = client_of(uri)
    (model,) = client.search_registered_models()
    assert (model.name, dict(model.aliases), [int(each.version) for each in model.latest_versions]) == (
        "doubles",
        {"best": "1"},
        [2],
    )
    versions = {int(each.version): each for each in client.search_model_versions("name = 'doubles'")}
    assert set(versions) == {1, 2}
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert {each.run_id for each in versions.values()} == {run.info.run_id}
    assert client.get_model_version_by_alias("doubles", "best").tags == {"kind": "first"}
    assert client.search_registered_models("name = 'none'") == []
    assert error_of(client.get_registered_model, "none")[0] == "RESOURCE_DOES_NOT_EXIST"
    for source in ("models:/doubles/1", "models:/doubles@best", "models:/doubles/2", f"runs:/{run.info.run_id}/model"):
        assert mlflow.pyfunc.load_model(source).predict([1, 2]) == [2, 4], source
        sys.modules.pop("doubling", None)
    assert "MLmodel" in {path.name for path in Path(mlflow.artifacts.download_artifacts("models:/doubles/2")).iterdir()}
    found = mlflow.search_logged_models(experiment_ids=[run.info.experiment_id], output_format="list")
    assert sorted(each.name for each in found) == ["model"], found
    nameless = error_of(client.search_logged_models, [run.info.experiment_id], datasets=[{"dataset_digest": "d"}])
    assert nameless == ("INVALID_PARAMETER_VALUE", "Each of 'datasets' must have a 'dataset_name'.")
    assert [each.model_id for each in run.outputs.model_outputs] == [found[0].model_id]
    (alike,) = client_of(f"{uri}/").search_runs([run.info.experiment_id])  # the first call of a store
    assert alike.info.run_id == run.info.run_id
    client_of(uri)
    assert mlflow.pyfunc.load_model(f"models:/{found[0].model_id}").predict([3]) == [6]
    alias = (client.set_registered_model_alias, "doubles", "new", "1")
    for call, *arguments in (
        alias,
        (client.delete_model_version, "doubles", "1"),
        (client.delete_registered_model, "doubles"),
    ):
        code, text = error_of(call, *arguments)
        assert (code, text.startswith("MLflow cannot "), [each.name for each in client.search_registered_models()]) == (
            "PERMISSION_DENIED",
            True,
            ["doubles"],
        ), text
