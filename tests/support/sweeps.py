"""Sweeps and pipelines of the local workspace, and scripts for them."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.azureml_double.seeding import StagedWorkspace
from tests.support.processes import processes_below
from tests.support.running import Himl, until, write_files

KEEPER = "himl_cli.workspaces.local.controller"
SUPERVISOR = "himl_cli.workspaces.local.supervisor"

# Writes each start to ../notes/starts, waits for ../notes/go-on if ../notes/hold exists, and writes its end.
NOTING = """
import os, sys, time
from pathlib import Path
notes = Path(os.environ["NOTES"])
name = os.environ["AZUREML_RUN_ID"]
with (notes / "starts").open("a") as stream:
    stream.write(name + "\\n")
print("up", flush=True)
while (notes / "hold").exists():
    time.sleep(0.02)
Path("outputs/result.txt").write_text(" ".join(sys.argv[1:]))
with (notes / "ends").open("a") as stream:
    stream.write(name + "\\n")
"""


def notes_folder(tmp_path: Path, *, holds: bool = False) -> Path:
    """The folder in which scripts record their starts and ends, for the variable NOTES."""
    folder = tmp_path / "notes"
    folder.mkdir()
    for name in ("starts", "ends", *(["hold"] if holds else [])):
        (folder / name).touch()
    return folder


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def children(himl: Himl, parent: str) -> list[dict[str, Any]]:
    """The children of a run from `runs show --children`, sorted by id."""
    found = himl.ok("runs", "show", "--run", parent, "--children", "--json").json()
    return sorted(found if isinstance(found, list) else [found], key=lambda run: str(run["id"]))


def show(himl: Himl, run: str) -> dict[str, Any]:
    found: dict[str, Any] = himl.ok("runs", "show", run, "--json").json()
    return found


def statuses(himl: Himl, parent: str) -> list[str]:
    return [str(run["status"]) for run in children(himl, parent)]


def log_of(project: Path, run: str) -> str:
    return (project / ".himl" / "runs" / run / "user_logs" / "std_log.txt").read_text()


def pids(project: Path, module: str) -> list[int]:
    return processes_below(project / ".himl", module)


def kill(project: Path, module: str) -> None:
    """Send SIGKILL to all processes of *module*, and wait for their end."""
    for pid in pids(project, module):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not pids(project, module))


TRAIN = "import sys\nprint(*sys.argv[1:])\n"
ENVIRONMENT = "dependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"


@pytest.fixture(autouse=True)
def script(project: Path) -> None:
    write_files(project, {"train.py": TRAIN})


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """The project with an environment and the config.json of a workspace."""
    azure_environment.write_config(project)
    write_files(project, {"environment.yml": ENVIRONMENT})
    return azure_environment


EPOCHS = 10

# Writes each epoch to ../notes/epochs, and waits while ../notes/hold exists. Writes checkpoints in halves, so that a
# kill may leave a partial one.
RESUMABLE_TRAIN = """
import io, json, os, time, zipfile
from pathlib import Path
from himl_cli import RUN_CONTEXT
from himl_cli.job import recovery_checkpoint

notes, folder = Path(os.environ["NOTES"]), Path("outputs/checkpoints")
folder.mkdir(parents=True, exist_ok=True)
found = recovery_checkpoint()
state = {"epoch": -1, "weight": 4.0}
if found is not None:
    with zipfile.ZipFile(found) as archive:
        state = json.loads(archive.read("state.json"))
with (notes / "tries").open("a") as stream:
    stream.write(f"{os.getpid()} {state['epoch']}\\n")
for epoch in range(state["epoch"] + 1, 10):
    while epoch == 9 and (notes / "hold").exists():
        time.sleep(0.01)
    state = {"epoch": epoch, "weight": state["weight"] * (0.7 + epoch / 40)}
    RUN_CONTEXT.log("loss", state["weight"], step=epoch)
    RUN_CONTEXT.flush()  # what the checkpoint stands for is on record before there is one
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("state.json", json.dumps(state))
    data = content.getvalue()
    with (folder / f"recovery_epoch={epoch}.ckpt").open("wb") as stream:
        for piece in (data[: len(data) // 2], data[len(data) // 2 :]):
            stream.write(piece)
            stream.flush()
            time.sleep(0.01)
    with (notes / "epochs").open("a") as stream:
        stream.write(f"{os.getpid()} {epoch}\\n")
"""


def undisturbed() -> dict[int, float]:
    """The loss by epoch of an uninterrupted training."""
    weight, curve = 4.0, {}
    for epoch in range(EPOCHS):
        weight *= 0.7 + epoch / 40
        curve[epoch] = weight
    return curve
