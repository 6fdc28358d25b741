"""Runs of himl's workspaces for MLflow's clients and its user interface. MLflow finds these plugins automatically:

    mlflow.set_tracking_uri("himl:.")
    mlflow.search_runs(experiment_names=["train"])

A URI is `himl:FOLDER` or `himl:///FOLDER`, for a workspace's own folder (`.himl`) or for the workspaces that himl's
commands use in a folder (local and Azure ML). `himl://azureml` is only the configured Azure ML workspace.
`?workspace=SPEC` and `?config_file=PATH` are like the options of these names.

Clients can read runs, change their names and tags, and permanently delete local runs. himl refuses everything else.
Each error is an MlflowException with the message of himl's error.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from abc import update_abstractmethods
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from functools import cache, cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qs, quote, unquote, urlsplit
from urllib.request import url2pathname

from google.protobuf.json_format import ParseError
from mlflow.entities.metric import MetricWithRunId
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2, model_registry_pb2, service_pb2
from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.entities.paged_list import PagedList
from mlflow.store.model_registry.abstract_store import AbstractStore as AbstractModelStore
from mlflow.store.tracking.abstract_store import AbstractStore
from mlflow.utils.proto_json_utils import parse_dict
from mlflow.utils.search_utils import SearchExperimentsUtils, SearchUtils

from himl_cli.core.errors import (
    BadUsage,
    DiskFailed,
    HimlError,
    IntegrityFailed,
    NotAllowed,
    NotFound,
    RunNotFound,
    ServiceFailed,
    WorkspaceNotFound,
)
from himl_cli.core.files import WORKSPACE_FOLDER, expand_home
from himl_cli.core.logged import RunResults, readable_name
from himl_cli.core.runs import LAST_ATTEMPT, MLFLOW_ADDRESS, MLFLOW_STATUSES, NOTE, REPEATED_BY, Run, RunQuery, own_tags
from himl_cli.core.sweeps import MANY, hyperparameters_of, value_text
from himl_cli.core.workspaces import HOW_TO_CONFIGURE
from himl_cli.workspaces.base import BlobStore, FolderWorkspace, LocalStore, Workspace
from himl_cli.workspaces.resolve import local_folder, open_configured_azure, open_runs
from mlflow import entities

if TYPE_CHECKING:
    from mlflow.entities.dataset_summary import _DatasetSummary

    from himl_cli.workspaces.local.metric_store import MetricStore
    from himl_cli.workspaces.local.tracking.models import ModelRegistry
    from himl_cli.workspaces.local.tracking.protocol import Fields

Plugin = TypeVar("Plugin", bound=type)
# The host in a URI, and the name of a workspace.
AZURE, LOCAL = "azureml", "local"
# The tag by which MLflow's user interface detects a training experiment, without traces and prompts.
EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
# The default order of MLflow's pages.
NEWEST_FIRST = ("attribute", "start_time", False)
# Search keys that are not in a run's record.
VALUES = ("metric", "parameter", "dataset")
# Tags that show a run's record, which MLflow cannot change.
FROM_RECORD = ("mlflow.parentRunId", "mlflow.source.name")
MOST_ENTITIES = 1000  # in a page, unless the request limits it
VERBS = {"add", "complete", "copy", "create", "delete", "end", "finalize", "link", "log", "record", "register"}
VERBS |= {"remove", "rename", "restore", "set", "start", "transition", "update", "upsert", "write"}
# Errors of reading a record with content that himl does not write
NOT_FROM_HIML = (AttributeError, LookupError, TypeError, ValueError, ParseError)
CODES: Mapping[type[HimlError], Any] = {
    NotFound: databricks_pb2.RESOURCE_DOES_NOT_EXIST,
    BadUsage: databricks_pb2.INVALID_PARAMETER_VALUE,
    NotAllowed: databricks_pb2.PERMISSION_DENIED,
    ServiceFailed: databricks_pb2.TEMPORARILY_UNAVAILABLE,
}


@cache
def open_uri(uri: str) -> Workspace:
    """Open the workspace of a URI. Raises BadUsage, NotFound, WorkspaceNotFound."""
    from himl_cli.workspaces.remote.address import is_remote

    parts = urlsplit(uri)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    if parts.netloc not in ("", AZURE):
        hint = f"Use himl:FOLDER, himl:///FOLDER or himl://{AZURE}."
        raise BadUsage(f"'{uri}' contains the host '{parts.netloc}', but himl's URIs have none.", hint=hint)
    folder = Path(url2pathname(parts.path)).absolute() if parts.path.strip("/") else Path.cwd()
    if not folder.is_dir():
        raise NotFound(f"There is no folder '{folder}'.")
    paths = {
        name: str(folder / expand_home(text)) for name, text in options.items() if text != LOCAL and not is_remote(text)
    }
    config_file, spec = paths.get("config_file"), paths.get("workspace", options.get("workspace"))
    if parts.netloc == AZURE and config_file is None:
        azure = open_configured_azure(folder)
        if azure is None:
            text = f"himl://{AZURE} needs an Azure ML workspace, and none is configured."
            raise WorkspaceNotFound(text, hint=HOW_TO_CONFIGURE)
        return azure
    if spec is None and config_file is None and folder.name == WORKSPACE_FOLDER:
        spec = str(folder)
    return open_runs(spec, config_file, start=folder)


def absolute_uri(uri: str) -> str:
    """The URI with its folder made absolute, as another process may have another current folder."""
    parts = urlsplit(uri)
    folder = Path(url2pathname(parts.path)).absolute() if parts.path.strip("/") else Path.cwd()
    return f"himl://{parts.netloc}{folder.as_uri().removeprefix('file://')}{'?' * bool(parts.query)}{parts.query}"


def translated(call: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap *call*, and convert himl's errors to MLflow's."""

    @wraps(call)
    def answer(*args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except HimlError as err:
            code = next((code for kind, code in CODES.items() if isinstance(err, kind)), databricks_pb2.INTERNAL_ERROR)
            # MLflow's words for a missing run, by which some scripts detect it
            words = f"Run with id={err.run} not found. " if isinstance(err, RunNotFound) else ""
            raise MlflowException(f"{words}{err} {err.hint}".rstrip(), error_code=code) from err

    return answer


def read_only(plugin: Plugin) -> Plugin:
    """Convert errors in the methods of *plugin*, and refuse methods of its base classes that it does not define if they
    would change something."""
    own = {name for name in vars(plugin) if not name.startswith("_")}
    for name in own | {name for base in plugin.__bases__ for name in dir(base)}:
        method = None if name.startswith("__") else getattr(plugin, name)
        if not callable(method):
            continue
        if name in vars(plugin):
            setattr(plugin, name, translated(method))
        elif getattr(method, "__isabstractmethod__", False) or name.split("_")[0] in VERBS:
            setattr(plugin, name, _refusal(name))
        else:
            setattr(plugin, name, _or_nothing(method, name))
    update_abstractmethods(plugin)
    return plugin


def _or_nothing(method: Callable[..., Any], name: str) -> Callable[..., Any]:
    """*method* of MLflow's base class, which reads entities that himl does not have unless the class implements it."""

    @wraps(method)
    def read(*args: Any, **kwargs: Any) -> Any:
        try:
            return method(*args, **kwargs)
        except NotImplementedError as err:
            verb, _, entity = name.partition("_")
            if verb in ("list", "search"):
                return PagedList([], None)
            text = f"himl's workspaces have no such {entity.replace('_', ' ') or name}: {', '.join(map(str, args[1:]))}"
            raise MlflowException(text, error_code=databricks_pb2.RESOURCE_DOES_NOT_EXIST) from err

    return read


def _refusal(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        text = f"MLflow cannot {name.strip('_').replace('_', ' ')} in himl's workspaces: they are read-only in MLflow,"
        hint = "except for names, tags and the deletion of runs. Start runs with 'himl submit', or in Python with"
        hint += " himl_cli.create_aml_run_object."
        raise MlflowException(f"{text} {hint}", error_code=databricks_pb2.PERMISSION_DENIED)

    return refuse


@read_only
class RunStore(AbstractStore):  # type: ignore[misc]
    """The experiments and runs of a workspace as MLflow's tracking store. Child runs are runs with a parent."""

    def __init__(self, store_uri: str, artifact_uri: str | None = None) -> None:
        super().__init__()
        self._uri = absolute_uri(store_uri)
        self._workspace = translated(open_uri)(self._uri)
        self._names: dict[str, str] = {}  # names of experiments by id
        # Deleted runs by id. MLflow's page deletes a run and its child runs at the same time, and requests them later.
        self._deleted: dict[str, Run] = {}
        self._deletion = threading.Lock()
        self._folder = local_folder(self._workspace)

    @cached_property
    def _records(self) -> MetricStore:
        """The database of the local workspace."""
        from himl_cli.workspaces.local.metric_store import MetricStore
        from himl_cli.workspaces.local.run_store import Database

        return MetricStore(Database((self._folder or Path()) / "workspace.db"))

    def search_experiments(
        self,
        view_type: int = entities.ViewType.ACTIVE_ONLY,
        max_results: int | None = None,
        filter_string: str | None = None,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        found = [] if view_type == entities.ViewType.DELETED_ONLY else self._experiments()
        found = SearchExperimentsUtils.filter(found, filter_string)
        found = SearchExperimentsUtils.sort(found, order_by or ["creation_time DESC", "experiment_id ASC"])
        return PagedList(*SearchUtils.paginate(found, page_token, _size(max_results, MOST_ENTITIES)))

    def _experiments(self) -> list[entities.Experiment]:
        made = {name: _milliseconds(time) for name, time in self._workspace.experiments().items()}
        self._names = {experiment_id(name): name for name in made}
        tags = [entities.ExperimentTag(*pair) for pair in EXPERIMENT_TAGS.items()]
        return [
            entities.Experiment(number, name, self._uri, "active", tags, made[name], made[name])
            for number, name in self._names.items()
        ]

    def newest_experiment(self) -> str:
        """The id of the newest run's experiment, or an empty text without runs."""
        return next((experiment_id(run.experiment) for run in self._workspace.runs(RunQuery(limit=1))), "")

    def get_experiment(self, experiment_id: str) -> entities.Experiment:
        found = next((each for each in self._experiments() if each.experiment_id == experiment_id), None)
        if found is None:
            raise NotFound(f"No Experiment with id={experiment_id} exists in {self._workspace.label}.")
        return found

    def get_experiment_by_name(self, experiment_name: str) -> entities.Experiment | None:
        return next((each for each in self._experiments() if each.name == experiment_name), None)

    def get_run(self, run_id: str) -> entities.Run:
        if run_id in self._deleted:
            return self._entity(self._deleted[run_id])
        run = self._workspace.run(run_id)
        # The values of nested runs are not the run's own
        is_one = MANY not in run.tags
        children = [*self._workspace.runs(RunQuery(parent=run_id, archived=None))] if is_one else []
        return self._entities([run], beside=children)[0]

    def _search_runs(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None,
        run_view_type: int,
        max_results: int | None,
        order_by: Sequence[str] | None,
        page_token: str | None,
    ) -> tuple[list[entities.Run], str | None]:
        """Search runs. The default order is by start, newest first, and of thousands of runs it only reads those up to
        the page. Azure ML lists its runs by creation, so only their order within a page is by start."""
        max_results = _size(max_results, MOST_ENTITIES)
        conditions = SearchUtils.parse_search_filter(filter_string)
        orders = [SearchUtils.parse_order_by_for_search_runs(clause) for clause in order_by or ()]
        limit = None
        if not conditions and orders in ([], [NEWEST_FIRST]):
            limit = SearchUtils.parse_start_offset_from_page_token(page_token) + max_results + 1
        is_shown = run_view_type != entities.ViewType.DELETED_ONLY
        runs = {run.id: run for run in self._runs_of(experiment_ids, limit)} if is_shown else {}
        if limit is not None:
            newest = sorted(runs.values(), key=lambda run: (-_milliseconds(run.started or run.created), run.id))
            page, token = SearchUtils.paginate(newest, page_token, max_results)
            return self._entities(page), token
        is_by_values = any(
            kind in VALUES for kind in (*(each["type"] for each in conditions), *(each[0] for each in orders))
        )
        found = self._entities(runs.values()) if is_by_values else map(self._entity, runs.values())
        ordered = SearchUtils.sort(SearchUtils.filter([*found], filter_string), [*(order_by or ())])
        page, token = SearchUtils.paginate(ordered, page_token, max_results)
        return page if is_by_values else self._entities(runs[each.info.run_id] for each in page), token

    def _runs_of(self, experiment_ids: Sequence[str], limit: int | None = None) -> Iterator[Run]:
        """The runs of the experiments, at most *limit* of each, newest first."""
        if not self._names.keys() >= {*experiment_ids}:
            self._experiments()
        for name in (self._names[each] for each in experiment_ids if each in self._names):
            yield from self._workspace.runs(RunQuery(name, children=True, limit=limit, by_start=True))

    def _entities(self, runs: Iterable[Run], beside: Sequence[Run] = ()) -> list[entities.Run]:
        """*runs* with their last values. Values of the runs *beside* do not count as those of their parents."""
        runs = [*runs]
        results, problems = self._results([*runs, *beside])
        return [self._entity(run, results[run.id], problems.get(run.id, "")) for run in runs]

    def _results(self, runs: Sequence[Run]) -> tuple[Mapping[str, RunResults], Mapping[str, str]]:
        """The metrics of the runs, and the problems of runs with damaged records."""
        try:
            return self._workspace.results(runs, wanted=lambda name: True, whole=False), {}
        except HimlError as err:
            if len(runs) == 1:
                return {runs[0].id: RunResults()}, {runs[0].id: str(err)}
            parts = [self._results([run]) for run in runs]
            results = {run_id: each for found, _ in parts for run_id, each in found.items()}
            return results, {run_id: text for _, problems in parts for run_id, text in problems.items()}

    def _entity(self, run: Run, results: RunResults | None = None, problem: str = "") -> entities.Run:
        """The run. Without *results*, only its record. The tag `himl.problem` describes damage."""
        from himl_cli.workspaces.local.tracking.tracked_runs import RUN_NAME, USER_TAG

        inputs, outputs = entities.RunInputs([]), entities.RunOutputs([])
        if results is not None:
            try:
                inputs, outputs, _ = self._tracked(run)
            except DiskFailed as err:
                problem = problem or str(err)
        results, name = results or RunResults(), readable_name(run)
        tags = {tag: value for tag, value in run.tags.items() if tag.startswith("mlflow.")} | own_tags(run)
        own = {
            RUN_NAME: name,
            "mlflow.parentRunId": run.parent or "",
            NOTE: run.description,
            "mlflow.source.name": run.command,
            "himl.reason": "" if run.reason == run.status.value.lower() else run.reason,
            "himl.problem": problem,
            **{name: run.tags.get(name, "") for name in (LAST_ATTEMPT, REPEATED_BY)},
            "himl.workspace": run.workspace if run.url else "",
            "himl.studio": run.url,
        }
        began, ended = _milliseconds(run.started or run.created), run.ended and _milliseconds(run.ended)
        metrics = [
            entities.Metric(key, float(value), ended or began, results.steps.get(key, 0), run_id=run.id)
            for key, value in results.last.items()
            if isinstance(value, (int, float))
        ]
        parameters = {key: value_text(value) for key, value in hyperparameters_of(run.tags).items()}
        info = entities.RunInfo(
            run_id=run.id,
            experiment_id=experiment_id(run.experiment),
            user_id=run.tags.get(USER_TAG, ""),
            status=MLFLOW_STATUSES[run.status],
            start_time=began,
            end_time=ended,
            lifecycle_stage="deleted" if run.id in self._deleted else "active",
            artifact_uri=self._artifacts_of(run),
            run_name=name,
        )
        pairs = {**parameters, **results.parameters}
        data = entities.RunData(
            metrics,
            [entities.Param(*pair) for pair in pairs.items()],
            [entities.RunTag(*pair) for pair in (tags | own).items() if pair[1] or pair[0] not in own],
        )
        return entities.Run(info, data, inputs, outputs)

    def _artifacts_of(self, run: Run, folder: str = "") -> str:
        return f"himl-run:/{quote(run.id)}{quote(f'/{folder}' if folder else '')}?store={quote(self._uri, safe='')}"

    def _tracked(self, run: Run) -> tuple[entities.RunInputs, entities.RunOutputs, list[entities.LoggedModel]]:
        """The datasets that a local run read, those that it wrote, and its models, as MLflow's clients recorded them.
        Raises DiskFailed."""
        known = {} if self._folder is None or run.url else self._records.kept(run.id)
        try:
            datasets = [_message(each, service_pb2.DatasetInput()) for each in known.get("dataset_inputs", ())]
            inputs = entities.RunInputs(
                [entities.DatasetInput.from_proto(each) for each in datasets],
                [entities.LoggedModelInput(each["model_id"]) for each in known.get("model_inputs", ())],
            )
            written = [
                entities.LoggedModelOutput(each["model_id"], each["step"]) for each in known.get("model_outputs", ())
            ]
            models = [each for each in known.get("models", ()) if "is_deleted" not in each]
            messages = [_message(each, service_pb2.LoggedModel()) for each in self._with_metrics(models)]
        except NOT_FROM_HIML as err:
            raise DiskFailed(f"The record of run '{run.id}' has content that himl does not write.") from err
        for message in messages:
            message.info.experiment_id = experiment_id(run.experiment)  # a script may name others
            message.info.artifact_uri = self._artifacts_of(run, Path(unquote(message.info.artifact_uri)).name)
        return inputs, entities.RunOutputs(written), [entities.LoggedModel.from_proto(each) for each in messages]

    def _with_metrics(self, models: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
        from himl_cli.workspaces.local.tracking.models import json_metrics_of

        for each in models:
            metrics = json_metrics_of(self._records, each["info"]["model_id"])
            yield {**each, "data": {**each["data"], "metrics": metrics}}

    def _models(self, experiment_ids: Sequence[str]) -> Iterator[entities.LoggedModel]:
        for run in self._runs_of(experiment_ids):
            with suppress(DiskFailed):  # the run's tag himl.problem reports it
                yield from self._tracked(run)[2]

    def get_logged_model(self, model_id: str, allow_deleted: bool = False) -> entities.LoggedModel:
        ids = [each.experiment_id for each in self._experiments()]
        found = next((each for each in self._models(ids) if each.model_id == model_id), None)
        if found is None:
            raise NotFound(f"Logged model with ID '{model_id}' not found in {self._workspace.label}.")
        return found

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        filter_string: str | None = None,
        datasets: Sequence[Mapping[str, Any]] | None = None,
        max_results: int | None = None,
        order_by: Sequence[Mapping[str, Any]] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        from mlflow.utils.search_utils import SearchLoggedModelsUtils

        if any(not each.get("dataset_name") for each in datasets or ()):
            raise BadUsage("Each of 'datasets' must have a 'dataset_name'.")
        models = self._models(experiment_ids)
        found = SearchLoggedModelsUtils.filter_logged_models([*models], filter_string, datasets)
        found = SearchLoggedModelsUtils.sort(found, [*(order_by or ())])
        return PagedList(*SearchLoggedModelsUtils.paginate(found, page_token, _size(max_results, 100)))

    def get_metric_history(
        self, run_id: str, metric_key: str, max_results: int | None = None, page_token: str | None = None
    ) -> PagedList:
        found = [entities.Metric(**point) for point in self.points([run_id], metric_key)]
        return PagedList(*SearchUtils.paginate(found, page_token, _size(max_results, max(len(found), 1))))

    def get_metric_history_bulk_interval(
        self,
        run_ids: Sequence[str],
        metric_key: str,
        max_results: int,
        start_step: int | None = None,
        end_step: int | None = None,
    ) -> list[MetricWithRunId]:
        found = self.points(run_ids, metric_key, max_results, start_step, end_step)
        return [MetricWithRunId(entities.Metric(**point), point["run_id"]) for point in found]

    def points(
        self,
        run_ids: Sequence[str],
        name: str,
        most: int | None = None,
        first: int | None = None,
        last: int | None = None,
    ) -> Iterator[dict[str, Any]]:
        """The points of one metric with MLflow's field names, by run, step and time, from step *first* to *last*. With
        *most*, at most that many per run, evenly spaced, with the first and the last one."""
        from himl_cli.workspaces.local.logged_values import series_of
        from himl_cli.workspaces.local.metric_store import sampled_series

        runs = {run_id: self._workspace.run(run_id) for run_id in run_ids}
        local = [run.id for run in runs.values() if self._folder is not None and not run.url]
        others = [run for run in runs.values() if run.id not in local]
        if most is None:
            found = series_of(self._records.database, local, name) if local else {}
        else:
            sampled = {
                run_id: sampled_series(self._records.database, run_id, name, max(2, most), first, last)
                for run_id in local
            }
            found = {run_id: series for run_id, series in sampled.items() if series is not None}
        if others:
            results = self._workspace.results(others, wanted=lambda each: each == name, whole=True)
            found |= {run_id: each.series[name] for run_id, each in results.items() if name in each.series}
        for run_id, series in ((run_id, found[run_id]) for run_id in runs if run_id in found):
            begin = 0 if first is None else bisect_left(series.steps, first)
            count = (len(series.steps) if last is None else bisect_right(series.steps, last)) - begin
            places: Sequence[int] = range(begin, begin + count)
            if most is not None and count > (most := max(2, most)):
                places = [begin + number * (count - 1) // (most - 1) for number in range(most)]
            for place in places:
                step, value, time = series.steps[place], series.values[place], round(series.times[place] * 1000)
                yield {"key": name, "value": value, "timestamp": time, "step": step, "run_id": run_id}

    def log_batch(
        self,
        run_id: str,
        metrics: Sequence[entities.Metric],
        params: Sequence[entities.Param],
        tags: Sequence[entities.RunTag],
    ) -> None:
        if metrics or params:
            _refusal("log_metrics_and_parameters")()
        for tag in tags:
            if tag.key in FROM_RECORD:  # it would have no effect
                _refusal(f"set_the_tag_{tag.key}")()
        new = {tag.key: tag.value for tag in tags}
        if name := new.pop("mlflow.runName", ""):
            self._workspace.rename(run_id, name)
        if new or not name:
            self._workspace.tag(run_id, new)

    def update_run_info(
        self, run_id: str, run_status: int | None, end_time: int | None, run_name: str | None
    ) -> entities.RunInfo:
        """Rename the run. Refuse another status or end than it has: MLflow's client sends these with a new name."""
        info = self._entity(self._workspace.run(run_id)).info
        status = run_status and entities.RunStatus.to_string(run_status)
        if status not in (None, info.status) or end_time not in (None, info.end_time):
            _refusal("update_run_info")()
        if run_name:
            self._workspace.rename(run_id, run_name)
        return self._entity(self._workspace.run(run_id)).info

    def set_tag(self, run_id: str, tag: entities.RunTag) -> None:
        self.log_batch(run_id, [], [], [tag])

    def delete_tag(self, run_id: str, key: str) -> None:
        if key in (*FROM_RECORD, "mlflow.runName"):
            _refusal(f"delete_the_tag_{key}")()
        if key not in self._workspace.run(run_id).tags:
            raise NotFound(f"No tag with name: {key} in run with id {run_id}")
        self._workspace.tag(run_id, {key: None})

    def delete_run(self, run_id: str) -> None:
        """Permanently delete the run with its descendants and all their files. Does nothing if its parent has just been
        deleted. Raises NotAllowed for a run that is not local."""
        with self._deletion:
            if run_id in self._deleted:
                return
            home = self._workspace.home_of(run_id)
            if not isinstance(home, FolderWorkspace):
                raise NotAllowed(
                    f"Run '{run_id}' is in {home.label}. MLflow can only delete local runs.",
                    hint=f"To delete it with its files: himl runs delete {run_id}",
                )
            below = [home.run(run_id)]
            for run in below:
                below += home.runs(RunQuery(parent=run.id, archived=None))
            try:
                self._deleted |= {run.id: run for run in below}
                home.delete(run_id)
            except BaseException:
                for run in below:
                    self._deleted.pop(run.id, None)
                raise

    def search_traces(self, *args: Any, **kwargs: Any) -> tuple[list[Any], None]:
        return [], None

    def _search_datasets(self, experiment_ids: Sequence[str]) -> list[_DatasetSummary]:
        """The datasets that local runs of the experiments read, by which MLflow's page filters runs."""
        from mlflow.entities.dataset_summary import _DatasetSummary
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        if self._folder is None or not (self._folder / "workspace.db").exists():
            return []
        found: dict[str, _DatasetSummary] = {}
        for experiment, document in self._records.datasets():
            number = experiment_id(experiment)
            if number not in experiment_ids:
                continue
            with suppress(*NOT_FROM_HIML):  # the tag himl.problem of the run reports the damage
                each = entities.DatasetInput.from_proto(_message(json.loads(document), service_pb2.DatasetInput()))
                context = next((tag.value for tag in each.tags if tag.key == MLFLOW_DATASET_CONTEXT), None)
                summary = _DatasetSummary(number, each.dataset.name, each.dataset.digest, context)
                found[repr(summary.to_dict())] = summary
        return [*found.values()]


class JobContext:
    """Records in the run of a local job if its script starts MLflow's runs at another address than himl's. MLflow calls
    it for each run that a script starts."""

    def in_context(self) -> bool:
        from himl_cli.core.redaction import redact
        from himl_cli.workspaces.resolve import own_local_run
        from mlflow import get_tracking_uri

        address = get_tracking_uri()
        if address != os.environ.get("HIML_TRACKING_URI") and (job := own_local_run()) is not None:
            with suppress(HimlError):
                job[0].tag(job[1], {MLFLOW_ADDRESS: redact(address)})
        return False

    def tags(self) -> dict[str, str]:
        return {}


def experiment_id(name: str) -> str:
    from himl_cli.workspaces.local.tracking.protocol import experiment_number

    return experiment_number(name)


def _size(max_results: int | None, default: int) -> int:
    """The size of a page. Raises BadUsage."""
    if max_results is not None and max_results < 1:
        raise BadUsage(f"'max_results' must be a positive integer, not {max_results}.")
    return max_results or default


def _milliseconds(time: datetime) -> int:
    return round(time.timestamp() * 1000)


@read_only
class RunArtifacts(ArtifactRepository):  # type: ignore[misc]
    """The files of a run from a URI of `RunStore`, or of a folder in it."""

    def __init__(self, artifact_uri: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(artifact_uri, *args, **kwargs)
        parts = urlsplit(artifact_uri)
        self._run_id, _, self._folder = url2pathname(parts.path).replace("\\", "/").lstrip("/").partition("/")
        self._uri = parse_qs(parts.query)["store"][-1]

    @property
    def _files(self) -> BlobStore:
        return open_uri(self._uri).run_files(self._run_id)

    def _name(self, path: str | None) -> str:
        return "/".join(part.strip("/") for part in (self._folder, path or "") if part.strip("/"))

    def list_artifacts(self, path: str | None = None) -> list[entities.FileInfo]:
        """Files and folders directly below *path*, sorted by name. Nothing below a file."""
        start = f"{self._name(path)}/".lstrip("/")
        beside = len(f"{self._folder}/".lstrip("/"))
        found: dict[str, entities.FileInfo] = {}
        for page in self._files.list(start):
            for blob in page:
                first, slash, _ = blob.name[len(start) :].partition("/")
                name = f"{start}{first}"[beside:]
                found.setdefault(name, entities.FileInfo(name, bool(slash), None if slash else blob.size))
        return [*found.values()]

    def _download_file(self, remote_file_path: str, local_path: str) -> None:
        """Write the file's bytes. Raises NotFound, IntegrityFailed for a wrong MD5."""
        name, files = self._name(remote_file_path), self._files
        blob = files.stat(name)
        if blob is None:
            raise NotFound(f"Run '{self._run_id}' has no file '{name}'.")
        digest = hashlib.md5(usedforsecurity=False)
        with open(local_path, "wb") as target:
            for data in files.read(name):
                digest.update(data)
                target.write(data)
        if blob.md5 is not None and digest.digest() != blob.md5 and files.stat(name) == blob:
            raise IntegrityFailed(f"'{name}' of run '{self._run_id}' has another MD5 after the download.")

    def get_local_path(self, artifact_path: str) -> str | None:
        """The local path of the file. None if MLflow must download it."""
        files = self._files
        path = files.path_of(self._name(artifact_path)) if isinstance(files, LocalStore) else None
        return str(path) if path is not None and path.is_file() else None


@read_only
class ModelStore(AbstractModelStore):  # type: ignore[misc]
    """The models that jobs registered in a local workspace, as MLflow's registry. It has no models of Azure ML."""

    def __init__(self, store_uri: str | None = None, tracking_uri: str | None = None) -> None:
        super().__init__(store_uri, tracking_uri)
        self._folder = local_folder(translated(open_uri)(absolute_uri(store_uri or "himl:.")))

    @property
    def _has_models(self) -> bool:
        return self._folder is not None and (self._folder / "workspace.db").exists()

    def _ask(self, call: Callable[[ModelRegistry, Fields], Any], **fields: Any) -> Any:
        """The response of the local workspace's registry to a request with *fields*. Raises NotFound without such a
        workspace, and MlflowException."""
        from himl_cli.workspaces.local.run_store import Database
        from himl_cli.workspaces.local.tracking.models import ModelRegistry
        from himl_cli.workspaces.local.tracking.protocol import Fields, RequestError

        if not self._has_models:
            raise NotFound("Only local workspaces have registered models, and there is none.")
        given = Fields({name: value for name, value in fields.items() if value is not None})
        try:
            with closing(Database((self._folder or Path()) / "workspace.db")) as database:
                return call(ModelRegistry(database), given)
        except RequestError as err:
            raise MlflowException(str(err), error_code=databricks_pb2.ErrorCode.Value(err.code)) from err

    def _search(self, what: str, make: Callable[[Any], Any], *given: Any) -> PagedList:
        names = ("filter", "max_results", "order_by", "page_token")
        fields = dict(zip(names, given, strict=True))
        fields["order_by"] = [*(fields["order_by"] or ())]
        answer = self._ask(lambda registry, asked: registry.search(what, asked), **fields) if self._has_models else {}
        return PagedList([make(each) for each in answer.get(what, [])], answer.get("next_page_token"))

    def search_registered_models(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        return self._search("registered_models", _model, filter_string, max_results, order_by, page_token)

    def search_model_versions(
        self,
        filter_string: str | None = None,
        max_results: int | None = None,
        order_by: Sequence[str] | None = None,
        page_token: str | None = None,
    ) -> PagedList:
        return self._search("model_versions", _version, filter_string, max_results, order_by, page_token)

    def get_registered_model(self, name: str) -> RegisteredModel:
        return _model(self._ask(lambda registry, asked: registry.get("model", asked), name=name)["registered_model"])

    def get_latest_versions(self, name: str, stages: Sequence[str] | None = None) -> list[ModelVersion]:
        answer = self._ask(lambda registry, asked: registry.latest_versions(asked), name=name, stages=stages)
        return [_version(each) for each in answer["model_versions"]]

    def get_model_version(self, name: str, version: str | int) -> ModelVersion:
        asked = {"name": name, "version": str(version)}
        return _version(self._ask(lambda registry, asked: registry.get("version", asked), **asked)["model_version"])

    def get_model_version_download_uri(self, name: str, version: str | int) -> str:
        asked = {"name": name, "version": str(version)}
        return str(self._ask(lambda registry, asked: registry.get("uri", asked), **asked)["artifact_uri"])

    def get_model_version_by_alias(self, name: str, alias: str) -> ModelVersion:
        answer = self._ask(lambda registry, asked: registry.get("alias", asked), name=name, alias=alias)
        return _version(answer["model_version"])


def _model(form: Mapping[str, Any]) -> RegisteredModel:
    return RegisteredModel.from_proto(_message(form, model_registry_pb2.RegisteredModel()))


def _version(form: Mapping[str, Any]) -> ModelVersion:
    return ModelVersion.from_proto(_message(form, model_registry_pb2.ModelVersion()))


def _message(form: Mapping[str, Any], empty: Any) -> Any:
    """Fill *empty*, a message of MLflow's protocol, from the JSON *form*."""
    parse_dict(form, empty)
    return empty
