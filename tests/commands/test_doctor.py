"""`himl doctor` and `himl workspace show` without Azure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.support.running import Himl
from tests.support.runs import RecordedRuns
from tests.support.terminals import Terminal

CONFIG = {"subscription_id": "00000000-1111-2222-3333-444444444444", "resource_group": "team", "workspace_name": "lab"}


@pytest.fixture
def recorded(project: Path) -> RecordedRuns:
    runs = RecordedRuns(project)
    runs.add("train_1_aa")
    return runs


@pytest.mark.usefixtures("recorded")
def test_a_local_workspace_alone_is_in_order(himl: Himl, project: Path) -> None:
    outcome = himl.ok("doctor")
    lines = [line.split("\t") for line in outcome.stdout.splitlines()]
    assert [line[:2] for line in lines if line[1] != "extras"] == [
        ["ok", "python"],
        ["ok", "packages"],
        ["ok", "settings"],
        ["ok", "configuration"],
        ["note", "configuration"],
        ["ok", "local workspace"],
    ]
    assert f"local workspace '.himl', from '{project / '.himl'}' (the nearest here or above)." in outcome.stdout
    assert outcome.stderr == ""
    assert himl.ok("doctor", "-q").stdout == ""


def test_nothing_configured_is_exit_1_with_what_to_do(himl: Himl) -> None:
    outcome = himl("doctor", "--json")
    assert outcome.code == 1
    failed = [check for check in outcome.json() if check["state"] == "failed"]
    assert [(check["name"], "config.json" in check["remedy"]) for check in failed] == [("configuration", True)]
    assert outcome.error_json()["code"] == "checks_failed"
    assert himl("doctor", "-q").stdout == "configuration\n"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (CONFIG | {"workspace_name": "<YOUR-WORKSPACE>"}, "'workspace_name' is still the placeholder"),
        (CONFIG | {"subscription_id": "1234"}, "'subscription_id' is no subscription id"),
    ],
)
def test_a_config_file_that_cannot_be_used_is_named(himl: Himl, project: Path, content: dict[str, str], said: str) -> None:
    (project / "config.json").write_text(json.dumps(content))
    outcome = himl("doctor")
    assert outcome.code == 1
    assert any(line.startswith("failed\tconfiguration\t") and said in line and "config.json'" in line for line in outcome.stdout.splitlines())


def test_variables_that_are_partly_set_name_what_is_missing(himl: Himl) -> None:
    outcome = himl("doctor", env={"HIML_SUBSCRIPTION_ID": CONFIG["subscription_id"]})
    assert outcome.code == 1
    assert "HIML_SUBSCRIPTION_ID is set, HIML_RESOURCE_GROUP and HIML_WORKSPACE_NAME not." in outcome.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.usefixtures("recorded")
def test_lines_fit_a_terminal_of_80_columns(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "doctor"], cwd=himl.folder, env={"NO_COLOR": "1"})
    assert terminal.finish() == 0
    lines = terminal.screen.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].startswith("ok      python           3.")


@pytest.mark.usefixtures("recorded")
def test_workspace_show_says_where_the_local_one_is(himl: Himl, project: Path) -> None:
    assert himl.ok("workspace", "show").stdout.splitlines()[:2] == [
        "local workspace '.himl'",
        f"  Read from          '{project / '.himl'}' (the nearest here or above)",
    ]
    shown = himl.ok("workspace", "show", "--json").json()
    assert [(each["kind"], each["facts"]["folder"], each["facts"]["default_datastore"]) for each in shown] == [("local", str(project / ".himl"), "local")]
    assert himl.ok("workspace", "show", "-q").stdout == "local workspace '.himl'\n"


def test_workspace_show_without_a_workspace_is_not_found(himl: Himl) -> None:
    outcome = himl("workspace", "show")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert "himl doctor" in outcome.stderr


BROKEN = {"{broken": "line 1: ", '{"subscription_id": "x"}': "does not say resource_group and workspace_name."}


@pytest.mark.parametrize("content", BROKEN)
def test_doctor_names_skipped_config_file_and_its_error(himl: Himl, project: Path, content: str) -> None:
    inner = project / "inner"
    inner.mkdir()
    (project / "config.json").write_text(json.dumps(CONFIG))
    (inner / "config.json").write_text(content)
    (inner / ".azureml").mkdir()
    (inner / ".azureml" / "config.json").write_text('{"model": "of another program"}')
    noted = [check["message"] for check in himl("doctor", "--json", cwd=inner).json() if check["name"] == "configuration" and check["state"] == "note"]
    assert len(noted) == 1
    assert f"Passed over: '{inner / 'config.json'}'" in noted[0]
    assert BROKEN[content] in noted[0]


def test_a_search_that_pythonpath_cut_short_says_so(himl: Himl, project: Path) -> None:
    deep = project / "sub" / "deep"
    deep.mkdir(parents=True)
    (project / "config.json").write_text(json.dumps(CONFIG))
    env = {"PYTHONPATH": str(project / "sub")}
    said = f"The search for config.json stopped at '{project / 'sub'}', which is on PYTHONPATH: '{project / 'config.json'}' was not looked at."
    assert f"note\tconfiguration\t{said}\n" in himl("doctor", cwd=deep, env=env).stdout
    refused = himl("runs", "list", cwd=deep, env=env)
    assert (refused.code, said in refused.stderr) == (3, True)
    (deep / ".himl").mkdir()
    assert himl.ok("workspace", "show", cwd=deep, env=env).stderr == f"{said}\n"
    assert himl.ok("workspace", "show", "--workspace", "local", cwd=deep, env=env).stderr == ""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX terminal")
@pytest.mark.usefixtures("recorded")
def test_lines_fit_a_narrow_terminal(himl: Himl) -> None:
    terminal = Terminal([str(himl.program), "doctor"], cwd=himl.folder, columns=40, env={"NO_COLOR": "1", "COLUMNS": "40"})
    assert terminal.finish() == 0
    lines = terminal.screen.splitlines()
    assert lines[0] == "ok      python"
    assert max(len(line) for line in lines if "/" not in line) <= 40
