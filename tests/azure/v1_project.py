"""A project that `himl submit --sdk v1` sends to the double: fixtures, and what several test modules ask of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.azure.conftest import client_python
from tests.servers.azureml.jobs.runner import JobRunner
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import HIML_V1
from tests.support.forked_himl import forked
from tests.support.running import Himl, Outcome, write_files

CONDA = "name: lab\ndependencies:\n- python=3.11\n- pip:\n  - himl-cli\n"
TRAIN = """
import json, os, sys
from pathlib import Path
Path("outputs").mkdir(exist_ok=True)
found = {"arguments": sys.argv[1:], "files": sorted(str(p.as_posix()) for p in Path(".").rglob("*") if p.is_file()), "colour": os.environ.get("COLOUR")}
Path("outputs/found.json").write_text(json.dumps(found))
print("trained", *sys.argv[1:])
"""


@pytest.fixture
def himl(project: Path) -> Himl:
    """himl in an environment that has azureml-core."""
    program = client_python(HIML_V1).with_name("himl.exe" if sys.platform == "win32" else "himl")
    return Himl(program, project, forked(program))


@pytest.fixture
def lab(azure_environment: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch) -> StagedWorkspace:
    """A workspace, and a project beside its config.json. azureml-core does not wait between its tries."""
    azure_environment.write_config(project)
    for name in ("AZUREML_DEFAULT_BACKOFF", "AZUREML_DEFAULT_500_BACKOFF", "AZUREML_DEFAULT_503_BACKOFF"):
        monkeypatch.setenv(name, "0")
    write_files(project, {"train.py": TRAIN, "environment.yml": CONDA})
    return azure_environment


@pytest.fixture
def running(lab: StagedWorkspace) -> Iterator[JobRunner]:
    """The double executes what it is sent."""
    with lab.run_jobs() as runner:
        yield runner


def submitted(himl: Himl, *arguments: str) -> str:
    """The id of the run that `himl submit --sdk v1` started."""
    done = himl.ok("submit", "--sdk", "v1", "--cluster", "cpu-cluster", "-q", *arguments)
    return done.stdout.strip()


def found_by(himl: Himl, run_id: str, folder: Path) -> Any:
    """What the script wrote into outputs/found.json, downloaded."""
    himl.ok("download", run_id, "--prefix", "outputs", "--output_dir", folder)
    return json.loads((folder / run_id / "outputs" / "found.json").read_text())


def definition_of(lab: StagedWorkspace, run_id: str) -> Any:
    return lab.state.runs[run_id].definition


def refused(done: Outcome, code: int, *words: str) -> None:
    """The command ended with *code* and a line that has all *words*, without a traceback."""
    text = " ".join(done.stderr.split())
    assert done.code == code, done.stderr
    assert [word for word in words if word not in text] == []
    assert "Traceback" not in text
