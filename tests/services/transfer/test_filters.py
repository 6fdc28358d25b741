from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from himl_cli.core.errors import BadUsage
from himl_cli.services.transfer.plan import Filters
from tests.support.hostile_texts import SECONDS, within


@pytest.mark.parametrize(
    ("glob", "name", "matches"),
    [
        ("*.ckpt", "outputs/checkpoints/last.ckpt", True),
        ("*.ckpt", "last.ckpt", True),
        ("*.ckpt", "outputs/last.ckpt.txt", False),
        ("checkpoints/*", "outputs/checkpoints/last.ckpt", True),
        ("checkpoints/*", "outputs/my_checkpoints/last.ckpt", False),
        ("checkpoints/*", "outputs/checkpoints/sub/last.ckpt", False),
        ("checkpoints/**", "outputs/checkpoints/sub/last.ckpt", True),
        ("checkpoints/", "outputs/checkpoints/sub/last.ckpt", True),
        ("/outputs/*", "outputs/a", True),
        ("/a", "outputs/a", False),
        ("outputs/**/a", "outputs/a", True),
        ("outputs/**/a", "outputs/x/y/a", True),
        ("epoch=?.ckpt", "epoch=3.ckpt", True),
        ("epoch=?.ckpt", "epoch=10.ckpt", False),
        ("epoch=[1-3].ckpt", "epoch=2.ckpt", True),
        ("epoch=[!1-3].ckpt", "epoch=2.ckpt", False),
        ("a[!b]c", "a/c", False),
        ("a?c", "a/c", False),
        ("a[b", "a[b", True),
        ("[[]x", "[x", True),
        ("[a&&b]", "&", True),
        ("[+--]", ",", True),
        ("[a-]", "-", True),
        ("[!]", "[!]", True),
        ("[^a]", "b", True),
        ("a**b", "a/b", False),
        ("a.c", "abc", False),
        ("*", "line\nbreak", True),
    ],
)
def test_a_glob_means(glob: str, name: str, matches: bool) -> None:
    assert Filters(include=(glob,)).admit(name) is matches
    assert Filters(exclude=(glob,)).admit(name) is not matches


def test_exclude_wins_and_any_include_is_enough() -> None:
    filters = Filters(include=("*.a", "*.b"), exclude=("x.*",))
    assert [name for name in ("1.a", "1.b", "1.c", "x.a") if filters.admit(name)] == ["1.a", "1.b"]


def test_a_glob_that_cannot_be_read_is_a_usage_error() -> None:
    with pytest.raises(BadUsage, match=r"\[z-a\]"):
        Filters(include=("[z-a]",)).admit("x")


def test_a_glob_that_is_too_long_is_a_usage_error() -> None:
    with pytest.raises(BadUsage, match="1,001 characters"):
        Filters(include=("*" * 1001,)).admit("x")


@given(st.text(alphabet="ab*?[]!^\\-/.(){}+|$", max_size=8), st.text(alphabet="ab/.-]", max_size=6))
def test_no_glob_breaks_and_a_plain_name_matches_itself(glob: str, name: str) -> None:
    try:
        assert Filters(include=(glob,)).admit(name) in (True, False)
    except BadUsage:
        assert "[" in glob
    if name and not name.startswith("/") and not name.endswith("/"):
        assert Filters(include=(name,)).admit(name)


def simply_matches(glob: str, name: str) -> bool:
    """What a glob means, as a regular expression that may take for ever."""
    meanings = {"**": "[^/]*", "*": "[^/]*", "?": "[^/]", "[ab]": "[ab]", "[!a]": "(?!/)[^a]"}
    body = glob.removeprefix("/")
    *folders, last = (body + ("**" if body.endswith("/") else "")).split("/")
    made = ["(?:.*/)?" if folder == "**" else re.sub(r"\*\*|\*|\?|\[!?\w+\]", lambda found: meanings[found[0]], folder) + "/" for folder in folders]
    made.append(".*" if last == "**" else re.sub(r"\*\*|\*|\?|\[!?\w+\]", lambda found: meanings[found[0]], last))
    return re.fullmatch("".join(made) if glob.startswith("/") else f"(?:.*/)?{''.join(made)}", name, re.DOTALL) is not None


@given(st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]"]), max_size=9).map("".join), st.text(alphabet="ab/\n", max_size=9))
def test_a_glob_means_what_it_reads(glob: str, name: str) -> None:
    assert Filters(include=(glob,)).admit(name) is simply_matches(glob, name)
    assert Filters(include=("b/", glob)).admit(name) is (simply_matches(glob, name) or simply_matches("b/", name))


@pytest.mark.parametrize("glob", ["*a" * 25 + "b", "**a" * 25 + "b", "**/a" * 25 + "b", "*" * 900 + "b", "**a**/" * 20 + "b", "?*" * 400 + "b", "*a" * 500])
def test_no_glob_takes_long(glob: str) -> None:
    with within(SECONDS):
        assert not Filters(include=(glob,)).admit("a" * 60)
        assert not Filters(include=(glob,)).admit("a/" * 500 + "c")


def test_names_without_end_are_matched_without_keeping_them() -> None:
    filters = Filters(include=("*ab*c",))
    names = [f"{sign}ab{chr(0x4E00 + number)}{last}" for number in range(20_000) for sign, last in (("x", "c"), ("y", "d"))]
    assert [filters.admit(name) for name in names] == [True, False] * 20_000
