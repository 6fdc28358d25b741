"""Submit a job YAML as `az ml job create` does, by azure-ai-ml's `load_job` and `create_or_update`; telemetry off. Argument: the YAML."""

from __future__ import annotations

import logging
import os
import sys

from azure.ai.ml import MLClient, load_job
from azure.identity import EnvironmentCredential


def main() -> None:
    logging.disable(logging.CRITICAL)
    place = (os.environ["HIML_SUBSCRIPTION_ID"], os.environ["HIML_RESOURCE_GROUP"], os.environ["HIML_WORKSPACE_NAME"])
    client = MLClient(EnvironmentCredential(), *place, enable_telemetry=False)
    print(client.jobs.create_or_update(load_job(sys.argv[1])).name)


if __name__ == "__main__":
    main()
