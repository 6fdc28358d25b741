"""The script for PowerShell: its grammar wherever tests run, and what it offers where there is a PowerShell."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from himl_cli.app import COMMANDS
from himl_cli.render.completions import powershell_quoted
from himl_cli.services.completion_files import ASK_POWERSHELL, POWERSHELL_LINE
from tests.completions.shells import SCRIPTS, variables
from tests.conftest import lacking
from tests.support.runs import RecordedRuns

SCRIPT = SCRIPTS / "himl.ps1"
ASK = """
. '{script}'
$answers = @()
foreach ($line in $env:LINES_TO_ASK -split "`n") {{
    $found = TabExpansion2 -inputScript $line -cursorColumn $line.Length
    $answers += , @($found.CompletionMatches | ForEach-Object {{ $_.CompletionText }})
}}
ConvertTo-Json -Compress -Depth 4 @($answers)
"""
OFFERS = {
    "himl ": set(COMMANDS),
    "himl runs sh": {"show"},
    "himl runs list --num-r": {"--num_runs"},
    "himl runs list --format ": {"human", "json", "quiet"},
    "himl runs list --format=j": {"--format=json"},
    "himl runs show train": {"train_1_aa", "train_2_bb"},
    "himl runs show --run-ids tr": {"train_1_aa", "train_2_bb"},
    "himl runs list --experiment ": {"train"},
}


def parsed(text: str) -> Any:
    """The syntax tree of a PowerShell text. Imported by name: the packages' stubs need a newer syntax than 3.10."""
    try:
        tree_sitter, grammar = import_module("tree_sitter"), import_module("tree_sitter_powershell")
    except ImportError:
        lacking("the packages tree-sitter and tree-sitter-powershell")
    return tree_sitter.Parser(tree_sitter.Language(grammar.language())).parse(text.encode("utf-8")).root_node


def nodes(root: Any) -> Iterator[Any]:
    yield root
    for child in root.children:
        yield from nodes(child)


def faults(text: str) -> list[str]:
    """The lines that the grammar does not have."""
    return [f"{node.start_point[0] + 1}: {node.type}" for node in nodes(parsed(text)) if node.type == "ERROR" or node.is_missing]


def test_the_script_is_powershell() -> None:
    assert faults(SCRIPT.read_text(encoding="ascii")) == []


def test_the_line_in_the_profile_is_powershell() -> None:
    assert faults(POWERSHELL_LINE) == faults(ASK_POWERSHELL) == []


def test_a_script_that_is_none_would_be_noticed() -> None:
    assert faults("$table = @{ 'a' = @('b', 'c' }")


@pytest.mark.parametrize("text", ["plain", "it's", "''", 'a "b"', "$HOME $(Get-Date)", "`n", "@(1)", "# no comment", "a;b|c", "{", "}", ")"])
def test_a_quoted_text_is_one_string(text: str) -> None:
    root = parsed(f"$a = @({powershell_quoted(text)}, 'end')")
    strings = [node.text.decode() for node in nodes(root) if node.type == "verbatim_string_characters"]
    assert [string[1:-1].replace("''", "'") for string in strings] == [text, "end"]


def test_what_tab_offers_in_powershell(tmp_path: Path) -> None:
    program = shutil.which("pwsh") or shutil.which("powershell")
    if program is None:
        pytest.skip("NEEDS the program 'pwsh', which no package of Debian has")
    recorded = RecordedRuns(tmp_path)
    for name in ("train_1_aa", "train_2_bb"):
        recorded.add(name)
    environment = os.environ | variables(tmp_path) | {"LINES_TO_ASK": "\n".join(OFFERS)}
    command = [program, "-NoProfile", "-NonInteractive", "-Command", ASK.format(script=SCRIPT)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.stderr == ""
    assert dict(zip(OFFERS, map(set, json.loads(done.stdout)), strict=True)) == OFFERS
