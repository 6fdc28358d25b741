"""What `himl doctor` says of the installation and of workspaces."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from himl_cli.core.errors import BadUsage, NotAllowed
from himl_cli.core.installation import install_command
from himl_cli.core.workspaces import Check, CheckState, WorkspaceFacts
from himl_cli.services.doctor import checkup, installation_checks, requirements, verdict
from himl_cli.workspaces.base import FoundWorkspace, Workspace
from himl_cli.workspaces.local.workspace import LocalWorkspace
from tests.support.runs import RecordedRuns

HERE = WorkspaceFacts("local", "local", "'here'")


def states(checks: Sequence[Check]) -> dict[str, CheckState]:
    return {check.name: check.state for check in checks}


def test_this_installation_is_in_order() -> None:
    found = states(list(installation_checks()))
    assert (found["python"], found["packages"]) == (CheckState.passed, CheckState.passed)


def test_missing_and_mismatched_packages_are_named() -> None:
    lines = ["no-such-package (>=1)", "typer>=0.28,<0.29", "rich>=999", "pytest<1", "absent-too; extra == 'plot'"]
    packages, extras = list(installation_checks(lines))[1:]
    assert packages.state is CheckState.failed
    assert packages.message.startswith("no-such-package is missing; rich ")
    assert " is not >=999; pytest " in packages.message
    assert packages.remedy == f"Install himl again: {sys.executable} -m {install_command(options='--upgrade')}"
    assert (extras.state, extras.message) == (CheckState.note, "Not installed: plot.")


def test_requirements_are_read_from_package_metadata() -> None:
    lines = [
        "tomli<3,>=2; python_version < '3.0'",
        "certifi>=2024.2.2",
        "himl-cli[montage,plot]; extra == 'all'",
        "a.b_c[x]>=1 ; extra == 'y-z'",
        "azureml-core<2,>=1.61; 'v1' == extra",
    ]
    found = [(one.name, str(one.specifier), extra) for one, extra in requirements(lines)]
    assert found == [("certifi", ">=2024.2.2", ""), ("himl-cli", "", "all"), ("a.b_c", ">=1", "y-z"), ("azureml-core", "<2,>=1.61", "v1")]


def test_a_configuration_that_cannot_be_used_is_a_failed_check() -> None:
    def find() -> Sequence[FoundWorkspace]:
        raise BadUsage("'config.json' is wrong.", hint="Mend it.")

    last = list(checkup(find))[-1]
    assert last == Check.failed("configuration", "'config.json' is wrong.", "Mend it.")


def test_no_workspace_at_all_fails_and_a_local_one_is_enough(project: Path) -> None:
    none = list(checkup(list))
    assert states(none)["configuration"] is CheckState.failed
    error = verdict(none)
    assert error is not None
    assert (error.exit_code, str(error)) == (1, "Not in order: configuration.")

    local = RecordedRuns(project)
    local.add("train_1_aa")
    some = list(checkup(lambda: [FoundWorkspace(HERE, is_named=False, open=lambda: local.workspace)]))
    assert verdict(some) is None
    assert [check.state for check in some if check.name == "configuration"] == [CheckState.passed, CheckState.note]
    assert some[-1].message.endswith("1 run, WAL journal (a local disk).")


def test_a_damaged_local_record_is_a_failed_check(project: Path) -> None:
    (project / ".himl").mkdir()
    (project / ".himl" / "workspace.db").write_bytes(b"no database" * 100)
    damaged = FoundWorkspace(HERE, is_named=True, open=lambda: LocalWorkspace(project / ".himl"))
    checks = list(checkup(lambda: [damaged]))
    assert checks[-1].state is CheckState.failed
    assert "is damaged" in checks[-1].message


def test_sign_in_failure_is_reported_and_checks_continue(project: Path) -> None:
    def refused() -> Workspace:
        raise NotAllowed("No password.", hint="Set it.")

    local = RecordedRuns(project)
    there = WorkspaceFacts("azure", "far", "'there'")
    found = [FoundWorkspace(there, is_named=False, open=refused), FoundWorkspace(HERE, is_named=False, open=lambda: local.workspace)]
    checks = list(checkup(lambda: found))
    assert checks[-2:] == [Check.failed("sign-in", "No password.", "Set it."), *local.workspace.checks()]
