"""Each line of `himl doctor` provoked to fail, or to note, by what is wrong around the real command; each says what to do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeVar

import pytest

import himl_cli
from tests.servers.azureml.seeding import StagedWorkspace
from tests.support.running import Himl, Outcome
from tests.support.runs import RecordedRuns
from tests.support.workspaces import (
    Break,
    Variables,
    a_clock_behind,
    a_closed_firewall,
    a_folder,
    a_link_to_nothing,
    a_pipe,
    an_expired_secret,
    an_unknown_host,
    by_a_newer_himl,
    damaged,
    half_a_principal,
    no_access,
    nobody_signed_in,
    storage_out_of_reach,
    wrong,
)

Test = TypeVar("Test", bound=Callable[..., None])

PROVOKED: set[str] = set()
"""The lines that the tests of this file provoke, each told by its test: one that goes takes its lines along."""


def provokes(names: Iterable[str]) -> Callable[[Test], Test]:
    def told(test: Test) -> Test:
        PROVOKED.update(names)
        return test

    return told


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
    "a missing extra": ("no-such-package; extra == 'aaa'", "extras", "note", "Not installed: aaa", "himl-cli[aaa]"),
}


@provokes(name for _, name, *_ in INSTALLED.values())
@pytest.mark.parametrize(("requirement", "name", "state", "said", "remedy"), INSTALLED.values(), ids=INSTALLED)
def test_what_is_not_installed(started_himl: Himl, project: Path, tmp_path: Path, requirement: str, name: str, state: str, said: str, remedy: str) -> None:
    RecordedRuns(project).add("train_1_aa")
    check = the_check(started_himl("doctor", "--json", env=metadata_with(tmp_path / "other", requirement)), name, state)
    assert said in check["message"]
    assert remedy in check["remedy"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs symbolic links")
@provokes(["packages"])
def test_a_himl_that_is_not_installed(project: Path, tmp_path: Path) -> None:
    """Its sources on PYTHONPATH, and all packages but the metadata that pip wrote of himl."""
    RecordedRuns(project).add("train_1_aa")
    other = tmp_path / "other"
    other.mkdir()
    sources = Path(himl_cli.__file__).parent
    installed = (path for folder in map(Path, sys.path) if folder.name == "site-packages" for path in folder.iterdir())
    for name, path in {path.name: path for path in installed if not path.name.startswith("himl_cli")}.items():
        (other / name).symlink_to(path)
    (other / sources.name).symlink_to(sources)
    command = [sys.executable, "-S", "-m", "himl_cli", "doctor", "--json"]
    done = subprocess.run(command, cwd=project, env=os.environ | {"PYTHONPATH": str(other)}, capture_output=True, timeout=100)
    check = the_check(Outcome(done.returncode, done.stdout, done.stderr), "packages", "note")
    assert check["message"] == f"Not looked at: himl-cli is not installed, and runs from '{other / 'himl_cli'}'."
    assert check["remedy"].endswith(" -m pip install himl-cli")
    assert done.stderr == b""


# settings

SET: dict[str, tuple[str, Variables, str, str]] = {
    "an unknown key": ("[submit]\nclutser = 'gpu'\n", {}, "himl.toml', line 2: 'clutser' is no option of 'himl submit'.", "Did you mean 'cluster'?"),
    "a wrong value": ("[submit]\nnum_nodes = 'two'\n", {}, "himl.toml', line 2: 'num_nodes' must be a number, not 'two'.", "num_nodes = 4"),
    "a list where one goes": ("[submit]\nnum_nodes = []\n", {}, "himl.toml', line 2: 'num_nodes' must be one value, not [].", "himl submit --help"),
    "no TOML": ("[submit\n", {}, "himl.toml', line 1: ", "no valid TOML"),
    "an unknown section": ("[sumbit]\n", {}, "himl.toml', line 1: 'sumbit' is not known.", "Did you mean [submit]?"),
    "an unknown key of Azure": ("[azure]\ntenant = 'x'\n", {}, "himl.toml', line 2: 'tenant' is not known.", "tenant_id"),
    "an unknown key of montages": ("[montage]\nsize = 1\n", {}, "himl.toml', line 2: 'size' is not known.", "cache_gb"),
    "an unknown variable": ("", {"HIML_SUBMIT_CLUTSER": "gpu"}, "The variable HIML_SUBMIT_CLUTSER sets no option of 'himl submit'.", "HIML_SUBMIT_CLUSTER"),
    "a wrong variable": ("", {"HIML_SUBMIT_NUM_NODES": "two"}, "The variable HIML_SUBMIT_NUM_NODES cannot be 'two'", "himl submit --help"),
}


@provokes(["settings"])
@pytest.mark.parametrize(("content", "env", "said", "remedy"), SET.values(), ids=SET)
def test_what_is_wrong_with_settings(himl: Himl, project: Path, content: str, env: Variables, said: str, remedy: str) -> None:
    """It is told once, and `submit` or `montage` would say the same."""
    RecordedRuns(project).add("train_1_aa")
    (project / "himl.toml").write_text(content, encoding="utf-8")
    outcome = himl("doctor", "--json", env=env)
    check = the_check(outcome, "settings", "failed")
    assert said in check["message"]
    assert remedy in check["remedy"]
    assert outcome.stdout.count(json.dumps(said)[1:-1]) == 1
    (project / "train.py").write_text("", encoding="utf-8")
    refused = himl("montage", "slides", "--datastore", "local", env=env) if "montage" in content else himl("submit", "train.py", env=env)
    assert refused.code == 2
    assert refused.stderr.startswith(f"error: {check['message']}\n")


def test_settings_that_are_in_order_are_named(himl: Himl, project: Path) -> None:
    RecordedRuns(project).add("train_1_aa")
    assert [check["message"] for check in checks(himl.ok("doctor", "--json"), "settings", "ok")] == ["None are set."]
    (project / "himl.toml").write_text("[submit]\ncluster = 'gpu'\n", encoding="utf-8")
    outcome = himl.ok("doctor", "--json", env={"HIML_SUBMIT_TAG": "team=blue", "HIML_SUBMIT_CLUSTER": ""})
    assert [check["message"] for check in checks(outcome, "settings", "ok")] == [f"'{project / 'himl.toml'}', HIML_SUBMIT_TAG."]


def test_secrets_in_settings_that_are_wrong_are_masked(himl: Himl) -> None:
    outcome = himl("doctor", "--json", env={"HIML_SUBMIT_NUM_NODES": "https://store/file?sig=abcdef123"})
    assert "sig=***" in the_check(outcome, "settings", "failed")["message"]
    assert "abcdef123" not in f"{outcome.stdout}{outcome.stderr}"


# the local workspace

NO_FILE = "workspace.db' is no file, or a link that leads to none."
HERE: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "a damaged record of runs": (damaged, "workspace.db' is damaged", "to start a new record"),
    "a record by a newer himl": (by_a_newer_himl, "workspace.db' was written by a newer himl.", "Update himl"),
    "a folder in place of the record": (a_folder, NO_FILE, "to start a new record"),
}
if sys.platform != "win32":
    HERE |= {
        "a record that is a link to nothing": (a_link_to_nothing, NO_FILE, "to start a new record"),
        "a record that is a pipe": (a_pipe, NO_FILE, "to start a new record"),
    }


@provokes(["local workspace"])
@pytest.mark.parametrize(("break_it", "said", "remedy"), HERE.values(), ids=HERE)
def test_what_is_wrong_with_a_local_workspace(himl: Himl, project: Path, break_it: Callable[[Path], None], said: str, remedy: str) -> None:
    break_it(project)
    check = the_check(himl("doctor", "--json"), "local workspace", "failed")
    assert said in check["message"]
    assert remedy in check["remedy"]
    (project / "train.py").write_text("", encoding="utf-8")
    for command in (["submit", "train.py", "-q"], ["workspace", "show", "-w", "local"], ["runs", "list"]):
        refused = himl(*command)
        assert refused.code == 1
        assert refused.stderr == f"error: {check['message']}\nhint: {check['remedy']}\n"


@provokes(["local workspace"])
def test_a_local_workspace_that_may_only_be_read(himl: Himl, project: Path, read_only: Callable[[Path], Path]) -> None:
    RecordedRuns(project).add("train_1_aa")
    read_only(project / ".himl")
    check = the_check(himl("doctor", "--json"), "local workspace", "note")
    assert check["message"] == f"'{project / '.himl'}' may only be read: jobs cannot be recorded there."


@provokes(["configuration"])
def test_no_workspace(himl: Himl) -> None:
    check = the_check(himl("doctor", "--json"), "configuration", "failed")
    assert check["message"].startswith("No workspace. No Azure ML workspace is configured")
    assert "config.json" in check["remedy"]


@provokes(["configuration"])
def test_a_local_workspace_alone(himl: Himl, project: Path) -> None:
    RecordedRuns(project)
    assert "HIML_" in the_check(himl("doctor", "--json"), "configuration", "note")["message"]


# the workspace in Azure ML

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
    "storage out of reach": (storage_out_of_reach, "datastore", "did not connect to"),
    "a closed firewall": (a_closed_firewall, "datastore", "does not let this machine in"),
}


@provokes(name for _, name, _ in IN_AZURE.values())
@pytest.mark.parametrize(("break_it", "name", "said"), IN_AZURE.values(), ids=IN_AZURE)
def test_what_is_wrong_with_a_workspace_in_azure(himl: Himl, azure_environment: StagedWorkspace, project: Path, break_it: Break, name: str, said: str) -> None:
    azure_environment.write_config(project)
    check = the_check(himl("doctor", "--json", env=break_it(azure_environment, project)), name, "failed")
    assert said in f"{check['message']} {check['remedy']}"


@provokes(["curl"])
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


@provokes(["datastore"])
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
    assert {check["name"] for check in outcome.json()} - {"python"} == PROVOKED
    assert [check["state"] for check in outcome.json() if check["name"] != "extras"] == ["ok"] * (len(outcome.json()) - 1)
