"""A pipeline's JSON file by itself, and the files that it names: what is wrong is named by step and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.pipeline_file import read_pipeline
from himl_cli.services.submission.pipelines import prepare_pipeline
from himl_cli.services.submission.request import SubmitRequest
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import write_files

STEP = {"type": "PythonScriptStep", "script": "fit.py", "source_directory": "src"}


def step(**fields: Any) -> dict[str, Any]:
    return {**STEP, **fields}


@pytest.fixture
def folder(project: Path) -> Path:
    write_files(project, {"src/fit.py": "", "src/deep/more.py": "", "src/notes.txt": "", "needs/pip.txt": "numpy\n"})
    return project


def refused(folder: Path, content: object) -> BadUsage:
    """The error about a file that holds *content* (text as it is)."""
    (folder / "p.json").write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    with pytest.raises(BadUsage) as caught:
        prepare_pipeline(SubmitRequest(cwd=folder, target="p.json"), {})
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"step1": {,}', "'p.json', line 1, column 12: "),
        ('{"step1":\n {"type": "MpiStep",}}', "'p.json', line 2, column "),
        ("[]", "'p.json' holds no steps, but a list."),
        ("{}", "'p.json' holds no steps."),
        ('{"step1": [], "step1": []}', "the key 'step1' stands there twice"),
        ({"train": STEP}, "'train' is no name of a step"),
        ({"step1": "x"}, "'p.json', step1: holds no fields, but a text."),
        (f'{{"step1": {{"node_count": {"1" * 5000}}}}}', "'p.json': it holds a number that is too long."),
    ],
)
def test_a_file_that_is_no_pipeline(folder: Path, content: object, message: str) -> None:
    assert message in str(refused(folder, content))


@pytest.mark.parametrize(
    ("fields", "message", "hint"),
    [
        ({"type": "MPIStep"}, "'type' cannot be 'MPIStep'.", "'MpiStep'"),
        ({"type": "ParallelRunStep"}, "'type' cannot be 'ParallelRunStep'.", ""),
        ({"script": None}, "'script' is missing.", "source_directory"),
        ({"scripts": "a.py"}, "'scripts' is no field of a step.", "'script'"),
        ({"name": 3}, "'name' must be text, not a number.", ""),
        ({"script": "fti.py"}, "'script' 'fti.py' is not in ", "'fit.py'"),
        ({"script": "deep/mor.py"}, "'script' 'deep/mor.py' is not in ", "'deep/more.py'"),
        ({"script": "../fit.py"}, "'script' '../fit.py' lies outside source_directory 'src'.", ""),
        ({"script": "notes.txt"}, "'script' 'notes.txt' is no .py script.", ""),
        ({"source_directory": "scr"}, "'source_directory' 'scr' does not exist.", "'src'"),
        ({"source_directory": "p.json"}, "'source_directory' 'p.json' is no folder.", ""),
        ({"requirements": "needs/pips.txt"}, "'requirements' 'needs/pips.txt' is no file.", "'needs/pip.txt'"),
        ({"requirements": "/nowhere/pip.txt"}, "'requirements' '/nowhere/pip.txt' is no file.", ""),
        ({"node_count": "two"}, "'node_count' must be a whole number from 1 on, not \"two\".", ""),
        ({"node_count": 0}, "'node_count' must be a whole number", ""),
        ({"node_count": 65_001}, "'node_count' can be 65,000 at most, not 65,001.", ""),
        ({"processes_per_node": 1025}, "'processes_per_node' can be 1,024 at most, not 1,025.", ""),
        ({"processes_per_node": 10**400}, "'processes_per_node' can be 1,024 at most.", ""),
        ({"processes_per_node": "9" * 9999}, "'processes_per_node' can be 1,024 at most.", ""),
        ({"processes_per_node": 1.5}, "'processes_per_node' must be a whole number", ""),
        ({"processes_per_node": True}, "'processes_per_node' must be a whole number", ""),
        ({"arguments": "--a 'b"}, "'arguments' has a quote that does not end.", ""),
        ({"arguments": ["a\0b"]}, "'arguments' has the character NUL", ""),
        ({"arguments": "a\0b"}, "'arguments' has the character NUL", ""),
        ({"name": "a\0b"}, "'name' has the character NUL", ""),
        ({"arguments": {"a": 1}}, "'arguments' must be a list or a text, not an object.", ""),
        ({"arguments": ["a", ["b"]]}, "'arguments' holds a list.", ""),
        ({"arguments": ["${{inputs.a}}"]}, "'arguments' '${{inputs.a}}' names no input", ""),
        ({"output": "a", "input_dataset_name": "a"}, "'input_dataset_name' names 'a', the step's own output.", ""),
    ],
)
def test_a_field_that_cannot_be(folder: Path, fields: dict[str, Any], message: str, hint: str) -> None:
    error = refused(folder, {"step7": step(**fields)})
    assert str(error).startswith("'p.json', step7: ")
    assert message in str(error)
    assert hint in error.hint


def test_what_steps_make_of_each_other(folder: Path) -> None:
    cycle = {f"step{n}": step(output=f"o{n}", input_datareference_name=f"o{n % 3 + 1}") for n in (1, 2, 3)}
    assert "step1: 'input_datareference_name' closes a cycle: step1 <- step2 <- step3 <- step1." in str(refused(folder, cycle))
    twice = {"step1": step(output="a"), "step2": step(output="a")}
    assert "step2: 'output' 'a' is made by step1 already." in str(refused(folder, twice))
    alike = {"step1": step(output="a-b"), "step2": step(output="a b")}
    assert "step2: 'output' 'a b' and 'a-b' are the same name to variables." in str(refused(folder, alike))
    both = {"step1": step(output="a"), "step2": step(output="b"), "step3": step(input_datareference_name="a", input_dataset_name="b")}
    assert "step3: 'input_dataset_name' 'b' and 'input_datareference_name' 'a' are two outputs." in str(refused(folder, both))


def test_secrets_in_a_field_are_not_repeated(folder: Path) -> None:
    error = refused(folder, {"step1": step(type="https://ada:hunter2@example.org")})
    assert "hunter2" not in str(error) + error.hint


def test_values_as_people_write_them(folder: Path) -> None:
    file = folder / "p.json"
    fields = step(arguments=["--lr", 0.1, "--on", True, "--n", 3, "é"], node_count="2", processes_per_node=" 4 ", requirements=None, output_path="/tmp/x")
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps({"step1": fields, "step2": step(arguments="--name 'a b' -v")}).encode())
    first, second = read_pipeline(file, "p.json").steps
    assert first.arguments == ["--lr", "0.1", "--on", "True", "--n", "3", "é"]
    assert (first.node_count, first.processes_per_node, first.requirements, first.passed_over) == (2, 4, "", ["output_path"])
    assert (second.arguments, second.name) == (["--name", "a b", "-v"], "step2")


def test_duplicate_key_among_thousands_is_refused_quickly(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{" + "".join(f'"step{number}": 1, ' for number in range(50_000)) + '"step7": 2}')
    with within(SECONDS), pytest.raises(BadUsage, match="the key 'step7' stands there twice"):
        read_pipeline(path, "p.json")
