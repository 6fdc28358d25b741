"""What azureml-core says that the children of LAB_SWEEP logged, child by child, as JSON."""

from __future__ import annotations

import json
import os
import sys

from azureml.core import Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.run import Run


def main() -> None:
    auth = ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
    place = {"subscription_id": os.environ["LAB_SUBSCRIPTION"], "resource_group": os.environ["LAB_GROUP"]}
    sweep = Run.get(Workspace.get(os.environ["LAB_WORKSPACE"], auth=auth, **place), os.environ["LAB_SWEEP"])
    found = {child.id: {"tags": child.get_tags(), "metrics": child.get_metrics()} for child in sweep.get_children()}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
