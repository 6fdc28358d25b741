"""Tests of what himl publishes for programs and agents: the skill file, and the schemas of its JSON documents."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator

from himl_cli.core import errors
from tests.support.documents import himl_commands, shapes
from tests.support.parsing import complaint
from tests.support.running import Himl, write_files

FILES = [".agents/skills/himl/SKILL.md", ".claude/skills/himl/SKILL.md"]


def test_every_command_with_json_has_a_schema(himl: Himl, project: Path) -> None:
    with_json = [
        words.removeprefix("himl ")
        for words, shape in shapes().items()
        if any("--json" in option.names for option in shape.options)
    ]
    assert himl.ok("schema", "-q").stdout.splitlines() == [*with_json, "error"] == himl.ok("schema", "--json").json()
    for name in [*with_json, "error"]:
        schema = himl.ok("schema", *name.split(), "--json").json()
        Draft202012Validator.check_schema(schema)
        assert schema["title"] == f"himl {name}"
    run = himl.ok("schema", "runs", "list", "--json").json()["$defs"]["ListedRun"]
    assert (run["properties"]["status"]["enum"][0], "duration" in run["required"]) == ("Queued", True)
    write_files(project, {"train.py": "", "environment.yml": "dependencies: [python=3.11]\n"})
    assert (
        "type: command" in himl.ok("submit", "train.py", "--cluster", "gpu", "--dry_run", "--json").json()["job_yaml"]
    )
    outcome = himl("schema", "runs", "lst")
    assert (outcome.code, "Did you mean 'runs list'" in outcome.stderr, outcome.stderr.splitlines()[1]) == (
        2,
        True,
        "hint: List the commands: himl schema",
    )


def test_skill_names_every_command_and_its_calls_parse(himl: Himl) -> None:
    text = himl.ok("skill").stdout
    _, head, body = text.split("---\n", 2)
    front = yaml.safe_load(head)
    assert (sorted(front), front["name"], 100 < len(front["description"]) < 1024) == (
        ["description", "name"],
        "himl",
        True,
    )
    calls = [call for call in himl_commands(body) if "COMMAND" not in call]
    assert {call: said for call in calls if (said := complaint(call))} == {}
    assert {words for words, shape in shapes().items() if not shape.children} <= {
        " ".join(call.split()[:count]) for call in calls for count in (2, 3)
    }
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HimlError)]
    codes = re.findall(r"(\d+) [a-z]", body.partition("Exit codes: ")[2].partition("\n-")[0])
    assert {*map(int, codes[:-1])} >= {0, *(kind.exit_code for kind in kinds)} - {130}
    assert "130 interrupted" in body


def test_skill_is_installed_in_the_project_and_never_over_a_change(himl: Himl, project: Path) -> None:
    write_files(project, {"pyproject.toml": "", "lab/train.py": ""})
    text = himl.ok("skill").stdout
    printed = himl.ok("skill", "--install", "-q", cwd=project / "lab").stdout.splitlines()
    assert printed == [str(project / name) for name in FILES] == himl.ok("skill", "--install", "--json").json()["files"]
    assert [(project / name).read_text(encoding="utf-8") for name in FILES] == [text, text]
    write_files(project, {FILES[1]: "changed"})
    outcome = himl("skill", "--install")
    assert (outcome.code, "Replace '" in outcome.stderr, "--yes" in outcome.stderr) == (2, True, True)
    assert (project / FILES[1]).read_text() == "changed"
    himl.ok("skill", "--install", "--yes")
    assert (project / FILES[1]).read_text(encoding="utf-8") == text


def test_skill_is_written_to_both_places_or_none(himl: Himl, project: Path) -> None:
    write_files(project, {"pyproject.toml": "", FILES[1].split("/")[0]: "a file"})
    outcome = himl("skill", "--install")
    assert (outcome.code, "error: Cannot write '" in outcome.stderr, "himl skill > FILE" in outcome.stderr) == (
        1,
        True,
        True,
    ), outcome.stderr
    assert not (project / FILES[0]).exists()
