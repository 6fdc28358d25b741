"""Read the lab with azureml-core and print what it says, as JSON. Argument: a folder for downloads."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from azureml.core import Datastore, Experiment, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.run import Run

BEST, SWEEP = "kind_owl_best", "bold_kite_sweep"


def opened() -> Workspace:
    auth = ServicePrincipalAuthentication(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"])
    return Workspace.get(os.environ["LAB_WORKSPACE"], auth=auth, subscription_id=os.environ["LAB_SUBSCRIPTION"], resource_group=os.environ["LAB_GROUP"])


def described(run: Run) -> dict[str, Any]:
    return {"id": run.id, "status": run.get_status(), "tags": run.get_tags(), "name": run.display_name}


def digests_below(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def main() -> None:
    folder = Path(sys.argv[1])
    workspace = opened()
    experiment = Experiment(workspace, os.environ["LAB_EXPERIMENT"])
    best = Run.get(workspace, BEST)
    (folder / "one").mkdir(parents=True)
    best.download_file("outputs/model.bin", output_file_path=str(folder / "one" / "model.bin"))
    best.download_files(prefix="outputs", output_directory=str(folder / "all"))
    sweep = Run.get(workspace, SWEEP)
    found = {
        "workspace": {"id": workspace.get_details()["id"], "location": workspace.location},
        "experiments": sorted(workspace.experiments),
        "runs": [described(run) for run in experiment.get_runs()],
        "with_children": sorted(run.id for run in experiment.get_runs(include_children=True)),
        "tagged": [run.id for run in experiment.get_runs(tags={"kind": "best"})],
        "has_tag": [run.id for run in experiment.get_runs(tags="fold")],
        "failed": [run.id for run in experiment.get_runs() if run.status == "Failed"],
        "by_property": [run.id for run in experiment.get_runs(properties={"azureml.runsource": "hyperdrive"})],
        "hyperdrive": [run.id for run in experiment.get_runs(type="hyperdrive")],
        "children": sorted(run.id for run in sweep.get_children()),
        "tree": sorted(run.id for run in sweep.get_children(recursive=True)),
        "metrics": {BEST: best.get_metrics(), **{run.id: run.get_metrics() for run in sweep.get_children()}},
        "experiment": best.experiment.name,
        "files": sorted(best.get_file_names()),
        "one": digests_below(folder / "one"),
        "all": digests_below(folder / "all"),
        "details": {name: best.get_details()[name] for name in ("runId", "status", "target")},
        "logs": sorted(best.get_details()["logFiles"]),
        "datastores": {name: store.datastore_type for name, store in workspace.datastores.items()},
        "default": workspace.get_default_datastore().name,
        "container": Datastore.get(workspace, "workspaceblobstore").container_name,
    }
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
