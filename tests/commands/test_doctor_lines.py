"""Each line of `himl doctor` provoked to fail, or to note, by what is wrong around the real command; each says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from tests.recorded_runs import RecordedRuns
from tests.running import Himl, Outcome
from tests.servers.azureml.faults import WrongDate
from tests.servers.azureml.principals import Right
from tests.servers.azureml.seeding import StagedWorkspace

SIGN_IN = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD", "AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
Variables = Mapping[str, str]
Break = Callable[[StagedWorkspace, Path], Variables]


def checks(outcome: Outcome, name: str, state: str) -> list[dict[str, Any]]:
    return [check for check in outcome.json() if (check["name"], check["state"]) == (name, state)]


def the_check(outcome: Outcome, name: str, state: str) -> dict[str, Any]:
    """The one check of that name and state; a failed one ends the command with 1, and nothing else does."""
    found = checks(outcome, name, state)
    assert len(found) == 1, outcome.stdout
    assert found[0]["remedy"]
    failed = {check["name"] for check in outcome.json() if check["state"] == "failed"}
    assert outcome.code == (1 if failed else 0)
    assert failed == set() or all(each in outcome.error_json()["message"] for each in failed)
    return found[0]


# what is installed


def metadata_with(folder: Path, requirement: str) -> Variables:
    """Let himl's own package ask for *requirement* as well: its metadata, found before the installed one."""
    installed = distribution("himl-cli")
    place = folder / f"himl_cli-{installed.version}.dist-info"
    place.mkdir(parents=True)
    head, separator, rest = str(installed.read_text("METADATA")).partition("\n\n")
    (place / "METADATA").write_text(f"{head}\nRequires-Dist: {requirement}{separator}{rest}", encoding="utf-8")
    return {"PYTHONPATH": str(folder)}


INSTALLED = {
    "a missing package": ("no-such-package>=1", "packages", "failed", "no-such-package is missing.", "-m pip install --upgrade himl-cli"),
    "a wrong version": ("rich>=999", "packages", "failed", " is not >=999.", "-m pip install --upgrade himl-cli"),
    "a missing extra": ("no-such-package; extra == 'aaa'", "extras", "note", "Not installed: aaa", "pip install 'himl-cli[aaa]'"),
}


@pytest.mark.parametrize(("requirement", "name", "state", "said", "remedy"), INSTALLED.values(), ids=INSTALLED)
def test_what_is_not_installed(started_himl: Himl, project: Path, tmp_path: Path, requirement: str, name: str, state: str, said: str, remedy: str) -> None:
    RecordedRuns(project).add("train_1_aa")
    check = the_check(started_himl("doctor", "--json", env=metadata_with(tmp_path / "other", requirement)), name, state)
    assert said in check["message"]
    assert remedy in check["remedy"]


# the local workspace


def test_a_damaged_record_of_runs(himl: Himl, project: Path) -> None:
    (project / ".himl").mkdir()
    (project / ".himl" / "workspace.db").write_bytes(b"no database" * 100)
    check = the_check(himl("doctor", "--json"), "local workspace", "failed")
    assert "workspace.db' is damaged" in check["message"]


def test_a_local_workspace_that_may_only_be_read(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    RecordedRuns(project).add("train_1_aa")
    read_only(project / ".himl")
    check = the_check(himl("doctor", "--json"), "local workspace", "note")
    assert check["message"] == f"'{project / '.himl'}' may only be read: jobs cannot be recorded there."


def test_no_workspace(himl: Himl) -> None:
    check = the_check(himl("doctor", "--json"), "configuration", "failed")
    assert check["message"].startswith("No workspace. No Azure ML workspace is configured")
    assert "config.json" in check["remedy"]


def test_a_local_workspace_alone(himl: Himl, project: Path) -> None:
    RecordedRuns(project)
    assert "HIML_" in the_check(himl("doctor", "--json"), "configuration", "note")["message"]


# the workspace in Azure ML


def nobody_signed_in(azure: StagedWorkspace, folder: Path) -> Variables:
    return dict.fromkeys(SIGN_IN, "")


def half_a_principal(azure: StagedWorkspace, folder: Path) -> Variables:
    return {"HIML_SERVICE_PRINCIPAL_PASSWORD": ""}


def an_expired_secret(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.state.principal.secret_expired = True
    return {}


def an_unknown_host(azure: StagedWorkspace, folder: Path) -> Variables:
    return {"AZURE_AUTHORITY_HOST": "login.himl.invalid", "NO_PROXY": "himl.invalid", "no_proxy": "himl.invalid"}


def a_clock_behind(azure: StagedWorkspace, folder: Path) -> Variables:
    azure.stage.faults.add(WrongDate(7200), times=None)
    return {}


def wrong(key: str, value: str) -> Break:
    def write(azure: StagedWorkspace, folder: Path) -> Variables:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(content | {key: value}))
        return {}

    return write


def no_access(azure: StagedWorkspace, folder: Path) -> Variables:
    return azure.environment(azure.add_principal({Right.READ}))


IN_AZURE: dict[str, tuple[Break, str, str]] = {
    "half a config.json": (wrong("workspace_name", "<NAME>"), "configuration", "'workspace_name' is still the placeholder"),
    "nobody signed in": (nobody_signed_in, "sign-in", "Azure CLI"),
    "half a principal": (half_a_principal, "sign-in", "The service principal is only partly set"),
    "an expired secret": (an_expired_secret, "sign-in", "expired"),
    "an unknown host": (an_unknown_host, "sign-in", "The name login.himl.invalid is not known here (DNS)."),
    "a clock behind": (a_clock_behind, "clock", "This machine's clock is 2 hours behind the service's."),
    "a wrong subscription": (wrong("subscription_id", "00000000-1111-2222-3333-444444444444"), "workspace", "00000000-1111-2222-3333-444444444444"),
    "a wrong group": (wrong("resource_group", "no-such-group"), "workspace", "There is no resource group 'no-such-group'"),
    "a wrong name": (wrong("workspace_name", "no-such-workspace"), "workspace", "There is no workspace 'no-such-workspace'"),
    "no access": (no_access, "datastore", "Storage Blob Data Reader"),
}


@pytest.mark.parametrize(("break_it", "name", "said"), IN_AZURE.values(), ids=IN_AZURE)
def test_what_is_wrong_with_a_workspace_in_azure(himl: Himl, azure_environment: StagedWorkspace, project: Path, break_it: Break, name: str, said: str) -> None:
    azure_environment.write_config(project)
    check = the_check(himl("doctor", "--json", env=break_it(azure_environment, project)), name, "failed")
    assert said in f"{check['message']} {check['remedy']}"


def test_a_curl_that_cannot_be_loaded(started_himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    """A `pycurl` whose library is missing stands before the installed one."""
    azure_environment.write_config(project)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pycurl.py").write_text("raise ImportError('libcurl.so.4: cannot open shared object file')\n")
    check = the_check(started_himl("doctor", "--json", env={"PYTHONPATH": str(other)}), "curl", "failed")
    assert "libcurl.so.4: cannot open shared object file" in check["message"]
    assert "pip install --force-reinstall pycurl" in check["remedy"]
    moved = started_himl("datastore", "list", "--datastore", "workspaceblobstore", env={"PYTHONPATH": str(other)})
    assert (moved.code, moved.stderr) == (
        1,
        "error: pycurl cannot be loaded: libcurl.so.4: cannot open shared object file.\nhint: Install it again: pip install --force-reinstall pycurl\n",
    )


def test_a_job_without_an_identity(himl: Himl, azure: StagedWorkspace) -> None:
    azure.state.default_datastore.credentials = "None"
    variables = azure.job_environment(azure.add_run("job_1_aa", "train", status="Running"))
    assert "--identity" in the_check(himl("doctor", "--json", env=variables), "datastore", "note")["remedy"]


# all of it


def test_every_line_that_can_be_wrong_is_provoked_above(started_himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path) -> None:
    """Where everything is there to be looked at, each check has its line; Python alone cannot fail, since himl does not start with an older one."""
    RecordedRuns(project).add("train_1_aa")
    azure_environment.write_config(project)
    outcome = started_himl("doctor", "--json", env=metadata_with(tmp_path / "other", "no-such-package; extra == 'aaa'"))
    provoked = {name for _, name, *_ in INSTALLED.values()} | {name for _, name, _ in IN_AZURE.values()} | {"local workspace", "curl"}
    assert {check["name"] for check in outcome.json()} - {"python"} == provoked
    assert [check["state"] for check in outcome.json() if check["name"] != "extras"] == ["ok"] * (len(outcome.json()) - 1)
