"""Tests of hints: the parser accepts each command that a text of himl names, with its options, and an error names the
new form of an old command.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

import himl_cli
from tests.support.documents import shapes
from tests.support.parsing import FILLED, complaint, wrong_with


def variants(node: ast.AST) -> list[str]:
    """Return the possible values of a text expression, with FILLED for parts that are computed at run time."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else [FILLED]
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in product(*map(variants, node.values))]
    if isinstance(node, ast.FormattedValue):
        return variants(node.value)
    if isinstance(node, ast.IfExp):
        return [*variants(node.body), *variants(node.orelse)]
    return [FILLED]


def texts_of(path: Path) -> Iterator[tuple[str, str, bool]]:
    """Yield each text of a module except docstrings, with its position, and whether it is part of a hint."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    inside = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    named = [node.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "hint"]
    named += [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "hint" in {getattr(each, "id", "") for each in node.targets}
    ]
    hints = {id(part) for node in named for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and id(node) not in docstrings | inside:
            for text in variants(node):
                yield f"{path.name}:{node.lineno}", text + FILLED * text.endswith(" "), id(node) in hints


@pytest.mark.large("checks the texts of all modules")
def test_commands_and_options_in_texts_exist() -> None:
    assert wrong_with("To stop it: himl runs stop 1", is_hint=True) == ["himl runs stop 1: No such command 'stop'."]
    assert wrong_with("See 'himl runs list --bogus'.") != []
    assert wrong_with("Then: himl atone 1", is_hint=True) != []
    assert wrong_with("Add --overwrit to replace it.") == ["--overwrit"]
    assert (
        wrong_with(
            "Read by himl submit alone; himl sends it. 'himl submit' starts it: himl runs logs 1 --follow, or --wait.",
            is_hint=True,
        )
        == []
    )
    root = Path(himl_cli.__file__).parent
    texts = [each for path in sorted(root.rglob("*.py")) for each in texts_of(path)]
    checked = [(place, text, is_hint) for place, text, is_hint in texts if "himl " in text or "--" in text]
    assert sum(is_hint for *_, is_hint in checked) > 100
    assert {f"{place}: {text}": wrong for place, text, is_hint in checked if (wrong := wrong_with(text, is_hint))} == {}
    examples = [line for shape in shapes().values() for line in shape.examples if line.startswith("himl ")]
    assert {line: said for line in examples if (said := complaint(re.split(r" {3,}", line)[0]))} == {}
    assert [wrong for shape in shapes().values() if (wrong := wrong_with(shape.text))] == []
