"""Measure `himl submit --cluster` with a snapshot of 200 files, next to azure-ai-ml's `load_job` and
`create_or_update`, on the double.

`first` submits files and packages that are new to the workspace, with an empty cache. `again` submits the same ones a
second time."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import HIML, PROGRAMS, HimlWorkspace, himl_workspace, new_parser, recording, turns
from benchmarks.submit_local import make_project

OURS, THEIRS = "himl submit", "azure-ai-ml"
FILES = 200
YAML = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
command: python train.py
code: {code}
environment:
  image: mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:20260901.v1
  conda_file: {code}/environment.yml
compute: azureml:cpu-cluster
experiment_name: train
resources:
  instance_count: 1
  shm_size: 100g
distribution:
  type: mpi
  process_count_per_instance: 1
"""


def submit(himl: HimlWorkspace, name: str, time: str, project: Path) -> tuple[dict[str, float], int]:
    """Submit the job, and return its figures and the number of uploaded files."""
    runs = len(himl.staged.state.runs)
    job = project.with_name(f"{project.name}_job.yml")
    job.write_text(YAML.format(code=project.as_posix()))
    ours = [HIML, "submit", "--cluster", "cpu-cluster", "-q", "train.py"]
    environment = himl.environment(HOME=str(project.parent / "home"), AZURE_CORE_COLLECT_TELEMETRY="0")
    figures = himl.spend(ours if name == OURS else [sys.executable, PROGRAMS, "submit", str(job)], environment, project)
    if len(himl.staged.state.runs) != runs + 1:
        sys.exit(f"{name}: {len(himl.staged.state.runs) - runs} runs were created by one submission.")
    files = sum(seen.method == "PUT" and ".blob." in seen.host for seen in himl.staged.stage.log.all())
    if time == "first" and files < FILES:
        sys.exit(f"{name}: {files} files were uploaded, not {FILES}.")
    return figures, files


if __name__ == "__main__":
    args = new_parser(__doc__, 7).parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        himl_workspace(Path(folder)) as himl,
        recording("submit_azure", args.raw) as record,
    ):
        Path(folder, "home").mkdir()
        for number, name in turns((OURS, THEIRS), args.rounds + 1):
            shutil.rmtree(himl.home, ignore_errors=True)
            project = Path(folder, f"{'himl' if name == OURS else 'sdk'}_{number}")
            make_project(project, FILES, project.name)
            for time in ("first", "again"):
                figures, files = submit(himl, name, time, project)
                # In the first round, Python compiles modules.
                if number > 1:
                    record.add(
                        time, name, number - 1, wall=figures["wall"], cpu=figures["cpu"], requests=figures["requests"]
                    )
                    record.add(f"{time}, without uploads", name, number - 1, requests=figures["requests"] - files)
