"""A project of 200 files that is new to the workspace each time: no content of it was ever uploaded before."""

from __future__ import annotations

from pathlib import Path

FILES = 200
BYTES_PER_FILE = 4096
JOB = "job.yml"
CONDA = "name: {mark}\nchannels:\n- conda-forge\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - mlflow-skinny\n"
YAML = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandJob.schema.json
command: python train.py
code: {code}
environment:
  image: mcr.microsoft.com/azureml/openmpi5.0-cuda12.4-ubuntu22.04:20260901.v1
  conda_file: {conda}
compute: azureml:cpu-cluster
experiment_name: train
resources:
  instance_count: 1
  shm_size: 100g
distribution:
  type: mpi
  process_count_per_instance: 1
"""


def make_project(folder: Path, mark: str) -> None:
    """Files that hold *mark*, a script and its conda file among them; beside the folder the job as the vendor's command line takes it."""
    folder.mkdir(parents=True)
    (folder / "train.py").write_text(f"print('{mark}')\n")
    (folder / "environment.yml").write_text(CONDA.format(mark=mark))
    for number in range(FILES - 2):
        path = folder / f"package_{number % 10}" / f"module_{number}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"# {mark} {number}\n" + "#" * BYTES_PER_FILE)
    job_of(folder).write_text(YAML.format(code=folder.as_posix(), conda=(folder / "environment.yml").as_posix()))


def job_of(folder: Path) -> Path:
    """The job YAML of the project in *folder*; not part of it."""
    return folder.with_name(f"{folder.name}_{JOB}")
