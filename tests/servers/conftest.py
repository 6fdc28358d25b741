"""Fixtures of the tests on the double of Azure ML."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers.azureml.seeding import StagedWorkspace


@pytest.fixture
def running(azure: StagedWorkspace) -> Iterator[StagedWorkspace]:
    """A workspace that runs what is submitted."""
    with azure.run_jobs():
        yield azure
