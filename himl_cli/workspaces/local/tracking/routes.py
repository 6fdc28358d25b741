"""Which request is answered by what."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from himl_cli.core.text import NotJson, read_json
from himl_cli.workspaces.local.tracking.experiment import JobExperiment
from himl_cli.workspaces.local.tracking.fields import Fields, Refused
from himl_cli.workspaces.local.tracking.models import LoggedModels
from himl_cli.workspaces.local.tracking.records import Json
from himl_cli.workspaces.local.tracking.registry import ModelRegistry
from himl_cli.workspaces.local.tracking.runs import JobRuns, run_id_of
from himl_cli.workspaces.local.tracking.traces import Traces
from himl_cli.workspaces.local.tracking.values import LoggedValues

PREFIXES = ("/api/2.0/mlflow/", "/api/3.0/mlflow/", "/ajax-api/2.0/mlflow/", "/api/2.0/preview/mlflow/")
MODELS, TRACES = "logged-models", "traces"

Answer = Callable[[Fields], Json]


class Routes:
    """The tracking REST of one job: `answer` maps a request to a reply, or raises `Refused`."""

    def __init__(self, runs: JobRuns) -> None:
        self.runs = runs
        self.models = LoggedModels(runs)
        self.values = LoggedValues(runs, self.models)
        self.traces = Traces(runs)
        self.experiment = JobExperiment(runs)
        registry = ModelRegistry(runs.store.database, self.models).routes()
        self._fixed: dict[tuple[str, str], Answer] = {
            **self._run_routes(),
            **self._value_routes(),
            **self._experiment_routes(),
            **registry,
        }
        self._below = {MODELS: ("model_id", self._model_routes()), TRACES: ("trace_id", self._trace_routes())}

    def answer(self, method: str, path: str, query: str, body: bytes) -> Json:
        """*path* is percent-encoded, without the query."""
        prefix = next((prefix for prefix in PREFIXES if path.startswith(prefix)), None)
        route = path.removeprefix(prefix).rstrip("/") if prefix else None
        answer, named = self._find(method, route) if route else (None, {})
        if answer is None:
            raise Refused(f"No API found for '{method} {path[:300]}'.", code="ENDPOINT_NOT_FOUND", status=404)
        fields = _query_fields(query) if method in ("GET", "DELETE") and not body else _body_fields(body)
        return answer(Fields({**fields, **named}))

    def _find(self, method: str, route: str) -> tuple[Answer | None, dict[str, str]]:
        """What answers, and what the path itself names."""
        if (method, route) in self._fixed:
            return self._fixed[method, route], {}
        parts = [unquote(part) for part in route.split("/", 4)]
        if parts[0] not in self._below or len(parts) < 2:
            return None, {}
        id_name, answers = self._below[parts[0]]
        action = parts[2] if len(parts) > 2 else ""
        named = {id_name: parts[1], **({"tag_key": "/".join(parts[3:])} if len(parts) > 3 else {})}
        return answers.get((method, action, len(parts))), named

    def _run_routes(self) -> dict[tuple[str, str], Answer]:
        runs = self.runs
        return {
            ("GET", "runs/get"): runs.get,
            ("POST", "runs/create"): runs.create,
            ("POST", "runs/update"): runs.update,
            ("POST", "runs/delete"): runs.delete,
            ("POST", "runs/restore"): runs.restore,
            ("POST", "runs/search"): runs.search,
            ("POST", "runs/log-inputs"): self._log_inputs,
            ("POST", "runs/outputs"): self._log_outputs,
        }

    def _value_routes(self) -> dict[tuple[str, str], Answer]:
        values = self.values
        return {
            ("POST", "runs/log-metric"): values.log_metric,
            ("POST", "runs/log-batch"): values.log_batch,
            ("POST", "runs/log-parameter"): values.log_parameter,
            ("POST", "runs/set-tag"): values.set_tag,
            ("POST", "runs/delete-tag"): values.delete_tag,
            ("POST", "runs/log-model"): values.log_model,
            ("GET", "metrics/get-history"): values.history,
            ("GET", "metrics/get-history-bulk-interval"): values.interval,
            ("POST", f"{MODELS}"): self.models.create,
            ("POST", f"{MODELS}/search"): self.models.search,
            ("POST", TRACES): self.traces.start,
        }

    def _experiment_routes(self) -> dict[tuple[str, str], Answer]:
        experiment = self.experiment
        return {
            ("GET", "experiments/get"): experiment.get,
            ("GET", "experiments/get-by-name"): experiment.get,
            ("GET", "experiments/search"): experiment.search,
            ("POST", "experiments/search"): experiment.search,
            ("POST", "experiments/create"): experiment.create,
            ("POST", "experiments/set-experiment-tag"): experiment.set_tag,
            ("POST", "experiments/delete-experiment-tag"): experiment.delete_tag,
            **dict.fromkeys(
                (("POST", f"experiments/{action}") for action in ("update", "delete", "restore")),
                experiment.refuse_change,
            ),
        }

    def _model_routes(self) -> dict[tuple[str, str, int], Answer]:
        """By method, what follows the model's id, and the number of parts."""
        models = self.models
        return {
            ("GET", "", 2): models.get,
            ("PATCH", "", 2): models.finalize,
            ("DELETE", "", 2): models.delete,
            ("PATCH", "tags", 3): models.set_tags,
            ("DELETE", "tags", 4): models.delete_tag,
            ("POST", "params", 3): models.log_params,
        }

    def _trace_routes(self) -> dict[tuple[str, str, int], Answer]:
        """As `_model_routes`."""
        traces = self.traces
        return {
            ("GET", "", 2): traces.get,
            ("GET", "info", 3): traces.get_info,
            ("PATCH", "", 2): traces.end,
            ("PATCH", "tags", 3): traces.set_tag,
            ("DELETE", "tags", 3): traces.delete_tag,
        }

    def _log_inputs(self, request: Fields) -> Json:
        self.runs.lineage.add_inputs(
            self.runs.require(run_id_of(request)), request.items("datasets"), request.items("models")
        )
        return {}

    def _log_outputs(self, request: Fields) -> Json:
        self.runs.lineage.add_outputs(self.runs.require(run_id_of(request)), request.items("models"))
        return {}


def _query_fields(query: str) -> dict[str, object]:
    try:
        found = parse_qs(query, keep_blank_values=True, max_num_fields=1000)
    except ValueError as err:
        raise Refused(f"Invalid query string: {err}.") from err
    return {name: values[0] if len(values) == 1 else values for name, values in found.items()}


def _body_fields(body: bytes) -> dict[str, object]:
    try:
        found = read_json(body) if body.strip() else {}
    except NotJson as err:
        raise Refused(f"The request's body is not valid JSON: {err}.", code="BAD_REQUEST") from err
    if not isinstance(found, dict):
        raise Refused("The request's body must be a JSON object.", code="BAD_REQUEST")
    return found
