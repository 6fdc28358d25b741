"""Cancel, stream and make assets in the lab with azure-ai-ml; print what it says, as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import sys

from azure.ai.ml.entities import AzureBlobDatastore, Data
from azure.core.exceptions import ResourceNotFoundError
from azure_ai_ml_read import opened  # type: ignore[import-not-found]

BEST, RUNNING, FAILED = "kind_owl_best", "quiet_pine_running", "mango_fig_failed"


def refused_with() -> str:
    try:
        opened().jobs.get("no_such_job")
    except ResourceNotFoundError as error:
        return str(error.error.code if error.error else error.status_code)
    return "nothing"


def main() -> None:
    client = opened()
    client.jobs.begin_cancel(RUNNING, polling_interval=0.1).result()  # else 30 s: the service tells no Retry-After
    client.jobs.archive(FAILED)
    streamed = io.StringIO()
    with contextlib.redirect_stdout(streamed):
        client.jobs.stream(BEST)
    asset = client.data.create_or_update(Data(name="scans", version="1", path="azureml://datastores/workspaceblobstore/paths/scans/", type="uri_folder"))
    default = client.datastores.get_default()
    client.datastores.create_or_update(AzureBlobDatastore(name="second", account_name=default.account_name, container_name=default.container_name))
    found = {
        "canceled": client.jobs.get(RUNNING).status,
        "active": [job.name for job in client.jobs.list()],
        "streamed": streamed.getvalue(),
        "asset": asset.path,
        "version": client.data.get("scans", version="1").version,
        "newest": client.data.get("scans", label="latest").version,
        "datastores": sorted(store.name for store in client.datastores.list()),
        "missing": refused_with(),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
