"""The steps of the files in `examples/ci`, taken out and run as GitHub Actions and Azure DevOps run them."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.running import PROGRAM

EXAMPLES = Path(__file__).parents[2] / "examples" / "ci"
FILES = ("github-actions.yml", "github-actions-oidc.yml", "azure-pipelines.yml", "azure-pipelines-oidc.yml")
CANCELED = ("cancelled()", "canceled()")
VARIABLES = sorted({name for file in FILES for name in re.findall(r"(?:HIML|AZURE)_[A-Z_]+|CLUSTER|LEAST_ACCURACY", (EXAMPLES / file).read_text())})
"""All that the files want to be set."""
GITHUB_BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
"""What GitHub makes of `shell: bash`."""
DEVOPS_BASH = ("bash", "--noprofile", "--norc")
"""How Azure DevOps runs a `bash:` step, and what its task AzureCLI runs a script by."""


@dataclass(frozen=True)
class Step:
    """A script of a file; `uses` is the task that runs it, where there is one, and `inputs` are the task's."""

    name: str
    script: str
    shell: tuple[str, ...]
    variables: Mapping[str, str] = field(default_factory=dict)
    condition: str = ""
    uses: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)


def document(name: str) -> dict[Any, Any]:
    """A file of `examples/ci`. YAML 1.1 reads the key `on` as true."""
    found: dict[Any, Any] = yaml.safe_load((EXAMPLES / name).read_text(encoding="utf-8"))
    return found


def github_steps(name: str) -> list[Step]:
    """The scripts of a workflow's only job, in order."""
    (job,) = document(name)["jobs"].values()
    assert job["defaults"]["run"] == {"shell": "bash"}
    return [Step(step["name"], step["run"], GITHUB_BASH, {**job["env"], **step.get("env", {})}, step.get("if", "")) for step in job["steps"] if "run" in step]


def devops_steps(name: str) -> list[Step]:
    """The scripts of a pipeline's only job, in order; those of its own variables that are set in the file are among each step's."""
    whole = document(name)
    (job,) = whole["jobs"]
    common = {variable["name"]: variable["value"] for variable in whole["variables"] if "name" in variable}
    return list(_devops_scripts(job["steps"], common))


def _devops_scripts(steps: list[dict[str, Any]], common: dict[str, str]) -> Iterator[Step]:
    for step in steps:
        inputs, condition = step.get("inputs", {}), step.get("condition", "")
        variables = {**common, **step.get("env", {})}
        if "bash" in step:
            yield Step(step["displayName"], step["bash"], DEVOPS_BASH, variables, condition)
        elif "inlineScript" in inputs:
            assert (inputs["scriptType"], inputs["scriptLocation"]) == ("bash", "inlineScript")
            yield Step(step["displayName"], inputs["inlineScript"], DEVOPS_BASH, variables, condition, step["task"], inputs)


def steps_of(name: str) -> dict[str, Step]:
    """The scripts of the file by name, in order."""
    steps = github_steps(name) if name.startswith("github") else devops_steps(name)
    return {step.name: step for step in steps}


def resolved(text: str, values: Mapping[str, str]) -> str:
    """*text* with its `${{ … }}` and `$(…)` replaced by *values*. Raises KeyError for one that is not among them."""
    return re.sub(r"\$\{\{ ([\w.]+) \}\}|\$\(([\w.]+)\)", lambda found: values[found[1] or found[2]], text)


@dataclass(frozen=True)
class Machine:
    """Where steps run: the project's folder, what the service sets in every step, and what its expressions stand for.

    A step sees no terminal and no NO_COLOR, and finds `himl` and `python` on PATH as after an installation.
    """

    folder: Path
    service: Mapping[str, str]
    values: Mapping[str, str]
    scratch: Path

    def start(self, step: Step) -> subprocess.Popen[bytes]:
        """The step's process, which leads a group of its own."""
        path = self.scratch / f"{step.name.replace(' ', '_')}.sh"
        path.write_text(step.script, encoding="utf-8")
        own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        variables = {name: resolved(str(value), self.values) for name, value in step.variables.items()}
        programs = f"{PROGRAM.parent}{os.pathsep}{own['PATH']}"
        return subprocess.Popen(
            [*step.shell, str(path)],
            cwd=self.folder,
            env={**own, "PATH": programs, "CI": "true", **self.service, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, step: Step) -> tuple[int, str]:
        """The step's exit code and all that it said."""
        with self.start(step) as process:
            said, _ = process.communicate(timeout=100)
        return process.returncode, said.decode()
