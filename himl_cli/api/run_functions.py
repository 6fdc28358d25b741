"""hi-ml's functions that find runs, and those that read the children of a sweep or cross-validation."""

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
from himl_cli.core.installation import install_command
from himl_cli.core.jobs import MANY, Scalar, hyperparameters_of
from himl_cli.core.logged import Aggregation, RunResults, Value
from himl_cli.core.runs import RunStatus
from himl_cli.services.runs import lookup
from himl_cli.services.runs.aggregate import aggregate, children_chosen, value_of
from himl_cli.services.runs.lookup import read_latest_run_file

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


def fetch_run(workspace: object, run_recovery_id: str) -> Run:
    """The run that *run_recovery_id* means: `experiment:run_id`, a run id, a Studio URL, or `latest`.

    *workspace* is himl's, or a vendor's object; None means the one configured, and runs kept here as well. Raises
    RunNotFound naming similar ids, BadUsage for text that is no run.
    """
    return _find_run(run_recovery_id, workspace)


def _find_run(reference: str, workspace: object, config: PathLike | None = None) -> Run:
    opened, record = resolve_run(reference, workspace, config)
    return Run(Workspace.of(opened), record)


def get_most_recent_run(run_recovery_file: str | os.PathLike[str], workspace: object = None) -> Run:
    """The run that the file names, `most_recent_run.txt` say, as `submit` writes it.

    Raises NotThere (also a FileNotFoundError) where there is no file, RunNotFound for a run that is not there, BadUsage
    for a file that holds anything but one run.
    """
    return fetch_run(workspace, get_most_recent_run_id(run_recovery_file))


def get_most_recent_run_id(run_recovery_file: str | os.PathLike[str]) -> str:
    """The one line of the file: `experiment:run_id`, or a run id.

    Raises NotThere (also a FileNotFoundError) for no file, BadUsage for anything else in it.
    """
    path = Path(run_recovery_file)
    if not path.exists():
        raise NotThere(
            f"There is no file '{path}'.", hint="It is written where a run is submitted: 'most_recent_run.txt'."
        )
    found = read_latest_run_file(path)
    return found.run_id if found.experiment is None else f"{found.experiment}:{found.run_id}"


def create_run_recovery_id(run: Any) -> str:
    """`experiment:run_id` of *run*, himl's or azureml-core's."""
    return f"{run.experiment.name}:{run.id}"


def split_recovery_id(id_str: str) -> tuple[str, str]:
    """The experiment and the run id in a recovery id.

    `experiment:run_id` is split at the colon; of a run id such as `EXPERIMENT_<digits>_<hex>` or `EXPERIMENT_<digits>`
    the experiment is all before the last two parts, or the last. Raises NoRecoveryId (also a ValueError) for other
    text.
    """
    with raising(BadUsage, NoRecoveryId):
        return lookup.split_recovery_id(id_str)


def is_running_in_azure_ml(aml_run: Any = None) -> bool:
    """Whether this code runs in an Azure ML job; with *aml_run*, whether that is a run in Azure ML, not one kept here.

    A job that himl runs here is none, whatever workspace is configured. Of azureml-core's objects, only the one that
    stands for no run (`Run.get_context()` outside a job) is not in Azure ML.
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
    """The metrics of a run's children: a row a metric, a column a child, called by its value of the argument
    *child_run_arg_name*.

    A cell is a list in the order of steps, or the value itself where there is one only; of a table a dictionary of
    columns; of an image the name of the run's file. It is NaN where a child has nothing. The parent is *run* (himl's,
    or azureml-core's) or the one that *run_id* means, in *aml_workspace* or the one configured as for `get_workspace`,
    here first where both have been used. *keep_metrics* leaves out other metrics.

    Columns are called as the children's tags have the values (`df[0.1]`); of a cross-validation they are texts, as
    hi-ml's (`df["0"]`).

    Raises PackageMissing (also an ImportError) where pandas is not installed, NoChildren (also a ValueError) for a run
    without children, BadUsage where neither run is given or no child has the argument, RunNotFound.
    """
    if find_spec("pandas") is None:
        raise PackageMissing(
            "aggregate_hyperdrive_metrics gives a DataFrame, and pandas is not installed.",
            hint=f"Install it: {install_command('frames')}",
        )
    if _is_offline(run):
        return _frame(Aggregation((), ()), [])
    try:
        parent = _given_run(run_id, run, aml_workspace, workspace_config_path)
    except RunNotFound as err:
        err.hint = (
            f"The name of the argument comes first: aggregate_hyperdrive_metrics('{run_id}', "
            f"'{child_run_arg_name}')? {err.hint}"
        ).rstrip()
        raise
    return _frame(*_children(child_run_arg_name, parent, keep_metrics))


def _children(argument: str, parent: Run, keep_metrics: Sequence[str] | None) -> tuple[Aggregation, Sequence[Scalar]]:
    """The children of *parent* with what they logged, and what each is called: its value of *argument* where those tell
    the children apart (1 and 1.0 do not), else its label. Raises NoChildren, and BadUsage where none has *argument*."""
    opened = parent.workspace.opened
    children, found = children_chosen(opened, parent.record)
    if found is None:
        raise NoChildren(
            f"Run '{parent.id}' has no children: it is no sweep, cross-validation or pipeline, or has not started "
            "any yet."
        )
    globs = [glob.escape(name) for name in keep_metrics or ()]
    together = aggregate(opened, children, child_arg=argument, globs=globs, whole=True)
    values = [value_of(argument, child.run, child.results) for child in together.children]
    is_crossval = parent.tags.get(MANY) == "crossval"
    known = [str(value) if is_crossval else value for value in values if value is not None]
    return together, known if len({*known}) == len(values) else [child.label for child in together.children]


def _is_offline(run: object) -> bool:
    """Whether *run* is the run context of a process that is part of no job, himl's or azureml-core's; a warning says
    so."""
    if not isinstance(run, OfflineRun) and type(run).__name__ != "_OfflineRun":
        return False
    log.warning("This process is part of no job: its run has no metrics, children or files.")
    return True


def _given_run(run_id: str | None, run: object, workspace: object, config: str | os.PathLike[str] | None) -> Run:
    """The run that one of the two says: himl's, azureml-core's, or an id in the workspace given or configured. Raises
    NoChildren where neither does."""
    if isinstance(run, Run):
        return run
    if run is not None:
        given: Any = run
        return _find_run(str(given.id), given.experiment.workspace)
    if run_id is None:
        raise NoChildren("Which run is meant has to be said.", hint="Give run_id or run.")
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
    """All that was logged by name, as hi-ml has it."""
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
    """The value of the hyperparameter *arg_name* that the trial *run* has (himl's run or azureml-core's), as its tag
    tells it; None for one it has not.

    Raises BadUsage (also a ValueError) for a run that is no trial.
    """
    values = hyperparameters_of(run.tags)
    if not values:
        raise WrongArgument(f"Run '{run.id}' is no trial of a sweep: its tags tell no hyperparameters.")
    return values.get(arg_name.lstrip("-"))


def get_metrics_for_run(
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: PathLike | None = None,
) -> dict[str, Any]:
    """The metrics of one run by name, as `Run.get_metrics`; of *keep_metrics* those that are there, the others are
    named in the log.

    The run is *run*, or the one that *run_id* means, as for `aggregate_hyperdrive_metrics`. A run that is not completed
    is told in the log; outside of a job, `RUN_CONTEXT` has no metrics. Raises BadUsage (also a ValueError) where
    neither is given.
    """
    if run is None and not run_id:
        raise WrongArgument("Which run is meant has to be said.", hint="Give run_id or run.")
    if _is_offline(run):
        return {}
    found = _given_run(run_id, run, aml_workspace, workspace_config_path)
    if found.status != RunStatus.completed.value:
        log.warning("Run '%s' is %s: its metrics may be incomplete.", found.id, found.status)
    return _select(found.get_metrics(), keep_metrics, found.id)


def get_metrics_for_hyperdrive_run(
    child_run_arg_name: str,
    run_id: str | None = None,
    run: object = None,
    keep_metrics: Sequence[str] | None = None,
    aml_workspace: object = None,
    workspace_config_path: PathLike | None = None,
) -> dict[Scalar, dict[str, Any]]:
    """The metrics of a run's children: by the child's value of *child_run_arg_name*, then by name, with values as in
    `aggregate_hyperdrive_metrics`.

    The parent is meant, and errors are raised, as there; pandas is not needed.
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
    """Download files of each child of *run* to a folder of its own below *local_download_folder*; the paths of what is
    there then.

    *remote_file_paths* are names of files or folders of the run, with commas between. The folder is called as the
    child's value of *hyperparam_name*, letters and digits only, as in hi-ml. A name that a child has no file of is told
    in the log. Raises BadUsage (also a ValueError) without *hyperparam_name*, for a child that has it not, and for
    values whose folders would be the same; and what `download_files_from_run_id` does.
    """
    if not hyperparam_name:
        raise WrongArgument(
            "By which hyperparameter the folders are called has to be said.", hint="Give hyperparam_name."
        )
    if _is_offline(run):
        return []
    parent = _given_run(None, run, None, None)
    folders: dict[str, str] = {}
    for record in children_chosen(parent.workspace.opened, parent.record)[0]:
        value = get_tags_from_hyperdrive_run(record, hyperparam_name)
        if value is None:
            raise WrongArgument(
                f"Run '{record.id}' has no hyperparameter '{hyperparam_name}'.",
                hint=f"There are: {', '.join(hyperparameters_of(record.tags))}.",
            )
        name = re.sub("[^A-Za-z0-9]+", "", str(value))
        if name in folders:
            raise WrongArgument(
                f"The files of runs '{folders[name]}' and '{record.id}' would go to the same folder '{name}'."
            )
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
