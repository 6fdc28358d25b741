"""Tokens, workspace records and names of experiments that are kept in one home folder are given to nobody else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from himl_cli.workspaces.azure.connection import Connection
from himl_cli.workspaces.azure.run_history import experiment_name
from tests.servers.azureml.faults import Page
from tests.servers.azureml.seeding import StagedWorkspace
from tests.servers.azureml.stage import Stage
from tests.support.azure import connected

EXPERIMENT = "44444444-5555-6666-7777-888888888888"
KINDS: dict[str, Callable[[Connection], str]] = {
    "tokens": lambda connection: connection.tokens.get(connection.address.cloud.storage_scope),
    "records": lambda connection: connection.record().location,
    "experiments": lambda connection: experiment_name(connection, EXPERIMENT),
}


def answer_with(stage: Stage, word: str) -> None:
    """Let workspaces say that they are at the place *word*, and experiments that this is their name."""
    record = {"location": word, "properties": {"workspaceId": "w", "mlFlowTrackingUri": "azureml://eastus.api.azureml.ms/mlflow"}}
    stage.faults.clear()
    stage.faults.add(Page(json.dumps(record), content_type="application/json"), r"GET management\.", times=None)
    stage.faults.add(Page(json.dumps({"name": word}), content_type="application/json"), f"/experimentids/{EXPERIMENT}", times=None)


@pytest.mark.parametrize("kind", list(KINDS))
def test_cache_is_separate_per_account_workspace_and_cloud(
    azure_environment: StagedWorkspace, stage: Stage, project: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def told(who: tuple[Mapping[str, str], Mapping[str, str]]) -> str:
        variables, place = who
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with connected(azure_environment, project, **place) as connection:
            return KINDS[kind](connection)

    first = azure_environment.environment()
    tenant = azure_environment.add_principal(tenant="11111111-2222-3333-4444-555555555555")
    here: dict[str, str] = {}
    others = {
        "the first": (first, here),
        "another account": (azure_environment.environment(azure_environment.add_principal()), here),
        "another tenant": (azure_environment.environment(tenant), here),
        "another cloud": ({**first, "AZUREML_CURRENT_CLOUD": "AzureUSGovernment"}, here),
        "another workspace": (first, {"name": "other"}),
        "another group": (first, {"resource_group": "other"}),
        "another subscription": (first, {"subscription_id": "99999999-2222-3333-4444-555555555555"}),
    }
    if kind == "tokens":  # these belong to an account, whatever it looks at
        others = {name: who for name, who in others.items() if who[1] is here}
    given = {}
    for name, who in others.items():
        answer_with(stage, f"what {name} is told")
        given[name] = told(who)
    assert len(set(given.values())) == len(others)
    answer_with(stage, "what nobody asks for again")
    assert {name: told(who) for name, who in others.items()} == given, "each is kept"
