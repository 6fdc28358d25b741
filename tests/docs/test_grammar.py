"""Each block of the documents says how it is run, in words that the tests understand."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.docs.blocks import PRELUDES, REASONS, ROOT, chains, problems, read
from tests.docs.pages import ELSEWHERE, NOT_YET, pages

NOT_RUN = {"az-infrastructure": 16, "pip": 4, "ssh": 1, "checkout": 1}
"""How many blocks are not run, by reason: a change of these numbers is meant."""
RUN = "<!-- run: here -->\n```sh\nhiml runs list\n```\n"


@pytest.mark.parametrize("name", pages())
def test_every_block_says_how_it_is_run(name: str) -> None:
    assert problems(read(name)) == []


def test_few_blocks_are_not_run_and_each_for_a_reason() -> None:
    reasons = Counter(block.value("not") for name in pages() for block in read(name).blocks if block.value("not"))
    assert reasons == NOT_RUN
    assert set(NOT_RUN) <= set(REASONS)


def test_pages_that_are_left_out_are_pages() -> None:
    assert set(NOT_YET) <= set(pages())
    assert [pattern for pattern in ELSEWHERE if not list(ROOT.glob(pattern))] == []


def test_every_prelude_is_used() -> None:
    used = {(block.value("prelude"), block.kind == "python") for name in pages() for block in read(name).blocks}
    assert {(path.stem, path.suffix == ".py") for path in PRELUDES.iterdir() if path.is_file()} == used - {("", True), ("", False)}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```sh\nls\n```\n", "page.md:1: no marker, and the page has none"),
        ("<!-- runs: here -->\n```sh\nls\n```\n", ""),
        ("<!-- runs: here more -->\n```sh\nls\n```\n", "page.md: the page's own marker names a world, and nothing more"),
        ("<!-- runs: here -->\n<!-- runs: azure -->\n", "page.md:1: a marker that is not understood, or that no block follows"),
        ("<!-- run: there -->\n```sh\nls\n```\n", "page.md:2: there is no world 'there'"),
        ("<!-- run: here -->\n\n```sh\nls\n```\n", "page.md:1: a marker that is not understood, or that no block follows"),
        ("<!-- run: here quick -->\n```sh\nls\n```\n", "page.md:2: the word 'quick'"),
        ("<!-- run: here exit= -->\n```sh\nls\n```\n", "page.md:2: the word 'exit='"),
        ("<!-- run: here not=time -->\n```sh\nls\n```\n", "page.md:2: 'time' is no reason"),
        ("<!-- run: here prelude=gone -->\n```python\n1\n```\n", "page.md:2: there is no prelude 'gone' for it"),
        ("<!-- run: here shows -->\n```sh\nls\n```\n", "page.md:2: only a console block shows something"),
        ("<!-- run: here azureml -->\n```sh\nls\n```\n", "page.md:2: only a Python block is run with --azureml"),
        ("<!-- run: here more -->\n```sh\nls\n```\n", "page.md:2: there is no block of the world 'here' above that it could go on from"),
        (RUN + "<!-- run: here more -->\n```sh\nls\n```\n", ""),
        (RUN + "<!-- run: azure more -->\n```sh\nls\n```\n", "page.md:6: there is no block of the world 'azure' above that it could go on from"),
        ("```bash\nls\n```\n", "page.md:1: a fence of 'bash'"),
        ("```\nhiml runs list\n```\n", "page.md:1: a fence of ''"),
        ("```text\nhiml runs list\n```\n", "page.md:1: commands in a block that is not run"),
        ("```text\nhiml runs list [OPTIONS]\n```\n", ""),
        ("Do this:\n\n    himl runs list\n", "page.md:3: a command without a fence: himl runs list"),
        ("- Do this:\n\n      himl runs list\n", "page.md:3: a command without a fence: himl runs list"),
        ("1. Do this,\n    himl runs list and that.\n", ""),
    ],
)
def test_what_is_wrong_is_said_with_its_line(text: str, problem: str) -> None:
    found = problems(read("page.md", text))
    assert problem in found or (found, problem) == ([], "")


def test_blocks_that_go_on_are_one_chain() -> None:
    not_run = "<!-- run: here not=ssh -->\n```sh\nssh there\n```\n"
    more = "<!-- run: here more file=a/b.toml -->\n````toml\na = 1\n````\n"
    page = read("page.md", f"{RUN}{not_run}{more}{RUN}")
    assert [[block.line for block in chain] for chain in chains(page)] == [[2, 10], [14]]
    (first, second), _ = chains(page)
    assert (first.body, second.body, second.value("file"), second.kind) == ("himl runs list\n", "a = 1\n", "a/b.toml", "toml")
