"""Commands of other packages, by the entry point group `himl.commands`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.running import Himl

TOY = Path(__file__).parents[1] / "support" / "toy_command"


def test_a_command_of_another_package_has_options_output_errors_and_completion_of_himl(
    started_himl: Himl, monkeypatch: pytest.MonkeyPatch
) -> None:
    himl = started_himl
    mark = started_himl.folder / "imported"
    monkeypatch.setenv("PYTHONPATH", str(TOY))
    monkeypatch.setenv("TOY_IMPORTED", str(mark))
    listed = himl.ok("--help").stdout
    assert not mark.exists()
    assert "Other packages:\n  broken      Greet people.\n  toy         Greet people.\n" in listed
    assert json.loads(himl.ok("toy", "Ada", "--tone", "loud", "--json").stdout) == [
        {"name": "Ada", "text": "Hello Ada!"}
    ]
    assert himl.ok("toy", "Ada", "-q").stdout == "Ada\n"
    assert mark.exists()
    loud = "error: --tone must be polite or loud, not 'lod'.\n"
    broken = (
        "error: The command 'broken' of toy-command 1.0 cannot be loaded (AttributeError: module 'toy_command' "
        "has no attribute 'missing').\n"
    )
    for words, code, error in (
        (["toy", "nobody"], 3, "error: There is no person 'nobody'.\nhint: Use another name.\n"),
        (["toy", "bug"], 1, "error: This is a bug in toy-command 1.0: AssertionError: a bug\n"),
        (["toi"], 2, "error: No such command 'toi'. Did you mean 'toy'?\n"),
        (["broken"], 1, broken),
    ):
        failed = himl(*words)
        assert (failed.code, failed.stderr[: len(error)]) == (code, error)
    wrong = subprocess.run([himl.program, "toy", "Ada", "--tone", "lod"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr) == (2, f"{loud}hint: --tone TONE: polite or loud. [default: polite]\n")
    script = himl.ok("completion", "bash").stdout
    assert "'himl toy')" in script
    assert "--tone=choice:polite,loud" in script
    assert "himl broken" not in script
    assert "himl toy" in himl.ok("skill").stdout
