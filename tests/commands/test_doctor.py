"""Tests of `himl doctor` and `himl workspace show`: each check can fail without ending the others, and gives a
remedy.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from himl_cli.workspaces.local.schema import SCHEMA_VERSION
from tests.azureml_double.faults import Refuse, WrongDate
from tests.azureml_double.seeding import StagedWorkspace
from tests.azureml_double.state import Right
from tests.support.azure import SIGN_IN
from tests.support.running import Himl, Outcome, write_files
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

Break = Callable[[StagedWorkspace, Path], Mapping[str, str] | None]
"""Breaks something, and returns the variables that a command needs for that."""


def record_by_a_newer_himl(project: Path) -> None:
    RecordedRuns(project).add("train_1_aa")
    with closing(sqlite3.connect(project / ".himl" / "workspace.db")) as connection, connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")


def record_that_is_a_pipe(project: Path) -> None:
    (project / ".himl").mkdir()
    os.mkfifo(project / ".himl" / "workspace.db")


def wrong(key: str, value: str) -> Break:
    def write(azure: StagedWorkspace, project: Path) -> None:
        content = json.loads((project / "config.json").read_text())
        (project / "config.json").write_text(json.dumps(content | {key: value}))

    return write


SET: dict[str, tuple[str, Mapping[str, str], str, str]] = {
    "an unknown key": (
        "[submit]\nclutser = 'gpu'\n",
        {},
        "himl.toml', line 2: 'clutser' is not an option of 'himl submit'.",
        "Did you mean 'cluster'?",
    ),
    "no TOML": ("[submit\n", {}, "himl.toml', line 1: ", "not valid TOML"),
    "an unknown key of montages": ("[montage]\nsize = 1\n", {}, "himl.toml', line 2: 'size' is not known.", "cache_gb"),
    "a wrong variable": (
        "",
        {"HIML_SUBMIT_NUM_NODES": "two"},
        "The variable HIML_SUBMIT_NUM_NODES cannot be 'two'",
        "himl submit --help",
    ),
}
NO_FILE = "workspace.db' is not a file, or is a dangling link."
HERE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a damaged record of runs": (
        lambda project: write_files(project, {".himl/workspace.db": b"no database" * 100}),
        "workspace.db' is damaged",
        "To start a new database",
    ),
    "a record by a newer himl": (record_by_a_newer_himl, "workspace.db' was written by a newer himl.", "Update himl"),
    "a folder in place of the record": (
        lambda project: (project / ".himl" / "workspace.db").mkdir(parents=True),
        NO_FILE,
        "To start a new database",
    ),
}
IN_AZURE: dict[str, tuple[Break, str, str]] = {
    "half a config.json": (
        wrong("workspace_name", "<NAME>"),
        "configuration",
        "'workspace_name' is still the placeholder",
    ),
    "an expired secret": (
        lambda azure, _: setattr(azure.state.principal, "secret_expired", True),
        "sign-in",
        "expired",
    ),
    "an unknown host": (
        lambda azure, _: {
            "AZURE_AUTHORITY_HOST": "login.himl.invalid",
            "NO_PROXY": "himl.invalid",
            "no_proxy": "himl.invalid",
        },
        "sign-in",
        "This machine cannot resolve the host name login.himl.invalid (DNS).",
    ),
    "a clock behind": (
        lambda azure, _: azure.stage.faults.add(WrongDate(7200), times=None),
        "clock",
        "This machine's clock is 2 hours behind the service's.",
    ),
    "a wrong name": (
        wrong("workspace_name", "no-such-workspace"),
        "workspace",
        "Workspace 'no-such-workspace' does not exist",
    ),
    "storage out of reach": (
        lambda azure, _: azure.stage.faults.add(Refuse(), re.escape(azure.state.storage.host), times=None),
        "datastore",
        "did not connect to",
    ),
    "a closed firewall": (
        lambda azure, _: setattr(azure.state.storage, "is_open", False),
        "datastore",
        "blocks this machine",
    ),
}
CONFIG = {"subscription_id": "00000000-1111-2222-3333-444444444444", "resource_group": "team", "workspace_name": "lab"}
AZURE_CHECKS = ["curl", "sign-in", "clock", "workspace", "datastore"]
PRINCIPAL = ("HIML_TENANT_ID", "HIML_SERVICE_PRINCIPAL_ID", "HIML_SERVICE_PRINCIPAL_PASSWORD")


def checks(outcome: Outcome, name: str, state: str) -> list[dict[str, Any]]:
    return [check for check in outcome.json() if (check["name"], check["state"]) == (name, state)]


def the_check(outcome: Outcome, name: str, state: str) -> dict[str, Any]:
    """Return the only check of that name and state. The exit code must be 1 if a check failed, otherwise 0."""
    found = checks(outcome, name, state)
    assert len(found) == 1, outcome.stdout
    assert found[0]["remedy"]
    failed = {check["name"] for check in outcome.json() if check["state"] == "failed"}
    assert outcome.code == (1 if failed else 0)
    assert failed == set() or all(each in outcome.error_json()["message"] for each in failed)
    return found[0]


@pytest.mark.parametrize(("content", "env", "said", "remedy"), SET.values(), ids=SET)
def test_what_is_wrong_with_settings(
    himl: Himl, project: Path, content: str, env: Mapping[str, str], said: str, remedy: str
) -> None:
    RecordedRuns(project).add("train_1_aa")
    (project / "himl.toml").write_text(content, encoding="utf-8")
    outcome = himl("doctor", "--json", env=env)
    check = the_check(outcome, "settings", "failed")
    assert said in check["message"]
    assert remedy in check["remedy"]
    assert outcome.stdout.count(json.dumps(said)[1:-1]) == 1
    (project / "train.py").write_text("", encoding="utf-8")
    refused = (
        himl("montage", "slides", "--datastore", "local", env=env)
        if "montage" in content
        else himl("submit", "train.py", env=env)
    )
    assert refused.code == 2
    assert refused.stderr.startswith(f"error: {check['message']}\n")


if sys.platform != "win32":
    HERE["a record that is a pipe"] = (record_that_is_a_pipe, NO_FILE, "To start a new database")


@pytest.mark.parametrize(("break_it", "said", "remedy"), HERE.values(), ids=HERE)
def test_what_is_wrong_with_a_local_workspace(
    himl: Himl, project: Path, break_it: Callable[[Path], None], said: str, remedy: str
) -> None:
    break_it(project)
    check = the_check(himl("doctor", "--json"), "local workspace", "failed")
    assert said in check["message"]
    assert remedy in check["remedy"]
    (project / "train.py").write_text("", encoding="utf-8")
    refused = himl("submit", "train.py", "-q")
    assert (refused.code, refused.stderr) == (1, f"error: {check['message']}\nhint: {check['remedy']}\n")


def test_a_local_workspace_that_may_only_be_read(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    RecordedRuns(project).add("train_1_aa")
    read_only(project / ".himl")
    check = the_check(himl("doctor", "--json"), "local workspace", "note")
    assert check["message"] == f"'{project / '.himl'}' is read-only, so himl cannot record jobs in it."


@pytest.mark.parametrize(("break_it", "name", "said"), IN_AZURE.values(), ids=IN_AZURE)
def test_what_is_wrong_with_a_workspace_in_azure(
    himl: Himl, azure_environment: StagedWorkspace, project: Path, break_it: Break, name: str, said: str
) -> None:
    azure_environment.write_config(project)
    check = the_check(himl("doctor", "--json", env=break_it(azure_environment, project)), name, "failed")
    assert said in f"{check['message']} {check['remedy']}"


@pytest.mark.large("starts himl several times")
def test_a_curl_that_cannot_be_loaded(
    started_himl: Himl, azure_environment: StagedWorkspace, project: Path, tmp_path: Path
) -> None:
    azure_environment.write_config(project)
    other = tmp_path / "other"
    other.mkdir()
    (other / "pycurl.py").write_text("raise ImportError('libcurl.so.4: cannot open shared object file')\n")
    without_pyc = {
        "PYTHONPATH": str(other),
        "PYTHONPYCACHEPREFIX": str(tmp_path / "none"),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    outcome = started_himl("doctor", "--json", env=without_pyc)
    assert re.search(r"-m compileall -q \S*himl_cli$", the_check(outcome, "compiled modules", "note")["remedy"])
    check = the_check(outcome, "curl", "failed")
    assert "libcurl.so.4: cannot open shared object file" in check["message"]
    assert "pip install --force-reinstall pycurl" in check["remedy"]
    moved = started_himl("datastore", "list", "--datastore", "workspaceblobstore", env={"PYTHONPATH": str(other)})
    assert (moved.code, moved.stderr) == (
        1,
        "error: pycurl cannot be loaded: libcurl.so.4: cannot open shared object file.\n"
        "hint: Install it again: pip install --force-reinstall pycurl\n",
    )


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    return runs


@pytest.fixture
def configured(azure_environment: StagedWorkspace, project: Path) -> StagedWorkspace:
    azure_environment.write_config(project)
    return azure_environment


def test_workspace_in_azure_is_in_order_without_right_to_write(
    himl: Himl, configured: StagedWorkspace, project: Path
) -> None:
    rights = configured.environment(configured.add_principal({Right.READ, Right.STORAGE_READ}))
    outcome = himl.ok("doctor", env=rights)
    assert (states(outcome), outcome.stderr) == (["ok"] * 5, "")
    assert outcome.stdout.count(rights["HIML_SERVICE_PRINCIPAL_ID"][:8]) == 1
    assert f"\t{configured.label} responds, in {configured.state.location}." in outcome.stdout
    assert f"{configured.label}, from '{project / 'config.json'}' (the nearest one upward)." in outcome.stdout
    assert "\thiml can list " in outcome.stdout
    (project / "file.txt").write_text("content")
    upload = himl("datastore", "upload", "file.txt", "folder", env=rights)
    assert (upload.code, "Storage Blob Data Contributor" in upload.stderr) == (4, True)


def states(outcome: Outcome) -> list[str]:
    rows = [line.split("\t") for line in outcome.stdout.splitlines()]
    found = {row[1]: row[0] for row in rows}
    return [found[name] for name in AZURE_CHECKS]


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("recorded")
def test_local_workspace_alone_is_in_order(himl: Himl, project: Path) -> None:
    outcome = himl.ok("doctor")
    lines = [line.split("\t") for line in outcome.stdout.splitlines()]
    names = [
        ("ok", "python"),
        ("ok", "packages"),
        ("ok", "settings"),
        ("ok", "configuration"),
        ("note", "configuration"),
        ("ok", "local workspace"),
    ]
    assert [(line[0], line[1]) for line in lines if line[1] not in ("extras", "compiled modules")] == names
    assert [line[2] for line in lines if line[1] == "settings"] == ["None are set."]
    assert f"local workspace '.himl', from '{project / '.himl'}' (the nearest one upward)." in outcome.stdout
    assert outcome.stderr == ""
    assert himl.ok("doctor", "-q").stdout == ""
    (project / "himl.toml").write_text("[submit]\ncluster = 'gpu'\n", encoding="utf-8")
    outcome = himl.ok("doctor", "--json", env={"HIML_SUBMIT_TAG": "team=blue", "HIML_SUBMIT_CLUSTER": ""})
    assert [check["message"] for check in checks(outcome, "settings", "ok")] == [
        f"'{project / 'himl.toml'}', HIML_SUBMIT_TAG."
    ]
    assert "HIML_" in the_check(outcome, "configuration", "note")["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.usefixtures("recorded")
def test_lines_fit_a_narrow_terminal(himl: Himl) -> None:
    terminal = Terminal(
        [str(himl.program), "doctor"], cwd=himl.folder, columns=40, env={"NO_COLOR": "1", "COLUMNS": "40"}
    )
    assert terminal.finish() == 0
    lines = terminal.screen.splitlines()
    assert lines[0] == "ok      python"
    assert max(len(line) for line in lines if "/" not in line) <= 40


@pytest.mark.large("takes long, and other tests run its branches")
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("break_it", "said", "expected"),
    [
        (
            wrong("subscription_id", CONFIG["subscription_id"]),
            CONFIG["subscription_id"],
            ["ok", "ok", "ok", "failed", "skipped"],
        ),
        (lambda azure, _: dict.fromkeys(SIGN_IN, ""), "az login", ["ok", "failed", "ok", "skipped", "skipped"]),
        (
            lambda azure, _: azure.environment(azure.add_principal({Right.READ})),
            "Storage Blob Data Reader",
            ["ok", "ok", "ok", "ok", "failed"],
        ),
        (
            lambda azure, project: {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"},
            "proxy",
            ["ok", "failed", "failed", "skipped", "skipped"],
        ),
    ],
    ids=["subscription", "nobody", "no access", "no network"],
)
def test_checks_behind_a_failed_one_are_skipped(
    himl: Himl, azure: StagedWorkspace, project: Path, break_it: Break, said: str, expected: list[str]
) -> None:
    outcome = himl("doctor", env=break_it(azure, project))
    assert (outcome.code, states(outcome)) == (1, expected)
    assert all(said in line for line in outcome.stdout.splitlines() if line.startswith("failed"))
    failed = [name for name, state in zip(AZURE_CHECKS, expected, strict=True) if state == "failed"]
    assert outcome.stderr.startswith(f"error: Failed checks: {', '.join(failed)}.\n")
    assert ("Fix the first one first" in outcome.stderr) == (len(failed) > 1)


def test_workspace_show_prints_config_even_if_azure_call_fails(
    himl: Himl, configured: StagedWorkspace, project: Path
) -> None:
    config = json.loads((project / "config.json").read_text())
    env = {"HIML_SERVICE_PRINCIPAL_PASSWORD": "wrong"}
    write_files(project, {".himl/x": ""})
    outcome = himl("workspace", "show", env=env)
    assert (outcome.code, outcome.stderr.startswith("error: ")) == (4, True), outcome.stderr
    lines = outcome.stdout.splitlines()
    assert f"  Read from          '{project / 'config.json'}' (the nearest one upward)" in lines
    assert f"  Subscription ID    {configured.state.subscription}" in lines
    assert "local workspace '.himl'" in lines
    shown = himl("workspace", "show", "--json", env=env)
    assert (shown.code, [each["kind"] for each in shown.json()]) == (4, ["azure", "local"])
    assert shown.json()[0]["facts"] == {
        key: config[key] for key in ("workspace_name", "resource_group", "subscription_id")
    }
    (project / ".himl" / "workspace.db").write_text("no database")
    outcome = himl("workspace", "show", env=env)
    warning, error = outcome.stderr.splitlines()[:2]
    assert (
        outcome.code,
        warning.startswith("warning: local workspace '.himl': "),
        "workspace.db" in warning,
        error[:7],
    ) == (4, True, True, "error: ")


def test_doctor_reports_unreadable_credential_file_as_failed(
    himl: Himl, configured: StagedWorkspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project / "credential"
    for name in (*PRINCIPAL, "AZURE_CLIENT_SECRET"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AZURE_FEDERATED_TOKEN_FILE", str(path))
    outcome = himl("doctor")
    assert (outcome.code, states(outcome)) == (1, ["ok", "failed", "ok", "skipped", "skipped"])
    assert "failed\tsign-in\t" in outcome.stdout
    assert f"cannot read '{path}' from AZURE_FEDERATED_TOKEN_FILE: " in outcome.stdout
    assert outcome.stderr.startswith("error: Failed checks: sign-in.\n")
    shown = himl("workspace", "show")
    assert (shown.code, f"cannot read '{path}' from AZURE_FEDERATED_TOKEN_FILE: " in shown.stderr) == (4, True)
    assert f"  Subscription ID    {configured.state.subscription}" in shown.stdout.splitlines()


def test_doctor_passes_inside_job_with_run_token_only(
    himl: Himl, azure: StagedWorkspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run token opens datastores.

    A datastore that needs an identity, which the job does not have, gives a note instead of a failure.
    """
    run = azure.add_run("job_1_aa", "train", status="Running")
    for name, value in azure.job_environment(run).items():
        monkeypatch.setenv(name, value)
    outcome = himl("doctor")
    assert f"{azure.label}, from the job's environment." in outcome.stdout
    assert (outcome.code, states(outcome)) == (0, ["ok"] * 5), outcome.stdout
    assert "job_1_aa" in outcome.stdout
    assert himl.ok("workspace", "show", "--json").json()[0]["facts"]["default_datastore"] == "workspaceblobstore"
    azure.state.default_datastore.credentials = "None"
    outcome = himl("doctor", env={"HIML_NO_CACHE": "1"})
    assert (outcome.code, states(outcome)) == (0, ["ok", "ok", "ok", "ok", "note"]), outcome.stdout
    assert "--identity" in outcome.stdout


def test_search_for_configuration_says_what_it_found(himl: Himl, project: Path) -> None:
    outcome = himl("doctor", "--json")
    check = the_check(outcome, "configuration", "failed")
    assert check["message"].startswith("No workspace. No Azure ML workspace is configured")
    assert "config.json" in check["remedy"]
    assert (outcome.code, outcome.error_json()["code"]) == (1, "checks_failed")
    assert himl("doctor", "-q").stdout == "configuration\n"
    shown = himl("workspace", "show")
    assert (shown.code, shown.stdout, "himl doctor" in shown.stderr) == (3, "", True)
    partly = himl("doctor", env={"HIML_SUBSCRIPTION_ID": CONFIG["subscription_id"]})
    assert (
        partly.code,
        "HIML_SUBSCRIPTION_ID is set, but not HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME." in partly.stdout,
    ) == (1, True)
    outcome = himl("doctor", "--json", env={"HIML_SUBMIT_NUM_NODES": "https://store/file?sig=abcdef123"})
    assert "sig=***" in the_check(outcome, "settings", "failed")["message"]
    assert "abcdef123" not in f"{outcome.stdout}{outcome.stderr}"
    deep = project / "sub" / "deep"
    deep.mkdir(parents=True)
    (project / "config.json").write_text(json.dumps(CONFIG))
    env = {"PYTHONPATH": str(project / "sub")}
    said = (
        f"The search for config.json stopped at '{project / 'sub'}', which is on PYTHONPATH, so himl skipped "
        f"'{project / 'config.json'}'."
    )
    assert f"note\tconfiguration\t{said}\n" in himl("doctor", cwd=deep, env=env).stdout
    refused = himl("runs", "list", cwd=deep, env=env)
    assert (refused.code, said in refused.stderr) == (3, True)
    (deep / ".himl").mkdir()
    assert himl.ok("workspace", "show", cwd=deep, env=env).stderr == f"{said}\n"
    assert himl.ok("workspace", "show", "--workspace", "local", cwd=deep, env=env).stderr == ""
    write_files(
        project,
        {"config.json": json.dumps(CONFIG), "a/b/config.json": '{"subscription_id": "x"}', "a/config.json": "{broken"},
    )
    write_files(project, {"a/b/.azureml/config.json": '{"model": "of another program"}'})
    noted = [
        check["message"] for check in checks(himl("doctor", "--json", cwd=project / "a" / "b"), "configuration", "note")
    ]
    for place, said in (("a/b", "lacks resource_group and workspace_name."), ("a", "line 1: ")):
        assert any(f"'{project / place / 'config.json'}'" in note and said in note for note in noted), noted
