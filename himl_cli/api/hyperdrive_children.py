"""The children of a sweep or cross-validation one by one, with hi-ml's names and arguments."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from himl_cli.api.aggregation import cell, column_names, gathered, is_offline, meant, names_of
from himl_cli.api.errors import NotThere
from himl_cli.api.files import download_files_from_run_id
from himl_cli.api.paths import PathLike
from himl_cli.api.run import Run
from himl_cli.api.submitting.words import WrongArgument
from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import Scalar, hyperparameters_of
from himl_cli.services.runs.aggregate import children_chosen

log = logging.getLogger(__name__)


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
    if is_offline(run):
        return {}
    found = meant(run_id, run, aml_workspace, workspace_config_path)
    if found.status != RunStatus.completed.value:
        log.warning("Run '%s' is %s: its metrics may be incomplete.", found.id, found.status)
    return _kept(found.get_metrics(), keep_metrics, found.id)


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
    if is_offline(run):
        return {}
    found, is_crossval = gathered(
        child_run_arg_name, meant(run_id, run, aml_workspace, workspace_config_path), keep_metrics
    )
    metrics = {}
    for key, child in zip(column_names(found, child_run_arg_name, is_crossval), found.children, strict=True):
        logged = {name: cell(child, name) for name in names_of(child.results)}
        metrics[key] = _kept(logged, keep_metrics, child.run.id)
    return metrics


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
    if is_offline(run):
        return []
    parent = meant(None, run, None, None)
    folders: dict[str, str] = {}
    for record in children_chosen(parent.workspace.opened, parent.record).runs:
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
    return [
        path
        for name, id in folders.items()
        for path in _fetched(parent, id, remote_file_paths.split(","), Path(local_download_folder) / name)
    ]


def _fetched(parent: Run, run_id: str, names: Sequence[str], folder: Path) -> list[str]:
    """The paths of those of *names* that the run has, in *folder*."""
    found = []
    for name in names:
        try:
            download_files_from_run_id(run_id, folder, prefix=name, workspace=parent.workspace)
        except NotThere as err:
            log.warning("%s", err)
        if (folder / name).exists():
            found.append(str(folder / name))
    return found


def _kept(metrics: dict[str, Any], keep: Sequence[str] | None, run_id: str) -> dict[str, Any]:
    for name in keep or ():
        if name not in metrics:
            log.warning("Run '%s' has no metric '%s'.", run_id, name)
    return {name: metrics[name] for name in keep if name in metrics} if keep else metrics
