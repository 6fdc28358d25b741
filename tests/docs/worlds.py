"""The worlds in which the blocks of the documents run: folders with the files that the documents use,
locally and on the double of Azure ML.

empty     nothing
here      a project with a training script and recorded runs
gpus      like here, on a machine whose driver simulates four GPUs
example   the checkout's examples
azure     a project, `az`, the examples, and a workspace in Azure ML that runs jobs
slurm     a project, on a machine whose sbatch has a cluster
ssh       a project, and recorded runs on another machine
lightning nothing, with PyTorch Lightning installed
recipes   nothing, in an active environment with Hugging Face's Trainer, Hydra, W&B and Keras
runner    examples/lightning_cli, with PyTorch Lightning installed
dsa       a CSV, GeoJSON and a run with results, and a Digital Slide Archive with the slides
slides    like azure, with slides in a folder and in a datastore
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from himl_cli.core.runs import RunStatus
from himl_cli.core.sweeps import HYPERPARAMETERS
from tests.docs.blocks import ROOT
from tests.support.clients import WHEEL, write_wheel
from tests.support.dsa import KEY
from tests.support.folders import contents
from tests.support.running import write_files
from tests.support.runs import RecordedRuns

if TYPE_CHECKING:
    from tests.azureml_double.seeding import StagedWorkspace
    from tests.support.dsa import Archive
    from tests.support.ssh import SshServer

FILES = Path(__file__).parent / "files"
"""The files that the documents name."""
IDS = {"subscription_id": "00000000-0000-4000-8000-000000000002", "resource_group": "team", "workspace_name": "lab"}
HERE, DIGITS, ON_AZURE, SLEEPY, CROSSVAL = (
    "train_1772366400_0a1b2c3d",
    "train_1795161581_b15e2215",
    "train_1718000000_1a2b3c4d",
    "sleepy_fig_k0c7sz4slr",
    "train_1795197095_7336030b",
)
"""The runs that the documents name."""
CHECKPOINTS = {f"outputs/checkpoints/{name}.ckpt": name.encode() for name in ("epoch=1", "best", "last")}
LOG = {"user_logs/std_log.txt": b"epoch 1\n", "user_logs/std_log_process_1.txt": b"epoch 1\n"}
LOSSES = (0.9, 0.4, 0.5)
SHORTER = {
    "--crossval 5": "--crossval 2",
    "--different_seeds 3": "--different_seeds 2",
    "crossval_index=0,1,2": "crossval_index=0",
    "--max_trials 8": "--max_trials 2",
    "lr=0.1,0.01 --sweep degree=3,5": "lr=0.1 --sweep degree=3,5",
    "lr=0.3,0.1,0.03": "lr=0.3,0.1",
    "kernel=linear,rbf": "kernel=linear",
    "penalty=0.5,1,1.5": "penalty=0.5,1",
}
"""Equivalent trials are omitted, except if the block shows the output."""


@dataclass(frozen=True)
class World:
    """A folder to start in, the variables of commands, and the values of placeholders in commands (`RUN`, `ID`,
    ...).
    """

    folder: Path
    variables: Mapping[str, str]
    names: Mapping[str, str] = field(default_factory=dict)
    azure: StagedWorkspace | None = None


def variables(**more: str) -> dict[str, str]:
    """The variables of the test, with a browser command that does nothing, and with one thread for NumPy."""
    return {**os.environ, "BROWSER": "true", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **more}


def empty(folder: Path) -> World:
    return World(folder, variables())


def example(folder: Path) -> World:
    """The checkout as its examples see it: a folder called himl with a project in it."""
    _copy_examples(folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return World(folder, variables(), {"RUN": "latest"})


def here(folder: Path) -> World:
    """Runs of the experiments train, digits and scratch, one of them a sweep. The newest is a single run of train."""
    _copy_files(folder, IDS)
    runs = RecordedRuns(folder)
    for number in range(3):
        runs.add(f"scratch_{number}", experiment="scratch", tags={"himl.archived": ""} if number == 2 else {})
    runs.add(DIGITS, experiment="digits", tags={"team": "blue"}, files={**CHECKPOINTS, **LOG, **_curves()})
    runs.add("sweep_1", tags={"team": "blue"})
    for number, rate in enumerate(("0.1", "0.01")):
        runs.log(
            runs.add(
                f"sweep_1_{number}",
                parent="sweep_1",
                tags={"lr": rate, HYPERPARAMETERS: json.dumps({"lr": float(rate)})},
                files=LOG,
            ),
            _points(rate),
        )
    for run in ("abc", "train_1_failed", f"{HERE}_3", HERE):
        status = RunStatus.failed if "failed" in run else RunStatus.completed
        runs.log(runs.add(run, status=status, files={**CHECKPOINTS, **LOG, **_curves()}), _points("0.1"))
    write_files(folder, {"most_recent_run.txt": f"train:{HERE}\n"})
    names = {
        "RUN": HERE,
        "SWEEP": "sweep_1",
        "ID": IDS["subscription_id"],
        "RG": IDS["resource_group"],
        "WS": IDS["workspace_name"],
    }
    return World(folder, variables(), names)


def slurm(folder: Path, programs: Path) -> World:
    _copy_files(folder, IDS)
    return World(
        folder,
        variables(PATH=f"{programs}{os.pathsep}{os.environ['PATH']}"),
        {"--max_run_duration 2h": "--max_run_duration 2m"},
    )


def ssh(folder: Path, box: SshServer) -> World:
    """The home folder of the other machine is that of `here`, with an interpreter that has himl."""
    _copy_files(folder, IDS)
    here(box.home)
    program = box.home / ".venv" / "bin" / "python"
    write_files(box.home, {".venv/bin/python": f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'})
    program.chmod(0o755)
    write_files(folder, {"himl.toml": '[remote.gpubox]\nhiml_python = ".venv/bin/python"\n'})
    return World(folder, variables(), {"RUN": HERE})


def lightning(folder: Path, packages: str) -> World:
    return World(folder, variables(PYTHONPATH=packages))


def recipes(folder: Path, python: Path) -> World:
    """Jobs run in the Python of the active environment."""
    programs = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    return World(folder, variables(VIRTUAL_ENV=str(python.parent.parent), PATH=programs))


def runner(folder: Path, packages: str) -> World:
    shutil.copytree(ROOT / "examples" / "lightning_cli", folder, dirs_exist_ok=True)
    return lightning(folder, packages)


def dsa(folder: Path, archive: Archive) -> World:
    results = (
        b"slide_id,left,top,right,bottom,bag_attn\nslide_1,0,0,224,224,0.07\nslide_1,224,0,448,224,0.42\n"
        b"slide_2,0,0,224,224,0.11\n"
    )
    shape = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": {"name": "tumour"}}
    write_files(folder, {"attention.csv": results, "tumour.geojson": json.dumps(shape)})
    RecordedRuns(folder).add(
        HERE,
        display_name="transformer",
        files={f"outputs/{split}/test_output.csv": results for split in ("test", "val")},
    )
    for number in (1, 2):
        archive.add(f"Biopsies/PANDA/slide_{number}.svs")
    return World(
        folder,
        variables(),
        {"RUN": HERE, "https://dsa.example.org": archive.address, "DSA_API_KEY=…": f"DSA_API_KEY={KEY}"},
    )


def azure(folder: Path, staged: StagedWorkspace, az: Path, *, with_examples: bool = False) -> World:
    """The clusters, datastores, datasets and runs of the documents, in a workspace that runs jobs. *az* is the folder
    of the program that signs in.
    """
    state = staged.state
    ids = {"subscription_id": state.subscription, "resource_group": state.group, "workspace_name": state.name}
    _copy_files(folder, ids)
    # Each job would include them in its snapshot.
    if with_examples:
        _copy_examples(folder)
    staged.write_config(folder)
    write_files(folder, {f"{other}/config.json": json.dumps(ids) for other in ("other", "theirs")})
    local = RecordedRuns(folder)
    local.log(local.add(DIGITS, experiment="digits", files={**CHECKPOINTS, **LOG, **_curves()}), _points("0.1"))
    write_files(folder, {"most_recent_run.txt": f"digits:{SLEEPY}\n"})
    for cluster in ("cpu", "gpu", "gpu-low"):
        staged.add_compute(cluster)
    for datastore in ("datasets", "lab", "lake", "shared", "himldatasets"):
        staged.add_datastore(datastore)
    for datastore in ("workspaceblobstore", "datasets", "lake"):
        staged.put_blobs(
            datastore,
            {"scans/a.csv": b"1\n", "scans/b.txt": b"2\n", "mnist/label.txt": b"1\n", "scans_small/a.csv": b"1\n"},
        )
    staged.put_blobs("workspaceblobstore", {"digits/1.txt": b"1\n", "models/epoch_9.ckpt": b"weights"})
    staged.add_data("scans", "azureml://datastores/workspaceblobstore/paths/scans/", "3")
    _add_runs(staged)
    staged.run_jobs()
    names = {
        "RUN": SLEEPY,
        "NEW_RUN": ON_AZURE,
        "R": SLEEPY,
        "RUN:best_val_loss.ckpt": "best_1:best_val_loss.ckpt",
        "FILE": "changed/last.ckpt",
        "--resume latest": '--resume "${stopped:-latest}"',
        "SWEEP": CROSSVAL,
        "ID": state.subscription,
        "RG": state.group,
        "WS": state.name,
        "HIML_TENANT_ID=…": f"HIML_TENANT_ID={state.principal.tenant}",
        "HIML_SERVICE_PRINCIPAL_ID=…": f"HIML_SERVICE_PRINCIPAL_ID={state.principal.client_id}",
        "HIML_SERVICE_PRINCIPAL_PASSWORD=…": f"HIML_SERVICE_PRINCIPAL_PASSWORD={state.principal.secret}",
    }
    # TensorBoard sends requests to its own data server.
    here = dict.fromkeys(("NO_PROXY", "no_proxy"), "localhost,127.0.0.1")
    found = variables(**staged.stage.environment() | here)
    return World(folder, {**found, "PATH": f"{az}{os.pathsep}{found['PATH']}"}, names, staged)


def slides(folder: Path, staged: StagedWorkspace, az: Path) -> World:
    """Four slides in `slides` with a list of two of them, which are their own masks, and `labels.csv`, and in the
    folder `scans` of the datastore `lab`. Also a wheel of himl.

    Montages are narrower than in the documents.
    """
    # Import numpy and Pillow only in this world.
    from tests.support.montages import four_slides

    world = azure(folder, staged, az)
    found = four_slides(folder / "slides")
    (found / "dataset.csv").write_text("image,slide_id,label,mask\nb.svs,B,two,b.svs\na.tiff,A,one,a.tiff\n")
    write_files(folder, {"labels.csv": "slide_id,label\nA,three\nB,four\n"})
    staged.put_blobs("lab", {f"scans/{name}": content for name, content in contents(found).items()})
    write_wheel(folder)
    narrower = {"himl montage": "himl montage --width 600", "--width 20000": "--width 2000"}
    at_scale = "himl montage slides --mpp 8"
    narrower[at_scale] = at_scale
    return replace(world, names={**world.names, **narrower, "FILE": WHEEL})


def _add_runs(staged: StagedWorkspace) -> None:
    from tests.azureml_double.seeding import add_sweep

    for run_id, experiment in ((HERE, "train"), (ON_AZURE, "train"), (SLEEPY, "digits")):
        run = staged.add_run(run_id, experiment)
        staged.add_metric(run, "val/loss", LOSSES)
        staged.put_artifacts(run, {**CHECKPOINTS, **LOG, **_curves()})
        staged.add_output(run, "model", {"model.txt": b"weights"})
    staged.put_artifact(staged.add_run("best_1", "train"), "outputs/checkpoints/best_val_loss.ckpt", b"weights")
    add_sweep(
        staged,
        CROSSVAL,
        [{"crossval_index": number} for number in range(3)],
        lambda number, _: {"val/loss": [number + loss for loss in LOSSES]},
    )


def _points(rate: str) -> list[tuple[str, float, int, int]]:
    return [("val/loss", loss + float(rate), step, step) for step, loss in enumerate(LOSSES)]


def _curves() -> dict[str, bytes]:
    # The import of TensorBoard's writer takes a second.
    from tests.support.tensorboard import NAME, event_bytes

    return {f"logs/{NAME}": event_bytes(LOSSES)}


def _copy_examples(folder: Path) -> None:
    shutil.copytree(
        ROOT / "examples", folder / "examples", ignore=shutil.ignore_patterns("__pycache__", ".himl", "outputs")
    )


def _copy_files(folder: Path, ids: Mapping[str, str]) -> None:
    """Copy the project's files. Its settings files name the workspace of *ids*."""
    shutil.copytree(FILES, folder, dirs_exist_ok=True)
    for other in ("resize.py", "lab/train.py"):
        shutil.copy(FILES / "train.py", folder / other)
    settings = "".join(f"  {key}: '{value}'\n" for key, value in ids.items())
    env = "".join(f"{key.upper()}={value}\n" for key, value in {**ids, "aml_compute_cluster_name": "gpu"}.items())
    write_files(folder, {"InnerEye/settings.yml": f"variables:\n{settings}  cluster: 'gpu'\n", ".env": env})
