"""docs/ci.md and the files of `examples/ci` fit each other and the program, and keep secrets from whom they do not concern."""

from __future__ import annotations

import re

import pytest

from tests.support.ci_files import CANCELED, EXAMPLES, FILES, VARIABLES, steps_of
from tests.support.documents import himl_commands, page, wrong_with

CALL = re.compile(r"\b(himl (?:doctor|submit|download|runs)\b[^>\n|]*)")


@pytest.mark.parametrize("name", FILES)
def test_scripts_hold_no_expressions_and_only_needed_secrets(name: str) -> None:
    """An expression in a script is put there as text before bash reads it: a branch called `$(…)` would run."""
    steps = steps_of(name)
    assert list(steps) == ["Install himl", "Train", "Cancel the job"]
    assert [step.name for step in steps.values() if re.search(r"\$\{\{|\$\(", step.script)] == []
    assert [step.name for step in steps.values() if step.condition in CANCELED] == ["Cancel the job"]
    assert "PASSWORD" not in str(steps["Install himl"])
    by_connection = [step.inputs["azureSubscription"] for step in steps.values() if step.uses == "AzureCLI@2"]
    assert by_connection == (["azure-ml"] * 2 if name == "azure-pipelines-oidc.yml" else [])
    assert not by_connection or steps["Train"].inputs["keepAzSessionActive"] is True


def test_the_page_names_every_file_and_variable() -> None:
    text = page("ci.md")
    files = {path.name for path in EXAMPLES.iterdir()} - {"README.md"}
    assert files == {*FILES, "train.sh", "with-github-token.sh"}
    assert sorted(re.findall(r"\{literalinclude\} \.\./examples/ci/([\w.-]+)", text)) == sorted(files)
    assert sorted(re.findall(r"\]\(\.\./examples/ci/([\w.-]+)\)", text)) == sorted(files)
    assert [name for name in VARIABLES if f"`{name}`" not in text] == []


def test_himl_commands_of_ci_page_and_files_are_valid() -> None:
    shell = [re.sub(r"^#.*$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE) for path in EXAMPLES.glob("*.sh")]
    scripts = [*shell, *(step.script for name in FILES for step in steps_of(name).values())]
    commands = [*himl_commands(page("ci.md")), *(call for script in scripts for call in CALL.findall(script))]
    assert len(commands) > 12
    assert {command: wrong_with(command) for command in commands if wrong_with(command)} == {}
