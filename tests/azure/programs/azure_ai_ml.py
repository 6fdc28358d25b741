"""The calls of azure-ai-ml to a workspace of the double. Each function runs in a separate process, and tests check
its result.
"""

import contextlib
import hashlib
import io
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

from azure.ai.ml import Input, MLClient, MpiDistribution, Output, UserIdentityConfiguration, command, dsl
from azure.ai.ml.entities import AzureBlobDatastore, Data, Environment
from azure.ai.ml.exceptions import JobException
from azure.ai.ml.sweep import Choice
from azure.core.exceptions import ResourceNotFoundError
from azure.identity import EnvironmentCredential

BEST, FAILED, RUNNING, SWEEP = "kind_owl_best", "mango_fig_failed", "quiet_pine_running", "bold_kite_sweep"
IMAGE, CLUSTER, TORCH = "docker.io/python:3.11", "cpu-cluster", "torch@latest"


def opened() -> MLClient:
    os.environ["AZUREML_RUN_POLLING_INTERVAL_MIN"] = "1"
    return MLClient(
        EnvironmentCredential(), os.environ["LAB_SUBSCRIPTION"], os.environ["LAB_GROUP"], os.environ["LAB_WORKSPACE"]
    )


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def texts_below(folder: Path) -> dict[str, str]:
    return {name: content.decode() for name, content in below(folder).items()}


def digests_below(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in below(folder).items()}


def written(name: str, text: str) -> None:
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_text(text, encoding="utf-8")


class Shown(io.StringIO):
    """The output of the client, which flushes it when the job is running. That creates the file *seen*."""

    def __init__(self, seen: Path | None) -> None:
        super().__init__()
        self._seen = seen

    def flush(self) -> None:
        if self._seen is not None:
            self._seen.touch()


def streamed(client: MLClient, name: str, seen: Path | None = None) -> str:
    text = Shown(seen)
    with contextlib.redirect_stdout(text):
        try:
            client.jobs.stream(name)
        except JobException as error:
            text.write(str(error))
    return text.getvalue()


def described(job: Any) -> dict[str, Any]:
    return {
        "id": job.name,
        "status": job.status,
        "tags": job.tags,
        "name": job.display_name,
        "experiment": job.experiment_name,
    }


def values_of(answer: Any) -> Any:
    """Return the values of an answer to several queries. Older versions use another name for the field."""
    return answer.values_property if hasattr(answer, "values_property") else answer.values


def by_the_inner_clients(client: MLClient) -> dict[str, Any]:
    """Read with the SDK's generated clients, which its public methods no longer use."""
    jobs: Any = client.jobs
    workspace = [os.environ[name] for name in ("LAB_SUBSCRIPTION", "LAB_GROUP", "LAB_WORKSPACE")]
    wishes = {key: {"runId": run_id, "selectRunMetadata": True} for key, run_id in (("one", BEST), ("two", "nope"))}
    data = jobs._runs_operations._operation.batch_get_run_data(*workspace, body={"requests": wishes})
    found = data.successful_results["one"].run_metadata
    asset = found.outputs["predictions"].asset_id
    resolved = values_of(jobs._dataset_dataplane_operations.get_batch_dataset_uris([asset]))
    told = jobs._runs_operations.get_run_data(BEST).run_metadata.outputs["weights"]
    models = values_of(
        jobs._model_dataplane_operations._operation.batch_get_resolved_uris(
            *workspace, body={"values": [told.asset_id]}
        )
    )
    weights = {"type": told.type, "path": models[told.asset_id].path}
    return {
        "weights": weights,
        "found": found.run_id,
        "failed": list(data.failed_results),
        "output": resolved[asset].uri,
    }


def read() -> dict[str, Any]:
    client = opened()
    workspace, cluster, best = (
        client.workspaces.get(os.environ["LAB_WORKSPACE"]),
        client.compute.get(CLUSTER),
        client.jobs.get(BEST),
    )
    client.jobs.download(BEST, download_path=Path("artifacts"))
    client.jobs.download(BEST, download_path=Path("predictions"), output_name="predictions")
    return {
        "workspace": {"id": workspace.id, "location": workspace.location, "tracking": workspace.mlflow_tracking_uri},
        "job": described(best),
        "studio": best.studio_url,
        "inner": by_the_inner_clients(client),
        "jobs": [described(job) for job in client.jobs.list()],
        "children": sorted(job.name for job in client.jobs.list(parent_job_name=SWEEP)),
        "datastores": sorted(store.name for store in client.datastores.list()),
        "default": client.datastores.get_default().name,
        "secret": client.datastores.get("workspaceblobstore", include_secrets=True).credentials.sas_token,
        "compute": [cluster.name, cluster.size, cluster.max_instances],
        "artifacts": digests_below(Path("artifacts")),
        "predictions": digests_below(Path("predictions")),
    }


def act() -> dict[str, Any]:
    client = opened()
    # The default interval would be 30 s, since the service sends no Retry-After.
    client.jobs.begin_cancel(RUNNING, polling_interval=0.1).result()
    can_archive = tuple(map(int, version("azure-ai-ml").split(".")[:2])) >= (
        1,
        35,
    )  # the service rejects the request of older versions
    if can_archive:
        client.jobs.archive(FAILED)
    asset = client.data.create_or_update(
        Data(name="scans", version="1", path="azureml://datastores/workspaceblobstore/paths/scans/", type="uri_folder")
    )
    default = client.datastores.get_default()
    client.datastores.create_or_update(
        AzureBlobDatastore(name="second", account_name=default.account_name, container_name=default.container_name)
    )
    try:
        missing = client.jobs.get("no_such_job").name
    except ResourceNotFoundError as error:
        missing = str(error.error.code if error.error else error.status_code)
    return {
        "is_archived": can_archive,
        "canceled": client.jobs.get(RUNNING).status,
        "active": [job.name for job in client.jobs.list()],
        "streamed": streamed(client, BEST),
        "asset": asset.path,
        "versions": [client.data.get("scans", version="1").version, client.data.get("scans", label="latest").version],
        "datastores": sorted(store.name for store in client.datastores.list()),
        "missing": missing,
    }


def stream() -> dict[str, Any]:
    client, served = opened(), os.environ["LAB_SERVED"]
    told = [client.jobs.show_services(served, node) for node in range(2)]
    asked = {name: [each.type, each.status] for name, each in client.jobs.get(served).services.items()}
    services = [{name: {**vars(each)} for name, each in (services or {}).items()} for services in told]
    return {
        "logs": [streamed(client, name) for name in (RUNNING, os.environ["LAB_BUILDING"])],
        "services": services,
        "asked": asked,
    }


def submit() -> dict[str, Any]:
    client = opened()
    written("code/train.py", "print(1)\n")
    environment = Environment(name="torch", version="1", image=IMAGE)
    job = command(
        command="python train.py",
        code="code",
        environment=environment,
        compute=CLUSTER,
        experiment_name="sent",
        tags={"from": "sdk"},
    )
    sent, again = client.jobs.create_or_update(job), client.jobs.create_or_update(job)
    return {
        "ids": [sent.name, again.name],
        "codes": [sent.code, again.code],
        "environments": [one.name for one in client.environments.list()],
        "computes": sorted(one.name for one in client.compute.list()),
        "data": [one.name for one in client.data.list()],
    }


def send_code(folder: str) -> str:
    job = command(
        command="python train.py", code=folder, environment="torch:1", compute=CLUSTER, experiment_name="sent"
    )
    return str(opened().jobs.create_or_update(job).code)


TRAIN = """
import argparse, os, pathlib
import mlflow
parser = argparse.ArgumentParser()
for name in ("scans", "local", "epochs", "out"):
    parser.add_argument(f"--{name}")
args = parser.parse_args()
files = sorted(path.name for folder in (args.scans, args.local) for path in pathlib.Path(folder).iterdir())
print("files", *files, flush=True)
with mlflow.start_run():
    for epoch in range(int(args.epochs)):
        mlflow.log_metric("loss", 1 / (epoch + 1), step=epoch)
        print("epoch", epoch, flush=True)
    mlflow.log_param("seed", os.environ["SEED"])
    mlflow.log_text("note", "note.txt")
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/model.txt").write_text("weights")
pathlib.Path(args.out, "mask.txt").write_text("mask")
"""


def train() -> dict[str, Any]:
    """Submit code, a separate environment and all kinds of data in a job that really runs."""
    client = opened()
    written("code/train.py", TRAIN)
    written("data/local.txt", "local")
    client.data.create_or_update(
        Data(name="scans", path="azureml://datastores/workspaceblobstore/paths/scans/", type="uri_folder")
    )
    conda = {"channels": ["conda-forge"], "dependencies": ["python=3.11", {"pip": ["mlflow-skinny", "azureml-mlflow"]}]}
    job = command(
        command="python train.py --scans ${{inputs.scans}} --local ${{inputs.local}} --epochs ${{inputs.epochs}} "
        "--out ${{outputs.masks}}",
        code="code",
        environment=Environment(image="mcr.microsoft.com/azureml/openmpi", conda_file=conda),
        compute=CLUSTER,
        experiment_name="trained",
        inputs={
            "scans": Input(type="uri_folder", path=client.data.get("scans", label="latest").id),
            "local": Input(type="uri_folder", path="data", mode="download"),
            "epochs": 2,
        },
        outputs={
            "masks": Output(
                type="uri_folder",
                name="masks",
                path="azureml://datastores/workspaceblobstore/paths/masks/",
                mode="rw_mount",
            )
        },
        environment_variables={"SEED": "7"},
        tags={"from": "sdk"},
    )
    sent = client.jobs.create_or_update(job)
    log = streamed(client, sent.name)
    client.jobs.download(sent.name, download_path=Path("down"))
    masks, status = client.data.get("masks", label="latest"), client.jobs.get(sent.name).status
    return {
        "id": sent.name,
        "status": status,
        "log": log,
        "files": texts_below(Path("down")),
        "masks": [masks.version, masks.path],
    }


def fail() -> dict[str, str]:
    """Use a registered environment by its label, two nodes with MPI, and an identity. The script waits for the
    client, then fails.
    """
    # The client shows no log of a job that ends before the client checks it.
    client, seen = opened(), Path("seen").absolute()
    wait = "for i in $(seq 600); do [ -e '{}' ] && break; sleep 0.1; done"
    job = command(
        command=f"R=$OMPI_COMM_WORLD_RANK; {wait.format(seen)}; echo rank $R; touch '{seen}'.$R; "
        f"{wait.format(f'{seen}.0')}; exit $R",
        environment=TORCH,
        compute=CLUSTER,
        distribution=MpiDistribution(process_count_per_instance=1),
        instance_count=2,
        identity=UserIdentityConfiguration(),
        experiment_name="failed",
    )
    job.set_limits(timeout=600)
    sent = client.jobs.create_or_update(job)
    return {"id": sent.name, "log": streamed(client, sent.name, seen), "status": client.jobs.get(sent.name).status}


SCORE = """
import os, pathlib, sys
import mlflow
mlflow.log_metric("accuracy", 1 - float(sys.argv[1]))
pathlib.Path("outputs").mkdir()
pathlib.Path("outputs/rate.txt").write_text(os.environ["AZUREML_SWEEP_lr"])
"""


def sweep() -> dict[str, Any]:
    client = opened()
    written("code/train.py", SCORE)
    job = command(
        command="python train.py ${{inputs.lr}}", code="code", environment=TORCH, compute=CLUSTER, inputs={"lr": 0.1}
    )
    search = job(lr=Choice(values=[0.5, 0.125, 0.25])).sweep(
        compute=CLUSTER, sampling_algorithm="grid", primary_metric="accuracy", goal="maximize"
    )
    search.set_limits(max_total_trials=5, max_concurrent_trials=2, timeout=600)
    search.experiment_name = "swept"
    sent = client.jobs.create_or_update(search)
    log = streamed(client, sent.name)
    done = client.jobs.get(sent.name)
    client.jobs.download(sent.name, download_path=Path("best"))
    return {
        "id": sent.name,
        "type": sent.type,
        "status": [sent.status, done.status],
        "space": {name: one.values for name, one in done.search_space.items()},
        "best": done.properties["best_child_run_id"],
        "children": {
            child.name: [child.status, child.tags["hyperparameters"]]
            for child in client.jobs.list(parent_job_name=sent.name)
        },
        "log": log,
        "files": texts_below(Path("best")),
    }


def described_pipeline(client: MLClient, name: str) -> dict[str, Any]:
    job, files = client.jobs.get(name), {}
    children = {child.display_name: child for child in client.jobs.list(parent_job_name=name)}
    for shown, child in children.items():
        client.jobs.download(child.name, download_path=Path(name, shown))
        files[shown] = texts_below(Path(name, shown))
    statuses = {shown: child.status for shown, child in children.items()}
    return {
        "status": job.status,
        "type": job.type,
        "jobs": sorted(job.jobs),
        "tags": job.tags,
        "name": job.display_name,
        "children": statuses,
        "files": files,
    }


def pipeline() -> dict[str, Any]:
    """Define a pipeline in azure-ai-ml's own language: the second step reads the word that the first step writes. Run
    it beside LAB_PIPELINE.
    """
    client = opened()
    written(
        "code/make.py",
        "import pathlib, sys\npathlib.Path(sys.argv[2], 'word.txt').write_text(sys.argv[1])\nprint('made')\n",
    )
    making = command(
        name="make_a_word",
        command="python make.py ${{inputs.word}} ${{outputs.made}}",
        code="code",
        environment=Environment(image=IMAGE),
        inputs={"word": Input(type="string")},
        outputs={"made": Output(type="uri_folder")},
    )
    taking = command(
        command="cat ${{inputs.made}}/word.txt",
        environment=Environment(image=IMAGE),
        inputs={"made": Input(type="uri_folder")},
    )

    # The decorator reads the annotations, so this file has no `from __future__ import annotations`.
    @dsl.pipeline(compute=CLUSTER, description="of the sdk")  # type: ignore[call-overload, untyped-decorator]
    def words(word: str) -> dict[str, Any]:
        make: Any = making(word=word)
        take: Any = taking(made=make.outputs.made)
        take.display_name = "take"
        return {"all": make.outputs.made}

    job = client.jobs.create_or_update(words(word="hello"), experiment_name="of_the_sdk")
    log, given = streamed(client, job.name), os.environ.get("LAB_PIPELINE", "")
    return {
        "id": job.name,
        "log": log,
        "own": described_pipeline(client, job.name),
        "himl": described_pipeline(client, given) if given else {},
    }
