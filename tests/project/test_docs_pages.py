"""The documentation is whole: pages made from the code are as the code is, every page is found from the first one, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import himl_cli
from docs.tools import cli_pages
from himl_cli import cli, job

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md"))
DIRECTIVE = re.compile(r"^\.\. (?:auto(?:function|class|exception)|py:data):: (.*(?:\n {9,}\S.*)*)$", re.MULTILINE)
LINK = re.compile(r"(?<!`)\]\(([^)\s#]+)(?:#[^)]*)?\)")


def toctree(page: str) -> list[str]:
    """The pages that the toctrees of *page* name, as paths below docs/."""
    text = (DOCS / page).read_text(encoding="utf-8")
    blocks = re.findall(r"```\{toctree\}\n(.*?)```", text, flags=re.DOTALL)
    names = [line for block in blocks for line in block.splitlines() if line and not line.startswith(":")]
    return [(Path(page).parent / f"{name}.md").as_posix() for name in names]


def test_the_python_reference_has_every_public_name_once() -> None:
    text = (DOCS / "python-api.md").read_text(encoding="utf-8")
    listed = [name.removesuffix("()") for group in DIRECTIVE.findall(text) for name in group.split()]
    public = [f"himl_cli.{name}" for name in himl_cli.__all__]
    public += [f"himl_cli.job.{name}" for name, value in vars(job).items() if not name.startswith("_") and callable(value)]
    public += [f"himl_cli.cli.{name}" for name in cli.__all__]
    assert sorted(listed) == sorted(public)


def test_every_page_is_in_one_toctree_and_nothing_else_is() -> None:
    named = [page for parent in PAGES for page in toctree(parent)]
    assert sorted(named) == [page for page in PAGES if page != "index.md"]


def test_the_first_page_links_to_what_its_toctrees_name() -> None:
    linked = LINK.findall((DOCS / "index.md").read_text(encoding="utf-8"))
    assert linked == toctree("index.md")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_that_are_there(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    links = [link for link in LINK.findall(text) if "://" not in link]
    assert [link for link in links if not (DOCS / page).parent.joinpath(link).exists()] == []


def test_the_pages_of_commands_are_as_the_commands_are() -> None:
    assert cli_pages.stale(cli_pages.FOLDER) == []


def test_changed_missing_and_leftover_pages_are_found_and_fixed(tmp_path: Path) -> None:
    folder = tmp_path / "cli"
    cli_pages.write(folder)
    assert cli_pages.stale(folder) == []
    (folder / "tb.md").write_text("changed", encoding="utf-8")
    (folder / "runs-list.md").unlink()
    (folder / "gone.md").write_text("left over", encoding="utf-8")
    assert cli_pages.stale(folder) == ["gone.md", "runs-list.md", "tb.md"]
    cli_pages.write(folder)
    assert cli_pages.stale(folder) == []


@pytest.mark.parametrize(
    ("words", "markdown"),
    [
        ("The last 20, unless --num_runs says otherwise.", "The last 20, unless `--num_runs` says otherwise."),
        ("Files, e.g. '**/*.tiff' (default: all slides).", "Files, e.g. '`**/*.tiff`' (default: all slides)."),
        ("random(seed=7) or bayesian (-q).", "`random(seed=7)` or bayesian (`-q`)."),
        ("[KEY=]NAME[:VERSION][,OPTION=...].\n\nstand after --.", "`[KEY=]NAME[:VERSION][,OPTION=...]`.\n\nstand after `--`."),
    ],
)
def test_words_of_help_that_would_be_markup_are_code(words: str, markdown: str) -> None:
    assert cli_pages.prose(words) == markdown


def test_a_bar_in_a_cell_ends_no_cell() -> None:
    assert cli_pages.table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |"
