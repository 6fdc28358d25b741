"""`himl doctor` and `himl workspace show` on an Azure ML workspace: each line can fail, and the others go on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.servers.azureml.faults import WrongDate
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, Outcome

CHECKS = ["curl", "sign-in", "clock", "workspace", "datastore"]
PRINCIPAL = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD")
VENDOR = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")


@pytest.fixture
def configured(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    return azure_environment


def lines_of(outcome: Outcome) -> dict[str, list[str]]:
    """State, message and remedy by the check's name, of the Azure workspace's checks."""
    rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    return {row[1]: [row[0], *row[2:]] for row in rows if row[1] in CHECKS}


def states(outcome: Outcome) -> list[str]:
    found = lines_of(outcome)
    return [found[name][0] for name in CHECKS]


def test_a_workspace_that_can_be_used_is_in_order(himl: Himl, configured: StagedWorkspace, project: Path) -> None:
    outcome = himl.ok("doctor")
    found = lines_of(outcome)
    assert states(outcome) == ["ok"] * 5
    assert configured.state.principal.client_id[:8] in found["sign-in"][1]
    assert found["workspace"][1] == f"{configured.label} answers, in {configured.state.location}."
    assert f"{configured.label}, from '{project / 'config.json'}' (the nearest here or above)." in outcome.stdout
    assert outcome.stderr == ""
    assert [check["state"] for check in himl.ok("doctor", "--json").json() if check["name"] in CHECKS] == ["ok"] * 5


def test_a_wrong_subscription_is_named(himl: Himl, configured: StagedWorkspace, project: Path) -> None:
    wrong = "00000000-1111-2222-3333-444444444444"
    state = configured.state
    (project / "config.json").write_text(json.dumps({"subscription_id": wrong, "resource_group": state.group, "workspace_name": state.name}))
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "ok", "ok", "failed", "skipped"])
    assert wrong in lines_of(outcome)["workspace"][1]
    assert outcome.stderr.startswith("error: Not in order: workspace.\n")


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("resource_group", "no-such-group", "There is no resource group 'no-such-group'"),
        ("workspace_name", "no-such-workspace", "There is no workspace 'no-such-workspace'"),
    ],
)
def test_a_wrong_group_or_name_is_named(himl: Himl, project: Path, key: str, value: str, said: str) -> None:
    content = json.loads((project / "config.json").read_text()) | {key: value}
    (project / "config.json").write_text(json.dumps(content))
    outcome = himl("doctor")
    assert outcome.code == 1
    assert lines_of(outcome)["workspace"][1].startswith(said)


@pytest.mark.usefixtures("configured")
def test_nobody_to_sign_in_names_what_was_tried(himl: Himl, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PRINCIPAL, *VENDOR):
        monkeypatch.delenv(name)
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "failed", "ok", "skipped", "skipped"])
    assert "Azure CLI" in lines_of(outcome)["sign-in"][1]
    assert "az login" in lines_of(outcome)["sign-in"][2]
    assert himl("runs", "list").code == 4


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("missing", PRINCIPAL)
def test_a_partly_set_service_principal_names_the_missing_part(himl: Himl, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.delenv(missing)
    outcome = himl("doctor")
    assert outcome.code == 1
    (line,) = [line for line in outcome.stdout.splitlines() if line.startswith("failed\t")]
    assert line.startswith("failed\tsign-in\tThe service principal is only partly set")
    assert missing in line


def test_an_expired_secret_is_said(himl: Himl, configured: StagedWorkspace) -> None:
    configured.state.principal.secret_expired = True
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "failed", "ok", "skipped", "skipped"])
    assert "expired" in lines_of(outcome)["sign-in"][1]


@pytest.mark.usefixtures("configured")
def test_an_unreachable_host_is_said(himl: Himl) -> None:
    """A proxy that nobody runs stands for a network that is down."""
    nobody = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    outcome = himl("doctor", env=nobody, timeout=100)
    assert outcome.code == 1
    assert states(outcome)[1:] == ["failed", "failed", "skipped", "skipped"]
    assert all("proxy" in lines_of(outcome)[name][1] for name in ("sign-in", "clock"))


def test_no_access_to_the_datastore_is_said(himl: Himl, configured: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in configured.environment(configured.add_principal({Right.READ})).items():
        monkeypatch.setenv(name, value)
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "ok", "ok", "ok", "failed"])
    assert "Storage Blob Data Reader" in " ".join(lines_of(outcome)["datastore"])


def test_doctor_passes_with_read_only_rights_as_it_never_writes(
    himl: Himl, configured: StagedWorkspace, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """Uploading with the same rights is exit code 4 and names the role that is missing."""
    for name, value in configured.environment(configured.add_principal({Right.READ, Right.STORAGE_READ})).items():
        monkeypatch.setenv(name, value)
    outcome = himl.ok("doctor")
    assert states(outcome) == ["ok"] * 5
    assert lines_of(outcome)["datastore"][1].endswith(" can be listed.")
    (project / "file.txt").write_text("content")
    upload = himl("datastore", "upload", "file.txt", "folder")
    assert upload.code == 4
    assert "Storage Blob Data Contributor" in upload.stderr


def test_a_clock_that_is_off_is_said_and_by_how_much(himl: Himl, configured: StagedWorkspace) -> None:
    configured.stage.faults.add(WrongDate(-3600), times=None)
    outcome = himl("doctor")
    assert (outcome.code, lines_of(outcome)["clock"][0]) == (1, "failed")
    assert "1 hour ahead of the service's" in lines_of(outcome)["clock"][1]


def test_workspace_show_says_what_it_is_and_where_that_was_read(himl: Himl, configured: StagedWorkspace, project: Path) -> None:
    state = configured.state
    (shown,) = himl.ok("workspace", "show", "--json").json()
    assert (shown["kind"], shown["label"]) == ("azure", configured.label)
    assert shown["source"] == f"'{project / 'config.json'}' (the nearest here or above)"
    facts = shown["facts"]
    assert (facts["location"], facts["workspace_id"], facts["tenant_id"]) == (state.location, state.workspace_id, state.tenant)
    assert (facts["subscription_id"], facts["default_datastore"]) == (state.subscription, "workspaceblobstore")
    assert facts["studio_url"].startswith("https://ml.azure.com/?wsid=/subscriptions/")
    assert f"  Location           {state.location}" in himl.ok("workspace", "show").stdout.splitlines()


WRONG_KEY = {"HIML_SERVICE_PRINCIPAL_PASSWORD": "wrong"}


@pytest.mark.parametrize(("wrong", "env", "code"), [("workspace_name", {}, 3), ("", WRONG_KEY, 4)], ids=["no such workspace", "not signed in"])
def test_workspace_show_prints_config_even_if_azure_call_fails(
    himl: Himl, configured: StagedWorkspace, project: Path, wrong: str, env: dict[str, str], code: int
) -> None:
    config = json.loads((project / "config.json").read_text()) | ({wrong: "nothing"} if wrong else {})
    (project / "config.json").write_text(json.dumps(config))
    (project / ".himl").mkdir()
    outcome = himl("workspace", "show", env=env)
    assert outcome.code == code, outcome.stderr
    assert outcome.stderr.startswith("error: ")
    assert f"  Read from          '{project / 'config.json'}' (the nearest here or above)" in outcome.stdout.splitlines()
    assert f"  Subscription ID    {configured.state.subscription}" in outcome.stdout.splitlines()
    assert "local workspace '.himl'" in outcome.stdout.splitlines()
    shown = himl("workspace", "show", "--json", env=env)
    assert (shown.code, [each["kind"] for each in shown.json()]) == (code, ["azure", "local"])
    assert shown.json()[0]["facts"] == {name: config[name] for name in ("workspace_name", "resource_group", "subscription_id")}


def test_workspace_show_says_of_each_workspace_what_is_wrong(himl: Himl, configured: StagedWorkspace, project: Path) -> None:
    (project / ".himl").mkdir()
    (project / ".himl" / "workspace.db").write_text("no database")
    outcome = himl("workspace", "show", env=WRONG_KEY)
    assert outcome.code == 4
    warning, error = outcome.stderr.splitlines()[:2]
    assert warning.startswith("warning: local workspace '.himl': ")
    assert "workspace.db" in warning
    assert error.startswith("error: ")


@pytest.mark.parametrize("is_folder", [False, True], ids=["missing", "a folder"])
@pytest.mark.parametrize("variable", ["AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_CERTIFICATE_PATH"])
def test_doctor_reports_unreadable_credential_file_as_failed(
    himl: Himl, configured: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch, variable: str, is_folder: bool
) -> None:
    path = project / "credential"
    if is_folder:
        path.mkdir()
    for name in (*PRINCIPAL, "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv(variable, str(path))
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "failed", "ok", "skipped", "skipped"])
    assert f"cannot read '{path}', which {variable} names: " in lines_of(outcome)["sign-in"][1]
    assert outcome.stderr.startswith("error: Not in order: sign-in.\n")
    shown = himl("workspace", "show")
    assert shown.code == 4
    assert f"cannot read '{path}', which {variable} names: " in shown.stderr
    assert f"  Subscription ID    {configured.state.subscription}" in shown.stdout.splitlines()


def test_workspace_show_of_names_alone_asks_nobody(himl: Himl, configured: StagedWorkspace) -> None:
    configured.stage.log.clear()
    assert himl.ok("workspace", "show", "-q").stdout == f"{configured.label}\n"
    assert configured.requests() == []


def test_workspace_show_has_the_local_one_too(himl: Himl, configured: StagedWorkspace, project: Path) -> None:
    (project / ".himl").mkdir()
    assert himl.ok("workspace", "show", "-q").stdout == f"{configured.label}\nlocal workspace '.himl'\n"
    assert himl.ok("workspace", "show", "-q", "-w", "local").stdout == "local workspace '.himl'\n"


def test_doctor_passes_inside_job_with_run_token_only(himl: Himl, azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run token opens datastores; one that wants an identity, which the job has not, is a note, and no failure."""
    run = azure.add_run("job_1_aa", "train", status="Running")
    for name, value in azure.job_environment(run).items():
        monkeypatch.setenv(name, value)
    outcome = himl("doctor")
    assert f"{azure.label}, from the job's environment." in outcome.stdout
    assert (outcome.code, states(outcome)) == (0, ["ok"] * 5), outcome.stdout
    assert "job_1_aa" in lines_of(outcome)["workspace"][1]
    assert himl.ok("workspace", "show", "--json").json()[0]["facts"]["default_datastore"] == "workspaceblobstore"
    azure.state.default_datastore.credentials = "None"
    outcome = himl("doctor", env={"HIML_NO_CACHE": "1"})
    assert (outcome.code, states(outcome)) == (0, ["ok", "ok", "ok", "ok", "note"]), outcome.stdout
    assert "--identity" in lines_of(outcome)["datastore"][2]
