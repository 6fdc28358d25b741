"""What the vendor's clients say of the double: each program runs once, the tests look at its answers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.azure.lab import Lab, fill
from tests.conftest import lacking
from tests.support import clients
from tests.support.running import Himl

if TYPE_CHECKING:
    from tests.servers.azureml.stage import Stage

Visit = Callable[..., tuple[Lab, Any]]
AZURE_AI_ML = "azure-ai-ml"  # in the environment of the tests


@dataclass(frozen=True)
class Heard:
    """A lab that a client's program has been in, and what the program printed."""

    lab: Lab
    said: Any
    himl: Himl

    @classmethod
    def of(cls, visited: tuple[Lab, Any], himl: Himl, project: Path) -> Heard:
        """What a visit brought, beside *himl* in a *project* whose config.json names the same workspace."""
        visited[0].azure.write_config(project)
        return cls(*visited, himl)

    def json(self, *arguments: str) -> Any:
        """What `himl` prints of the same workspace, as JSON."""
        done = self.himl(*arguments, "--json", env=self.lab.azure.environment())
        assert done.code == 0, done.stderr
        return done.json()

    def downloads(self, *arguments: str | Path) -> None:
        """Let `himl` download something of the same workspace."""
        done = self.himl("download", *arguments, env=self.lab.azure.environment())
        assert done.code == 0, done.stderr


def client_python(name: str) -> Path:
    """The Python that has the client called *name*; the test is skipped loudly where it cannot be had."""
    if name == AZURE_AI_ML:
        return Path(sys.executable)
    try:
        return clients.client_python(name)
    except clients.PythonMissing as error:
        lacking(str(error))
        raise


@pytest.fixture(scope="module")
def visit(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    """Call it with a client and a program: a new lab is filled, the program runs in it (or in a job of it); an unknown request fails."""

    def run(client: str, program: str, job: str = "") -> tuple[Lab, Any]:
        python = client_python(client)
        shared_stage.clear()
        lab = fill(shared_stage.workspace())
        said = lab.program(python, program, tmp_path_factory.mktemp(program), job=job)
        unknown = shared_stage.log.unknown()
        assert not unknown, f"requests that the double does not play: {unknown}"
        return lab, said

    yield run
    shared_stage.clear()
