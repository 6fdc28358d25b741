"""Commands where what they read is broken: the documented exit code, one line and a hint, nothing on stdout."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.running import Himl, Outcome, write_files

NESTED, LONG = "[" * 3000 + "]" * 3000, "9" * 5000


def check_refused(outcome: Outcome, code: int, beginning: str) -> None:
    assert outcome.code == code
    assert outcome.stdout == ""
    assert outcome.stderr.startswith(f"error: {beginning}")
    assert "Traceback" not in outcome.stderr
    assert outcome.stderr.count("\n") <= 2
    assert len(outcome.stderr) < 4000


@pytest.mark.parametrize("text", [NESTED, f'{{"a": {LONG}}}'], ids=["nested", "long"])
def test_a_broken_config_above_is_passed_over(himl: Himl, project: Path, text: str) -> None:
    write_files(project, {"config.json": text, "below/.himl/x": ""})
    outcome = himl("runs", "list", "--json", cwd=project / "below")
    assert (outcome.code, outcome.json()) == (0, [])
    assert "Traceback" not in outcome.stderr


@pytest.mark.parametrize("text", [NESTED, f'{{"a": {LONG}}}'], ids=["nested", "long"])
def test_a_broken_config_that_is_named_is_refused(himl: Himl, project: Path, text: str) -> None:
    write_files(project, {"other.json": text})
    check_refused(himl("runs", "list", "--config_file", "other.json"), 2, "'")


@pytest.mark.parametrize("text", [f"a = {NESTED}", f"[submit]\nnum_nodes = {LONG}", f"[submit]\n{'a.' * 100_000}b = 1"], ids=["nested", "long", "dotted"])
def test_broken_settings_are_refused(himl: Himl, project: Path, text: str) -> None:
    write_files(project, {"himl.toml": text, "fit.py": ""})
    check_refused(himl("submit", "fit.py"), 2, "'")


@pytest.mark.parametrize(
    ("arguments", "beginning"),
    [
        (("runs", "show", "a:b:" + "c" * 100_000), "'a:b:c"),
        (("submit", "fit.py", "--sweep", f"x=randint({LONG})"), "--sweep x=randint(999"),
        (("submit", "fit.py", "--max_run_duration", f"{LONG}s"), "--max_run_duration '999"),
        (("submit", "fit.py", "--num_nodes", LONG), ""),
        (("submit", "fit.py", "--max_trials", LONG, "--sweep", "x=uniform(0,1)"), ""),
    ],
    ids=["a run", "a sweep", "a duration", "a count", "trials"],
)
def test_overlong_arguments_are_refused_in_one_short_line(himl: Himl, project: Path, arguments: tuple[str, ...], beginning: str) -> None:
    write_files(project, {"fit.py": "", ".himl/x": ""})
    check_refused(himl(*arguments), 2, beginning)
