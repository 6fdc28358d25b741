"""A blob in the default datastore, large enough that faults may meet it halfway."""

from __future__ import annotations

import pytest

from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.azure import DEFAULT

BODY = bytes(range(256)) * 8_000
GET = r"GET .*/big"


@pytest.fixture
def azure(azure_environment: StagedWorkspace) -> StagedWorkspace:
    azure_environment.put_blob(DEFAULT, "big", BODY)
    return azure_environment
