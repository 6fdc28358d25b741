"""The calls of azureml-core and its HyperDrive to a workspace of the double. Each function runs in a separate
process.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
import zipfile
from pathlib import Path
from typing import Any

from azureml.core import Datastore, Environment, Experiment, ScriptRunConfig, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
from azureml.core.run import Run
from azureml.core.runconfig import DataLocation, DataPath, OutputData, OutputOptions, RegistrationOptions

BEST, SWEEP = "kind_owl_best", "bold_kite_sweep"
CLUSTER = "cpu-cluster"
PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(20)


def opened() -> Workspace:
    auth = ServicePrincipalAuthentication(
        os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], os.environ["AZURE_CLIENT_SECRET"]
    )
    return Workspace.get(
        os.environ["LAB_WORKSPACE"],
        auth=auth,
        subscription_id=os.environ["LAB_SUBSCRIPTION"],
        resource_group=os.environ["LAB_GROUP"],
    )


def described(run: Run) -> dict[str, Any]:
    return {"id": run.id, "status": run.get_status(), "tags": run.get_tags(), "name": run.display_name}


def digests_below(folder: str) -> dict[str, str]:
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read() -> dict[str, Any]:
    workspace = opened()
    experiment = Experiment(workspace, os.environ["LAB_EXPERIMENT"])
    best, sweep = Run.get(workspace, BEST), Run.get(workspace, SWEEP)
    Path("one").mkdir()
    best.download_file("outputs/model.bin", output_file_path="one/model.bin")
    best.download_files(prefix="outputs", output_directory="all")
    details = best.get_details()
    return {
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
        "one": digests_below("one"),
        "all": digests_below("all"),
        "details": [details[name] for name in ("runId", "status", "target")],
        "logs": sorted(details["logFiles"]),
        "datastores": sorted(workspace.datastores),
        "default": workspace.get_default_datastore().name,
        "container": Datastore.get(workspace, "workspaceblobstore").container_name,
    }


def write() -> dict[str, Any]:
    workspace = opened()
    Experiment(workspace, "archived").archive()
    Experiment.delete(workspace, Experiment(workspace, "deleted").id)
    left = sorted(one.name for one in Experiment.list(workspace))
    run = Experiment(workspace, "by_hand").start_logging(display_name="written", snapshot_directory=None)
    child = run.child_run(name="child")
    child.log("loss", 3.0)
    child.complete()
    for step, loss in enumerate((1.0, 0.5, 0.25)):
        run.log("loss", loss, step=step)
    run.log_list("sizes", [1, 2, 3])
    run.log_row("row", a=1, b=2.5)
    run.log("word", "yes")
    run.set_tags({"kind": "by hand", "note": "a b", "gone": "soon"})
    run.remove_tags(["gone"])
    run.add_properties({"origin": "azureml-core"})
    for name, content in {"sent/model.bin": b"\x00\x01" * 5000, "up/sub/a.txt": b"a"}.items():
        Path(name).parent.mkdir(parents=True)
        Path(name).write_bytes(content)
    run.upload_file("outputs/model.bin", "sent/model.bin")
    run.upload_folder("outputs/folder", "sent")
    run.flush()
    run.complete()
    store, again = Datastore.get(workspace, "workspaceblobstore"), Run.get(workspace, run.id)
    store.upload("up", target_path="from/core", show_progress=False)
    store.download("down", prefix="from/core", show_progress=False)
    return {
        "experiments": left,
        "id": run.id,
        "child": child.id,
        "status": again.get_status(),
        "metrics": again.get_metrics(),
        "tags": again.get_tags(),
        "properties": again.get_properties(),
        "children": [one.id for one in again.get_children()],
        "files": sorted(again.get_file_names()),
        "moved": digests_below("down"),
    }


def in_job() -> dict[str, str]:
    """Act as a script inside a job: find its run and log to it, with only the run's token."""
    run = Run.get_context(allow_offline=False)
    run.log("inside", 1.0)
    run.tag("by", "azureml-core")
    run.flush()
    return {"id": run.id, "experiment": run.experiment.name, "status": run.get_status()}


def submit() -> dict[str, Any]:
    Path("code/sub").mkdir(parents=True)
    script = (
        "import sys\nfrom pathlib import Path\nPath(sys.argv[1], 'made.txt').write_text('made')\n"
        "print('trained', Path('sub/a b.txt').read_text())\n"
    )
    Path("code/train.py").write_text(script)
    Path("code/sub/a b.txt").write_text("well")
    with zipfile.ZipFile("lab_tools-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("lab_tools.py", "")
    workspace = opened()
    wheels = [
        Environment.add_private_pip_wheel(workspace, "lab_tools-1.0-py3-none-any.whl", exist_ok=True) for _ in range(2)
    ]
    environments = [Environment.get(workspace, "torch"), Environment.get(workspace, "torch", version="1")]
    config = ScriptRunConfig(
        "code",
        script="train.py",
        arguments=["DatasetOutputConfig:made"],
        compute_target=CLUSTER,
        environment=environments[1],
    )
    location = DataLocation(data_path=DataPath("workspaceblobstore", "sent/by/core"))
    config.run_config.output_data = {
        "made": OutputData(location, "mount", OutputOptions(registration_options=RegistrationOptions("made_by_core")))
    }
    experiment = Experiment(workspace, "sent_by_core")
    runs = [experiment.submit(config, tags={"from": "core"}) for _ in range(2)]
    for run in runs:
        run.wait_for_completion(show_output=False)
    runs[0].download_file("user_logs/std_log.txt", "log.txt")
    return {
        "runs": [described(run) for run in runs],
        "log": Path("log.txt").read_text(),
        "snapshots": [one.get_properties()["ContentSnapshotId"] for one in runs],
        "wheels": wheels,
    }


def metrics() -> dict[str, Any]:
    return {child.id: child.get_metrics() for child in Run.get(opened(), SWEEP).get_children()}


def pipeline() -> dict[str, Any]:
    run = Run.get(opened(), os.environ["LAB_PIPELINE"])
    steps = {child.display_name: child for child in run.get_children()}
    return {
        "run": {**described(run), "type": run.type},
        "steps": {
            name: {**described(one), "type": one.type, "parent": one.parent.id, "files": sorted(one.get_file_names())}
            for name, one in steps.items()
        },
        "details": {name: one.get_details()["properties"]["azureml.pipelinerunid"] for name, one in steps.items()},
    }


def pushed() -> dict[str, Any]:
    run = Run.get(opened(), os.environ["LAB_RUN"])
    run.download_files(prefix="outputs/checkpoints", output_directory="down")
    files = {
        path.relative_to("down").as_posix(): path.read_text() for path in Path("down").rglob("*") if path.is_file()
    }
    return {**described(run), "experiment": run.experiment.name, "names": sorted(run.get_file_names()), "files": files}


class Figure:
    def savefig(self, target: Any, format: str) -> None:
        target.write(PNG)


def recorded(run: Run) -> dict[str, Any]:
    error = (run.get_details().get("error") or {}).get("error", {}).get("message")
    return {**described(run), "metrics": run.get_metrics(), "files": sorted(run.get_file_names()), "error": error}


def written() -> dict[str, Any]:
    """Log to the run `by himl` the same values as himl (`written_by_himl` in `lab.py`), and read both."""
    experiment = Experiment(opened(), os.environ["LAB_EXPERIMENT"])
    theirs = {run.display_name: recorded(run) for run in experiment.get_runs()}
    Run.get(experiment.workspace, theirs["by himl"]["id"]).download_file("outputs/model.bin", "model.bin")
    run = experiment.start_logging(display_name="by azureml-core", snapshot_directory=None, outputs=None)
    for method, given, named in json.loads(os.environ["LAB_LOGGED"]):
        getattr(run, method)(*given, **named)
    run.log_image("curve", plot=Figure())
    run.flush()
    run.fail(error_details="no memory left")
    return {"himl": theirs, "core": recorded(run), "model": Path("model.bin").read_text()}


def hyperdrive_submit() -> dict[str, Any]:
    warnings.simplefilter("ignore")
    from azureml.train.hyperdrive import (
        GridParameterSampling,
        HyperDriveConfig,
        MedianStoppingPolicy,
        PrimaryMetricGoal,
        choice,
    )

    Path("code").mkdir()
    Path("code/train.py").write_text('import os, sys\nprint("trained", *sys.argv[1:], os.environ["AZUREML_RUN_ID"])\n')
    workspace = opened()
    environment = Environment.get(workspace, "torch", version="1")
    trial = ScriptRunConfig(
        "code", script="train.py", arguments=["--fixed", "a b"], compute_target=CLUSTER, environment=environment
    )

    def config(**fields: object) -> HyperDriveConfig:
        space = GridParameterSampling({"--kernel": choice("linear", "a 'b'"), "C": choice(1, 0.5)})
        return HyperDriveConfig(
            space, "score", PrimaryMetricGoal.MAXIMIZE, 4, run_config=trial, policy=MedianStoppingPolicy(), **fields
        )

    experiment = Experiment(workspace, "sent_by_hyperdrive")
    run = experiment.submit(config(max_concurrent_runs=2), tags={"from": "hyperdrive"})
    another = experiment.submit(config(custom_run_id="chosen"))
    another.cancel()
    for one in (run, another):
        one.wait_for_completion(show_output=False, raise_on_error=False)
    values = {name: json.loads(text) for name, text in run.get_hyperparameters().items()}
    return {
        "ids": [run.id, another.id],
        "statuses": [run.get_status(), another.get_status()],
        "values": values,
        "from": run.get_tags().get("from"),
    }


def hyperdrive_swept() -> dict[str, Any]:
    """Read a sweep as HyperDrive does: values, the best trial, the order of trials, and metrics."""
    from azureml.train.hyperdrive import HyperDriveRun

    sweep = HyperDriveRun(Experiment(opened(), os.environ["LAB_EXPERIMENT"]), SWEEP)
    return {
        "values": {name: json.loads(text) for name, text in sweep.get_hyperparameters().items()},
        "best": sweep.get_best_run_by_primary_metric().id,
        "ordered": [
            [one["run_id"], one["best_primary_metric"], one["status"]]
            for one in sweep.get_children_sorted_by_primary_metric()
        ],
        "metrics": sweep.get_metrics(),
    }
