"""YAML as people write it is read, aliases and merges in it; a little text that stands for a lot is refused at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from himl_cli.core.errors import BadUsage
from himl_cli.services.submission.job_yaml import changed_yaml, prepare_document
from himl_cli.services.submission.request import SubmitRequest
from himl_cli.services.yaml_files import LARGEST, MOST_VALUES, parse_mapping
from tests.support.hostile_texts import SECONDS, within
from tests.support.running import Himl, write_files

PATH = Path("job.yml")
MERGES = "a: &a0 {x: 1}\n" + "".join(f"k{n}: &a{n}\n  <<: [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
ALIASES = "a: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(f"k{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
DEEP_BY_ALIASES = "a: &a0 1\n" + "".join(f"k{n}: &a{n} {'[' * 90}*a{n - 1}{']' * 90}\n" for n in range(1, 9))


def refusal(text: str) -> str:
    with within(SECONDS), pytest.raises(BadUsage) as caught:
        parse_mapping(text, PATH)
    assert caught.value.hint
    assert len(str(caught.value)) < 300
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (MERGES, f"there are more than {MOST_VALUES:,} values"),
        (ALIASES, f"there are more than {MOST_VALUES:,} values"),
        (DEEP_BY_ALIASES, "nested to more than 100 levels"),
        ("a: " + "[" * 3000 + "]" * 3000, "line 1: values are nested to more than 100 levels"),
        ("a: &a [1, *a]", "line 1: the value is part of itself"),
        ("a: 1\nb: &b {c: {d: *b}}", "line 2: the value is part of itself"),
        ("a: &a\n  <<: *a\n", "the value is part of itself"),
        ("\n".join(f"k{n}: 1" for n in range(MOST_VALUES // 2)), f"there are more than {MOST_VALUES:,} values"),
        ("a: " + "x" * LARGEST, "is too large for YAML: 524,291 characters"),
        ("a: 1\nb: " + "9" * 400, "line 2: the number is too long"),
        ("a: 0x" + "f" * 5000, "the number is too long"),
        ("a: 1" + ":1" * 200 + ".5", "the number is too long"),
        ("a: !!int ''", "line 1: '' is no int"),
        ("a: !!bool maybe", "line 1: 'maybe' is no bool"),
        ("a: !!timestamp soon", "'soon' is no timestamp"),
        ("a: 2024-13-45", "'2024-13-45' is no timestamp"),
        ('a: 1\nb: "x\\ud800"', "line 2: the text has half a character in it"),
    ],
    ids=lambda value: value[:12] if value else "nothing",
)
def test_what_is_too_much_or_no_value_is_refused_at_once(text: str, complaint: str) -> None:
    assert complaint in refusal(text)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("base: &base {x: 1, y: 2}\nmine:\n  <<: *base\n  y: 3\n", {"base": {"x": 1, "y": 2}, "mine": {"x": 1, "y": 3}}),
        ("group:\n  one: &a {x: 1}\n  two: &b\n    <<: *a\n    x: 2\ntop:\n  <<: *b\n", {"group": {"one": {"x": 1}, "two": {"x": 2}}, "top": {"x": 2}}),
        ("a: &a {x: 1}\nb: &b {y: 2}\nc:\n  <<: [*a, *b]\n", {"a": {"x": 1}, "b": {"y": 2}, "c": {"x": 1, "y": 2}}),
        ("names: &names [a, b]\nagain: *names\n", {"names": ["a", "b"], "again": ["a", "b"]}),
        ('emoji: "\\ud83d\\ude00"\n', {"emoji": "\U0001f600"}),
        ("number: 123456789012345678901234567890\n", {"number": 123456789012345678901234567890}),
        ("many: &m [" + "1, " * 999 + "1]\nall: [" + "*m, " * 9 + "*m]\n", {"many": [1] * 1000, "all": [[1] * 1000] * 10}),
        ("deep: " + "[" * 98 + "1" + "]" * 98, None),
    ],
    ids=["an own value", "a merge of a merge", "two at once", "an alias", "two halves", "a long number", "10,000 by aliases", "98 levels"],
)
def test_yaml_aliases_merges_and_long_values_are_read(text: str, meant: Any) -> None:
    found = parse_mapping(text, PATH)
    assert meant is None or found == meant


def test_a_key_that_stands_twice_is_still_refused_beside_a_merge() -> None:
    assert "line 4: the key 'x' stands here a second time" in refusal("a: &a {x: 1}\nb:\n  x: 1\n  x: 2\n  <<: *a\n")


def test_job_aliases_are_expanded_when_prepared_and_shown(project: Path) -> None:
    shared = "x-base: &base {A: '1', B: '2'}\n".replace("x-base", "tags")
    write_files(project, {"job.yml": f"{shared}command: echo ${{{{inputs.n}}}}\nenvironment_variables:\n  <<: *base\n  B: '3'\ninputs: {{n: &n 4, m: *n}}\n"})
    prepared = prepare_document(SubmitRequest(cwd=project, target="job.yml"), {})
    assert prepared.job is not None
    assert (prepared.job.entry.target, dict(prepared.job.env)) == ("echo 4", {"A": "1", "B": "3"})
    shown = parse_mapping(changed_yaml(prepared), PATH)
    assert shown["environment_variables"] == {"A": "1", "B": "3"}
    assert shown["inputs"] == {"n": 4, "m": 4}


@pytest.mark.parametrize("text", [MERGES, ALIASES, "a: &a [*a]\n"], ids=["merges", "aliases", "itself"])
def test_the_command_ends_with_two_and_one_line(himl: Himl, project: Path, text: str) -> None:
    write_files(project, {"job.yml": f"type: command\ncommand: echo\n{text}"})
    outcome = himl("submit", "job.yml", "--dry_run")
    assert outcome.code == 2
    assert outcome.stderr.startswith("error: 'job.yml', line ")
    assert outcome.stderr.count("\n") == 2
    assert outcome.stdout == ""
