"""Submit jobs with azure-ai-ml that really run, stream and download them; print what it says, as JSON. Argument: a folder for files."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path
from typing import Any

from azure.ai.ml import Input, MLClient, MpiDistribution, Output, UserIdentityConfiguration, command
from azure.ai.ml.entities import BuildContext, Data, Environment
from azure.ai.ml.exceptions import JobException
from azure.ai.ml.sweep import Choice
from azure.core.exceptions import HttpResponseError
from azure_ai_ml_read import opened  # type: ignore[import-not-found]

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
CONDA = {"channels": ["conda-forge"], "dependencies": ["python=3.11", {"pip": ["mlflow-skinny", "azureml-mlflow"]}]}


class Shown(io.StringIO):
    """Output of the client, which flushes it once it has seen the job running; the file *seen* is made then."""

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


def below(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}


def train(client: MLClient, folder: Path) -> dict[str, Any]:
    """Code, an environment of its own, all kinds of data."""
    job = command(
        command="python train.py --scans ${{inputs.scans}} --local ${{inputs.local}} --epochs ${{inputs.epochs}} --out ${{outputs.masks}}",
        code=str(folder / "code"),
        environment=Environment(image="mcr.microsoft.com/azureml/openmpi", conda_file=CONDA),
        compute="cpu-cluster",
        experiment_name="trained",
        inputs={
            "scans": Input(type="uri_folder", path=client.data.get("scans", label="latest").id),
            "local": Input(type="uri_folder", path=str(folder / "data"), mode="download"),
            "epochs": 2,
        },
        outputs={"masks": Output(type="uri_folder", name="masks", path="azureml://datastores/workspaceblobstore/paths/masks/", mode="rw_mount")},
        environment_variables={"SEED": "7"},
        tags={"from": "sdk"},
    )
    sent = client.jobs.create_or_update(job)
    log = streamed(client, sent.name)
    client.jobs.download(sent.name, download_path=folder / "down")
    masks = client.data.get("masks", label="latest")
    return {"id": sent.name, "status": client.jobs.get(sent.name).status, "log": log, "files": below(folder / "down"), "masks": [masks.version, masks.path]}


def fail(client: MLClient, folder: Path) -> dict[str, str]:
    """A registered environment by its label, two nodes with MPI, and an identity; the script waits for the client, then fails."""
    seen = folder / "seen"  # the client shows no log of a job that ended before it looked
    job = command(
        command=f"for i in $(seq 600); do [ -e '{seen}' ] && break; sleep 0.1; done; echo rank $OMPI_COMM_WORLD_RANK; exit $OMPI_COMM_WORLD_RANK",
        environment="torch@latest",
        compute="cpu-cluster",
        distribution=MpiDistribution(process_count_per_instance=1),
        instance_count=2,
        identity=UserIdentityConfiguration(),
        experiment_name="failed",
    )
    job.set_limits(timeout=600)
    sent = client.jobs.create_or_update(job)
    return {"id": sent.name, "log": streamed(client, sent.name, seen), "status": client.jobs.get(sent.name).status}


def build(client: MLClient, folder: Path) -> str:
    """An environment that is built from a folder with a Dockerfile."""
    environment = Environment(name="built", build=BuildContext(path=str(folder / "context")))
    sent = client.jobs.create_or_update(command(command="echo built", environment=environment, compute="cpu-cluster"))
    streamed(client, sent.name)
    return client.jobs.get(sent.name).status  # type: ignore[no-any-return]


def sweep(client: MLClient) -> str:
    """A search; its status is not for this test."""
    trial = command(command="echo ${{inputs.lr}}", environment="torch@latest", compute="cpu-cluster", inputs={"lr": 0.1})
    search = trial(lr=Choice(values=[0.1, 0.2])).sweep(compute="cpu-cluster", sampling_algorithm="random", primary_metric="loss", goal="minimize")
    search.set_limits(max_total_trials=2, max_concurrent_trials=1, timeout=600)
    search.experiment_name = "searched"
    return str(client.jobs.create_or_update(search).type)


def twice(client: MLClient) -> str:
    """What the service says to a name that is taken."""
    job = command(command="echo once", environment="torch@latest", compute="cpu-cluster", name="only_once")
    client.jobs.create_or_update(job)
    try:
        client.jobs.create_or_update(job)
    except HttpResponseError as error:
        return str(error)
    return ""


def main() -> None:
    folder, client = Path(sys.argv[1]), opened()
    for name, text in {"code/train.py": TRAIN, "data/local.txt": "local", "context/Dockerfile": "FROM docker.io/python:3.11\n"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    client.environments.create_or_update(Environment(name="torch", image="docker.io/python:3.11"))
    client.data.create_or_update(Data(name="scans", path="azureml://datastores/workspaceblobstore/paths/scans/", type="uri_folder"))
    found = {"train": train(client, folder), "fail": fail(client, folder), "build": build(client, folder), "sweep": sweep(client), "twice": twice(client)}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
