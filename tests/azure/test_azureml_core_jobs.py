"""azureml-core, unmodified and signed in by itself, submits jobs to the double and waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.azure.conftest import client_python
from tests.azure.lab import Lab, fill
from tests.servers.azureml.stage import Stage
from tests.support.clients import AZUREML_CORE

pytestmark = pytest.mark.timeout(1800)  # the first use of a client builds its environment

Said = tuple[Lab, Any]


@pytest.fixture(scope="module")
def said(shared_stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Said]:
    """What the program said, which every test here looks at; a request that nobody plays fails it."""
    python = client_python(AZUREML_CORE)
    shared_stage.clear()
    lab = fill(shared_stage.workspace())
    lab.azure.add_environment("torch")
    with lab.azure.run_jobs():
        said = lab.program(python, "azureml_core_submit", tmp_path_factory.mktemp("jobs"), seconds=300)
    unknown = shared_stage.log.unknown()
    assert not unknown, f"requests that the double does not play: {unknown}"
    yield lab, said
    shared_stage.clear()


def test_its_job_ran(said: Said) -> None:
    lab, heard = said
    assert (heard["status"], heard["log"], heard["tags"]["from"]) == ("Completed", "trained well\n", "core")
    assert [lab.azure.state.runs[run_id].status for run_id in heard["ids"]] == ["Completed", "Completed"]


def test_its_output_is_where_it_said_and_registered(said: Said) -> None:
    lab, _ = said
    assert lab.azure.get_blob("workspaceblobstore", "sent/by/core/made.txt") == b"made"
    assert list(lab.azure.state.assets["data"]["made_by_core"]) == ["1", "2"]


def test_unchanged_files_are_the_same_snapshot(said: Said) -> None:
    lab, heard = said
    assert len(set(heard["snapshots"])) == len(lab.azure.state.snapshots) == 1


def test_a_wheel_is_uploaded_once(said: Said) -> None:
    lab, heard = said
    assert heard["wheel"][0] == heard["wheel"][1]
    assert lab.azure.state.storage.get("azureml", heard["wheel"][0].partition("/azureml/")[2])[:2] == b"PK"
