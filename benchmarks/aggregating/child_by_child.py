"""What users of azureml-core do: ask each child of the sweep for its metrics. Prints how many values it got."""

from __future__ import annotations

import os
import sys

from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.run import Run


def main() -> None:
    auth = ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
    names = {"subscription_id": os.environ["HIML_SUBSCRIPTION_ID"], "resource_group": os.environ["HIML_RESOURCE_GROUP"]}
    workspace = Workspace.get(os.environ["HIML_WORKSPACE_NAME"], auth=auth, **names)
    found = {child.id: child.get_metrics() for child in Run.get(workspace, sys.argv[1]).get_children()}
    sys.stdout.write(f"{sum(map(len, found.values()))}\n")


if __name__ == "__main__":
    main()
