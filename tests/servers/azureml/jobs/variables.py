"""A job's environment variables: the service's, of this machine only what a container has, and the user's own."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from tests.servers.azureml.state import Run, Workspace
from tests.support.processes import MARK

OF_THE_MACHINE = ("SYSTEMROOT", "COMSPEC", "PATHEXT", "WINDIR", "LD_LIBRARY_PATH", MARK)


def machine_variables(home: Path, temp: Path, python: Path) -> dict[str, str]:
    """What a container would have: a home, a place for temporary files, programs. `python` is *python*."""
    programs = os.pathsep.join([str(python.parent), os.environ.get("PATH", os.defpath)])
    kept = {name: os.environ[name] for name in OF_THE_MACHINE if name in os.environ}
    places = {"HOME": str(home), "USERPROFILE": str(home), "TMPDIR": str(temp), "TEMP": str(temp), "TMP": str(temp)}
    return {**kept, **places, "PATH": programs, "LANG": "C.UTF-8", "AZ_BATCHAI_JOB_TEMP": str(temp)}


def context_variable(workspace: Workspace, run: Run, token: str) -> dict[str, str]:
    """The same facts once more, as JSON (wire document 7)."""
    base = f"https://{workspace.data_plane_host}"
    facts = {
        "subscription_id": workspace.subscription,
        "resource_group": workspace.group,
        "workspace_name": workspace.name,
        "workspace_id": workspace.workspace_id,
        "service_endpoint": base,
        "discovery_endpoint": f"{base}/discovery",
        "experiment_name": run.experiment.name,
        "experiment_id": run.experiment.experiment_id,
        "root_run_id": run.root_id,
        "run_id": run.run_id,
        "run_token": token,
        "run_history_service_endpoint": base,
        "data_container_id": run.data_container_id,
        "run_uuid": run.uuid,
    }
    return {"AZUREML_CR_AZUREML_CONTEXT": json.dumps(facts)}


def data_variables(inputs: Mapping[str, str], outputs: Mapping[str, str], names: str) -> dict[str, str]:
    """Where the data lies; literals have no variable. *names* as in `Manner`: public sources disagree."""

    def called(name: str) -> str:
        return name.upper() if names == "upper" else name

    found = {f"AZURE_ML_INPUT_{called(name)}": path for name, path in inputs.items()}
    return found | {f"AZURE_ML_OUTPUT_{called(name)}": path for name, path in outputs.items()}


def legacy_data_variables(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> dict[str, str]:
    """The same in jobs that azureml-core defined: called as the data, and listed in the variables that its `Run` reads."""
    data = {**inputs, **outputs}
    lists = {"AZUREML_DATASET_ENVIRONMENT_VARS": ",".join(f"{name}:mount" for name in inputs), "AZUREML_DATASET_FILE_OUTPUTS": ";".join(outputs)}
    return {**data, **{f"AZUREML_DATAREFERENCE_{name}": path for name, path in data.items()}, **{name: text for name, text in lists.items() if text}}
