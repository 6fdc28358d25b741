"""azureml-core's workspace object, signed in as himl is: no second sign-in, no second answer to who the user is."""

from __future__ import annotations

from typing import Any

from himl_cli.workspaces.azure.connection import Connection


def sdk_workspace(connection: Connection) -> Any:
    """The `azureml.core.Workspace` of *connection*; one request. Raises what azureml-core raises, and NotAllowed where
    himl cannot sign in."""
    from azureml.core import Workspace
    from azureml.core.authentication import TokenAuthentication

    cloud = connection.address.cloud

    def token_for(audience: str) -> str:
        return connection.tokens.get(cloud.management_scope)

    address = connection.address
    auth = TokenAuthentication(token_for, cloud=cloud.name)
    return Workspace(address.subscription_id, address.resource_group, address.name, auth=auth, _cloud=cloud.name)
