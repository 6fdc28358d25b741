"""Real objects of the vendor's SDKs, given where a workspace is expected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from himl_cli.api.open_workspace import azure_names
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.clients import HIML_V1, client_python

ML_CLIENT = """
import json, sys
from azure.ai.ml import MLClient
from azure.identity import ClientSecretCredential
import himl_cli
tenant, client, secret, subscription, group, name = json.loads(sys.stdin.read())
with ClientSecretCredential(tenant, client, secret) as credential:
    theirs = MLClient(credential, subscription, group, name)
    ours, run, job = himl_cli.get_workspace(theirs), himl_cli.fetch_run(theirs, "train:train_1_aa"), theirs.jobs.get("train_1_aa")
    assert ours == himl_cli.Workspace(subscription, group, name)
    answers = [[ours.name, theirs.workspace_name], [ours.resource_group, theirs.resource_group_name], [ours.subscription_id, theirs.subscription_id]]
    answers += [[run.status, job.status], [run.experiment.name, job.experiment_name]]
    answers += [[url.split("&")[0].lower() for url in (run.get_portal_url(), job.studio_url)]]
    answers += [[ours.get_default_datastore().name, theirs.datastores.get_default().name]]
    answers += [[sorted(ours.datastores), sorted(each.name for each in theirs.datastores.list())]]
    try:
        himl_cli.get_workspace(MLClient(credential, subscription, group))
    except TypeError as err:
        answers += [[str(err).partition(":")[0], "azure.ai.ml._ml_client.MLClient is no workspace"]]
print(json.dumps(answers))
"""


def names_and_secrets(azure: StagedWorkspace) -> list[str]:
    who, state = azure.state.principal, azure.state
    return [who.tenant, who.client_id, who.secret, state.subscription, state.group, state.name]


def answers_of(python: str, program: str, given: list[str], *, cwd: Path) -> list[list[object]]:
    """What *program* prints last: pairs of our answer and theirs."""
    command = [python, "-W", "ignore", "-c", program]
    done = subprocess.run(command, input=json.dumps(given), cwd=cwd, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    answers: list[list[object]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def test_ml_client_is_accepted_as_workspace_with_equal_answers(azure_environment: StagedWorkspace, project: Path) -> None:
    azure_environment.add_run("train_1_aa", "train", status="Failed", error="it broke")
    answers = answers_of(sys.executable, ML_CLIENT, names_and_secrets(azure_environment), cwd=project)
    assert len(answers) == 9
    for ours, theirs in answers:
        assert ours == theirs


CORE = """
import json, sys
from azureml.core import Run, Workspace
from azureml.core.authentication import ServicePrincipalAuthentication
import himl_cli
tenant, client, secret, subscription, group, name = json.loads(sys.stdin.read())
theirs = Workspace.get(name, auth=ServicePrincipalAuthentication(tenant, client, secret), subscription_id=subscription, resource_group=group)
their_run = Run.get(theirs, "train_1_aa")
ours = himl_cli.get_workspace(theirs)
run = himl_cli.fetch_run(theirs, himl_cli.create_run_recovery_id(their_run))
answers = [[ours.name, theirs.name], [ours.subscription_id, theirs.subscription_id], [ours.resource_group, theirs.resource_group]]
answers += [[run.id, their_run.id], [run.experiment.name, their_run.experiment.name], [run.status, their_run.get_status()], [run.tags, their_run.tags]]
answers += [[run.display_name, their_run.display_name], [run.get_metrics(), their_run.get_metrics()]]
answers += [[run.get_metrics(recursive=True), their_run.get_metrics(recursive=True)]]
answers += [[run.get_file_names(), sorted(their_run.get_file_names())]]
answers += [[[child.id for child in run.get_children()], [child.id for child in their_run.get_children()]]]
answers += [[himl_cli.is_running_in_azure_ml(their_run), True], [himl_cli.is_running_in_azure_ml(Run.get_context()), False]]
print(json.dumps(answers))
"""


@pytest.mark.timeout(1800)  # the first use of a client builds its environment
def test_objects_of_azureml_core_are_taken_and_agree_with_ours(azure_environment: StagedWorkspace, project: Path) -> None:
    azure = azure_environment
    run = azure.add_run("train_1_aa", "train", tags={"team": "blue"}, status="Completed", display_name="first")
    azure.add_metric(azure.add_run("child_a", "train", parent="train_1_aa", status="Completed"), "loss", [0.25])
    azure.add_metric(run, "loss", [1.0, 0.5])
    azure.add_metric(run, "accuracy", [0.9])
    azure.put_artifacts(run, {"outputs/model.bin": b"m", "user_logs/std_log.txt": b"hello"})
    answers = answers_of(str(client_python(HIML_V1)), CORE, names_and_secrets(azure), cwd=project)
    assert len(answers) == 14
    for ours, theirs in answers:
        assert ours == theirs


class Workspace2:
    """Of another library."""

    subscription_id, resource_group, name = "s", "g", "n"


def test_objects_of_that_shape_from_elsewhere_are_not_taken() -> None:
    assert azure_names(Workspace2()) is None
    assert azure_names(object()) is None
    assert "azureml" not in sys.modules
