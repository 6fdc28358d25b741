"""Ignore files are read as git reads them: on generated trees and rules, git itself says what is right."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from himl_cli.services.submission.snapshot import parse_rules, take_snapshot, verdict
from tests.support.hostile_texts import SECONDS, within

NAMES = ["a", "b", "ab", "data", "x.py", "#c", "!d", "e f", "f[1]", "ä.txt", "b.log"]
PARTS = ["a", "b", "ab", "data", "x.py", "*.py", "*.log", "*", "**", "?", "??", "a*", "*b", "a**", "**b", "ä*", "\\a", "e\\ f", "f\\[1]", "f[1]"]
PARTS += ["[ab]", "[!a]", "[^a]", "[a-c]*", "[c-a]", "[]-]", "[", "\\", "a\\", "*[!a]*", "*a*b", "**a*?", "\\#c", "#c", "\\!d", "!d"]
# What pathspec reads in another way: slashes within brackets.
READ_OTHERWISE = re.compile(r"\[[!^]?\]?[^]]*/.*\]")

file_names = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4).map("/".join)
rule_lines = st.builds(
    lambda before, parts, after: before + "/".join(parts) + after,
    st.sampled_from(["", "", "", "!", "/", "!/", " "]),
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=3),
    st.sampled_from(["", "", "", "/", " ", "  ", "\t", "\r", "\\ ", "/**"]),
).filter(lambda line: not READ_OTHERWISE.search(line))
rule_files = st.lists(rule_lines, max_size=6).map("\n".join)


def lay(root: Path, names: set[str], rules: dict[str, str]) -> None:
    for name in sorted(names):
        path = root / name
        if not any(above.is_file() for above in path.parents) and not path.is_dir():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")
    for folder, text in rules.items():
        if (root / folder).is_dir():
            (root / folder / ".gitignore").write_bytes(text.encode())


@pytest.fixture
def repository(project: Path, git: Callable[..., str]) -> Path:
    """A repository whose files each example lays anew."""
    git(project, "init", "-q")
    git(project, "config", "core.ignorecase", "false")  # as on Linux, whatever the disk
    return project


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sets(file_names, min_size=1, max_size=8), rule_files, st.dictionaries(st.sampled_from(["a", "b", "a/b", "data"]), rule_files, max_size=2))
@example({"a/x.py", "a/b/x.py", "b.log"}, "/*\n!/a\n/a/*\n!/a/b\n", {})
@example({"a/x.py", "a/b", "data/x.py"}, "*\n!*/\n!*.py\n", {"data": "*.py"})
@example({"ab", "a/b", "data/a/b", "ä.txt"}, "\\\n[\n**/a/**\n?.txt\n", {})
@example({"a/x.py", "a/b/data", "b.log"}, "*\n!a/\n!a/**\n/a/*/\n", {})
def test_the_same_files_are_left_as_git_leaves(repository: Path, git: Callable[..., str], names: set[str], top: str, nested: dict[str, str]) -> None:
    for left in repository.iterdir():
        if left.name != ".git":
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    lay(repository, names, {".": top, **nested})
    listed = git(repository, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
    assert set(take_snapshot(repository).snapshot.files) == {name for name in listed if name}


@pytest.mark.parametrize("line", ["# a", "", "   ", "!", "/", "!/", "\\", "a\\", "[a", "[b-a]", "[[:none:]]"])
def test_lines_that_say_nothing(line: str) -> None:
    assert verdict(parse_rules(line.encode()), "a", is_folder=False) is None


@pytest.mark.parametrize(
    ("rules", "name", "excluded"),
    [
        ("\ufeffa\n", "a", True),
        ("a\r\nb\r\n", "a", True),
        ("a \n", "a", True),
        ("a\\ \n", "a ", True),
        ("a\\  \n", "a ", True),
        ("\\#a", "#a", True),
        ("!a", "a", False),
        (" a\n", " a", True),
        ("a\t\n", "a\t", True),
        ("à \n", "à", True),
        ("*\n!*/\n", "a/b", True),
        ("a/*[!b]\n", "a/c/d", None),
    ],
)
def test_marks_line_ends_and_escapes(rules: str, name: str, excluded: bool | None) -> None:
    assert verdict(parse_rules(rules.encode()), name, is_folder=False) is excluded


@pytest.mark.skipif(os.name == "nt", reason="names are text on Windows")
def test_names_that_are_no_utf_8() -> None:
    assert verdict(parse_rules(b"*.b\xffn"), os.fsdecode(b"a.b\xffn"), is_folder=False) is True


@pytest.mark.parametrize(
    "line",
    ["*a" * 25 + "b", "*a" * 25 + "b/c", "/".join(["**/a"] * 25) + "/b", "**/" * 10_000 + "b", "*[!b]" * 25 + "b", "a/" * 50_000 + "b", "*" * 50_000 + "b"],
)
def test_no_pattern_takes_long(line: str) -> None:
    with within(SECONDS):
        rules = parse_rules(f"{line}\n".encode())
        assert verdict(rules, "a" * 200, is_folder=False) is None
        assert verdict(rules, "a/" * 100 + "c", is_folder=False) is None
