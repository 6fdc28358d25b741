"""Finding runs, and the ways to write which one is meant."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from himl_cli.api import configured
from himl_cli.api.errors import NoRecoveryId, NotThere, raising
from himl_cli.api.run import Run
from himl_cli.core.errors import BadUsage
from himl_cli.services.runs import lookup
from himl_cli.services.runs.lookup import read_latest_run_file


def fetch_run(workspace: object, run_recovery_id: str) -> Run:
    """The run that *run_recovery_id* means: `experiment:run_id`, a run id, a Studio URL, or `latest`.

    *workspace* is himl's, or a vendor's object; None means the one configured, and runs kept here as well. Raises
    RunNotFound naming similar ids, BadUsage for text that is no run.
    """
    return configured.find_run(run_recovery_id, workspace)


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
