"""Running scripts that use himl's functions, each in its own process as users run them, and reading the jobs that they
submit to Azure ML.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Run
from tests.support import fork_server

shows_hints = pytest.mark.skipif(sys.version_info < (3, 11), reason="tracebacks show hints from Python 3.11 on")
SAY = """
import json
def say(**values):
    print(json.dumps(values, default=str))
"""


TOLERATED = "datetime.datetime.utcnow"
"""Deprecated from Python 3.12 on. azure-ai-ml calls it in every use."""
MODULES = ["himl_cli.api.submit_if_needed", "himl_cli.workspaces.azure.jobs.job_submission", "azure.storage.blob"]


def run_script(
    script: Path,
    *arguments: str,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    modules: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run `python SCRIPT arguments`, in the script's folder by default, in a fork of a process with *modules*.

    Python's warnings are errors, except for `TOLERATED`.
    """
    python = [sys.executable, "-W", "error", "-W", f"ignore:{TOLERATED}:DeprecationWarning"]
    done = fork_server.run(
        python, [*MODULES, *modules], [str(script), *arguments], cwd or script.parent, os.environ | dict(env or {})
    )
    return subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())


def said(
    script: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the last line of the script's output, as JSON. The script must exit with 0."""
    done = run_script(script, *arguments, cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_script(folder: Path, name: str, call: str, after: str) -> Path:
    """Write a script that calls `submit_to_azure_if_needed(`*call*`)`, stores the result in `info`, and continues with
    *after*.

    There it may call `say(key=value)`.
    """
    imports = "import sys\nfrom pathlib import Path\nfrom himl_cli import DatasetConfig, submit_to_azure_if_needed"
    path = folder / name
    path.write_text(f"{SAY}\n{imports}\ninfo = submit_to_azure_if_needed({call})\n{after}\n")
    return path


CONDA = "name: lab\nchannels:\n  - conda-forge\ndependencies:\n  - python=3.11\n  - pip\n  - pip:\n      - himl-cli\n"
CLUSTER = 'compute_cluster_name="cpu-cluster"'
HERE = 'print("this ran " + ("on Azure ML" if info.is_running_in_azure_ml else "here"))'


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    """A workspace with a cluster. The project has its config.json and an environment.yml."""
    azure_environment.add_compute("cpu-cluster")
    azure_environment.write_config(project)
    (project / "environment.yml").write_text(CONDA)
    return azure_environment


@pytest.fixture
def v1_lab(lab: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    for name in ("AZUREML_DEFAULT_BACKOFF", "AZUREML_DEFAULT_500_BACKOFF", "AZUREML_DEFAULT_503_BACKOFF"):
        monkeypatch.setenv(name, "0")
    return lab


def sent(lab: StagedWorkspace) -> Run:
    (run,) = lab.state.runs.values()
    return run


def job_of(lab: StagedWorkspace) -> Mapping[str, Any]:
    job = sent(lab).job
    assert job is not None
    return job


def send(
    script: Path, *arguments: str, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the script with --azureml. It must succeed, and end before the code after the call."""
    done = run_script(script, *arguments, "--azureml", cwd=cwd, env=env)
    assert done.returncode == 0, done.stderr
    assert "this ran" not in done.stdout
    return done
