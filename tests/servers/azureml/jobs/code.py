"""Where a job's code lies."""

from __future__ import annotations

from tests.servers.azureml.jobs.failures import JobFailed
from tests.servers.azureml.jobs.places import Place, place_of
from tests.servers.azureml.state import Workspace


def code_place(workspace: Workspace, code_id: str) -> Place:
    """The folder of the code version with this ARM id. Raises JobFailed where it is not there."""
    name, _, version = code_id.rpartition("/codes/")[2].partition("/versions/")
    known = workspace.assets["codes"].get(name, {}).get(version)
    if known is None:
        raise JobFailed(f"Code version {code_id} not found.", "NotFoundError")
    return place_of(workspace, str(known["codeUri"]))
