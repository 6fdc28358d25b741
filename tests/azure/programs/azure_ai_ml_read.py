"""Read the lab with azure-ai-ml and print what it says, as JSON. Argument: a folder for downloads."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from azure.ai.ml import MLClient
from azure.identity import EnvironmentCredential

BEST, SWEEP, RUNNING = "kind_owl_best", "bold_kite_sweep", "quiet_pine_running"


def opened() -> MLClient:
    return MLClient(EnvironmentCredential(), os.environ["LAB_SUBSCRIPTION"], os.environ["LAB_GROUP"], os.environ["LAB_WORKSPACE"])


def described(job: Any) -> dict[str, Any]:
    return {"id": job.name, "status": job.status, "tags": job.tags, "name": job.display_name, "experiment": job.experiment_name}


def digests_below(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def with_secret(client: MLClient, name: str) -> str:
    credentials = client.datastores.get(name, include_secrets=True).credentials
    return str(getattr(credentials, "account_key", None) or getattr(credentials, "sas_token", None))


def by_the_inner_clients(client: MLClient) -> dict[str, Any]:
    """What the SDK's own generated clients read that its public methods no longer ask."""
    jobs: Any = client.jobs
    workspace = [os.environ[name] for name in ("LAB_SUBSCRIPTION", "LAB_GROUP", "LAB_WORKSPACE")]
    data = jobs._runs_operations._operation.batch_get_run_data(
        *workspace,
        body={"requests": {"one": {"runId": BEST, "selectRunMetadata": True}, "two": {"runId": "nope", "selectRunMetadata": True}}},
    )
    asset = data.successful_results["one"].run_metadata.outputs["predictions"].asset_id
    resolved = _values(jobs._dataset_dataplane_operations.get_batch_dataset_uris([asset]))
    told = jobs._runs_operations.get_run_data(BEST).run_metadata.outputs["weights"]
    model = _values(jobs._model_dataplane_operations._operation.batch_get_resolved_uris(*workspace, body={"values": [told.asset_id]}))[told.asset_id]
    weights = {"type": told.type, "path": model.path}
    return {"weights": weights, "found": data.successful_results["one"].run_metadata.run_id, "failed": list(data.failed_results), "output": resolved[asset].uri}


def _values(answer: Any) -> Any:
    """Those of an answer to several questions; older versions call the field otherwise."""
    return answer.values_property if hasattr(answer, "values_property") else answer.values


def main() -> None:
    folder = Path(sys.argv[1])
    client = opened()
    workspace = client.workspaces.get(os.environ["LAB_WORKSPACE"])
    client.jobs.download(BEST, download_path=folder / "artifacts")
    client.jobs.download(BEST, download_path=folder / "predictions", output_name="predictions")
    cluster = client.compute.get("cpu-cluster")
    best = client.jobs.get(BEST)
    found = {
        "workspace": {"id": workspace.id, "location": workspace.location, "tracking": workspace.mlflow_tracking_uri},
        "job": described(best),
        "studio": best.studio_url,
        "inner": by_the_inner_clients(client),
        "jobs": [described(job) for job in client.jobs.list()],
        "children": sorted(job.name for job in client.jobs.list(parent_job_name=SWEEP)),
        "datastores": {store.name: str(store.type) for store in client.datastores.list()},
        "default": client.datastores.get_default().name,
        "secret": with_secret(client, "workspaceblobstore"),
        "compute": {"name": cluster.name, "size": cluster.size, "max": cluster.max_instances},
        "artifacts": digests_below(folder / "artifacts"),
        "predictions": digests_below(folder / "predictions"),
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
