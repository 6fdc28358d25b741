"""hi-ml's functions that find runs, and that read the child runs of a sweep or cross-validation."""

from __future__ import annotations

import glob
import logging
import os
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from himl_cli.api.exceptions import NoChildren, NoRecoveryId, NotThere, PackageMissing, WrongArgument, raising
from himl_cli.api.open_workspace import resolve_run
from himl_cli.api.recording import OfflineRun
from himl_cli.api.transfer import PathLike, download_files_from_run_id
from himl_cli.api.workspace import Run, Workspace
from himl_cli.core.errors import BadUsage, RunNotFound
from himl_cli.core.files import LATEST_RUN_FILE
from himl_cli.core.installation import install_command
from himl_cli.core.logged import Aggregation, RunResults, Value
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import MANY, Scalar, hyperparameters_of
from himl_cli.services.runs import lookup
from himl_cli.services.runs.aggregate import aggregate, children_chosen, value_of
from himl_cli.services.runs.lookup import read_latest_run_file

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

RUN_RECOVERY_FILE = LATEST_RUN_FILE
"""The name of the file with the latest run, which a submission writes to the current folder."""


def fetch_run(workspace: object, run_recovery_id: str) -> Run:
    """The run for *run_recovery_id*: `experiment:run_id`, a run id, a Studio URL, or `latest`.

    *workspace* is himl's or a vendor's object. None means the configured one and the local one. Raises RunNotFound with
    similar ids, BadUsage for an invalid reference.
    """
    return _find_run(run_recovery_id, workspace)


def _find_run(reference: str, workspace: object, config: PathLike | None = None) -> Run:
    opened, record = resolve_run(reference, workspace, config)
    return Run(Workspace.of(opened), record)


def get_most_recent_run(run_recovery_file: str | os.PathLike[str], workspace: object = None) -> Run:
    """The run that a file such as `most_recent_run.txt` names, which `submit` writes.

    Raises NotThere (also a FileNotFoundError) for a missing file, RunNotFound for an unknown run, BadUsage unless the
    file contains exactly one run.
    """
    return fetch_run(workspace, get_most_recent_run_id(run_recovery_file))


def get_most_recent_run_id(run_recovery_file: str | os.PathLike[str]) -> str:
    """The content of the file: `experiment:run_id`, or a run id.

    Raises NotThere (also a FileNotFoundError) for a missing file, BadUsage for other content.
    """
    path = Path(run_recovery_file)
    if not path.exists():
        raise NotThere(
            f"There is no file '{path}'.", hint="Submitting a run writes 'most_recent_run.txt' to the current folder."
        )
    found = read_latest_run_file(path)
    return found.run_id if found.experiment is None else f"{found.experiment}:{found.run_id}"


def create_run_recovery_id(run: Any) -> str:
    """`experiment:run_id` of *run*, which is himl's or azureml-core's."""
    return f"{run.experiment.name}:{run.id}"


def split_recovery_id(id_str: str) -> tuple[str, str]:
    """The experiment and the run id of a recovery id.

    `experiment:run_id` splits at the colon. For a run id such as `EXPERIMENT_<digits>_<hex>` or `EXPERIMENT_<digits>`,
    the experiment is the text before the last two parts, or the last part. Raises NoRecoveryId (also a ValueError) for
    other text.
    """
    with raising(BadUsage, NoRecoveryId):
        return lookup.split_recovery_id(id_str)


def is_running_in_azure_ml(aml_run: Any = None) -> bool:
    """Whether this code runs in an Azure ML job. With *aml_run*, whether that run is in Azure ML and not local.

    A local job of himl does not count, even if an Azure ML workspace is configured. Of azureml-core's objects,
    only the offline run (`Run.get_context()` outside a job) is not in Azure ML.
    """
    from himl_cli.workspaces.resolve import is_in_azure_job, own_local_run

    if aml_run is None:
        return own_local_run() is None and is_in_azure_job()
    if isinstance(aml_run, Run):
        return aml_run.workspace.is_in_azure
    return hasattr(aml_run, "experiment")


def aggregate_hyperdrive_metrics(
    child_run_arg_name: str,
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: str | os.PathLike[str] | None = None,
) -> pd.DataFrame:
    """The metrics of a run's child runs, with a row per metric and a column per child, named by its value of the
    argument *child_run_arg_name*.

    A cell is a list in the order of steps, or the value itself if there is only one. For a table it is a dictionary of
    columns, for an image the name of the run's file. It is NaN if a child has no such metric. The parent is *run*
    (himl's or azureml-core's), or *run_id* in *aml_workspace* or the configured workspaces, the local one first.
    *keep_metrics* selects metrics.

    Column names are values in the children's tags (`df[0.1]`). For a cross-validation, they are strings (`df["0"]`), as
    in hi-ml.

    Raises PackageMissing (also an ImportError) without pandas, NoChildren (also a ValueError) for a run without child
    runs, BadUsage without a run or if no child has the argument, RunNotFound.
    """
    if find_spec("pandas") is None:
        raise PackageMissing(
            "aggregate_hyperdrive_metrics needs pandas, which is not installed.",
            hint=f"Install it: {install_command('frames')}",
        )
    if _is_offline(run):
        return _frame(Aggregation((), ()), [])
    try:
        parent = _given_run(run_id, run, aml_workspace, workspace_config_path)
    except RunNotFound as err:
        err.hint = (
            f"The argument's name comes first: aggregate_hyperdrive_metrics('{run_id}', "
            f"'{child_run_arg_name}')? {err.hint}"
        ).rstrip()
        raise
    return _frame(*_children(child_run_arg_name, parent, keep_metrics))


def _children(argument: str, parent: Run, keep_metrics: Sequence[str] | None) -> tuple[Aggregation, Sequence[Scalar]]:
    """The child runs of *parent* with their metrics, and their names: the value of *argument* if the values differ (1
    and 1.0 do not), or else the label. Raises NoChildren, and BadUsage if no child has *argument*."""
    opened = parent.workspace.opened
    children, found = children_chosen(opened, parent.record)
    if found is None:
        raise NoChildren(
            f"Run '{parent.id}' has no child runs. It is not a sweep, cross-validation or pipeline, or it has not "
            "started any yet."
        )
    globs = [glob.escape(name) for name in keep_metrics or ()]
    together = aggregate(opened, children, child_arg=argument, globs=globs, whole=True)
    values = [value_of(argument, child.run, child.results) for child in together.children]
    is_crossval = parent.tags.get(MANY) == "crossval"
    known = [str(value) if is_crossval else value for value in values if value is not None]
    return together, known if len({*known}) == len(values) else [child.label for child in together.children]


def _is_offline(run: object) -> bool:
    """Whether *run* is the offline run of himl or azureml-core. Logs a warning if so."""
    if not isinstance(run, OfflineRun) and type(run).__name__ != "_OfflineRun":
        return False
    log.warning("This process is not in a job, so its run has no metrics, child runs or files.")
    return True


def _given_run(run_id: str | None, run: object, workspace: object, config: str | os.PathLike[str] | None) -> Run:
    """The given run: himl's, azureml-core's, or *run_id* in the given or configured workspace. Raises NoChildren
    without both."""
    if isinstance(run, Run):
        return run
    if run is not None:
        given: Any = run
        return _find_run(str(given.id), given.experiment.workspace)
    if run_id is None:
        raise NoChildren("A run is missing.", hint="Pass run_id or run.")
    return _find_run(run_id, workspace, config)


def _frame(found: Aggregation, columns: Sequence[Scalar]) -> pd.DataFrame:
    import pandas as pd

    logged = [_logged(child.results) for child in found.children]
    names = sorted({name for each in logged for name in each})
    cells = {
        column: pd.Series([each.get(name, float("nan")) for name in names], index=names, dtype=object)
        for column, each in zip(columns, logged, strict=True)
    }
    return pd.DataFrame(cells, index=names, columns=list(columns)).infer_objects()


def _logged(results: RunResults) -> dict[str, object]:
    """All logged values by name, in hi-ml's form."""
    logged: dict[str, object] = {name: _one_or_all(list(files)) for name, files in results.images.items()}
    logged |= {name: list(values) for name, values in results.lists.items()}
    logged |= {name: _one_or_all([text.value for text in texts]) for name, texts in results.texts.items()}
    logged |= {name: _one_or_all(list(series.values)) for name, series in results.series.items()}
    for name, columns in results.tables.items():
        logged[name] = {column: _one_or_all(values) for column, values in columns.items()}
    return logged


def _one_or_all(values: Sequence[Value]) -> object:
    return values[0] if len(values) == 1 else list(values)


def get_tags_from_hyperdrive_run(run: Any, arg_name: str) -> Scalar | None:
    """The value of the hyperparameter *arg_name* in the tags of the trial *run* (himl's or azureml-core's). None if it
    has no such hyperparameter.

    Raises BadUsage (also a ValueError) if the run is not a trial.
    """
    values = hyperparameters_of(run.tags)
    if not values:
        raise WrongArgument(f"Run '{run.id}' is not a trial of a sweep, as its tags have no hyperparameters.")
    return values.get(arg_name.lstrip("-"))


def get_metrics_for_run(
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: PathLike | None = None,
) -> dict[str, Any]:
    """The metrics of a run by name, as in `Run.get_metrics`, optionally only *keep_metrics*. Logs a warning for missing
    ones.

    The run is *run*, or *run_id* as for `aggregate_hyperdrive_metrics`. Logs a warning if the run is not completed.
    Outside of a job, `RUN_CONTEXT` has no metrics. Raises BadUsage (also a ValueError) without a run.
    """
    if run is None and not run_id:
        raise WrongArgument("A run is missing.", hint="Pass run_id or run.")
    if _is_offline(run):
        return {}
    found = _given_run(run_id, run, aml_workspace, workspace_config_path)
    if found.status != RunStatus.completed.value:
        log.warning("Run '%s' is %s. Its metrics may be incomplete.", found.id, found.status)
    metrics = found.get_metrics()
    for name in keep_metrics or ():
        metrics.update({} if name in metrics else found.get_metrics(name))  # the name of a table
    return _select(metrics, keep_metrics, found.id)


def get_metrics_for_hyperdrive_run(
    child_run_arg_name: str,
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: PathLike | None = None,
) -> dict[Scalar, dict[str, Any]]:
    """The metrics of a run's child runs, by the child's value of *child_run_arg_name*, then by name, with values as in
    `aggregate_hyperdrive_metrics`.

    It selects the parent and raises errors like that function, and does not need pandas.
    """
    if _is_offline(run):
        return {}
    parent = _given_run(run_id, run, aml_workspace, workspace_config_path)
    found, columns = _children(child_run_arg_name, parent, keep_metrics)
    return {
        column: _select(_logged(child.results), keep_metrics, child.run.id)
        for column, child in zip(columns, found.children, strict=True)
    }


def download_files_from_hyperdrive_children(
    run: object, remote_file_paths: str, local_download_folder: PathLike, hyperparam_name: str = ""
) -> list[str]:
    """Download files of each child of *run* to a folder per child in *local_download_folder*, and return their local
    paths.

    *remote_file_paths* are comma-separated names of files or folders. The child's value of *hyperparam_name* names the
    folder, with letters and digits only, as in hi-ml. Logs a warning if a child lacks a file. Raises BadUsage (also a
    ValueError) without *hyperparam_name*, if a child lacks it, and for values that result in the same folder. Raises
    errors of `download_files_from_run_id`.
    """
    if not hyperparam_name:
        raise WrongArgument("hyperparam_name, which names the folders, is missing.", hint="Pass hyperparam_name.")
    if _is_offline(run):
        return []
    parent = _given_run(None, run, None, None)
    folders: dict[str, str] = {}
    for record in children_chosen(parent.workspace.opened, parent.record)[0]:
        value = get_tags_from_hyperdrive_run(record, hyperparam_name)
        if value is None:
            raise WrongArgument(
                f"Run '{record.id}' has no hyperparameter '{hyperparam_name}'.",
                hint=f"Hyperparameters: {', '.join(hyperparameters_of(record.tags))}.",
            )
        name = re.sub("[^A-Za-z0-9]+", "", str(value))
        if name in folders:
            raise WrongArgument(f"Runs '{folders[name]}' and '{record.id}' have the same folder '{name}'.")
        folders[name] = record.id
    found = []
    for folder, run_id in folders.items():
        for name in remote_file_paths.split(","):
            target = Path(local_download_folder) / folder
            try:
                download_files_from_run_id(run_id, target, prefix=name, workspace=parent.workspace)
            except NotThere as err:
                log.warning("%s", err)
            if (target / name).exists():
                found.append(str(target / name))
    return found


def _select(metrics: dict[str, Any], keep: Sequence[str] | None, run_id: str) -> dict[str, Any]:
    for name in keep or ():
        if name not in metrics:
            log.warning("Run '%s' has no metric '%s'.", run_id, name)
    return {name: metrics[name] for name in keep if name in metrics} if keep else metrics
