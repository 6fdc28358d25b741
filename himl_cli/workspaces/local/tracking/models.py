"""MLflow 3's logged models, for as long as the job runs; their files are the run's artifacts."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from himl_cli.workspaces.local.run_store import now_ms
from himl_cli.workspaces.local.tracking.fields import Fields, Refused, missing
from himl_cli.workspaces.local.tracking.latest import Point
from himl_cli.workspaces.local.tracking.records import Json, json_metric, json_pairs, next_page
from himl_cli.workspaces.local.tracking.runs import JobRuns
from himl_cli.workspaces.local.tracking.search import MODEL_ATTRIBUTES, Searchable, order, parse_filter, parse_order

STATUSES = ("LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED")
UNFIT = set("/\\:.%\"'")  # as MLflow: a name is part of URIs and of paths
LONGEST_NAME = 200
MOST_MODELS = 1000


@dataclass
class LoggedModel:
    """A model's record; `folder` is where the client puts its files. Times in milliseconds since 1970 UTC."""

    id: str
    name: str
    folder: Path
    source_run: str
    kind: str
    tags: dict[str, str]
    params: dict[str, str]
    experiment_id: str
    created: int
    updated: int
    status: str = STATUSES[0]
    metrics: list[Json] = field(default_factory=list)
    is_deleted: bool = False

    @property
    def attributes(self) -> Json:
        return {
            "model_id": self.id,
            "experiment_id": self.experiment_id,
            "name": self.name,
            "creation_timestamp_ms": self.created,
            "last_updated_timestamp_ms": self.updated,
            "artifact_uri": self.folder.as_uri(),
            "status": self.status,
            "model_type": self.kind,
            "source_run_id": self.source_run,
        }

    def as_json(self) -> Json:
        data: Json = {"params": json_pairs(self.params), "metrics": self.metrics}
        return {"info": {**self.attributes, "tags": json_pairs(self.tags)}, "data": data}

    def as_searchable(self) -> Searchable:
        times: Json = {
            "creation_timestamp": self.created,
            "last_updated_timestamp": self.updated,
            "model_name": self.name,
        }
        metrics = {str(metric["key"]): float(str(metric["value"])) for metric in self.metrics}
        status = {"status": self.status.removeprefix("LOGGED_MODEL_")}
        return Searchable({**self.attributes, **times, **status}, metrics, self.params, self.tags)


class LoggedModels:
    """Safe between threads."""

    def __init__(self, runs: JobRuns) -> None:
        self.runs = runs
        self._lock = threading.Lock()
        self._models: dict[str, LoggedModel] = {}

    def create(self, request: Fields) -> Json:
        """A model of a run; its files lie in the run's artifacts under the model's name, as with MLflow 2."""
        source_run = request.text("source_run_id", "")
        run_id = self.runs.require(source_run or self.runs.job_id)
        model_id = f"m-{os.urandom(16).hex()}"
        name = request.text("name", "") or model_id
        if UNFIT & set(name) or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            raise Refused(
                f"Invalid model name ({name[:LONGEST_NAME]!r}): at most {LONGEST_NAME} bytes, without "
                f"{' '.join(sorted(UNFIT))}."
            )
        tags, params, kind, now = (
            request.pairs("tags"),
            request.pairs("params"),
            request.text("model_type", ""),
            now_ms(),
        )
        with self._lock:
            folder = self._free_folder(self.runs.artifacts_of(run_id), name)
            model = LoggedModel(
                model_id, name, folder, source_run, kind, tags, params, self.runs.experiment_id, now, now
            )
            self._models[model_id] = model
            return {"model": model.as_json()}

    def _free_folder(self, artifacts: Path, name: str) -> Path:
        taken = {str(model.folder).casefold() for model in self._models.values()}
        number = 1
        while True:
            folder = artifacts / (name if number == 1 else f"{name}-{number}")
            if str(folder).casefold() not in taken and not folder.exists():
                return folder
            number += 1

    def get(self, request: Fields) -> Json:
        with self._model(request) as model:
            return {"model": model.as_json()}

    def origin(self, model_id: str) -> tuple[str, str]:
        """Where the model's files lie, and the run that it is of."""
        with self._model(Fields({"model_id": model_id})) as model:
            return model.folder.as_uri(), model.source_run

    def finalize(self, request: Fields) -> Json:
        status = request.key("status")
        if status not in STATUSES[1:]:
            raise Refused(f"Invalid model status '{status[:50]}'. Valid values are {', '.join(STATUSES[1:])}.")
        with self._model(request) as model:
            model.status = status
            return {"model": model.as_json()}

    def set_tags(self, request: Fields) -> Json:
        tags = request.pairs("tags")
        with self._model(request) as model:
            model.tags.update(tags)
            return {"model": model.as_json()}

    def delete_tag(self, request: Fields) -> Json:
        name = request.key("tag_key")
        with self._model(request) as model:
            if model.tags.pop(name, None) is None:
                raise missing(f"Tag '{name[:250]}' of model '{model.id}'")
            return {"model": model.as_json()}

    def log_params(self, request: Fields) -> Json:
        params = request.pairs("params")
        with self._model(request) as model:
            model.params.update(params)
            return {"model": model.as_json()}

    def delete(self, request: Fields) -> Json:
        """Hide the model; its files stay."""
        with self._model(request) as model:
            model.is_deleted = True
            return {}

    def note_metric(self, metric: Fields, run_id: str, point: Point) -> None:
        """A metric was logged that says which model, and perhaps which data set, it measures."""
        texts = {name: metric.text(name) for name in ("dataset_name", "dataset_digest") if metric.has(name)}
        with self._lock:
            model = self._models.get(metric.text("model_id"))
            if model is not None:
                model.metrics.append({**json_metric(*point), "run_id": run_id, "model_id": model.id, **texts})

    def search(self, request: Fields) -> Json:
        """The models that match, newest first unless ordered otherwise, in pages."""
        comparisons = parse_filter(request.text("filter", ""), MODEL_ATTRIBUTES)
        clauses = [_clause(item) for item in request.items("order_by")]
        size = request.integer("max_results", 100, allowed=range(1, MOST_MODELS + 1))
        start = request.page_start()
        wanted = self.runs.experiment_id in request.texts("experiment_ids")
        with self._lock:
            newest_first = sorted(self._models.values(), key=lambda model: (-model.created, model.id))
            items = [(model.as_searchable(), model.id) for model in newest_first if wanted and not model.is_deleted]
            found = order(
                [item for item in items if all(comparison.holds(item[0]) for comparison in comparisons)], clauses
            )
            page = [self._models[model_id].as_json() for model_id in found[start : start + size]]
        return {"models": page, **next_page(start, size, len(found))}

    @contextmanager
    def _model(self, request: Fields) -> Iterator[LoggedModel]:
        """The model that the request's path names, while nobody else changes it."""
        model_id = request.key("model_id")
        with self._lock:
            model = self._models.get(model_id)
            if model is None or (model.is_deleted and request.text("allow_deleted", "") != "true"):
                raise missing(f"Logged model '{model_id[:250]}'")
            model.updated = now_ms()
            yield model


def _clause(item: Fields) -> tuple[str, str, bool]:
    entity, key, _ = parse_order(item.key("field_name"), MODEL_ATTRIBUTES)
    return entity, key, item.values.get("ascending") is not False
