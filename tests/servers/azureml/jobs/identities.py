"""The identity that a job runs with: its run's token alone, the submitter's, or the compute's managed one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.servers.azureml.jobs.failures import JobFailed
from tests.servers.azureml.principals import Principal
from tests.servers.azureml.state import Json

if TYPE_CHECKING:
    from tests.servers.azureml.seeding import StagedWorkspace


def identity_variables(staged: StagedWorkspace, identity: Json | None, submitter: Principal | None) -> dict[str, str]:
    """The endpoint that gives its tokens. A managed identity without an id is the workspace's own principal. Raises JobFailed for an unknown one."""
    kind = (identity or {}).get("identityType", "AMLToken")
    if kind == "UserIdentity":
        principal = submitter or staged.state.principal
        return {"OBO_ENDPOINT": f"http://127.0.0.1:{staged.stage.port}/identity/obo/{principal.client_id}", "AZUREML_OBO_ENABLED": "True"}
    if kind == "Managed":
        wanted = (identity or {}).get("clientId")
        found = staged.stage.azure.principals.get(wanted) if wanted else staged.state.principal
        if found is None:
            raise JobFailed(f"The managed identity with client id {wanted} is not assigned to the compute.", "IdentityNotFound", "identity-responder")
        return {**staged.identity_environment(found), "AZUREML_IDENTITY_IN_USE": "Managed"}
    return {}
