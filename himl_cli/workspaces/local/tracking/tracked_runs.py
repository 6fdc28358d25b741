"""The job's run and the runs nested in it: MLflow's clients create, end, delete and search them, and log values."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from himl_cli.core.redaction import redact
from himl_cli.core.runs import BESIDE, MLFLOW_STATUSES, Run, RunStatus
from himl_cli.core.search import EXPERIMENT_ATTRIBUTES, Searchable
from himl_cli.workspaces.local.logged_values import last_points
from himl_cli.workspaces.local.metric_store import MetricStore, ParameterFixed, Point
from himl_cli.workspaces.local.run_folder import RunFolder
from himl_cli.workspaces.local.run_store import Database, RunStore, as_time, now_ms
from himl_cli.workspaces.local.tracking.protocol import (
    Fields,
    Json,
    RequestError,
    experiment_number,
    find_page,
    json_metric,
    json_pairs,
    milliseconds,
    not_found,
    parse_json,
)

RUN_NAME = "mlflow.runName"
USER_TAG = "mlflow.user"
PARENT = "mlflow.parentRunId"
SOURCE = "mlflow.source."
MODEL_HISTORY = "mlflow.log-model.history"
STATUSES = {name: status for status, name in MLFLOW_STATUSES.items()}
VIEWS = {"ACTIVE_ONLY": {False}, "DELETED_ONLY": {True}, "ALL": {False, True}}
MOST_OF = {"metrics": 1000, "params": 100, "tags": 100, "entities": 1000}  # in one batch, as MLflow's own server allows
JOBS_EXPERIMENT = "0"  # the id of MLflow's default experiment, which scripts use if they name none


class JobRuns:
    """The runs that a job's clients can access: the job's run and its children. Raises `RequestError` for other runs.

    The first run that a process of the job creates is the job's own run, so that a script needs no id. Later ones are
    its children. Later attempts of the job add to the datasets and models that runs read and wrote. Experiments that a
    script creates exist as long as the job runs: in the workspace, all runs belong to that of the job. A request to log
    is stored completely or refused.
    """

    def __init__(
        self,
        database: Database,
        job: Run,
        artifacts_of: Callable[[str], Path],
        new_child_id: Callable[[], str],
    ) -> None:
        self.store = RunStore(database)
        self.metric_store = MetricStore(database)
        self.job_id = job.id
        self.artifacts_of = artifacts_of
        self._experiment = job.experiment
        self._experiments: dict[str, dict[str, Any]] = {}
        self._add_experiment(JOBS_EXPERIMENT, job.experiment, {})
        self._experiment_of: dict[str, str] = {}  # by run, except those in the job's experiment
        self._senders: set[str] = set()  # those that continue the job's run
        self._new_child_id = new_child_id
        self._lock = threading.Lock()
        self._deleted: set[str] = set()

    def require(self, run_id: str, *, active: bool = True) -> str:
        """Return the id. Raises `RequestError` if the run does not belong to this job, or if it is deleted and *active*
        is set."""
        if self.store.job_of(run_id) != self.job_id:
            raise not_found(f"Run with id={run_id[:300]} not found")
        if active and run_id in self._deleted:
            raise RequestError(f"The run {run_id} must be in the 'active' state. Current state is deleted.")
        return run_id

    def record(self, run_id: str) -> Run:
        run = self.store.get(self.require(run_id, active=False))
        if run is None:
            raise not_found(f"Run with id={run_id} not found")
        return run

    def get(self, request: Fields) -> Json:
        return {"run": self._run_json(self.record(request.text("run_id")))}

    def create(self, request: Fields) -> Json:
        """Create a child run of the run `mlflow.parentRunId`, by default of the job's run. The first run of a process
        without that tag is the job's run."""
        tags = request.pairs("tags")
        name = request.text("run_name", "") or tags.get(RUN_NAME, "")
        if tags.pop(RUN_NAME, name) != name:
            raise RequestError(f"The tag '{RUN_NAME}' must be the run_name '{name[:250]}', if both are set.")
        if user := request.text("user_id", ""):
            tags.setdefault(USER_TAG, user)
        experiment_id = self.find_experiment(request)
        started, sender = request.moment("start_time", now_ms()), request.sender()
        with self._lock:
            is_jobs = PARENT not in tags and sender not in self._senders
            if is_jobs:
                self._senders.add(sender)
        if is_jobs:
            run_id = self.job_id
            # himl has recorded the program and its commit
            self.store.tag(run_id, {key: value for key, value in tags.items() if not key.startswith(SOURCE)})
            if name:
                self.store.rename(run_id, name)
        else:
            run_id, parent = self._new_child_id(), tags.get(PARENT, self.job_id)
            parent = parent if self.store.job_of(parent) == self.job_id else self.job_id
            tags |= {} if PARENT in tags else {BESIDE: self.job_id}
            begun = Run(run_id, self._experiment, RunStatus.running, started=as_time(started))
            self.store.add(replace(begun, display_name=name, tags=tags, parent=parent), job=self.job_id)
        self._experiment_of[run_id] = experiment_id
        return {"run": self._run_json(self.record(run_id))}

    def update(self, request: Fields) -> Json:
        """Rename a run, or end or resume a child run. Clients cannot change the status of the job's run, since a script
        that fails also sends FINISHED."""
        run_id = self.require(request.text("run_id"))
        name, ended = request.text("status", ""), request.moment("end_time", now_ms())
        if name and name not in STATUSES:
            raise RequestError(f"Invalid status '{name[:50]}'. Valid values are {', '.join(STATUSES)}.")
        if request.text("run_name", ""):
            self.store.rename(run_id, request.text("run_name"))
        if run_id != self.job_id and name and (run := self.record(run_id)).status != STATUSES[name]:
            if run.ended is not None:
                self.store.reopen(run_id)
            if STATUSES[name].is_final:
                self.store.end(run_id, STATUSES[name], ended=ended)
        return {"run_info": self._info(self.record(run_id))}

    def delete(self, request: Fields) -> Json:
        """Hide a child run. When the job ends, hidden runs are deleted permanently."""
        run_id = self.require(request.text("run_id"), active=False)
        if run_id == self.job_id:
            raise RequestError(
                "The job's own run cannot be deleted while it is running. To delete it afterwards: himl runs delete"
            )
        self._deleted.add(run_id)
        return {}

    def restore(self, request: Fields) -> Json:
        self._deleted.discard(self.require(request.text("run_id"), active=False))
        return {}

    def close(self) -> None:
        """Delete hidden child runs with their descendants and files."""
        gone = sorted({run_id for deleted in self._deleted for run_id in self.store.descendants(deleted)})
        if gone:
            self.store.delete(gone, lambda run_id: RunFolder(self.artifacts_of(run_id).parent).remove())

    def search(self, request: Fields) -> Json:
        """Matching runs of the job, newest first by default, in pages."""
        view = request.text("run_view_type", "ACTIVE_ONLY")
        if view not in VIEWS:
            raise RequestError(f"Invalid run_view_type '{view[:50]}'. Valid values are {', '.join(VIEWS)}.")
        wanted = request.texts("experiment_ids")
        run_ids = [each for each in self.store.descendants(self.job_id) if self.experiment_of(each) in wanted]
        runs = [self.record(run_id) for run_id in run_ids if (run_id in self._deleted) in VIEWS[view]]
        runs.sort(key=lambda run: (-(run.started or run.created).timestamp(), run.id))
        items, last = [], last_points(self.store.database, [run.id for run in runs])
        for run in runs:
            datasets = [
                {**each["dataset"], "context": Fields(each).pairs("tags").get("mlflow.data.context")}
                for each in self.metric_store.kept(run.id).get("dataset_inputs", ())
            ]
            metrics = {name: value for name, value, _, _ in last[run.id].values()}
            parameters = self.metric_store.parameters(run.id)
            items.append((Searchable(self._info(run), metrics, parameters, _tags(run), datasets), run))
        found, more = find_page(request, items, default=1000, most=50_000)
        return {"runs": [self._run_json(run) for run in found], **more}

    def log_inputs(self, request: Fields) -> Json:
        """Add inputs to the run. A dataset with a known name and digest stays as it was first logged."""
        run_id = self.require(request.text("run_id"))
        datasets: dict[str, Json] = {}
        for item in request.items("datasets"):
            dataset = item.item("dataset")
            texts = {name: dataset.text(name) for name in ("name", "digest")}
            others = ("source_type", "source", "schema", "profile")
            texts |= {name: dataset.text(name, "") for name in others if dataset.has(name)}
            if "source" in texts:  # may be a signed address
                texts["source"] = redact(texts["source"])
            entry: Json = {"dataset": texts, "tags": json_pairs(item.masked_pairs("tags"))}
            datasets.setdefault(json.dumps([texts["name"], texts["digest"]]), entry)
        models = {item.text("model_id"): {"model_id": item.text("model_id")} for item in request.items("models")}
        self.metric_store.keep(run_id, {"dataset_inputs": datasets, "model_inputs": models}, replace=False)
        return {}

    def log_outputs(self, request: Fields) -> Json:
        run_id = self.require(request.text("run_id"))
        outputs = [
            {"model_id": item.text("model_id"), "step": item.integer("step", 0)} for item in request.items("models")
        ]
        self.metric_store.keep(run_id, {"model_outputs": {str(each["model_id"]): each for each in outputs}})
        return {}

    def _info(self, run: Run) -> Json:
        info: Json = {
            "run_id": run.id,
            "run_uuid": run.id,
            "run_name": run.display_name or run.id,
            "experiment_id": self.experiment_of(run.id),
            "user_id": run.tags.get(USER_TAG, ""),
            "status": MLFLOW_STATUSES[run.status],
            "start_time": milliseconds(run.started or run.created),
            "artifact_uri": self.artifacts_of(run.id).as_uri(),
            "lifecycle_stage": "deleted" if run.id in self._deleted else "active",
        }
        return info if run.ended is None else {**info, "end_time": milliseconds(run.ended)}

    def _run_json(self, run: Run) -> Json:
        last = last_points(self.store.database, [run.id])[run.id]
        data: Json = {
            "metrics": [json_metric(last[name]) for name in sorted(last)],
            "params": json_pairs(self.metric_store.parameters(run.id)),
            "tags": json_pairs(_tags(run)),
        }
        kept = self.metric_store.kept(run.id)
        inputs = {kind: kept.get(kind, []) for kind in ("dataset_inputs", "model_inputs")}
        outputs = {"model_outputs": kept.get("model_outputs", [])}
        return {"info": self._info(run), "data": data, "inputs": inputs, "outputs": outputs}

    def experiment_of(self, run_id: str) -> str:
        return self._experiment_of.get(run_id, JOBS_EXPERIMENT)

    def find_experiment(self, request: Fields) -> str:
        """The id of the experiment in the request, by default that of the job. Raises `RequestError`."""
        found = request.text("experiment_id", "") or JOBS_EXPERIMENT
        if found not in self._experiments:
            raise not_found(f"No Experiment with id={found[:250]} exists")
        return found

    def experiment(self, action: str, request: Fields) -> Json:
        """The job's experiment, and those that its script creates. Only their tags can change."""
        named = request.text("experiment_name" if action == "get by name" else "name", "")
        known = next((key for key, each in self._experiments.items() if each["name"] == named), None)
        match action:
            case "create":
                if not named:
                    raise RequestError("Invalid experiment name: ''")
                new = experiment_number(named)
                if known is not None:
                    raise RequestError(
                        f"Experiment(name={named[:250]}) already exists.", code="RESOURCE_ALREADY_EXISTS"
                    )
                self._add_experiment(new, named, request.pairs("tags"))
                return {"experiment_id": new}
            case "get by name":
                if known is None:
                    raise not_found(f"Could not find experiment with name '{named[:250]}'")
                return {"experiment": _experiment_json(self._experiments[known])}
            case "search":
                items = [
                    (Searchable(each, tags=each["tags"]), _experiment_json(each))
                    for each in reversed(self._experiments.values())
                    if request.text("view_type", "ACTIVE_ONLY") != "DELETED_ONLY"
                ]
                page, more = find_page(request, items, attributes=EXPERIMENT_ATTRIBUTES, default=1000, most=50_000)
                return {"experiments": page, **more}
        found = self.find_experiment(request)
        tags = self._experiments[found]["tags"]
        match action:
            case "change":
                raise RequestError("The experiments of a job cannot be changed or deleted by its script.")
            case "set tag":
                tags[request.text("key")] = request.text("value", "")
            case "delete tag":
                if tags.pop(request.text("key"), None) is None:
                    raise not_found(f"No tag with name: {request.text('key')[:250]} in experiment with id {found}")
            case "get":
                return {"experiment": _experiment_json(self._experiments[found])}
        return {}

    def _add_experiment(self, experiment_id: str, name: str, tags: dict[str, str]) -> None:
        times = dict.fromkeys(("creation_time", "last_update_time"), now_ms())
        fixed = {"artifact_location": self.artifacts_of(self.job_id).as_uri(), "lifecycle_stage": "active"}
        named = {"experiment_id": experiment_id, "name": name}
        self._experiments[experiment_id] = {**named, **times, **fixed, "tags": tags}

    def log_one(self, what: str, request: Fields) -> Json:
        """Log a metric, param or tag as a batch of one."""
        return self.log_batch(Fields({"run_id": request.text("run_id"), what: [request.values]}))

    def log_batch(self, request: Fields) -> Json:
        metrics, params, tags = request.items("metrics"), request.items("params"), request.items("tags")
        sizes = {"metrics": len(metrics), "params": len(params), "tags": len(tags)}
        for what, size in {**sizes, "entities": sum(sizes.values())}.items():
            if size > MOST_OF[what]:
                raise RequestError(f"A batch logging request can contain at most {MOST_OF[what]} {what}. Got {size}.")
        run_id = self.require(request.text("run_id"))
        pairs = [(item.text("key"), item.text("value", "")) for item in params]
        points: list[Point] = [
            (
                metric.text("key"),
                metric.number("value"),
                metric.integer("step", 0),
                metric.moment("timestamp", now_ms()),
            )
            for metric in metrics
        ]
        of_models = [
            (metric.text("model_id"), point, metric.text("dataset_name", ""), metric.text("dataset_digest", ""))
            for metric, point in zip(metrics, points, strict=True)
            if metric.text("model_id", "")
        ]
        other_tags = request.pairs("tags")
        name = other_tags.pop(RUN_NAME, "")
        # MLflow 3 sends a run's metrics again for each of its models
        try:
            if points or pairs or other_tags:
                self.metric_store.log(run_id, points, pairs, other_tags, of_models=of_models)
        except ParameterFixed as err:
            raise RequestError(
                f"Changing param values is not allowed. Param with key='{err.name[:250]}' was already logged "
                f"with value='{err.before[:250]}' for run ID='{run_id}'. Attempted logging new value "
                f"'{err.value[:250]}'."
            ) from err
        if name:
            self.store.rename(run_id, name)
        return {}

    def delete_tag(self, request: Fields) -> Json:
        run_id, name = self.require(request.text("run_id")), request.text("key")
        if name == RUN_NAME:
            self.store.rename(run_id, "")
        elif not self.store.delete_tag(run_id, name):
            raise not_found(f"No tag with name: {name[:250]} in run with id {run_id}")
        return {}

    def log_model(self, request: Fields) -> Json:
        """Add a model to a tag, as MLflow 2 does."""
        run_id = self.require(request.text("run_id"))
        model = parse_json(request.text("model_json"))
        if not isinstance(model, dict):
            raise RequestError("Parameter 'model_json' must be a JSON object.")
        with self._lock:
            history = parse_json(self.record(run_id).tags.get(MODEL_HISTORY, "[]"))
            entries = [*(history if isinstance(history, list) else []), model]
            self.store.tag(run_id, {MODEL_HISTORY: json.dumps(entries)})
        return {}

    def history(self, request: Fields) -> Json:
        """All points of one metric by step, in pages of `max_results` if that is set."""
        run_id, name = self.require(request.text("run_id"), active=False), request.text("metric_key")
        found = self._points(run_id, name)
        page, more = request.page(found, max(len(found), 1), 2**31 - 1)
        return {"metrics": [json_metric(point) for point in page], **more}

    def _points(self, run_id: str, name: str) -> list[Point]:
        series = self.metric_store.metrics([run_id], name=name)
        return [(name, point.value, point.step, milliseconds(point.time)) for one in series for point in one.points]


def _experiment_json(found: dict[str, Any]) -> Json:
    return {**found, "tags": json_pairs(found["tags"])}


def _tags(run: Run) -> dict[str, str]:
    return {**run.tags, RUN_NAME: run.display_name or run.id}
