"""Entities of MLflow's clients other than runs: logged models, traces, as long as the job runs, and the model registry,
which later jobs share. All but traces are in the workspace's database."""

from __future__ import annotations

import json
import os
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from himl_cli.core.redaction import mask_document
from himl_cli.core.search import MODEL_ATTRIBUTES, TIMES, Searchable, parse_order
from himl_cli.workspaces.local.metric_store import MetricStore, json_number
from himl_cli.workspaces.local.run_store import Database, now_ms, taken_apart
from himl_cli.workspaces.local.tracking.protocol import (
    Fields,
    Json,
    RequestError,
    find_page,
    json_pairs,
    not_found,
    parse_json,
)
from himl_cli.workspaces.local.tracking.tracked_runs import JobRuns

STATUSES = ("LOGGED_MODEL_PENDING", "LOGGED_MODEL_READY", "LOGGED_MODEL_UPLOAD_FAILED")
IS_DELETED = "is_deleted"
UNFIT = set("/\\:.%\"'")  # as in MLflow, since a name is part of URIs and of paths
LONGEST_NAME = 200

PROMPT_TEXT = "mlflow.prompt.text"
PROMPT = "mlflow.prompt.is_prompt"  # the tag of a prompt, which clients store as a registered model
ACTIVE_STAGES = ("Staging", "Production")
STAGES = ("None", *ACTIVE_STAGES, "Archived")
VERSIONS = "mlflow.modelVersions"
METRICS_OF_MODEL = (
    "SELECT name AS key, value, time AS timestamp, step, run AS run_id, model AS model_id, dataset_name, "
    "dataset_digest FROM model_metrics WHERE model = ? ORDER BY step, time"
)
REGISTRY_ATTRIBUTES = frozenset({"name", "version_number", "run_id", "source_path", "timestamp", *TIMES})


# What himl knows of a logged model or a registered model. Times are in milliseconds since 1970 UTC.
Document = dict[str, Any]


class LoggedModels:
    """MLflow 3's logged models of a job, including those of its earlier attempts, with artifacts of the run as their
    files. Thread-safe."""

    def __init__(self, runs: JobRuns) -> None:
        self.runs = runs
        self._lock = threading.RLock()

    @cached_property
    def _models(self) -> dict[str, Document]:
        """By id, in the order of their creation."""
        found: list[Document] = []
        for run_id in self.runs.store.descendants(self.runs.job_id):
            for form in self.runs.metric_store.kept(run_id).get("models", ()):
                info, data = Fields(form["info"]), Fields(form["data"])
                folder = self.runs.artifacts_of(run_id) / Path(unquote(info.text("artifact_uri"))).name
                pairs = {"tags": info.pairs("tags"), "params": data.pairs("params")}
                found.append({**info.values, **pairs, "artifact_uri": folder.as_uri(), IS_DELETED: IS_DELETED in form})
        found.sort(key=lambda model: Fields(model).integer("creation_timestamp_ms"))
        return {model["model_id"]: model for model in found}

    def create(self, request: Fields) -> Json:
        """Create a model of a run, with its files in the run's artifacts under the model's name, as in MLflow 2."""
        source_run = request.text("source_run_id", "")
        artifacts = self.runs.artifacts_of(self.runs.require(source_run or self.runs.job_id))
        model_id = f"m-{os.urandom(16).hex()}"
        name = request.text("name", "") or model_id
        if UNFIT & set(name) or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            raise RequestError(
                f"Invalid model name ({name[:LONGEST_NAME]!r}): at most {LONGEST_NAME} bytes, without "
                f"{' '.join(sorted(UNFIT))}."
            )
        model: Document = {
            "model_id": model_id,
            "experiment_id": self.runs.find_experiment(request),
            "name": name,
            **dict.fromkeys((f"{each}_ms" for each in TIMES), now_ms()),
            "status": STATUSES[0],
            "model_type": request.text("model_type", ""),
            "source_run_id": source_run,
            "tags": request.masked_pairs("tags"),
            "params": request.masked_pairs("params"),
            IS_DELETED: False,
        }
        with self._lock:
            taken = {each["artifact_uri"].casefold() for each in self._models.values()}
            same = [each for each in self._models.values() if each["name"] == name]
            folder, number = artifacts / name, max(1, sum(each.get("source_run_id", "") == source_run for each in same))
            while folder.as_uri().casefold() in taken or folder.exists():
                number += 1
                folder = artifacts / f"{name}-{number}"
            model["artifact_uri"] = folder.as_uri()
            self._models[model_id] = model
            return self._kept(model)

    def find(self, request: Fields) -> Document:
        model_id = request.text("model_id")
        with self._lock:
            model = self._models.get(model_id)
        if model is None or (model[IS_DELETED] and request.text("allow_deleted", "") != "true"):
            raise not_found(f"Logged model with ID '{model_id[:250]}' not found.")
        return model

    def note_version(self, model_id: str, name: str, number: int) -> None:
        """Add a registered version to the tag in which MLflow lists those of a logged model. Raises RequestError."""
        with self._lock:
            model = self.find(Fields({"model_id": model_id}))
            known = parse_json(model["tags"].get(VERSIONS, "[]"))
            versions = [*(known if isinstance(known, list) else []), {"name": name, "version": number}]
            model["tags"][VERSIONS] = json.dumps(versions)
            self._kept(model)

    def edit(self, action: str, request: Fields) -> Json:
        """Apply *action* to the model in the request's path, and return it. "get" changes nothing, and "delete" keeps
        the files."""
        with self._lock:
            model = self.find(request)
            match action:
                case "get":
                    return self._json(model)
                case "set tags":
                    model["tags"].update(request.masked_pairs("tags"))
                case "log params":
                    model["params"].update(request.masked_pairs("params"))
                case "delete":
                    model[IS_DELETED] = True
                case "delete tag":
                    if model["tags"].pop(request.text("tag_key"), None) is None:
                        name = request.text("tag_key")[:250]
                        raise not_found(f"No tag with key {name!r} found for model with ID '{model['model_id']}'.")
                case "finalize":
                    status = request.text("status")
                    if status not in STATUSES[1:]:
                        known = ", ".join(STATUSES[1:])
                        raise RequestError(f"Invalid model status '{status[:50]}'. Valid values are {known}.")
                    model["status"] = status
            model["last_updated_timestamp_ms"] = now_ms()
            form = self._kept(model)
            return {} if action == "delete" else form

    def search(self, request: Fields) -> Json:
        """Matching models, newest first by default, in pages."""
        clauses = []
        for item in request.items("order_by"):
            entity, key, _ = parse_order(item.text("field_name"), MODEL_ATTRIBUTES)
            dataset = item.text("dataset_name", ""), item.text("dataset_digest", "")
            key = "\0".join((key, *dataset)) if entity == "metrics" and any(dataset) else key
            clauses.append((entity, key, item.values.get("ascending") is not False))
        wanted, items = request.texts("experiment_ids"), []
        datasets = [(item.text("dataset_name"), item.text("dataset_digest", "")) for item in request.items("datasets")]
        with self._lock:
            models = [each for each in reversed(self._models.values()) if each["experiment_id"] in wanted]
            for model in [each for each in models if not each[IS_DELETED]]:
                times = {name: model[f"{name}_ms"] for name in TIMES}
                times["creation_time"] = times["creation_timestamp"]
                status = model["status"].removeprefix("LOGGED_MODEL_")
                attributes = {**model, **times, "model_name": model["name"], "status": status}
                logged = json_metrics_of(self.runs.metric_store, model["model_id"])
                of_datasets = {
                    "\0".join((str(each["key"]), name, digest)): float(str(each["value"]))
                    for each in logged
                    for name in ("", str(each.get("dataset_name")))
                    for digest in ("", str(each.get("dataset_digest")))
                }
                if datasets:
                    logged = [
                        each
                        for each in logged
                        if any(
                            each.get("dataset_name") == name and digest in ("", each.get("dataset_digest"))
                            for name, digest in datasets
                        )
                    ]
                metrics = {str(each["key"]): float(str(each["value"])) for each in logged}
                if datasets and not metrics:
                    continue
                items.append((Searchable(attributes, of_datasets | metrics, model["params"], model["tags"]), model))
            found, more = find_page(
                request, items, attributes=MODEL_ATTRIBUTES, clauses=clauses, default=100, most=1000
            )
            return {"models": [self._json(model)["model"] for model in found], **more}

    def _kept(self, model: Document) -> Json:
        """Store the model with its run, without its metrics, and return its JSON form."""
        form: Document = self._json(model)
        stored = {**form["model"], **({IS_DELETED: True} if model[IS_DELETED] else {})}
        run_id = model.get("source_run_id") or self.runs.job_id
        self.runs.metric_store.keep(run_id, {"models": {model["model_id"]: stored}})
        return form

    def _json(self, model: Document) -> Json:
        metrics = json_metrics_of(self.runs.metric_store, model["model_id"])
        own = {name: value for name, value in model.items() if name not in ("params", IS_DELETED) and value != ""}
        info = {**own, "tags": json_pairs(model["tags"])}
        return {"model": {"info": info, "data": {"params": json_pairs(model["params"]), "metrics": metrics}}}


def json_metrics_of(store: MetricStore, model_id: str) -> list[Json]:
    """The metrics of a logged model as clients read them, by step, then time."""
    with taken_apart(store.database.path):
        return [
            {name: value for name, value in dict(row).items() if value != ""}
            | {"value": json_number(float(row["value"]))}
            for row in store.database.rows(METRICS_OF_MODEL, (model_id,))
        ]


class ModelRegistry:
    """Registered models, each with its versions by number (a text). Each change is one transaction. *models* has the
    folders of the job's logged models, and is not needed for reading."""

    def __init__(self, database: Database, models: LoggedModels | None = None) -> None:
        self._database = database
        self._models = models

    def create(self, request: Fields) -> Json:
        name, now = _new_name(request, "name"), now_ms()
        model: Document = {
            "name": name,
            **dict.fromkeys(TIMES, now),
            "description": request.text("description", ""),
            "tags": request.masked_pairs("tags"),
            "aliases": {},
            "versions": {},
            "last": 0,
        }
        with self._database.writing(durable=True) as connection:
            insert = "INSERT OR IGNORE INTO registered_models VALUES (?,?)"
            if not connection.execute(insert, (name, json.dumps(model))).rowcount:
                raise _exists(name)
        return _reply(model)

    def get(self, what: str, request: Fields) -> Json:
        """A model, one of its versions by number or alias, or the location of a version's files."""
        model = self._model(request)
        match what:
            case "model":
                return _reply(model)
            case "alias":
                alias = request.text("alias")
                newest = max(model["versions"], key=int, default=None)
                number = newest if alias.lower() == "latest" else model["aliases"].get(alias)
                if number is None:
                    raise RequestError(f"Registered model alias {alias[:250]} not found.")  # MLflow's code is this one
                return _reply(model, number)
        number, version = request.text("version"), _target(model, request)
        return _reply(model, number) if what == "version" else {"artifact_uri": version["location"]}

    def create_version(self, request: Fields) -> Json:
        """Register a version. If its source is one of the job's logged models or another version, it has the files and
        the run of that source."""
        source, now, run_id, model_id = request.text("source"), now_ms(), "", request.text("model_id", "")
        location, tags = source, request.masked_pairs("tags")
        if PROMPT_TEXT in tags:  # content, as that of a file
            tags[PROMPT_TEXT] = request.pairs("tags")[PROMPT_TEXT]
        if model_id and self._models is not None:
            with suppress(RequestError):  # a model of another job
                run_id = self._models.find(Fields({"model_id": model_id})).get("source_run_id", "")
        if source.startswith("models:/"):
            name, _, version = source.removeprefix("models:/").partition("/")
            if version:
                named = Fields({"name": name, "version": version})
                found = _target(self._model(named), named)
                location, run_id = found["location"], found["run_id"]
            elif self._models is not None:
                model_of = self._models.find(Fields({"model_id": name}))
                location, run_id = model_of["artifact_uri"], model_of.get("source_run_id", "")
        created: Document = {
            **{name: request.text(name, "") for name in ("run_link", "description")},
            "model_id": model_id,
            "run_id": request.text("run_id", "") or run_id,
            **dict.fromkeys(TIMES, now),
            "current_stage": "None",
            "source": source,
            "location": location,
            "tags": tags,
        }
        with self._changing(request) as model:
            model["last"] += 1
            model["versions"][str(model["last"])] = created
            reply = _reply(model, str(model["last"]))
        if model_id and self._models is not None:
            with suppress(RequestError):
                self._models.note_version(model_id, str(model["name"]), int(model["last"]))
        return reply

    def edit(self, action: str, request: Fields) -> Json:
        """Change the model or the version in the request. A deleted version's files belong to the run, and stay."""
        # Tags, aliases and descriptions of versions leave the time of the model
        is_newer = action in ("rename", "transition stage", "delete version")
        is_newer = is_newer or (action == "describe" and not request.has("version"))
        with self._changing(request, is_newer=is_newer) as model:
            target, aliases = _target(model, request), model["aliases"]
            match action:
                case "rename":
                    new = _new_name(request, "new_name")
                    if new != model["name"] and any(each["name"] == new for each in self._all()):
                        raise _exists(new)
                    model["name"] = new
                case "describe":
                    target["description"] = request.text("description", "")
                case "transition stage":
                    wanted = request.text("stage").capitalize()
                    if wanted not in STAGES:
                        raise RequestError(
                            f"Invalid stage '{request.text('stage')[:50]}'. Valid values are {', '.join(STAGES)}."
                        )
                    is_archiving = request.values.get("archive_existing_versions") is True
                    if is_archiving and wanted not in ACTIVE_STAGES:
                        raise RequestError(
                            f"'archive_existing_versions' needs a stage of {' or '.join(ACTIVE_STAGES)}."
                        )
                    for each in model["versions"].values():
                        if is_archiving and each["current_stage"] == wanted:
                            each["current_stage"] = "Archived"
                    target["current_stage"] = wanted
                case "set tag":
                    name = request.text("key")
                    target["tags"][name] = mask_document(request.text("value", ""), name)
                case "delete tag":
                    target["tags"].pop(request.text("key"), None)
                case "set alias":
                    alias = request.text("alias")
                    if not re.fullmatch(r"[\w-]{1,256}", alias) or re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
                        rule = "at most 256 letters, digits, '_' and '-', and neither 'latest' nor 'v' with a number"
                        raise RequestError(f"Invalid alias name: '{alias[:250]}'. It must be {rule}.")
                    aliases[alias] = request.text("version")
                case "delete alias":
                    aliases.pop(request.text("alias"), None)
                case "delete version":
                    number = request.text("version")
                    del model["versions"][number]
                    model["aliases"] = {alias: other for alias, other in aliases.items() if other != number}
            number = request.text("version", "")
            if action in ("describe", "transition stage"):
                target["last_updated_timestamp"] = now_ms()
            return _reply(model, number) if action in ("rename", "describe", "transition stage") else {}

    def delete(self, request: Fields) -> Json:
        name = self._model(request)["name"]
        with self._database.writing(durable=True) as connection:
            connection.execute("DELETE FROM registered_models WHERE name = ?", (name,))
        return {}

    def latest_versions(self, request: Fields) -> Json:
        stages = {stage.lower() for stage in request.texts("stages") or STAGES}
        latest = _latest(self._model(request))
        return {"model_versions": [each for each in latest if each["current_stage"].lower() in stages]}

    def search(self, what: str, request: Fields) -> Json:
        """Matching models, sorted by name by default, or versions, last changed first by default, in pages. Omits
        prompts unless the filter has their tag."""
        models = sorted(self._all(), key=lambda model: str(model["name"]))
        found = [_model_json(model) for model in models]
        if what == "model_versions":
            found = [_version_json(model, number) for model in models for number in model["versions"]]
            found.sort(key=lambda each: (each["name"], -int(each["version"])))
            if not request.texts("order_by"):
                found.sort(key=lambda each: each["last_updated_timestamp"], reverse=True)
        items, has_prompts = [], PROMPT in request.text("filter", "")
        for each in found:
            if not has_prompts and Fields(each).pairs("tags").get(PROMPT, "").lower() == "true":
                continue
            attributes = {**each, "source_path": each.get("source"), "version_number": int(each.get("version", 0))}
            attributes["timestamp"] = each["last_updated_timestamp"]
            # Clients search for models that are not prompts, which includes models without the tag
            tags = {PROMPT: "false", **Fields(each).pairs("tags")}
            items.append((Searchable(attributes, tags=tags), each))
        page, more = find_page(request, items, attributes=REGISTRY_ATTRIBUTES, default=100, most=200_000)
        return {what: page, **more}

    def _all(self) -> list[Document]:
        return [json.loads(row["document"]) for row in self._database.rows("SELECT document FROM registered_models")]

    def _model(self, request: Fields) -> Document:
        name = request.text("name")
        found = next((model for model in self._all() if model["name"] == name), None)
        if found is None:
            raise not_found(f"Registered Model with name={name[:250]} not found")
        return found

    @contextmanager
    def _changing(self, request: Fields, *, is_newer: bool = True) -> Iterator[Document]:
        """The model in the request, locked within the context and stored at its end, with *is_newer* as changed now."""
        with self._database.writing(durable=True) as connection:
            model = self._model(request)
            name = model["name"]
            yield model
            if is_newer:
                model["last_updated_timestamp"] = now_ms()
            values = (model["name"], json.dumps(model), name)
            connection.execute("UPDATE registered_models SET name = ?, document = ? WHERE name = ?", values)


def _new_name(request: Fields, field: str) -> str:
    name = request.text(field)
    if {"/", ":"} & set(name):
        raise RequestError(f"Invalid model name '{name[:200]}'. Names cannot contain '/' or ':'.")
    return name


def _exists(name: str) -> RequestError:
    return RequestError(f"Registered Model (name={name[:250]}) already exists.", code="RESOURCE_ALREADY_EXISTS")


def _target(model: Document, request: Fields) -> Document:
    """The version in the request, else the model itself."""
    if not request.has("version"):
        return model
    number = request.text("version")
    if not number.isdecimal():
        raise RequestError(f"Parameter 'version' must be an integer, got '{number[:50]}'.")
    found: Document | None = model["versions"].get(number)
    if found is None:
        raise not_found(f"Model Version (name={model['name']}, version={number[:50]}) not found")
    return found


def _reply(model: Document, number: str = "") -> Json:
    if number:
        return {"model_version": _version_json(model, number)}
    return {"registered_model": _model_json(model)}


def _model_json(model: Document) -> Document:
    aliases = [{"alias": alias, "version": number} for alias, number in model["aliases"].items()]
    shown = {name: model[name] for name in ("name", *TIMES, "description")}
    return {**shown, "latest_versions": _latest(model), "tags": json_pairs(model["tags"]), "aliases": aliases}


def _version_json(model: Document, number: str) -> Document:
    version = model["versions"][number]
    aliases = [alias for alias, named in model["aliases"].items() if named == number]
    shown = {name: value for name, value in version.items() if name != "location"}
    own = {"name": model["name"], "version": number, "status": "READY"}
    return {**shown, **own, "tags": json_pairs(version["tags"]), "aliases": aliases}


def _latest(model: Document) -> list[Document]:
    newest = {model["versions"][number]["current_stage"]: number for number in sorted(model["versions"], key=int)}
    return [_version_json(model, number) for number in newest.values()]


class Traces:
    """Traces (`mlflow.trace`). The client writes the spans of each to a file of the run, `traces/ID/traces.json`.

    MLflow 3 sends a trace once it has ended. MLflow 2 sends its start and its end, with pairs in place of maps.
    """

    def __init__(self, runs: JobRuns) -> None:
        self._runs = runs
        self._lock = threading.Lock()
        self._infos: dict[str, Json] = {}

    def start(self, request: Fields) -> Json:
        is_new = request.has("trace")
        info = dict((request.item("trace").item("trace_info") if is_new else request).values)
        trace_id = Fields(info).text("trace_id") if is_new else f"tr-{uuid.uuid4().hex}"
        if not re.fullmatch(r"[\w-]{1,100}", trace_id, re.ASCII):  # it names a folder
            raise RequestError(f"Invalid id of a trace: {trace_id[:100]!r}.")
        metadata = Fields(info).pairs("trace_metadata" if is_new else "request_metadata")
        job_id = self._runs.job_id
        run_id = metadata.get("mlflow.sourceRun", job_id)
        if self._runs.store.job_of(run_id) != job_id:
            run_id = job_id
        folder = self._runs.artifacts_of(run_id) / "traces" / trace_id
        info["tags"] = {**Fields(info).pairs("tags"), "mlflow.artifactLocation": folder.as_uri()}
        if not is_new:
            info |= {"request_id": trace_id, "status": "IN_PROGRESS", "request_metadata": metadata}
        with self._lock:
            self._infos[trace_id] = info
        return {"trace": {"trace_info": info}} if is_new else _in_mlflow_2(info)

    def get(self, action: str, request: Fields) -> Json:
        """Apply *action* to the trace in the request, and return it: nothing, the end of a trace in MLflow 2, or a tag
        to set or delete."""
        trace_id = request.text("trace_id")
        with self._lock:
            if trace_id not in self._infos:
                raise not_found(f"Trace with ID '{trace_id[:250]}' not found.")
            info = self._infos[trace_id]
            tags = Fields(info).pairs("tags")
            match action:
                case "set tag":
                    info["tags"] = {**tags, request.text("key"): request.text("value", "")}
                case "delete tag":
                    if tags.pop(name := request.text("key"), None) is None:
                        raise not_found(f"No trace tag with key '{name[:250]}' for trace with ID '{trace_id}'")
                    info["tags"] = tags
                case "end":
                    for name in ("request_metadata", "tags"):
                        info[name] = {**Fields(info).pairs(name), **request.pairs(name)}
                    took = request.moment("timestamp_ms", 0) - Fields(info).moment("timestamp_ms", 0)
                    info |= {"status": request.text("status", ""), "execution_time_ms": took}
            if action == "get":
                return {"trace": {"trace_info": info}}
            return {} if action.endswith("tag") else _in_mlflow_2(info)


def _in_mlflow_2(info: Json) -> Json:
    pairs = {name: json_pairs(Fields(info).pairs(name)) for name in ("tags", "request_metadata")}
    return {"trace_info": {**info, **pairs}}
