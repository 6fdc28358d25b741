"""What MLflow's clients keep beside runs: logged models and traces as long as the job runs, and the registry of models,
which lies in the workspace's database: what one job registers, later ones find."""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.run_store import now_ms
from himl_cli.workspaces.local.tracking.protocol import (
    Fields,
    Json,
    Point,
    RequestError,
    json_metric,
    json_pairs,
    not_found,
)
from himl_cli.workspaces.local.tracking.runs import JobRuns
from himl_cli.workspaces.local.tracking.search import MODEL_ATTRIBUTES, Searchable, find_page, parse_order

STATUSES = ("LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED")
UNFIT = set("/\\:.%\"'")  # as MLflow: a name is part of URIs and of paths
LONGEST_NAME = 200
MOST_MODELS = 1000

TABLE = "CREATE TABLE IF NOT EXISTS registered_models (name TEXT PRIMARY KEY, document TEXT NOT NULL)"
STAGES = ("None", "Staging", "Production", "Archived")
IS_PROMPT = "mlflow.prompt.is_prompt"  # clients search for what is no prompt: what lacks the tag is none
TIMES = ("creation_timestamp", "last_updated_timestamp")
REGISTRY_ATTRIBUTES = frozenset({"name", "version_number", "run_id", "source_path", *TIMES})
MOST_VERSIONS = 200_000  # as MLflow's own server allows

TRACE_LOCATION = "mlflow.artifactLocation"
TRACE_RUN = "mlflow.sourceRun"
TRACE_ID = re.compile(r"[\w-]{1,100}", re.ASCII)  # it names a folder


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
        return {"model": {"info": {**self.attributes, "tags": json_pairs(self.tags)}, "data": data}}

    def as_searchable(self) -> Searchable:
        others: Json = {
            "creation_timestamp": self.created,
            "last_updated_timestamp": self.updated,
            "model_name": self.name,
            "status": self.status.removeprefix("LOGGED_MODEL_"),
        }
        metrics = {str(metric["key"]): float(str(metric["value"])) for metric in self.metrics}
        return Searchable({**self.attributes, **others}, metrics, self.params, self.tags)


class LoggedModels:
    """MLflow 3's logged models; their files are the run's artifacts. Safe between threads."""

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
            raise RequestError(
                f"Invalid model name ({name[:LONGEST_NAME]!r}): at most {LONGEST_NAME} bytes, without "
                f"{' '.join(sorted(UNFIT))}."
            )
        tags, params, kind = request.pairs("tags"), request.pairs("params"), request.text("model_type", "")
        artifacts, now, number = self.runs.artifacts_of(run_id), now_ms(), 1
        with self._lock:
            folder, used = artifacts / name, {str(model.folder).casefold() for model in self._models.values()}
            while str(folder).casefold() in used or folder.exists():
                number += 1
                folder = artifacts / f"{name}-{number}"
            self._models[model_id] = model = LoggedModel(
                model_id, name, folder, source_run, kind, tags, params, self.runs.experiment_id, now, now
            )
            return model.as_json()

    def get(self, request: Fields) -> Json:
        with self._model(request) as model:
            return model.as_json()

    def origin(self, model_id: str) -> tuple[str, str]:
        """Where the model's files lie, and the run that it is of."""
        with self._model(Fields({"model_id": model_id})) as model:
            return model.folder.as_uri(), model.source_run

    def finalize(self, request: Fields) -> Json:
        status = request.key("status")
        if status not in STATUSES[1:]:
            raise RequestError(f"Invalid model status '{status[:50]}'. Valid values are {', '.join(STATUSES[1:])}.")
        with self._model(request) as model:
            model.status = status
            return model.as_json()

    def set_tags(self, request: Fields) -> Json:
        tags = request.pairs("tags")
        with self._model(request) as model:
            model.tags.update(tags)
            return model.as_json()

    def delete_tag(self, request: Fields) -> Json:
        name = request.key("tag_key")
        with self._model(request) as model:
            if model.tags.pop(name, None) is None:
                raise not_found(f"Tag '{name[:250]}' of model '{model.id}'")
            return model.as_json()

    def log_params(self, request: Fields) -> Json:
        params = request.pairs("params")
        with self._model(request) as model:
            model.params.update(params)
            return model.as_json()

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
                model.metrics.append({**json_metric(point), "run_id": run_id, "model_id": model.id, **texts})

    def search(self, request: Fields) -> Json:
        """The models that match, newest first unless sorted otherwise, in pages."""
        clauses = [
            (*parse_order(item.key("field_name"), MODEL_ATTRIBUTES)[:2], item.values.get("ascending") is not False)
            for item in request.items("order_by")
        ]
        wanted = self.runs.experiment_id in request.texts("experiment_ids")
        with self._lock:
            newest_first = sorted(self._models.values(), key=lambda model: (-model.created, model.id))
            items = ((model.as_searchable(), model) for model in newest_first if wanted and not model.is_deleted)
            found, more = find_page(
                request, items, attributes=MODEL_ATTRIBUTES, clauses=clauses, default=100, most=MOST_MODELS
            )
            return {"models": [model.as_json()["model"] for model in found], **more}

    @contextmanager
    def _model(self, request: Fields) -> Iterator[LoggedModel]:
        """The model that the request's path names, while nobody else changes it."""
        model_id = request.key("model_id")
        with self._lock:
            model = self._models.get(model_id)
            if model is None or (model.is_deleted and request.text("allow_deleted", "") != "true"):
                raise not_found(f"Logged model '{model_id[:250]}'")
            model.updated = now_ms()
            yield model


Document = dict[str, Any]
"""A registered model with its versions by number (a text). Times are in milliseconds since 1970 UTC."""


class ModelRegistry:
    """Registered models. Each change is one transaction. *models* knows where the job's own logged models lie."""

    def __init__(self, database: Database, models: LoggedModels) -> None:
        self._database = database
        self._models = models

    def create(self, request: Fields) -> Json:
        name, now = _new_name(request, "name"), now_ms()
        model: Document = {"name": name, **dict.fromkeys(TIMES, now)}
        model |= {"description": request.text("description", ""), "tags": request.pairs("tags")}
        model |= {"aliases": {}, "versions": {}, "last": 0}
        with self._database.writing(durable=True) as connection:
            connection.execute(TABLE)
            values = (name, json.dumps(model))
            if not connection.execute("INSERT OR IGNORE INTO registered_models VALUES (?,?)", values).rowcount:
                raise _exists(name)
        return {"registered_model": _model_json(model)}

    def get(self, request: Fields) -> Json:
        return {"registered_model": _model_json(self._model(request))}

    def create_version(self, request: Fields) -> Json:
        """The source may be one of the job's logged models, or a version that is registered already: then its files,
        and its run, are those of that."""
        source, now, run_id = request.key("source"), now_ms(), ""
        location = source
        if source.startswith("models:/"):
            name, _, version = source.removeprefix("models:/").partition("/")
            if version:
                named = {"name": name, "version": version}
                found = _target(self._model(Fields(named)), Fields(named))
                location, run_id = found["location"], found["run_id"]
            else:
                location, run_id = self._models.origin(name)
        texts = {name: request.text(name, "") for name in ("run_link", "description", "model_id")}
        texts["run_id"] = request.text("run_id", "") or run_id
        created: Document = {**texts, **dict.fromkeys(TIMES, now), "current_stage": "None"}
        created |= {"source": source, "location": location, "tags": request.pairs("tags")}
        with self._changing(request) as model:
            model["last"] += 1
            model["versions"][str(model["last"])] = created
            return {"model_version": _version_json(model, str(model["last"]))}

    def get_version(self, request: Fields) -> Json:
        request.key("version")
        return _reply(self._model(request), request)

    def download_uri(self, request: Fields) -> Json:
        request.key("version")
        return {"artifact_uri": _target(self._model(request), request)["location"]}

    def rename(self, request: Fields) -> Json:
        new = _new_name(request, "new_name")
        with self._changing(request) as model:
            if new != model["name"] and any(each["name"] == new for each in self._all()):
                raise _exists(new)
            model["name"] = new
            return {"registered_model": _model_json(model)}

    def describe(self, request: Fields) -> Json:
        with self._changing(request) as model:
            _target(model, request)["description"] = request.text("description", "")
            return _reply(model, request)

    def set_tag(self, request: Fields) -> Json:
        with self._changing(request) as model:
            _target(model, request)["tags"][request.key("key")] = request.text("value", "")
        return {}

    def delete_tag(self, request: Fields) -> Json:
        with self._changing(request) as model:
            _target(model, request)["tags"].pop(request.key("key"), None)
        return {}

    def set_alias(self, request: Fields) -> Json:
        with self._changing(request) as model:
            _target(model, request)
            model["aliases"][request.key("alias")] = request.key("version")
        return {}

    def get_alias(self, request: Fields) -> Json:
        model, alias = self._model(request), request.key("alias")
        if alias not in model["aliases"]:
            raise not_found(f"Alias '{alias[:250]}' of the registered model '{model['name']}'")
        return {"model_version": _version_json(model, model["aliases"][alias])}

    def delete_alias(self, request: Fields) -> Json:
        with self._changing(request) as model:
            model["aliases"].pop(request.key("alias"), None)
        return {}

    def move(self, request: Fields) -> Json:
        stage = next((stage for stage in STAGES if stage.lower() == request.key("stage").lower()), None)
        if stage is None:
            raise RequestError(f"Invalid stage '{request.key('stage')[:50]}'. Valid values are {', '.join(STAGES)}.")
        with self._changing(request) as model:
            chosen = _target(model, request)
            for each in model["versions"].values():
                if request.values.get("archive_existing_versions") is True and each["current_stage"] == stage:
                    each["current_stage"] = "Archived"
            chosen["current_stage"] = stage
            return _reply(model, request)

    def delete_version(self, request: Fields) -> Json:
        """Forget the version; its files are the run's, and stay."""
        with self._changing(request) as model:
            _target(model, request)
            del model["versions"][request.key("version")]
            aliases = model["aliases"].items()
            model["aliases"] = {alias: number for alias, number in aliases if number in model["versions"]}
        return {}

    def delete(self, request: Fields) -> Json:
        name = self._model(request)["name"]
        with self._database.writing(durable=True) as connection:
            connection.execute("DELETE FROM registered_models WHERE name = ?", (name,))
        return {}

    def latest_versions(self, request: Fields) -> Json:
        stages = {stage.lower() for stage in request.texts("stages") or STAGES}
        latest = _latest(self._model(request))
        return {"model_versions": [each for each in latest if str(each["current_stage"]).lower() in stages]}

    def search(self, request: Fields) -> Json:
        """The models that match, by name unless sorted otherwise, in pages."""
        models = sorted(self._all(), key=lambda model: str(model["name"]))
        found, more = _find(request, [_model_json(model) for model in models])
        return {"registered_models": found, **more}

    def search_versions(self, request: Fields) -> Json:
        """The versions that match, the newest first unless sorted otherwise, in pages."""
        versions = [_version_json(model, number) for model in self._all() for number in model["versions"]]
        versions.sort(key=lambda version: (version["creation_timestamp"], int(str(version["version"]))), reverse=True)
        found, more = _find(request, versions)
        return {"model_versions": found, **more}

    def _all(self) -> list[Document]:
        if not self._database.rows("SELECT 1 FROM sqlite_master WHERE name = 'registered_models'"):
            return []
        return [json.loads(row["document"]) for row in self._database.rows("SELECT document FROM registered_models")]

    def _model(self, request: Fields) -> Document:
        name = request.key("name")
        found = next((model for model in self._all() if model["name"] == name), None)
        if found is None:
            raise not_found(f"Registered model '{name[:250]}'")
        return found

    @contextmanager
    def _changing(self, request: Fields) -> Iterator[Document]:
        """The model that the request names, stored as it was left; nobody else changes it meanwhile."""
        with self._database.writing(durable=True) as connection:
            model = self._model(request)
            name = model["name"]
            yield model
            model["last_updated_timestamp"] = now_ms()
            values = (model["name"], json.dumps(model), name)
            connection.execute("UPDATE registered_models SET name = ?, document = ? WHERE name = ?", values)


def _new_name(request: Fields, field: str) -> str:
    name = request.key(field)
    if {"/", ":"} & set(name):
        raise RequestError(f"Invalid name of a registered model ({name[:200]!r}): it has '/' or ':' in it.")
    return name


def _exists(name: str) -> RequestError:
    return RequestError(f"Registered model '{name[:250]}' already exists.", code="RESOURCE_ALREADY_EXISTS")


def _target(model: Document, request: Fields) -> Document:
    """What the request is about: the version that it names, else the model itself."""
    if not request.has("version"):
        return model
    number = request.key("version")
    found: Document | None = model["versions"].get(number)
    if found is None:
        raise not_found(f"Version '{number[:50]}' of the registered model '{model['name']}'")
    return found


def _reply(model: Document, request: Fields) -> Json:
    if request.has("version"):
        _target(model, request)
        return {"model_version": _version_json(model, request.key("version"))}
    return {"registered_model": _model_json(model)}


def _model_json(model: Document) -> Json:
    aliases = [{"alias": alias, "version": number} for alias, number in model["aliases"].items()]
    shown = {name: model[name] for name in ("name", *TIMES, "description")}
    return {**shown, "latest_versions": _latest(model), "tags": json_pairs(model["tags"]), "aliases": aliases}


def _version_json(model: Document, number: str) -> Json:
    version = model["versions"][number]
    aliases = [alias for alias, named in model["aliases"].items() if named == number]
    shown = {name: value for name, value in version.items() if name != "location"}
    shown |= {"name": model["name"], "version": number, "status": "READY"}
    return {**shown, "tags": json_pairs(version["tags"]), "aliases": aliases}


def _latest(model: Document) -> list[Json]:
    """The newest version of each stage."""
    newest = {model["versions"][number]["current_stage"]: number for number in sorted(model["versions"], key=int)}
    return [_version_json(model, number) for number in newest.values()]


def _find(request: Fields, items: list[Json]) -> tuple[list[Json], Json]:
    """A page of those *items* that the request asks for, and what says how to ask for the next page."""
    searchable: list[tuple[Searchable, Json]] = []
    for item in items:
        more: Json = {"source_path": item.get("source"), "version_number": int(str(item.get("version", 0)))}
        tags = {tag["key"]: tag["value"] for tag in item["tags"]} if isinstance(item["tags"], list) else {}
        searchable.append((Searchable({**item, **more}, tags={IS_PROMPT: "false", **tags}), item))
    clauses = [parse_order(clause, REGISTRY_ATTRIBUTES) for clause in request.texts("order_by")]
    return find_page(
        request, searchable, attributes=REGISTRY_ATTRIBUTES, clauses=clauses, default=100, most=MOST_VERSIONS
    )


class Traces:
    """Traces (`mlflow.trace`): the client writes the spans of each as a file of the run, `traces/ID/traces.json`.

    MLflow 3 sends a trace once it has ended. MLflow 2 says when it starts and ends, and has pairs for maps.
    """

    def __init__(self, runs: JobRuns) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._infos: dict[str, Json] = {}

    def start(self, request: Fields) -> Json:
        is_new = request.has("trace")
        info = dict((request.item("trace").item("trace_info") if is_new else request).values)
        trace_id = Fields(info).key("trace_id") if is_new else f"tr-{uuid.uuid4().hex}"
        if not TRACE_ID.fullmatch(trace_id):
            raise RequestError(f"Invalid id of a trace: {trace_id[:100]!r}.")
        metadata = Fields(info).pairs("trace_metadata" if is_new else "request_metadata")
        job_id = self._runs.job_id
        run_id = metadata.get(TRACE_RUN, job_id)
        if self._runs.store.job_of(run_id) != job_id:
            run_id = job_id
        folder = self._runs.artifacts_of(run_id) / "traces" / trace_id
        info["tags"] = {**Fields(info).pairs("tags"), TRACE_LOCATION: folder.as_uri()}
        if not is_new:
            info |= {"request_id": trace_id, "status": "IN_PROGRESS", "request_metadata": metadata}
        with self._lock:
            self._infos[trace_id] = info
        return {"trace": {"trace_info": info}} if is_new else _in_mlflow_2(info)

    def end(self, request: Fields) -> Json:
        """MLflow 2's."""
        with self._lock:
            info = self._find(request)
            for name in ("request_metadata", "tags"):
                info[name] = {**Fields(info).pairs(name), **request.pairs(name)}
            took = request.moment("timestamp_ms", 0) - Fields(info).moment("timestamp_ms", 0)
            info |= {"status": request.text("status", ""), "execution_time_ms": took}
            return _in_mlflow_2(info)

    def get(self, request: Fields) -> Json:
        with self._lock:
            return {"trace": {"trace_info": self._find(request)}}

    def get_info(self, request: Fields) -> Json:
        """MLflow 2's."""
        with self._lock:
            return _in_mlflow_2(self._find(request))

    def set_tag(self, request: Fields) -> Json:
        with self._lock:
            info = self._find(request)
            info["tags"] = {**Fields(info).pairs("tags"), request.key("key"): request.text("value", "")}
        return {}

    def delete_tag(self, request: Fields) -> Json:
        with self._lock:
            info, name = self._find(request), request.key("key")
            info["tags"] = {key: value for key, value in Fields(info).pairs("tags").items() if key != name}
        return {}

    def _find(self, request: Fields) -> Json:
        trace_id = request.key("trace_id")
        if trace_id not in self._infos:
            raise not_found(f"Trace '{trace_id[:250]}'")
        return self._infos[trace_id]


def _in_mlflow_2(info: Json) -> Json:
    pairs = {name: json_pairs(Fields(info).pairs(name)) for name in ("tags", "request_metadata")}
    return {"trace_info": {**info, **pairs}}
