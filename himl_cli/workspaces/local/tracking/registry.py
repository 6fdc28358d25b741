"""MLflow's registry of models, kept in the workspace's database: what one job registers, later ones find."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from himl_cli.workspaces.local.database import Database
from himl_cli.workspaces.local.run_store import now_ms
from himl_cli.workspaces.local.tracking.fields import Fields, Refused, missing
from himl_cli.workspaces.local.tracking.models import LoggedModels
from himl_cli.workspaces.local.tracking.records import Json, json_pairs, next_page
from himl_cli.workspaces.local.tracking.search import Searchable, order, parse_filter, parse_order

TABLE = "CREATE TABLE IF NOT EXISTS registered_models (name TEXT PRIMARY KEY, document TEXT NOT NULL)"
STAGES = ("None", "Staging", "Production", "Archived")
IS_PROMPT = "mlflow.prompt.is_prompt"  # clients search for what is no prompt: what lacks the tag is none
TIMES = ("creation_timestamp", "last_updated_timestamp")
ATTRIBUTES = frozenset({"name", "version_number", "run_id", "source_path", *TIMES})
MOST_FOUND = 200_000  # of versions, as MLflow's own server allows

Document = dict[str, Any]
"""A registered model with its versions by number (a text). Times are in milliseconds since 1970 UTC."""


class ModelRegistry:
    """Each change is one transaction. *models* knows where the job's own logged models lie."""

    def __init__(self, database: Database, models: LoggedModels) -> None:
        self._database = database
        self._models = models

    def routes(self) -> dict[tuple[str, str], Callable[[Fields], Json]]:
        model, version = "registered-models", "model-versions"
        return {
            ("POST", f"{model}/create"): self.create,
            ("GET", f"{model}/get"): lambda request: {"registered_model": _model_json(self._model(request))},
            ("GET", f"{model}/search"): self.search,
            ("POST", f"{model}/rename"): self.rename,
            ("PATCH", f"{model}/update"): self.describe,
            ("DELETE", f"{model}/delete"): self.delete,
            ("POST", f"{model}/set-tag"): self.set_tag,
            ("DELETE", f"{model}/delete-tag"): self.delete_tag,
            ("GET", f"{model}/get-latest-versions"): self.latest_versions,
            ("POST", f"{model}/get-latest-versions"): self.latest_versions,
            ("POST", f"{model}/alias"): self.set_alias,
            ("GET", f"{model}/alias"): self.of_alias,
            ("DELETE", f"{model}/alias"): self.delete_alias,
            ("POST", f"{version}/create"): self.create_version,
            ("GET", f"{version}/get"): self.version,
            ("GET", f"{version}/get-download-uri"): self.download_uri,
            ("GET", f"{version}/search"): self.search_versions,
            ("PATCH", f"{version}/update"): self.describe,
            ("DELETE", f"{version}/delete"): self.delete_version,
            ("POST", f"{version}/transition-stage"): self.move,
            ("POST", f"{version}/set-tag"): self.set_tag,
            ("DELETE", f"{version}/delete-tag"): self.delete_tag,
        }

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

    def create_version(self, request: Fields) -> Json:
        source, now = request.key("source"), now_ms()
        location, run_id = self._origin(source)
        with self._changing(request) as model:
            model["last"] += 1
            number = str(model["last"])
            texts = {name: request.text(name, "") for name in ("run_link", "description", "model_id")}
            texts["run_id"] = request.text("run_id", "") or run_id
            version: Document = {**texts, **dict.fromkeys(TIMES, now)}
            version |= {"source": source, "location": location, "current_stage": "None", "tags": request.pairs("tags")}
            model["versions"][number] = version
            return {"model_version": _version_json(model, number)}

    def _origin(self, source: str) -> tuple[str, str]:
        """Where the files lie, and of which run they are where that is known.

        A source may be one of the job's logged models, or a version that is registered already.
        """
        if not source.startswith("models:/"):
            return source, ""
        name, _, version = source.removeprefix("models:/").partition("/")
        if version:
            found = self._version(Fields({"name": name, "version": version}))
            return found["location"], found["run_id"]
        return self._models.origin(name)

    def version(self, request: Fields) -> Json:
        self._version(request)
        return {"model_version": _version_json(self._model(request), request.key("version"))}

    def download_uri(self, request: Fields) -> Json:
        return {"artifact_uri": self._version(request)["location"]}

    def rename(self, request: Fields) -> Json:
        new = _new_name(request, "new_name")
        with self._changing(request) as model:
            if new != model["name"] and self._find(new) is not None:
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

    def of_alias(self, request: Fields) -> Json:
        model, alias = self._model(request), request.key("alias")
        if alias not in model["aliases"]:
            raise missing(f"Alias '{alias[:250]}' of the registered model '{model['name']}'")
        return {"model_version": _version_json(model, model["aliases"][alias])}

    def delete_alias(self, request: Fields) -> Json:
        with self._changing(request) as model:
            model["aliases"].pop(request.key("alias"), None)
        return {}

    def move(self, request: Fields) -> Json:
        stage = next((stage for stage in STAGES if stage.lower() == request.key("stage").lower()), None)
        if stage is None:
            raise Refused(f"Invalid stage '{request.key('stage')[:50]}'. Valid values are {', '.join(STAGES)}.")
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
        """The models that match, by name unless ordered otherwise, in pages."""
        models = sorted(self._all(), key=lambda model: str(model["name"]))
        found, more = _matching(request, [_model_json(model) for model in models])
        return {"registered_models": found, **more}

    def search_versions(self, request: Fields) -> Json:
        """The versions that match, the newest first unless ordered otherwise, in pages."""
        versions = [_version_json(model, number) for model in self._all() for number in model["versions"]]
        versions.sort(key=lambda version: (version["creation_timestamp"], int(str(version["version"]))), reverse=True)
        found, more = _matching(request, versions)
        return {"model_versions": found, **more}

    def _all(self) -> list[Document]:
        if not self._database.rows("SELECT 1 FROM sqlite_master WHERE name = 'registered_models'"):
            return []
        return [json.loads(row["document"]) for row in self._database.rows("SELECT document FROM registered_models")]

    def _find(self, name: str) -> Document | None:
        return next((model for model in self._all() if model["name"] == name), None)

    def _model(self, request: Fields) -> Document:
        name = request.key("name")
        found = self._find(name)
        if found is None:
            raise missing(f"Registered model '{name[:250]}'")
        return found

    def _version(self, request: Fields) -> Document:
        request.key("version")
        return _target(self._model(request), request)

    @contextmanager
    def _changing(self, request: Fields) -> Iterator[Document]:
        """The model that the request names, kept as it was left; nobody else changes it meanwhile."""
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
        raise Refused(f"Invalid name of a registered model ({name[:200]!r}): it has '/' or ':' in it.")
    return name


def _exists(name: str) -> Refused:
    return Refused(f"Registered model '{name[:250]}' already exists.", code="RESOURCE_ALREADY_EXISTS")


def _target(model: Document, request: Fields) -> Document:
    """What the request is about: the version that it names, else the model itself."""
    if not request.has("version"):
        return model
    number = request.key("version")
    found: Document | None = model["versions"].get(number)
    if found is None:
        raise missing(f"Version '{number[:50]}' of the registered model '{model['name']}'")
    return found


def _reply(model: Document, request: Fields) -> Json:
    if request.has("version"):
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


def _matching(request: Fields, items: list[Json]) -> tuple[list[Json], Json]:
    """A page of those *items* that the request asks for, in its order; and what says how to ask for the next page."""
    comparisons = parse_filter(request.text("filter", ""), ATTRIBUTES)
    clauses = [parse_order(clause, ATTRIBUTES) for clause in request.texts("order_by")]
    size, start = request.integer("max_results", 100, allowed=range(1, MOST_FOUND + 1)), request.page_start()
    seen = [(_searchable(item), str(place)) for place, item in enumerate(items)]
    found = order([each for each in seen if all(comparison.holds(each[0]) for comparison in comparisons)], clauses)
    return [items[int(place)] for place in found[start : start + size]], next_page(start, size, len(found))


def _searchable(item: Json) -> Searchable:
    more: Json = {"source_path": item.get("source"), "version_number": int(str(item.get("version", 0)))}
    tags = {tag["key"]: tag["value"] for tag in item["tags"]} if isinstance(item["tags"], list) else {}
    return Searchable({**item, **more}, tags={IS_PROMPT: "false", **tags})
