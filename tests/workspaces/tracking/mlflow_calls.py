"""Calls of MLflow's client in training scripts. Each function runs in its own process, with any version of the
client.
"""

from __future__ import annotations

import math
import os
import sys
import time
from pathlib import Path
from typing import Any

# This module and the next three are imported late by MLflow. Here they load once, before the process is forked.
import git  # noqa: F401
import mlflow
import mlflow.pyfunc
import mlflow.tracking.request_header.registry
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

if "MLFLOW_IS_FULL" in os.environ:
    import mlflow.sklearn
    import numpy as np
    from mlflow.data.numpy_dataset import from_numpy
    from mlflow.models import infer_signature
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.model_selection import GridSearchCV
# The forked processes need not scan these objects again.


def code_of(call: Any, *arguments: Any) -> str:
    try:
        call(*arguments)
    except MlflowException as error:
        return str(error.error_code)
    return ""


def log_values() -> str:
    """Log with MLflow's plain functions, check the client's view of the values, and return the client's version."""
    client = MlflowClient()
    with mlflow.start_run() as run:
        for step, value in enumerate([0.5, math.nan, math.inf, -math.inf, 0.25]):
            mlflow.log_metric("loss", value, step=step)
        mlflow.log_metrics({"val/accuracy": 0.75, "f1": 1}, step=3)
        mlflow.log_param("rate", 0.1)
        mlflow.log_params({"layers": [3, 2], "note": "größer", "api_key": "sesame-open", "mask_token": "<mask>"})
        mlflow.set_tag("kind", "first")
        mlflow.set_tags({"owner": "ada", "gone": "soon"})
        mlflow.delete_tag("gone")
        mlflow.log_text("some words", "notes/read me.txt")
        mlflow.log_text("more words", "notes/#1.txt")
        mlflow.log_dict({"a": [1, 2]}, "config.json")
        Path("sent").mkdir()
        Path("sent/with space.txt").write_text("x")
        mlflow.log_artifact("sent/with space.txt")
        mlflow.log_artifacts("sent", artifact_path="folder/sub folder")
        seen, run_id = mlflow.get_run(run.info.run_id), run.info.run_id
        assert seen.info.run_id == os.environ["EXPECTED_RUN"], seen.info
        assert seen.data.metrics == {"loss": 0.25, "val/accuracy": 0.75, "f1": 1.0}, seen.data.metrics
        assert seen.data.params == {
            "rate": "0.1",
            "layers": "[3, 2]",
            "note": "größer",
            "api_key": "***",
            "mask_token": "<mask>",
        }, seen.data.params
        assert (seen.data.tags["kind"], "gone" in seen.data.tags) == ("first", False), seen.data.tags
        history = [point.value for point in client.get_metric_history(run_id, "loss")]
        assert (history[0], math.isnan(history[1]), history[2:]) == (0.5, True, [math.inf, -math.inf, 0.25]), history
        assert mlflow.artifacts.load_text(f"runs:/{run_id}/notes/read me.txt") == "some words"
        assert {entry.path for entry in client.list_artifacts(run_id)} == {
            "notes",
            "config.json",
            "with space.txt",
            "folder",
        }
    return str(mlflow.__version__)


def exit_with_three(how: str) -> None:
    """Fail without an exception. MLflow's exit hook still reports that the run has finished."""
    mlflow.start_run()
    # An equal value at the same time would count as a repeated request.
    mlflow.log_metric("loss", 2.0 if how else 1.0)
    if how == "hard":
        os._exit(3)
    sys.exit(3)


def nest_runs() -> None:
    client = MlflowClient()
    with mlflow.start_run(run_name="renamed") as parent:
        for number in range(2):
            with mlflow.start_run(run_name=f"fold {number}", nested=True):
                mlflow.log_metric("score", number / 10)
                if number == 0:
                    with mlflow.start_run(run_name="inner", nested=True):
                        mlflow.log_metric("deep", 1)
        with mlflow.start_run(run_name="mistake", nested=True) as mistake:
            mlflow.log_metric("score", 99)
        mlflow.delete_run(mistake.info.run_id)
        try:
            with mlflow.start_run(run_name="crashed", nested=True):
                raise KeyError("x")
        except KeyError:
            pass
    with mlflow.start_run(run_name="second") as second:
        mlflow.log_metric("after", 1)
    assert second.info.run_id != parent.info.run_id
    assert client.get_run(second.info.run_id).info.status == "FINISHED"
    with mlflow.start_run(run_id=second.info.run_id):
        mlflow.log_metric("after", 2)
        mlflow.log_text("x", "second.txt")
    client.set_terminated(client.create_run(parent.info.experiment_id, run_name="killed").info.run_id, "KILLED")
    mlflow.log_metric("implicit", 3)
    mlflow.end_run()


def name_experiments(how: str) -> None:
    if how == "set":
        mlflow.set_experiment("another name")
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
        assert run.info.run_id == os.environ["EXPECTED_RUN"], run.info
        name = "another name" if how == "set" else os.environ["MLFLOW_EXPERIMENT_NAME"]
        found = mlflow.get_experiment_by_name(name)
        assert found is not None
        assert run.info.experiment_id == found.experiment_id, run.info
        assert [each.info.run_id for each in MlflowClient().search_runs([found.experiment_id])] == [run.info.run_id]
        assert mlflow.get_experiment("0").name == "train"


def use_other_address() -> None:
    """Log to another address first: no variable names a run that only the job's server has."""
    own = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(os.environ["OTHER_ADDRESS"])
    with mlflow.start_run():
        mlflow.log_metric("elsewhere", 1.0)
    mlflow.set_tracking_uri(own)
    with mlflow.start_run() as run:
        mlflow.log_metric("loss", 1.0)
    assert run.info.run_id == os.environ["EXPECTED_RUN"]


def search_runs() -> None:
    with mlflow.start_run() as parent:
        for number in range(4):
            with mlflow.start_run(
                run_name=f"trial {number}", nested=True, tags={"kind": "even" if number % 2 == 0 else "odd"}
            ):
                mlflow.log_param("depth", number)
                mlflow.log_metric("val/loss", 1.0 - number / 10)

    def page(text: str, **options: Any) -> Any:
        return MlflowClient().search_runs([parent.info.experiment_id], text, **options)

    def names(text: str, **options: Any) -> list[str]:
        return [run.info.run_name for run in page(text, **options)]

    of_job = (
        f"tags.mlflow.parentRunId = '{parent.info.run_id}' and attributes.run_name LIKE 'trial%' and "
        "attributes.status = 'FINISHED'"
    )
    assert names("metrics.`val/loss` < 0.85 and params.depth != '1'", order_by=["metrics.`val/loss` ASC"]) == [
        "trial 3",
        "trial 2",
    ]
    assert names(of_job, order_by=["params.depth DESC"], max_results=2) == ["trial 3", "trial 2"]
    first = page("params.depth ILIKE '%'", order_by=["run_name"], max_results=3)
    assert (
        len(first),
        names("params.depth ILIKE '%'", order_by=["run_name"], max_results=3, page_token=first.token),
    ) == (3, ["trial 3"])
    assert code_of(names, "metrics.loss ~ 3") == "INVALID_PARAMETER_VALUE"


def log_async() -> None:
    mlflow.config.enable_async_logging()
    with mlflow.start_run():
        for step in range(100):
            mlflow.log_metric("loss", step / 100, step=step)
        mlflow.log_param("rate", 0.1)
        mlflow.set_tag("kind", "async")
    mlflow.flush_async_logging()


def own_client() -> None:
    """Use a logger with its own client, as Lightning does: it creates its experiment and a run, and ends the run."""
    client = MlflowClient()
    assert client.get_experiment_by_name("lightning_logs") is None
    experiment_id = client.create_experiment("lightning_logs")
    run = client.create_run(experiment_id=experiment_id, tags={"mlflow.runName": "lightning"})
    run_id = run.info.run_id
    assert (run_id, run.info.experiment_id) == (os.environ["EXPECTED_RUN"], experiment_id)
    now = int(time.time() * 1000)
    client.log_batch(run_id=run_id, metrics=[Metric("loss", 0.1 * step, now, step) for step in range(1500)])
    client.log_batch(run_id=run_id, params=[Param(f"p{number}", str(number)) for number in range(150)])
    client.log_metric(run_id, "loss", math.nan, step=1500)
    client.set_terminated(run_id, status="FAILED")
    assert len(client.get_metric_history(run_id, "loss")) == 1501


def meet_refusals() -> None:
    """Meet the refusals of the job's server: a changed parameter, as on MLflow's own server, and unsupported
    requests.
    """
    with mlflow.start_run() as run:
        for _ in range(2):
            mlflow.log_param("rate", 0.1)
        assert code_of(mlflow.log_param, "rate", 0.2) == "INVALID_PARAMETER_VALUE"
        assert code_of(MlflowClient().search_traces, [run.info.experiment_id]) == "ENDPOINT_NOT_FOUND"
        mlflow.log_metric("after", 1)


def log_from_rank(rank: str, count: str) -> None:
    with mlflow.start_run():
        mlflow.log_param("shared", "same")
        for step in range(int(count)):
            mlflow.log_metric(f"rank{rank}", step, step=step)
            mlflow.log_metric("all", int(rank), step=step)


def trace_calls() -> None:

    @mlflow.trace  # type: ignore[untyped-decorator]
    def double(number: int) -> int:
        with mlflow.start_span("inner") as span:
            span.set_inputs({"number": number})
        return number * 2

    with mlflow.start_run():
        for number in range(3):
            double(number)
    if hasattr(mlflow, "flush_trace_async_logging"):
        mlflow.flush_trace_async_logging()
    trace_id, client = mlflow.get_last_active_trace_id(), MlflowClient()
    assert trace_id
    client.set_trace_tag(trace_id, "kind", "good")
    client.set_trace_tag(trace_id, "gone", "1")
    client.delete_trace_tag(trace_id, "gone")
    trace = client.get_trace(trace_id)
    assert (trace.info.tags["kind"], "gone" in trace.info.tags, trace.info.status) == ("good", False, "OK"), trace.info
    assert [span.name for span in trace.data.spans] == ["double", "inner"], trace.data


def numbers(found: Any) -> list[int]:
    return [int(version.version) for version in found]


def register_models() -> None:
    Path("model").mkdir()
    Path("model/MLmodel").write_text("flavors: {}\n")
    client = MlflowClient()
    with mlflow.start_run() as run:
        mlflow.log_artifacts("model", "model")
        first = mlflow.register_model(f"runs:/{run.info.run_id}/model", "mine", tags={"kind": "first"})
        second = mlflow.register_model(f"runs:/{run.info.run_id}/model", "mine")
        mlflow.log_metric("after", 1)
    assert numbers([first, second]) == [1, 2]
    assert (first.run_id, first.tags, first.status) == (run.info.run_id, {"kind": "first"}, "READY")

    client.update_model_version("mine", "2", "better")
    client.set_model_version_tag("mine", "2", "kind", "second")
    client.set_model_version_tag("mine", "2", "gone", "1")
    client.delete_model_version_tag("mine", "2", "gone")
    client.set_registered_model_alias("mine", "champion", "2")
    found = client.get_model_version_by_alias("mine", "champion")
    assert (int(found.version), found.description, found.tags, list(found.aliases)) == (
        2,
        "better",
        {"kind": "second"},
        ["champion"],
    )
    for source in ("models:/mine/1", "models:/mine@champion"):
        assert Path(mlflow.artifacts.download_artifacts(source)).joinpath("MLmodel").is_file()
    client.transition_model_version_stage("mine", "1", "Production")
    assert sorted(numbers(client.get_latest_versions("mine"))) == [1, 2]
    assert numbers(client.get_latest_versions("mine", ["production"])) == [1]
    client.transition_model_version_stage("mine", "2", "Production", archive_existing_versions=True)
    assert client.get_model_version("mine", "1").current_stage == "Archived"

    assert numbers(
        client.search_model_versions("name = 'mine' and version_number > 0", order_by=["version_number ASC"])
    ) == [1, 2]
    assert numbers(client.search_model_versions(f"run_id = '{run.info.run_id}' and tags.kind = 'second'")) == [2]
    copy = client.copy_model_version("models:/mine/2", "copy")
    assert client.get_model_version_download_uri("copy", copy.version) == client.get_model_version_download_uri(
        "mine", "2"
    )
    client.create_registered_model("empty", tags={"team": "blue"}, description="none yet")
    client.set_registered_model_tag("empty", "old", "1")
    client.delete_registered_model_tag("empty", "old")
    for text, order, token, names in (
        ("name LIKE '%'", [], client.search_registered_models(max_results=2).token, ["mine"]),
        ("name LIKE 'm%' ", [], None, ["mine"]),
        ("tags.team = 'blue'", ["name DESC"], None, ["empty"]),
        (None, [], None, ["copy", "empty", "mine"]),
    ):
        assert [
            model.name for model in client.search_registered_models(text, order_by=order, page_token=token)
        ] == names, text
    client.rename_registered_model("empty", "named")
    client.update_registered_model("named", "still none")
    named = client.get_registered_model("named")
    assert (named.description, named.tags) == ("still none", {"team": "blue"})
    assert code_of(client.create_registered_model, "named") == "RESOURCE_ALREADY_EXISTS"
    assert code_of(client.rename_registered_model, "named", "mine") == "RESOURCE_ALREADY_EXISTS"
    client.delete_registered_model("named")
    assert code_of(client.get_registered_model, "named") == "RESOURCE_DOES_NOT_EXIST"
    client.delete_registered_model_alias("mine", "champion")
    assert code_of(client.get_model_version_by_alias, "mine", "champion") == "INVALID_PARAMETER_VALUE"
    client.delete_model_version("mine", "2")
    assert code_of(client.get_model_version, "mine", "2") == "RESOURCE_DOES_NOT_EXIST"
    assert numbers([mlflow.register_model("models:/mine/1", "mine")]) == [3], "a number was given twice"


def autolog_grid() -> None:
    # MLflow would start this program to infer a model's requirements.
    sys.executable = "none"
    mlflow.sklearn.autolog(max_tuning_runs=None)
    features = np.arange(40.0).reshape(20, 2)
    GridSearchCV(Ridge(), {"alpha": [0.1, 1.0, 10.0]}, cv=2).fit(features, features[:, 0])


def log_model() -> None:
    features = np.array([[1.0], [2.0], [3.0]])
    model = LinearRegression().fit(features, [2.0, 4.0, 6.0])
    # These options avoid the inference of requirements, and skops.
    options: Any = {"pip_requirements": ["scikit-learn"], "serialization_format": "cloudpickle"}
    with mlflow.start_run() as run:
        mlflow.log_input(from_numpy(features, name="numbers"), context="training")
        signature = infer_signature(features, model.predict(features))
        first = mlflow.sklearn.log_model(model, "model", signature=signature, registered_model_name="lines", **options)
        mlflow.log_metric("loss", 0.5)
        mlflow.log_image(np.zeros((4, 4, 3), dtype=np.uint8), "black.png")
        mlflow.log_table({"a": [1, 2]}, "table.json")

        for uri in (first.model_uri, "models:/lines/1"):
            assert np.allclose(mlflow.pyfunc.load_model(uri).predict(features), [2.0, 4.0, 6.0])
        assert np.allclose(
            mlflow.sklearn.load_model(f"runs:/{run.info.run_id}/model").predict(features), [2.0, 4.0, 6.0]
        )
        assert MlflowClient().get_model_version("lines", "1").run_id == run.info.run_id
        seen = mlflow.get_run(run.info.run_id)
        assert seen.inputs is not None
        assert [item.dataset.name for item in seen.inputs.dataset_inputs] == ["numbers"], seen.inputs
        if mlflow.__version__.startswith("2."):
            assert "mlflow.log-model.history" in seen.data.tags, seen.data.tags
            return
        second = mlflow.sklearn.log_model(model, name="model", params={"depth": 3}, **options)
        assert mlflow.get_logged_model(second.model_id).params["depth"] == "3"
        mlflow.set_logged_model_tags(second.model_id, {"stage": "best"})
        mlflow.log_metric("val", 0.25, model_id=second.model_id)
        found = mlflow.search_logged_models(filter_string="metrics.val < 0.5", output_format="list")
        assert [item.model_id for item in found] == [second.model_id], found
        newest = mlflow.search_logged_models(
            order_by=[{"field_name": "creation_timestamp", "ascending": False}], output_format="list"
        )
        assert [item.model_id for item in newest] == [second.model_id, first.model_id], newest
        assert mlflow.get_logged_model(second.model_id).tags["stage"] == "best"
        outputs = mlflow.get_run(run.info.run_id).outputs
        assert outputs is not None
        assert [output.model_id for output in outputs.model_outputs] == [first.model_id, second.model_id]
        assert np.allclose(mlflow.pyfunc.load_model(second.model_uri).predict(features), [2.0, 4.0, 6.0])
